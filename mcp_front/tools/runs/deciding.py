"""Deciding about a run: the person in front of the client is asked where the client can ask; what they say is signed and sent.

The question comes after everything that would refuse the decision anyway, so that nobody is asked in vain; what is refused is
sent all the same, because a refusal is recorded where decisions are.
"""

from typing import Annotated, Any

from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Elicit, Resolve
from pydantic import Field

from countersign.adapters.store import plans
from countersign.adapters.store.runs import RunRow
from countersign.core.errors import ApprovalExpired, ConfirmationRequired, FailedPrecondition, InvalidArgument
from countersign.core.run import RunState
from mcp_front import asking, lookup, shown
from mcp_front.asking import Given, Outcome, Reason
from mcp_front.call import Call
from mcp_front.composing import refuse_for_a_step
from mcp_front.domain import Access
from mcp_front.envelope import Answer
from mcp_front.starting import SETTLED, Digest, RunId, settled
from mcp_front.tools.runs.server import RUNS

EARLY = 20.0  # seconds a decision that came before its plan waits for it


async def consent(call: Call, run_id: str, plan_digest: str, comment: str | None, confirm_name: str | None) -> Given | Elicit[Any]:
    """What the person says to this plan, or the question. Where the client can ask, a name in the arguments counts for nothing."""
    given = Given(confirm_name=confirm_name, comment=comment)
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    _decidable(run)
    if call.can_ask:
        return await _asked(call, run, plan_digest, given)
    if not asking.would_count(call, run, plan_digest):
        return given
    need = run.requirement.confirm_name if run.requirement else None
    if need is not None and not confirm_name:
        raise ConfirmationRequired(
            f"this destroys {need}: a person types that name as confirm_name, here or at {call.front.gateway.page_url(run.id)}",
            field="confirm_name",
            next=["run_plan"],
            details={"run_id": run.id},
        )
    return given


async def _asked(call: Call, run: RunRow, plan_digest: str, given: Given) -> Given | Elicit[Any]:
    """The question, where an answer to it would count."""
    if run.state is not RunState.AWAITING_APPROVAL:
        await _plan_made(call, run)
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run.id)
        plan = await plans.get_plan(conn, run.org, run.id)
    if plan is None or not asking.would_count(call, run, plan_digest):
        return given
    return asking.agreement(run, plan, comment=given.comment)


async def _plan_made(call: Call, run: RunRow) -> None:
    """Wait for the plan here: a decision that came early would be kept for it, and nobody would have been asked."""
    run = await call.front.gateway.wait(call.org, run.id, settled, seconds=EARLY, states=SETTLED)
    _decidable(run)
    if run.state is not RunState.AWAITING_APPROVAL:
        raise FailedPrecondition(
            f"the run waits for no decision: it is {run.state}", next=["run_wait", "run_get"], details={"run_id": run.id}
        )


@RUNS.tool("run_approve", Access.DECIDE, title="Approve run")
async def run_approve(
    call: Call,
    run_id: RunId,
    plan_digest: Digest,
    said: Annotated[Outcome, Resolve(consent)],
    comment: Annotated[str | None, Field(max_length=2000)] = None,
    confirm_name: Annotated[str | None, Field(max_length=255)] = None,
) -> Answer:
    """Approve the plan of a run: agree to and confirm exactly this plan, named by its digest, so that it goes ahead and is applied.
    Where it destroys, `confirm_name` is the name typed out. The person is asked where the client can ask. Recorded in the caller's
    name."""
    if not isinstance(said, AcceptedElicitation):
        raise asking.unanswered(said, run_id)
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    await call.front.gateway.approve(
        call.caller, run, digest=plan_digest, comment=said.data.comment or comment, confirm_name=asking.name_typed(said)
    )
    return await shown.answer(call, run)


async def why(call: Call, run_id: str, reason: str | None) -> Reason | Elicit[Reason]:
    """The reason given, or the question for one. Raises InvalidArgument where nobody can be asked."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    _rejectable(run)
    if reason is not None:
        return Reason(reason=reason)
    if not call.can_ask:
        raise InvalidArgument("reason: Field required", field="reason")
    return asking.reason_to_reject(run)


@RUNS.tool("run_reject", Access.DECIDE, title="Reject run", asked_for=("reason",))
async def run_reject(
    call: Call,
    run_id: RunId,
    said: Annotated[Outcome, Resolve(why)],
    reason: Annotated[str | None, Field(min_length=1, max_length=2000)] = None,
) -> Answer:
    """Reject the plan of a run: decline or refuse it before anything changed. The run ends; the reason is recorded and shown to whoever
    asked."""
    if not isinstance(said, AcceptedElicitation):
        raise asking.unanswered(said, run_id)
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, run_id)
    await call.front.gateway.reject(call.caller, run, reason=said.data.reason)
    return await shown.answer(call, run)


def _rejectable(run: RunRow) -> None:
    if run.state in (RunState.APPROVED, RunState.APPLYING, RunState.VERIFYING, RunState.CANCELING):
        raise FailedPrecondition(f"too late to reject: the run is {run.state}", next=["run_cancel"], details={"run_id": run.id})
    _decidable(run)


def _decidable(run: RunRow) -> None:
    refuse_for_a_step(run, what="decide about")
    if run.state is RunState.EXPIRED:
        raise ApprovalExpired(
            "the time to approve this plan is over; a new run makes a new plan", next=["run_rerun"], details={"run_id": run.id}
        )
    if run.ended:
        raise FailedPrecondition(f"the run has ended: {run.state}", next=["run_get"], details={"run_id": run.id})
