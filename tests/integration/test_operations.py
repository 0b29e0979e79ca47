"""What operators do to a service that works, and what machines do to it: clocks, pauses, rolling restarts."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import PauseActivityRequest, UnpauseActivityRequest
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from countersign.adapters import temporal
from countersign.adapters.store.database import Store, utc_now
from countersign.core.run import RunState
from countersign.core.step import engine_queue
from tests.requirements import requirement
from tests.service import ANA, Service, eventually, service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import launched, toy
from workflows.run import Run

pytestmark = pytest.mark.anyio
S = RunState
HOUR = timedelta(hours=1)


@contextlib.asynccontextmanager
async def beside(it: Service, *, off: timedelta = timedelta(0)) -> AsyncIterator[Service]:
    """A second worker of the same machine and store, whose clock is off; not started."""

    def clock() -> datetime:
        return utc_now() + off

    store = await Store.open(it.settings.database_url, clock=clock)
    client = await temporal.connect(it.settings, identity="the second worker")
    other = replace(it, client=client, store=store, _working=contextlib.AsyncExitStack())
    try:
        yield other
    finally:
        await other.stop_workers()
        await store.close()


async def pending(it: Service, run_id: str) -> list[Any]:
    described = await it.client.get_workflow_handle(run_id).describe()
    return list(described.raw_description.pending_activities)


@requirement("ops:clock", "I8")
@pytest.mark.parametrize("off", [HOUR, -HOUR])
async def test_a_worker_whose_clock_is_off_does_nothing_and_says_so_until_another_takes_the_work(it: Service, off: timedelta) -> None:
    toy(it).want(("a", "create"))
    await it.stop_workers()
    async with beside(it, off=off) as wrong:
        await wrong.start_workers()
        run = await it.start(await it.stack(f"clock{'a' if off > timedelta(0) else 'b'}"), tool="apply_toy")

        async def refused() -> str:
            return next((a.last_failure.message for a in await pending(it, run.id) if a.HasField("last_failure")), "")

        said = await eventually(refused, "the step to be refused")
        assert f"60 minutes {'ahead of' if off > timedelta(0) else 'behind'} Temporal's" in said
        assert (await it.run(run.id)).state is S.PENDING
        await wrong.stop_workers()
        await it.start_workers()
        waiting = await it.reaches(run.id, S.AWAITING_APPROVAL)
    await it.approve(waiting)
    await it.reaches(run.id, S.APPLIED)
    assert toy(it).world.count("a create") == 1


@requirement("ops:clock", "I1", "I3")
async def test_a_clock_that_jumps_in_mid_apply_ends_and_doubles_nothing(it: Service) -> None:
    """The claim is made and the apply runs; from then on its worker's clock is an hour off, either way, and corrected again."""
    toy(it).want(("b", "create"))
    toy(it).hold_applies = True
    off = [timedelta(0)]
    it.store._clock = lambda: utc_now() + off[0]
    run = await it.start(await it.stack("jumps"), tool="apply_toy")
    await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
    folder = await launched(it)
    for jump in (HOUR, -HOUR):
        off[0] = jump
    (folder / "go").touch()

    await it.reaches(run.id, S.APPLIED)

    assert toy(it).world.count("b create") == 1


@requirement("ops:pause", "I3")
async def test_an_activity_paused_and_unpaused_in_mid_apply_applies_once_and_ends_as_it_would_have(it: Service) -> None:
    """As the Temporal UI does it. The step hears of its pause as of a cancellation that is none: the apply goes on."""
    toy(it).want(("c", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack("paused"), tool="apply_toy")
    await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
    await it.reaches(run.id, S.APPLYING)
    [apply] = await pending(it, run.id)
    where: dict[str, Any] = {"namespace": "default", "execution": WorkflowExecution(workflow_id=run.id), "identity": "an operator"}

    await it.client.workflow_service.pause_activity(PauseActivityRequest(**where, id=apply.activity_id, reason="to look"))

    async def paused() -> bool:
        found = await pending(it, run.id)
        return not found or all(one.paused or one.activity_type.name != "toy.apply" for one in found)

    await eventually(paused, "the pause to be taken")
    with contextlib.suppress(Exception):  # it may have been given up by now: then there is nothing to let go on
        await it.client.workflow_service.unpause_activity(UnpauseActivityRequest(**where, id=apply.activity_id))
    (await launched(it) / "go").touch()

    await it.reaches(run.id, S.APPLIED)

    assert toy(it).world.count("c create") == 1
    assert len(set(toy(it).launched)) == len(toy(it).launched)


@requirement("ops:pause")
async def test_a_plan_that_is_paused_waits_and_is_made_when_it_is_let_go(it: Service) -> None:
    await it.stop_workers()  # so that it is still to be started
    toy(it).want(("d", "create"))
    run = await it.start(await it.stack("waits"), tool="apply_toy")
    where: dict[str, Any] = {"namespace": "default", "execution": WorkflowExecution(workflow_id=run.id), "identity": "an operator"}
    async with contextlib.AsyncExitStack() as working:
        async with Worker(it.client, task_queue=engine_queue("toy"), workflows=[Run], workflow_runner=UnsandboxedWorkflowRunner()):
            # It asks for a plan and makes none.
            plan = (await eventually(lambda: pending(it, run.id), "the plan to be scheduled"))[0]
            await it.client.workflow_service.pause_activity(PauseActivityRequest(**where, id=plan.activity_id))
        for worker in it.workers():
            await working.enter_async_context(worker)
        assert [one.paused for one in await pending(it, run.id)] == [True]
        assert (await it.run(run.id)).state is S.PENDING

        await it.client.workflow_service.unpause_activity(UnpauseActivityRequest(**where, id=plan.activity_id))

        await it.reaches(run.id, S.AWAITING_APPROVAL)


@requirement("ops:rolling-restart", "I2", "I3")
async def test_workers_that_are_stopped_one_after_the_other_lose_nothing_in_mid_apply(client: Client, tmp_path: Path) -> None:
    install()
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), ui_approvals="trusted") as it, beside(it) as second:
        toy(it).want(("e", "create"))
        toy(it).hold_applies = True
        run = await it.start(await it.stack("rolling"), tool="apply_toy", by=ANA)
        await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
        await it.reaches(run.id, S.APPLYING)
        await second.start_workers()
        for one in (it, second, it):
            await one.stop_workers()
            await one.start_workers()
        (await launched(it) / "go").touch()

        await it.reaches(run.id, S.APPLIED, patience=60)

        assert toy(it).world.count("e create") == 1
