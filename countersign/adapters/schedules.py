"""Temporal Schedules: when which stack is looked at. They follow the records, so nothing but those says what there should be."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from countersign.core.details import plain
from countersign.core.digests import sha256
from countersign.core.errors import Unavailable
from countersign.core.step import RUNS_QUEUE
from countersign.core.steps import DriftInput

PREFIX = "drift-"  # of the ids that are ours; any other schedule of the namespace is left alone
WORKFLOW = "Drift"
RPC = timedelta(seconds=5)
JITTER = timedelta(minutes=5)  # at most; a tenth of the interval where that is less


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """That a stack is looked at, every so often."""

    org: str
    stack_id: str
    path: str
    every: timedelta

    @property
    def id(self) -> str:
        return f"{PREFIX}{self.stack_id}"


class Schedules:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def there(self) -> Mapping[str, timedelta | None]:
        """Our schedules: id → interval, None where somebody made it something else. Raises Unavailable."""
        try:
            found = await self._client.list_schedules(rpc_timeout=RPC)
            return {one.id: _every(one.schedule.spec) if one.schedule else None async for one in found if one.id.startswith(PREFIX)}
        except (RPCError, RuntimeError):
            raise _away() from None

    async def put(self, wanted: Wanted) -> None:
        """Create the schedule, or change its interval; whether somebody paused it stays as it is."""
        try:
            await self._client.create_schedule(wanted.id, _schedule(wanted), rpc_timeout=RPC)
        except ScheduleAlreadyRunningError:

            def changed(now: ScheduleUpdateInput) -> ScheduleUpdate:
                schedule = _schedule(wanted)
                schedule.state = now.description.schedule.state
                return ScheduleUpdate(schedule=schedule)

            try:
                await self._client.get_schedule_handle(wanted.id).update(changed, rpc_timeout=RPC)
            except (RPCError, RuntimeError):
                raise _away() from None
        except (RPCError, RuntimeError):
            raise _away() from None

    async def remove(self, id: str) -> None:
        try:
            await self._client.get_schedule_handle(id).delete(rpc_timeout=RPC)
        except RPCError as failed:
            if failed.status is not RPCStatusCode.NOT_FOUND:
                raise _away() from None
        except RuntimeError:
            raise _away() from None


def _schedule(wanted: Wanted) -> Schedule:
    # Each stack has a phase of its own, so that a hundred of them registered by one script are not looked at all at once.
    phase = timedelta(seconds=int(sha256(wanted.stack_id.encode())[7:15], 16) % max(int(wanted.every.total_seconds()), 1))
    return Schedule(
        action=ScheduleActionStartWorkflow(
            WORKFLOW,
            DriftInput(org=wanted.org, stack_id=wanted.stack_id),
            id=wanted.id,
            task_queue=RUNS_QUEUE,
            execution_timeout=timedelta(minutes=10),
            static_summary=plain(f"drift check of {wanted.path}"),
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=wanted.every, offset=phase)], jitter=min(wanted.every / 10, JITTER)),
        # What was missed while Temporal was away is not made up for: one look tells it all.
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(minutes=1)),
    )


def _every(spec: ScheduleSpec) -> timedelta | None:
    return spec.intervals[0].every if len(spec.intervals) == 1 else None


def _away() -> Unavailable:
    return Unavailable("Temporal does not answer; schedules of drift checks are brought up to date when it does")
