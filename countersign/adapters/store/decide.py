"""The one place where somebody's decision becomes an approval or a rejection.

Everything that decides arrives here: Updates and signals, signed by the front or typed into the Temporal UI. One
transaction verifies who it is, asks `core.approval`, and writes decision, state, event and audit. Whatever workflow or retry
calls it again with the same nonce gets the verdict that was recorded.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, composites, plans, runs, statements
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.ending import end_waiting
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import decisions
from countersign.adapters.store.standing import standing_of
from countersign.core.approval import (
    Approval,
    ApproveInput,
    Channel,
    DecisionClaims,
    Refusal,
    RejectInput,
    SignedDecision,
    Verdict,
    refused,
    weigh,
)
from countersign.core.ids import derive
from countersign.core.policy import Policy, Trust
from countersign.core.principal import UNNAMED_PERSON, Kind, Principal
from countersign.core.run import ENDS, RunState
from countersign.core.steps import Decided, DecideInput

Verify = Callable[[bytes, str, str], bool]  # payload, signature, key id

# A decision nobody could be found to have made still gets a row: by this one.
_NOBODY = Principal(id="machine:unknown", kind=Kind.MACHINE)


@dataclass(frozen=True, kw_only=True)
class _Who:
    by: Principal
    channel: Channel
    nonce: str
    refusal: Refusal | None = None


async def decide(store: Store, asked: DecideInput, *, policy: Policy, trust: Trust, verify: Verify) -> Decided:
    """Record one decision and what follows from it. A refused one is recorded too and changes nothing."""
    async with store.begin() as tx:
        now = store.now()
        who = _who(asked, trust=trust, verify=verify, now=now)
        run = await runs.get_run(tx, asked.org, asked.run_id)
        if (known := await plans.decision_by_nonce(tx, asked.org, who.nonce)) is not None:
            if known.run_id == asked.run_id:
                refusal = None if known.accepted else Refusal(code=known.code or "failed_precondition", message=known.message or "")
                return await _decided(tx, run, known.by, known.channel, refusal, trust)
            who = _Who(by=who.by, channel=who.channel, nonce=asked.nonce, refusal=_denied("that decision was made for another run"))
        refusal = who.refusal or _timing(run, now=now)
        approval = _approval(asked.approve, who, now) if asked.approve else None
        protected = await composites.is_protected(tx, run, policy)
        if refusal is None and approval is not None:
            refusal = _refusal(run, approval, protected)
        await _record(tx, run, asked, who, refusal, now)
        if refusal is not None:
            note = {"by": who.by.id, "code": refusal.code, "message": refusal.message, "channel": str(who.channel)}
            run = await runs.note(tx, run, at=now, kind="refused", body=note)
        elif approval is not None:
            run = await _agree(tx, run, approval, protected, now)
        else:
            reason = asked.reject.reason if asked.reject else ""
            run = await end_waiting(tx, run, RunState.REJECTED, at=now, body={"by": who.by.id, "reason": reason}, reason=reason)
        return await _decided(tx, run, who.by, who.channel, refusal, trust)


async def _decided(tx: AsyncConnection, run: RunRow, by: Principal, channel: Channel, refusal: Refusal | None, trust: Trust) -> Decided:
    return Decided(
        accepted=refusal is None,
        standing=await standing_of(tx, run, trust=trust),
        channel=channel,
        by=by.id,
        code=refusal.code if refusal else None,
        message=refusal.message if refusal else "",
    )


def _who(asked: DecideInput, *, trust: Trust, verify: Verify, now: datetime) -> _Who:
    """Who decides, or why nobody can be taken to."""
    given: ApproveInput | RejectInput | None = asked.approve or asked.reject
    signed = given.signed if given else None
    if signed is None:
        if trust == "trusted":
            return _Who(by=UNNAMED_PERSON, channel=Channel.TEMPORAL_UI, nonce=asked.nonce)
        why = "decisions from the Temporal UI are not accepted here (ui_approvals); "
        why += "use `countersign approve`, its page (`countersign open`), or an MCP client"
        return _Who(by=_NOBODY, channel=Channel.TEMPORAL_UI, nonce=asked.nonce, refusal=_denied(why))
    claims = _claims(signed, verify)
    if claims is None:
        why = "the signature of this decision does not verify; send it through the front"
        return _Who(by=_NOBODY, channel=Channel.FRONT, nonce=asked.nonce, refusal=_denied(why))
    who = _Who(by=claims.principal, channel=Channel.FRONT, nonce=claims.nonce)
    if (mismatch := _mismatch(asked, claims, now)) is None:
        return who
    # Its own nonce stays free: the decision may still be sent where it belongs.
    return _Who(by=who.by, channel=who.channel, nonce=asked.nonce, refusal=mismatch)


def _claims(signed: SignedDecision, verify: Verify) -> DecisionClaims | None:
    if not verify(signed.payload.encode(), signed.signature, signed.key_id):
        return None
    try:
        return DecisionClaims.model_validate_json(signed.payload)
    except ValidationError:
        return None


def _mismatch(asked: DecideInput, claims: DecisionClaims, now: datetime) -> Refusal | None:
    if (claims.org, claims.run_id) != (asked.org, asked.run_id):
        return _denied("this decision was signed for another run; decide about this one with its own digest")
    if now >= claims.expires_at:
        return _denied("this decision took too long to arrive; decide again")
    wanted = "approve" if asked.approve else "reject"
    if claims.decision != wanted:
        return _denied(f"what was signed is to {claims.decision}, not to {wanted}")
    if asked.approve and (claims.plan_digest, claims.confirm_name) != (asked.approve.plan_digest, asked.approve.confirm_name):
        return _denied("what was signed names another plan or another name than what was sent")
    if asked.reject and claims.comment != asked.reject.reason:
        return _denied("what was signed gives another reason than what was sent")
    return None


def _denied(message: str) -> Refusal:
    return Refusal(code="permission_denied", message=message)


def _timing(run: RunRow, *, now: datetime) -> Refusal | None:
    if run.state in ENDS:
        code = "approval_expired" if run.state is RunState.EXPIRED else "failed_precondition"
        return Refusal(code=code, message=f"the run has ended: {run.state}")
    if run.parent is not None:
        return Refusal(
            code="failed_precondition",
            message=f"this is step {run.step} of {run.parent}; decide about the whole there: its plan shows this one too",
        )
    if run.state is not RunState.AWAITING_APPROVAL:
        return Refusal(code="failed_precondition", message=f"the run waits for no decision: it is {run.state}")
    if run.expires_at is not None and now >= run.expires_at:
        return Refusal(code="approval_expired", message="the time to approve this plan is over; `run_rerun` makes a new plan")
    return None


def _approval(given: ApproveInput, who: _Who, now: datetime) -> Approval:
    return Approval(
        plan_digest=given.plan_digest,
        by=who.by,
        channel=who.channel,
        at=now,
        confirm_name=given.confirm_name,
        comment=given.comment,
    )


def _refusal(run: RunRow, approval: Approval, protected: bool) -> Refusal | None:
    if run.requirement is None or run.plan_digest is None:
        return Refusal(code="failed_precondition", message="there is no plan to approve")
    return refused(
        approval,
        requirement=run.requirement,
        plan_digest=run.plan_digest,
        requester=run.requester,
        protected=protected,
    )


async def _record(tx: AsyncConnection, run: RunRow, asked: DecideInput, who: _Who, refusal: Refusal | None, now: datetime) -> None:
    approve, reject = asked.approve, asked.reject
    decision = "approve" if approve else "reject"
    digest = approve.plan_digest if approve else run.plan_digest
    await statements.add(
        tx,
        decisions,
        org_id=run.org,
        id=derive("dec", run.org, run.id, who.nonce),
        run_id=run.id,
        plan_digest=digest[:80] if digest else None,
        decision=decision,
        accepted=refusal is None,
        channel=str(who.channel),
        principal=who.by.id,
        principal_kind=str(who.by.kind),
        acts_for=who.by.acts_for,
        confirm_name=(approve.confirm_name or "")[:255] or None if approve else None,
        comment=approve.comment if approve else reject.reason if reject else None,
        code=refusal.code if refusal else None,
        message=refusal.message if refusal else None,
        nonce=who.nonce,
        at=stamp(now),
    )
    await audit.of_run(
        tx,
        run,
        at=now,
        action=f"run.{decision}",
        by=who.by,
        outcome=refusal.code if refusal else "ok",
        plan_digest=digest,
        channel=str(who.channel),
    )


async def _agree(tx: AsyncConnection, run: RunRow, approval: Approval, protected: bool, now: datetime) -> RunRow:
    assert run.requirement is not None and run.plan_digest is not None and run.expires_at is not None  # _refusal saw to it
    agreed = [d.approval for d in await plans.decisions_of(tx, run.org, run.id) if d.accepted and d.decision == "approve"]
    verdict = weigh(
        agreed,
        requirement=run.requirement,
        plan_digest=run.plan_digest,
        requester=run.requester,
        protected=protected,
        expires_at=run.expires_at,
        now=now,
    )
    body = {"by": approval.by.id, "channel": str(approval.channel), "comment": approval.comment, "verdict": str(verdict)}
    after = await runs.note(tx, run, at=now, kind="decision", body=json.loads(json.dumps(body)))
    if verdict is Verdict.APPROVED:
        return await runs.move(tx, after, RunState.APPROVED, at=now, body={"by": approval.by.id})
    return after
