"""What tests start and ask: a cloud and a provider as processes, hooks that hold them up, and the truth afterwards.

async with cloud(folder) as world, provider(folder, world) as reattach:
    held = world.hook(op="create", name="two", when="before")
    ...                                # start an apply with {"TF_REATTACH_PROVIDERS": reattach}
    held.reached()                     # "two" is in flight now: kill somebody
    held.release("drop")               # its request was lost; "go" finishes it
    assert world.truth(state).clean
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakecloud.calls import CloudError, Connection
from tests.fakecloud.world import live, read_record

ROOT = Path(__file__).parents[2]
PATIENCE = 20.0  # seconds; every wait is bounded


@dataclass(frozen=True, kw_only=True)
class Held:
    """A hook that was set."""

    connection: Connection
    id: int

    def reached(self, seconds: float = PATIENCE) -> None:
        """Wait until a request is held up by it."""
        _, told = self.connection.call("GET", f"/hooks/{self.id}?wait={seconds}")
        assert told["reached"], f"no request came to hook {self.id} within {seconds} s"

    def release(self, then: str = "go") -> None:
        """ "go": the cloud finishes what it was asked for; "drop": it was never asked, or its answer was lost."""
        self.connection.call("POST", f"/hooks/{self.id}/release", {"then": then})


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The world against a state. All empty where nothing was duplicated, lost or left behind."""

    duplicates: list[str]  # type/project/name of which more than one lives, once for each that is too many
    lost: list[str]  # ids that the state has and the world has not
    orphans: list[str]  # type/project/name of what lives and no state knows

    @property
    def clean(self) -> bool:
        return not (self.duplicates or self.lost or self.orphans)


@dataclass
class Cloud:
    folder: Path
    address: str = ""
    process: asyncio.subprocess.Process | None = None
    arguments: tuple[str, ...] = field(default=())

    @property
    def record_file(self) -> Path:
        return self.folder / "record.ndjson"

    @property
    def connection(self) -> Connection:
        return Connection(address=self.address, marker="the test")

    async def start(self) -> None:
        """Also after a kill: on the same port, with the objects it had."""
        ready = self.folder / "cloud.address"
        ready.unlink(missing_ok=True)
        port = self.address.rpartition(":")[2] or "0"
        argv = ["-m", "tests.fakecloud.cloud", "--record", str(self.record_file), "--ready", str(ready), "--port", port, *self.arguments]
        self.process = await _python(argv, {})
        self.address = await _written(ready, self.process)

    async def kill(self) -> None:
        await end(self.process)

    def hook(self, **what: Any) -> Held:
        """Hold up what fits: `op`, `type`, `name` (globs), `when`, `do`, `times`, … of `hooks.Hook`."""
        status, told = self.connection.call("POST", "/hooks", what)
        assert status == 201, told
        return Held(connection=self.connection, id=told["id"])

    def release_all(self) -> None:
        self.connection.call("DELETE", "/hooks")

    @property
    def record(self) -> list[dict[str, Any]]:
        """Every change, in order; read from its file, so also of a dead cloud."""
        return read_record(self.record_file)

    def changes(self) -> list[str]:
        """`create thing one`, as people say it, in the order they happened."""
        return [f"{line['op']} {line['object']['name']}" for line in self.record]

    def truth(self, state: dict[str, Any]) -> Truth:
        """`state` is a state document (version 4), {} for none."""
        return truth_of(self.record, state)


def truth_of(record: list[dict[str, Any]], state: dict[str, Any]) -> Truth:
    objects = live(record)
    known = {
        instance["attributes"]["id"]
        for resource in state.get("resources", ())
        if resource["mode"] == "managed" and resource["type"].startswith("fake_")
        for instance in resource["instances"]
    }
    counted = Counter("/".join((o["type"], o["project"], o["name"])) for o in objects.values())
    return Truth(
        duplicates=sorted((counted - Counter(set(counted))).elements()),
        lost=sorted(known - set(objects)),
        orphans=sorted("/".join((o["type"], o["project"], o["name"])) for id, o in objects.items() if id not in known),
    )


@contextlib.asynccontextmanager
async def cloud(folder: Path, *arguments: str) -> AsyncIterator[Cloud]:
    """`arguments` as of `cloud.py`: `--unique`."""
    running = Cloud(folder=folder, arguments=arguments)
    await running.start()
    try:
        yield running
    finally:
        with contextlib.suppress(CloudError):
            running.release_all()
        await running.kill()


@dataclass
class FakeProvider:
    reattach: str  # the value of TF_REATTACH_PROVIDERS
    process: asyncio.subprocess.Process

    async def kill(self) -> None:
        await end(self.process)


@contextlib.asynccontextmanager
async def provider(world: Cloud, *, marker: str = "") -> AsyncIterator[FakeProvider]:
    """A provider that Terraform reattaches to; `marker` is that of the attempt it works for."""
    with tempfile.TemporaryDirectory(prefix="fp-") as folder:  # short: the path of a socket has about 100 bytes
        ready = Path(folder) / "ready"
        environment = {"FAKE_CLOUD": world.address, "COUNTERSIGN_ATTEMPT": marker}
        argv = ["-m", "tests.fakecloud.provider", "--socket", f"{folder}/s", "--ready", str(ready)]
        process = await _python(argv, environment)
        try:
            yield FakeProvider(reattach=await _written(ready, process), process=process)
        finally:
            await end(process)


async def end(process: asyncio.subprocess.Process | None) -> None:
    """Kill -9, as whatever is tested here would be, and wait until it is gone."""
    if process is not None and process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def _python(argv: list[str], environment: dict[str, str]) -> asyncio.subprocess.Process:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    return await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=ROOT, env=env, stdin=asyncio.subprocess.DEVNULL)


async def _written(ready: Path, process: asyncio.subprocess.Process) -> str:
    until = time.monotonic() + PATIENCE
    while not ready.exists():
        assert process.returncode is None, f"it ended with {process.returncode}"
        assert time.monotonic() < until, f"it did not start within {PATIENCE} s"
        await asyncio.sleep(0.01)
    return ready.read_text()


def kill_plugins(marker: str) -> list[int]:
    """Kill -9 the provider processes that Terraform started for an attempt; their ids."""
    killed = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or b"tests.fakecloud.provider" not in (entry / "cmdline").read_bytes():
                continue
            if f"COUNTERSIGN_ATTEMPT={marker}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                killed.append(int(entry.name))
    return killed
