"""What reconciling records: a fence, a proof of death, and where the run goes with what was found.

A lost attempt stays open on its state until a plan that accounts for it is claimed, so that nobody plans past objects that
only its testimony knows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, check, claim, plans, runs, state
from countersign.adapters.store.database import Store, moment, stamp
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import attempts, credentials, events
from countersign.core import fencing
from countersign.core.approval import Channel
from countersign.core.engine import Planned
from countersign.core.errors import FailedPrecondition, InvalidArgument
from countersign.core.plan import ArtifactRef
from countersign.core.policy import Policy, required
from countersign.core.principal import SYSTEM, Principal
from countersign.core.reconcile import Decision, Next
from countersign.core.run import ASK_A_PERSON, Mode, RunState, typed_name
from countersign.core.steps import ENGINES, EndReason


async def fence(tx: AsyncConnection, run: RunRow, attempt: AttemptRow, *, at: datetime) -> int:
    """Take every right to write from the attempt; returns the new epoch. The run is reconciling from here on."""
    if run.state is not RunState.RECONCILING:
        run = await runs.move(tx, run, RunState.RECONCILING, at=at, body={"attempt": attempt.id})
    epoch = await state.raise_epoch(tx, run.org, run.stack_id)
    await audit.of_run(tx, run, at=at, action="run.fence", by=SYSTEM, attempt=attempt.id, epoch=epoch)
    return epoch


async def proven_dead(tx: AsyncConnection, run: RunRow, attempt: AttemptRow, *, at: datetime) -> bool:
    """Record that nothing of the fenced attempt lives, and free the lock it left (I5); whether there was one."""
    mine = (attempts.c.org_id == run.org) & (attempts.c.id == attempt.id) & attempts.c.ended_at.is_(None)
    await tx.execute(update(attempts).where(mine).values(ended_at=stamp(at)))
    return await state.release_lock_of(tx, run.org, run.stack_id, attempt.id)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What people said about a run that lost an attempt."""

    canceled: bool  # since that attempt was opened: in mid-apply, or when it was asked what becomes of the rest
    resumed_at: datetime | None  # when somebody, and no machine, last let it look again


