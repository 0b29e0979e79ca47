"""The real engine on the state service: what it stores, what it is told when it is fenced, and how that is made good."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from countersign.adapters.process import supervise
from countersign.adapters.settings import Settings
from countersign.adapters.store import state
from countersign.adapters.terraform.environment import child_environment, write_cli_config
from countersign.adapters.terraform.executable import resolve
from countersign.core.engine import StateAccess
from countersign.core.terraform.state import read
from tests.integration.state_service import ORG, PATIENCE, Attempt, Lab, lab
from tests.requirements import requirement

pytestmark = pytest.mark.anyio

PLAIN = """
terraform {
  backend "http" {}
}
resource "terraform_data" "one" {
  input = { name = "one", token = "a-token-nobody-may-read" }
}
resource "terraform_data" "each" {
  for_each = toset(["a b", "c\\"d$${e}", "f\\nü"])
  input    = each.key
}
module "inner" {
  source = "./inner"
  count  = 2
}
"""
INNER = """
resource "terraform_data" "two" {
  input = sensitive("a-value-marked-sensitive")
}
"""
# Tells the test that it was reached, and goes on when it is told: by named pipes, so nobody sleeps.
GATED = """
terraform {
  backend "http" {}
}
resource "terraform_data" "before" {}
resource "terraform_data" "gate" {
  depends_on = [terraform_data.before]
  provisioner "local-exec" {
    command = "echo here > reached; read answer < go"
  }
}
"""


@dataclass
class Terraform:
    """The engine in one work directory, as one attempt."""

    folder: Path
    argv: tuple[str, ...]

    async def run(self, attempt: Attempt, *arguments: str) -> tuple[int, str]:
        """(exit code, everything it said)"""
        access = StateAccess(address=attempt.address, username=attempt.id, password=attempt.password, lineage=None, serial=0)
        write_cli_config(self.folder.parent / "cli.tfrc", mirror=None)
        environment = child_environment(
            attempt=attempt.id,
            home=self.folder,
            temporary=self.folder,
            search_path=Settings.model_fields["search_path"].default,
            cli_config=self.folder.parent / "cli.tfrc",
            passed={},
            credential={},
            state=access,
        )

        async def ignored(lines: list[bytes]) -> None:
            pass

        async with asyncio.timeout(2 * PATIENCE):
            ended = await supervise(
                [*self.argv, *arguments], cwd=self.folder, env=environment, folder=self.folder.parent, on_lines=ignored, read=False
            )
        return ended.code, ended.out.decode() + ended.errors

    async def does(self, attempt: Attempt, *arguments: str) -> str:
        code, said = await self.run(attempt, *arguments)
        assert code == 0, said
        return said


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Lab]:
    (tmp_path / "data").mkdir()
    async with lab(tmp_path / "data") as running:
        yield running


def terraform(folder: Path, **files: str) -> Terraform:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.tf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = resolve("terraform", configured=None, search_path=Settings.model_fields["search_path"].default)
    return Terraform(folder=folder, argv=found.prefix)


async def stored(it: Lab) -> bytes:
    async with it.store.read() as conn:
        newest = await state.snapshot(conn, ORG, it.stack_id)
        assert newest is not None
        return await it.artifacts.read(conn, org=ORG, artifact_id=newest.artifact_id)


async def test_terraform_stores_its_state_here_and_unlocks(it: Lab, tmp_path: Path) -> None:
    engine, applying = terraform(tmp_path / "work", main=PLAIN, inner__main=INNER), await it.attempt()
    await engine.does(applying, "init", "-input=false", "-no-color")

    await engine.does(applying, "apply", "-auto-approve", "-input=false", "-no-color")

    head = await it.head()
    assert head.lock is None
    assert (head.serial > 0, head.seq > 0) == (True, True)
    assert [done for _, done in await it.journal()] == ["lock", "unlock"]
    planning = await it.attempt("plan")
    code, said = await engine.run(planning, "plan", "-detailed-exitcode", "-input=false", "-no-color")
    assert code == 0, said


async def test_addresses_are_those_of_terraforms_own_list_and_secrets_are_hidden(it: Lab, tmp_path: Path) -> None:
    engine, applying = terraform(tmp_path / "work", main=PLAIN, inner__main=INNER), await it.attempt()
    await engine.does(applying, "init", "-input=false", "-no-color")
    await engine.does(applying, "apply", "-auto-approve", "-input=false", "-no-color")

    document = read(await stored(it))
    listed = (await engine.does(await it.attempt("read"), "state", "list")).splitlines()

    assert sorted(i.address for i in document.instances) == sorted(listed)
    shown = json.dumps([document.resource(address) for address in listed])
    assert "a-token-nobody-may-read" not in shown
    assert "a-value-marked-sensitive" not in shown


async def test_a_second_apply_waits_for_the_lock_and_is_told_who_holds_it(it: Lab, tmp_path: Path) -> None:
    engine = terraform(tmp_path / "work", main=PLAIN, inner__main=INNER)
    holder = await it.attempt()
    await engine.does(holder, "init", "-input=false", "-no-color")
    await holder.lock({"ID": "the-holders-lock", "Who": "ana@host", "Created": "2026-01-01T00:00:00Z"})

    code, said = await engine.run(await it.attempt(claims=False), "apply", "-auto-approve", "-input=false", "-no-color")

    assert code == 1
    assert "the-holders-lock" in said


async def test_a_planner_cannot_apply(it: Lab, tmp_path: Path) -> None:
    engine, planning = terraform(tmp_path / "work", main=PLAIN, inner__main=INNER), await it.attempt("plan")
    await engine.does(planning, "init", "-input=false", "-no-color")

    code, said = await engine.run(planning, "apply", "-auto-approve", "-input=false", "-no-color")

    assert code == 1
    assert "Failed to save state" in said
    assert await it.serials() == []


@requirement("I2", "I5", "promise:one-writer")
async def test_a_fenced_terraform_is_refused_and_keeps_what_it_did_for_the_next_attempt(it: Lab, tmp_path: Path) -> None:
    engine, zombie = terraform(tmp_path / "work", main=GATED), await it.attempt(is_open=True)
    await engine.does(zombie, "init", "-input=false", "-no-color")
    with pipes(engine.folder) as (reached, go):
        applying = asyncio.create_task(engine.run(zombie, "apply", "-auto-approve", "-input=false", "-no-color"))
        await readable(reached, applying)

        await it.fence()
        os.write(go, b"on\n")
        code, said = await applying

    assert code == 1
    assert "invalid auth" in said
    assert await it.serials() == []
    kept = json.loads((engine.folder / "errored.tfstate").read_bytes())
    assert sorted(resource["name"] for resource in kept["resources"]) == ["before", "gate"]

    # Fenced and dead: its lock is ours to release, and what it did is pushed by an attempt of the new epoch.
    assert await it.release(zombie)
    reconciling = await it.attempt(claims=False)
    await engine.does(reconciling, "state", "push", "errored.tfstate")
    code, said = await engine.run(reconciling, "plan", "-detailed-exitcode", "-input=false", "-no-color")
    assert code == 0, said
    assert (await it.head()).lock is None


@contextlib.contextmanager
def pipes(folder: Path) -> Iterator[tuple[int, int]]:
    """Two named pipes, both ends open here, so that neither side ever waits for the other to come."""
    opened = []
    for name in ("reached", "go"):
        os.mkfifo(folder / name)
        opened.append(os.open(folder / name, os.O_RDWR | os.O_NONBLOCK))
    try:
        yield opened[0], opened[1]
    finally:
        for fd in opened:
            os.close(fd)


async def readable(fd: int, running: asyncio.Task[tuple[int, str]]) -> None:
    """Wait until somebody wrote into the pipe; fails at once where the engine ended before."""
    there = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, there.set)
    waiting = asyncio.create_task(there.wait())
    try:
        await asyncio.wait({waiting, running}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert there.is_set(), running.result() if running.done() else "terraform did not reach the gate"
    finally:
        asyncio.get_running_loop().remove_reader(fd)
        waiting.cancel()
