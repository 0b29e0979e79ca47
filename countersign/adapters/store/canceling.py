"""A cancel that is not enough: when an apply that was asked to stop may be ended by force, and who said so."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, plans, runs
from countersign.adapters.store.database import moment, stamp
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import events
from countersign.core.principal import Principal
from countersign.core.run import RunState

FORCE = "force"  # kind of the event


@dataclass(frozen=True, kw_only=True)
class Refused:
    message: str
    possible_at: datetime | None = None  # None: not by waiting


async def refused(conn: AsyncConnection, run: RunRow, *, after: timedelta, now: datetime) -> Refused | None:
    """Why the apply of the run may not be ended by force now, or None. `after`: how long it has to stop by itself."""
    if run.state is not RunState.CANCELING:
        return Refused(message="force is for a run that is canceling and does not end; cancel it without first")
    attempt = await plans.open_attempt(conn, run.org, run.stack_id)
    if attempt is None or attempt.run_id != run.id:
        return Refused(message="nothing of this run is being applied, so there is nothing to end by force")
    at = await canceled_at(conn, run)
    possible_at = at + after if at is not None else now
    if now < possible_at:
        left = (possible_at - now).total_seconds()
        why = f"it was asked to stop {(now - (at or now)).total_seconds():.0f} s ago and may still do so by itself, which loses nothing"
        return Refused(message=f"{why}; force is possible in {left:.0f} s, at {stamp(possible_at)}", possible_at=possible_at)
    return None


async def canceled_at(conn: AsyncConnection, run: RunRow) -> datetime | None:
    """When the apply that is open was first asked to stop."""
    found = (await conn.execute(_of(run).where(events.c.kind == "state").order_by(events.c.n.desc()))).all()
    since = None
    for row in found:
        if row.state != RunState.CANCELING:
            break
        since = moment(row.at)
    return since


async def force(tx: AsyncConnection, run: RunRow, *, by: Principal, reason: str, at: datetime) -> None:
    """Record the wish: whoever follows the apply carries it out."""
    await runs.note(tx, run, at=at, kind=FORCE, body={"by": by.id, "message": reason})
    await audit.of_run(tx, run, at=at, action="run.force", by=by)


async def is_forced(conn: AsyncConnection, run: RunRow) -> bool:
    """Whether somebody said so since the run began to cancel."""
    query = _of(run).where(events.c.kind.in_((FORCE, "state"))).order_by(events.c.n.desc()).limit(1)
    last = (await conn.execute(query)).first()
    return last is not None and last.kind == FORCE and last.state == RunState.CANCELING


def _of(run: RunRow) -> Any:
    return select(events).where(events.c.org_id == run.org, events.c.run_id == run.id)
