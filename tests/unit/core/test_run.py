"""Which state may follow which, written out: the table in the code is compared with what design §2 says, pair by pair."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.run import ENDS, RUN_TYPES, TRANSITIONS, Mode, RunState, RunType, may_follow, typed_name
from tests.requirements import requirement

# One line for each state: what may come after it.
ALLOWED = {
    "pending": "planning canceled errored partially_applied",
    "planning": "planned_and_finished checking pending canceling canceled errored partially_applied",
    "checking": "awaiting_approval approved errored partially_applied",
    "awaiting_approval": "approved rejected expired canceled stale needs_operator partially_applied",
    "approved": "applying stale expired canceled errored awaiting_approval needs_operator partially_applied",
    "applying": "verifying partially_applied stale interrupted canceling errored",
    "verifying": "applied partially_applied interrupted",
    "stale": "planning pending canceled errored expired partially_applied",
    "interrupted": "reconciling needs_operator",
    "reconciling": "approved awaiting_approval needs_operator verifying partially_applied canceled errored",
    "needs_operator": "reconciling",
    "canceling": "canceled verifying partially_applied interrupted errored",
    "planned_and_finished": "",
    "applied": "",
    "partially_applied": "",
    "rejected": "",
    "expired": "",
    "canceled": "",
    "errored": "",
}
PAIRS = [(before, after) for before in RunState for after in RunState]


@requirement("run:transitions")
def test_every_pair_of_states_is_allowed_or_not_as_the_table_says() -> None:
    wrong = [
        f"{before} → {after}"
        for before, after in PAIRS
        if may_follow(before, after) is not (after in ALLOWED[before].split() or after == before)
    ]

    assert wrong == []
    assert set(ALLOWED) == set(TRANSITIONS) == set(RunState)


@requirement("run:transitions")
def test_the_ends_are_the_seven_of_the_design_and_have_no_exits() -> None:
    assert {str(end) for end in ENDS} == {
        "planned_and_finished",
        "applied",
        "partially_applied",
        "rejected",
        "expired",
        "canceled",
        "errored",
    }
    assert all(not TRANSITIONS[end] for end in ENDS)


@requirement("run:transitions")
@pytest.mark.parametrize("state", [s for s in RunState if s not in ENDS])
def test_every_other_state_has_an_exit_and_can_reach_an_end(state: RunState) -> None:
    reached, found = {state}, [state]
    while found:
        new = TRANSITIONS[found.pop()] - reached
        reached |= new
        found += new

    assert reached & ENDS


@requirement("run:transitions")
@pytest.mark.parametrize("state", [s for s in RunState if s not in ENDS])
def test_every_state_is_reached_from_the_first(state: RunState) -> None:
    reached = {RunState.PENDING}
    for _ in RunState:
        reached |= {after for before in reached for after in TRANSITIONS[before]}

    assert state in reached


@requirement("I4")
def test_an_interrupted_run_ends_only_by_way_of_reconciling() -> None:
    assert not TRANSITIONS[RunState.INTERRUPTED] & ENDS
    assert TRANSITIONS[RunState.NEEDS_OPERATOR] == {RunState.RECONCILING}
    assert may_follow(RunState.RECONCILING, RunState.APPLIED) is False  # verified first


@requirement("I1")
def test_an_apply_begins_only_after_an_approval() -> None:
    assert {before for before in RunState if may_follow(before, RunState.APPLYING) and before is not RunState.APPLYING} == {
        RunState.APPROVED
    }


@requirement("I1")
def test_a_run_is_approved_only_after_policy_weighed_it_while_it_waits_or_where_the_rest_is_proven() -> None:
    assert {before for before in RunState if may_follow(before, RunState.APPROVED) and before is not RunState.APPROVED} == {
        RunState.CHECKING,
        RunState.AWAITING_APPROVAL,
        RunState.RECONCILING,
    }


@given(st.lists(st.sampled_from(RunState), max_size=30))
def test_no_walk_leaves_an_end(wishes: list[RunState]) -> None:
    state = RunState.PENDING
    for wish in wishes:
        before, state = state, wish if may_follow(state, wish) else state
        assert before not in ENDS or state is before


def test_people_type_the_path_of_a_stack_and_the_name_of_a_release() -> None:
    assert typed_name("acme/prod/shop", "terraform") == "acme/prod/shop"
    assert typed_name("acme/prod/shop.web.v2", "helm") == "web.v2"


def test_the_type_of_a_run_is_the_tool_that_starts_it() -> None:
    # Other levels of tests register an engine of their own.
    assert {name: (t.engine, t.mode, t.changes) for name, t in RUN_TYPES.items() if t.engine != "toy"} == {
        "terraform_validate": ("terraform", Mode.VALIDATE, False),
        "terraform_plan": ("terraform", Mode.SPECULATIVE, False),
        "terraform_detect_drift": ("terraform", Mode.DRIFT, False),
        "apply_terraform": ("terraform", Mode.APPLY, True),
        "terraform_import": ("terraform", Mode.APPLY, True),
        "terraform_restore_state": ("terraform", Mode.APPLY, True),
        "destroy_terraform": ("terraform", Mode.DESTROY, True),
        "composite": ("composite", Mode.APPLY, True),
        "helm_deploy": ("helm", Mode.APPLY, True),
        "helm_rollback": ("helm", Mode.APPLY, True),
        "helm_uninstall": ("helm", Mode.DESTROY, True),
        "helm_detect_drift": ("helm", Mode.DRIFT, False),
    }
    assert all(isinstance(t, RunType) and t.name == name for name, t in RUN_TYPES.items())
