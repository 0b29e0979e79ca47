"""Runs that nobody is asked about: planned and applied by one step, and for the rest like any other."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.api.workflowservice.v1 import PauseActivityRequest, ResetActivityRequest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from activities import beating, planning
from activities.applying import Applying
from activities.planning import Planning
from countersign.adapters.settings import TerraformSettings
from countersign.adapters.store import claim, plans, runs, state, turns
from countersign.adapters.store.schema import states, switches
from countersign.core.approval import CancelInput
from countersign.core.errors import CountersignError, FailedPrecondition, Unavailable
from countersign.core.policy import Need, Policy, Rule
from countersign.core.run import RunState
from countersign.core.steps import ENGINES, engine_steps
from countersign.worker import succeeding
from countersign.worker.sweep import sweep
from tests.integration.test_cancel import later
from tests.integration.test_claim_holds import reset_to_start
from tests.requirements import requirement
from tests.service import PATIENCE, Service, eventually, service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import launched, toy

pytestmark = pytest.mark.anyio
install()
S = RunState
CANCEL_REQUESTED = PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
AUTO = Policy(rules=(Rule(need=Need.AUTO),))


@pytest.fixture
async def alone(client: Client, tmp_path: Path) -> AsyncIterator[Service]:
    """A service whose policy agrees to everything."""
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), policy=AUTO) as it:
        toy(it).want(("a", "create"))
        yield it


async def steps_of(it: Service, run_id: str) -> list[str]:
    """Steps that the workflow asked a worker for, in their order."""
    events = (await it.client.get_workflow_handle(run_id).fetch_history()).events
    asked = [e.activity_task_scheduled_event_attributes for e in events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED]
    return [one.activity_type.name for one in asked]


async def tries_of(it: Service, run_id: str) -> list[int]:
    """How often each of its steps was tried."""
    events = (await it.client.get_workflow_handle(run_id).fetch_history()).events
    begun = [e.activity_task_started_event_attributes for e in events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED]
    return [one.attempt for one in begun]


async def closed(it: Service, run_id: str) -> None:
    """The workflow closes behind the record."""
    await it.client.get_workflow_handle(run_id).result()


@requirement("run:policy-alone")
async def test_what_nobody_is_asked_about_is_planned_and_applied_by_one_step(alone: Service) -> None:
    run = await alone.start(await alone.stack())

    applied = await alone.reaches(run.id, S.APPLIED)

    await closed(alone, run.id)
    assert await steps_of(alone, run.id) == ["toy.plan"]
    assert toy(alone).world == ["a create"]
    assert applied.outputs == {"made": {"value": 1}}


@requirement("run:policy-alone", "I3")
@pytest.mark.parametrize("away", [False, True], ids=["ends when it is back", "ended while it was away"])
async def test_a_worker_that_is_lost_in_its_apply_is_followed_and_nothing_is_applied_twice(alone: Service, away: bool) -> None:
    toy(alone).hold_applies = True
    run = await alone.start(await alone.stack())
    folder = await launched(alone)
    await alone.stop_workers()
    if away:
        (folder / "go").touch()
    await alone.start_workers()
    if not away:
        (folder / "go").touch()

    await alone.reaches(run.id, S.APPLIED)
    await closed(alone, run.id)
    assert (await steps_of(alone, run.id))[-1] == "toy.follow"
    assert (len(toy(alone).launched), toy(alone).world) == (1, ["a create"])


@requirement("run:policy-alone")
async def test_a_cancel_stops_its_apply_like_any_other(alone: Service) -> None:
    toy(alone).hold_applies = True
    run = await alone.start(await alone.stack())
    await launched(alone)

    await alone.runs.cancel(run.id, CancelInput(reason="stop"))

    ended = await alone.reaches(run.id, S.PARTIALLY_APPLIED, patience=10)
    await closed(alone, run.id)
    assert ended.reason == "interrupted"
    assert toy(alone).world == []


@requirement("run:policy-alone", "I1")
async def test_a_claim_that_is_refused_keeps_the_run_and_is_tried_by_a_step_of_its_own(alone: Service) -> None:
    frozen = {"org_id": alone.org, "id": "all_writes", "is_on": True, "reason": "audit", "by": "person:bo"}
    async with alone.store.begin() as tx:
        await tx.execute(switches.insert().values(frozen | {"at": "2026-01-01T00:00:00.000000Z"}))
    run = await alone.start(await alone.stack())

    async def tried() -> bool:
        return await steps_of(alone, run.id) == ["toy.plan", "toy.apply"]

    await eventually(tried, "the apply to be tried again")
    assert ((await alone.run(run.id)).state, toy(alone).launched) == (S.APPROVED, [])
    async with alone.store.begin() as tx:
        await tx.execute(switches.update().values(is_on=False))
    await alone.runs.wake(run.id)

    await alone.reaches(run.id, S.APPLIED)
    assert toy(alone).world == ["a create"]


@requirement("run:policy-alone")
@pytest.mark.parametrize(
    "fault", [Unavailable("the disk is full"), FailedPrecondition("not here"), RuntimeError("a slip of ours")], ids=str
)
async def test_an_apply_that_fails_in_between_is_no_failure_of_the_plan(
    alone: Service, fault: CountersignError | RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = [fault]
    bundle = Applying._bundle

    async def failing(self: Applying, asked: object) -> object:
        if once:
            raise once.pop()
        return await bundle(self, asked)  # type: ignore[arg-type]

    monkeypatch.setattr(Applying, "_bundle", failing)
    run = await alone.start(await alone.stack())

    await alone.reaches(run.id, S.APPLIED)

    await closed(alone, run.id)
    assert await steps_of(alone, run.id) == ["toy.plan", "toy.apply"]
    assert toy(alone).world == ["a create"]


@requirement("run:policy-alone")
async def test_its_page_in_temporal_says_that_it_is_applied_where_that_takes_a_while(
    alone: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SHOWN_AFTER", 0.1)
    toy(alone).hold_applies = True
    run = await alone.start(await alone.stack())
    handle = alone.client.get_workflow_handle(run.id)

    async def said() -> bool:
        text = await handle.query("__temporal_workflow_metadata")
        return "## Applying: " in str(text)

    await eventually(said, "the page to say that it is applied")
    (await launched(alone) / "go").touch()
    await alone.reaches(run.id, S.APPLIED)


# What it may be lost, stopped or asked to end at


@dataclass
class Held:
    """Where a step is held: `there` when it has come so far, and it goes on when `go` is set."""

    there: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def arrived(self) -> None:
        await asyncio.wait_for(self.there.wait(), PATIENCE)


def held(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, when: str) -> Held:
    """The first call of a part of a step, held `when` it is about to begin or has ended."""
    gate, call, calls = Held(), getattr(owner, name), itertools.count()

    async def gated(*args: Any, **kwargs: Any) -> Any:
        answer = await call(*args, **kwargs) if when == "after" else None
        if next(calls) == 0:
            gate.there.set()
            await asyncio.wait_for(gate.go.wait(), PATIENCE)
        return answer if when == "after" else await call(*args, **kwargs)

    monkeypatch.setattr(owner, name, gated)
    return gate


async def pending(it: Service, run_id: str) -> list[Any]:
    described = await it.client.get_workflow_handle(run_id).describe()
    return list(described.raw_description.pending_activities)


async def is_told(it: Service, run_id: str) -> None:
    """The wish to cancel has come to the workflow, and from there to the step."""

    async def told() -> bool:
        return [one.state for one in await pending(it, run_id)] == [CANCEL_REQUESTED]

    await eventually(told, "the step to be asked to end")


async def is_applied_once(it: Service, run_id: str) -> None:
    await it.reaches(run_id, S.APPLIED)
    await settled(it, run_id)
    assert (len(toy(it).launched), toy(it).world) == (1, ["a create"])


async def is_followed(it: Service, run_id: str, patience: float = PATIENCE) -> None:
    async def followed() -> bool:
        return (await steps_of(it, run_id))[-1] == "toy.follow"

    await eventually(followed, "the apply to be followed", patience)


async def settled(it: Service, run_id: str) -> None:
    """The workflow ended, and nothing of the run holds its state."""
    await asyncio.wait_for(closed(it, run_id), PATIENCE)
    run = await it.run(run_id)
    async with it.store.read() as conn:
        assert [a.closed_at is None for a in await plans.attempts_of(conn, it.org, run_id)] in ([], [False])
        assert await turns.place(conn, org=it.org, stack_id=run.stack_id, run_id=run_id) is None


@requirement("run:policy-alone")
async def test_a_cancel_before_a_worker_took_it_up_applies_nothing(alone: Service) -> None:
    await alone.stop_workers()
    run = await alone.start(await alone.stack())
    await alone.runs.cancel(run.id, CancelInput(reason="not that one"))
    await alone.start_workers()

    await alone.reaches(run.id, S.CANCELED)
    await settled(alone, run.id)
    assert toy(alone).launched == []


@requirement("run:policy-alone")
async def test_a_cancel_in_the_last_moment_of_the_plan_applies_nothing(alone: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step hears of it with its next heartbeat, a second later; who asked may rely on it at once."""
    recording = held(monkeypatch, Planning, "_record_plan", when="before")
    run = await alone.start(await alone.stack())
    await recording.arrived()
    await alone.runs.cancel(run.id, CancelInput(reason="stop"))
    await is_told(alone, run.id)
    recording.go.set()

    await alone.reaches(run.id, S.CANCELED)
    await settled(alone, run.id)
    assert toy(alone).launched == []


