"""Asking the person in front of a client, where the client can ask (elicitation, in both protocol eras).

A model that holds somebody's key can fill in every argument, a typed name too. So where the client can ask, the person is asked
whatever was given, and what they type counts in place of it. An answer has exactly the authority of its connection: it shows
intent, never who somebody is, and only the verdict of `decide` lets anything happen. A declined or cancelled question decides
nothing. Resolvers run again in every round of the stateless protocol, so they only read, and a question holds no time and
nothing random: its answer is sealed to the exact words.
"""

from dataclasses import dataclass
from typing import Any

from mcp import types
from mcp.server.elicitation import AcceptedElicitation, CancelledElicitation, DeclinedElicitation
from mcp.server.mcpserver import Context, Elicit
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict, Field

from countersign.adapters.store.plans import PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.core.approval import Approval, Channel, refused
from countersign.core.details import change_line, plain, who_must_agree
from countersign.core.errors import ConfirmationRequired
from countersign.core.run import RunState
from mcp_front.call import Call

CHANGES = 8  # of a plan, the worst first
RISKS = 4
WITHIN = 1800  # seconds a person has for an answer
_LEAVE_EMPTY = "goes into the record; may stay empty"


# The forms. They are shown as they stand; a docstring would be sent along.
class Consent(BaseModel):
    model_config = ConfigDict(title="Approve")

    comment: str | None = Field(default=None, title="Comment", max_length=2000, description=_LEAVE_EMPTY)


class TypedConsent(BaseModel):
    model_config = ConfigDict(title="Approve and destroy")

    confirm_name: str = Field(title="Name", max_length=255, description="the name of what is destroyed, typed out")
    comment: str | None = Field(default=None, title="Comment", max_length=2000, description=_LEAVE_EMPTY)


class TypedName(BaseModel):
    model_config = ConfigDict(title="Remove")

    confirm_name: str = Field(title="Name", max_length=255, description="the name of what is removed, typed out")


class Reason(BaseModel):
    model_config = ConfigDict(title="Reject")

    reason: str = Field(title="Reason", min_length=1, max_length=2000, description="recorded, and shown to whoever asked for the run")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What came with the call, where nobody is asked."""

    confirm_name: str | None = None
    comment: str | None = None


Outcome = AcceptedElicitation[Any] | DeclinedElicitation | CancelledElicitation


def name_typed(said: AcceptedElicitation[Any]) -> str | None:
    name: str | None = getattr(said.data, "confirm_name", None)
    return name.strip() if name else None


def can_ask(context: Context[Any, Any] | None) -> bool:
    """Whether the client shows forms to its user, and can be reached with one from here."""
    declared = context.client_capabilities if context is not None else None
    if context is None or not shows_forms(declared):
        return False
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS or context.session.can_send_request


def shows_forms(declared: types.ClientCapabilities | None) -> bool:
    """An empty `elicitation` is how clients of before 2025-11-25 say that they show forms."""
    elicitation = declared.elicitation if declared is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def would_count(call: Call, run: RunRow, plan_digest: str) -> bool:
    """Whether an approval by this caller would count, if it named what it has to. Only then a person is asked."""
    need, now = run.requirement, call.front.store.now()
    if run.state is not RunState.AWAITING_APPROVAL or need is None or run.plan_digest is None:
        return False
    said = Approval(plan_digest=plan_digest, by=call.caller.principal, channel=Channel.FRONT, at=now, confirm_name=need.confirm_name)
    protected = call.front.policy.is_protected(run.env)
    why = refused(said, requirement=need, plan_digest=run.plan_digest, requester=run.requester, protected=protected)
    return why is None and (run.expires_at is None or now < run.expires_at)


def agreement(run: RunRow, plan: PlanRow, *, comment: str | None = None) -> Elicit[Any]:
    """The question whether exactly this plan may be applied."""
    assert run.requirement is not None  # a plan that waits for somebody has one
    summary, need = plan.summary, run.requirement
    lines = [
        f"Approve this plan of {plain(run.type)} on {plain(run.stack_path)}? Exactly it is applied then.",
        f"{summary.counts}; class {summary.change_class}",
        *(change_line(change) for change in summary.changes[:CHANGES]),
    ]
    if (left := summary.counts.total - CHANGES) > 0:
        lines.append(f"    … and {left} more")
    lines += [f"Risk: {plain(risk)}" for risk in summary.risks[:RISKS]]
    if (more := len(summary.risks) - RISKS) > 0:
        lines.append(f"… and {more} more risks")
    lines.append(f"Asked for by {_who(run)}" + (f": {plain(run.message)}" if run.message else ""))
    lines.append(f"Needs {who_must_agree(need)}; plan {plan.plan_digest} of {run.id}")
    if comment:
        lines.append(f"Comment given with the call, recorded unless another is typed: {plain(comment)}")
    if need.confirm_name is None:
        return Elicit("\n".join(lines), Consent)
    lines.append(f"This destroys. To approve it, type {need.confirm_name}")
    return Elicit("\n".join(lines), TypedConsent)


def removal(what: str, name: str) -> Elicit[Any]:
    return Elicit(f"{what}\nTo do so, type {name}", TypedName)


def reason_to_reject(run: RunRow) -> Elicit[Any]:
    asked = f"Reject {plain(run.type)} on {plain(run.stack_path)}, asked for by {_who(run)}? The run ends and nothing is changed."
    return Elicit(f"{asked}\nRun {run.id}. Say why.", Reason)


def unanswered(said: Outcome, run_id: str | None = None) -> ConfirmationRequired:
    """What a call is answered whose question was declined or closed."""
    how = "declined" if isinstance(said, DeclinedElicitation) else "closed without an answer"
    return _undecided(f"the question was {how}", run_id)


def unasked(run_id: str | None = None) -> ConfirmationRequired:
    """What a call is answered whose client said that it could ask, and could not."""
    return _undecided("the client could not put the question to its user, or gave back no answer that fits it", run_id)


def _undecided(why: str, run_id: str | None) -> ConfirmationRequired:
    goes_on = "; the run waits on" if run_id else ""
    details = {"run_id": run_id} if run_id else {}
    return ConfirmationRequired(f"{why}: nothing was decided{goes_on}", next=["run_get"] if run_id else [], details=details)


def _who(run: RunRow) -> str:
    return run.requester.id + (f" for {run.requester.acts_for}" if run.requester.acts_for else "")
