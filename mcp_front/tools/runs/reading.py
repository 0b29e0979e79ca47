"""The reading half of `runs`: where a run stands, what it plans to do, what it said, and what proves how it went."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import records, runs
from countersign.adapters.store.runs import RunRow
from countersign.core.errors import InvalidArgument, NotFound
from countersign.core.run import RUN_TYPES, Mode, RunState
from mcp_front import evidence, logs, lookup, planned, shown
from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer, clean
from mcp_front.gateway import WAITS
from mcp_front.starting import RunId, settled
from mcp_front.tools.runs.server import RUNS

Include = Literal["steps", "input", "outputs", "resources", "approvals", "timeline"]


@RUNS.tool("run_get", Access.READ, title="Get run", carried=True)
async def run_get(call: Call, run_id: RunId, include: Sequence[Include] = ()) -> Answer:
    """Get a run's status: its state, how far it is, what it waits for and from whom, who approved, rejected or canceled it and when
    that expires, why it failed, its outputs and timeline, and what to do next."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
        handle = await call.front.gateway.handle(conn, run)
        data = await shown.summary(call, conn, run, handle) | await shown.included(conn, run, frozenset(include))
    wanted = data.get("waits_for")
    text = f"{run.type} on {run.stack_path} is {run.state}" + (f", waiting for {wanted}" if wanted else "")
    return Answer(text=text, data=data, run=handle, warnings=shown.alarms(run), next=shown.next_of(run))


@RUNS.tool("run_list", Access.READ, title="List runs", paged=True)
async def run_list(
    call: Call,
    target: Annotated[str | None, Field(max_length=200, description="workspace, env/slug or id")] = None,
    state: str | None = None,
    type: str | None = None,
    requester: Annotated[str | None, Field(max_length=120)] = None,
    env: str | None = None,
    since: Annotated[str | None, Field(description="RFC 3339, or -2h")] = None,
) -> Answer:
    """List runs, recent or of the past, those that wait for approval first: which are open, failed, were rejected or applied, who asked
    for them and what they destroyed; by workspace, environment, requester, type, state, and since when."""
    if state is not None and state not in set(RunState) | {"open"}:
        raise InvalidArgument(f"no state {state[:40]!r}{lookup.nearest(state, [*RunState, 'open'])}", field="state")
    if type is not None and type not in RUN_TYPES:
        raise InvalidArgument(f"no run type {type[:60]!r}{lookup.nearest(type, RUN_TYPES)}", field="type")
    narrowed = lookup.visible_runs(call)
    if narrowed is None or (requester is not None and narrowed and requester != call.caller.principal.id):
        raise NotFound("you may see your own runs only; leave requester out", field="requester")
    by: dict[str, Any] = {"requester": requester} | narrowed
    async with call.front.store.read() as conn:
        found, total = await runs.list_runs(
            conn,
            call.org,
            stack_id=await _target(call, conn, target) if target else None,
            states=[RunState(state)] if state and state != "open" else (),
            open_only=state == "open",
            types=[type] if type else (),
            env=lookup.environment(call, env) if env else None,
            members=target is not None,  # else a composite stands for its steps
            since=lookup.point_in_time(since, call.front.store.now(), field="since"),
            offset=call.offset,
            limit=call.given.limit,
            **by,
        )
    waiting = sum(1 for run in found if run.state in WAITS)
    text = f"{total} run(s)" + (f", {waiting} of those shown wait for somebody" if waiting else "")
    return Answer(
        text=text, data={"runs": [shown.row(run) for run in found]}, page=call.page(returned=len(found), total=total), next=("run_get",)
    )


async def _target(call: Call, conn: AsyncConnection, target: str) -> str:
    """The id of a stack or a release; one that was forgotten is still found by its id, since its runs are kept."""
    try:
        return (await records.find(conn, call.org, target)).id
    except NotFound as missing:
        if target.startswith("st_"):
            return target
        raise NotFound(missing.message, field="target", next=missing.next) from None


