"""SQLite without a thread for every statement.

The usual asyncio driver hands each statement to a thread four times (open, run, fetch, close), which costs more than the
statement: a decision of twelve statements took 18 ms. Here statements run where they are called, in microseconds from the page
cache; only what may wait, for the write lock or for the disk, goes to a thread: opening, a begin that finds the lock taken, and
commits on a disk that proved slow. A thread costs more than a sync of a quick disk, and on two busy cores a lot more.

Writers of one process wait for one another here and not in SQLite: there each would hold a thread while it waits, and the one
that could let them go on would find none for its commit.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

BUSY = 10.0  # seconds to wait for another process's write
QUICK = 0.002  # seconds; where the best of the last commits took longer, they leave the event loop alone and wait in a thread
LATELY = 8  # commits: on a busy machine any of them may have waited for a processor and not for the disk
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")


# Threads of our own: those everybody uses may all be busy with somebody's plan of megabytes.
_THREADS = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sqlite")


async def connect(path: str, turn: asyncio.Semaphore, disk: "Disk") -> "InlineConnection":
    """An open connection in autocommit: whoever uses it says BEGIN. `turn` and `disk` are those of all writers of this process."""
    return InlineConnection(await _in_thread(lambda: _opened(path)), turn, disk)


def _opened(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


async def _in_thread(work: Callable[[], T]) -> T:
    """Its result. Cancelled, it is waited for all the same: a lock that was got for nobody would stay."""
    task = asyncio.get_running_loop().run_in_executor(_THREADS, work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class Disk:
    """How long commits take lately: one file's, for all connections of this process."""

    def __init__(self) -> None:
        self._took = deque([QUICK], maxlen=LATELY)  # nobody knows yet: the first one waits in a thread

    @property
    def quick(self) -> bool:
        return min(self._took) < QUICK

    def took(self, seconds: float) -> None:
        self._took.append(seconds)

    def commit(self, connection: sqlite3.Connection) -> None:
        began = time.perf_counter()
        connection.commit()
        self.took(time.perf_counter() - began)


class InlineConnection:
    """What SQLAlchemy's aiosqlite dialect asks of a connection."""

    isolation_level = None

    def __init__(self, connection: sqlite3.Connection, turn: asyncio.Semaphore, disk: Disk) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._turn = turn
        self._disk = disk
        self._writes = False  # this transaction holds the turn; its commit waits for the disk

    @property
    def open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ValueError("no active connection")
        return self._connection

    def cursor(self) -> "InlineCursor":
        return InlineCursor(self.open.cursor())

    async def begin_writing(self, statement: str) -> None:
        try:
            async with asyncio.timeout(BUSY) if self._turn.locked() else contextlib.nullcontext():
                await self._turn.acquire()
        except TimeoutError:
            raise sqlite3.OperationalError("database is locked") from None
        try:
            if not self._begun_at_once(statement):
                await _in_thread(lambda: self.open.execute(statement))
        except BaseException:
            # Cancelled, it may have begun all the same.
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
            self._turn.release()
            raise
        self._writes = True

    def _begun_at_once(self, statement: str) -> bool:
        """Begin where no other process writes; False where one does, and it takes waiting."""
        self.open.execute("PRAGMA busy_timeout=0")
        try:
            self.open.execute(statement)
        except sqlite3.OperationalError as busy:
            if busy.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        finally:
            self.open.execute(f"PRAGMA busy_timeout={int(1000 * BUSY)}")
        return True

    async def commit(self) -> None:
        if not self._writes:
            self.open.commit()
            return
        connection = self.open
        try:
            if self._disk.quick:
                self._disk.commit(connection)
            else:
                await _in_thread(lambda: self._disk.commit(connection))
        finally:
            if self._connection is None or not self._connection.in_transaction:  # a commit that failed can be rolled back
                self._done()

    async def rollback(self) -> None:
        if self._connection is not None:
            self._connection.rollback()
        self._done()

    def _done(self) -> None:
        if self._writes:
            self._writes = False
            self._turn.release()

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await _in_thread(connection.close)
        self._done()

    async def create_function(self, *arguments: Any, **options: Any) -> None:
        self.open.create_function(*arguments, **options)

    def stop(self) -> None:
        """Close without waiting, where no event loop is left."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._done()


class InlineCursor:
    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self.arraysize = 1

    async def __aenter__(self) -> "InlineCursor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def description(self) -> Any:
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._cursor.lastrowid

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> "InlineCursor":
        self._cursor.execute(statement, parameters)
        return self

    async def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> "InlineCursor":
        self._cursor.executemany(statement, rows)
        return self

    async def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    async def fetchone(self) -> Any:
        return self._cursor.fetchone()

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        return self._cursor.fetchmany(size or self.arraysize)

    async def close(self) -> None:
        self._cursor.close()
