"""The engine with a provider that runs as one: from a mirror, warm and cold, and killed in the middle of its work.

The provider and its cloud are tests/fakecloud, so that what really happened can be asked.
"""

import asyncio
import json
import os
import signal
import tarfile
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import pytest

from countersign.core.errors import ProviderError
from countersign.core.plan import ChangeClass, Counts
from countersign.core.run import Mode, RunState
from tests.fakecloud.client import Cloud, Held, cloud, kill_plugins
from tests.fakecloud.mirror import ENVIRONMENT, write_mirror
from tests.integration.processes import PATIENCE, leaves_no_process, until
from tests.integration.terraform_bench import Bench, bench, holding, texts
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio

TWO = """
terraform {
  required_providers {
    fake = {
      source  = "fake.test/countersign/fake"
      version = "%s"
    }
  }
}
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


@pytest.fixture
async def world(tmp_path: Path, bench: Bench) -> AsyncIterator[Cloud]:
    """A cloud, and a bench whose stack `two` uses it through a mirror."""
    mirror = tmp_path / "mirror"
    lock = write_mirror(mirror)
    version = next(line.split('"')[1] for line in lock.splitlines() if "version " in line)
    bench.write("two", main_tf=TWO % version)
    (bench.stacks / "two" / ".terraform.lock.hcl").write_text(lock)
    async with cloud(tmp_path) as running:
        bench.use(
            mirror=mirror,
            allowed_providers=("terraform.io/builtin/*", "fake.test/countersign/*"),
            environment={"FAKE_CLOUD": running.address, **ENVIRONMENT},
        )
        yield running


async def test_a_provider_of_the_mirror_plans_applies_and_destroys(bench: Bench, world: Cloud) -> None:
    spy = bench.spied()

    planned = await bench.plan("two")
    outcome = await bench.apply(planned, "two")

    assert planned.plan.counts == Counts(create=2)
    assert holding(texts(planned), "hush-hush-hush") == []
    assert outcome.state is RunState.VERIFYING, outcome.message
    assert world.changes() == ["create one", "create two"] and world.truth(bench.state.document).clean
    assert [r["id"] for r in outcome.resources] == [o["object"]["id"] for o in world.record]

    destroying = await bench.plan("two", Mode.DESTROY, destroy=True)
    assert (destroying.plan.counts, destroying.plan.change_class) == (Counts(delete=2), ChangeClass.STATEFUL_DELETE)
    assert (await bench.apply(destroying, "two")).state is RunState.VERIFYING
    assert world.changes()[2:] == ["delete two", "delete one"]
    assert spy.commands == ["init", "plan", "show", "apply", "plan", "show", "apply"]


async def test_packages_travel_in_no_bundle_and_another_machine_takes_them_from_its_mirror(bench: Bench, world: Cloud) -> None:
    planned = await bench.plan("two")
    with tarfile.open(fileobj=BytesIO(planned.bundle)) as tar:
        names = tar.getnames()
    spy = bench.spied()
    bench.engine = bench.another(work="other/work", attempts="other/attempts")

    outcome = await bench.apply(planned, "two")

    assert [name for name in names if "provider" in name] == []
    assert "tree/.terraform.lock.hcl" in names
    assert outcome.state is RunState.VERIFYING, outcome.message
    assert spy.commands == ["init", "apply"]


async def test_a_package_that_was_changed_in_a_warm_folder_is_not_started(bench: Bench, world: Cloud, tmp_path: Path) -> None:
    planned = await bench.plan("two")
    package = next((tmp_path / "mirror").rglob("terraform-provider-fake*"))
    package.write_text(f"#!/bin/sh\ntouch {bench.world}/ran\n")

    with pytest.raises(ProviderError, match="checksum"):
        await bench.plan("two")
    outcome = await bench.apply(planned, "two")

    assert outcome.state in (RunState.ERRORED, RunState.INTERRUPTED)
    assert world.changes() == []
    assert not (bench.world / "ran").exists()


async def in_flight(bench: Bench, world: Cloud, when: str) -> tuple[str, Held]:
    """An apply that has made `one` and waits for the cloud to make `two`."""
    planned = await bench.plan("two")
    held = world.hook(op="create", name="two", when=when)
    attempt = await bench.launch(planned, "two")
    await asyncio.to_thread(held.reached)
    return attempt, held


async def test_a_cancel_waits_for_what_is_in_flight_and_records_it(bench: Bench, world: Cloud) -> None:
    attempt, held = await in_flight(bench, world, "before")
    following = asyncio.create_task(bench.follow(attempt, stop=True))
    journal = bench.engine.where(attempt) / "run" / "journal"
    await until(lambda: "Stopping operation" in journal.read_text(), "the engine to hear of it")
    held.release("go")

    outcome = await asyncio.wait_for(following, PATIENCE)

    assert outcome.state in (RunState.PARTIALLY_APPLIED, RunState.VERIFYING)
    assert world.truth(bench.state.document).clean
    assert bench.state.lock is None


@requirement("I4")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_provider_that_dies_leaves_something_nobody_knows(bench: Bench, world: Cloud, when: str) -> None:
    attempt, _ = await in_flight(bench, world, when)

    assert kill_plugins(attempt)
    outcome = await asyncio.wait_for(bench.follow(attempt), PATIENCE)
    world.release_all()

    assert (outcome.state, outcome.code) == (RunState.INTERRUPTED, "internal"), outcome.message
    assert "fake_database.two" in outcome.message or "fake_database.two" in [r["address"] for r in outcome.resources if not r["ok"]]
    assert [r["id"] for r in outcome.resources if r["ok"]] == [world.record[0]["object"]["id"]]
    assert bench.state.resources == ["fake_thing.one"]


async def test_what_the_cloud_refuses_is_partial_with_its_words(bench: Bench, world: Cloud) -> None:
    world.hook(op="create", name="two", do="fail", status=409)

    outcome = await bench.apply(await bench.plan("two"), "two")

    assert (outcome.state, outcome.code) == (RunState.PARTIALLY_APPLIED, "provider_error")
    assert "409" in outcome.message
    assert {r["address"]: r["ok"] for r in outcome.resources} == {"fake_thing.one": True, "fake_database.two": False}
    assert world.truth(bench.state.document).clean


@requirement("I4")
async def test_an_engine_that_is_killed_with_something_in_flight_tells_what_that_was(bench: Bench, world: Cloud) -> None:
    attempt, _ = await in_flight(bench, world, "after")

    os.kill(int((bench.engine.where(attempt) / "run" / "pid").read_text()), signal.SIGKILL)
    outcome = await asyncio.wait_for(bench.follow(attempt), PATIENCE)
    world.release_all()

    assert outcome.state is RunState.INTERRUPTED
    assert [(r["address"], r["action"], r["ok"]) for r in outcome.resources] == [
        ("fake_thing.one", "create", True),
        ("fake_database.two", "create", None),
    ]
    assert outcome.resources[0]["id"] == world.record[0]["object"]["id"]
    assert json.loads(outcome.journal.splitlines()[0])["type"] == "version"
