"""docs/recovery.md, walked: each section's disaster is made, and its very commands are typed."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.acceptance.installed import COMMAND, REPOSITORY, eventually, tidied
from tests.acceptance.restored import SERVERS, THREE, Machine, machine
from tests.acceptance.test_crashes import engines
from tests.fakecloud.client import Held
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
DOCUMENT = (REPOSITORY / "docs" / "recovery.md").read_text()
NO_NAMES: Mapping[str, str] = {}
NO_LOOK_UPS = {"COUNTERSIGN_TERRAFORM__UNIQUE": "{}"}


def sections() -> dict[str, list[str]]:
    """Heading → its blocks of commands."""
    parts = re.split(r"^## (.+)$", DOCUMENT, flags=re.MULTILINE)[1:]
    found = {title: re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    return {title: blocks for title, blocks in found.items() if blocks}


async def typed(it: Machine, title: str, number: int = 0, names: Mapping[str, str] = NO_NAMES) -> dict[str, str]:
    """Run a block of the document as it stands there; command → what it said. `countersign up` goes on in the background."""
    said = {}
    env = {**it.it.environment, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}", **names}
    for line in sections()[title][number].splitlines():
        if line == "countersign up":
            await it.up()
            continue
        done = await asyncio.to_thread(
            subprocess.run, ["/bin/sh", "-euc", line], env=env, cwd=it.folder, capture_output=True, text=True, timeout=120, check=False
        )
        allowed = (
            {0, 1} if line == "countersign doctor" else {0, 3, 7} if line.startswith(("countersign resume", "countersign show")) else {0}
        )
        assert done.returncode in allowed, f"{line} ended with {done.returncode}: {done.stdout}{done.stderr}"
        said[line] = done.stdout
    return said


@pytest.fixture
async def it(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    async with machine(tmp_path, **getattr(request, "param", {})) as made:
        yield made


async def lost(it: Machine, held: Held, then: str, *, everything: bool = True) -> str:
    """An apply that dies with its machine while a request is held; the run."""
    run_id = it.waiting()
    it.agree(run_id)
    await asyncio.to_thread(held.reached)
    [apply] = engines(it.it)
    if everything:
        it.it.kill_all()
    os.killpg(os.getpgid(apply), signal.SIGKILL)
    held.release(then)
    return run_id


@requirement("recovery:commands", "restore:found", "backup:whole")
async def test_a_store_restored_from_a_backup(it: Machine) -> None:
    names = {"BACKUP": str(it.folder / "b.tar"), "KEYS": str(it.folder / "k.json")}
    run_id = it.waiting()
    await typed(it, "Before anything is lost", names=names)
    it.agree(run_id)
    await it.reaches(run_id, "applied")
    it.it.stop()
    (it.it.data / "countersign.db").write_bytes(b"a disk that forgot")

    said = await typed(it, "The store is restored from a backup", names=names)

    await it.reaches(run_id, "applied")
    assert "class none" in said["countersign plan dev/servers"]
    assert it.cloud.changes() == ["create one", "create two"]
    it.is_clean()


@requirement("recovery:commands", "journal:machine-gone")
async def test_a_worker_whose_machine_is_lost(it: Machine) -> None:
    run_id = await lost(it, it.cloud.hook(op="create", name="two", when="after"), "drop")
    host = (it.it.data / "host").read_text().strip()
    (it.it.data / "host").unlink()  # another machine, with the same store
    shutil.rmtree(it.it.data / "attempts")
    await it.up()
    await it.reaches(run_id, "needs_operator", patience=240)

    await typed(it, "A worker's machine is lost", names={"RUN": run_id, "HOST": host})

    async def told() -> str:
        """Applied, or asking about what the machine's last second did not tell."""
        shown = it.it.cli("show", run_id, code=None)
        return shown if "● applied" in shown or "--exists" in shown else ""

    shown = await eventually(told, "the run to end, or to ask", 120)
    made = {line["object"]["name"]: line["object"]["id"] for line in it.cloud.record}
    if asked := set(re.findall(r"--exists fake_server\.(\w+)=", shown)):
        answers = [word for name in sorted(asked) for word in ("--exists", f"fake_server.{name}={made[name]}")]
        it.it.cli("resume", run_id, *answers, code=None)
    await it.reaches(run_id, "applied", patience=120)
    it.is_clean()
    assert it.cloud.changes() == ["create one", "create two"]


@requirement("recovery:commands")
async def test_a_temporal_whose_database_is_lost(it: Machine) -> None:
    run_id = it.waiting()
    it.it.kill_all()

    said = await typed(it, "Temporal's database is lost")

    assert run_id in "".join(said.values())
    it.agree(run_id)
    await it.reaches(run_id, "applied", patience=120)
    it.is_clean()


@requirement("recovery:commands")
async def test_keys_that_are_lost(it: Machine) -> None:
    await it.applied()
    (it.folder / "kept.tfstate").write_text(json.dumps(it.state()))
    (it.folder / "password.txt").write_text("hunter2-hunter2\n")
    it.it.cli("secret", "set", "db-password", stdin="before")
    it.it.stop()
    shutil.rmtree(it.it.data / "keys")

    await typed(it, "The keys are lost")

    it.is_clean()
    assert it.cloud.changes() == ["create one", "create two"]


