"""A plan of plans: what comes next from where its steps stand, how they are shown as one, and what the whole waits for."""

from typing import Any

import pytest

from countersign.core import composite
from countersign.core.composite import Asked, Do, Link, Member, Move, Part
from countersign.core.plan import Change, ChangeClass, Counts, Plan
from countersign.core.policy import Need, Requirement
from countersign.core.run import RunState
from tests.requirements import requirement

S = RunState


def steps(*states: str, late: int = 0, covered: bool = True, lost: int = 0) -> list[Member]:
    """Members in these states; `late` and `lost` are numbers of steps."""
    return [
        Member(
            step=n,
            run_id=f"run_{n}",
            path=f"acme/dev/s{n}",
            state=RunState(state),
            late=n == late,
            covered=covered,
            lost=n == lost,
            reason="",
        )
        for n, state in enumerate(states, 1)
    ]


def said(move: Move) -> tuple[str, int | None]:
    return str(move.do), move.member.step if move.member is not None else None


@pytest.mark.parametrize(
    ("states", "late", "next_"),
    [
        (("planning", "awaiting_approval"), 0, ("wait", 1)),
        (("awaiting_approval", "pending"), 0, ("wait", 2)),  # for its turn on the state
        (("awaiting_approval", "awaiting_approval"), 0, ("show", None)),
        (("planned_and_finished", "awaiting_approval"), 0, ("show", None)),
        (("awaiting_approval", "pending"), 2, ("show", None)),  # planned after the first, and said so
        (("planning", "pending"), 2, ("wait", 1)),
        (("planned_and_finished", "pending"), 2, ("let_plan", 2)),  # nothing comes before it any more
        (("applied", "pending"), 2, ("let_plan", 2)),
        (("awaiting_approval", "errored"), 0, ("end", 2)),
        (("planning", "errored"), 0, ("end", 2)),
    ],
)
def test_plans_are_shown_once_every_step_that_can_be_planned_is(states: tuple[str, ...], late: int, next_: tuple[str, int | None]) -> None:
    assert said(composite.planning(steps(*states, late=late))) == next_


def test_a_dry_run_plans_nothing_late_because_nothing_is_ever_applied() -> None:
    assert said(composite.planning(steps("planned_and_finished", "pending", late=2), dry=True)) == ("show", None)


def test_a_step_that_cannot_be_planned_ends_the_whole_with_its_reason() -> None:
    failed = Member(step=2, run_id="run_2", path="acme/dev/app", state=S.ERRORED, reason="no such module")

    move = composite.planning([*steps("awaiting_approval"), failed])

    assert (move.state, move.why) == (S.ERRORED, "step 2 (acme/dev/app) ended errored: no such module")


@requirement("composite:ordered")
@pytest.mark.parametrize(
    ("states", "late", "next_"),
    [
        (("awaiting_approval", "awaiting_approval"), 0, ("agree", 1)),
        (("approved", "awaiting_approval"), 0, ("wait", 1)),
        (("applying", "awaiting_approval"), 0, ("wait", 1)),
        (("needs_operator", "awaiting_approval"), 0, ("wait", 1)),
        (("applied", "awaiting_approval"), 0, ("agree", 2)),
        (("planned_and_finished", "awaiting_approval"), 0, ("agree", 2)),
        (("applied", "pending"), 2, ("let_plan", 2)),
        (("applied", "pending"), 0, ("wait", 2)),
        (("applied", "planning"), 0, ("wait", 2)),
        (("partially_applied", "awaiting_approval"), 0, ("end", 1)),
        (("applied", "applied"), 0, ("end", None)),
    ],
)
def test_a_step_begins_only_when_all_before_it_are_done(states: tuple[str, ...], late: int, next_: tuple[str, int | None]) -> None:
    assert said(composite.applying(steps(*states, late=late), canceled=False)) == next_


@requirement("composite:asks-again")
def test_a_step_that_means_what_nobody_was_shown_is_asked_for() -> None:
    assert said(composite.applying(steps("applied", "awaiting_approval", covered=False), canceled=False)) == ("ask", 2)


@requirement("composite:honest-end")
@pytest.mark.parametrize(
    ("states", "canceled", "lost", "end"),
    [
        (("applied", "applied"), False, 0, "applied"),
        (("applied", "planned_and_finished"), True, 0, "applied"),  # the wish came too late
        (("errored", "awaiting_approval"), False, 0, "errored"),
        (("applied", "errored"), False, 0, "partially_applied"),
        (("applied", "canceled"), True, 0, "partially_applied"),
        (("partially_applied", "awaiting_approval"), False, 0, "partially_applied"),
        (("canceled", "awaiting_approval"), True, 0, "canceled"),
        (("planned_and_finished", "expired"), False, 0, "errored"),
        (("awaiting_approval", "awaiting_approval"), True, 0, "canceled"),
        (("applied", "awaiting_approval"), True, 0, "partially_applied"),
        (("awaiting_approval", "awaiting_approval"), True, 1, "partially_applied"),  # a lost apply of it may have changed something
    ],
)
def test_the_whole_ends_as_its_steps_did(states: tuple[str, ...], canceled: bool, lost: int, end: str) -> None:
    move = composite.applying(steps(*states, lost=lost), canceled=canceled)

    assert (move.do, move.state) == (Do.END, RunState(end))


def test_a_wish_to_cancel_reaches_the_step_that_runs_and_no_other_begins() -> None:
    assert said(composite.applying(steps("applying", "awaiting_approval"), canceled=True)) == ("stop", 1)
    assert composite.applying(steps("applied", "awaiting_approval"), canceled=True).why == "canceled before step 2 (acme/dev/s2) was begun"
    assert composite.applying(steps("errored"), canceled=False).why == "step 1 (acme/dev/s1) ended errored"


