"""A step of a composite whose Terraform is killed in mid-apply: it is accounted for as any run, and the whole goes on or asks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.adapters.store import plans, records
from countersign.adapters.store.runs import RunRow
from countersign.core.run import RunState
from tests.integration.lost_applies import Lost, lost
from tests.integration.test_composites import asked_again, compose, members, states
from tests.requirements import requirement
from tests.service import ANA, eventually, temporal_server

pytestmark = pytest.mark.anyio
AFTER = 'variable "world" {}\nresource "terraform_data" "after" {}\n'


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[Lost]:
    async with lost(client, tmp_path) as running:
        yield running


async def agreed(it: Lost) -> tuple[RunRow, RunRow]:
    """A composite that was agreed to: a chain that stops at a gate, and something that comes after it. And the step of the chain."""
    it.configure(it.world.chain(3, gates=[2]))
    folder = it.folder / "stacks" / "after"
    folder.mkdir()
    (folder / "main.tf").write_text(AFTER)
    second: records.StackRow = await it.it.stack("after")
    run = await compose(it.it, ("apply_terraform", it.stack), ("apply_terraform", second), vars={"world": str(it.world.folder)})
    waiting = await it.it.reaches(run.id, RunState.AWAITING_APPROVAL)
    await it.it.approve(waiting)
    return waiting, (await members(it.it, run))[0]


@requirement("composite:survives", "reconcile:by-itself")
async def test_a_killed_step_is_finished_under_what_was_said_to_the_whole_and_the_next_one_follows(it: Lost) -> None:
    run, chain = await agreed(it)
    async with it.world.held(2):
        await it.kill(chain)

    await it.it.reaches(run.id, RunState.APPLIED)

    assert await states(it.it, run) == ["applied", "applied"]
    assert [(d.by, str(d.channel)) for d in await it.it.decisions(chain.id)] == [(ANA, "composite"), (ANA, "carried")]
    assert len(await it.it.decisions(run.id)) == 1, "nobody was asked twice"
    await it.is_settled()


@requirement("composite:asks-again", "reconcile:expired")
async def test_a_killed_step_whose_rest_may_not_go_on_has_the_whole_ask_for_what_is_left(it: Lost) -> None:
    run, chain = await agreed(it)
    async with it.world.held(2):
        await it.expired(chain)
        await it.kill(chain)

    again = await asked_again(it.it, run, run)

    async with it.it.store.read() as conn:
        plan = await plans.get_plan(conn, it.it.org, run.id)
    assert plan is not None
    left = {change.address: change.action for change in plan.summary.changes}
    assert left["1/terraform_data.item_3"] == "create" and left["2/terraform_data.after"] == "create"

    async def taken() -> bool:
        return (await it.it.approve(again)).accepted

    await eventually(taken, "the approval of what is left to be taken")
    await it.it.reaches(run.id, RunState.APPLIED)
    assert await states(it.it, run) == ["applied", "applied"]
    await it.is_settled()


@requirement("composite:honest-end", "I4")
async def test_a_rejected_rest_of_a_killed_step_is_recorded_before_its_stack_is_free(it: Lost) -> None:
    run, chain = await agreed(it)
    async with it.world.held(2):
        await it.expired(chain)
        await it.kill(chain)
    again = await asked_again(it.it, run, run)

    await it.it.reject(again, reason="enough")

    await it.it.reaches(run.id, RunState.PARTIALLY_APPLIED)
    await it.it.reaches(chain.id, RunState.PARTIALLY_APPLIED)
    assert await states(it.it, run) == ["partially_applied", "canceled"]
    await it.is_settled(left=1)
