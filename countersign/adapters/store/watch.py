"""Waiting for the store to change: one watcher per process serves everybody who waits.

Other processes write the rows the front waits for, so nothing in this process can tell. SQLite answers `PRAGMA data_version`
in microseconds from shared memory, so it is asked every few milliseconds, and only while somebody waits; Postgres tells by itself.
Whoever waits is woken by what the ledger or a run says anew: most commits are locks, credentials and states of no interest here.
"""

import asyncio
import sqlite3
from contextlib import aclosing, suppress

from countersign.adapters.store.database import Store

EVERY = 0.004  # seconds between two looks at SQLite


class Watch:
    """`seen` before reading rows, then `changed(after=seen)`: no change in between is lost, though one may be told twice."""

    def __init__(self, store: Store) -> None:
        self._url = store.url
        self._path = store.path
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None
        self._newest: int | None = None  # events.n of the ledger's last row
        self._generation = 0
        self._waiting = 0
        self._turned = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None

    @property
    def seen(self) -> int:
        """A number that grows with every event somebody committed."""
        self._look()
        return self._generation

    async def changed(self, *, after: int, timeout: float) -> bool:
        """Wait until an event was committed after `seen` was `after`; False when `timeout` seconds passed without."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout
        self._waiting += 1
        try:
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll() if self._path is not None else self._listen())
            while self._generation <= after:
                turned = self._turned
                left = ends - loop.time()
                if left <= 0:
                    return False
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await turned.wait()
            return True
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _poll(self) -> None:
        while self._waiting:
            self._look()
            await asyncio.sleep(EVERY)

    async def _listen(self) -> None:
        from countersign.adapters.store import postgres

        async with aclosing(postgres.listening(self._url)) as told:
            async for _ in told:
                self._turn()

    def _look(self) -> None:
        if self._path is None:
            return
        version = newest = None
        try:
            if self._connection is None:
                # Never waits for a lock: a look that fails counts as a change, and the next one is milliseconds away.
                self._connection = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=0, check_same_thread=False)
            version = self._connection.execute("PRAGMA data_version").fetchone()[0]
            if version == self._version:
                return
            newest = self._connection.execute("SELECT max(n) FROM events").fetchone()[0]
        except sqlite3.Error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            version = None
        self._version = version
        if version is None or newest != self._newest:
            self._newest = newest
            self._turn()

    def _turn(self) -> None:
        self._generation += 1
        self._turned.set()
        self._turned = asyncio.Event()
