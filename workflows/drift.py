"""A stack's time has come to be looked at: begin a run that does, unless somebody works on its state.

Each stack with `drift_every` has a Temporal Schedule that starts this. The run is one like every other, with a row and a
workflow of its own; this ends as soon as it has begun.
"""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from countersign.core.steps import BEGIN_DRIFT, DriftBegun, DriftInput

# A check that cannot begin in this time is not missed: the next one comes.
TRIES = 5


@workflow.defn(name="Drift")
class Drift:
    @workflow.run
    async def run(self, asked: DriftInput) -> DriftBegun:
        begun: DriftBegun = await workflow.execute_activity(
            BEGIN_DRIFT.name,
            asked,
            result_type=DriftBegun,
            task_queue=BEGIN_DRIFT.queue,
            start_to_close_timeout=BEGIN_DRIFT.attempt_timeout,
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=TRIES),
        )
        return begun
