"""Where a run stands, as its workflow is told: read from rows, so that any workflow at any time hears the truth."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import plans
from countersign.adapters.store.reconciled import is_gone
from countersign.adapters.store.runs import RunRow
from countersign.core.details import details
from countersign.core.policy import Trust
from countersign.core.run import RunState
from countersign.core.steps import Standing

_LOST = frozenset({RunState.INTERRUPTED, RunState.RECONCILING})


async def standing_of(conn: AsyncConnection, run: RunRow, *, trust: Trust) -> Standing:
    plan = await plans.get_plan(conn, run.org, run.id)
    decisions = await plans.decisions_of(conn, run.org, run.id)
    attempts = await plans.attempts_of(conn, run.org, run.id)
    open_attempt = next((a for a in reversed(attempts) if a.closed_at is None), None)
    agreed: Sequence[str] = [d.by.id for d in decisions if d.accepted and d.decision == "approve" and d.plan_digest == run.plan_digest]
    host = open_attempt.host if open_attempt else None
    if open_attempt is not None and run.state in _LOST and await is_gone(conn, run, open_attempt.id):
        host = None  # whoever can accounts for it
    return Standing(
        state=run.state,
        plan_digest=run.plan_digest,
        change_class=run.change_class,
        details=details(
            run_id=run.id,
            stack_path=run.stack_path,
            run_type=run.type,
            requester=run.requester,
            message=run.message,
            state=run.state,
            reason=run.reason,
            plan=plan.summary if plan else None,
            plan_digest=run.plan_digest,
            requirement=run.requirement,
            expires_at=run.expires_at,
            decides_here=trust == "trusted",
            step_of=(run.step or 0, run.parent) if run.parent is not None else None,
            alarms=[str(one["message"]) for one in run.alarms],
            agreed=agreed,
            refusals=[f"{d.by.id}: {d.message}" for d in decisions if not d.accepted],
        ),
        expires_at=run.expires_at,
        attempt_id=open_attempt.id if open_attempt else None,
        host=host,
        code=run.code,
        message=run.reason or "",
    )
