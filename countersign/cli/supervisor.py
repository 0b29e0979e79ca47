"""Keeps the parts of the service running: starts them, says when they are ready, starts them again with growing patience.

One process each, so that what breaks one leaves the others alone. Nothing here knows what the parts are.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from countersign.adapters.process import Running, start_service, stop_service, tail_of
from countersign.core.errors import Unavailable

FIRST_DELAY = 0.05  # seconds before a part that ended is started again; doubled each time
LONGEST_DELAY = 30.0
HEALTHY = 30.0  # seconds of life after which its earlier ends are forgotten
LOOK = 0.03  # seconds between two looks whether a part is ready
STOP_GRACE = 10.0
UNREADY = 2  # ends in a row without having been ready, after which a part is not forked but started as a program
TAIL = 12  # lines of a log that are told


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready: Callable[[int], Awaitable[bool]]  # whether the process with this id is ready
    wave: int = 0  # parts stop wave by wave, the lowest first
    zygote: str | None = None  # the kind of process it may be forked from
    timer_slack: float | None = None  # seconds its sleeps may take longer


@dataclass(frozen=True, kw_only=True)
class Ready:
    part: str
    seconds: float  # since it was started
    again: bool  # it had ended before


@dataclass(frozen=True, kw_only=True)
class Ended:
    part: str
    code: int
    times: int  # ends in a row
    again_in: float
    log: Path
    tail: tuple[str, ...]  # what it wrote last


T = TypeVar("T")
Tell = Callable[[Ready | Ended], None]
Start = Callable[[Part], Awaitable[Running]]  # raises Unavailable
Moved = Callable[[Mapping[str, int]], None]


@dataclass(frozen=True, kw_only=True)
class Life:
    """One process of a part."""

    process: Running
    begun: float
    written: int  # bytes its log had before


class Supervisor:
    def __init__(self, parts: Sequence[Part], *, tell: Tell, start: Start, moved: Moved = lambda _: None) -> None:
        """`moved` gets the process ids by name whenever one changes; `start` makes the process of a part."""
        self.parts = tuple(parts)
        self._start = start
        self._tell = tell
        self._moved = moved
        self._lives: dict[str, Life] = {}
        self._ready = {part.name: asyncio.Event() for part in parts}
        self._stop = {part.name: asyncio.Event() for part in parts}
        self._keeping: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Start all of them, without waiting for any to be ready. Raises Unavailable; `stop` then ends those that were started."""
        for begun in await asyncio.gather(*(self._begin(part) for part in self.parts), return_exceptions=True):
            if begun is not None:
                raise begun

    async def _begin(self, part: Part) -> None:
        life = await self._spawn(part)
        self._keeping[part.name] = asyncio.create_task(self._keep(part, life), name=part.name)

    async def ready(self) -> None:
        """Return as soon as every part was ready once."""
        for event in self._ready.values():
            await event.wait()

    @property
    def pids(self) -> dict[str, int]:
        return {name: life.process.pid for name, life in self._lives.items() if life.process.returncode is None}

    async def stop(self, *, names: Sequence[str] | None = None) -> None:
        """End these parts, or all: wave by wave, each with SIGTERM, some grace, then SIGKILL."""
        for wave in sorted({part.wave for part in self.parts}):
            await asyncio.gather(*(self._end(part) for part in self.parts if part.wave == wave and (names is None or part.name in names)))
        self._moved(self.pids)

    async def _end(self, part: Part) -> None:
        self._stop[part.name].set()
        if (life := self._lives.get(part.name)) is not None:
            await stop_service(life.process, grace=STOP_GRACE)
        if (task := self._keeping.get(part.name)) is not None:
            await asyncio.wait({task}, timeout=5)

    async def _spawn(self, part: Part) -> Life:
        written, begun = _size(part.log), time.monotonic()
        process = await self._start(part)
        life = self._lives[part.name] = Life(process=process, begun=begun, written=written)
        self._moved(self.pids)
        return life

    async def _keep(self, part: Part, life: Life) -> None:
        stop, ends, unready, delay = self._stop[part.name], 0, 0, FIRST_DELAY
        while True:
            code, was_ready = await self._lived(part, life, again=ends > 0)
            if stop.is_set():
                return
            unready = 0 if was_ready else unready + 1
            if time.monotonic() - life.begun > HEALTHY:
                ends, delay = 0, FIRST_DELAY
            ends += 1
            said = tail(part.log, since=life.written)
            self._tell(Ended(part=part.name, code=code, times=ends, again_in=delay, log=part.log, tail=said))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), delay)
            if stop.is_set():
                return
            delay = min(delay * 2, LONGEST_DELAY)
            with contextlib.suppress(Unavailable):  # the machine cannot start it just now: the next round tries again
                life = await unless(stop, self._spawn(part if unready < UNREADY else replace(part, zygote=None))) or life
                if stop.is_set():  # said while it was made
                    await stop_service(life.process, grace=STOP_GRACE)

    async def _lived(self, part: Part, life: Life, *, again: bool) -> tuple[int, bool]:
        """Its exit code, at its end, and whether it was ever ready; it is told once that it is."""
        ended = asyncio.ensure_future(life.process.wait())
        looking = asyncio.ensure_future(self._until_ready(part, life, again=again))
        try:
            await asyncio.wait({ended})
            return ended.result(), looking.done()
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def _until_ready(self, part: Part, life: Life, *, again: bool) -> None:
        while not await part.ready(life.process.pid):  # noqa: ASYNC110  another process tells no event
            await asyncio.sleep(LOOK)
        self._tell(Ready(part=part.name, seconds=time.monotonic() - life.begun, again=again))
        self._ready[part.name].set()


async def unless(stop: asyncio.Event, doing: Coroutine[Any, Any, T]) -> T | None:
    """What comes of it; it is cancelled, and this None, where it is told to stop before."""
    task, stopped = asyncio.ensure_future(doing), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        task.cancel()
        await asyncio.wait({task})
    return None if task.cancelled() else task.result()


async def started(part: Part, *, cwd: Path) -> Running:
    """A part as a program of its own."""
    return await start_service(part.argv, cwd=cwd, env=part.env, log=part.log, timer_slack=part.timer_slack)


def tail(log: Path, *, since: int = 0) -> tuple[str, ...]:
    """The last lines of a log, of those written after `since` bytes."""
    written = max(0, _size(log) - since)
    lines = tail_of(log, min(written, 16 << 10)).splitlines() if written else []
    return tuple(line for line in lines if line.strip())[-TAIL:]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
