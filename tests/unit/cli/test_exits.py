"""Exit codes are an interface: every outcome has one, and the help says what it means."""

import pytest

from countersign.cli import exits
from countersign.cli.exits import BY_ERROR, BY_STATE, MEANINGS, Exit
from countersign.core.errors import BY_CODE
from countersign.core.run import ENDS, RunState
from tests.unit.cli.conftest import Invoke

CATALOGUE = {
    *("invalid_argument", "not_found", "already_exists", "conflict", "failed_precondition", "idempotency_mismatch"),
    *("unauthenticated", "permission_denied", "policy_denied", "approval_required", "approval_expired", "confirmation_required"),
    *("taint_blocked", "freeze_window", "plan_stale", "locked", "rate_limited", "quota_exceeded", "budget_exceeded"),
    *("provider_error", "timeout", "unavailable", "canceled", "internal"),
}


def test_every_code_of_the_catalogue_has_an_exit_code_and_no_other_has() -> None:
    assert set(BY_ERROR) == CATALOGUE
    assert set(BY_CODE) <= set(BY_ERROR)


def test_every_state_a_run_can_stop_in_has_an_exit_code() -> None:
    assert set(BY_STATE) == ENDS | {RunState.AWAITING_APPROVAL, RunState.NEEDS_OPERATOR}


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("applied", 0),
        ("planned_and_finished", 0),
        ("partially_applied", 1),
        ("rejected", 1),
        ("awaiting_approval", 3),
        ("needs_operator", 7),
        ("applying", 0),
        ("something a newer front says", 1),
    ],
)
def test_a_state_ends_a_command_with_its_code(state: str, code: int) -> None:
    assert exits.of_state(state) == code


def test_the_help_documents_every_exit_code(invoke: Invoke) -> None:
    assert set(MEANINGS) == set(Exit)
    text = " ".join(invoke("--help").stdout.split())
    for code, meaning in MEANINGS.items():
        assert f"{code.value} {meaning}" in text


def test_an_unknown_option_is_a_usage_error(invoke: Invoke) -> None:
    assert invoke("apply", "dev/shop", "--yes").exit_code == 2
