"""What is of no use any more is removed when nobody waits for this process.

To remove the folders of a run takes about as long as to make them, and would be done just when the next step wants the processor. So
they are put aside, and removed once no step has been at work for a moment. Some hold secrets in clear, so none waits longer than
LONGEST, however much there is to do, nor beyond the end of the process. One that is killed removes nothing any more: whoever puts
something aside puts it where the next one finds it.
"""

import asyncio
import atexit
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUIET = 0.05  # seconds without a step; between the steps of one run there are fewer
LONGEST = 5.0  # seconds
MOST = 64  # folders that wait


class Leaving:
    """The folders that this process has yet to remove."""

    def __init__(self, *, quiet: float = QUIET, longest: float = LONGEST, most: int = MOST) -> None:
        self._quiet, self._longest, self._most = quiet, longest, most
        self._waiting: deque[tuple[float, Path]] = deque()  # since when; the oldest first
        self._steps = 0  # that are at work
        self._still_since = 0.0
        self._removing = threading.Lock()  # one thread is enough
        self._next: asyncio.TimerHandle | asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # whose `_next` is: another one takes over

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A step, which nothing is removed beside that can wait."""
        self._steps += 1
        try:
            yield
        finally:
            self._steps -= 1
            if not self._steps:
                self._still_since = time.monotonic()
                self._look_later()

    def leave(self, *folders: Path) -> None:
        """Have them removed soon."""
        self._waiting.extend((time.monotonic(), folder) for folder in folders)
        if self._next is None or self._loop is not asyncio.get_running_loop() or len(self._waiting) > self._most:
            self._look_later()

    async def gone(self) -> None:
        """Return when nothing waits any more."""
        if self._waiting:
            await asyncio.to_thread(self.remove_all)

    def remove_all(self) -> None:
        with self._removing:
            while self._waiting:
                self._remove_first()

    def _look_later(self) -> None:
        """Set the time of the next look, where there is anything to look for and nothing is being removed."""
        loop = asyncio.get_running_loop()
        if self._loop is loop and isinstance(self._next, asyncio.Future):
            return
        if self._loop is loop and self._next is not None:
            self._next.cancel()
        self._loop = loop
        self._next = loop.call_later(self._due_in(), self._look) if self._waiting else None

    def _due_in(self) -> float:
        """Seconds until what has waited longest is due if nothing changes."""
        if len(self._waiting) > self._most:
            return 0
        at = self._waiting[0][0] + self._longest
        if not self._steps:
            at = min(at, self._still_since + self._quiet)
        return at - time.monotonic()

    def _look(self) -> None:
        self._next = None
        if self._waiting and self._due_in() <= 0:
            self._next = asyncio.ensure_future(asyncio.to_thread(self._remove_due))
            self._next.add_done_callback(lambda _: self._looked())
        else:
            self._look_later()

    def _looked(self) -> None:
        self._next = None
        self._look_later()

    def _remove_due(self) -> None:
        with self._removing:
            while self._waiting and self._due_in() <= 0:
                self._remove_first()

    def _remove_first(self) -> None:
        # It counts as waiting until it is gone: whoever asks whether all is has to wait for it.
        shutil.rmtree(self._waiting[0][1], ignore_errors=True)
        self._waiting.popleft()


leaving = Leaving()
atexit.register(leaving.remove_all)