async def wishes_of(conn: AsyncConnection, run: RunRow, attempt: AttemptRow) -> Wishes:
    moves = (events.c.org_id == run.org) & (events.c.run_id == run.id) & (events.c.kind == "state")
    rows = await conn.execute(select(events).where(moves).order_by(events.c.n))
    said = [(moment(row.at), row.state, json.loads(row.body)) for row in rows]

    def asked(body: Mapping[str, Any], reason: EndReason) -> bool:
        return "message" in body and body.get("reason") == reason  # as MOVE writes it; elsewhere a reason is what somebody typed

    resumed = [at for at, _, body in said if asked(body, EndReason.RESUME) and not str(body.get("by", "")).startswith("machine:")]
    since = [(state, body) for at, state, body in said if at >= attempt.opened_at]
    return Wishes(
        canceled=any(state == RunState.CANCELING or asked(body, EndReason.CANCELED) for state, body in since),
        resumed_at=max(resumed, default=None),
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an operator found in the cloud after an attempt was lost."""

    exists: Mapping[str, str]  # address → id of the one object there is
    missing: frozenset[str]  # addresses of which there is nothing


async def tell_found(store: Store, *, org: str, run_id: str, found: Found, by: Principal) -> None:
    """Record what an operator saw, about the attempt that is open. Raises NotFound, FailedPrecondition."""
    async with store.begin() as tx:
        now = store.now()
        run = await runs.get_run(tx, org, run_id)
        lost = await plans.open_attempt(tx, org, run.stack_id)
        if lost is None or lost.run_id != run_id or run.state is not RunState.NEEDS_OPERATOR:
            raise FailedPrecondition(f"the run asks no operator: it is {run.state}", next=["run_get"])
        body = {"by": by.id, "attempt": lost.id, "exists": dict(found.exists), "missing": sorted(found.missing)}
        await runs.note(tx, run, at=now, kind="found", body=body)
        what = {"exists": " ".join(sorted(found.exists)), "missing": " ".join(sorted(found.missing))}
        await audit.of_run(tx, run, at=now, action="run.found", by=by, attempt=lost.id, **what)


GONE = "gone"  # kind of the event


async def tell_gone(store: Store, *, org: str, run_id: str, host: str, by: Principal) -> None:
    """Record somebody's word that the machine of the lost apply is gone for good, so that nothing of it runs on.

    From then on any worker may account for it. Raises NotFound, FailedPrecondition, InvalidArgument.
    """
    async with store.begin() as tx:
        now = store.now()
        run = await runs.get_run(tx, org, run_id)
        lost = await plans.open_attempt(tx, org, run.stack_id)
        if lost is None or lost.run_id != run_id or run.state is not RunState.NEEDS_OPERATOR:
            raise FailedPrecondition(f"the run asks no operator: it is {run.state}", next=["run_get"])
        if ENGINES[run.engine].reconcile is None:
            raise FailedPrecondition(f"what a lost apply of {run.engine} did cannot be found out without its machine")
        if host != lost.host:
            raise InvalidArgument(f"the apply was lost on {lost.host}, not on {host[:120]}; name that machine", field="machine_gone")
        await runs.note(tx, run, at=now, kind=GONE, body={"by": by.id, "attempt": lost.id, "host": host})
        await audit.of_run(tx, run, at=now, action="run.machine_gone", by=by, attempt=lost.id, host=host)


async def is_gone(conn: AsyncConnection, run: RunRow, attempt_id: str) -> bool:
    """Whether somebody said that the attempt's machine is gone for good."""
    mine = (events.c.org_id == run.org) & (events.c.run_id == run.id) & (events.c.kind == GONE)
    return any(json.loads(row.body)["attempt"] == attempt_id for row in await conn.execute(select(events.c.body).where(mine)))


async def found_after(conn: AsyncConnection, run: RunRow, attempt_id: str) -> Found:
    """What operators said about that attempt; of two answers about one address the later counts."""
    mine = (events.c.org_id == run.org) & (events.c.run_id == run.id) & (events.c.kind == "found")
    exists: dict[str, str] = {}
    missing: set[str] = set()
    for row in await conn.execute(select(events.c.body).where(mine).order_by(events.c.n)):
        said = json.loads(row.body)
        if said["attempt"] == attempt_id:
            exists = {a: id for a, id in exists.items() if a not in said["missing"]} | said["exists"]
            missing = (missing - set(said["exists"])) | set(said["missing"])
    return Found(exists=exists, missing=frozenset(missing))


async def works_of(conn: AsyncConnection, run: RunRow) -> list[str]:
    """Ids under which earlier reconciling of this run worked: credentials that may write, of no claim."""
    claimed = select(attempts.c.id).where(attempts.c.org_id == run.org, attempts.c.run_id == run.id)
    mine = (credentials.c.org_id == run.org) & (credentials.c.run_id == run.id) & (credentials.c.mode == str(fencing.Mode.APPLY))
    return list((await conn.execute(select(credentials.c.id).where(mine, credentials.c.id.not_in(claimed)))).scalars())


async def conclude(
    tx: AsyncConnection,
    run: RunRow,
    attempt: AttemptRow,
    decision: Decision,
    planned: Planned | None,
    refs: Sequence[ArtifactRef],
    *,
    policy: Policy,
    now: datetime,
) -> tuple[RunRow, str | None]:
    """Record what follows from what was found. Returns the run, and one to wake where the turn was let go."""
    await audit.of_run(
        tx, run, at=now, action="run.reconcile", by=SYSTEM, outcome=str(decision.next), attempt=attempt.id, plan_digest=run.plan_digest
    )
    body = {
        "message": decision.why,
        "proof": list(decision.lines[:SHOWN]),
        "difference": list(decision.difference[:SHOWN]),
        "instructions": list(decision.instructions),
    }
    if decision.next is Next.STOP:
        return await _stopped(tx, run, attempt, decision, body, now)
    if decision.next is Next.OPERATOR or planned is None:
        reason = "\n".join((decision.why, *decision.instructions))
        return await runs.move(tx, run, RunState.NEEDS_OPERATOR, at=now, body=body, reason=reason, code="interrupted"), None
    if decision.next is Next.CONTINUE and not planned.plan.changes_anything:
        return await _nothing_left(tx, run, attempt, decision, body, now)
    return await _left(tx, run, planned, refs, decision, body, policy, now), None


SHOWN = 200  # lines of a proof in the ledger; the whole of it is an artifact


async def _nothing_left(
    tx: AsyncConnection, run: RunRow, attempt: AttemptRow, decision: Decision, body: Mapping[str, object], now: datetime
) -> tuple[RunRow, str | None]:
    run = await runs.move(tx, run, RunState.VERIFYING, at=now, body=body)
    run = await runs.move(tx, run, RunState.APPLIED, at=now, body={"message": decision.why}, reason=None, code=None, done=run.total)
    return run, await claim.close(tx, attempt, run, outcome=RunState.APPLIED, evidence=decision.lines[:SHOWN], at=now)


async def _stopped(
    tx: AsyncConnection, run: RunRow, attempt: AttemptRow, decision: Decision, body: Mapping[str, object], now: datetime
) -> tuple[RunRow, str | None]:
    to = RunState.PARTIALLY_APPLIED if decision.lines else RunState.CANCELED
    run = await runs.move(tx, run, to, at=now, body=body, reason=decision.why, code="canceled")
    return run, await claim.close(tx, attempt, run, outcome=to, evidence=decision.lines[:SHOWN], at=now)


async def _left(
    tx: AsyncConnection,
    run: RunRow,
    planned: Planned,
    refs: Sequence[ArtifactRef],
    decision: Decision,
    body: Mapping[str, object],
    policy: Policy,
    now: datetime,
) -> RunRow:
    """A plan for what is left: under the approval there is where that is proven, else people are asked."""
    agreed = [
        d
        for d in await plans.decisions_of(tx, run.org, run.id)
        if d.accepted and d.decision == "approve" and d.plan_digest == run.plan_digest
    ]
    proven = decision.next is Next.CONTINUE
    expires_at = now + timedelta(hours=min(policy.approval_hours, check.LONGEST_APPROVAL))
    if proven and run.expires_at is not None:
        expires_at = run.expires_at  # what is left is agreed to for as long as all of it was
    document = await check.document_of(tx, run, planned, policy=policy, expires_at=expires_at)
    await check.insert_plan(tx, run, planned, refs, now, document=document)
    facts = {
        "plan_number": run.plan_number + 1,
        "plan_digest": document.digest,
        "expires_at": stamp(expires_at),
        "total": planned.plan.counts.total,
        "done": 0,
        "reason": None if proven else "\n".join((decision.why, *decision.difference[:SHOWN])),
        "code": None,
    }
    if proven:
        # Class and requirement stay those of the whole: a part of it asks for no more, and must not ask for less.
        run = await runs.move(tx, run, RunState.APPROVED, at=now, body=body, **facts)
        for d in agreed:
            await check.insert_approval(tx, run, now, channel=Channel.CARRIED, source=d)
        return run
    requirement = required(
        policy,
        env=run.env,
        change_class=planned.plan.change_class,
        classes=planned.plan.classes,
        name=typed_name(run.stack_path, run.engine),
        destroy=run.mode is Mode.DESTROY,
        by_person=run.type in ASK_A_PERSON,
    )
    facts |= {"change_class": str(planned.plan.change_class), "requirement": requirement.model_dump_json()}
    return await runs.move(tx, run, RunState.AWAITING_APPROVAL, at=now, body=body, **facts)
