"""The apply of a run delivered once more, by Temporal itself: what a server does that was restored from an older copy."""

from datetime import timedelta
from uuid import uuid4

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from countersign.core.step import engine_queue
from countersign.core.steps import ENGINES, ApplyInput, Standing
from tests.chaos.lane import Lane


@workflow.defn(name="ChaosRedelivery", sandboxed=False)
class Redelivery:
    @workflow.run
    async def run(self, given: ApplyInput) -> None:
        await workflow.start_activity(
            ENGINES["terraform"].apply.name,
            given,
            result_type=Standing,
            task_queue=engine_queue("terraform"),
            start_to_close_timeout=timedelta(minutes=2),
            heartbeat_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


async def delivered(lane: Lane, given: ApplyInput) -> None:
    """Deliver it, and wait until the step has answered."""
    client = await lane.temporal()
    queue = f"chaos-{uuid4().hex[:8]}"
    async with Worker(client, task_queue=queue, workflows=[Redelivery], workflow_runner=UnsandboxedWorkflowRunner()):
        await client.execute_workflow(Redelivery.run, given, id=queue, task_queue=queue, execution_timeout=timedelta(seconds=60))