@requirement("run:policy-alone", "I4")
async def test_a_cancel_whose_step_is_lost_is_carried_out_by_who_follows(alone: Service) -> None:
    """Temporal tries no step again that was asked to end: it is lost for good, and what it launched is not."""
    toy(alone).hold_applies = True
    toy(alone).heeds_interrupts = False
    run = await alone.start(await alone.stack())
    folder = await launched(alone)
    await alone.runs.cancel(run.id, CancelInput(reason="stop"))
    await alone.reaches(run.id, S.CANCELING)

    assert await alone.runs.hand_back(run.id, gone=lambda who: True) == 1
    await is_followed(alone, run.id)
    (folder / "go").touch()
    await is_applied_once(alone, run.id)


@requirement("run:policy-alone", "I4")
async def test_a_step_that_an_operator_fails_by_hand_in_mid_apply_ends_no_run(alone: Service) -> None:
    toy(alone).hold_applies = True
    run = await alone.start(await alone.stack())
    folder = await launched(alone)
    [step] = await pending(alone, run.id)

    by_hand = alone.client.get_async_activity_handle(workflow_id=run.id, run_id=None, activity_id=step.activity_id)
    await by_hand.fail(ApplicationError("enough of it", non_retryable=True))
    await is_followed(alone, run.id)
    (folder / "go").touch()

    await is_applied_once(alone, run.id)


