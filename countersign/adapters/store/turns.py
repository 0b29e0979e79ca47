"""Whose turn it is on a state: held while planning and from claim to closed attempt, never while a person decides.

Rows, next to the fencing epoch and of the same truth; who is next says `core.queue`. A run asks, gets the turn or its place, and
is woken by whoever releases it; the sweep wakes who is next once more, so that a lost wake-up blocks nobody.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import statements
from countersign.adapters.store.schema import attempts, turns
from countersign.core.queue import AGREED, Waiting, rank_of

_MINE = (turns.c.org_id == bindparam("org_id")) & (turns.c.stack_id == bindparam("stack_id"))
_QUEUE = select(turns).where(_MINE).order_by(turns.c.held.desc(), turns.c.rank, turns.c.number)  # the holder first
_LEFT = delete(turns).where(_MINE, turns.c.run_id == bindparam("run_id"))


@dataclass(frozen=True, kw_only=True)
class Place:
    """`position` 0 holds the turn; else that many runs are before this one, named in `ahead`, the holder first."""

    position: int
    ahead: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        return self.position == 0


async def take(tx: AsyncConnection, *, org: str, stack_id: str, run_id: str, by: str, at: str, agreed: bool = False) -> Place:
    """Ask for the turn, or for one's place. An attempt another run left open holds the turn until evidence closes it.

    `by` is the requester, `agreed` that its plan may be applied: such a run goes before those that have to be planned.
    """
    mine = {"org_id": org, "stack_id": stack_id}
    rows = await statements.all_of(tx, _QUEUE, **mine)
    rank = AGREED if agreed else rank_of(by, (Waiting(by=row.by, rank=row.rank) for row in rows if not row.held))
    mine_row = next((row for row in rows if row.run_id == run_id), None)
    place_ = (mine_row.rank, mine_row.number) if mine_row is not None else (rank, max((row.number for row in rows), default=0) + 1)
    ahead = [row.run_id for row in rows if row.run_id != run_id and (row.held or (row.rank, row.number) < place_)]
    ahead = [] if mine_row is not None and mine_row.held else ahead
    ahead = await _with_open_attempt(tx, ahead, org=org, stack_id=stack_id, run_id=run_id)
    if mine_row is None:
        rank, number = place_
        await statements.add(tx, turns, **mine, run_id=run_id, number=number, rank=rank, by=by, held=not ahead, since=at)
    elif not ahead and not mine_row.held:
        await statements.change(tx, turns, {**mine, "run_id": run_id}, held=True)
    return Place(position=len(ahead), ahead=tuple(ahead))


async def place(conn: AsyncConnection, *, org: str, stack_id: str, run_id: str) -> Place | None:
    """The run's place without asking for one; None where it waits for no turn."""
    rows = [row.run_id for row in await statements.all_of(conn, _QUEUE, org_id=org, stack_id=stack_id)]
    if run_id not in rows:
        return None
    ahead = rows[: rows.index(run_id)]
    ahead = await _with_open_attempt(conn, ahead, org=org, stack_id=stack_id, run_id=run_id)
    return Place(position=len(ahead), ahead=tuple(ahead))


async def _with_open_attempt(conn: AsyncConnection, ahead: list[str], *, org: str, stack_id: str, run_id: str) -> list[str]:
    """An attempt that another run left open comes before everybody."""
    open_by = await open_attempt_of(conn, org=org, stack_id=stack_id)
    return ahead if open_by is None or open_by == run_id or open_by in ahead else [open_by, *ahead]


async def release(tx: AsyncConnection, *, org: str, stack_id: str, run_id: str) -> str | None:
    """Leave the queue, whether holding or waiting; returns the run that is next and should be woken."""
    mine = {"org_id": org, "stack_id": stack_id}
    await statements.run(tx, _LEFT, **mine, run_id=run_id)
    row = await statements.one(tx, _QUEUE, **mine)
    return str(row.run_id) if row is not None and not row.held else None


async def next_ones(conn: AsyncConnection, org: str) -> list[str]:
    """The run that is next on each state whose turn nobody holds."""
    free = select(turns).where(turns.c.org_id == org).order_by(turns.c.stack_id, turns.c.held.desc(), turns.c.rank, turns.c.number)
    first: dict[str, Row[Any]] = {}
    for row in await conn.execute(free):
        first.setdefault(row.stack_id, row)
    return [row.run_id for row in first.values() if not row.held]


async def open_attempt_of(conn: AsyncConnection, *, org: str, stack_id: str) -> str | None:
    """The run whose attempt is open on this state, or None."""
    row = await statements.first(conn, attempts, org_id=org, stack_id=stack_id, closed_at=None)
    return str(row.run_id) if row else None
