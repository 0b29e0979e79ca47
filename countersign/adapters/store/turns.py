"""Whose turn it is on a state: held while planning and from claim to closed attempt, never while a person decides.

Rows, next to the fencing epoch and of the same truth. A run asks, gets the turn or its place, and is woken by whoever
releases it; a timer looks again, so that a lost wake-up blocks nobody.
"""

import itertools
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import statements
from countersign.adapters.store.schema import attempts, turns

_MINE = (turns.c.org_id == bindparam("org_id")) & (turns.c.stack_id == bindparam("stack_id"))
_QUEUE = select(turns).where(_MINE).order_by(turns.c.held.desc(), turns.c.number)  # the holder first
_LEFT = delete(turns).where(_MINE, turns.c.run_id == bindparam("run_id"))


@dataclass(frozen=True, kw_only=True)
class Place:
    """`position` 0 holds the turn; else that many runs are before this one, named in `ahead`, the holder first."""

    position: int
    ahead: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        return self.position == 0


async def take(tx: AsyncConnection, *, org: str, stack_id: str, run_id: str, at: str) -> Place:
    """Ask for the turn, or for one's place. An attempt another run left open holds the turn until evidence closes it."""
    mine = {"org_id": org, "stack_id": stack_id}
    rows = (await tx.execute(_QUEUE, mine)).all()
    ahead = list(itertools.takewhile(lambda other: other != run_id, (row.run_id for row in rows)))
    open_by = await open_attempt_of(tx, org=org, stack_id=stack_id)
    if open_by is not None and open_by != run_id and open_by not in ahead:
        ahead.insert(0, open_by)
    mine_row = next((row for row in rows if row.run_id == run_id), None)
    if mine_row is None:
        number = max((row.number for row in rows), default=0) + 1
        await statements.add(tx, turns, **mine, run_id=run_id, number=number, held=not ahead, since=at)
    elif not ahead and not mine_row.held:
        await statements.change(tx, turns, {**mine, "run_id": run_id}, held=True)
    return Place(position=len(ahead), ahead=tuple(ahead))


async def place(conn: AsyncConnection, *, org: str, stack_id: str, run_id: str) -> Place | None:
    """The run's place without asking for one; None where it waits for no turn."""
    rows = [row.run_id for row in await conn.execute(_QUEUE, {"org_id": org, "stack_id": stack_id})]
    if run_id not in rows:
        return None
    ahead = rows[: rows.index(run_id)]
    open_by = await open_attempt_of(conn, org=org, stack_id=stack_id)
    if open_by is not None and open_by != run_id and open_by not in ahead:
        ahead.insert(0, open_by)
    return Place(position=len(ahead), ahead=tuple(ahead))


async def release(tx: AsyncConnection, *, org: str, stack_id: str, run_id: str) -> str | None:
    """Leave the queue, whether holding or waiting; returns the run that is next and should be woken."""
    mine = {"org_id": org, "stack_id": stack_id}
    await tx.execute(_LEFT, {**mine, "run_id": run_id})
    row = (await tx.execute(_QUEUE, mine)).first()
    return str(row.run_id) if row is not None and not row.held else None


async def open_attempt_of(conn: AsyncConnection, *, org: str, stack_id: str) -> str | None:
    """The run whose attempt is open on this state, or None."""
    row = await statements.first(conn, attempts, org_id=org, stack_id=stack_id, closed_at=None)
    return str(row.run_id) if row else None
