"""What was in flight when an apply was lost: on a cloud that counts the truth, with a look-up and without one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.adapters.store.reconciled import Found, tell_found
from countersign.adapters.terraform.looking import Unique
from countersign.core.run import RunState
from tests.fakecloud.client import Cloud, Held, cloud, kill_plugins, provider
from tests.fakecloud.mirror import ENVIRONMENT, write_mirror
from tests.fakecloud.provider import ADDRESS
from tests.fakecloud.raw import REQUIRED
from tests.integration.lost_applies import Lost, lost
from tests.integration.processes import until
from tests.requirements import requirement
from tests.service import ANA, temporal_server

pytestmark = pytest.mark.anyio
S = RunState

BY_NAME = {"fake_server": Unique(id="{project}/{name}", made="created_at")}
SERVERS = (
    REQUIRED
    + """
variable "world" {
  type = string
}
resource "fake_server" "one" {
  name   = "one"
  secret = "hush-hush-hush"
}
resource "fake_server" "two" {
  name = "two"
  size = length(fake_server.one.id)
}
resource "fake_server" "three" {
  name = "three"
  kind = "a"
  size = length(fake_server.two.id)
}
"""
)


@dataclass
class InTheCloud:
    lost: Lost
    cloud: Cloud

    async def killed(self, held: Held, then: str) -> str:
        """An apply of three servers, killed at the held request, which then goes on or is dropped; the run."""
        run = await self.lost.applying()
        await asyncio.to_thread(held.reached)
        await self.lost.kill(run)
        held.release(then)
        return run.id

    async def is_clean(self) -> None:
        truth = self.cloud.truth(await self.lost.document())
        assert (truth.duplicates, truth.lost, truth.orphans) == ([], [], [])
        await self.lost.is_settled()


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@contextlib.asynccontextmanager
async def in_the_cloud(client: Client, folder: Path, unique: dict[str, Unique]) -> AsyncIterator[InTheCloud]:
    (folder / "cloud").mkdir()
    async with cloud(folder / "cloud") as world, provider(world) as fake:
        options = {"unique": unique, "allowed_providers": (ADDRESS,), "environment": {"TF_REATTACH_PROVIDERS": fake.reattach}}
        async with lost(client, folder, engine=options) as service:
            service.configure(SERVERS)
            yield InTheCloud(service, world)


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[InTheCloud]:
    async with in_the_cloud(client, tmp_path, BY_NAME) as running:
        yield running


@requirement("reconcile:look-up", "promise:crash-costs-nothing")
@pytest.mark.parametrize(
    ("name", "when", "then"),
    [
        ("one", "before", "drop"),  # never asked
        ("two", "before", "go"),  # made when nobody listened any more
        ("three", "after", "drop"),  # made, and the answer was lost
    ],
)
async def test_an_object_that_was_in_flight_is_looked_up_and_neither_lost_nor_made_twice(
    it: InTheCloud, name: str, when: str, then: str
) -> None:
    run_id = await it.killed(it.cloud.hook(op="create", name=name, when=when), then)

    await it.lost.it.reaches(run_id, S.APPLIED)

    assert it.cloud.changes() == ["create one", "create two", "create three"]
    await it.is_clean()


@requirement("reconcile:look-up", "reconcile:replacing")
@pytest.mark.parametrize(("op", "when", "then"), [("delete", "after", "drop"), ("create", "before", "drop"), ("create", "after", "drop")])
async def test_a_replacement_in_flight_ends_with_one_object(it: InTheCloud, op: str, when: str, then: str) -> None:
    await it.lost.applied()
    it.lost.configure(SERVERS.replace('kind = "a"', 'kind = "b"'))
    run_id = await it.killed(it.cloud.hook(op=op, name="three", when=when), then)

    await it.lost.it.reaches(run_id, S.APPLIED)

    assert it.cloud.changes()[3:] == ["delete three", "create three"]
    await it.is_clean()


@requirement("reconcile:destroying")
@pytest.mark.parametrize("name", ["two", "one"])
async def test_a_deletion_in_flight_is_finished(it: InTheCloud, name: str) -> None:
    await it.lost.applied()
    held = it.cloud.hook(op="delete", name=name, when="after")
    run = await it.lost.applying(tool="destroy_terraform")
    await asyncio.to_thread(held.reached)
    await it.lost.kill(run)
    held.release("drop")

    await it.lost.it.reaches(run.id, S.APPLIED)

    assert it.cloud.changes()[3:] == ["delete three", "delete two", "delete one"]
    assert it.cloud.truth(await it.lost.document()).clean


@requirement("reconcile:unstored-state")
async def test_an_update_that_was_the_last_thing_in_flight_is_in_the_state_afterwards(it: InTheCloud) -> None:
    await it.lost.applied()
    it.lost.configure(SERVERS.replace('name = "three"', 'name = "three"\n  labels = { by = "hand" }'))
    run_id = await it.killed(it.cloud.hook(op="update", name="three", when="after"), "drop")

    await it.lost.it.reaches(run_id, S.APPLIED)

    assert it.cloud.changes()[3:] == ["update three"]
    [three] = [r for r in (await it.lost.document())["resources"] if r["name"] == "three"]
    assert three["instances"][0]["attributes"]["labels"] == {"by": "hand"}
    await it.is_clean()


@requirement("reconcile:look-up", "I4")
async def test_what_a_provider_was_making_when_it_died_is_looked_up(client: Client, tmp_path: Path) -> None:
    """The provider is a package that Terraform installs and starts: it dies alone, and Terraform ends by itself."""
    lock = write_mirror(tmp_path / "mirror")
    (tmp_path / "cloud").mkdir()
    async with cloud(tmp_path / "cloud") as world:
        environment = {"FAKE_CLOUD": world.address, **ENVIRONMENT}
        options = {"unique": BY_NAME, "allowed_providers": (ADDRESS,), "mirror": tmp_path / "mirror", "environment": environment}
        async with lost(client, tmp_path, engine=options) as service:
            it = InTheCloud(service, world)
            service.configure(SERVERS)
            (tmp_path / "stacks" / "demo" / ".terraform.lock.hcl").write_text(lock)
            held = world.hook(op="create", name="two", when="after")
            run = await service.applying()
            await asyncio.to_thread(held.reached)
            [attempt] = await service.attempts(run)
            assert len(kill_plugins(attempt.id)) == 1
            held.release("drop")

            await service.it.reaches(run.id, S.APPLIED)

            assert world.changes() == ["create one", "create two", "create three"]
            assert len({line["by"] for line in world.record}) == 2, "one attempt made two of them, and another the third"
            await it.is_clean()


@requirement("reconcile:unknown-object", "reconcile:operator-tells")
async def test_without_a_look_up_nobody_guesses_and_an_operator_is_told_exactly_what_to_look_for(client: Client, tmp_path: Path) -> None:
    async with in_the_cloud(client, tmp_path, {}) as it:
        run_id = await it.killed(it.cloud.hook(op="create", name="two", when="after"), "drop")

        stopped = await it.lost.it.reaches(run_id, S.NEEDS_OPERATOR)

        assert (stopped.reason or "").splitlines()[1:] == [
            "fake_server.two: its creation may have been under way, and there is no look-up for fake_server. "
            "Look for it in the cloud, then tell the run: the first line if exactly one exists, else the second.",
            f"    countersign resume {run_id} --exists fake_server.two=ID",
            f"    countersign resume {run_id} --absent fake_server.two",
            "Then let the run look again:",
            f"    countersign resume {run_id}",
        ]
        assert it.cloud.changes() == ["create one", "create two"]
        [two] = [o for o in it.cloud.record if o["object"]["name"] == "two"]
        found = Found(exists={"fake_server.two": two["object"]["id"]}, missing=frozenset())
        await tell_found(it.lost.it.store, org=it.lost.it.org, run_id=run_id, found=found, by=ANA)
        await it.lost.it.runs.resume(run_id, ANA.id)
        await it.lost.it.reaches(run_id, S.APPLIED)
        assert it.cloud.changes() == ["create one", "create two", "create three"]
        await it.is_clean()


@requirement("reconcile:reboot", "promise:crash-costs-nothing")
async def test_after_a_reboot_everything_the_journal_does_not_tell_is_looked_up(it: InTheCloud) -> None:
    held = it.cloud.hook(op="create", name="two", when="after")
    run = await it.lost.applying()
    await asyncio.to_thread(held.reached)
    await it.lost.booted_since(run)
    await it.lost.kill(run)
    held.release("drop")

    await it.lost.it.reaches(run.id, S.APPLIED)

    assert it.cloud.changes() == ["create one", "create two", "create three"]
    await it.is_clean()


@requirement("reconcile:look-up")
async def test_an_object_that_was_there_before_is_not_taken_for_our_own(it: InTheCloud) -> None:
    """Whoever made it, this run did not: what it then does is what it would have done without a crash."""
    old = it.cloud.connection.create(type="fake_server", project="default", name="two", attributes={})
    assert old["created_at"]
    run_id = await it.killed(it.cloud.hook(op="create", name="two", when="before"), "drop")

    stopped = await it.lost.it.reaches(run_id, S.NEEDS_OPERATOR)

    assert "one of which nobody knows when it was made" in (stopped.reason or ""), "minutes apart, clocks may differ"
    await until(lambda: it.cloud.changes() == ["create two", "create one"], "nothing more to be made")


@requirement("reconcile:look-up", "reconcile:unknown-object")
async def test_of_several_in_flight_only_the_one_that_nobody_can_tell_is_an_operators(it: InTheCloud) -> None:
    servers = "".join(f'resource "fake_server" "{name}" {{\n  name = "{name}"\n}}\n' for name in ("absent", "made", "twice"))
    it.lost.configure(REQUIRED + 'variable "world" {\n  type = string\n}\n' + servers)
    held = [it.cloud.hook(op="create", name=name, when="before") for name in ("absent", "made", "twice")]
    run = await it.lost.applying()
    for one in held:
        await asyncio.to_thread(one.reached)
    for name in ("made", "twice", "twice"):  # the hooks hold each only once
        it.cloud.connection.create(type="fake_server", project="default", name=name, attributes={})
    await it.lost.kill(run)
    for one in held:
        one.release("drop")

    stopped = await it.lost.it.reaches(run.id, S.NEEDS_OPERATOR)

    assert [line for line in (stopped.reason or "").splitlines() if line.startswith("    ")] == [
        f"    countersign resume {run.id} --exists fake_server.twice=ID",
        f"    countersign resume {run.id} --absent fake_server.twice",
        f"    countersign resume {run.id}",
    ]
    assert "fake_server.twice: its creation may have been under way, and it could not be looked up." in (stopped.reason or "")
