"""A plan arrives: recorded, weighed by policy, and either waiting for people, approved, denied or finished. One transaction.

With `decide` and `claim` this is all that makes an approval: what policy lets pass, and what an earlier approval of an equal
plan still covers, is recorded here as an approval of its own.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, composites, drift, plans, records, runs, secrets, statements
from countersign.adapters.store.database import stamp
from countersign.adapters.store.plans import DecisionRow, PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import decisions
from countersign.adapters.store.schema import plans as plans_table
from countersign.core.approval import ApprovalDocument, Channel, Target
from countersign.core.digests import digest_of, sha256
from countersign.core.engine import Planned, StackConfig
from countersign.core.ids import derive
from countersign.core.notice import Moment
from countersign.core.plan import ArtifactRef
from countersign.core.policy import Need, Policy
from countersign.core.principal import SYSTEM
from countersign.core.run import COMPOSITE, Mode, RunState

LONGEST_APPROVAL = 24  # hours; policy may only shorten it (I8)


async def record_plan(
    tx: AsyncConnection, run: RunRow, planned: Planned, refs: Sequence[ArtifactRef], *, policy: Policy, now: datetime
) -> RunRow:
    """Record the plan of a run in `planning`, and where the run goes with it."""
    if await composites.is_over(tx, run):
        why = f"{run.parent}, which this is a step of, has ended"
        return await runs.move(tx, run, RunState.CANCELED, at=now, body={"by": SYSTEM.id, "message": why}, reason=why, code="canceled")
    if run.changes and planned.plan.changes_anything:
        return await _check(tx, run, planned, refs, policy, now)
    if run.changes and await composites.waits_for(tx, run, None):
        return await _nothing_yet(tx, run, planned, refs, now)
    return await _nothing_to_apply(tx, run, planned, refs, policy, now)


async def _nothing_yet(tx: AsyncConnection, run: RunRow, planned: Planned, refs: Sequence[ArtifactRef], now: datetime) -> RunRow:
    """A step of a composite that has nothing to do as things are; what comes before it may change that, so it is planned again then."""
    await insert_plan(tx, run, planned, refs, now, document=None)
    why = "as things are it has nothing to do, and what is done before it may change that."
    facts = {"plan_number": run.plan_number + 1, "change_class": str(planned.plan.change_class), "late": why}
    return await runs.move(tx, run, RunState.PENDING, at=now, body={"message": why, "counts": planned.plan.in_words}, **facts)


async def _nothing_to_apply(
    tx: AsyncConnection, run: RunRow, planned: Planned, refs: Sequence[ArtifactRef], policy: Policy, now: datetime
) -> RunRow:
    """The run ends here. A plan that may be adopted has a document of its own: what it was made of, and until when that holds."""
    document = None
    if planned.adoptable and not run.changes:
        document = await document_of(tx, run, planned, policy=policy, expires_at=_longest(policy, now))
    await insert_plan(tx, run, planned, refs, now, document=document)
    news = await drift.noted(tx, run, planned, at=now) if run.mode is Mode.DRIFT else False
    findings = [asdict(finding) for finding in planned.findings]
    body = {"counts": planned.plan.in_words, "findings": findings, "warnings": list(planned.warnings)}
    # Of a drift check is told outside what it found and nothing else: it comes every so often and waits for nobody.
    move = runs.pass_through if run.mode is Mode.DRIFT else runs.move
    run = await move(
        tx,
        run,
        RunState.PLANNED_AND_FINISHED,
        at=now,
        body=body,
        plan_number=run.plan_number + 1,
        plan_digest=document.digest if document else None,
        change_class=str(planned.plan.change_class),
        reason=None,
        code=None,
    )
    if news:
        await runs.tell(tx, run, Moment.DRIFTED, at=now)
    return run


def _longest(policy: Policy, now: datetime) -> datetime:
    """Until when a plan of now may be approved and applied."""
    return now + timedelta(hours=min(policy.approval_hours, LONGEST_APPROVAL))


async def _check(tx: AsyncConnection, run: RunRow, planned: Planned, refs: Sequence[ArtifactRef], policy: Policy, now: datetime) -> RunRow:
    """Weigh the plan by policy: it waits, is approved by policy or by an approval carried over, or is denied."""
    number = run.plan_number + 1
    if run.engine == COMPOSITE:
        requirement = await composites.whole_requirement(tx, run, policy)
    else:
        requirement = composites.requirement_of(policy, run, change_class=planned.plan.change_class, classes=planned.plan.classes)
    before = await plans.get_plan(tx, run.org, run.id)
    carried = await _carried(tx, run, before, planned, now)
    expires_at = min(_longest(policy, now), planned.expires_at or datetime.max.replace(tzinfo=UTC))
    if carried and before and before.document:
        expires_at = datetime.fromisoformat(before.document.expires_at)
    document = await document_of(tx, run, planned, policy=policy, expires_at=expires_at)
    await insert_plan(tx, run, planned, refs, now, document=document)
    facts = {
        "plan_number": number,
        "plan_digest": document.digest,
        "change_class": str(planned.plan.change_class),
        "requirement": requirement.model_dump_json(),
        "expires_at": stamp(expires_at),
        "total": planned.plan.counts.total,
        "done": 0,
        "reason": None,
        "code": None,
    }
    counts = {"counts": str(planned.plan.counts), "plan_digest": document.digest, "warnings": list(planned.warnings)}
    run = await runs.move(tx, run, RunState.CHECKING, at=now, body=counts, **facts)
    await audit.of_run(tx, run, at=now, action="run.plan", by=SYSTEM, plan_digest=document.digest)
    if requirement.need is Need.DENY:
        why = f"policy denies this change: {requirement.rule}"
        return await runs.move(tx, run, RunState.ERRORED, at=now, body={"message": why}, reason=why, code="policy_denied")
    if carried:
        await _agree_again(tx, run, carried, now)
        return await runs.move(tx, run, RunState.APPROVED, at=now, body={"carried_from": before.plan_digest if before else None})
    if requirement.automatic and run.parent is None:  # a step waits for the whole to be agreed to, by policy or not
        await _agree_by_policy(tx, run, requirement.rule, now)
        return await runs.move(tx, run, RunState.APPROVED, at=now, body={"by": SYSTEM.id, "rule": requirement.rule})
    body = {"needs": str(requirement.need), "people": requirement.people, "confirm_name": requirement.confirm_name}
    return await runs.move(tx, run, RunState.AWAITING_APPROVAL, at=now, body=body)


async def document_of(tx: AsyncConnection, run: RunRow, planned: Planned, *, policy: Policy, expires_at: datetime) -> ApprovalDocument:
    """The document people countersign for the run's next plan."""
    credential = None  # each step of a composite has its own
    if run.engine != COMPOSITE:
        credential = await credential_of(tx, run.org, (await records.get_stack(tx, run.org, run.stack_id)).config)
    return ApprovalDocument(
        org=run.org,
        run_id=run.id,
        plan_number=run.plan_number + 1,
        mode=str(run.mode),
        plan_sha256=planned.plan_sha256,
        bundle_sha256=sha256(planned.bundle),
        semantic_digest=planned.plan.semantic_digest,
        inputs_digest=digest_of(dict(planned.inputs)),
        target=Target(
            stack_id=run.stack_id,
            stack_path=run.stack_path,
            lineage=planned.lineage,
            serial=planned.serial,
            account=planned.account,
            credential=credential,
        ),
        engine_build=planned.plan.engine_build,
        policy_version=policy.version,
        expires_at=stamp(expires_at),
    )


