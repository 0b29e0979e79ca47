"""One run, from what it would destroy to what its engine said last."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from countersign.adapters.store import plans, runs
from countersign.adapters.store.database import stamp
from countersign.adapters.store.plans import DecisionRow, PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.core.details import who_must_agree
from countersign.core.errors import InvalidArgument, NotFound, RateLimited
from countersign.core.ids import RUN_ID
from countersign.core.policy import Need
from countersign.core.run import RunState
from mcp_front import logs, lookup, planned, shown
from mcp_front.call import Call
from mcp_front.documents import Document, documents_of
from mcp_front.gateway import decisions_in_force
from mcp_front.pages import presenting
from mcp_front.pages.consent import may, objection
from mcp_front.pages.guard import HEADERS
from mcp_front.pages.presenting import STANDINGS
from mcp_front.pages.visit import Visit

LIVE_FOR = 20.0  # seconds a script waits for news
LINES = 60  # of a log
EVENTS = 400
FIELDS = ("comment", "confirm_name", "reason", "cancel_reason")  # that people type
ANOTHER = "The plan is not the one you read any more, so nothing was decided. This page shows the new one: read it first."
SAID = {
    "approved": "Your approval is recorded.",
    "rejected": "The run is rejected. Nothing was changed.",
    "canceled": "It is being canceled where that is safe.",
    "resumed": "It looks at the evidence again.",
}


def run_id_of(visit: Visit) -> str:
    """Raises NotFound for what is no id of a run."""
    run_id = str(visit.request.path_params["run_id"])
    if not RUN_ID.match(run_id):
        raise NotFound("there is no such page")
    return run_id


async def run_of(visit: Visit, call: Call, conn: AsyncConnection) -> RunRow:
    """The run of the address. Raises NotFound in the same words for one that is not there and one that is not theirs to see."""
    try:
        return await lookup.run_for(call, conn, run_id_of(visit))
    except NotFound as missing:
        missing.message = "There is no such run, or it is not yours to see."
        raise


async def show(
    visit: Visit, *, problem: str | None = None, code: str | None = None, tool: str | None = None, status: int = 200
) -> Response:
    """The whole page. `problem` is why a form that was sent to it was refused, `tool` whose form that was."""
    call = visit.call()
    async with visit.front.store.read() as conn:
        run = await run_of(visit, call, conn)
        plan = await plans.get_plan(conn, run.org, run.id)
        documents = await documents_of(call, conn, run)
        known = await _known(visit, call, conn, run, documents)
        changes = await _changes(visit, call, conn, run, plan) if plan is not None else None
    typed = {name: visit.form.get(name, "") for name in FIELDS}
    moved_on = code == "plan_stale" or (tool == "run_approve" and visit.form.get("plan_digest", "") != (run.plan_digest or ""))
    if moved_on and problem is not None:
        problem = f"{ANOTHER} ({problem})"
        typed["confirm_name"] = ""
    return await visit.draw(
        "run.html",
        status=status,
        **known,
        plan=_head(plan) if plan is not None else None,
        changes=changes,
        artifacts=[d for d in documents if d.size],
        problem=problem,
        problem_of=tool,
        nameless=code == "confirmation_required",
        typed=typed,
        said=SAID.get(visit.request.query_params.get("said", "")) if problem is None else None,
        filter={"action": visit.query("action"), "address": visit.query("address")},
        temporal=_temporal(visit, run),
    )


async def live(visit: Visit) -> Response:
    """What moves on a page, as soon as there is news after the event of that number; 204 where there is none for a while."""
    after = visit.request.query_params.get("after", "0")
    if not (after.isdecimal() and after.isascii() and len(after) < 16):
        raise InvalidArgument("after is a number of an event", field="after")
    call = visit.call()
    async with visit.front.store.read() as conn:
        run = await run_of(visit, call, conn)
    with visit.pages.followed.one(visit.caller.principal.id) as allowed:
        if not allowed:
            raise RateLimited("too many pages of yours wait for news; close some", retry_after_seconds=5)
        run = await visit.front.gateway.wait(run.org, run.id, lambda now: now.cursor > int(after) or now.ended, seconds=LIVE_FOR)
    if run.cursor <= int(after):
        return Response(status_code=204, headers=HEADERS)
    async with visit.front.store.read() as conn:
        run = await run_of(visit, call, conn)
        known = await _known(visit, call, conn, run, await documents_of(call, conn, run))
    return await visit.draw("live.html", **known, typed=dict.fromkeys(FIELDS, ""), nameless=False)


async def _known(visit: Visit, call: Call, conn: AsyncConnection, run: RunRow, documents: list[Document]) -> dict[str, Any]:
    """What moves: everything but the plan."""
    handle = await visit.front.gateway.handle(conn, run)
    queue = await shown.queue_of(call, conn, run)
    decided = await plans.decisions_of(conn, run.org, run.id)
    events = await runs.run_events(conn, run.org, run.id, limit=EVENTS)
    agreed = {d.by.id for d in decisions_in_force(decided, run.plan_digest)}
    waits = run.state is RunState.AWAITING_APPROVAL and run.parent is None  # a step is decided with its composite
    no = objection(call, run) if waits else None
    return {
        "run": run,
        "standing": STANDINGS[run.state],
        "members": [{"run": one, "standing": STANDINGS[one.state]} for one in await runs.members_of(conn, run)],
        "waits_for": shown.waits_for(run, handle, queue) if queue is not None or run.parent is not None else None,
        "created": stamp(run.created_at),
        "ended": stamp(run.ended_at) if run.ended_at else None,
        "changes_nothing": not run.changes,
        "ask": _ask(run, handle.approval.needed if handle.approval else 0) if waits else None,
        "objection": no.message if no else None,
        "agreed": call.caller.principal.id in agreed,
        "can_approve": waits and no is None and call.caller.principal.id not in agreed,
        "can_reject": waits and may(call, "run_reject", run),
        "can_cancel": not run.ended and run.parent is None and run.state is not RunState.CANCELING and may(call, "run_cancel", run),
        "can_resume": run.state in (RunState.NEEDS_OPERATOR, RunState.INTERRUPTED)
        and may(call, "run_resume", run)
        and run.type in call.front.toolset.tools
        and may(call, run.type, run),
        "decisions": [_decision(d, run) for d in decided],
        "timeline": presenting.timeline(shown.folded(events)),
        "log": await _log(visit, call, conn, run),
    }


def _ask(run: RunRow, needed: int) -> dict[str, Any]:
    need = run.requirement
    assert need is not None  # a run that waits for approval has one
    return {
        "who": who_must_agree(need),
        "not": run.requester.person if need.need.rank >= Need.OTHER.rank else None,
        "needed": needed,
        "people": need.people,
        "rule": need.rule,
        "confirm_name": need.confirm_name,
        "expires": stamp(run.expires_at) if run.expires_at else None,
    }


def _decision(decision: DecisionRow, run: RunRow) -> dict[str, Any]:
    verb = {"approve": "approved", "reject": "rejected"}.get(decision.decision, decision.decision)
    return {
        "by": decision.by.id,
        "verb": verb if decision.accepted else f"tried to {decision.decision}",
        "accepted": decision.accepted,
        "at": stamp(decision.at),
        "comment": decision.comment,
        "message": decision.message,
        "channel": str(decision.channel).replace("_", " "),
        "of_now": decision.plan_digest == run.plan_digest,
    }


async def _log(visit: Visit, call: Call, conn: AsyncConnection, run: RunRow) -> dict[str, Any]:
    """The end of the step that is asked for, else of the one that failed, else of the last one that says more than the timeline."""
    asked = visit.query("log", longest=40)
    data = await logs.log_data(call, conn, run, logs.Asked(step=asked, level=None, cursor=None, lines=LINES))
    names = [step["step"] for step in data["steps"]]
    said = [name for name in names if name.startswith(("plan", "apply"))]
    if asked is None and data["step"] == logs.LEDGER and said:
        data = await logs.log_data(call, conn, run, logs.Asked(step=said[-1], level=None, cursor=None, lines=LINES))
    return {
        "step": data["step"],
        "steps": names,
        "failed": data["failed"],
        "text": data["content"]["text"],
        "lines": data["lines"],
        "total": data["total_lines"],
        "asked": asked,
    }


async def _changes(visit: Visit, call: Call, conn: AsyncConnection, run: RunRow, plan: PlanRow) -> presenting.PlanPage:
    view = await planned.view_of(call, conn, run, plan)
    return presenting.plan_page(
        view,
        page=visit.number("page"),
        action=visit.query("action"),
        address=visit.query("address", longest=500),
        happened=run.mode == "drift",
    )


def _head(plan: PlanRow) -> dict[str, Any]:
    summary = plan.summary
    return {
        "digest": plan.plan_digest,
        "number": plan.number,
        "counts": summary.in_words,
        "change_class": str(summary.change_class).replace("_", " "),
        "engine": summary.engine_build or summary.engine,
        "risks": summary.risks,
        "findings": list(plan.findings),
        "serial": plan.serial,
        "lineage": plan.lineage,
        "commit": summary.source.removeprefix("commit ") or plan.inputs.get("commit"),
        "created": stamp(plan.created_at),
        "target": plan.document.target if plan.document else None,
    }


def _temporal(visit: Visit, run: RunRow) -> str | None:
    settings = visit.pages.settings
    link = settings.temporal_ui_link
    return f"{link}/namespaces/{settings.temporal_namespace}/workflows/{run.id}" if link else None
