"""`runs`: start, follow, decide, cancel and resume durable runs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from countersign.adapters.store import records, runs
from countersign.adapters.store.runs import RunRow
from countersign.core.errors import ApprovalExpired, FailedPrecondition, InvalidArgument, NotFound
from countersign.core.run import RUN_TYPES, RunState, RunType
from mcp_front import lookup, shown
from mcp_front.call import Call
from mcp_front.domain import Access, Domain
from mcp_front.envelope import Answer
from mcp_front.gateway import WAITS
from mcp_front.tools.core import runs_visible

RUNS = Domain("runs")

RunId = Annotated[str, Field(pattern=r"^run_[0-9a-z]{26}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Include = Literal["steps", "inputs", "outputs", "resources", "approvals", "timeline"]
OPEN_WITHOUT_WORKER = frozenset({RunState.PENDING})


def settled(run: RunRow) -> bool:
    """What `wait_seconds` waits for: it ended, or waits for a person."""
    return run.ended or run.state in WAITS


async def started(call: Call, run: RunRow, *, replayed: bool = False, warnings: tuple[str, ...] = ()) -> Answer:
    """The answer of every `*` tool: at once, or after at most `wait_seconds`."""
    if call.given.wait_seconds:
        run = await call.front.gateway.wait(call.org, run.id, settled, seconds=call.given.wait_seconds)
    return await shown.answer(call, run, replayed=replayed, warnings=warnings)


@RUNS.tool("run_start", Access.WRITE, title="Start run", run=True)
async def run_start(call: Call, type: str, input: dict[str, Any]) -> Answer:
    """Start a run of a registered type. `type` is the name of the tool that starts such runs, `input` that tool's own arguments; its
    right is needed as well. Answers with the run at once."""
    if type not in RUN_TYPES or type not in call.front.toolset.tools:
        raise InvalidArgument(f"no run type {type[:60]!r}{lookup.nearest(type, RUN_TYPES)}", field="type")
    spec = call.tool_named(type)
    common = sorted(set(input) & (spec.common - {"wait_seconds"}))
    if common:
        raise InvalidArgument(f"give {common[0]} beside input, not in it", field=f"input.{common[0]}")
    try:
        own, _ = spec.validated(input)
    except InvalidArgument as wrong:
        raise InvalidArgument(wrong.message, field=f"input.{wrong.field}", next=wrong.next) from None
    return await spec.function(replace(call, tool=spec), **own)


@RUNS.tool("run_get", Access.READ, title="Get run", carried=True)
async def run_get(call: Call, run_id: RunId, include: Sequence[Include] = ()) -> Answer:
    """Get a run: its state, what it waits for and from whom, why it failed, its place in the queue, and what to do next."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
        handle = await call.front.gateway.handle(conn, run)
        data = await shown.summary(call, conn, run, handle) | await shown.included(conn, run, frozenset(include))
    wanted = data.get("waits_for")
    text = f"{run.type} on {run.stack_path} is {run.state}" + (f", waiting for {wanted}" if wanted else "")
    return Answer(text=text, data=data, run=handle, next=shown.next_of(run))


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
    """List runs, those that wait for a decision first, then the newest."""
    if state is not None and state not in set(RunState) | {"open"}:
        raise InvalidArgument(f"no state {state[:40]!r}{lookup.nearest(state, [*RunState, 'open'])}", field="state")
    if type is not None and type not in RUN_TYPES:
        raise InvalidArgument(f"no run type {type[:60]!r}{lookup.nearest(type, RUN_TYPES)}", field="type")
    narrowed = runs_visible(call) or {}
    if requester is not None and narrowed and requester != call.caller.principal.id:
        raise NotFound("you may see your own runs only; leave requester out", field="requester")
    async with call.front.store.read() as conn:
        found, total = await runs.list_runs(
            conn,
            call.org,
            stack_id=(await records.get_stack(conn, call.org, target)).id if target else None,
            states=[RunState(state)] if state and state != "open" else (),
            open_only=state == "open",
            types=[type] if type else (),
            env=lookup.environment(call, env) if env else None,
            since=lookup.point_in_time(since, call.front.store.now(), field="since"),
            offset=call.offset,
            limit=call.given.limit,
            **({"requester": requester} | narrowed),
        )
    waiting = sum(1 for run in found if run.state in WAITS)
    text = f"{total} run(s)" + (f", {waiting} of those shown wait for somebody" if waiting else "")
    return Answer(
        text=text, data={"runs": [shown.row(run) for run in found]}, page=call.page(returned=len(found), total=total), next=("run_get",)
    )


@RUNS.tool("run_wait", Access.READ, title="Wait for run", carried=True)
async def run_wait(
    call: Call,
    run_id: RunId,
    until: Literal["change", "decision", "end"] = "change",
    from_: Annotated[str | None, Field(alias="from", pattern=r"^[0-9]{1,15}$", description="cursor of the last answer")] = None,
    timeout_seconds: Annotated[float, Field(gt=0, le=25)] = 20,
) -> Answer:
    """Wait until a run changes, needs a decision, or ends; answers what is new and a cursor. No change in time is a normal answer."""
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
        what = f"{run.state}: {run.current}" if run.current else str(run.state)
        await call.report(value, float(run.total) if run.total else None, what)

    def reached(run: RunRow) -> bool:
        if until == "change":
            return run.cursor > begin or run.ended
        return settled(run) if until == "decision" else run.ended

    run = await front.gateway.wait(call.org, run_id, reached, seconds=timeout_seconds, on_look=tell)
    async with front.store.read() as conn:
        handle = await front.gateway.handle(conn, run)
        new = await runs.run_events(conn, call.org, run_id, after=begin, limit=500)
        queue = await shown.queue_of(call, conn, run)
    cursor = new[-1].n if new else max(begin, run.cursor)
    data: dict[str, Any] = {"changes": shown.folded(new), "cursor": str(cursor), "reached": reached(run)}
    if queue is not None:
        data["queue"] = queue
    wanted = shown.waits_for(run, handle, queue)
    text = f"{run.state}" + (f", waiting for {wanted}" if wanted else "") + (f", {run.done} of {run.total} done" if run.total else "")
    return Answer(text=text, data=data, run=handle, next=shown.next_of(run))