@requirement("recovery:commands", "state:by-hand")
async def test_a_state_replaced_by_hand_with_the_service_down(it: Machine) -> None:
    await it.applied()
    it.it.kill_all()

    with edited(it.folder):
        said = await typed(it, "A state is replaced by hand")

    assert "by hand" in "".join(said.values())
    await it.up()
    it.is_clean()


@contextlib.contextmanager
def edited(folder: Path) -> Iterator[None]:
    """A `cp` that raises the serial: what the comment tells people to do in their editor."""
    tool = folder / "cp"
    tool.write_text('#!/bin/sh\nexec sed -E \'s/"serial": *([0-9]+)/"serial": 1\\1/\' "$1" >"$2"\n')
    tool.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


@requirement("recovery:commands", "reconcile:operator-tells")
@pytest.mark.parametrize("it", [NO_LOOK_UPS], indirect=True)
async def test_an_apply_that_never_answers(it: Machine) -> None:
    run_id = await lost(it, it.cloud.hook(op="create", name="two", when="after"), "drop")
    await it.up()
    await it.reaches(run_id, "needs_operator")
    made = next(line["object"]["id"] for line in it.cloud.record if line["object"]["name"] == "two")

    said = await typed(it, "An apply never answers", 0, names={"RUN": run_id, "ID": made})

    assert "--exists" in "".join(said.values())
    await it.reaches(run_id, "applied")
    it.configure(SERVERS + THREE)
    again = await lost(it, it.cloud.hook(op="create", name="three", when="before"), "drop")
    await it.up()
    await it.reaches(again, "needs_operator")
    await typed(it, "An apply never answers", 1, names={"RUN": again})
    await it.reaches(again, "applied")
    it.is_clean()
    assert it.cloud.changes() == ["create one", "create two", "create three"]


@requirement("recovery:commands")
async def test_a_provider_that_cannot_be_reached_while_reconciling(it: Machine) -> None:
    run_id = await lost(it, it.cloud.hook(op="create", name="two", when="after"), "drop")
    await it.cloud.kill()
    await it.up()
    await it.reaches(run_id, "needs_operator", patience=120)
    await it.cloud.start()

    await typed(it, "A provider cannot be reached while reconciling", names={"RUN": run_id})

    await it.reaches(run_id, "applied")
    it.is_clean()
    assert it.cloud.changes() == ["create one", "create two"]


@requirement("recovery:commands", "reconcile:reboot", "ops:reboot")
async def test_a_machine_that_reboots_in_mid_apply(it: Machine) -> None:
    """The next start is in a mount namespace where the kernel tells another boot id; no process of before is left."""
    run_id = await lost(it, it.cloud.hook(op="create", name="two", when="after"), "drop")
    boot = it.folder / "boot_id"
    boot.write_text("11111111-2222-4333-8444-555555555555\n")
    it.it.prefix = ("unshare", "--mount", "/bin/sh", "-c", f'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec "$@"', "sh")

    await typed(it, "The machine reboots in mid-apply", names={"RUN": run_id})

    await it.reaches(run_id, "applied")
    with contextlib.closing(sqlite3.connect(it.it.data / "countersign.db")) as store:
        boots = {row[0] for row in store.execute("SELECT boot_id FROM attempts")}
    assert len(boots) == 2
    assert "11111111-2222-4333-8444-555555555555" in boots
    it.is_clean()
    assert it.cloud.changes() == ["create one", "create two"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A data folder on a disk of its own; mounting one takes root."""
    data = tmp_path / "data"
    data.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m,mode=700", "tmpfs", str(data)], check=True)
    try:
        yield data
    finally:
        subprocess.run(["umount", "-l", str(data)], check=False)


def _filled(fd: int, disk: Path) -> None:
    """Take what is free, however much others write meanwhile."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            os.posix_fallocate(fd, 0, shutil.disk_usage(disk).free)
            return
    raise AssertionError("the disk cannot be filled")


@requirement("recovery:commands", "bad:disk-full")
async def test_a_disk_that_is_full(tmp_path: Path, small: Path) -> None:
    async with machine(tmp_path) as it:
        run_id = it.waiting()
        await tidied(small)  # what goes later is room again
        ballast = small / "ballast"
        with ballast.open("wb") as file:
            _filled(file.fileno(), small)
        answer = it.json("approve", run_id, "--digest", str(it.run(run_id)["plan_digest"]), "--no-wait", code=None)
        said = await typed(it, "The disk is full", 0)
        assert "free at least 1 GiB" in "".join(said.values())
        assert it.cloud.changes() == []
        ballast.unlink()
        if "error" in answer:
            assert answer["error"]["retryable"], answer
            again = it.json("approve", run_id, "--digest", str(it.run(run_id)["plan_digest"]), "--no-wait", code=None)
            # The first one may have been on its way, and have come through as soon as there was room.
            assert "error" not in again or again["error"]["message"].startswith("the run waits for no decision"), again
        await it.reaches(run_id, "applied")
        await typed(it, "The disk is full", 1, names={"RUN": run_id})
        it.is_clean()
        assert it.cloud.changes() == ["create one", "create two"]


def test_every_block_of_the_document_is_walked() -> None:
    source = Path(__file__).read_text()
    for title, blocks in sections().items():
        for number in range(len(blocks)):
            assert re.search(rf'typed\(it, "{re.escape(title)}"{f", {number}" if len(blocks) > 1 else ""}', source), (
                f"{title}, block {number + 1}"
            )