@requirement("run:policy-alone", "worker:drains")
async def test_a_worker_that_is_told_to_end_begins_no_apply(alone: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    there, record = asyncio.Event(), Planning._record_plan

    async def told_first(*args: Any, **kwargs: Any) -> Any:
        there.set()
        await activity.wait_for_worker_shutdown()
        return await record(*args, **kwargs)

    monkeypatch.setattr(Planning, "_record_plan", told_first)
    run = await alone.start(await alone.stack())
    await asyncio.wait_for(there.wait(), PATIENCE)
    await alone.stop_workers()

    assert ((await alone.run(run.id)).state, toy(alone).launched) == (S.APPROVED, [])
    monkeypatch.setattr(Planning, "_record_plan", record)
    await alone.start_workers()
    await alone.reaches(run.id, S.APPLIED)
    await settled(alone, run.id)
    assert (await steps_of(alone, run.id), toy(alone).world) == (["toy.plan", "toy.apply"], ["a create"])


@requirement("run:policy-alone", "I3")
@pytest.mark.parametrize("begun", [False, True], ids=["before its claim", "in mid-apply"])
async def test_a_workflow_that_is_reset_to_its_start_applies_once(alone: Service, begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(alone).hold_applies = True
    claiming = held(monkeypatch, claim, "claim", when="before")
    if begun:
        claiming.go.set()
    run = await alone.start(await alone.stack())
    await (launched(alone) if begun else claiming.arrived())
    await reset_to_start(alone, run.id)
    claiming.go.set()
    (await launched(alone) / "go").touch()

    await is_applied_once(alone, run.id)


@requirement("run:policy-alone", "I3")
@pytest.mark.parametrize("begun", [False, True], ids=["before its record", "in mid-apply"])
async def test_a_workflow_that_is_terminated_is_canceled_or_followed(alone: Service, begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(alone).hold_applies = True
    recording = held(monkeypatch, Planning, "_record_plan", when="before")
    if begun:
        recording.go.set()
    run = await alone.start(await alone.stack())
    await (launched(alone) if begun else recording.arrived())
    await alone.client.get_workflow_handle(run.id).terminate("enough of it")
    recording.go.set()
    await alone.reaches(run.id, S.APPROVED, S.APPLYING)
    with later(alone.store, minutes=1):
        await sweep(alone.store, alone.runs, [alone.org])
    if begun:
        (await launched(alone) / "go").touch()

    await alone.reaches(run.id, S.APPLIED if begun else S.CANCELED)
    await settled(alone, run.id)
    assert (len(toy(alone).launched), toy(alone).world) == ((1, ["a create"]) if begun else (0, []))


@requirement("run:policy-alone", "I3", "I4")
async def test_two_that_follow_one_apply_record_it_once(alone: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is frozen is taken for dead, and may be none: what it has in its hands goes on beside who took over."""
    toy(alone).hold_applies = True
    with monkeypatch.context() as frozen:
        frozen.setattr(beating, "BEAT_EVERY", 1000.0)
        run = await alone.start(await alone.stack())
        folder = await launched(alone)
    await is_followed(alone, run.id)
    (folder / "go").touch()

    applied = await alone.reaches(run.id, S.APPLIED)
    await settled(alone, run.id)
    assert (len(toy(alone).launched), toy(alone).world) == (1, ["a create"])
    async with alone.store.read() as conn:
        events = await runs.run_events(conn, alone.org, run.id, limit=1000)
    assert [e.state for e in events if e.kind == "state"].count(S.APPLIED) == 1, applied


@requirement("run:policy-alone", "I3")
async def test_an_apply_that_outlives_the_time_of_a_plan_is_followed(alone: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "toy", engine_steps("toy", plan=timedelta(seconds=2)))
    toy(alone).hold_applies = True
    run = await alone.start(await alone.stack())
    folder = await launched(alone)
    await is_followed(alone, run.id)
    (folder / "go").touch()

    await is_applied_once(alone, run.id)
    assert await tries_of(alone, run.id) == [1, 1], "no step was tried again: that would wait for a place"


@requirement("run:policy-alone", "ops:pause", "I3")
@pytest.mark.parametrize("how", ["paused", "reset"])
async def test_a_step_that_is_paused_or_reset_in_mid_apply_applies_once(alone: Service, how: str) -> None:
    toy(alone).hold_applies = True
    run = await alone.start(await alone.stack())
    folder = await launched(alone)
    [step] = await pending(alone, run.id)
    where: dict[str, Any] = {"namespace": "default", "execution": WorkflowExecution(workflow_id=run.id), "identity": "an operator"}
    temporal = alone.client.workflow_service
    if how == "reset":
        await temporal.reset_activity(ResetActivityRequest(**where, id=step.activity_id))
    else:
        await temporal.pause_activity(PauseActivityRequest(**where, id=step.activity_id, reason="to look"))
    await is_followed(alone, run.id)
    (folder / "go").touch()

    await is_applied_once(alone, run.id)


@requirement("run:policy-alone", "worker:succeeds")
async def test_what_was_recorded_before_its_worker_was_lost_is_told_by_the_next(alone: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = held(monkeypatch, Applying, "_record_outcome", when="after")
    run = await alone.start(await alone.stack())
    await recorded.arrived()
    assert (await alone.run(run.id)).state is S.APPLIED

    assert await alone.runs.hand_back(run.id, gone=lambda who: True) == 1

    await settled(alone, run.id)
    recorded.go.set()
    assert await steps_of(alone, run.id) == ["toy.plan"]
    assert (len(toy(alone).launched), toy(alone).world) == (1, ["a create"])


@requirement("run:policy-alone", "worker:succeeds")
@pytest.mark.parametrize("dead", [False, True], ids=["stopped", "dead"])
async def test_an_apply_whose_worker_is_lost_is_followed_although_others_wait_for_its_place(
    client: Client, tmp_path: Path, dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places are for what is planned; tried again behind all that waits, its step would leave a live apply alone for hours."""
    monkeypatch.setattr(succeeding, "gone", lambda host: lambda who: True)
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), policy=AUTO, plan_slots=1) as alone:
        toy(alone).want(("a", "create"))
        toy(alone).hold_applies = True
        run = await alone.start(await alone.stack("first"))
        folder = await launched(alone)
        waits = await alone.start(await alone.stack("second"))

        async def queued() -> bool:
            return [one.state for one in await pending(alone, waits.id)] == [PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED]

        await eventually(queued, "another run to wait for the place")
        if dead:
            assert await succeeding.hand_back(alone.store, alone.runs, [alone.org], alone.here.host) == 1
        else:
            await alone.stop_workers()
            await alone.start_workers()

        await launched(alone, 1)  # the other has the place, and keeps it
        await is_followed(alone, run.id, patience=10)
        (folder / "go").touch()
        await alone.reaches(run.id, S.APPLIED)
        await settled(alone, run.id)
        (await launched(alone, 1) / "go").touch()
        await alone.reaches(waits.id, S.APPLIED)
        assert len(toy(alone).launched) == 2


@requirement("run:policy-alone", "I3")
async def test_a_worker_that_is_lost_between_claim_and_launch_leaves_nothing_behind(
    alone: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is used and nothing was done: who follows proves it. An engine that accounts for it goes on from there."""
    launching = held(monkeypatch, Applying, "_launch", when="before")
    run = await alone.start(await alone.stack())
    await launching.arrived()
    assert await alone.runs.hand_back(run.id, gone=lambda who: True) == 1

    ended = await alone.reaches(run.id, S.ERRORED)
    await settled(alone, run.id)
    assert ended.reason == "the apply never started"


@requirement("run:policy-alone")
async def test_a_plan_that_is_stale_at_its_claim_is_made_again_and_applied_by_the_step_that_makes_it(
    alone: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    claiming = held(monkeypatch, claim, "claim", when="before")
    run = await alone.start(await alone.stack())
    await claiming.arrived()
    async with alone.store.begin() as tx:
        await state.hold(tx, alone.org, run.stack_id)
        await tx.execute(states.update().where(states.c.stack_id == run.stack_id).values(serial=7, lineage="another"))
    claiming.go.set()

    await alone.reaches(run.id, S.APPLIED)
    await settled(alone, run.id)
    assert await steps_of(alone, run.id) == ["toy.plan", "toy.plan"]
    assert (len(toy(alone).launched), toy(alone).world) == (1, ["a create"])


@requirement("run:policy-alone")
async def test_a_cancellation_in_the_temporal_ui_stops_it_wherever_it_is(alone: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = held(monkeypatch, Planning, "_record_plan", when="before")
    early = await alone.start(await alone.stack("early"))
    await recording.arrived()
    await alone.client.get_workflow_handle(early.id).cancel()
    await is_told(alone, early.id)
    recording.go.set()
    canceled = await alone.reaches(early.id, S.CANCELED)
    await settled(alone, early.id)
    assert (canceled.reason, toy(alone).launched) == ("cancellation requested in Temporal", [])

    toy(alone).hold_applies = True
    late = await alone.start(await alone.stack("late"))
    await launched(alone)
    await alone.client.get_workflow_handle(late.id).cancel()

    await alone.reaches(late.id, S.PARTIALLY_APPLIED)
    await settled(alone, late.id)


@requirement("run:policy-alone", "cancel:force")
async def test_a_force_that_follows_its_cancel_ends_an_apply_that_heeds_no_interrupt(client: Client, tmp_path: Path) -> None:
    at_once = TerraformSettings(force_after_seconds=0)
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), policy=AUTO, terraform=at_once) as alone:
        toy(alone).want(("a", "create"))
        toy(alone).hold_applies, toy(alone).heeds_interrupts = True, False
        run = await alone.start(await alone.stack())
        await launched(alone)
        await alone.runs.cancel(run.id, CancelInput(reason="stop"))
        await alone.reaches(run.id, S.CANCELING)
        await alone.runs.cancel(run.id, CancelInput(reason="now", force=True))

        ended = await alone.reaches(run.id, S.PARTIALLY_APPLIED)
        await settled(alone, run.id)
        assert ended.reason == "interrupted"
