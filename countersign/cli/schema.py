"""The schema's version, looked up without loading what reads the rest: it is asked at every start of every part."""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from enum import Enum
from pathlib import Path

from countersign.adapters import store
from countersign.adapters.settings import Settings
from countersign.core.errors import FailedPrecondition

LOCK = "store.lock"
MARKER = "restoring"  # lies in a data folder from the first change of a restore to its last


class Standing(Enum):
    NONE = "none"  # nothing was ever written
    CURRENT = "current"
    OLDER = "older"
    UNKNOWN = "unknown"  # newer, damaged, or another kind of database: only opening it tells


@asynccontextmanager
async def locked(data: Path) -> AsyncIterator[None]:
    """All parts start at the same time, and only one of them may make or migrate the schema."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240  once, at the start
    fd = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await asyncio.to_thread(fcntl.flock, fd, fcntl.LOCK_EX)
        check_restored(data)
        yield
    finally:
        os.close(fd)


def check_restored(data: Path) -> None:
    """Raises FailedPrecondition where a restore was cut short: the folder is neither what it was nor what it should be."""
    if (data / MARKER).exists():
        raise FailedPrecondition(f"a restore of {data} was not finished; run the same `countersign restore` again")


def versions() -> list[str]:
    """Every version this program knows, the newest last."""
    folder = Path(store.__path__[0]) / "migrations" / "versions"
    return sorted(file.name.partition("_")[0] for file in folder.glob("[0-9]*.py"))


def recorded(file: Path) -> str | None:
    """The version a SQLite file is at, read only; None where it has none. Raises sqlite3.Error for what is no database."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


def standing(settings: Settings) -> Standing:
    if settings.database is not None:
        return Standing.UNKNOWN
    file = settings.data / "countersign.db"
    if not file.exists():
        return Standing.NONE
    try:
        version, known = recorded(file), versions()
    except sqlite3.Error:
        return Standing.UNKNOWN
    if version == known[-1]:
        return Standing.CURRENT
    return Standing.OLDER if version in known else Standing.UNKNOWN