async def credential_of(tx: AsyncConnection, org: str, stack: StackConfig) -> str | None:
    """Record and version of what will be used at apply: another value of it is another target."""
    slug = stack.apply_credential or stack.plan_credential
    return f"{slug}@{await secrets.version(tx, org, slug)}" if slug else None


async def insert_plan(
    tx: AsyncConnection, run: RunRow, planned: Planned, refs: Sequence[ArtifactRef], now: datetime, *, document: ApprovalDocument | None
) -> None:
    await statements.add(
        tx,
        plans_table,
        org_id=run.org,
        run_id=run.id,
        number=run.plan_number + 1,
        plan_digest=document.digest if document else None,
        document=document.model_dump_json() if document else None,
        semantic_digest=planned.plan.semantic_digest,
        summary=planned.plan.model_copy(update={"artifacts": tuple(refs)}).model_dump_json(),
        inputs=json.dumps(dict(planned.inputs)),
        findings=json.dumps([asdict(finding) for finding in planned.findings]),
        lineage=planned.lineage,
        serial=planned.serial,
        created_at=stamp(now),
    )


async def _carried(tx: AsyncConnection, run: RunRow, before: PlanRow | None, planned: Planned, now: datetime) -> list[DecisionRow]:
    """Accepted approvals of the plan before, where the new one means exactly the same and their time is not over."""
    if before is None or before.document is None or before.semantic_digest != planned.plan.semantic_digest:
        return []
    if now >= datetime.fromisoformat(before.document.expires_at):
        return []
    return [
        d
        for d in await plans.decisions_of(tx, run.org, run.id)
        if d.accepted and d.decision == "approve" and d.plan_digest == before.plan_digest
    ]


