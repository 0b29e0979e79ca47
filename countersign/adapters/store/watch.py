"""Waiting for the store to change: one watcher per process serves everybody who waits.

Other processes write the rows the front waits for, so nothing in this process can tell. On SQLite whoever commits rings (`bell`),
and `PRAGMA data_version` says in microseconds whether anything came; Postgres tells by itself. Whoever waits for a run is woken by
what the ledger says anew of that run: of sixteen who wait, one is woken, and most commits are locks, credentials and states of no
interest here. Who waits for some states of it sleeps through the others, and through reports of progress.
"""

import asyncio
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import aclosing, suppress

from countersign.adapters.store.bell import Bell, bell_of
from countersign.adapters.store.database import Store

EVERY = 0.004  # seconds between two looks at SQLite where nobody can ring, or the last look failed
SURELY = 0.25  # seconds to the next look although nobody rang: whoever committed may have died before it could. A look that failed
# counts as a change, so whoever waits reads the rows then, and loses nothing until the next one
REMEMBERED = 10_000  # runs


class Watch:
    """`seen` before reading rows, then `changed(after=seen)`: no change in between is lost, though one may be told twice."""

    def __init__(self, store: Store) -> None:
        self._url = store.url
        self._path = store.path
        self._connection: sqlite3.Connection | None = None
        self._version: int | None = None
        self._newest: int | None = None  # events.n of the ledger's last row
        self._generation = 0
        self._of_all = 0  # the generation in which anything may have changed
        self._of_run: dict[str, int] = {}  # the one in which a run did
        self._waiting: dict[str | None, dict[asyncio.Future[None], Collection[str] | None]] = {}  # and the states it is about
        self._poller: asyncio.Task[None] | None = None

    @property
    def seen(self) -> int:
        """A number that grows with every event somebody committed."""
        self._look()
        return self._generation

    @property
    def waiting(self) -> int:
        """How many wait just now."""
        return sum(map(len, self._waiting.values()))

    async def changed(self, *, after: int, timeout: float, run: str | None = None, states: Collection[str] | None = None) -> bool:
        """Wait until an event was committed after `seen` was `after`, of that `run` where one is named; False when `timeout`
        seconds passed without.

        With `states`, an event that left the run in another one wakes nobody; that it was is told when the time is over.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout
        while self._last(run) <= after:
            if (left := ends - loop.time()) <= 0:
                return False
            told = loop.create_future()
            self._waiting.setdefault(run, {})[told] = states
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll() if self._path is not None else self._listen())
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await told
            finally:
                del self._waiting[run][told]
                if not self._waiting[run]:
                    del self._waiting[run]
        return True

    async def close(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _last(self, run: str | None) -> int:
        return self._generation if run is None else max(self._of_all, self._of_run.get(run, 0))

    async def _poll(self) -> None:
        assert self._path is not None
        try:
            bell = Bell(bell_of(self._path), self._look)
        except OSError:
            bell = None
        try:
            while self._waiting:
                self._look()
                await asyncio.sleep(EVERY if bell is None or self._version is None else SURELY)
        finally:
            if bell is not None:
                bell.close()

    async def _listen(self) -> None:
        from countersign.adapters.store import postgres

        async with aclosing(postgres.listening(self._url)) as told:
            async for news in told:
                self._turn(news)

    def _look(self) -> None:
        if self._path is None:
            return
        version, news = None, None
        try:
            if self._connection is None:
                # Never waits for a lock: a look that fails counts as a change, and the next one is milliseconds away.
                self._connection = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=0, check_same_thread=False)
            version = self._connection.execute("PRAGMA data_version").fetchone()[0]
            if version == self._version:
                return
            if self._newest is None:
                self._newest = self._connection.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()[0]
            else:
                news = self._connection.execute("SELECT n, run_id, state FROM events WHERE n > ? ORDER BY n", (self._newest,)).fetchall()
        except sqlite3.Error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            version = None
        self._version = version
        if version is None or news is None:
            self._turn(None)
        elif news:
            self._newest = news[-1][0]
            self._turn([(run, state) for _, run, state in news])

    def _turn(self, news: Collection[tuple[str, str]] | None) -> None:
        """Something changed: of these runs, each with the state it was left in, or of any."""
        self._generation += 1
        if news is None or len(self._of_run) > REMEMBERED:
            self._of_all = self._generation
            self._of_run.clear()
            self._wake(told for waiting in self._waiting.values() for told in waiting)
            return
        self._of_run.update((run, self._generation) for run, _ in news)
        self._wake(self._waiting.get(None, ()))
        for run, state in news:
            self._wake(told for told, states in self._waiting.get(run, {}).items() if states is None or state in states)

    def _wake(self, waiting: Iterable[asyncio.Future[None]]) -> None:
        for told in waiting:
            if not told.done():
                told.set_result(None)
