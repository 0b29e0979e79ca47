"""Letting go of bytes by their time: rows say so first, the bytes go, and then rows say that they are gone.

Killed in between, the next round finds by the rows what is left to do. A row stays with its digest, so that what a record names can
be told for ever from what never was. Journals of closed applies keep their last link, which proves all before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import GONE
from countersign.adapters.store.database import stamp
from countersign.adapters.store.schema import artifacts, attempts, journals, runs
from countersign.core.retention import Rule
from countersign.core.run import RunState


@dataclass(frozen=True, kw_only=True)
class Lapsed:
    """An artifact whose time is over and whose bytes lie there still."""

    id: str
    stack_id: str


async def lapse(tx: AsyncConnection, org: str, rule: Rule, *, now: datetime, most: int) -> int:
    """End the time of what the rule covers, the oldest first; how many there were. Nobody reads them from then on."""
    still_open = exists().where(attempts.c.org_id == runs.c.org_id, attempts.c.run_id == runs.c.id, attempts.c.closed_at.is_(None))
    query = (
        select(artifacts.c.id)
        .join(runs, (runs.c.org_id == artifacts.c.org_id) & (runs.c.id == artifacts.c.run_id))
        .where(artifacts.c.org_id == org, artifacts.c.expires_at.is_(None), artifacts.c.kind != "state")
        .where(runs.c.ended_at < stamp(now - timedelta(days=rule.days)), runs.c.mode.in_(sorted(map(str, rule.modes))))
        .where(_applied() if rule.applied else ~_applied(), ~still_open)
        .order_by(artifacts.c.at)
        .limit(most)
    )
    if rule.kinds is not None:
        query = query.where(artifacts.c.kind.in_(rule.kinds))
    found = list((await tx.execute(query)).scalars())
    if found:
        await tx.execute(update(artifacts).where(artifacts.c.org_id == org, artifacts.c.id.in_(found)).values(expires_at=stamp(now)))
    return len(found)


def _applied() -> Any:
    """Whether a run came to an apply: one of its own, or of its steps."""
    attempted = exists().where(attempts.c.org_id == runs.c.org_id, attempts.c.run_id == runs.c.id)
    return attempted | runs.c.state.in_([str(RunState.APPLIED), str(RunState.PARTIALLY_APPLIED)])


async def applied(conn: AsyncConnection, org: str, run_id: str) -> bool:
    query = select(runs.c.id).where(runs.c.org_id == org, runs.c.id == run_id, _applied())
    return (await conn.execute(query)).first() is not None


async def lapsed(conn: AsyncConnection, org: str, *, now: datetime, most: int) -> list[Lapsed]:
    mine = (artifacts.c.org_id == org) & (artifacts.c.expires_at <= stamp(now)) & (artifacts.c.kid != GONE)
    rows = await conn.execute(select(artifacts.c.id, artifacts.c.stack_id).where(mine).limit(most))
    return [Lapsed(id=row.id, stack_id=row.stack_id) for row in rows]


async def gone(tx: AsyncConnection, org: str, found: Iterable[Lapsed]) -> None:
    """Their bytes are not there any more."""
    ids = [one.id for one in found]
    await tx.execute(update(artifacts).where(artifacts.c.org_id == org, artifacts.c.id.in_(ids)).values(kid=GONE))


async def shorten_journals(tx: AsyncConnection, org: str, *, before: datetime, most: int) -> int:
    """Of journals of applies that were closed by then keep the last link and not what they say; how many applies there were.

    What was told after its attempt should have been dead is nobody's but the store's: such a journal stays whole.
    """
    late = exists().where(journals.c.org_id == attempts.c.org_id, journals.c.attempt_id == attempts.c.id, journals.c.late.is_(True))
    whole = exists().where(journals.c.org_id == attempts.c.org_id, journals.c.attempt_id == attempts.c.id, journals.c.kid != GONE)
    query = select(attempts.c.id).where(attempts.c.org_id == org, attempts.c.closed_at < stamp(before), whole, ~late).limit(most)
    found = list((await tx.execute(query)).scalars())
    for attempt_id in found:
        mine: Any = (journals.c.org_id == org) & (journals.c.attempt_id == attempt_id)
        last = (await tx.execute(select(func.max(journals.c.seq)).where(mine))).scalar_one()
        await tx.execute(delete(journals).where(mine, journals.c.seq < last))
        await tx.execute(update(journals).where(mine).values(sealed=b"", kid=GONE))
    return len(found)
