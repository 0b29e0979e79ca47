"""What core says about a lost apply, against the real engine: its imports work, its plans are proven, and the cloud agrees.

No activity and no workflow here: an apply is killed at a point of the fake cloud, and the steps of reconciling are done by hand.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from countersign.core.reconcile import Proof
from countersign.core.terraform import document as doc
from countersign.core.terraform import state
from countersign.core.terraform.imports import FILE, import_blocks
from countersign.core.terraform.operations import AttemptJournal, attempt_of
from countersign.core.terraform.salvage import BOTH, Hit, Rules, Salvage, fold
from countersign.core.terraform.subset import prove
from tests.fakecloud.client import Cloud, Held, cloud, provider
from tests.fakecloud.raw import Raw, kill_group, raw
from tests.integration.fake_state import FakeState, fake_state
from tests.integration.processes import until
from tests.requirements import requirement

pytestmark = pytest.mark.anyio

BACKEND = 'terraform {\n  backend "http" {}\n}\n'
FIRST = """
resource "fake_thing" "first" {
  name = "first"
  kind = "KIND"
  lifecycle {
    create_before_destroy = true
  }
}
"""
KEPT = """
resource "fake_thing" "replaced" {
  name   = "replaced"
  kind   = "KIND"
  secret = "hush-hush-hush"
}
resource "fake_thing" "updated" {
  name = "updated"
  size = length("KIND")
}
resource "terraform_data" "inert" {
  input            = fake_thing.replaced.id
  triggers_replace = "KIND"
}
"""
BEFORE = KEPT.replace("KIND", "a") + 'resource "fake_thing" "gone" {\n  name = "gone"\n}\n'
AFTER = (
    KEPT.replace("KIND", "bb")
    + """
