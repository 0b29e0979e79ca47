"""Postgres behind the same transactions as SQLite.

What writes the ledger takes turns there as well: the audit chain hashes each row over the one before it, and a reader that has
seen event 7 must never miss event 6, so two such transactions could only run at once to abort one another. One advisory lock,
taken with BEGIN and gone with the transaction, makes them wait in order; see docs/decisions/0012. The heads of states are not
of the ledger: they hold their own row.

Nothing waits without end: for a lock, for a statement, or for a holder that stopped in the middle of its transaction.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction, create_async_engine

from countersign.core.errors import CountersignError, FailedPrecondition, InvalidArgument, Unavailable

CHANNEL = "countersign"  # told at every commit to the ledger
LEDGER = 0x636F756E  # keys of advisory locks: whoever writes the ledger,
SCHEMA = LEDGER + 1  # and whoever migrates

CONNECT_WITHIN = 5  # seconds; and so on
LOCKED_FOR = 10  # for a lock somebody else holds
QUEUED_FOR = 20  # for a connection of ours
STATEMENT_TAKES = 30
IDLE_INSIDE = 15  # a holder that stops inside of a transaction, or is cut off, loses it
READS_IDLE_INSIDE = 120  # a reader fetches an artifact of megabytes meanwhile, and keeps nobody waiting
MIGRATES_WITHIN = 120
LISTENS_FOR = 20
LISTENS_AGAIN = 0.5
# A peer that is gone without a word is noticed within half a minute.
ALIVE: dict[str, Any] = {
    "connect_timeout": CONNECT_WITHIN,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

WRITES = f"BEGIN; SELECT pg_advisory_xact_lock({LEDGER}); NOTIFY {CHANNEL}"
WRITES_STATE = "BEGIN"
READS = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

# By SQLSTATE, the longest prefix counts: what a later try may find mended.
_PASSING = {
    "08": "the connection to the database broke",
    "25P03": "the transaction took too long between two statements",
    "25006": "the database only reads just now, as a standby does",
    "40": "two transactions got into each other's way",
    "53100": "the disk of the database is full",
    "53": "the database has no connections or memory left",
    "55P03": "somebody else writes for too long",
    "57014": "a statement took too long",
    "57": "the database is stopping or starting",
    "58": "the database has trouble with its disk",
}
_REFUSED = {
    "28": "it does not accept that user or password",
    "3D000": "there is no such database: create it first (createdb)",
    "42501": "this user may not make tables there: run `countersign migrate` as one who may, or grant CREATE on the schema",
    "3F000": "there is no schema to make tables in: create it, or correct search_path",
}


def is_postgres(url: str) -> bool:
    return url.startswith(("postgresql:", "postgresql+", "postgres:"))


def parsed(url: str) -> URL:
    """The URL, for our driver. Raises InvalidArgument, and tells nothing of what was given: it may hold a password."""
    try:
        made = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidArgument("this is no database URL; write postgresql://USER@HOST/DATABASE", field="database") from None
    if made.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise InvalidArgument(f"there is no driver {made.drivername}; write postgresql://USER@HOST/DATABASE", field="database")
    return made.set(drivername="postgresql+psycopg")


def shown(url: str) -> str:
    """The database without its password, for people."""
    return parsed(url).set(drivername="postgresql", query={}).render_as_string(hide_password=True)


class Postgres:
    """A database there, for `database.Store`."""

    is_sqlite = False

    def __init__(self, url: str) -> None:
        self._writer, self._reader = engines(url)
        self._state_writer = self._writer.execution_options(of_states=True)
        _say_begin(self._writer, WRITES)
        _say_begin(self._reader, READS)

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return _served(self._writer)

    def begin_state(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return _served(self._state_writer)

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return _served(self._reader)

    async def close(self) -> None:
        await self._writer.dispose()
        await self._reader.dispose()


def _say_begin(engine: AsyncEngine, begin: str) -> None:
    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql(WRITES_STATE if connection.get_execution_options().get("of_states") else begin)


@contextlib.asynccontextmanager
async def _served(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        async with begun(engine) as connection:
            yield connection
    except PoolTimeout:
        raise Unavailable("the store is busy; ask again in a moment") from None
    except DBAPIError as broken:
        if (known := trouble(broken)) is not None:
            raise known from None
        raise


def engines(url: str) -> tuple[AsyncEngine, AsyncEngine]:
    """(writer, reader). Whoever connects says BEGIN: the driver would say it in a turn of its own."""
    common: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "pool_timeout": QUEUED_FOR,
        "hide_parameters": True,
    }
    at = parsed(url)
    writer = create_async_engine(at, pool_size=2, max_overflow=4, connect_args=_arguments(at, IDLE_INSIDE), **common)
    reader = create_async_engine(at, pool_size=5, max_overflow=10, connect_args=_arguments(at, READS_IDLE_INSIDE), **common)
    for engine in (writer, reader):
        event.listen(engine.sync_engine, "before_cursor_execute", _keep_nul_out, retval=True)
    return writer, reader


def _arguments(url: URL, idle: int) -> dict[str, Any]:
    """How to connect; what the URL says itself counts."""
    limits = {
        "statement_timeout": STATEMENT_TAKES,
        "lock_timeout": LOCKED_FOR,
        "idle_in_transaction_session_timeout": idle,
    }
    options = [f"-c {name}={seconds}s" for name, seconds in limits.items()]
    # An approval that power loss forgets would break what we promise, whatever this database does by default.
    options.append("-c synchronous_commit=on")
    given = url.query.get("options", "")
    options += [given] if isinstance(given, str) else list(given)
    arguments = {name: value for name, value in ALIVE.items() if name not in url.query}
    return {"application_name": "countersign", **arguments, "options": " ".join(filter(None, options))}


@contextlib.asynccontextmanager
async def begun(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction. A connection that died in the pool is noticed by BEGIN, before anything was done, and costs nobody an error."""
    connection, transaction = await _begin(engine, again=True)
    try:
        try:
            yield connection
        except BaseException:
            with contextlib.suppress(DBAPIError):  # what broke it is told, not that it is broken
                await transaction.rollback()
            raise
        if transaction.is_active:  # whoever rolled it back itself is done
            await transaction.commit()
    finally:
        await asyncio.shield(connection.close())


