"""What binds a composite and its steps in rows: which plans were agreed to with the whole, and what that is worth to each step.

Nobody decides about a step by itself. People decide about the composite, whose document names the plan of every step; what they said
is passed on when a step's turn comes, and the claim of the step weighs it again from the composite's own decisions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, plans, runs, statements
from countersign.adapters.store.database import stamp
from countersign.adapters.store.plans import PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import decisions
from countersign.core.approval import Approval, Channel
from countersign.core.composite import DONE, Asked, Link, Member, Part, strictest
from countersign.core.ids import derive
from countersign.core.plan import ChangeClass
from countersign.core.policy import Policy, Requirement, required
from countersign.core.run import ASK_A_PERSON, COMPOSITE, Mode, RunState, typed_name

# A composite under way: its steps may be claimed. It is reconciling where an operator let it look again.
LEADING = frozenset({RunState.APPLYING, RunState.RECONCILING})


def requirement_of(
    policy: Policy, run: RunRow, *, change_class: ChangeClass, classes: Collection[ChangeClass], name: str | None = None
) -> Requirement:
    """What policy asks for a plan of this run, as it is now."""
    return required(
        policy,
        env=run.env,
        change_class=change_class,
        classes=classes,
        name=typed_name(run.stack_path, run.engine) if name is None else name,
        auto_approve=bool(run.request.get("auto_approve")),
        destroy=run.mode is Mode.DESTROY,
        by_person=run.type in ASK_A_PERSON,
    )


async def is_protected(conn: AsyncConnection, run: RunRow, policy: Policy) -> bool:
    """Whether the run, or a step of it, is in a protected environment."""
    envs = {run.env} | ({one.env for one in await runs.members_of(conn, run)} if run.engine == COMPOSITE else set())
    return any(policy.is_protected(env) for env in envs)


async def whole_requirement(conn: AsyncConnection, run: RunRow, policy: Policy) -> Requirement:
    """What policy asks for all that is left of a composite: each step by its own environment and classes."""
    asked = []
    for member in await runs.members_of(conn, run):
        plan = await plans.get_plan(conn, run.org, member.id)
        if member.state is RunState.AWAITING_APPROVAL and plan is not None:
            needs = requirement_of(policy, member, change_class=plan.summary.change_class, classes=plan.summary.classes)
            asked.append(Asked(step=member.step or 0, requirement=needs))
    return strictest(asked)


async def parts_of(conn: AsyncConnection, run: RunRow) -> list[Part]:
    """The steps that are left, with their plans; of a dry run all."""
    parts = []
    for member in await runs.members_of(conn, run):
        if member.state in DONE and run.changes:
            continue
        plan = await plans.get_plan(conn, run.org, member.id)
        until = plan.document.expires_at if plan is not None and plan.document is not None and member.changes else None
        parts.append(
            Part(
                link=_link(member, plan),
                plan=plan.summary if plan is not None else None,
                expires_at=datetime.fromisoformat(until) if until else None,
            )
        )
    return parts


async def links_of(conn: AsyncConnection, run: RunRow) -> list[Link]:
    """All steps as they are: what the composite's document says about them."""
    return [_link(member, await plans.get_plan(conn, run.org, member.id)) for member in await runs.members_of(conn, run)]


def _link(member: RunRow, plan: PlanRow | None) -> Link:
    return Link(
        step=member.step or 0,
        run_id=member.id,
        type=member.type,
        stack=member.stack_path,
        plan_digest=member.plan_digest,
        semantic_digest=plan.semantic_digest if plan is not None else None,
        late=member.late,
        state=str(member.state) if member.ended else None,
    )


async def standing_members(conn: AsyncConnection, run: RunRow) -> list[Member]:
    """Where each step stands, and whether what it means was agreed to with the whole."""
    agreed = await _agreed(conn, run)
    found = []
    for member in await runs.members_of(conn, run):
        lost = await plans.open_attempt(conn, run.org, member.stack_id) if not member.ended else None
        found.append(
            Member(
                step=member.step or 0,
                run_id=member.id,
                path=member.stack_path,
                state=member.state,
                late=member.late is not None,
                covered=member.state is RunState.AWAITING_APPROVAL and agreed is not None and await _covers(conn, agreed, member),
                lost=lost is not None and lost.run_id == member.id,
                reason=member.reason or "",
            )
        )
    return found


async def _agreed(conn: AsyncConnection, run: RunRow) -> PlanRow | None:
    """The plan of the composite that is being carried out, by its open attempt."""
    attempt = await plans.open_attempt(conn, run.org, run.stack_id)
    return await plans.plan_by_digest(conn, run.org, attempt.plan_digest) if attempt is not None and attempt.run_id == run.id else None


async def _covers(conn: AsyncConnection, agreed: PlanRow, member: RunRow) -> bool:
    """Whether the member's plan is the one that was shown, or means the same; each showing is passed on once."""
    link = _link_to(agreed, member)
    plan = await plans.get_plan(conn, member.org, member.id)
    if link is None or plan is None or member.plan_digest is None or link.plan_digest is None or link.late is not None:
        return False
    if member.plan_digest != link.plan_digest and plan.semantic_digest != link.semantic_digest:
        return False
    passed = await plans.decisions_of(conn, member.org, member.id)
    return not any(d.nonce.startswith(_showing(agreed, member)) for d in passed)


