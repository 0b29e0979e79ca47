"""The claim: no engine process that changes anything starts without one.

Temporal may reset a workflow, replay a signal, or run an activity by hand; this transaction is what holds then. It weighs
the live approval, policy, freeze and kill switch as they are *now*, that the plan was never claimed, that no attempt is open
on the state, and that lineage and serial are as planned; only then it raises the epoch and hands out the write credential.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, composites, plans, reads, records, runs, secrets, state, statements, turns
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.ending import end_waiting
from countersign.adapters.store.plans import AttemptRow, PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import attempts, switches
from countersign.core.approval import ApprovalDocument, Verdict, weigh
from countersign.core.engine import StackConfig
from countersign.core.ids import derive
from countersign.core.plan import ChangeClass
from countersign.core.policy import Policy, Requirement
from countersign.core.principal import SYSTEM
from countersign.core.run import COMPOSITE, ENDS, RunState, typed_name

# An apply may take hours; what is left of the credential then is ended by the attempt's end, not by this.
CREDENTIAL_LIVES = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """Yours, and only once: the attempt, and the password of its write credential."""

    attempt: AttemptRow
    password: str = field(repr=False)
    lineage: str | None
    serial: int
    stack: StackConfig | None = None  # as it was weighed; a composite has none


@dataclass(frozen=True, kw_only=True)
class At:
    """Where a state is."""

    lineage: str | None
    serial: int


@dataclass(frozen=True, kw_only=True)
class Existing:
    """The plan was claimed before: here is its attempt, and no credential."""

    attempt: AttemptRow


@dataclass(frozen=True, kw_only=True)
class NotClaimed:
    """Nothing may start. `state` is where the run stands now."""

    state: RunState
    code: str | None = None
    message: str = ""


async def claim(
    store: Store,
    *,
    org: str,
    run_id: str,
    plan_digest: str,
    bundle_sha256: str,
    policy: Policy,
    host: str,
    boot_id: str,
    seen: At | None = None,
) -> Claimed | Existing | NotClaimed:
    """Claim the plan for one attempt on this machine. `bundle_sha256` is of the bytes the caller holds and will run.

    `seen` is where the state is now in a backend that keeps it itself, as the caller just saw it.
    """
    async with store.begin() as tx:
        now = store.now()
        run = await runs.get_run(tx, org, run_id)
        if (known := await plans.attempt_of_plan(tx, org, plan_digest)) is not None:
            if known.run_id != run_id:
                return await _refuse(tx, run, run.state, "failed_precondition", "that plan belongs to another run", now)
            return Existing(attempt=known)
        plan = await plans.plan_by_digest(tx, org, plan_digest)
        if (wrong := _not_this_plan(run, plan, plan_digest, bundle_sha256)) is not None:
            return await _refuse(tx, run, run.state, *wrong, now)
        assert plan is not None and plan.document is not None  # _not_this_plan saw to it
        if (unapproved := await _unapproved(tx, run, plan, policy, now)) is not None:
            return unapproved
        if (frozen := await _frozen(tx, run, now)) is not None:
            if run.reason != frozen:  # it is asked again every few seconds, and told once
                body = {"by": SYSTEM.id, "code": "freeze_window", "message": frozen, "channel": "claim"}
                await runs.note(tx, run, at=now, kind="refused", body=body, reason=frozen, code="freeze_window")
            return NotClaimed(state=run.state, code="freeze_window", message=frozen)
        place = await turns.take(tx, org=org, stack_id=run.stack_id, run_id=run_id, by=run.requester.id, at=stamp(now), agreed=True)
        if not place.held:
            await runs.note(tx, run, at=now, kind="queued", body={"position": place.position, "ahead": list(place.ahead)})
            return NotClaimed(state=run.state, code="locked", message=f"{place.position} before this one on the state")
        if run.engine == COMPOSITE:
            return await _led(tx, run, plan.document, now)
        head = await state.hold(tx, org, run.stack_id)
        target = plan.document.target
        stack = await records.config_of(tx, org, run.stack_id)
        if (elsewhere := _kept_elsewhere(stack, plan, seen)) is not None:
            return await _stale(tx, run, elsewhere, now)
        at = seen if stack is not None and stack.own and seen is not None else At(lineage=head.lineage, serial=head.serial)
        if (at.lineage, at.serial) != (target.lineage, target.serial):
            return await _stale(tx, run, f"the state moved from serial {target.serial} to {at.serial} after this plan was made", now)
        if read := await reads.moved(tx, org, plan.inputs):
            return await _stale(tx, run, f"outputs that this plan was made with may be others now: {'; '.join(read)}", now)
        if (replaced := await _replaced_credential(tx, org, target.credential)) is not None:
            return await _stale(tx, run, replaced, now)
        if (lost := await plans.open_attempt(tx, org, run.stack_id)) is not None:
            if lost.run_id != run_id or lost.ended_at is None:
                return await _refuse(tx, run, run.state, "locked", "an attempt on this state is open that nobody has accounted for", now)
            # This plan accounts for it: it was made of what that attempt left, and holds what it had not recorded.
            await close(
                tx, lost, run, outcome=RunState.RECONCILING, evidence=(f"accounted for by plan {plan.number}",), at=now, keep_turn=True
            )
        opened = await _open(tx, run, plan.document, head.lineage, head.serial, host=host, boot_id=boot_id, now=now)
        return replace(opened, stack=stack)


def _kept_elsewhere(stack: StackConfig | None, plan: PlanRow, seen: At | None) -> str | None:
    """Why the state is not where this plan was made of it, or None."""
    if stack is None:
        return None
    if stack.released:
        return records.why_released(stack)
    if stack.own != ("state_in" in plan.inputs):
        return "the state is kept elsewhere since this plan was made"
    return "nobody looked where the state is now" if stack.own and seen is None else None


async def _stale(tx: AsyncConnection, run: RunRow, why: str, now: datetime) -> NotClaimed:
    """To be planned again. A plan that accounts for a lost apply is not made by planning, which knows nothing of it."""
    moved = await end_waiting(tx, run, RunState.STALE, at=now, body={"message": why}, reason=why, code="plan_stale")
    return NotClaimed(state=moved.state, code="plan_stale", message=why)


def _not_this_plan(run: RunRow, plan: PlanRow | None, plan_digest: str, bundle_sha256: str) -> tuple[str, str] | None:
    if run.state in ENDS:
        return "failed_precondition", f"the run has ended: {run.state}"
    if plan is None or plan.document is None or plan.run_id != run.id:
        return "failed_precondition", "no such plan of this run"
    if run.plan_digest != plan_digest:
        return "plan_stale", f"the run has a newer plan: {run.plan_digest}"
    if plan.document.digest != plan_digest or plan.document.bundle_sha256 != bundle_sha256:
        return "failed_precondition", "what lies in the store is not what was approved; nothing is applied"
    if run.state is not RunState.APPROVED:
        return "approval_required", f"the run is {run.state}, not approved"
    return None


async def _replaced_credential(tx: AsyncConnection, org: str, planned_with: str | None) -> str | None:
    """Why the credential people agreed to is not the one that would be used, or None. Another value may reach another account."""
    if planned_with is None:
        return None
    slug, _, version = planned_with.rpartition("@")
    current = await secrets.version(tx, org, slug)
    return (
        None
        if str(current) == version
        else f"the credential {slug} was replaced after this plan was made (version {version}, now {current})"
    )


async def _refuse(tx: AsyncConnection, run: RunRow, to: RunState, code: str, message: str, now: datetime) -> NotClaimed:
    """A claim that must not happen is on the record: somebody or something tried."""
    await audit.of_run(tx, run, at=now, action="run.claim", by=SYSTEM, outcome=code)
    await runs.note(tx, run, at=now, kind="refused", body={"by": SYSTEM.id, "code": code, "message": message, "channel": "claim"})
    return NotClaimed(state=to, code=code, message=message)


async def _frozen(tx: AsyncConnection, run: RunRow, now: datetime) -> str | None:
    scopes = ("all_writes", f"env:{run.env}", f"stack:{run.stack_path}", f"engine:{run.engine}")
    for row in await statements.every(tx, switches, org_id=run.org, is_on=True, order=("id",)):
        if row.id in scopes and (row.until is None or row.until > stamp(now)):
            return f"changes are frozen ({row.id}): {row.reason}"
    return None


async def _unapproved(tx: AsyncConnection, run: RunRow, plan: PlanRow, policy: Policy, now: datetime) -> NotClaimed | None:
    """Weigh again, with policy as it is now: what was enough when somebody agreed may not be enough any more."""
    assert plan.document is not None and run.plan_digest is not None  # the caller saw to it
    basis: composites.Basis | str = composites.Basis(
        agreed=[d.approval for d in await plans.decisions_of(tx, run.org, run.id) if d.accepted and d.decision == "approve"],
        plan_digest=run.plan_digest,
        name=typed_name(run.stack_path, run.engine),
        expires_at=datetime.fromisoformat(plan.document.expires_at),
    )
    if run.parent is not None:
        basis = await composites.basis_of(tx, run, plan)
    # The proven rest of a plan has classes of its own (imports); what was asked for the whole of it counts.
    rest = run.change_class != str(plan.summary.change_class)
    requirement = composites.requirement_of(
        policy,
        run,
        change_class=ChangeClass(run.change_class or ChangeClass.UNKNOWN),
        classes=() if rest else plan.summary.classes,
        name=None if isinstance(basis, str) else basis.name,
    )
    if run.engine == COMPOSITE:
        requirement = await composites.whole_requirement(tx, run, policy)
    if isinstance(basis, str):
        return await _asked_again(tx, run, requirement, basis, now)
    verdict = weigh(
        basis.agreed,
        requirement=requirement,
        plan_digest=basis.plan_digest,
        requester=run.requester,
        protected=await composites.is_protected(tx, run, policy),
        expires_at=basis.expires_at,
        now=now,
    )
    if verdict is Verdict.APPROVED:
        return None
    if verdict is Verdict.EXPIRED:
        why = "the approval expired before the apply could start"
        ended = await end_waiting(tx, run, RunState.EXPIRED, at=now, body={"message": why}, reason=why, code="approval_expired")
        return NotClaimed(state=ended.state, code="approval_expired", message=why)
    if verdict is Verdict.DENIED:
        why = f"policy denies this change now: {requirement.rule}"
        ended = await end_waiting(tx, run, RunState.ERRORED, at=now, body={"message": why}, reason=why, code="policy_denied")
        return NotClaimed(state=ended.state, code="policy_denied", message=why)
    return await _asked_again(tx, run, requirement, f"policy asks for more than it did: {requirement.rule}", now)


async def _asked_again(tx: AsyncConnection, run: RunRow, requirement: Requirement, why: str, now: datetime) -> NotClaimed:
    await runs.move(
        tx, run, RunState.AWAITING_APPROVAL, at=now, body={"message": why}, reason=why, requirement=requirement.model_dump_json()
    )
    await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)  # nothing is held while people think
    return NotClaimed(state=RunState.AWAITING_APPROVAL, code="approval_required", message=why)


async def _led(tx: AsyncConnection, run: RunRow, document: ApprovalDocument, now: datetime) -> Claimed | NotClaimed:
    """The claim of a composite: from here on its steps may be claimed, one after the other. It writes no state and has no machine."""
    if await plans.open_attempt(tx, run.org, run.stack_id) is not None:
        return await _refuse(tx, run, run.state, "locked", "another run is applying the same steps", now)
    attempt = _attempt(run, document, epoch=0, host="", boot_id="", now=now)
    await _begin(tx, run, attempt, now)
    return Claimed(attempt=attempt, password="", lineage=None, serial=0)


async def _open(
    tx: AsyncConnection,
    run: RunRow,
    document: ApprovalDocument,
    lineage: str | None,
    serial: int,
    *,
    host: str,
    boot_id: str,
    now: datetime,
) -> Claimed:
    epoch = await state.raise_epoch(tx, run.org, run.stack_id)
    attempt = _attempt(run, document, epoch=epoch, host=host, boot_id=boot_id, now=now)
    await _begin(tx, run, attempt, now)
    password = await state.grant(
        tx,
        org=run.org,
        stack_id=run.stack_id,
        run_id=run.id,
        credential_id=attempt.id,
        mode="apply",
        epoch=epoch,
        expires_at=now + CREDENTIAL_LIVES,
    )
    return Claimed(attempt=attempt, password=password, lineage=lineage, serial=serial)


def _attempt(run: RunRow, document: ApprovalDocument, *, epoch: int, host: str, boot_id: str, now: datetime) -> AttemptRow:
    return AttemptRow(
        id=derive("att", run.org, run.id, document.digest),
        run_id=run.id,
        stack_id=run.stack_id,
        plan_digest=document.digest,
        epoch=epoch,
        host=host,
        boot_id=boot_id,
        opened_at=now,
        ended_at=None,
        closed_at=None,
        outcome=None,
        evidence=(),
    )


async def _begin(tx: AsyncConnection, run: RunRow, attempt: AttemptRow, now: datetime) -> None:
    """The attempt is on the record, and the run applies."""
    await plans.insert_attempt(tx, run.org, attempt)
    await runs.move(
        tx,
        run,
        RunState.APPLYING,
        at=now,
        body={"attempt": attempt.id, "epoch": attempt.epoch, "host": attempt.host},
        reason=None,
        code=None,
    )
    await audit.of_run(
        tx, run, at=now, action="run.claim", by=SYSTEM, plan_digest=attempt.plan_digest, attempt=attempt.id, epoch=attempt.epoch
    )


async def close(
    tx: AsyncConnection,
    attempt: AttemptRow,
    run: RunRow,
    *,
    outcome: RunState,
    evidence: Sequence[str],
    at: datetime,
    keep_turn: bool = False,
) -> str | None:
    """Close the attempt on evidence: its credential ends, the turn goes on unless the run keeps it. Returns the run to wake."""
    said = {"closed_at": stamp(at), "outcome": str(outcome), "evidence": json.dumps(list(evidence))}
    await statements.change(tx, attempts, {"org_id": run.org, "id": attempt.id, "closed_at": None}, **said)
    await state.revoke(tx, run.org, attempt.id)
    if keep_turn:
        return None
    return await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)
