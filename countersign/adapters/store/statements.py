"""Statements that are made once.

Building a statement costs twice as much as running it, and a small run takes more than a hundred. What is asked all the time is
built here from a table and names of columns, kept, and run with values; a value of None among the keys means IS NULL.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Row, Select, Table, Update, bindparam, desc, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

_AT = "at_"  # before the names of keys: a plain one means a value to be set


async def first(conn: AsyncConnection, table: Table, *, newest: str | None = None, hold: bool = False, **keys: Any) -> Row[Any] | None:
    """The row with these values, or None; of several the one whose `newest` is highest. `hold` keeps it from others until the end."""
    statement = _selected(table, *_named(keys), (newest,) if newest else (), newest is not None, hold)
    row: Row[Any] | None = (await conn.execute(statement, _values(keys))).first()
    return row


async def every(conn: AsyncConnection, table: Table, *, order: Sequence[str], **keys: Any) -> Sequence[Row[Any]]:
    """All rows with these values."""
    rows: Sequence[Row[Any]] = (await conn.execute(_selected(table, *_named(keys), tuple(order), False, False), _values(keys))).all()
    return rows


async def add(tx: AsyncConnection, table: Table, **values: Any) -> CursorResult[Any]:
    made: CursorResult[Any] = await tx.execute(_inserted(table), values)
    return made


async def change(tx: AsyncConnection, table: Table, keys: Mapping[str, Any], **values: Any) -> CursorResult[Any]:
    """Set `values` where the keys have theirs; `rowcount` tells how often."""
    return await tx.execute(_updated(table, *_named(keys), False), {**_values(keys), **values})


async def changed(tx: AsyncConnection, table: Table, keys: Mapping[str, Any], **values: Any) -> Row[Any] | None:
    """The same for at most one row, and the row as it is then; None where there was none."""
    return (await tx.execute(_updated(table, *_named(keys), True), {**_values(keys), **values})).first()


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
def _updated(table: Table, names: tuple[str, ...], nulls: tuple[str, ...], tells: bool) -> Update | Any:
    statement = update(table).where(*_where(table, names, nulls))
    return statement.returning(*table.c) if tells else statement
