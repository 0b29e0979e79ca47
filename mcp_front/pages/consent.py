"""Whether the person who reads would be heard: asked before a form is shown, and decided by the same functions that decide later."""

from countersign.adapters.store.runs import RunRow
from countersign.core.approval import Approval, Channel, Refusal, refused
from mcp_front.call import Call
from mcp_front.rights import allowed


def may(call: Call, tool: str, run: RunRow) -> bool:
    """Whether the person may use a tool on this run."""
    spec = call.front.toolset.tools.get(tool)
    return spec is not None and allowed(call.caller, spec, run=run, protected=call.front.policy.is_protected(run.env))


def objection(call: Call, run: RunRow) -> Refusal | None:
    """Why the person's word would not count for the plan of this run, if they typed what it asks for; None where it would."""
    need, now = run.requirement, call.front.store.now()
    if run.parent is not None:
        return Refusal(code="failed_precondition", message=f"This is step {run.step} of {run.parent}, which is decided as a whole.")
    if not may(call, "run_approve", run):
        return Refusal(code="permission_denied", message=f"The role {call.caller.role} does not decide about runs that others asked for.")
    if need is None or run.plan_digest is None:
        return Refusal(code="failed_precondition", message="There is no plan to decide about.")
    if run.expires_at is not None and now >= run.expires_at:
        return Refusal(code="approval_expired", message="The time to agree to this plan is over; a new run makes a new plan.")
    said = Approval(plan_digest=run.plan_digest, by=call.caller.principal, channel=Channel.FRONT, at=now, confirm_name=need.confirm_name)
    protected = call.front.policy.is_protected(run.env)
    why = refused(said, requirement=need, plan_digest=run.plan_digest, requester=run.requester, protected=protected)
    return why and why.model_copy(update={"message": f"{why.message[:1].upper()}{why.message[1:]}."})
