"""What is known about drift: the newest check of a stack, whether it says anything new, and who applied last what drifted."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import plans, records, runs
from countersign.adapters.store.database import stamp
from countersign.adapters.store.plans import PlanRow
from countersign.adapters.store.records import StackRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import runs as runs_table
from countersign.adapters.store.schema import turns
from countersign.adapters.store.turns import open_attempt_of
from countersign.core.engine import Planned
from countersign.core.run import Mode, RunState

ADDRESSES = 20  # in the ledger's event
APPLIES = 20  # the newest ones that are searched for who applied an address


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The newest drift check that came to an end."""

    run: RunRow
    plan: PlanRow


async def newest(conn: AsyncConnection, org: str, stack_id: str) -> Checked | None:
    query = (
        select(runs_table.c.id)
        .where(runs_table.c.org_id == org, runs_table.c.stack_id == stack_id, runs_table.c.mode == str(Mode.DRIFT))
        .where(runs_table.c.state == str(RunState.PLANNED_AND_FINISHED))
        .order_by(runs_table.c.created_at.desc())
        .limit(1)
    )
    run_id = (await conn.execute(query)).scalar_one_or_none()
    plan = await plans.get_plan(conn, org, run_id) if run_id is not None else None
    return Checked(run=await runs.get_run(conn, org, plan.run_id), plan=plan) if plan is not None else None


async def noted(tx: AsyncConnection, run: RunRow, planned: Planned, *, at: datetime) -> bool:
    """Write into the ledger what a check found, before the run ends; whether that is news: others than the check before found."""
    before = await newest(tx, run.org, run.stack_id)
    known = before.plan if before is not None and before.plan.summary.changes_anything else None
    found = planned.plan.changes_anything
    if not found and known is None:
        return False
    news = found and (known is None or known.semantic_digest != planned.plan.semantic_digest)
    addresses = [change.address for change in planned.plan.changes[:ADDRESSES]]
    body = {"found": planned.plan.counts.total, "addresses": addresses, "new": news, "summary": planned.plan.in_words}
    await runs.note(tx, run, at=at, kind="drift", body=body)
    return news


async def busy_with(conn: AsyncConnection, org: str, stack_id: str) -> str | None:
    """Why now is no time to look: a run plans or applies on the state, or another check is on its way. None where it is."""
    held = select(turns.c.run_id).where(turns.c.org_id == org, turns.c.stack_id == stack_id, turns.c.held.is_(True)).limit(1)
    holder = (await conn.execute(held)).scalar_one_or_none() or await open_attempt_of(conn, org=org, stack_id=stack_id)
    if holder is not None:
        return f"{holder} is at work on the state"
    looking = select(runs_table.c.id).where(
        runs_table.c.org_id == org,
        runs_table.c.stack_id == stack_id,
        runs_table.c.mode == str(Mode.DRIFT),
        runs_table.c.ended_at.is_(None),
    )
    if (other := (await conn.execute(looking.limit(1))).scalar_one_or_none()) is not None:
        return f"{other} looks already"
    return None


async def deployed_here(conn: AsyncConnection, org: str, env: str) -> list[StackRow]:
    """Releases of the environment "org/env" whose newest change through the gate was no uninstall."""
    done = (runs_table.c.org_id == org) & (runs_table.c.env == env) & (runs_table.c.engine == "helm")
    done &= runs_table.c.state.in_([str(RunState.APPLIED), str(RunState.PARTIALLY_APPLIED)])
    newest = (
        select(runs_table.c.stack_id, func.max(runs_table.c.ended_at).label("at")).where(done).group_by(runs_table.c.stack_id).subquery()
    )
    query = select(runs_table.c.stack_id, runs_table.c.mode).where(done).join(
        newest, (runs_table.c.stack_id == newest.c.stack_id) & (runs_table.c.ended_at == newest.c.at)
    )  # fmt: skip
    there = {row.stack_id for row in await conn.execute(query) if row.mode != str(Mode.DESTROY)}
    return [one for one in await records.releases_of(conn, org, env) if one.id in there]


async def last_applied(conn: AsyncConnection, org: str, stack_id: str, addresses: Collection[str]) -> dict[str, Mapping[str, Any]]:
    """Address → the newest apply that did something to it, as far as the newest ones tell."""
    applied, _ = await runs.list_runs(
        conn, org, stack_id=stack_id, states=[RunState.APPLIED, RunState.PARTIALLY_APPLIED], waiting_first=False, limit=APPLIES
    )
    found: dict[str, Mapping[str, Any]] = {}
    for run in applied:
        for resource in run.resources:
            address = str(resource.get("address", ""))
            if address in addresses and address not in found:
                who = {"run_id": run.id, "by": run.requester.id, "acts_for": run.requester.acts_for}
                found[address] = {name: value for name, value in who.items() if value} | {"at": stamp(run.ended_at or run.updated_at)}
    return found
