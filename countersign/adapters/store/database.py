"""Opening the store: SQLite beside the data folder, or Postgres; the same rows and the same transactions on both.

A write transaction on SQLite begins IMMEDIATE, and on Postgres takes its turn, so that what it read is still true when it
writes; every commit is fully synced, because an approval that power loss forgets would break what we promise.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.durable import on_disk
from countersign.adapters.store.sqlite import Sqlite
from countersign.core.errors import FailedPrecondition

SCHEMA_HEAD = "0002"  # the newest migration; a test holds it against the migrations folder
MIGRATIONS = Path(__file__).parent / "migrations"


def utc_now() -> datetime:
    return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """RFC 3339, UTC, always with microseconds, so that text order is time order."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


class Database(Protocol):
    """What a kind of database gives: transactions that raise Unavailable where it cannot be had."""

    is_sqlite: bool

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    def begin_state(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    def read(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def close(self) -> None: ...


class Store:
    """One open store. `begin` is a write transaction, `read` a consistent look; both give a connection."""

    def __init__(self, database: Database, *, url: str, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._clock = clock
        self.url = url

    def now(self) -> datetime:
        return self._clock()

    @property
    def is_sqlite(self) -> bool:
        return self._database.is_sqlite

    @property
    def path(self) -> Path | None:
        """The SQLite file, for a watcher of its own; None on other databases."""
        return Path(make_url(self.url).database or "") if self.is_sqlite else None

    @property
    def shown(self) -> str:
        """The database, for people: without its password."""
        if self.is_sqlite:
            return str(self.path)
        from countersign.adapters.store import postgres

        return postgres.shown(self.url)

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A write transaction: commits at the end, rolls back on any error. Raises Unavailable where the database cannot be had."""
        return self._database.begin()

    def begin_state(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A write transaction about heads of states and nothing of the ledger: it holds the rows it takes, and waits for nobody else."""
        return self._database.begin_state()

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._database.read()

    async def answers(self) -> bool:
        """Raises Unavailable where it does not."""
        async with self.read() as conn:
            await conn.execute(text("SELECT 1"))
        return True

    async def close(self) -> None:
        await self._database.close()

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], datetime] = utc_now) -> "Store":
        """Open `url`, creating or migrating the schema. A schema newer than this program is refused and left alone."""
        if await asyncio.to_thread(_schema_version, url) != SCHEMA_HEAD:
            await asyncio.to_thread(migrate, url)
        parsed = make_url(url)
        if parsed.drivername.startswith("sqlite") and parsed.database:
            return cls(Sqlite(url, parsed.database), url=url, clock=clock)
        from countersign.adapters.store import postgres  # its driver costs a start on SQLite more than the rest of the store

        return cls(postgres.Postgres(url), url=url, clock=clock)


def is_postgres(url: str) -> bool:
    return url.startswith(("postgresql:", "postgresql+", "postgres:"))


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
