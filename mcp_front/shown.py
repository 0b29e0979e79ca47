"""Runs as callers read them: rows turned into bounded, labelled answers."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import plans, runs, turns
from countersign.adapters.store.database import stamp
from countersign.adapters.store.plans import DecisionRow
from countersign.adapters.store.runs import Event, RunRow
from countersign.core.redaction import Redactor
from countersign.core.run import COMPOSITE, RunState
from countersign.core.terraform.variables import secret_named
from mcp_front.call import Call
from mcp_front.envelope import Answer, RunHandle, clean, untrusted
from mcp_front.rights import Reach, reach

_REDACTOR = Redactor()
ALARMS = 5  # told with every answer about the run

_NEXT: dict[RunState, tuple[str, ...]] = {
    RunState.AWAITING_APPROVAL: ("run_plan", "run_approve", "run_reject", "run_wait"),
    RunState.NEEDS_OPERATOR: ("run_resume", "run_logs"),
    RunState.PLANNED_AND_FINISHED: ("run_plan",),
    RunState.APPLIED: ("run_evidence", "terraform_get_workspace"),
    RunState.PARTIALLY_APPLIED: ("run_logs", "run_resume"),
    RunState.REJECTED: ("run_rerun",),
    RunState.EXPIRED: ("run_rerun",),
    RunState.CANCELED: ("run_rerun",),
    RunState.ERRORED: ("run_logs", "run_rerun"),
}


def next_of(run: RunRow) -> tuple[str, ...]:
    if run.parent is not None and run.state is not RunState.NEEDS_OPERATOR:
        return ("run_get", "run_logs") if run.ended else ("run_wait", "run_plan")  # it is decided, canceled and resumed with the whole
    return _NEXT.get(run.state, ("run_wait", "run_cancel"))


def alarms(run: RunRow) -> tuple[str, ...]:
    """What its apply did that nobody approved, as warnings: they hold addresses, which somebody else named."""
    said = [f"ALARM, the apply does what nobody approved: {clean(str(one['message']))}" for one in run.alarms[:ALARMS]]
    return (*said, *([f"and {len(run.alarms) - ALARMS} more alarms: see run_logs"] if len(run.alarms) > ALARMS else []))


async def queue_of(call: Call, conn: AsyncConnection, run: RunRow) -> dict[str, Any] | None:
    """The run's place in the queue of its state; None while it waits for no turn."""
    if run.state not in (RunState.PENDING, RunState.APPROVED, RunState.STALE):
        return None
    place = await turns.place(conn, org=run.org, stack_id=run.stack_id, run_id=run.id)
    if place is None or place.held:
        return None
    far = reach(call.caller, call.front.toolset.tools["run_get"])
    return {"position": place.position, "ahead": list(place.ahead) if far is Reach.ALL else []}


def waits_for(run: RunRow, handle: RunHandle, queue: dict[str, Any] | None) -> str | None:
    """In words, what has to happen next and who does it."""
    if handle.approval is not None:
        name = ", who types the name" if handle.approval.confirm_name else ""
        return f"approval by {handle.approval.by[0]}{name}"
    if run.parent is not None and run.state is RunState.AWAITING_APPROVAL:
        return f"{run.parent}, which it is step {run.step} of, to be agreed to and to come to it"
    if run.late is not None and run.state is RunState.PENDING:
        return f"the steps of {run.parent} before it: {run.late}"
    if queue is not None:
        return f"its turn: {queue['position']} run(s) on the same state are before it"
    return {
        RunState.PENDING: "a worker",
        RunState.NEEDS_OPERATOR: "an operator, see reason",
        RunState.APPROVED: "its apply to start",
        RunState.APPLYING: "the engine",
        RunState.PLANNING: "the engine",
    }.get(run.state)


async def summary(call: Call, conn: AsyncConnection, run: RunRow, handle: RunHandle) -> dict[str, Any]:
    queue = await queue_of(call, conn, run)
    data = {
        "type": run.type,
        "mode": str(run.mode),
        "workspace": run.stack_path,
        "env": run.env,
        "requester": run.requester.id,
        "acts_for": run.requester.acts_for,
        "message": untrusted(run.message, run.requester.id) if run.message else None,
        "created_at": stamp(run.created_at),
        "updated_at": stamp(run.updated_at),
        "ended_at": stamp(run.ended_at) if run.ended_at else None,
        "waits_for": waits_for(run, handle, queue),
        "code": run.code,
        "reason": untrusted(run.reason, f"reason of {run.id}", limit=4000) if run.reason else None,
        "current": untrusted(run.current, f"progress of {run.id}") if run.current else None,
        "queue": queue,
        "composite": {"run_id": run.parent, "step": run.step} if run.parent is not None else None,
        "steps_of_it": await steps_of(conn, run),
        "from": await _origin(conn, run),
        "cursor": str(run.cursor),
    }
    return {name: value for name, value in data.items() if value is not None}


async def steps_of(conn: AsyncConnection, run: RunRow) -> list[dict[str, Any]] | None:
    """Where each step of a composite stands; None for any other run."""
    if run.type != COMPOSITE:
        return None
    return [_step(member) for member in await runs.members_of(conn, run)]


def _step(member: RunRow) -> dict[str, Any]:
    later = member.late if member.state is RunState.PENDING else None
    data = {
        "step": member.step,
        "run_id": member.id,
        "type": member.type,
        "workspace": member.stack_path,
        "state": str(member.state),
        "change_class": member.change_class,
        "plan_digest": member.plan_digest,
        "planned_later": untrusted(later, f"step {member.step}") if later else None,
        "code": member.code,
        "reason": untrusted(member.reason, f"reason of {member.id}", limit=1000) if member.reason else None,
    }
    return {name: value for name, value in data.items() if value is not None}