@RUNS.tool("run_approve", Access.DECIDE, title="Approve run")
async def run_approve(
    call: Call,
    run_id: RunId,
    plan_digest: Digest,
    comment: Annotated[str | None, Field(max_length=2000)] = None,
    confirm_name: Annotated[str | None, Field(max_length=255)] = None,
) -> Answer:
    """Approve the plan of a run, named by its digest, so that exactly this plan is applied. Where it destroys, `confirm_name` is the
    name typed out. Recorded in the caller's name."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    _decidable(run)
    await call.front.gateway.approve(call.caller, run, digest=plan_digest, comment=comment, confirm_name=confirm_name)
    return await shown.answer(call, run)


@RUNS.tool("run_reject", Access.DECIDE, title="Reject run")
async def run_reject(call: Call, run_id: RunId, reason: Annotated[str, Field(min_length=1, max_length=2000)]) -> Answer:
    """Reject a run before anything changed. It ends; the reason is recorded and shown to whoever asked."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    if run.state in (RunState.APPROVED, RunState.APPLYING, RunState.VERIFYING, RunState.CANCELING):
        raise FailedPrecondition(f"too late to reject: the run is {run.state}", next=["run_cancel"], details={"run_id": run.id})
    _decidable(run)
    await call.front.gateway.reject(call.caller, run, reason=reason)
    return await shown.answer(call, run)


def _decidable(run: RunRow) -> None:
    if run.state is RunState.EXPIRED:
        raise ApprovalExpired(
            "the time to approve this plan is over; a new run makes a new plan", next=["run_rerun"], details={"run_id": run.id}
        )
    if run.ended:
        raise FailedPrecondition(f"the run has ended: {run.state}", next=["run_get"], details={"run_id": run.id})


@RUNS.tool("run_cancel", Access.WRITE, title="Cancel run", carried=True)
async def run_cancel(call: Call, run_id: RunId, reason: Annotated[str | None, Field(max_length=500)] = None, force: bool = False) -> Answer:
    """Cancel a run. Before apply nothing is changed; an apply is interrupted once, saves its state and tells its partial result.
    `force` only after the grace period of a first cancel."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    if run.ended:
        raise FailedPrecondition(f"the run has ended already: {run.state}", next=["run_get"], details={"run_id": run.id})
    if force and run.state is not RunState.CANCELING:
        raise FailedPrecondition("force is for a run that is canceling and does not end; cancel it without first", field="force")
    if not call.given.dry_run:
        await call.front.gateway.cancel(call.caller, run, reason=reason or call.given.message or "", force=force)
        run = await call.front.gateway.wait(call.org, run.id, lambda now: now.cursor > run.cursor, seconds=1.0)
    return await shown.answer(call, run, warnings=("a dry run: nothing was canceled",) if call.given.dry_run else ())


@RUNS.tool("run_resume", Access.WRITE, title="Resume run", run=True)
async def run_resume(call: Call, run_id: RunId) -> Answer:
    """Resume an interrupted run, or one that needs an operator: it looks at the evidence first. A partly applied run is finished by a
    new, linked run with its own plan."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    call.tool_named(run.type)
    if run.state is RunState.PARTIALLY_APPLIED:
        return await _again(call, run, {"resumes": run.id})
    if run.ended:
        raise FailedPrecondition(f"the run ended cleanly: {run.state}", next=["run_rerun"], details={"run_id": run.id})
    if call.given.dry_run:
        return await shown.answer(call, run, warnings=("a dry run: nothing was resumed",))
    if run.state in (RunState.NEEDS_OPERATOR, RunState.INTERRUPTED):
        await call.front.gateway.resume(call.caller, run)
    else:
        # Open, and perhaps without a workflow because Temporal was away or somebody terminated it there.
        await call.front.gateway.ensure_started(run, again=True)
    return await started(call, run)


@RUNS.tool("run_rerun", Access.WRITE, title="Run again", run=True)
async def run_rerun(call: Call, run_id: RunId, refresh_inputs: bool = False) -> Answer:
    """Start a new run from the inputs of an ended one, or with `refresh_inputs` from today's: a new plan, a new approval."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    call.tool_named(run.type)
    if not run.ended:
        raise FailedPrecondition(f"the run is still open: {run.state}", next=["run_get", "run_cancel"], details={"run_id": run.id})
    return await _again(call, run, {"rerun_of": run.id, "frozen": not refresh_inputs})


async def _again(call: Call, run: RunRow, link: dict[str, Any]) -> Answer:
    from countersign.core.run import Mode

    async with call.front.store.read() as conn:
        stack = await records.get_stack(conn, call.org, run.stack_id)
    begun = await call.front.gateway.start(
        call.caller,
        RunType(name=run.type, engine=run.engine, mode=run.mode),
        stack.config,
        {**run.request, **link},
        key=call.given.idempotency_key,
        message=call.given.message,
        mode=Mode.SPECULATIVE if call.given.dry_run and run.changes else None,
    )
    return await started(call, begun.run, replayed=begun.replayed)