async def _agree_again(tx: AsyncConnection, run: RunRow, carried: list[DecisionRow], now: datetime) -> None:
    for d in carried:
        await insert_approval(tx, run, now, channel=Channel.CARRIED, source=d)


async def _agree_by_policy(tx: AsyncConnection, run: RunRow, rule: str, now: datetime) -> None:
    await insert_approval(tx, run, now, channel=Channel.POLICY, comment=rule)


async def insert_approval(
    tx: AsyncConnection, run: RunRow, now: datetime, *, channel: Channel, source: DecisionRow | None = None, comment: str = ""
) -> None:
    by = source.by if source else SYSTEM
    nonce = derive("carry", run.org, run.id, run.plan_digest or "", by.id)
    await statements.add(
        tx,
        decisions,
        org_id=run.org,
        id=derive("dec", run.org, run.id, nonce),
        run_id=run.id,
        plan_digest=run.plan_digest,
        decision="approve",
        accepted=True,
        channel=str(channel),
        principal=by.id,
        principal_kind=str(by.kind),
        acts_for=by.acts_for,
        confirm_name=source.confirm_name if source else None,
        comment=f"carried over from {source.plan_digest}" if source else comment,
        nonce=nonce,
        at=stamp(now),
    )
    await audit.of_run(tx, run, at=now, action=f"run.approve.{channel}", by=by, plan_digest=run.plan_digest)


async def supersede(tx: AsyncConnection, run: RunRow, now: datetime) -> list[str]:
    """Older runs of the same requester and type that still wait on this stack make way; their workflows are told."""
    if run.state is not RunState.AWAITING_APPROVAL or run.parent is not None:
        return []
    waiting, _ = await runs.list_runs(
        tx, run.org, stack_id=run.stack_id, states=[RunState.AWAITING_APPROVAL], types=[run.type], requester=run.requester.id, limit=100
    )
    told: list[str] = []
    for older in waiting:
        if older.id != run.id and _makes_way(older, run) and not await plans.attempts_of(tx, run.org, older.id):
            why = f"superseded by {run.id}, a newer request of the same kind"
            await runs.move(tx, older, RunState.CANCELED, at=now, body={"by": SYSTEM.id, "message": why}, reason=why, code="canceled")
            told.append(older.id)
    return told


def _makes_way(older: RunRow, run: RunRow) -> bool:
    """Whether the newer request says anew what the older one said. Imports of two objects are two requests."""
    same = older.requester.id == run.requester.id and older.parent is None and older.request.get("address") == run.request.get("address")
    return same and older.created_at <= run.created_at
