"""The saved plan as JSON, from an engine that is started while the plan is still being made.

A good part of what `show` takes is its own start. It reads its CLI configuration before anything else, so it is started beside `plan`
with a pipe in place of that file, and waits there. It gets the configuration, and goes on, the moment the plan's file is complete:
before the other process has told what it found, gave back the lock and ended.

What it shows counts only if the plan ended well and its file is still the one that was shown. In every other case nothing is lost but
a process that waited: `show` runs again, as it always did.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from countersign.adapters.closing import Closing
from countersign.adapters.process import Ended
from countersign.adapters.terraform.session import Session
from countersign.core.errors import CountersignError

CONFIGURATION_MAX = 32 << 10  # bytes; what a pipe takes at once
LOOK = 0.1  # seconds between two looks at a plan's file, where the kernel does not tell that it was written
_END_OF_ZIP, _END_SIZE = b"PK\x05\x06", 22  # what ends a plan's file, and is written last


class Ahead:
    """A `show` that waits for the plan's file."""

    def __init__(self, session: Session, plan_file: Path, configuration: bytes) -> None:
        self._session, self._plan_file, self._configuration = session, plan_file, configuration
        self._gate: int | None = None  # where it waits for its configuration
        self._let_go: tuple[int, ...] | None = None  # the file as it was when it did not have to wait any more
        self._showing: asyncio.Task[Ended] | None = None

    def start(self, environment: Mapping[str, str]) -> None:
        reading, self._gate = os.pipe()
        self._showing = asyncio.ensure_future(self._shown(reading, {**environment, "TF_CLI_CONFIG_FILE": "/dev/stdin"}))

    async def _shown(self, reading: int, environment: Mapping[str, str]) -> Ended:
        try:
            argv = self._session.commands.show(self._plan_file)
            return await self._session.document("show", argv, environment, stdin=Path(f"/dev/fd/{reading}"))
        finally:
            os.close(reading)

    async def watch(self) -> None:
        """Let it go on as soon as the plan's file is complete."""
        with _closings(self._plan_file.parent) as closed:
            while self._let_go is None:
                if closed is None:
                    await asyncio.sleep(LOOK)
                else:
                    await closed.wait()
                    closed.clear()
                if _complete(self._plan_file):
                    self.let_go()

    def let_go(self) -> None:
        if self._gate is None:
            return
        self._let_go = _identity(self._plan_file)
        with suppress(OSError):  # it is gone already
            os.write(self._gate, self._configuration)
        self._close()

    async def ended(self) -> Ended | None:
        """How it ended; None where what it showed is not the plan. Ask when the plan has ended well."""
        assert self._showing is not None
        self.let_go()
        try:
            ended = await self._showing
        except CountersignError:
            return None
        return ended if ended.code == 0 and self._let_go == _identity(self._plan_file) else None

    async def end(self) -> None:
        assert self._showing is not None
        self._close()
        self._showing.cancel()
        await asyncio.gather(self._showing, return_exceptions=True)

    def _close(self) -> None:
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None


@asynccontextmanager
async def showing(session: Session, environment: Mapping[str, str], plan_file: Path) -> AsyncIterator[Ahead | None]:
    """A `show` of the plan that is made meanwhile. It is gone when this ends. None where it cannot wait."""
    configuration = _configuration(environment)
    if configuration is None:
        yield None
        return
    ahead = Ahead(session, plan_file, configuration)
    ahead.start(environment)
    watching = asyncio.ensure_future(ahead.watch())
    try:
        yield ahead
    finally:
        watching.cancel()
        await ahead.end()


@contextmanager
def _closings(folder: Path) -> Iterator[asyncio.Event | None]:
    """Set when a file there was written. None where the kernel does not tell."""
    written = asyncio.Event()
    try:
        closing = Closing(folder, written.set)
    except OSError:
        yield None
        return
    try:
        yield written
    finally:
        closing.close()


def _configuration(environment: Mapping[str, str]) -> bytes | None:
    """What the engine reads first; None where that cannot come out of a pipe."""
    found = Path(environment["TF_CLI_CONFIG_FILE"]).read_bytes()
    return found if len(found) <= CONFIGURATION_MAX and Path("/dev/fd").exists() else None


def _complete(plan_file: Path) -> bool:
    try:
        with plan_file.open("rb") as file:
            file.seek(-_END_SIZE, os.SEEK_END)
            return file.read(len(_END_OF_ZIP)) == _END_OF_ZIP
    except OSError:  # not there yet, or nearly nothing of it
        return False


def _identity(plan_file: Path) -> tuple[int, ...]:
    """Another one for a file that was written, or put in its place, meanwhile."""
    try:
        at = plan_file.stat()
    except OSError:
        return ()
    return (at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
