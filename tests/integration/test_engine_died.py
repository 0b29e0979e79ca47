"""An engine that is killed while it only looks: what it was asked for is asked again, and not for ever."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.adapters.process import marked_processes
from countersign.adapters.store.schema import credentials
from countersign.core.engine import Beat, PlanJob, Planned, Reconciled, ReconcileJob
from countersign.core.errors import EngineDied
from countersign.core.run import RunState
from tests.gates import close, held, open_for_good
from tests.integration.lost_applies import Lost, lost
from tests.requirements import requirement
from tests.service import eventually, temporal_server

pytestmark = pytest.mark.anyio
S = RunState
GATED = """
variable "world" {
  type = string
}
data "terraform_remote_state" "before" {
  backend = "local"
  config = {
    path = "${var.world}/before.gate"
  }
}
resource "terraform_data" "one" {
  input = data.terraform_remote_state.before.backend
}
"""


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[Lost]:
    async with lost(client, tmp_path) as running:
        running.configure(GATED)
        yield running


async def killed(it: Lost, run_id: str) -> None:
    """SIGKILL to every process that plans for the run."""
    async with it.it.store.read() as conn:
        marks = (await conn.execute(credentials.select().where(credentials.c.run_id == run_id))).all()
    for pid in [pid for row in marks for pid in marked_processes(row.id)]:
        os.kill(pid, signal.SIGKILL)


@requirement("plan:made-again")
async def test_a_plan_whose_engine_is_killed_is_made_again(it: Lost) -> None:
    close(it.world.folder / "before.gate")
    run = await it.it.start(it.stack, tool="apply_terraform", vars={"world": str(it.world.folder)})
    async with held(it.world.folder / "before.gate", eventually):
        open_for_good(it.world.folder / "before.gate")
        await killed(it, run.id)

    await it.it.reaches(run.id, S.AWAITING_APPROVAL)

    assert (await it.head()).lock is None


@requirement("plan:made-again")
async def test_a_plan_whose_engine_is_killed_each_time_ends_its_run_before_any_change(it: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def died(job: PlanJob, beat: Beat) -> Planned:
        asked.append(job.attempt_id)
        raise EngineDied("plan was ended by signal 9")

    monkeypatch.setattr(it.engine, "plan", died)
    run = await it.it.start(it.stack, tool="apply_terraform", vars={"world": str(it.world.folder)})

    ended = await it.it.reaches(run.id, S.ERRORED)

    assert (ended.code, ended.reason) == ("provider_error", "the engine was ended 3 times; the last time: plan was ended by signal 9")
    assert len(set(asked)) == 3, "each with an id of its own, so that what the one before left is not taken for it"


@requirement("plan:made-again", "reconcile:by-itself")
@pytest.mark.parametrize(("deaths", "state"), [(2, S.APPLIED), (3, S.NEEDS_OPERATOR)])
async def test_reconciling_whose_engine_is_killed_looks_again_and_asks_an_operator_in_the_end(
    it: Lost, monkeypatch: pytest.MonkeyPatch, deaths: int, state: RunState
) -> None:
    reconcile, died = it.engine.reconcile, 0

    async def dying(job: ReconcileJob, beat: Beat) -> Reconciled:
        nonlocal died
        if died < deaths and not job.stops:
            died += 1
            raise EngineDied("plan was ended by signal 9")
        return await reconcile(job, beat)

    it.configure(it.world.chain(2, gates=[1]))
    monkeypatch.setattr(it.engine, "reconcile", dying)
    run = await it.applying()
    async with it.world.held(1):
        await it.kill(run)

    ended = await it.it.reaches(run.id, state)

    assert died == deaths
    if state is S.NEEDS_OPERATOR:
        assert "The plan of what is left failed: plan was ended by signal 9." in (ended.reason or "")
