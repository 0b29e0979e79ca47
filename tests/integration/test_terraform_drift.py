"""Drift, imports, moves and what is forgotten, by both engines and a provider that can be asked what really happened."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from countersign.core.plan import ChangeClass, Counts
from countersign.core.run import Mode, RunState
from tests.fakecloud.client import Cloud, cloud
from tests.fakecloud.mirror import ENVIRONMENT, write_mirror
from tests.fakecloud.provider import VERSION
from tests.integration.processes import leaves_no_process
from tests.integration.terraform_bench import Bench, bench, holding, texts
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio

REQUIRED = (
    'terraform {\n  required_providers {\n    fake = {\n      source  = "fake.test/countersign/fake"\n'
    f'      version = "{VERSION}"\n    }}\n  }}\n}}\n'
)
ONE = 'resource "fake_thing" "one" {\n  name   = "one"\n  size   = 1\n  secret = "hush-hush-hush"\n}\n'
TWO = 'resource "fake_database" "two" {\n  name = "two"\n}\n'
MOVED = "moved {\n  from = fake_thing.one\n  to   = fake_thing.first\n}\n"
REMOVED = "removed {\n  from = fake_database.two\n  lifecycle {\n    destroy = false\n  }\n}\n"


@pytest.fixture
async def world(tmp_path: Path, bench: Bench) -> AsyncIterator[Cloud]:
    lock = write_mirror(tmp_path / "mirror")
    bench.write("stack", main_tf=REQUIRED + ONE + TWO)
    (bench.stacks / "stack" / ".terraform.lock.hcl").write_text(lock)
    async with cloud(tmp_path) as running:
        bench.use(
            mirror=tmp_path / "mirror",
            allowed_providers=("fake.test/countersign/*",),
            environment={"FAKE_CLOUD": running.address, **ENVIRONMENT},
        )
        yield running


@requirement("drift:found")
async def test_drift_is_told_by_address_without_lock_write_or_secret(bench: Bench, world: Cloud) -> None:
    await bench.applied("stack")
    one = world.record[0]["object"] if world.record[0]["object"]["name"] == "one" else world.record[1]["object"]
    await asyncio.to_thread(world.connection.update, one["id"], {**one["attributes"], "size": 9, "secret": "another-hush-hush"})
    bench.state.requests.clear()
    spy = bench.spied()
    found = await bench.plan("stack", Mode.DRIFT)
    again = await bench.plan("stack", Mode.DRIFT)

    assert (found.plan.counts, found.plan.change_class) == (Counts(update=1), ChangeClass.UPDATE)
    assert [(c.address, c.action) for c in found.plan.changes] == [("fake_thing.one", "update")]
    assert found.plan.risks[0].startswith("Changed outside of this stack;")
    assert [holding(texts(found), secret) for secret in ("hush-hush-hush", "another-hush-hush")] == [[], []]
    assert found.plan.semantic_digest == again.plan.semantic_digest
    assert set(bench.state.requests) == {"GET"}
    assert not found.adoptable
    assert spy.commands[-2:] == ["plan", "show"]


async def test_without_drift_there_is_none(bench: Bench, world: Cloud) -> None:
    await bench.applied("stack")
    found = await bench.plan("stack", Mode.DRIFT)

    assert (found.plan.changes_anything, found.plan.risks) == (False, ())


@requirement("import:a-run")
async def test_what_exists_is_imported_and_the_bundle_says_so(bench: Bench, world: Cloud) -> None:
    attributes = {"size": 1, "secret": "hush-hush-hush"}
    made = await asyncio.to_thread(lambda: world.connection.create(type="fake_thing", project="default", name="one", attributes=attributes))
    planned = await bench.plan("stack", imports={"fake_thing.one": made["id"]})
    outcome = await bench.apply(planned, "stack")

    assert planned.plan.counts == Counts(create=1, imported=1)
    assert list(planned.inputs["files_made"]) == ["countersign_import.tf"]  # type: ignore[call-overload]
    assert outcome.state is RunState.VERIFYING, outcome.message
    assert world.truth(bench.state.document).clean
    assert not (await bench.plan("stack")).plan.changes_anything


async def test_moves_and_what_is_forgotten_are_planned_classed_and_applied(bench: Bench, world: Cloud) -> None:
    await bench.applied("stack")
    before = world.changes()
    bench.write("stack", main_tf=REQUIRED + ONE.replace('"one" {', '"first" {') + MOVED + REMOVED)
    planned = await bench.plan("stack")
    outcome = await bench.apply(planned, "stack")

    assert (planned.plan.counts, planned.plan.change_class) == (Counts(moved=1, forgotten=1), ChangeClass.FORGET)
    assert "Left behind, running and unmanaged: fake_database.two." in planned.plan.risks
    assert outcome.state is RunState.VERIFYING, (outcome.message, outcome.evidence)
    assert bench.state.resources == ["fake_thing.first"]
    assert world.changes() == before
    assert json.loads(planned.view)["changes"][1]["previous_address"] == "fake_thing.one"
