"""The fake cloud and its provider, by a real Terraform: what the kill matrix trusts has to be right itself."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakecloud.calls import CloudError
from tests.fakecloud.client import PATIENCE, Cloud, cloud, end, kill_plugins, provider
from tests.fakecloud.mirror import ENVIRONMENT, write_mirror
from tests.fakecloud.raw import Raw, kill_group, raw
from tests.integration.fake_state import fake_state
from tests.integration.processes import until

pytestmark = pytest.mark.anyio

TWO = """
resource "fake_thing" "one" {
  name   = "one"
  size   = 3
  kind   = "a"
  secret = "hush-hush-hush"
}
resource "fake_database" "two" {
  name = "two"
  size = length(fake_thing.one.id)
}
"""
MARKER = "att_of_the_fake_provider"
APPLY = ("apply", "-input=false", "-no-color", "saved.plan")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with cloud(tmp_path) as running:
        yield running


@pytest.fixture
async def terraform(tmp_path: Path, world: Cloud) -> AsyncIterator[Raw]:
    """Reattached to a provider of its own."""
    async with provider(world, marker=MARKER) as fake, raw(tmp_path, TWO, {"TF_REATTACH_PROVIDERS": fake.reattach}) as engine:
        await engine.run("init", "-input=false", "-no-color")
        yield engine


@contextlib.asynccontextmanager
async def plugged(folder: Path, world: Cloud, **more: str) -> AsyncIterator[Raw]:
    """With the provider as a package that Terraform installs and starts."""
    lock = write_mirror(folder / "mirror")
    environment = {"FAKE_CLOUD": world.address, "COUNTERSIGN_ATTEMPT": MARKER, **ENVIRONMENT, **more}
    async with raw(folder, TWO, environment, mirror=folder / "mirror") as engine:
        (engine.folder / ".terraform.lock.hcl").write_text(lock)
        await engine.run("init", "-input=false", "-no-color", "-lockfile=readonly")
        yield engine


async def test_what_is_applied_updated_replaced_and_destroyed_is_in_the_record_in_that_order(world: Cloud, terraform: Raw) -> None:
    state = await terraform.applied()
    assert world.changes() == ["create one", "create two"]
    assert world.truth(state).clean
    assert {line["by"] for line in world.record} == {MARKER}

    terraform.configure(TWO.replace("size   = 3", "size   = 4"))
    await terraform.applied()
    assert world.changes()[2:] == ["update one"]
    assert terraform.object("fake_thing.one")["etag"] == "e3"

    terraform.configure(TWO.replace('"a"', '"b"'))
    state = await terraform.applied()
    assert world.changes()[3:] == ["delete one", "create one"]
    assert world.truth(state).clean

    await terraform.applied("-destroy")
    assert world.changes()[5:] == ["delete two", "delete one"]
    assert world.truth(terraform.state).clean


async def test_a_plan_of_what_is_there_is_empty_and_reads_the_cloud(world: Cloud, terraform: Raw) -> None:
    await terraform.applied()
    await terraform.run("plan", "-detailed-exitcode", "-input=false")

    one = terraform.object("fake_thing.one")
    world.connection.update(one["id"], {"size": 99, "kind": "a", "secret": "hush-hush-hush"})

    plan = await terraform.planned()
    assert [c["change"]["actions"] for c in plan["resource_changes"]] == [["no-op"], ["update"]]
    assert [c["address"] for c in plan["resource_drift"]] == ["fake_thing.one"]


async def test_what_replaces_is_named_and_what_is_secret_is_marked(terraform: Raw) -> None:
    await terraform.applied()
    terraform.configure(TWO.replace('"a"', '"b"'))

    plan = await terraform.planned()

    [one] = [c["change"] for c in plan["resource_changes"] if c["address"] == "fake_thing.one"]
    assert one["replace_paths"] == [["kind"]]
    assert one["after_sensitive"] == {"secret": True, "labels": {}} or one["after_sensitive"] == {"secret": True}
    assert one["after_unknown"] == {"etag": True, "id": True}


async def test_an_object_nobody_knows_is_imported_by_its_id(world: Cloud, terraform: Raw) -> None:
    made = world.connection.create(
        type="fake_thing", project="default", name="one", attributes={"size": 3, "kind": "a", "secret": "hush-hush-hush"}
    )
    terraform.configure(TWO + f'import {{\n  to = fake_thing.one\n  id = "{made["id"]}"\n}}\n')

    plan = await terraform.planned()
    state = await terraform.applied()

    [one] = [c["change"] for c in plan["resource_changes"] if c["address"] == "fake_thing.one"]
    assert (one["actions"], one["importing"]) == (["no-op"], {"id": made["id"]})
    assert world.changes() == ["create one", "create two"]
    assert world.truth(state).clean


async def test_an_id_that_does_not_exist_fails_the_plan(terraform: Raw) -> None:
    terraform.configure(TWO + 'import {\n  to = fake_thing.one\n  id = "thing-999999"\n}\n')

    said = await terraform.run("plan", "-input=false", "-json", codes=(1,))

    assert "Cannot import non-existent remote object" in said


async def test_an_object_is_looked_up_by_what_is_unique(world: Cloud, terraform: Raw) -> None:
    made = world.connection.create(type="fake_thing", project="elsewhere", name="x", attributes={})
    lookup = 'data "fake_lookup" "%s" {\n  type = "fake_thing"\n  name = "x"\n  project = %s\n}\n'
    terraform.configure(lookup % ("there", '"elsewhere"') + lookup % ("here", "null"))

    state = await terraform.applied()

    found = {r["name"]: r["instances"][0]["attributes"] for r in state["resources"]}
    assert (found["there"]["found"], found["there"]["id"]) == (1, made["id"])
    assert (found["here"]["found"], found["here"]["id"]) == (0, None)


@pytest.mark.parametrize(
    ("when", "then", "left"),
    [("before", "drop", []), ("before", "go", ["create one"]), ("after", "drop", ["create one"])],
)
async def test_what_was_in_flight_when_terraform_was_killed_is_told_by_the_record(
    when: str, then: str, left: list[str], world: Cloud, terraform: Raw
) -> None:
    await terraform.planned()
    held = world.hook(op="create", name="one", when=when)
    applying = await terraform.start(*APPLY)
    await asyncio.to_thread(held.reached)

    await kill_group(applying)
    held.release(then)

    await until(lambda: len(world.record) >= len(left), "the cloud to finish what it began")
    assert world.changes() == left
    assert world.truth(terraform.state).orphans == (["fake_thing/default/one"] if left else [])


async def test_applying_the_same_plan_again_after_a_kill_makes_a_duplicate_and_it_is_counted(world: Cloud, terraform: Raw) -> None:
    with fake_state() as service:
        terraform.configure(TWO + 'terraform {\n  backend "http" {}\n}\n')
        terraform.environment |= {"TF_HTTP_ADDRESS": service.address, "TF_HTTP_USERNAME": "att", "TF_HTTP_PASSWORD": service.password}
        await terraform.run("init", "-input=false", "-no-color")
        await terraform.planned()
        held = world.hook(op="create", name="two", when="before")
        applying = await terraform.start(*APPLY)
        await asyncio.to_thread(held.reached)
        await kill_group(applying)
        held.release("drop")

        await terraform.run(*APPLY)

        truth = world.truth(service.document)
    assert world.changes() == ["create one", "create one", "create two"]
    assert (truth.duplicates, truth.orphans, truth.lost) == (["fake_thing/default/one"], ["fake_thing/default/one"], [])


async def test_what_vanished_from_the_world_is_lost(world: Cloud, terraform: Raw) -> None:
    state = await terraform.applied()

    world.connection.delete(terraform.object("fake_database.two")["id"])

    assert world.truth(state).lost == ["database-000002"]


async def test_the_cloud_fails_and_takes_its_time_when_it_is_told_to(world: Cloud, terraform: Raw) -> None:
    world.hook(op="create", name="one", do="delay", seconds=0.05)
    world.hook(op="create", name="two", do="fail", status=503)
    await terraform.planned()

    said = await terraform.run(*APPLY[:-1], "-json", APPLY[-1], codes=(1,))

    kinds = [event["type"] for event in map(json.loads, said.splitlines()) if event["type"].startswith("apply_")]
    assert kinds == ["apply_start", "apply_complete", "apply_start", "apply_errored"]
    assert world.changes() == ["create one"]
    assert world.truth(terraform.state).clean


async def test_a_cloud_that_was_killed_has_all_that_it_ever_answered(world: Cloud, terraform: Raw) -> None:
    state = await terraform.applied()
    await world.kill()
    with world.record_file.open("ab") as torn:
        torn.write(b'{"n": 3, "op": "cre')
    with pytest.raises(CloudError):
        world.connection.read("thing-000001")

    await world.start()

    await terraform.run("plan", "-detailed-exitcode", "-input=false")
    await terraform.applied("-destroy")
    assert world.changes() == ["create one", "create two", "delete two", "delete one"]
    assert world.truth(state).lost == ["database-000002", "thing-000001"]


async def test_a_cloud_with_unique_names_refuses_a_second_one(tmp_path: Path) -> None:
    async with cloud(tmp_path, "--unique") as strict:
        strict.connection.create(type="fake_thing", project="p", name="x", attributes={})
        with pytest.raises(CloudError, match="409"):
            strict.connection.create(type="fake_thing", project="p", name="x", attributes={})


async def test_terraform_installs_the_provider_from_the_mirror_as_the_lock_file_pins_it(tmp_path: Path, world: Cloud) -> None:
    async with plugged(tmp_path, world) as engine:
        state = await engine.applied()
        assert world.truth(state).clean
        assert {line["by"] for line in world.record} == {MARKER}

        lock = engine.folder / ".terraform.lock.hcl"
        lock.write_text(lock.read_text().replace('"h1:', '"h1:X'))
        said = await engine.run("init", "-input=false", "-json", "-lockfile=readonly", codes=(1,))
        assert "checksum" in said


async def test_a_provider_that_is_killed_in_mid_create_fails_that_create(tmp_path: Path, world: Cloud) -> None:
    async with plugged(tmp_path, world) as engine:
        await engine.planned()
        held = world.hook(op="create", name="two", when="before")
        applying = await engine.start(*APPLY)
        await asyncio.to_thread(held.reached)

        assert len(kill_plugins(MARKER)) == 1
        held.release("drop")

        async with asyncio.timeout(PATIENCE):
            await applying.communicate()
        assert applying.returncode == 1
        assert world.changes() == ["create one"]
        assert world.truth(engine.state).clean


@pytest.mark.parametrize("outlives", ["", "yes"])
async def test_a_provider_ends_with_its_terraform_unless_it_is_told_to_outlive_it(outlives: str, tmp_path: Path, world: Cloud) -> None:
    async with plugged(tmp_path, world, FAKE_OUTLIVES=outlives) as engine:
        await engine.planned()
        held = world.hook(op="create", name="one", when="before")
        applying = await engine.start(*APPLY)
        await asyncio.to_thread(held.reached)
        [plugin] = children_of(applying.pid)

        await end(applying)

        if outlives:
            assert kill_plugins(MARKER) == [plugin]
        await until(lambda: not Path(f"/proc/{plugin}").exists(), "the provider to end")


def children_of(parent: int) -> list[int]:
    """Processes that any thread of `parent` has started."""
    return [int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()]