resource "fake_thing" "made" {
  for_each = toset(["x", "y $${z}\\"q"])
  name     = "made-${length(each.key)}"
  labels   = { key = each.key }
}
resource "fake_thing" "late" {
  name = "late"
  size = length(fake_thing.replaced.id)
  provisioner "local-exec" {
    command = "exit 0"
  }
}
output "id" {
  value = fake_thing.replaced.id
}
output "secret" {
  value     = fake_thing.replaced.secret
  sensitive = true
}
"""
)
RULES = Rules(unique={"fake_*": ("name", "project")})
MARKER = "att_1"
SINCE_ENDED = timedelta(minutes=1)


@dataclass
class Lab:
    """A stack with something to change, and what reconciling does about it."""

    world: Cloud
    engine: Raw
    service: FakeState
    approved: doc.Mapping[str, object] = field(default_factory=dict)
    since: datetime = datetime.min
    attempts: list[AttemptJournal] = field(default_factory=list)

    async def approve(self, before: str = BEFORE, after: str = AFTER) -> None:
        """Apply `before`, if anything, and let people approve the plan of `after`."""
        if before:
            self.engine.configure(BACKEND + before)
            await self.engine.applied()
        self.engine.configure(BACKEND + after)
        self.approved = await self.plan()
        self.since = datetime.now(UTC)

    async def plan(self, *flags: str) -> doc.Mapping[str, object]:
        await self.engine.planned(*flags)
        return doc.parse(await self.engine.run("show", "-json", "saved.plan"))

    async def lose(
        self, held: Held, plan: doc.Mapping[str, object], *, then: str, whole: bool = True, absent: frozenset[str] = frozenset()
    ) -> None:
        """Apply, and die when the cloud is reached; a journal that is not whole has nothing of what was begun.

        One operation at a time: nothing but what is held is in flight.
        """
        path = self.engine.folder.parent / f"journal-{len(self.attempts)}"
        with path.open("wb") as out:
            argv = (*self.engine.argv, "apply", "-json", "-input=false", "-parallelism=1", "saved.plan")
            applying = await asyncio.create_subprocess_exec(
                *argv, cwd=self.engine.folder, env=self.engine.environment, stdout=out, start_new_session=True
            )
        await asyncio.to_thread(held.reached)
        await kill_group(applying)
        known = len(self.world.record)
        held.release(then)
        if then == "go":
            await until(lambda: len(self.world.record) > known, "the cloud to finish what it began")
        journal = path.read_bytes()
        if not whole:
            journal = journal[: journal.index(b"apply_start")]
        attempt_id = str(len(self.attempts))
        self.attempts.append(attempt_of(plan, self.approved, attempt_id=attempt_id, journal=journal, whole=whole, absent=absent))

    def salvage(self) -> Salvage:
        now = state.read(self.service.state) if self.service.state else None
        found = fold(self.attempts, self.approved, now, rules=RULES)
        for need in found.look_ups:
            assert need.look_up is not None
            objects = self.world.connection.lookup(type=need.look_up.type, **need.look_up.unique)
            hits = [Hit(id=o["id"], made_at=datetime.fromisoformat(o["created_at"]), label=o["marker"]) for o in objects]
            found = found.settled(need.address, hits, since=self.since, label=MARKER)
        return found

    async def planned_again(self, salvage: Salvage) -> tuple[doc.Mapping[str, object], Proof]:
        for address in salvage.removals:
            await self.engine.run("state", "rm", address)
        file = self.engine.folder / FILE
        file.write_text(import_blocks(salvage.imports))
        new = await self.plan(*(f"-replace={address}" for address in salvage.replaces))
        file.unlink()
        return new, prove(self.approved, new, salvage, age=SINCE_ENDED)

    def engine_id(self, name: str) -> str:
        [found] = [r for r in self.service.document["resources"] if r["name"] == name]
        return str(found["instances"][0]["attributes"]["id"])

    async def finish(self) -> None:
        """Apply what was planned; nothing is left to do, and the cloud has what the state has."""
        await self.engine.run("apply", "-input=false", "saved.plan")
        await self.engine.run("plan", "-input=false", "-detailed-exitcode")
        assert self.world.truth(self.service.document).clean


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with (
        cloud(tmp_path) as world,
        provider(world, marker=MARKER) as fake,
        raw(tmp_path, BACKEND + BEFORE, {"TF_REATTACH_PROVIDERS": fake.reattach}) as engine,
    ):
        with fake_state() as service:
            engine.environment |= {"TF_HTTP_ADDRESS": service.address, "TF_HTTP_USERNAME": "att", "TF_HTTP_PASSWORD": service.password}
            await engine.run("init", "-input=false")
            yield Lab(world=world, engine=engine, service=service)


@requirement("promise:crash-costs-nothing")
@pytest.mark.parametrize(
    ("op", "name", "when", "then", "whole"),
    [
        ("create", "replaced", "before", "go", True),
        ("create", "replaced", "after", "drop", False),
        ("create", "made-1", "after", "drop", True),
        ("create", "late", "before", "drop", False),
        ("create", "late", "after", "drop", True),
        ("delete", "replaced", "before", "go", True),
        ("delete", "gone", "before", "drop", False),
        ("update", "updated", "after", "drop", True),
    ],
)
async def test_an_apply_killed_here_is_finished_under_its_own_approval(
    op: str, name: str, when: str, then: str, whole: bool, lab: Lab
) -> None:
    await lab.approve()
    await lab.lose(lab.world.hook(op=op, name=name, when=when), lab.approved, then=then, whole=whole)

    salvage = lab.salvage()
    _, proof = await lab.planned_again(salvage)

    assert salvage.stops == ()
    assert proof.refused == ()
    assert proof.ok
    await lab.finish()


@pytest.mark.parametrize(
    ("op", "when", "alone"),
    [("create", "before", True), ("create", "after", False), ("delete", "before", False), ("delete", "after", True)],
)
async def test_of_a_create_first_only_one_of_two_living_objects_can_be_kept(op: str, when: str, alone: bool, lab: Lab) -> None:
    await lab.approve(FIRST.replace("KIND", "a"), FIRST.replace("KIND", "b"))
    await lab.lose(lab.world.hook(op=op, when=when), lab.approved, then="drop")

    salvage = lab.salvage()

    assert [stop.reason for stop in salvage.stops] == ([] if alone else [BOTH])
    if alone:
        _, proof = await lab.planned_again(salvage)
        assert proof.ok
        await lab.finish()


async def test_a_first_apply_that_stored_nothing_is_finished_and_so_is_its_second_crash(lab: Lab) -> None:
    await lab.approve(before="")
    await lab.lose(lab.world.hook(op="create", name="replaced"), lab.approved, then="drop")
    first = lab.salvage()
    again, proof = await lab.planned_again(first)
    assert proof.ok
    await lab.lose(lab.world.hook(op="create", name="late", when="after"), again, then="drop", absent=first.absent)

    second = lab.salvage()
    _, proof = await lab.planned_again(second)

    assert "fake_thing.replaced" in first.absent
    assert {"fake_thing.replaced", "fake_thing.late"} <= set(second.imports)
    assert "fake_thing.late" in second.replaces  # nobody saw its provisioner end
    assert proof.refused == ()
    await lab.finish()


@requirement("promise:approved-is-what-runs")
async def test_what_somebody_else_changed_meanwhile_is_not_proven(lab: Lab) -> None:
    kept = 'resource "fake_thing" "gone" {\n  name = "gone"\n}\n'
    await lab.approve(after=AFTER + kept)
    gone = lab.engine_id("gone")
    await lab.lose(lab.world.hook(op="delete", name="replaced"), lab.approved, then="drop")
    lab.world.connection.update(gone, {"size": 99})

    _, proof = await lab.planned_again(lab.salvage())

    assert "fake_thing.gone: changed outside of this run (update)" in proof.refused
    assert any(line.startswith("fake_thing.gone: update was not approved") for line in proof.refused)
