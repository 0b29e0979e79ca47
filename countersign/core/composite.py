"""A plan of plans: several runs in an order, agreed to as one.

Each step is a run like any other, with a stack, a plan, a claim and a journal of its own; it is called a member. The composite
decides nothing a run would decide: it shows all plans as one, asks once, and then lets one member after the other be claimed. What
is decided here is what comes next, from where the members stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from countersign.core.digests import digest_of
from countersign.core.ids import derive
from countersign.core.model import Payload
from countersign.core.plan import Change, Counts, Plan, shown, worst
from countersign.core.policy import Need, Requirement
from countersign.core.run import COMPOSITE, ENDS, RunState

MOST = 10  # steps: one person reads all of their plans
TYPED = 255  # characters of a name somebody types

S = RunState
DONE = frozenset({S.APPLIED, S.PLANNED_AND_FINISHED})  # what may be built upon
CHANGED = frozenset({S.APPLIED, S.PARTIALLY_APPLIED})
_NOT_BEGUN = frozenset({S.PENDING, S.PLANNING, S.CHECKING, S.AWAITING_APPROVAL, S.STALE})


class Link(Payload):
    """One step in the document people agree to; `countersign.composite/1` is the list of them, in order."""

    step: int
    run_id: str
    type: str
    stack: str  # "org/env/slug"
    plan_digest: str | None = None  # of the member's own approval document
    semantic_digest: str | None = None
    late: str | None = None  # why it is planned only after the steps before it
    state: str | None = None  # of a member that is over already


def stacks_of(org: str, stack_ids: Sequence[str]) -> str:
    """What stands where other runs have their stack: the same steps on the same stacks take turns, and a newer plan replaces an older."""
    return derive("cmp", org, *stack_ids)


def name_of(paths: Sequence[str]) -> str:
    """What a composite is called where other runs have the path of their stack."""
    name = " + ".join(paths)
    return name if len(name) <= TYPED else f"{paths[0]} and {len(paths) - 1} more"


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where one step stands."""

    step: int  # from 1
    run_id: str
    path: str
    state: RunState
    late: bool = False  # is planned only after the steps before it
    covered: bool = False  # its plan is the one, or means the same as the one, that was agreed to with the whole, and was not used yet
    lost: bool = False  # an apply of it is not accounted for yet
    reason: str = ""

    @property
    def name(self) -> str:
        return f"step {self.step} ({self.path})"

    @property
    def done(self) -> bool:
        return self.state in DONE

    @property
    def failed(self) -> bool:
        return self.state in ENDS and not self.done

    @property
    def changed(self) -> bool:
        """Whether it has changed something, or may have."""
        return self.state in CHANGED or self.lost

    @property
    def why(self) -> str:
        return f"{self.name} ended {self.state}" + (f": {self.reason}" if self.reason else "")


class Do(StrEnum):
    WAIT = "wait"
    LET_PLAN = "let_plan"  # what comes before it is done
    AGREE = "agree"  # pass on what was agreed to, so that it is claimed
    STOP = "stop"  # ask the member to stop
    ASK = "ask"  # it means something that nobody agreed to
    SHOW = "show"  # every plan that can be made is made
    END = "end"


@dataclass(frozen=True, kw_only=True)
class Move:
    do: Do
    member: Member | None = None
    state: RunState = S.APPLIED  # of END
    why: str = ""


def planning(members: Sequence[Member], *, dry: bool = False) -> Move:
    """What comes next while plans are made. Of a dry run nothing is ever applied, so what is late is not planned at all."""
    before_is_done, waits = not dry, None
    for one in members:
        if one.failed:
            return Move(do=Do.END, member=one, state=S.ERRORED, why=one.why)
        held = one.state is S.PENDING and one.late
        if held and before_is_done:
            return Move(do=Do.LET_PLAN, member=one)
        if waits is None and not (held or one.done or one.state is S.AWAITING_APPROVAL):
            waits = one
        before_is_done = before_is_done and one.done
    return Move(do=Do.SHOW) if waits is None else Move(do=Do.WAIT, member=waits)