def plan(*changes: tuple[str, str], semantic: str = "s", risks: tuple[str, ...] = (), build: str = "toy 1", **more: Any) -> Plan:
    made = tuple(Change(address=a, type="t", action=c, change_class=ChangeClass(c), **more) for a, c in changes)
    classes = tuple(sorted({c.change_class for c in made}, key=lambda c: c.rank))
    counts = Counts(create=sum(c == "create" for _, c in changes), delete=sum(c == "delete" for _, c in changes))
    worst = classes[-1] if classes else ChangeClass.NONE
    outputs = ("url",) if changes else ()
    return Plan(
        engine="toy",
        engine_build=build,
        counts=counts,
        change_class=worst,
        classes=classes,
        changes=made,
        risks=risks,
        outputs_changed=outputs,
        semantic_digest=semantic,
    )


def part(step: int, made: Plan | None, *, late: str | None = None) -> Part:
    semantic = made.semantic_digest if made is not None else None
    return Part(
        link=Link(step=step, run_id=f"run_{step}", type="apply_toy", stack=f"acme/dev/s{step}", semantic_digest=semantic, late=late),
        plan=made,
    )


def test_the_plans_are_shown_as_one_the_worst_first_each_change_under_the_number_of_its_step() -> None:
    one = composite.composed(
        [part(1, plan(("net", "create"), risks=("it is public",))), part(2, plan(("app", "delete"), build="toy 2", previous_address="old"))]
    )

    assert [(c.address, c.previous_address) for c in one.changes] == [("2/app", "2/old"), ("1/net", None)]
    assert (one.counts, one.change_class) == (Counts(create=1, delete=1), ChangeClass.DELETE)
    assert one.classes == (ChangeClass.CREATE, ChangeClass.DELETE)
    assert one.outputs_changed == ("1/url", "2/url")
    assert one.risks == ("Step 1 (acme/dev/s1): it is public",)
    assert (one.engine, one.engine_build) == ("composite", "toy 1, toy 2")


@requirement("composite:asks-again")
def test_a_step_that_is_planned_later_is_the_first_thing_a_reviewer_reads() -> None:
    one = composite.composed([part(1, plan(("net", "create"), risks=("it is public",))), part(2, None, late="it reads acme/dev/s1.")])

    assert one.risks == (
        "Step 2 (acme/dev/s2) is planned only after the steps before it, and asks again then: it reads acme/dev/s1.",
        "Step 1 (acme/dev/s1): it is public",
    )
    assert one.counts == Counts(create=1)


def test_nothing_planned_yet_is_a_plan_of_nothing() -> None:
    assert composite.composed([part(1, None, late="later")]).engine_build == "composite"


def test_two_wholes_mean_the_same_when_each_step_does() -> None:
    def digest(*parts: Part) -> str:
        return composite.composed(parts).semantic_digest

    same = digest(part(1, plan(semantic="a")), part(2, plan(semantic="b")))

    assert digest(part(1, plan(semantic="a")), part(2, plan(semantic="b"))) == same
    assert digest(part(1, plan(semantic="a")), part(2, plan(semantic="c"))) != same
    assert digest(part(1, plan(semantic="a"))) != same
    assert digest(part(1, plan(semantic="a")), part(2, None, late="later")) != same


def asked(step: int, need: Need, people: int = 1, *, name: str | None = None) -> Asked:
    return Asked(step=step, requirement=Requirement(need=need, people=people, confirm_name=name, rule=f"rule {step}"))


@requirement("composite:policy")
def test_the_whole_waits_for_what_its_most_demanding_step_asks_and_for_every_name_that_is_destroyed() -> None:
    whole = composite.strictest(
        [
            asked(1, Need.PERSON, name="acme/dev/s1"),
            asked(2, Need.TWO, people=2),
            asked(3, Need.AUTO, people=0),
            asked(4, Need.PERSON, name="web"),
        ]
    )

    assert whole == Requirement(need=Need.TWO, people=2, confirm_name="acme/dev/s1, web", rule="step 2: rule 2")


@requirement("composite:policy")
def test_what_policy_denies_for_one_step_it_denies_for_the_whole_and_no_plan_at_all_is_denied() -> None:
    assert composite.strictest([asked(1, Need.AUTO, people=0), asked(2, Need.DENY, people=0)]).need is Need.DENY
    assert composite.strictest([asked(1, Need.AUTO, people=0)]) == Requirement(need=Need.AUTO, people=0, rule="step 1: rule 1")
    assert composite.strictest([]).need is Need.DENY


def test_long_lists_of_names_are_cut_to_what_somebody_types() -> None:
    names = [f"acme/dev/{'x' * 60}{n}" for n in range(4)]

    assert composite.names_to_type(names[:2]) == f"{names[0]}, {names[1]}"
    assert composite.names_to_type(names) == f"{names[0]} and 3 more"
    assert composite.name_of(["acme/dev/net", "acme/dev/app"]) == "acme/dev/net + acme/dev/app"
    assert composite.name_of(names) == f"{names[0]} and 3 more"


def test_the_same_stacks_in_the_same_order_are_the_same_thing_to_take_turns_on() -> None:
    assert composite.stacks_of("acme", ["st_1", "st_2"]) == composite.stacks_of("acme", ["st_1", "st_2"])
    assert composite.stacks_of("acme", ["st_1", "st_2"]) != composite.stacks_of("acme", ["st_2", "st_1"])
