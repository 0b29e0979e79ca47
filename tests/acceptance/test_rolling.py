"""Workers are replaced one after the other, as an upgrade does it, in the middle of a plan and of an apply."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.installed import COMMAND, REPOSITORY, eventually
from tests.acceptance.restored import SERVERS, THREE, Machine, machine
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@contextlib.contextmanager
def second_worker(it: Machine) -> Iterator["subprocess.Popen[bytes]"]:
    """Another worker on the same data folder, which nobody supervises."""
    command = [str(COMMAND), "worker"]
    with (it.folder / "second.log").open("ab") as log:
        started = subprocess.Popen(command, env=it.it.environment, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(30)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait(10)


async def another(it: Machine, *before: int) -> int:
    """A worker that says it is ready and is none of those."""

    async def there() -> int:
        with contextlib.suppress(OSError, ValueError):
            pid = int((it.it.data / "worker.ready").read_text())
            return pid if pid not in before and Path(f"/proc/{pid}").exists() else 0
        return 0

    found: int = await eventually(there, "another worker to be ready", 120)
    return found


async def rolled(it: Machine) -> None:
    """A second worker comes, the first one is told to end and is started again, and the second one goes."""
    first = await another(it)
    with second_worker(it) as second:
        assert await another(it, first) == second.pid
        os.kill(first, signal.SIGTERM)
        await another(it, first, second.pid)


@requirement("ops:rolling-restart", "I3")
async def test_workers_replaced_in_mid_plan_and_in_mid_apply_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    async with machine(tmp_path) as it:
        await it.applied()
        it.configure(SERVERS + THREE)
        planning = it.cloud.hook(op="read", name="one", when="before")
        run_id = str(it.json("apply", "dev/servers", "--no-wait", code=None)["run"]["run_id"])
        await asyncio.to_thread(planning.reached)
        await rolled(it)
        planning.release("drop")
        await it.reaches(run_id, "awaiting_approval", patience=90)

        applying = it.cloud.hook(op="create", name="three", when="before")
        it.agree(run_id)
        await asyncio.to_thread(applying.reached)
        await rolled(it)
        applying.release("go")
        await it.reaches(run_id, "applied", patience=90)

        assert it.cloud.changes() == ["create one", "create two", "create three"]
        it.is_clean()
        assert "interrupted" not in it.it.cli("show", run_id)
