"""An earlier state becomes the newest one again, by a run that people agree to."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from countersign.core.engine import Planned, Reconciled, Remains
from countersign.core.errors import FailedPrecondition
from countersign.core.reconcile import Next
from countersign.core.run import RunState
from tests.integration.in_the_cloud import THING, InTheCloud, in_the_cloud
from tests.integration.processes import leaves_no_process
from tests.integration.terraform_bench import Bench, bench, holding, texts
from tests.integration.test_remains import job_of
from tests.requirements import requirement
from tests.service import temporal_server

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio

SECRET = "secret-of-the-state-before"
BEFORE = f"""
resource "terraform_data" "kept" {{ input = 1 }}
resource "terraform_data" "gone" {{ input = sensitive("{SECRET}") }}
output "size" {{ value = 1 }}
"""
AFTER = """
resource "terraform_data" "kept" { input = 2 }
resource "terraform_data" "new" {}
output "size" { value = 2 }
"""


async def two_states(bench: Bench) -> bytes:
    """The stack was applied twice; its first state."""
    bench.write("shop", main_tf=BEFORE)
    await bench.applied("shop")
    first = bench.state.state
    assert first is not None
    bench.write("shop", main_tf=AFTER)
    await bench.applied("shop")
    return first


@requirement("state:restored")
async def test_the_plan_shows_the_difference_and_its_apply_stores_what_was_there_under_a_new_serial(bench: Bench) -> None:
    first = await two_states(bench)
    serial = bench.state.document["serial"]

    planned = await bench.plan("shop", restore=first)

    assert {c.address: c.action for c in planned.plan.changes} == {
        "terraform_data.gone": "import",
        "terraform_data.kept": "update",
        "terraform_data.new": "forget",
    }
    assert (str(planned.plan.change_class), planned.plan.outputs_changed) == ("forget", ("size",))
    assert planned.plan.risks[0].startswith("Only the record changes, nothing in the cloud")
    assert f"written as serial {serial + 1}" in planned.plan.risks[1]
    assert (planned.lineage, planned.serial) == (bench.state.document["lineage"], serial)
    assert bench.build == planned.plan.engine_build
    assert holding(texts(planned), SECRET) == []
    assert bench.state.document["serial"] == serial

    outcome = await bench.apply(planned, "shop")

    assert outcome.state is RunState.VERIFYING, (outcome.message, outcome.log)
    assert outcome.done == 3
    now, then = bench.state.document, json.loads(first)
    assert now["serial"] > serial
    assert (now["resources"], now["outputs"], now["lineage"]) == (then["resources"], then["outputs"], then["lineage"])
    assert bench.state.lock is None


@requirement("state:restored")
async def test_another_history_is_not_restored_and_what_differs_in_nothing_has_nothing_to_apply(bench: Bench) -> None:
    first = await two_states(bench)
    other = json.dumps({**json.loads(first), "lineage": "another"}).encode()

    with pytest.raises(FailedPrecondition, match="no common history"):
        await bench.plan("shop", restore=other)
    assert bench.state.state is not None
    assert not (await bench.plan("shop", restore=bench.state.state)).plan.changes_anything


@requirement("state:restored")
async def test_a_store_that_refuses_leaves_an_attempt_nobody_calls_done(bench: Bench) -> None:
    planned = await bench.plan("shop", restore=await two_states(bench))
    bench.state.refuse_writes = True

    outcome = await bench.apply(planned, "shop")

    assert (outcome.state, outcome.code) == (RunState.INTERRUPTED, "interrupted")


# -- Lost on the way


async def lost(bench: Bench, planned: Planned, **more: Any) -> Reconciled:
    """What is made of an apply that nobody saw the end of."""
    return await bench.engine.reconcile(job_of(bench, planned, Remains(whole=True), "shop", **more), bench.beat)


@requirement("state:restored", "promise:crash-costs-nothing")
async def test_what_was_stored_when_its_apply_was_lost_is_done(bench: Bench) -> None:
    planned = await bench.plan("shop", restore=await two_states(bench))
    await bench.apply(planned, "shop")

    found = await lost(bench, planned)

    assert found.decision.next is Next.CONTINUE
    assert found.planned is not None
    assert not found.planned.plan.changes_anything
    assert "has the content that was approved" in found.decision.lines[0]


@requirement("state:restored", "promise:crash-costs-nothing")
async def test_what_was_not_stored_goes_on_under_its_approval_or_ends_on_request(bench: Bench) -> None:
    planned = await bench.plan("shop", restore=await two_states(bench))
    serial = bench.state.document["serial"]

    found = await lost(bench, planned)
    stopped = await lost(bench, planned, canceled=True)

    assert (found.decision.next, stopped.decision.next) == (Next.CONTINUE, Next.STOP)
    assert found.planned is not None
    assert found.planned.plan.semantic_digest == planned.plan.semantic_digest
    outcome = await bench.apply(found.planned, "shop")
    assert (outcome.state, bench.state.document["serial"] > serial) == (RunState.VERIFYING, True)
    assert "terraform_data.new" not in bench.state.resources


@requirement("state:restored")
async def test_where_the_state_is_another_one_by_then_people_are_asked_again(bench: Bench) -> None:
    planned = await bench.plan("shop", restore=await two_states(bench))
    bench.write("shop", main_tf=AFTER + 'resource "terraform_data" "later" {}\n')
    await bench.applied("shop")

    found = await lost(bench, planned)

    assert found.decision.next is Next.ASK
    assert found.decision.difference == ("the state is another one by now, so restoring it changes something else",)


# -- As a run


def asked(serial: int) -> dict[str, Any]:
    """As `run_start` is asked for it."""
    return {"type": "terraform_restore_state", "input": {"env": "dev", "workspace": "demo", "serial": serial}}


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[InTheCloud]:
    """A stack that was applied twice: its second thing is of the second time."""
    async with in_the_cloud(client, tmp_path, THING.partition('resource "fake_thing" "two"')[0]) as running:
        await running.applied()
        running.lost.configure(THING)
        await running.applied()
        yield running


@requirement("state:restored")
async def test_a_person_agrees_to_the_difference_and_the_history_keeps_both(it: InTheCloud) -> None:
    where = {"env": "dev", "workspace": "demo"}
    first, second = [s["serial"] for s in reversed((await it.agent.call("terraform_get_state", **where))["data"]["snapshots"])][-2:]
    epoch = (await it.lost.head()).epoch
    newest = await it.agent.refused("run_start", **asked(second))
    missing = await it.agent.refused("run_start", **asked(99))
    assert "is the newest state" in newest["message"]
    assert f"the newest are {second}, {first}" in missing["message"]

    waiting = (await it.ended("run_start", **asked(first)))["run"]
    assert (waiting["state"], waiting["change_class"]) == ("awaiting_approval", "forget")
    assert "fake_thing.two" in str((await it.plan(waiting["run_id"]))["changes"])
    assert (await it.lost.head()).serial == second
    await it.applied("run_start", **asked(first))

    head = await it.lost.head()
    assert (head.serial > second, head.epoch > epoch) == (True, True)
    assert (await it.agent.call("terraform_get_state", **where))["data"]["addresses"] == ["fake_thing.one"]
    assert (await it.agent.call("terraform_get_state", **where, serial=second))["data"]["addresses"] == ["fake_thing.one", "fake_thing.two"]
    assert sorted(it.cloud.changes()) == ["create one", "create two"]


@requirement("state:restored")
async def test_a_plan_that_waits_goes_stale_when_the_state_is_restored(it: InTheCloud) -> None:
    first = (await it.agent.call("terraform_get_state", env="dev", workspace="demo"))["data"]["snapshots"][-1]["serial"]
    it.lost.configure(THING.replace("size = 1", "size = 3"))
    waiting = (await it.ended("apply_terraform"))["run"]
    assert waiting["state"] == "awaiting_approval"

    await it.applied("run_start", **asked(first))
    await it.lost.agree(await it.lost.it.run(waiting["run_id"]))

    again = await it.lost.seen(await it.lost.it.run(waiting["run_id"]), RunState.AWAITING_APPROVAL, times=2)
    assert "fake_thing.two" in str((await it.plan(again.id))["changes"])
