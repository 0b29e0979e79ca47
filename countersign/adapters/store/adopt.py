"""Adopting a speculative plan: a run that applies takes a plan that was made before, in place of making one.

What is checked here are rows: whose plan it is, how old, and whether state and credentials are those it was made with. What it was
made *of* the engine compares. The run that adopts it asks for an approval of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import plans, records, runs, state
from countersign.adapters.store.check import credential_of
from countersign.adapters.store.plans import PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.core.engine import StackConfig
from countersign.core.errors import PlanStale
from countersign.core.run import Mode


@dataclass(frozen=True, kw_only=True)
class Adoptable:
    plan: PlanRow
    request: Mapping[str, Any]  # what the plan was asked for with

    @property
    def vars(self) -> Mapping[str, Any]:
        return self.request.get("vars") or {}

    @property
    def commit(self) -> str | None:
        found = self.plan.inputs.get("commit")
        return str(found) if found else None


async def inputs_of(conn: AsyncConnection, run: RunRow) -> Mapping[str, Any]:
    """What the run plans with: its request, and where it adopts a plan the variables and the commit of that one."""
    digest = run.request.get("plan_digest")
    plan = await plans.plan_by_digest(conn, run.org, digest) if digest else None
    if plan is None:
        return run.request
    found = Adoptable(plan=plan, request=(await runs.get_run(conn, run.org, plan.run_id)).request)
    return {**run.request, "vars": found.vars, "commit": found.commit}


async def plan_to_adopt(conn: AsyncConnection, *, org: str, stack: StackConfig, plan_digest: str, now: datetime) -> Adoptable:
    """The speculative plan of this stack with that digest, if it could be made today. Raises PlanStale saying why not."""
    plan = await plans.plan_by_digest(conn, org, plan_digest)
    run = await runs.get_run(conn, org, plan.run_id) if plan is not None else None
    if plan is None or plan.document is None or run is None or run.stack_id != stack.stack_id:
        raise _stale(f"no plan of {stack.path} has this digest; a plan with targets, or of a destruction, cannot be adopted")
    if run.mode is not Mode.SPECULATIVE:
        raise _stale(f"that is the plan of {run.id}, which asks for its own approval; approve it there", "run_get")
    if now >= datetime.fromisoformat(plan.document.expires_at):
        raise _stale(f"that plan was made at {plan.created_at:%Y-%m-%d %H:%M} UTC and has expired")
    head = await state.head(conn, org, stack.stack_id)
    if (head.lineage, head.serial) != (plan.lineage, plan.serial):
        raise _stale(f"the state moved from serial {plan.serial} to {head.serial} after that plan was made")
    if await credential_of(conn, org, (await records.get_stack(conn, org, stack.stack_id)).config) != plan.document.target.credential:
        raise _stale("the stack's credential was replaced after that plan was made")
    return Adoptable(plan=plan, request=run.request)


def _stale(why: str, *next: str) -> PlanStale:
    hint = "" if next else "; call apply_terraform without plan_digest: it plans anew and asks for that plan"
    return PlanStale(why + hint, field="plan_digest", next=next or ("apply_terraform",))
