"""Importing: an object that exists comes into the state by a run like every other, and survives a crash like every other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.core.run import RunState
from tests.integration.in_the_cloud import THING, InTheCloud, in_the_cloud
from tests.requirements import requirement
from tests.service import temporal_server

pytestmark = pytest.mark.anyio

THREE = THING + 'resource "fake_thing" "three" {\n  name = "three"\n  size = 3\n}\n'


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[InTheCloud]:
    async with in_the_cloud(client, tmp_path) as running:
        yield running


async def made_by_hand(it: InTheCloud, size: int = 3) -> str:
    """An object that somebody made without us; its id."""
    made = await asyncio.to_thread(
        lambda: it.cloud.connection.create(type="fake_thing", project="default", name="three", attributes={"size": size})
    )
    return str(made["id"])


@requirement("import:a-run")
async def test_what_exists_is_planned_countersigned_and_taken_into_the_state(it: InTheCloud) -> None:
    await it.applied()
    id = await made_by_hand(it)
    before = it.cloud.changes()
    it.lost.configure(THREE)
    waiting = await it.ended("terraform_import", address="fake_thing.three", external_id=id)
    run = waiting["run"]

    assert (run["state"], run["change_class"]) == ("awaiting_approval", "import")
    plan = await it.plan(run["run_id"])
    assert (plan["summary"], plan["changes"]["items"][0]["importing"]) == ("1 to import", id)
    await it.applied("terraform_import", address="fake_thing.three", external_id=id)
    assert (await it.lost.ids())["three"] == id
    assert it.cloud.changes() == before  # nothing was made, changed or destroyed
    assert it.cloud.truth(await it.lost.document()).clean


@requirement("import:a-run")
async def test_what_an_import_would_change_or_do_beside_is_told_to_whoever_agrees(it: InTheCloud) -> None:
    id = await made_by_hand(it, size=7)
    it.lost.configure(THREE)
    run = (await it.ended("terraform_import", address="fake_thing.three", external_id=id))["run"]
    plan = await it.plan(run["run_id"])

    assert plan["counts"] == {"create": 2, "update": 1, "imported": 1}
    [three] = [c for c in plan["changes"]["items"] if c["address"] == "fake_thing.three"]
    assert "size: 7 → 3" in three["attributes"]
    assert "Beside the import this plan does what else is due: fake_thing.one, fake_thing.two." in plan["risks"]


@requirement("import:already")
async def test_what_is_managed_already_what_is_no_address_and_what_does_not_exist_are_refused_in_words(it: InTheCloud) -> None:
    await it.applied()
    where = {"env": "dev", "workspace": "demo"}

    managed = await it.agent.refused("terraform_import", **where, address="fake_thing.one", external_id="x")
    odd = await it.agent.refused("terraform_import", **where, address="fake_thing", external_id="x")
    undeclared = await it.ended("terraform_import", address="fake_thing.nobody", external_id="x")
    it.lost.configure(THREE)
    missing = await it.ended("terraform_import", address="fake_thing.three", external_id="no-such-id")

    assert (managed["code"], managed["field"]) == ("already_exists", "address")
    assert (odd["code"], odd["field"]) == ("invalid_argument", "address")
    assert (undeclared["run"]["state"], undeclared["data"]["code"]) == ("errored", "provider_error")
    assert "fake_thing.nobody" in undeclared["data"]["reason"]["text"]
    assert (missing["run"]["state"], missing["data"]["code"]) == ("errored", "provider_error")
    assert "no-such-id" in missing["data"]["reason"]["text"] or "non-existent" in missing["data"]["reason"]["text"]


async def test_imports_of_two_objects_wait_beside_each_other(it: InTheCloud) -> None:
    await it.applied()
    it.lost.configure(THREE + 'resource "fake_thing" "four" {\n  name = "four"\n}\n')
    first = (await it.ended("terraform_import", address="fake_thing.three", external_id=await made_by_hand(it)))["run"]
    second = (await it.ended("terraform_import", address="fake_thing.four", external_id=await made_by_hand(it)))["run"]
    again = (await it.ended("terraform_import", address="fake_thing.four", external_id="another-id"))["run"]

    assert (await it.lost.it.run(first["run_id"])).state is RunState.AWAITING_APPROVAL
    assert (await it.lost.it.run(second["run_id"])).state is RunState.AWAITING_APPROVAL
    assert again["state"] == "errored"


@requirement("import:a-run", "promise:crash-costs-nothing")
async def test_an_import_that_is_killed_is_finished_under_its_approval(it: InTheCloud) -> None:
    await it.applied()
    id = await made_by_hand(it, size=7)
    it.lost.configure(THREE)
    held = it.cloud.hook(op="update", name="three", when="after")
    run = await it.lost.it.start(it.lost.stack, tool="terraform_import", address="fake_thing.three", external_id=id)
    await it.lost.it.approve(await it.lost.it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await asyncio.to_thread(held.reached)
    await it.lost.kill(run)
    held.release("go")
    ended = await it.lost.it.reaches(run.id, RunState.APPLIED, RunState.NEEDS_OPERATOR, RunState.AWAITING_APPROVAL)

    assert ended.state is RunState.APPLIED, ended.reason
    assert (await it.lost.ids())["three"] == id
    assert it.cloud.truth(await it.lost.document()).clean
    assert len([d for d in await it.lost.it.decisions(run.id) if d.accepted and d.channel == "front"]) == 1
