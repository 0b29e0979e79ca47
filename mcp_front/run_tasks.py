"""Runs as tasks: a client that understands tasks gets a run as a task of the same id.

The run is what there is; a task is a way to look at it. Nothing is kept here: status, question and result are made from the run's
row whenever they are asked for, with the rights of whoever asks, so that any front answers for any task. Where the caller's own
word would count, the task asks for it (`input_required`); what comes back is signed and decided like every approval.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mcp import types
from mcp.server.elicitation import render_elicitation_schema
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from countersign.adapters.store import plans
from countersign.adapters.store.database import stamp
from countersign.adapters.store.plans import DecisionRow, PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.core.digests import canonical, sha256
from countersign.core.errors import BY_CODE, CountersignError, FailedPrecondition
from countersign.core.run import RunState
from mcp_front import asking, lookup, shown
from mcp_front.call import Call
from mcp_front.dispatch import Dispatch, protocol_error
from mcp_front.gateway import WAITS
from mcp_front.rights import allowed
from mcp_front.tasks import Request

log = logging.getLogger("countersign.front")
SOON, LATER = 1000, 5000  # milliseconds until it is worth looking again: while it works, while it waits for somebody
_FAILED = {  # ends that are not what was asked for, and their code where the run has none
    RunState.ERRORED: "provider_error",
    RunState.PARTIALLY_APPLIED: "provider_error",
    RunState.REJECTED: "failed_precondition",
    RunState.EXPIRED: "approval_expired",
}


class RunTasks:
    """What `mcp_front.tasks` asks about a task."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def started(self, tool: str, result: types.CallToolResult) -> str | None:
        spec = self._dispatch.front.toolset.get(tool)
        if spec is None or not spec.run:
            return None
        run_id: str | None = ((result.structured_content or {}).get("run") or {}).get("run_id")
        return run_id

    async def look(self, ctx: Request, task_id: str) -> dict[str, Any]:
        call, run = await self._run(task_id)
        if run.ended:
            return _head(run, "cancelled" if run.state is RunState.CANCELED else "completed") | await self._outcome(call, run)
        waits = await self._question(ctx, call, run)
        async with call.front.store.read() as conn:
            handle = await call.front.gateway.handle(conn, run)
            queue = await shown.queue_of(call, conn, run)
        wanted = shown.waits_for(run, handle, queue)
        message = f"{run.state}" + (f", waiting for {wanted}" if wanted else "") + (f" at {handle.approval.url}" if handle.approval else "")
        if waits is None:
            return _head(run, "working", message)
        if waits.refused:
            message = f"{message}; the last answer was refused: {waits.refused}"
        return _head(run, "input_required", message) | {"inputRequests": {waits.key: waits.request}}

    async def answer(self, ctx: Request, task_id: str, responses: Mapping[str, Any]) -> None:
        call, run = await self._run(task_id)
        waits = await self._question(ctx, call, run)
        if waits is not None and waits.key in responses:
            await self._answered(call, run, waits, responses[waits.key])

    async def cancel(self, ctx: Request, task_id: str) -> None:
        """As `run_cancel` does it, with the right to it."""
        _, run = await self._run(task_id)
        if run.ended:
            return
        result = await self._dispatch.tool("run_cancel", {"run_id": run.id, "reason": "the client cancelled its task"}, None)
        error = (result.structured_content or {}).get("error") if isinstance(result, types.CallToolResult) else None
        if error and error["code"] != "failed_precondition":  # that says that it ended meanwhile
            raise MCPError(types.INVALID_PARAMS, error["message"], {"code": error["code"], "retryable": error["retryable"]})

    async def _run(self, task_id: str) -> tuple[Call, RunRow]:
        """The run of a task, for who may read it. The same answer for what is not there and what is not theirs."""
        caller = self._dispatch.who()
        call = self._dispatch.call(caller, "run_get")
        try:
            async with call.front.store.read() as conn:
                return call, await lookup.run_for(call, conn, task_id[:80])
        except CountersignError as refused:
            if refused.retryable:
                raise protocol_error(refused) from None
            await self._dispatch.refused(caller, "tasks/get", refused, run_id=task_id)
            raise MCPError(types.INVALID_PARAMS, "Unknown task") from None

    async def _outcome(self, call: Call, run: RunRow) -> dict[str, Any]:
        """What the tool would answer now."""
        if run.state is RunState.CANCELED:
            return {}
        answer = await shown.answer(call, run)
        result = self._dispatch.shaped(call.caller, answer)
        if run.state in _FAILED:
            kind = BY_CODE.get(run.code or _FAILED[run.state], FailedPrecondition)
            error = kind(f"the run ended {run.state}: {run.reason or run.code or ''}", next=answer.next, details={"run_id": run.id})
            result = self._dispatch.failed(call.caller, error, run=answer.run)
        return {"result": result.model_dump(by_alias=True, mode="json", exclude_none=True)}

    # -- asking -----------------------------------------------------------------------------------------------------------

    async def _question(self, ctx: Request, call: Call, run: RunRow) -> "_Waits | None":
        """What the task asks this caller for; None where their word would not count, or their client cannot ask them."""
        if run.state is not RunState.AWAITING_APPROVAL or not asking.shows_forms(ctx.session.client_capabilities):
            return None
        async with call.front.store.read() as conn:
            plan = await plans.get_plan(conn, run.org, run.id)
            decided = await plans.decisions_of(conn, run.org, run.id)
        mine = [d for d in decided if d.by.id == call.caller.principal.id and d.plan_digest == run.plan_digest]
        approving = call.front.toolset.tools["run_approve"]
        if plan is None or any(d.accepted for d in mine) or not allowed(call.caller, approving, run=run):
            return None
        return _Waits(run, plan, mine) if asking.would_count(call, run, run.plan_digest or "") else None

    async def _answered(self, call: Call, run: RunRow, waits: "_Waits", answer: Any) -> None:
        """Forward an accepted answer; a declined one decides nothing, and what is refused is recorded where decisions are."""
        try:
            given = types.ElicitResult.model_validate(answer)
            said = waits.form.model_validate(given.content or {}) if given.action == "accept" else None
        except ValidationError:
            raise MCPError(types.INVALID_PARAMS, "the answer does not fit the question; nothing was decided") from None
        if said is None:
            return
        name, comment = getattr(said, "confirm_name", None), getattr(said, "comment", None)
        try:
            await call.front.gateway.approve(
                call.caller, run, digest=run.plan_digest or "", comment=comment, confirm_name=name.strip() if name else None
            )
        except CountersignError as refused:
            if refused.retryable:
                raise protocol_error(refused) from None
            log.info("an answer to the task %s was refused: %s", run.id, refused.code)


class _Waits:
    """A question and its key, which is made of its words: the same question is asked once, and after a refusal anew."""

    def __init__(self, run: RunRow, plan: PlanRow, mine: Sequence[DecisionRow]) -> None:
        question = asking.agreement(run, plan)
        self.form = question.schema
        self.refused = mine[-1].message if mine else None
        params = {"mode": "form", "message": question.message, "requestedSchema": render_elicitation_schema(question.schema)}
        self.request: Mapping[str, Any] = {"method": "elicitation/create", "params": params}
        self.key = "approve-" + sha256(canonical([len(mine), question.message])).removeprefix("sha256:")[:24]


def _head(run: RunRow, status: str, message: str | None = None) -> dict[str, Any]:
    return {
        "taskId": run.id,
        "status": status,
        "createdAt": stamp(run.created_at),
        "lastUpdatedAt": stamp(run.updated_at),
        "ttlMs": None,  # as long as there are runs
        "pollIntervalMs": LATER if run.state in WAITS else SOON,
        **({"statusMessage": message} if message else {}),
    }
