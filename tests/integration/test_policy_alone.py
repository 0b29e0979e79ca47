"""Runs that nobody is asked about: planned and applied by one step, and for the rest like any other."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from activities import planning
from activities.applying import Applying
from activities.planning import Planning
from countersign.adapters.store import claim, plans, turns
from countersign.adapters.store.schema import switches
from countersign.core.approval import CancelInput
from countersign.core.errors import CountersignError, FailedPrecondition, Unavailable
from countersign.core.policy import Need, Policy, Rule
from countersign.core.run import RunState
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


async def is_followed(it: Service, run_id: str) -> None:
    async def followed() -> bool:
        return (await steps_of(it, run_id))[-1] == "toy.follow"

    await eventually(followed, "the apply to be followed")


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
    await alone.reaches(run.id, S.APPLIED)
    await settled(alone, run.id)
    assert (len(toy(alone).launched), toy(alone).world) == (1, ["a create"])


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

    await alone.reaches(run.id, S.APPLIED)
    await settled(alone, run.id)
    assert (len(toy(alone).launched), toy(alone).world) == (1, ["a create"])


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

    await alone.reaches(run.id, S.APPLIED)
    await settled(alone, run.id)
    assert (len(toy(alone).launched), toy(alone).world) == (1, ["a create"])


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
