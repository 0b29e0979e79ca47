"""Statements that are made once.

Building a statement costs twice as much as running it, and a small run takes more than a hundred. What is asked all the time is
built here from a table and names of columns, kept, and run with values; a value of None among the keys means IS NULL.

On SQLite a kept statement goes to the driver as it was compiled: what is between costs four times what the statement does, and
there every statement runs where it is called (`inline_sqlite`). Errors are those of the longer way.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Executable, Row, Select, Table, bindparam, desc, select, update
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.result import result_tuple
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store.inline_sqlite import InlineConnection

_AT = "at_"  # before the names of keys: a plain one means a value to be set
_Processor = Callable[[Any], Any]


async def first(conn: AsyncConnection, table: Table, *, newest: str | None = None, hold: bool = False, **keys: Any) -> Row[Any] | None:
    """The row with these values, or None; of several the one whose `newest` is highest. `hold` keeps it from others until the end."""
    statement = _selected(table, *_named(keys), (newest,) if newest else (), newest is not None, hold)
    return await one(conn, statement, **_values(keys))


async def one(conn: AsyncConnection, statement: Executable, **values: Any) -> Row[Any] | None:
    """The first row of a statement that its module keeps, with values for its parameters."""
    if (driver := _driver(conn)) is not None:
        ready = _ready(statement, conn.dialect, ())
        return ready.row(ready.run(driver, values).fetchone())
    row: Row[Any] | None = (await conn.execute(statement, values)).first()
    return row


async def all_of(conn: AsyncConnection, statement: Executable, **values: Any) -> Sequence[Row[Any]]:
    """All its rows."""
    if (driver := _driver(conn)) is not None:
        ready = _ready(statement, conn.dialect, ())
        return [row for found in ready.run(driver, values).fetchall() if (row := ready.row(found)) is not None]
    rows: Sequence[Row[Any]] = (await conn.execute(statement, values)).all()
    return rows


async def run(tx: AsyncConnection, statement: Executable, **values: Any) -> None:
    """Run a kept update or delete that names its values itself."""
    if (driver := _driver(tx)) is not None:
        _ready(statement, tx.dialect, ()).run(driver, values)
    else:
        await tx.execute(statement, values)


async def every(conn: AsyncConnection, table: Table, *, order: Sequence[str], **keys: Any) -> Sequence[Row[Any]]:
    """All rows with these values."""
    return await all_of(conn, _selected(table, *_named(keys), tuple(order), False, False), **_values(keys))


async def add(tx: AsyncConnection, table: Table, **values: Any) -> int:
    """The row's number, where the table counts its rows; else 0."""
    if (driver := _driver(tx)) is not None:
        cursor = _ready(_inserted(table), tx.dialect, tuple(values)).run(driver, values)
        return int(cursor.lastrowid or 0) if table.autoincrement_column is not None else 0
    key = (await tx.execute(_inserted(table), values)).inserted_primary_key
    return int(key[0]) if key and table.autoincrement_column is not None else 0


