"""A question to what only a worker reaches: one step, within seconds, or nobody was there to answer."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from countersign.core.reading import WITHIN, WORKFLOW, Question, Reply, read_step


@workflow.defn(name=WORKFLOW)
class Read:
    @workflow.run
    async def run(self, asked: Question) -> Reply:
        step = read_step(asked.engine)
        reply: Reply = await workflow.execute_activity(
            step.name,
            asked,
            result_type=step.gives,
            task_queue=step.queue,
            start_to_close_timeout=step.attempt_timeout,
            schedule_to_close_timeout=WITHIN,
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_attempts=step.attempts),
        )
        return reply
