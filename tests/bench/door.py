"""What the door costs: beside the SDK's own trivial tool, and with two hundred clients in it."""

import asyncio
import contextlib
import random
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.acceptance.installed import REPOSITORY, Installed, call, eventually, free_ports

ROUNDS = 200
WARM = 20  # of them do not count
CLIENTS = 200
SECONDS = 60.0
KEYS = 20  # ten clients each: their rate stays within limits.requests_per_minute


@contextlib.asynccontextmanager
async def trivial() -> AsyncIterator[Client]:
    """A client of the SDK's own server, in a process of its own as ours is."""
    (port,) = free_ports(1)
    process = started(port)
    try:

        async def listens() -> bool:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return True
            return False

        await eventually(listens, "the trivial server")
        async with (
            httpx2.AsyncClient(timeout=30) as http,
            Client(streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http), mode="auto") as client,
        ):
            yield client
    finally:
        process.terminate()
        process.wait(10)


def started(port: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "tests.bench.trivial", str(port)], cwd=REPOSITORY)


async def beside_the_sdk(agent: Client) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds, in turns: the SDK's tool, ours beyond the one before it, and our list of tools."""
    run_id = (await call(agent, "run_list", limit=1))["data"]["runs"][0]["run_id"]
    floor, beyond, listing = [], [], []
    async with trivial() as sdk:
        for number in range(ROUNDS + WARM):
            theirs = await _timed(sdk, "nothing", {})
            ours = await _timed(agent, "run_get", {"run_id": run_id})
            begun = time.perf_counter()
            await agent.session.list_tools()
            listed = 1000 * (time.perf_counter() - begun)
            if number >= WARM:
                floor.append(theirs)
                beyond.append(ours - theirs)
                listing.append(listed)
    return floor, beyond, listing


async def _timed(client: Client, tool: str, arguments: dict[str, object]) -> float:
    begun = time.perf_counter()
    result = await client.call_tool(tool, arguments)
    took = 1000 * (time.perf_counter() - begun)
    assert not result.is_error, result
    return took


class Crowd:
    """Two hundred clients that read, each what it likes, for a minute."""

    def __init__(self, it: Installed) -> None:
        self._it = it
        self.errors: list[str] = []
        self.took: list[float] = []
        self.memory: list[float] = []

    async def read(self) -> None:
        keys = [self._it.key(f"agent:crowd-{n}", acts_for="person:bench") for n in range(KEYS)]
        trust = ssl.create_default_context()  # once: loading it two hundred times takes longer than a client
        everybody, until = asyncio.Barrier(CLIENTS + 1), [0.0]

        async def one(number: int) -> None:
            headers = {"Authorization": f"Bearer {keys[number % KEYS]}"}
            async with (
                httpx2.AsyncClient(headers=headers, timeout=60, verify=trust) as http,
                Client(
                    streamable_http_client(f"http://127.0.0.1:{self._it.front_port}/mcp", http_client=http),
                    mode="auto" if number % 2 else "legacy",
                ) as client,
            ):
                await everybody.wait()
                await self._reading(client, random.Random(number), until)

        async def watch() -> None:
            await everybody.wait()
            begun = time.monotonic()
            until[0] = begun + SECONDS
            while time.monotonic() < until[0]:
                await asyncio.sleep(5)
                self.memory.append(owned(self._it))

        results = await asyncio.gather(watch(), *(one(number) for number in range(CLIENTS)), return_exceptions=True)
        self.errors += [f"{type(broken).__name__}: {broken}" for broken in results if isinstance(broken, BaseException)]

    async def _reading(self, client: Client, chance: random.Random, until: list[float]) -> None:
        await asyncio.sleep(chance.random())  # not all at the same instant, as nobody would
        while not until[0] or time.monotonic() < until[0]:
            tool, arguments = chance.choice(
                [
                    ("whoami", {}),
                    ("run_list", {"limit": 5}),
                    ("list_environments", {}),
                    ("terraform_list_workspaces", {"limit": 10}),
                    ("search_tools", {"text": "apply"}),
                ]
            )
            begun = time.perf_counter()
            if chance.random() < 0.1:
                await client.session.list_tools()
            else:
                result = await client.call_tool(tool, arguments)
                if result.is_error:
                    self.errors.append(f"{tool}: {result.structured_content}")
            self.took.append(1000 * (time.perf_counter() - begun))
            await asyncio.sleep(0.5 * chance.random())


def owned(it: Installed) -> float:
    """MiB that belong to the front's process alone."""
    pid = it.pid_of("front")
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel does not tell")
