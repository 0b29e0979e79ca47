"""What proves how a run went: what was asked, planned, agreed, applied and recorded, in one bounded bundle."""

from dataclasses import asdict
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign import __version__
from countersign.adapters.store import journals, plans, runs
from countersign.adapters.store.database import stamp
from countersign.adapters.store.plans import AttemptRow, PlanRow
from countersign.adapters.store.runs import RunRow
from mcp_front import shown
from mcp_front.call import Call
from mcp_front.documents import documents_of
from mcp_front.envelope import clean

PLANS = 20  # of one run, the newest


async def bundle(call: Call, conn: AsyncConnection, run: RunRow) -> dict[str, Any]:
    """All of it; bytes are named by artifact id and digest, to be read with `read_artifact`."""
    first = max(1, run.plan_number - PLANS + 1)
    made = [await plans.get_plan(conn, run.org, run.id, number) for number in range(first, run.plan_number + 1)]
    decided = await plans.decisions_of(conn, run.org, run.id)
    events = await runs.run_events(conn, run.org, run.id, limit=2000)
    newest = next((plan for plan in reversed(made) if plan is not None), None)
    resources = list(run.resources)
    return {
        "v": "countersign.evidence/1",
        "run": shown.row(run) | {"mode": str(run.mode), "acts_for": run.requester.acts_for, "stack_id": run.stack_id},
        "input": shown.inputs(run.request),
        **({"composite": {"run_id": run.parent, "step": run.step}} if run.parent is not None else {}),
        **({"steps_of_it": steps} if (steps := await shown.steps_of(conn, run)) is not None else {}),
        "plans": [_plan(plan) for plan in made if plan is not None],
        "policy": {
            "requirement": run.requirement.model_dump(mode="json", exclude_none=True) if run.requirement else None,
            "version": newest.document.policy_version if newest and newest.document else None,
        },
        "decisions": [shown.decision(d) for d in decided],
        "attempts": [_attempt(a, await journals.received(conn, run.org, a.id)) for a in await plans.attempts_of(conn, run.org, run.id)],
        "alarms": clean([dict(one) for one in run.alarms]),
        "states": [{"state": str(e.state), "at": stamp(e.at)} for e in events if e.kind == "state"],
        "outputs": {"untrusted": True, "source": f"outputs of {run.id}", "values": clean(dict(run.outputs or {}))},
        "resources": {"untrusted": True, "source": f"apply of {run.id}", "total": len(resources), "items": clean(resources[:100])},
        "artifacts": [d.shown | {"name": d.name} for d in await documents_of(call, conn, run) if d.size],
        "versions": {"countersign": __version__, "engine": newest.summary.engine_build if newest else None},
    }


def _plan(plan: PlanRow) -> dict[str, Any]:
    document = plan.document
    return {
        "number": plan.number,
        "plan_digest": plan.plan_digest,
        "semantic_digest": plan.semantic_digest,
        "inputs_digest": document.inputs_digest if document else None,
        "inputs": clean(dict(plan.inputs)),
        "counts": str(plan.summary.counts),
        "change_class": str(plan.summary.change_class),
        "state": {"lineage": plan.lineage, "serial": plan.serial},
        "document": document.model_dump(mode="json") if document else None,  # its canonical JSON has plan_digest as its sha256
        "created_at": stamp(plan.created_at),
    }


def _attempt(attempt: AttemptRow, journal: journals.Received | None) -> dict[str, Any]:
    told = {"journal": {**asdict(journal), "at": stamp(journal.at), "facts": dict(journal.facts)}} if journal is not None else {}
    return {
        "attempt": attempt.id,
        "plan_digest": attempt.plan_digest,
        "epoch": attempt.epoch,
        "host": attempt.host,
        "opened_at": stamp(attempt.opened_at),
        "closed_at": stamp(attempt.closed_at) if attempt.closed_at else None,
        "outcome": attempt.outcome,
        "evidence": clean(list(attempt.evidence)),
        **told,
    }
