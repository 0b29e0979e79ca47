"""The whole service as a user starts it, `countersign up`, on ports and a data folder of its own."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

COMMAND = Path(sys.executable).with_name("countersign")
REPOSITORY = Path(__file__).parents[2]
READY_WITHIN = 60.0  # seconds; a bound, not a target


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


async def eventually(probe: Callable[[], Awaitable[Any]], what: str, patience: float = 60.0) -> Any:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if answer := await probe():
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited {patience} s for {what}")


PUT_ASIDE = 15.0  # seconds; five are promised to a worker that has nothing else to do


async def tidied(data: Path) -> None:
    """Return when what runs left in clear is removed: who looks through everything before that meets what goes in between."""

    async def removed() -> bool:
        return not list((data / "work" / "stacks" / ".gone").glob("*"))

    await eventually(removed, "what runs left in clear to be removed", PUT_ASIDE)


def processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), [part.decode(errors="replace") for part in (entry / "cmdline").read_bytes().split(b"\0") if part]


@dataclass
class Installed:
    """One data folder and the service on it. `stacks` is the folder of stacks it may plan."""

    data: Path
    stacks: Path = REPOSITORY / "infra" / "stacks"
    settings: Mapping[str, str] = field(default_factory=dict)  # environment variables beside the ports
    prefix: tuple[str, ...] = ()  # words before `countersign up`
    _up: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        front, state, temporal, ui = free_ports(4)
        self.front_port = front
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("COUNTERSIGN_")},
            "COUNTERSIGN_DATA": str(self.data),
            "COUNTERSIGN_STACKS": str(self.stacks),
            "COUNTERSIGN_FRONT_PORT": str(front),
            "COUNTERSIGN_STATE_PORT": str(state),
            "COUNTERSIGN_TEMPORAL_PORT": str(temporal),
            "COUNTERSIGN_TEMPORAL_UI_PORT": str(ui),
            **self.settings,
        }
        self.temporal_port, self.temporal_ui_port, self.state_port = temporal, ui, state

    # The service

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data.parent / f"{self.data.name}.up.log").open("ab") as log:
            self._up = subprocess.Popen(
                [*self.prefix, str(COMMAND), "up"], env=self.environment, cwd=REPOSITORY, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    async def ready(self) -> None:
        # One client, which loads no certificates: to make one for each look takes the processor from what starts.
        async with httpx2.AsyncClient(timeout=2, verify=False) as http:

            async def answers() -> bool:
                assert self._up is not None
                if self._up.poll() is not None:
                    raise AssertionError(f"`countersign up` ended with {self._up.returncode}:\n{self.log()}")
                with contextlib.suppress(httpx2.HTTPError):
                    return (await http.get(f"http://127.0.0.1:{self.front_port}/readyz")).status_code == 200
                return False

            await eventually(answers, f"the service to be ready:\n{self.log()}", READY_WITHIN)

    def stop(self) -> int:
        if self._up is None:
            return 0
        self._up.terminate()
        try:
            return self._up.wait(40)
        except subprocess.TimeoutExpired:
            self._up.kill()
            raise

    def kill_all(self) -> None:
        """As a machine that loses its power: every part at once, and nobody says goodbye. Applies are none of them."""
        parts = [pid for part in ("front", "worker", "state", "temporal") if (pid := self.pid_of(part)) is not None]
        assert self._up is not None
        for pid in (self._up.pid, *parts):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._up.wait(20)
        self._up = None

    def log(self) -> str:
        file = self.data.parent / f"{self.data.name}.up.log"
        return file.read_text(errors="replace")[-4000:] if file.exists() else ""

    def pid_of(self, part: str) -> int | None:
        """The process of one part: "front", "worker", "state" or "temporal"."""
        for pid, argv in processes():
            with contextlib.suppress(OSError):
                ours = f"COUNTERSIGN_DATA={self.data}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if part == "temporal":
                    if "start-dev" in argv and str(self.temporal_port) in argv:
                        return pid
                elif ours and part in argv[:5] and any("countersign" in a for a in argv[:4]) and "setpriv" not in argv[0]:
                    return pid
        return None

    @contextlib.contextmanager
    def another(self, part: str) -> Iterator[None]:
        """A second process of one part, on the same data folder, started by hand."""
        with (self.data.parent / f"{self.data.name}.another.log").open("ab") as log:
            process = subprocess.Popen([str(COMMAND), part], env=self.environment, cwd=REPOSITORY, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(40)

    async def kill(self, part: str) -> None:
        """kill -9, and wait until another process does its work."""
        pid = self.pid_of(part)
        assert pid is not None, f"no process for {part}"
        os.kill(pid, signal.SIGKILL)

        async def replaced() -> bool:
            now = self.pid_of(part)
            return now is not None and now != pid

        await eventually(replaced, f"another {part} after kill -9")

    # Its users

    def cli(self, *arguments: str, stdin: str | None = None, code: int | None = 0) -> str:
        done = subprocess.run(
            [str(COMMAND), *arguments],
            env=self.environment,
            cwd=REPOSITORY,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, f"countersign {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def key(self, name: str, *, kind: str = "agent", role: str = "platform", acts_for: str | None = None) -> str:
        arguments = ["key", "create", "--as", name, "--kind", kind, "--role", role, "--json"]
        made = json.loads(self.cli(*arguments, *(["--for", acts_for] if acts_for else [])))
        return str(made["key"])

    @contextlib.asynccontextmanager
    async def client(self, key: str, *, mode: str = "auto", path: str = "/mcp", **options: Any) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(40, read=300)) as http:
            transport = streamable_http_client(f"http://127.0.0.1:{self.front_port}{path}", http_client=http)
            async with Client(transport, mode=mode, **options) as client:  # type: ignore[arg-type]
                yield client


async def call(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    """The structured result of a tool that succeeds."""
    result = await client.call_tool(name, arguments)
    content: dict[str, Any] = result.structured_content or {}
    assert not result.is_error, content
    return content


async def refused(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
    """The error of a tool that refuses."""
    result = await client.call_tool(name, arguments)
    content: dict[str, Any] = result.structured_content or {}
    assert result.is_error, content
    error: dict[str, Any] = content["error"]
    return error


async def until(client: Client, run_id: str, *states: str, patience: float = 60.0) -> dict[str, Any]:
    """Follow a run with `run_wait`, as an agent does, until it is in one of `states`."""
    ends = time.monotonic() + patience
    cursor: str | None = None
    while time.monotonic() < ends:
        arguments: dict[str, Any] = {"run_id": run_id, "timeout_seconds": 5}
        if cursor:
            arguments["from"] = cursor
        result = await client.call_tool("run_wait", arguments)
        content: dict[str, Any] = result.structured_content or {}
        if result.is_error:
            assert content["error"]["retryable"], content
            continue
        cursor = content["data"]["cursor"]
        if content["run"]["state"] in states:
            return content
        if content["data"].get("reached") and content["run"]["state"] in ENDED:
            raise AssertionError(f"the run ended {content['run']['state']} instead of {states}: {content}")
    raise AssertionError(f"{run_id} did not reach {states} within {patience} s")


ENDED = ("planned_and_finished", "applied", "partially_applied", "rejected", "expired", "canceled", "errored")
