"""Transactions on SQLite.

A connection is opened once and kept: handing one out of a pool, cleaning it and asking for BEGIN and COMMIT through five layers
costs more than the transaction, and a small run takes some thirty. To SQLAlchemy a kept connection is in one transaction for as
long as it lives; where that of ours begins and ends is said to the driver.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from countersign.adapters.store import inline_sqlite
from countersign.adapters.store.bell import bell_of, ring
from countersign.adapters.store.inline_sqlite import InlineConnection
from countersign.core.errors import CountersignError, Unavailable

WRITES = "BEGIN IMMEDIATE"
READS = "BEGIN"
WRITERS, READERS = 8, 12  # connections of one process at once
QUEUED_FOR = 30  # seconds for one of them


class Sqlite:
    """One file. A commit to the ledger rings its bell, so that whoever waits for news in another process need not look all the time."""

    is_sqlite = True

    def __init__(self, url: str, path: str) -> None:
        opened = partial(inline_sqlite.connect, path, asyncio.BoundedSemaphore(1), inline_sqlite.Disk())
        # Kept connections are closed by whoever keeps them; a pool would keep them as well.
        engine = create_async_engine(url, poolclass=NullPool, async_creator=opened, hide_parameters=True)
        self._writes, self._reads = _Kept(engine, WRITERS), _Kept(engine, READERS)
        self._ring = partial(ring, bell_of(Path(path)))

    def begin(self) -> "Transaction":
        return Transaction(self._writes, WRITES, self._ring)

    def begin_state(self) -> "Transaction":
        return Transaction(self._writes, WRITES)

    def read(self) -> "Transaction":
        return Transaction(self._reads, READS)

    async def close(self) -> None:
        await self._writes.close()
        await self._reads.close()


class _Kept:
    """Open connections, for one transaction after the other."""

    def __init__(self, engine: AsyncEngine, at_most: int) -> None:
        self._engine = engine
        self._room = asyncio.Semaphore(at_most)
        self._idle: list[AsyncConnection] = []
        self._closed = False

    async def take(self) -> AsyncConnection:
        try:
            async with asyncio.timeout(QUEUED_FOR) if self._room.locked() else contextlib.nullcontext():
                await self._room.acquire()
        except TimeoutError:
            raise Unavailable("the store is busy; ask again in a moment") from None
        try:
            if self._idle:
                return self._idle.pop()
            made = await self._engine.connect()
            await made.begin()
            return made
        except BaseException:
            self._room.release()
            raise

    async def give_back(self, connection: AsyncConnection) -> None:
        self._room.release()
        if self._closed or connection.invalidated:
            await asyncio.shield(connection.close())
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            await self._idle.pop().close()


class Transaction:
    """Begins, and at the end commits, or rolls back on any error. Raises Unavailable where the file cannot be had."""

    __slots__ = ("_begin", "_connection", "_driver", "_kept", "_then")

    def __init__(self, kept: _Kept, begin: str, then: Callable[[], None] | None = None) -> None:
        self._kept, self._begin, self._then = kept, begin, then

    async def __aenter__(self) -> AsyncConnection:
        try:
            self._connection = connection = await self._kept.take()
        except DBAPIError as broken:
            raise _known(broken) or broken from None
        self._driver = driver = driver_of(connection)
        try:
            if self._begin is WRITES:
                await driver.begin_writing(WRITES)
            else:
                driver.open.execute(self._begin)
        except sqlite3.Error as broken:
            await self._kept.give_back(connection)
            raise self._meaning(broken, self._begin) from None
        except BaseException:
            await self._kept.give_back(connection)
            raise
        return connection

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                await self._committed()
            else:
                await self._driver.rollback()
        finally:
            await self._kept.give_back(self._connection)
        if isinstance(error, DBAPIError) and (known := _known(error)) is not None:
            raise known from None

    async def _committed(self) -> None:
        try:
            await self._driver.commit()
        except sqlite3.Error as broken:
            await self._driver.rollback()
            raise self._meaning(broken, "COMMIT") from None
        except BaseException:
            await self._driver.rollback()  # of nothing, where it was committed before somebody lost patience
            raise
        if self._then is not None:
            self._then()

    def _meaning(self, broken: sqlite3.Error, said: str) -> Exception:
        dialect = self._connection.dialect
        told = DBAPIError.instance(said, (), broken, sqlite3.Error, hide_parameters=True, dialect=dialect)
        assert isinstance(told, DBAPIError)
        return _known(told) or told


def driver_of(connection: AsyncConnection) -> InlineConnection:
    assert connection.sync_connection is not None
    driver = connection.sync_connection.connection.driver_connection
    assert isinstance(driver, InlineConnection)
    return driver


def _known(broken: DBAPIError) -> CountersignError | None:
    """What it means for whoever asked, or None where it is a mistake of ours."""
    text = str(broken.orig).lower()
    if isinstance(broken, OperationalError):
        if "disk" in text or "full" in text:
            return Unavailable("the disk of the data folder is full or failing; free some space and ask again")
        if "locked" in text or "connect" in text or "closed" in text:
            return Unavailable("the store is busy or does not answer; ask again in a moment")
        return None
    return Unavailable("the store's connection broke; ask again in a moment") if broken.connection_invalidated else None