async def put(tx: AsyncConnection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    """Run an insert that its module keeps for each of these rows, which all have the same columns."""
    if (driver := _driver(tx)) is not None:
        for row in rows:
            _ready(statement, tx.dialect, tuple(row)).run(driver, row)
    elif rows:
        await tx.execute(statement, rows)


async def change(tx: AsyncConnection, table: Table, keys: Mapping[str, Any], **values: Any) -> int:
    """Set `values` where the keys have theirs; how often that was."""
    statement, given = _updated(table, *_named(keys), False), {**_values(keys), **values}
    if (driver := _driver(tx)) is not None:
        return _ready(statement, tx.dialect, tuple(given)).run(driver, given).rowcount
    return (await tx.execute(statement, given)).rowcount


async def changed(tx: AsyncConnection, table: Table, keys: Mapping[str, Any], **values: Any) -> Row[Any] | None:
    """The same for at most one row, and the row as it is then; None where there was none."""
    statement, given = _updated(table, *_named(keys), True), {**_values(keys), **values}
    if (driver := _driver(tx)) is not None:
        ready = _ready(statement, tx.dialect, tuple(given))
        rows = ready.run(driver, given).fetchall()  # to its end: a statement that is not read out has changed nothing yet
        return ready.row(rows[0]) if rows else None
    return (await tx.execute(statement, given)).first()


def _named(keys: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of keys that have a value, and of those that have none."""
    return tuple(name for name, value in keys.items() if value is not None), tuple(name for name, value in keys.items() if value is None)


def _values(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {_AT + name: value for name, value in keys.items() if value is not None}


def _where(table: Table, names: Sequence[str], nulls: Sequence[str] = ()) -> list[ColumnElement[bool]]:
    return [*(table.c[name] == bindparam(_AT + name) for name in names), *(table.c[name].is_(None) for name in nulls)]


@cache
def _selected(
    table: Table, names: tuple[str, ...], nulls: tuple[str, ...], order: tuple[str, ...], newest: bool, hold: bool
) -> Select[Any]:
    query = select(table).where(*_where(table, names, nulls))
    query = query.order_by(*(desc(table.c[name]) if newest else table.c[name] for name in order))
    query = query.limit(1) if newest else query
    return query.with_for_update() if hold else query


@cache
def _inserted(table: Table) -> Any:
    return table.insert()


@cache
def _updated(table: Table, names: tuple[str, ...], nulls: tuple[str, ...], tells: bool) -> Any:
    statement = update(table).where(*_where(table, names, nulls))
    return statement.returning(*table.c) if tells else statement


# SQLite without what is between


def _driver(conn: AsyncConnection) -> sqlite3.Connection | None:
    """The open SQLite connection below, in its transaction; None on other databases."""
    if conn.sync_connection is None or conn.dialect.name != "sqlite":
        return None
    below = conn.sync_connection.connection.driver_connection
    return below.open if isinstance(below, InlineConnection) else None


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A statement as the driver takes it."""

    sql: str
    names: tuple[str, ...]
    fixed: Mapping[str, Any]  # parameters that come with the statement
    into: Mapping[str, _Processor]
    out_of: tuple[tuple[int, _Processor], ...]
    make: Callable[..., Row[Any]] = field(repr=False)
    dialect: Dialect = field(repr=False)

    def run(self, driver: sqlite3.Connection, values: Mapping[str, Any]) -> sqlite3.Cursor:
        given = {**self.fixed, **values}
        for name, process in self.into.items():
            given[name] = process(given[name])
        try:
            return driver.execute(self.sql, [given[name] for name in self.names])
        except sqlite3.Error as broken:
            raise DBAPIError.instance(self.sql, (), broken, sqlite3.Error, hide_parameters=True, dialect=self.dialect) from broken

    def row(self, found: tuple[Any, ...] | None) -> Row[Any] | None:
        if found is None:
            return None
        if self.out_of:
            told = list(found)
            for index, process in self.out_of:
                told[index] = process(told[index])
            found = tuple(told)
        return self.make(found)


@cache
def _ready(statement: Executable, dialect: Dialect, given: tuple[str, ...]) -> _Ready:
    """`given` are the names an insert or update sets: they are part of what is compiled."""
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(given) or None)  # type: ignore[attr-defined]
    columns = list(getattr(statement, "selected_columns", ())) or list(getattr(statement, "exported_columns", ()))
    processors = [c.type.dialect_impl(dialect).result_processor(dialect, None) for c in columns]
    binds = {name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in compiled.binds.items()}
    names = tuple(compiled.positiontup or ())
    return _Ready(
        sql=compiled.string,
        names=names,
        fixed={name: value for name, value in compiled.params.items() if value is not None},
        into={name: process for name, process in binds.items() if process is not None and name in names},
        out_of=tuple((index, process) for index, process in enumerate(processors) if process is not None),
        make=result_tuple([c.name for c in columns]),
        dialect=dialect,
    )