async def _begin(engine: AsyncEngine, *, again: bool) -> tuple[AsyncConnection, AsyncTransaction]:
    connection = await engine.connect()
    try:
        return connection, await connection.begin()
    except BaseException as broken:
        await asyncio.shield(connection.close())
        if again and isinstance(broken, DBAPIError) and broken.connection_invalidated:
            return await _begin(engine, again=False)  # the whole pool was given up with it
        raise


def _keep_nul_out(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> tuple[str, Any]:
    """Text from outside may hold NUL, which Postgres keeps in no text; a reader sees that something stood there."""
    return statement, [_without_nul(row) for row in parameters] if many else _without_nul(parameters)


def _without_nul(row: Any) -> Any:
    if isinstance(row, dict):
        return {name: value.replace("\0", "\ufffd") if isinstance(value, str) else value for name, value in row.items()}
    return row


def trouble(broken: DBAPIError) -> CountersignError | None:
    """What it means for whoever asked: that it may be asked again, or None where it is a mistake of ours."""
    code = getattr(broken.orig, "sqlstate", None)
    if isinstance(broken.orig, psycopg.DataError):
        return InvalidArgument("a text is too long for the store, or holds a character no text may have (NUL); write it otherwise")
    if code is None:
        away = isinstance(broken.orig, psycopg.OperationalError) or broken.connection_invalidated
        return Unavailable("the database does not answer; ask again in a moment") if away else None
    if (why := _of(_PASSING, code) or _of(_REFUSED, code)) is not None:
        return Unavailable(f"{why}; ask again in a moment")
    return Unavailable("the connection to the database broke; ask again in a moment") if broken.connection_invalidated else None


def _of(table: dict[str, str], code: str) -> str | None:
    return next((table[code[:n]] for n in (5, 2) if code[:n] in table), None)


# -- outside of the pool: once at the start, and to listen


def _connection_of(url: str, **more: Any) -> dict[str, Any]:
    at = parsed(url)
    words = at.translate_connect_args(username="user", database="dbname")
    return {**words, **at.query, **_arguments(at, READS_IDLE_INSIDE), "autocommit": True, **more}


@contextlib.contextmanager
def _opening(url: str) -> Iterator[None]:
    """Errors of a start, as one who starts it can mend them: nothing of the driver's text, which quotes what it was given."""
    try:
        yield
    except (psycopg.Error, DBAPIError) as failed:
        broken = failed if isinstance(failed, psycopg.Error) else failed.orig
        why = _of(_REFUSED, getattr(broken, "sqlstate", None) or "") or _reason(broken)
        if why is None and isinstance(broken, psycopg.ProgrammingError | psycopg.NotSupportedError | psycopg.IntegrityError):
            raise  # a mistake of ours
        if why is not None:
            raise FailedPrecondition(f"the database {shown(url)}: {why}", field="database") from None
        raise Unavailable(f"the database {shown(url)} does not answer; start it, or correct `database` and ask again") from None


def _reason(broken: BaseException | None) -> str | None:
    """What the server refused while connecting: there the driver gives a text and no SQLSTATE."""
    text = str(broken)
    for words, code in (
        ("password", "28"),
        ("authentication failed", "28"),
        ("no pg_hba.conf", "28"),
        ("role ", "28"),
        ("database ", "3D000"),
    ):
        if words in text and "FATAL" in text and ("does not exist" in text or code == "28"):
            return _REFUSED[code]
    return "it does not accept that user or password" if "no password supplied" in text else None


def version(url: str) -> str | None:
    """The recorded version of the schema; None where there is none. Raises FailedPrecondition, Unavailable."""
    with _opening(url), psycopg.connect(**_connection_of(url)) as connection:
        return _version(connection)


def _version(connection: "psycopg.Connection[Any]") -> str | None:
    if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a look at a database tells."""

    server: str  # "15.18"
    version: str | None  # of the schema
    durable: bool
    may_create: bool  # tables, in the schema they would be made in


def look(url: str) -> Seen:
    """Raises FailedPrecondition, Unavailable."""
    with _opening(url), psycopg.connect(**_connection_of(url)) as connection:
        asked = (
            "SELECT current_setting('server_version'), current_setting('fsync'), "
            "coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)"
        )
        row = connection.execute(asked).fetchone()
        assert row is not None  # one row, whatever happens
        server, fsync, may_create = row
        return Seen(server=server.partition(" ")[0], version=_version(connection), durable=fsync == "on", may_create=may_create)


@contextlib.contextmanager
def migrating(url: str) -> Iterator[str | None]:
    """Alone among all that migrate this database; the version it has then."""
    with _opening(url), psycopg.connect(**_connection_of(url)) as connection:
        connection.execute(sql.SQL("SET lock_timeout = {}").format(f"{MIGRATES_WITHIN}s"))
        connection.execute(sql.SQL("SET statement_timeout = {}").format(f"{MIGRATES_WITHIN}s"))
        connection.execute("SELECT pg_advisory_lock(%s)", [SCHEMA])  # gone with the connection
        yield _version(connection)


async def listening(url: str) -> AsyncGenerator[Sequence[tuple[str, str]] | None]:
    """The runs that have new events, each with the state it was left in; None where there may be others: after a connection was made,
    and while none can be. For ever."""
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(**_connection_of(url)) as connection:
                await connection.execute(f"LISTEN {CHANNEL}")
                newest = await _newest(connection)
                yield None  # what was told while nobody listened
                while True:
                    # Without news a look now and then, because a connection may be lost without a word.
                    async for _ in connection.notifies(timeout=LISTENS_FOR, stop_after=1):
                        pass
                    found = await connection.execute("SELECT n, run_id, state FROM events WHERE n > %s ORDER BY n", (newest,))
                    if rows := await found.fetchall():
                        newest = rows[-1][0]
                        yield [(run, state) for _, run, state in rows]
        except psycopg.Error:
            yield None
        await asyncio.sleep(LISTENS_AGAIN)


async def _newest(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> int:
    row = await (await connection.execute("SELECT max(n) FROM events")).fetchone()
    return int(row[0] or 0) if row else 0