def _link_to(agreed: PlanRow, member: RunRow) -> Link | None:
    links = [Link.model_validate(one) for one in agreed.inputs.get("steps") or ()]
    return next((link for link in links if link.run_id == member.id), None)


def _showing(agreed: PlanRow, member: RunRow) -> str:
    return derive("cmp", member.org, member.id, agreed.plan_digest or "")


async def pass_on(tx: AsyncConnection, run: RunRow, member: RunRow, *, at: datetime) -> RunRow:
    """Record for a step what was agreed to with the whole, by the same people; it may be claimed then."""
    agreed = await _agreed(tx, run)
    assert agreed is not None and member.plan_digest is not None  # standing_members saw to it
    showing = _showing(agreed, member)
    for number, d in enumerate(await agreements(tx, run, agreed)):
        await statements.add(
            tx,
            decisions,
            org_id=run.org,
            id=derive("dec", run.org, member.id, showing, str(number)),
            run_id=member.id,
            plan_digest=member.plan_digest,
            decision="approve",
            accepted=True,
            channel=str(Channel.COMPOSITE),
            principal=d.by.id,
            principal_kind=str(d.by.kind),
            acts_for=d.by.acts_for,
            confirm_name=d.confirm_name,
            comment=f"step {member.step} of {run.id}, agreed to as {agreed.plan_digest}",
            nonce=f"{showing}.{number}",
            at=stamp(at),
        )
        await audit.of_run(
            tx, member, at=at, action=f"run.approve.{Channel.COMPOSITE}", by=d.by, plan_digest=member.plan_digest, composite=run.id
        )
    return await runs.move(tx, member, RunState.APPROVED, at=at, body={"composite": run.id, "plan_digest": agreed.plan_digest})


async def agreements(conn: AsyncConnection, run: RunRow, plan: PlanRow) -> list[Approval]:
    said = await plans.decisions_of(conn, run.org, run.id)
    return [d.approval for d in said if d.accepted and d.decision == "approve" and d.plan_digest == plan.plan_digest]


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What the claim of a step weighs: what people said to the whole."""

    agreed: Sequence[Approval]
    plan_digest: str
    name: str  # typed where something is destroyed
    expires_at: datetime


async def basis_of(conn: AsyncConnection, member: RunRow, plan: PlanRow) -> Basis | str:
    """What was agreed to for a step's plan, or why nothing was: denied unless every link holds."""
    assert member.parent is not None and plan.document is not None  # the caller saw to it
    parent = await runs.get_run(conn, member.org, member.parent)
    agreed = await _agreed(conn, parent)
    if parent.state not in LEADING or agreed is None or agreed.document is None or agreed.plan_digest is None:
        return f"{parent.id}, which this is a step of, is {parent.state} and lets no step begin"
    if _link_to(agreed, member) is None:
        return f"what was agreed to in {parent.id} names no such step"
    if not all(one.state in DONE for one in await before(conn, member)):
        return f"a step of {parent.id} that comes before this one is not done"
    passed = await plans.decisions_of(conn, member.org, member.id)
    if not any(
        d.accepted and d.decision == "approve" and d.plan_digest == plan.plan_digest and d.channel in (Channel.COMPOSITE, Channel.CARRIED)
        for d in passed
    ):
        return f"nobody agreed to this plan as a step of {parent.id}"
    until = min(datetime.fromisoformat(one.expires_at) for one in (agreed.document, plan.document))
    name = parent.requirement.confirm_name if parent.requirement is not None else None
    return Basis(agreed=await agreements(conn, parent, agreed), plan_digest=agreed.plan_digest, name=name or "", expires_at=until)


async def before(conn: AsyncConnection, member: RunRow) -> list[RunRow]:
    """The steps that come before this one."""
    assert member.parent is not None and member.step is not None
    parent = await runs.get_run(conn, member.org, member.parent)
    return [one for one in await runs.members_of(conn, parent) if (one.step or 0) < member.step]


async def may_plan(tx: AsyncConnection, member: RunRow) -> bool:
    """Whether it is time for a step to be planned; not before its composite has its own turn, nor before what it waits for."""
    assert member.parent is not None
    parent = await runs.get_run(tx, member.org, member.parent)
    if parent.state is RunState.PENDING:
        return False
    return member.late is None or (parent.changes and all(one.state in DONE for one in await before(tx, member)))


async def waits_for(conn: AsyncConnection, member: RunRow, stack_id: str | None) -> bool:
    """Whether a step before this one is yet to change the stack; or any stack, where none is named."""
    if member.parent is None:
        return False
    parent = await runs.get_run(conn, member.org, member.parent)
    left = [one for one in await before(conn, member) if not parent.changes or one.state not in DONE]
    return any(stack_id is None or one.stack_id == stack_id for one in left)


async def is_over(conn: AsyncConnection, run: RunRow) -> bool:
    """Whether the run is a step of a composite that has ended."""
    return run.parent is not None and (await runs.get_run(conn, run.org, run.parent)).ended