async def _origin(conn: AsyncConnection, run: RunRow) -> dict[str, Any] | None:
    """The commit of the newest plan, where the workspace comes from a repository."""
    return clean(await plans.origin(conn, run.org, run.id, run.plan_number)) if run.plan_number else None


def row(run: RunRow) -> dict[str, Any]:
    """A run in a list."""
    data = {
        "run_id": run.id,
        "type": run.type,
        "workspace": run.stack_path,
        "composite": run.parent,
        "state": str(run.state),
        "requester": run.requester.id,
        "change_class": run.change_class,
        "plan_digest": run.plan_digest,
        "created_at": stamp(run.created_at),
        "ended_at": stamp(run.ended_at) if run.ended_at else None,
        "code": run.code,
    }
    return {name: value for name, value in data.items() if value is not None}


def event(e: Event) -> dict[str, Any]:
    """One line of the ledger; its body may hold words of engines and of people."""
    said = {"body": clean(dict(e.body)), "untrusted": True} if e.body else {}
    return {"n": e.n, "at": stamp(e.at), "kind": e.kind, "state": str(e.state), **said}


def folded(found: list[Event]) -> list[dict[str, Any]]:
    """What happened, with only the last of each row of progress reports."""
    overtaken = {e.n for e, after in pairwise(found) if e.kind == after.kind == "progress"}
    return [event(e) for e in found if e.n not in overtaken]


def decision(d: DecisionRow) -> dict[str, Any]:
    data = {
        "decision": d.decision,
        "accepted": d.accepted,
        "by": d.by.id,
        "kind": str(d.by.kind),
        "acts_for": d.by.acts_for,
        "channel": str(d.channel),
        "plan_digest": d.plan_digest,
        "typed_name": d.confirm_name,
        "comment": untrusted(d.comment, d.by.id, limit=2000) if d.comment else None,
        "code": d.code,
        "message": d.message,
        "at": stamp(d.at),
    }
    return {name: value for name, value in data.items() if value is not None}


def variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values as somebody gave them, hidden where a name or a shape says secret; which sealed secret is meant is no secret."""
    hidden: Any = _REDACTOR.value(clean(dict(given)))
    return {name: _with_references(hidden.get(name), value) for name, value in given.items()}


def _with_references(hidden: Any, given: Any) -> Any:
    """`hidden`, with the names of sealed secrets put back where `given` has them: they sound like secrets and are none."""
    if (slug := secret_named(given)) is not None:
        return {"secret": slug}
    if isinstance(given, Mapping) and isinstance(hidden, Mapping):
        return {key: _with_references(hidden[key], value) if key in hidden else None for key, value in given.items()}
    if isinstance(given, list) and isinstance(hidden, list):
        return [_with_references(one, value) for one, value in zip(hidden, given, strict=False)]
    return hidden


def inputs(request: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run, without secrets."""
    shown: dict[str, Any] = clean({name: value for name, value in request.items() if name not in ("vars", "steps")})
    if request.get("steps"):
        shown["steps"] = [{**clean(dict(step)), "input": inputs(step["input"])} for step in request["steps"]]
    return {**shown, "vars": variables(request["vars"])} if request.get("vars") else shown


async def included(conn: AsyncConnection, run: RunRow, include: frozenset[str]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if include & {"steps", "timeline"}:
        found = await runs.run_events(conn, run.org, run.id, limit=1000)
        if "timeline" in include:
            data["timeline"] = folded(found)
        if "steps" in include:
            states = [e for e in found if e.kind == "state"]
            data["steps"] = [{"state": str(e.state), "at": stamp(e.at)} for e in states]
    if "input" in include:
        data["input"] = inputs(run.request)
    if "outputs" in include:
        data["outputs"] = {"untrusted": True, "source": f"outputs of {run.id}", "values": clean(dict(run.outputs or {}))}
    if "resources" in include:
        rows = list(run.resources)
        data["resources"] = {"untrusted": True, "source": f"apply of {run.id}", "total": len(rows), "items": clean(rows[:100])}
    if "approvals" in include:
        data["approvals"] = [decision(d) for d in await plans.decisions_of(conn, run.org, run.id)]
        data["requirement"] = run.requirement.model_dump(mode="json", exclude_none=True) if run.requirement else None
    return {name: value for name, value in data.items() if value is not None}


async def answer(
    call: Call,
    run: RunRow,
    *,
    warnings: tuple[str, ...] = (),
    replayed: bool = False,
    data: dict[str, Any] | None = None,
    fresh: bool = False,
) -> Answer:
    """The handle of a run that was just started, moved or looked at. One that is `fresh` is not looked at again where nothing else is."""
    queue = None
    if fresh and run.ended:
        handle = call.front.gateway.handle_of(run)
    else:
        async with call.front.store.read() as conn:
            run = await runs.get_run(conn, run.org, run.id)
            handle = await call.front.gateway.handle(conn, run)
            queue = await queue_of(call, conn, run)
    if queue is not None:
        data = {**(data or {}), "queue": queue}
    if run.ended and (run.code or run.reason):
        why = {"code": run.code, "reason": untrusted(run.reason, f"reason of {run.id}", limit=4000) if run.reason else None}
        data = {**(data or {}), **{name: value for name, value in why.items() if value is not None}}
    wanted = waits_for(run, handle, queue)
    text = f"{run.id} ({run.type} on {run.stack_path}) is {run.state}" + (f", waiting for {wanted}" if wanted else "")
    return Answer(text=text, run=handle, data=data, warnings=(*alarms(run), *warnings), replayed=replayed, next=next_of(run))
