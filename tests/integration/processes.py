"""What tests of processes share: markers of this test run, a look at what is left of them, and a worker that can be killed."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from countersign.adapters.process import MARKER

PATIENCE = 20.0  # seconds; every wait is bounded
ENV = {"PATH": "/usr/bin:/bin"}
ROOT = Path(__file__).parents[2]
_numbers = itertools.count()
_prefix = f"att_{os.getpid()}x"


def new_attempt() -> str:
    """An attempt id that no other test run on this machine uses."""
    return f"{_prefix}{next(_numbers)}"


def alive() -> list[str]:
    """Command lines of all processes that carry an attempt of this test run, dead ones nobody waited for left out."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARKER}={_prefix}".encode() in (entry / "environ").read_bytes():
                found.append(f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}")
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def leaves_no_process() -> Iterator[None]:
    """Import it into a test module: each of its tests fails if a process of an attempt outlives it."""
    yield
    until = time.monotonic() + 2  # a process that was just killed takes a moment to go
    while (left := alive()) and time.monotonic() < until:
        time.sleep(0.02)
    for line in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)  # the next test is not to be blamed
    assert left == []


async def until(probe: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for `probe` to be true; fails by saying `what` it waited for."""
    end = time.monotonic() + patience
    while not probe():
        assert time.monotonic() < end, f"waited {patience} s for {what}"
        await asyncio.sleep(0.01)


async def python(script: str, *arguments: object, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """Another process of ours, such as a worker that a test kills: `script` with the repository importable."""
    return await asyncio.create_subprocess_exec(sys.executable, "-c", script, *map(str, arguments), cwd=ROOT, env={**ENV, **(env or {})})
