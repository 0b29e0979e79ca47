"""The engine on our own state service: what each credential may, and what becomes of an attempt that was fenced."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from countersign.core.engine import StateAccess
from countersign.core.errors import Unavailable
from countersign.core.plan import Counts
from countersign.core.run import Mode, RunState
from tests.integration.processes import PATIENCE, leaves_no_process, until
from tests.integration.state_service import Attempt, Lab, lab
from tests.integration.terraform_bench import Bench, bench
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Lab]:
    (tmp_path / "data").mkdir()
    async with lab(tmp_path / "data") as running:
        yield running


async def access(service: Lab, attempt: Attempt) -> StateAccess:
    head = await service.head()
    return StateAccess(address=attempt.address, username=attempt.id, password=attempt.password, lineage=head.lineage, serial=head.serial)


async def test_a_stack_is_planned_applied_looked_at_and_destroyed(bench: Bench, service: Lab) -> None:
    planned = await bench.plan(state=await access(service, await service.attempt("plan")))
    outcome = await bench.apply(planned, state=await access(service, await service.attempt()))
    assert outcome.state is RunState.VERIFYING, outcome.message
    head = await service.head()
    assert (head.lock, head.serial) == (None, 1)

    reading = await service.attempt("read")
    looked = await bench.plan(mode=Mode.SPECULATIVE, destroy=True, state=await access(service, reading))
    assert looked.plan.counts == Counts(delete=13)
    assert (looked.lineage, looked.serial) == (head.lineage, 1)

    planned = await bench.plan(mode=Mode.DESTROY, destroy=True, state=await access(service, await service.attempt("plan")))
    destroyed = await bench.apply(planned, state=await access(service, await service.attempt()), mode=Mode.DESTROY)
    assert destroyed.state is RunState.VERIFYING, destroyed.message
    assert (await service.head()).serial == 2


async def test_a_credential_that_only_reads_cannot_lock_a_plan(bench: Bench, service: Lab) -> None:
    with pytest.raises(Unavailable, match="does not know this attempt any more"):
        await bench.plan(state=await access(service, await service.attempt("read")))


@requirement("I2", "I4")
async def test_an_attempt_that_is_fenced_in_mid_apply_is_interrupted_and_keeps_what_it_could_not_store(bench: Bench, service: Lab) -> None:
    planned = await bench.plan("gates", vars={"world": str(bench.world)}, state=await access(service, await service.attempt("plan")))
    applying = await service.attempt(is_open=True)
    attempt = await bench.launch(planned, "gates", state=await access(service, applying))
    await until((bench.world / "1.reached").exists, "the apply to reach its gate")

    await service.fence()
    (bench.world / "1.open").touch()
    outcome = await asyncio.wait_for(bench.follow(attempt), PATIENCE)

    assert (outcome.state, outcome.code) == (RunState.INTERRUPTED, "internal")
    assert "errored.tfstate was left: the state could not be stored" in outcome.evidence
    assert (await service.head()).serial == 0
    left = bench.engine.where(attempt) / "bundle" / "tree" / "errored.tfstate"
    assert {r["name"] for r in json.loads(left.read_text())["resources"]} == {"before", "gate", "after"}
    assert {r["ok"] for r in outcome.resources} == {True}