@RUNS.tool("run_wait", Access.READ, title="Wait for run", carried=True)
async def run_wait(
    call: Call,
    run_id: RunId,
    until: Literal["change", "decision", "end"] = "change",
    from_: Annotated[str | None, Field(alias="from", pattern=r"^[0-9]{1,15}$", description="cursor of the last answer")] = None,
    timeout_seconds: Annotated[float, Field(gt=0, le=25)] = 20,
) -> Answer:
    """Wait for a run: follow it until something changes, it needs a decision, or it has finished. Answers what is new and a cursor; no
    change in time is a normal answer."""
    front = call.front
    async with front.store.read() as conn:
        before = await lookup.run_for(call, conn, run_id)
    begin = int(from_) if from_ is not None else before.cursor
    told = {"cursor": -1, "progress": -1.0}

    async def tell(run: RunRow) -> None:
        if run.cursor == told["cursor"]:
            return
        value = float(run.done) if run.done > told["progress"] else told["progress"] + 0.01
        told.update(cursor=run.cursor, progress=value)
        what = f"{run.state}: {clean(run.current)}" if run.current else str(run.state)
        await call.report(value, float(run.total) if run.total else None, what)

    def reached(run: RunRow) -> bool:
        if until == "change":
            return run.cursor > begin or run.ended
        return settled(run) if until == "decision" else run.ended

    await front.gateway.wait(call.org, run_id, reached, seconds=timeout_seconds, on_look=tell)
    async with front.store.read() as conn:
        run = await runs.get_run(conn, call.org, run_id)  # with its events, at one moment
        handle = await front.gateway.handle(conn, run)
        new = await runs.run_events(conn, call.org, run_id, after=begin, limit=500)
        queue = await shown.queue_of(call, conn, run)
    cursor = new[-1].n if new else begin
    data: dict[str, Any] = {"changes": shown.folded(new), "cursor": str(cursor), "reached": reached(run)}
    if queue is not None:
        data["queue"] = queue
    wanted = shown.waits_for(run, handle, queue)
    text = f"{run.state}" + (f", waiting for {wanted}" if wanted else "") + (f", {run.done} of {run.total} done" if run.total else "")
    return Answer(text=text, data=data, run=handle, warnings=shown.alarms(run), next=shown.next_of(run))


@RUNS.tool("run_plan", Access.READ, title="Show plan", carried=True)
async def run_plan(
    call: Call,
    run_id: RunId,
    action: Annotated[str | None, Field(max_length=20)] = None,
    address: Annotated[str | None, Field(max_length=500, description="part of it, or a pattern with *")] = None,
    compare_to: Annotated[RunId | None, Field(description="shows only what differs from that run's plan")] = None,
) -> Answer:
    """Show a run's plan: what it will change, replace or delete and why, how many resources, its digest, change class and risk notes,
    the worst first. Filter by action or address, or compare to the plan of another run; the whole plan is an artifact."""
    if action is not None and action not in planned.ACTIONS:
        raise InvalidArgument(f"no action {action!r}{lookup.nearest(action, planned.ACTIONS)}", field="action")
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
        if compare_to is not None:
            other = await lookup.run_for(call, conn, compare_to, field="compare_to")
            data = await planned.compared(call, conn, run, other, address=address)
        else:
            plan = await planned.plan_of(conn, run)
            data = await planned.plan_data(call, conn, run, plan, action=action, address=address)
        handle = await call.front.gateway.handle(conn, run)
    if compare_to is not None:
        text = "the two plans mean the same" if data["equal"] else f"{data['total']} difference(s)"
    elif run.mode is Mode.DRIFT:
        text = f"drift: {data['summary'] if data['changes']['total'] else 'none'}"
    elif run.mode is Mode.VALIDATE:
        text = f"{len(data.get('findings', ()))} finding(s)"
    else:
        text = f"{data['summary']}; class {data['change_class']}" + (f"; needs {data['needs']}" if "needs" in data else "")
    return Answer(text=text, data=data, run=handle, next=tuple(name for name in shown.next_of(run) if name != "run_plan"))


@RUNS.tool("run_logs", Access.READ, title="Read logs", carried=True)
async def run_logs(
    call: Call,
    run_id: RunId,
    step: Annotated[str | None, Field(max_length=40, description="such as plan-1, apply-1, ledger")] = None,
    level: Literal["error", "warning", "info"] | None = None,
    from_: Annotated[str | None, Field(alias="from", max_length=60, description="cursor of the last answer")] = None,
    lines: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> Answer:
    """Read a run's logs: what Terraform printed, the end of the step that failed, or of the last one; by cursor, what came after.
    Redacted and untrusted. While an apply goes on, `ledger` tells how far it is."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
        data = await logs.log_data(call, conn, run, logs.Asked(step=step, level=level, cursor=from_, lines=lines))
    failed = ", which failed" if data["failed"] else ""
    text = f"{data['lines']} of {data['total_lines']} line(s) of {data['step']}{failed}"
    return Answer(text=text, data=data, warnings=shown.alarms(run), next=shown.next_of(run))


@RUNS.tool("run_evidence", Access.READ, title="Show evidence")
async def run_evidence(call: Call, run_id: RunId) -> Answer:
    """Show or export the evidence of a run, as proof for an audit: digests of inputs, plans and approval documents, policy verdicts,
    decisions, attempts, outputs, logs and versions."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
        data = await evidence.bundle(call, conn, run)
    text = f"{run.id} {run.state}: {len(data['plans'])} plan(s), {len(data['decisions'])} decision(s), {len(data['attempts'])} attempt(s)"
    warnings = ("the proof of the audit chain comes later and is not part of this",)
    return Answer(text=text, data=data, warnings=warnings, next=("read_artifact", "run_logs"))