def applying(members: Sequence[Member], *, canceled: bool) -> Move:
    """What comes next once the whole was agreed to."""
    for one in members:
        if one.done:
            continue
        if one.failed:
            return Move(do=Do.END, member=one, state=_end(members, canceled), why=one.why)
        if canceled:
            if one.state not in _NOT_BEGUN:
                return Move(do=Do.STOP, member=one)
            return Move(do=Do.END, member=one, state=_end(members, canceled), why=f"canceled before {one.name} was begun")
        if one.state is S.PENDING and one.late:
            return Move(do=Do.LET_PLAN, member=one)
        if one.state is S.AWAITING_APPROVAL:
            return Move(do=Do.AGREE if one.covered else Do.ASK, member=one)
        return Move(do=Do.WAIT, member=one)
    return Move(do=Do.END, state=S.APPLIED)


def _end(members: Sequence[Member], canceled: bool) -> RunState:
    if any(one.changed for one in members):
        return S.PARTIALLY_APPLIED
    return S.CANCELED if canceled else S.ERRORED


@dataclass(frozen=True, kw_only=True)
class Part:
    """One step that is not over, for whoever agrees to the whole."""

    link: Link
    plan: Plan | None  # None: not planned yet
    expires_at: datetime | None = None  # until when the plan holds


def composed(parts: Sequence[Part]) -> Plan:
    """One plan of what is left: every change under the number of its step, the worst class, and all that reviewers read first."""
    made = [(part.link, part.plan) for part in parts if part.plan is not None]
    changes = [_numbered(link.step, change) for link, plan in made for change in plan.changes]
    classes = {c for _, plan in made for c in plan.classes}
    later = [
        f"Step {part.link.step} ({part.link.stack}) is planned only after the steps before it, and asks again then: {part.link.late}"
        for part in parts
        if part.link.late is not None
    ]
    return Plan(
        engine=COMPOSITE,
        engine_build=", ".join(dict.fromkeys(plan.engine_build for _, plan in made)) or COMPOSITE,
        counts=Counts(**{name: sum(getattr(plan.counts, name) for _, plan in made) for name in Counts.model_fields}),
        change_class=worst(plan.change_class for _, plan in made),
        classes=tuple(sorted(classes, key=lambda c: c.rank)),
        changes=shown(changes),
        risks=(*later, *(f"Step {link.step} ({link.stack}): {risk}" for link, plan in made for risk in plan.risks)),
        outputs_changed=tuple(numbered(link.step, name) for link, plan in made for name in plan.outputs_changed),
        semantic_digest=digest_of([[p.link.type, p.link.stack, p.link.semantic_digest, p.link.late is not None] for p in parts]),
    )


def numbered(step: int, name: str) -> str:
    """An address or a name, under the number of its step."""
    return f"{step}/{name}"


def _numbered(step: int, change: Change) -> Change:
    before = change.previous_address
    return change.model_copy(
        update={"address": numbered(step, change.address), "previous_address": numbered(step, before) if before else None}
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What policy asks for one step."""

    step: int
    requirement: Requirement


def strictest(asked: Sequence[Asked]) -> Requirement:
    """What the whole waits for: what the most demanding step asks, and the name of everything that is destroyed."""
    if not asked:
        return Requirement(need=Need.DENY, people=0, rule="there is no plan to agree to")
    worst_of = max(asked, key=lambda one: one.requirement.need.rank)
    names = [one.requirement.confirm_name for one in asked if one.requirement.confirm_name is not None]
    return Requirement(
        need=worst_of.requirement.need,
        people=max(one.requirement.people for one in asked),
        confirm_name=names_to_type(names) if names else None,
        rule=f"step {worst_of.step}: {worst_of.requirement.rule}",
    )


def names_to_type(names: Sequence[str]) -> str:
    """What is typed where several things are destroyed: all of them, or the first and how many more."""
    all_of_them = ", ".join(names)
    return all_of_them if len(all_of_them) <= TYPED else f"{names[0]} and {len(names) - 1} more"
