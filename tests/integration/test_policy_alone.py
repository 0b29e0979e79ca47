"""Runs that nobody is asked about: planned and applied by one step, and for the rest like any other."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from activities import planning
from activities.applying import Applying
from countersign.adapters.store.schema import switches
from countersign.core.approval import CancelInput
from countersign.core.errors import CountersignError, FailedPrecondition, Unavailable
from countersign.core.policy import Need, Policy, Rule
from countersign.core.run import RunState
from tests.requirements import requirement
from tests.service import Service, eventually, service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import launched, toy

pytestmark = pytest.mark.anyio
install()
S = RunState
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
