"""Opening the store: SQLite beside the data folder, or Postgres; the same rows and the same transactions on both.

A write transaction on SQLite begins IMMEDIATE, and on Postgres takes its turn, so that what it read is still true when it
writes; every commit is fully synced, because an approval that power loss forgets would break what we promise.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from countersign.adapters.durable import on_disk
from countersign.adapters.store import inline_sqlite
from countersign.core.errors import FailedPrecondition, Unavailable

SCHEMA_HEAD = "0002"  # the newest migration; a test holds it against the migrations folder
WRITES = "BEGIN IMMEDIATE"
MIGRATIONS = Path(__file__).parent / "migrations"


def utc_now() -> datetime:
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """RFC 3339, UTC, always with microseconds, so that text order is time order."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


class Store:
    """One open store. `begin` is a write transaction, `read` a consistent look; both give a connection."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, *, url: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._writer = writer
        self._state_writer = writer.execution_options(of_states=True) if is_postgres(url) else writer
        self._reader = reader
        self._clock = clock
        self.url = url

    def now(self) -> datetime:
        return self._clock()

    @property
    def is_sqlite(self) -> bool:
        return self._writer.dialect.name == "sqlite"

    @property
    def path(self) -> Path | None:
        """The SQLite file, for a watcher of its own; None on other databases."""
        return Path(self._writer.url.database) if self.is_sqlite and self._writer.url.database else None

    @property
    def shown(self) -> str:
        """The database, for people: without its password."""
        if self.is_sqlite:
            return str(self.path)
        from countersign.adapters.store import postgres

        return postgres.shown(self.url)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction: commits at the end, rolls back on any error. Raises Unavailable where the database cannot be had."""
        async with _connected(self._writer) as connection:
            yield connection

    @asynccontextmanager
    async def begin_state(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction about heads of states and nothing of the ledger: it holds the rows it takes, and waits for nobody else."""
        async with _connected(self._state_writer) as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with _connected(self._reader) as connection:
            yield connection

    async def answers(self) -> bool:
        """Raises Unavailable where it does not."""
        async with self.read() as conn:
            await conn.execute(text("SELECT 1"))
        return True

    async def close(self) -> None:
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], datetime] = utc_now) -> "Store":
        """Open `url`, creating or migrating the schema. A schema newer than this program is refused and left alone."""
        if await asyncio.to_thread(_schema_version, url) != SCHEMA_HEAD:
            await asyncio.to_thread(migrate, url)
        parsed = make_url(url)
        if not parsed.drivername.startswith("sqlite") or not parsed.database:
            return cls(*_postgres_engines(url), url=url, clock=clock)
        opened = partial(inline_sqlite.connect, parsed.database, asyncio.Lock(), inline_sqlite.Disk())
        writer = create_async_engine(url, pool_size=4, max_overflow=4, async_creator=opened, hide_parameters=True)
        reader = create_async_engine(url, pool_size=4, max_overflow=8, async_creator=opened, hide_parameters=True)
        for engine, begin in ((writer, WRITES), (reader, "BEGIN")):
            _say_begin(engine, begin)
        return cls(writer, reader, url=url, clock=clock)


def is_postgres(url: str) -> bool:
    return url.startswith(("postgresql:", "postgresql+", "postgres:"))


def _postgres_engines(url: str) -> tuple[AsyncEngine, AsyncEngine]:
    from countersign.adapters.store import postgres  # its driver costs a start on SQLite more than the rest of the store

    writer, reader = postgres.engines(url)
    _say_begin(writer, postgres.WRITES, of_states=postgres.WRITES_STATE)
    _say_begin(reader, postgres.READS)
    return writer, reader


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    if engine.dialect.name == "postgresql":
        async with _on_postgres(engine) as connection:
            yield connection
        return
    try:
        async with engine.begin() as connection:
            yield connection
    except OperationalError as broken:
        text = str(broken.orig).lower()
        if "disk" in text or "full" in text:
            raise Unavailable("the disk of the data folder is full or failing; free some space and ask again") from None
        if "locked" in text or "connect" in text or "closed" in text:
            raise Unavailable("the store is busy or does not answer; ask again in a moment") from None
        raise
    except DBAPIError as lost:
        if lost.connection_invalidated:
            raise Unavailable("the store's connection broke; ask again in a moment") from None
        raise


@asynccontextmanager
async def _on_postgres(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    from countersign.adapters.store import postgres

    try:
        async with postgres.begun(engine) as connection:
            yield connection
    except PoolTimeout:
        raise Unavailable("the store is busy; ask again in a moment") from None
    except DBAPIError as broken:
        if (known := postgres.trouble(broken)) is not None:
            raise known from None
        raise


def _say_begin(engine: AsyncEngine, begin: str, *, of_states: str | None = None) -> None:
    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        driver = connection.connection.driver_connection
        if isinstance(driver, inline_sqlite.InlineConnection):
            _begin_inline(driver, begin, connection.dialect)
            return
        about_states = of_states and connection.get_execution_options().get("of_states")
        connection.exec_driver_sql(of_states if about_states else begin)


def _begin_inline(driver: inline_sqlite.InlineConnection, begin: str, dialect: Dialect) -> None:
    """Without a cursor: whatever waits here waits for the turn, or in a thread."""
    try:
        if begin == WRITES:
            await_only(driver.begin_writing(begin))
        else:
            driver.open.execute(begin)
    except sqlite3.Error as broken:
        raise DBAPIError.instance(begin, (), broken, sqlite3.Error, hide_parameters=True, dialect=dialect) from broken


def _schema_version(url: str) -> str | None:
    """The recorded version, read without loading alembic (0.3 s); None where there is none or it takes alembic to tell."""
    if is_postgres(url):
        from countersign.adapters.store import postgres

        return postgres.version(url)
    parsed = make_url(url)
    if not parsed.drivername.startswith("sqlite") or not parsed.database or not Path(parsed.database).exists():
        return None
    with sqlite3.connect(parsed.database) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return None
    connection.close()
    return str(row[0]) if row else None


def migrate(url: str) -> None:
    """Migrate, one process at a time: all parts of the service start at once on a fresh data folder."""
    if is_postgres(url):
        from countersign.adapters.store import postgres

        with postgres.migrating(url) as version:
            if version != SCHEMA_HEAD:
                _upgrade(str(postgres.parsed(url).render_as_string(hide_password=False)))
        return
    parsed = make_url(url)
    if not parsed.drivername.startswith("sqlite") or not parsed.database:
        _upgrade(url)
        return
    folder = Path(parsed.database).parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(folder / f".{Path(parsed.database).name}.migrating", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not Path(parsed.database).exists():
            _create(Path(parsed.database))
        elif _schema_version(url) != SCHEMA_HEAD:
            _upgrade(url)
    finally:
        os.close(fd)


def _create(path: Path) -> None:
    """A new store as the code of today has it; a test holds that against what the migrations make. Alembic alone takes 0.3 s to load."""
    from sqlalchemy import create_engine

    from countersign.adapters.store.schema import metadata

    half = path.with_name(f".{path.name}.new")
    half.unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{half}")
    with engine.begin() as connection:
        metadata.create_all(connection, checkfirst=False)
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO alembic_version (version_num) VALUES (?)", (SCHEMA_HEAD,))
    engine.dispose()
    half.replace(path)  # whole, or not there yet
    on_disk(path.parent)


def _upgrade(url: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    try:
        command.upgrade(config, "head")
    except CommandError as unknown:
        if "Can't locate revision" in str(unknown):
            raise FailedPrecondition(
                "this store was written by a newer Countersign; run that version, or point COUNTERSIGN_DATA or _DATABASE at another"
            ) from None
        raise
