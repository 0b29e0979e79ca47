"""The acting half of `runs`: start one, cancel it, resume it, run it again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from countersign.adapters.store import canceling, plans, records
from countersign.adapters.store.requests import Draft
from countersign.adapters.store.runs import RunRow
from countersign.core.composite import MOST
from countersign.core.errors import FailedPrecondition, InvalidArgument
from countersign.core.run import COMPOSITE, RUN_TYPES, Mode, RunState, RunType
from mcp_front import lookup, receipts, shown
from mcp_front.call import Call
from mcp_front.composing import StepInput, Whole, again, drafted, is_a_steps_own, refuse_for_a_step
from mcp_front.domain import Access
from mcp_front.envelope import Answer
from mcp_front.starting import RunId, started
from mcp_front.tools.runs.server import RUNS

SOON = 1.0  # seconds a wish has to show in the run's row before it is answered


@RUNS.tool("run_start", Access.WRITE, title="Start run", run=True)
async def run_start(call: Call, type: str, input: dict[str, Any]) -> Answer:
    """Start a run by its registered type, the name of the tool that starts such runs; `input` is that tool's, its right is needed.
    `composite` takes `steps` of {type, input}: several runs, one approval."""
    if type not in RUN_TYPES or type not in {*call.front.toolset.tools, *call.front.toolset.starts}:
        raise InvalidArgument(f"no run type {type[:60]!r}{lookup.nearest(type, RUN_TYPES)}", field="type")
    spec = call.tool_named(type)
    common = sorted(set(input) & spec.common)
    if common:
        raise InvalidArgument(f"give {common[0]} beside input, not in it", field=f"input.{common[0]}")
    try:
        own, _ = spec.validated(input)
    except InvalidArgument as wrong:
        raise InvalidArgument(wrong.message, field=f"input.{wrong.field}", next=wrong.next) from None
    return await spec.function(replace(call, tool=spec), **own)


# It has no tool of the catalogue: `run_start` starts it, and the rights that count are those to the tools of its steps.
@RUNS.tool("composite", Access.WRITE, title="Several runs as one", run=True, listed=False)
async def composite(
    call: Call,
    steps: Annotated[Sequence[StepInput], Field(min_length=1, max_length=MOST, description="in the order they are applied")],
) -> Answer:
    """Plan several runs as one plan of plans with one approval, and apply them in order. A step that can be planned only after the ones
    before it is planned then, and asks again."""
    whole = await drafted(call, steps)
    return await _composed(call, whole, whole.arguments)


async def _composed(call: Call, whole: Whole, arguments: Mapping[str, Any], *, warnings: tuple[str, ...] = ()) -> Answer:
    begun = await call.front.gateway.start(
        call.caller,
        Draft(
            run_type=RUN_TYPES[COMPOSITE],
            stack=whole.stack,
            arguments=arguments,
            mode=Mode.SPECULATIVE if call.given.dry_run or whole.is_dry else None,
        ),
        key=call.given.idempotency_key,
        message=call.given.message,
        steps=whole.steps,
    )
    return await started(call, begun.run, replayed=begun.replayed, warnings=warnings)


@RUNS.tool("run_cancel", Access.WRITE, title="Cancel run", carried=True)
async def run_cancel(call: Call, run_id: RunId, reason: Annotated[str | None, Field(max_length=500)] = None, force: bool = False) -> Answer:
    """Cancel a run: stop or abort it. Before apply nothing is changed; a running apply is interrupted once, saves its state and tells
    its partial result. One that does not stop is ended by force when its grace period is over."""
    arguments = {"run_id": run_id, "reason": reason, "force": force}
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    if await receipts.replayed(call, arguments) is not None:
        return await shown.answer(call, run, replayed=True)
    refuse_for_a_step(run, what="cancel")
    if run.ended:
        raise FailedPrecondition(f"the run has ended already: {run.state}", next=["run_get"], details={"run_id": run.id})
    if force:
        await _may_force(call, run)
    if call.given.dry_run:
        return await shown.answer(call, run, warnings=("a dry run: nothing was canceled",))
    before = run.cursor
    await call.front.gateway.cancel(call.caller, run, reason=reason or call.given.message or "", force=force)
    run = await call.front.gateway.wait(call.org, run.id, lambda now: now.cursor > before, seconds=SOON)
    return await receipts.kept(call, arguments, await shown.answer(call, run))


async def _may_force(call: Call, run: RunRow) -> None:
    """Raises FailedPrecondition that tells when it becomes possible. What counts is decided where it is recorded."""
    now, after = call.front.store.now(), call.front.settings.force_after
    async with call.front.store.read() as conn:
        refused = await canceling.refused(conn, run, after=after, now=now)
    if refused is None:
        return
    left = math.ceil((refused.possible_at - now).total_seconds()) if refused.possible_at is not None else None
    raise FailedPrecondition(
        refused.message, field="force", retry_after_seconds=left, next=["run_wait", "run_logs"], details={"run_id": run.id}
    )


@RUNS.tool("run_resume", Access.WRITE, title="Resume run", run=True)
async def run_resume(call: Call, run_id: RunId) -> Answer:
    """Resume a run that was interrupted or needs an operator: it continues by looking at the evidence first. A partially applied run is
    finished by a new, linked run with its own plan."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    call.tool_named(run.type)  # who resumes a run has it started
    if not is_a_steps_own(run):
        refuse_for_a_step(run, what="resume")
    if run.state is RunState.PARTIALLY_APPLIED and run.type == COMPOSITE:
        left = await again(call, run, left_only=True)
        return await _composed(call, left, {**left.arguments, "resumes": run.id})
    if run.state is RunState.PARTIALLY_APPLIED:
        return await _again(call, run, {**run.request, "resumes": run.id})
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
    """Run an ended or failed run again, with the same inputs or, by `refresh_inputs`, with today's: a new run, a new plan, a new
    approval."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    call.tool_named(run.type)
    refuse_for_a_step(run, what="run again")
    if not run.ended:
        raise FailedPrecondition(f"the run is still open: {run.state}", next=["run_get", "run_cancel"], details={"run_id": run.id})
    warnings: tuple[str, ...] = ()
    if run.type == COMPOSITE:
        whole = await again(call, run, left_only=False, commits="newest" if refresh_inputs else "planned")
        if not refresh_inputs and any(one.stack.source_repo is None for one in whole.steps):
            warnings = ("the inputs of steps that come from no repository cannot be frozen: they are planned as they are now",)
        return await _composed(call, whole, {**whole.arguments, "rerun_of": run.id}, warnings=warnings)
    request = {**run.request, "rerun_of": run.id}
    if refresh_inputs:
        request.pop("commit", None)
    else:
        async with call.front.store.read() as conn:
            plan = await plans.get_plan(conn, run.org, run.id)
        if plan is not None and plan.inputs.get("commit"):
            request["commit"] = plan.inputs["commit"]
        else:
            warnings = ("the inputs of that run cannot be frozen: the workspace is a folder, which is planned as it is now",)
    return await _again(call, run, request, warnings=warnings)


async def _again(call: Call, run: RunRow, request: Mapping[str, Any], *, warnings: tuple[str, ...] = ()) -> Answer:
    """A new run of the same type, linked to the old one by its request."""
    async with call.front.store.read() as conn:
        stack = await records.get_stack(conn, call.org, run.stack_id)
    dry = call.given.dry_run and run.changes
    request = {name: value for name, value in request.items() if name != "plan_digest"}  # a new plan: what was adopted is of then
    begun = await call.front.gateway.start(
        call.caller,
        Draft(
            run_type=RunType(name=run.type, engine=run.engine, mode=run.mode),
            stack=stack.config,
            arguments={**request, "destroy": True} if dry and run.mode is Mode.DESTROY else request,
            mode=Mode.SPECULATIVE if dry else None,
        ),
        key=call.given.idempotency_key,
        message=call.given.message,
    )
    return await started(call, begun.run, replayed=begun.replayed, warnings=warnings)
