"""The codes of the catalogue, and which of them are worth asking again unchanged."""

import pytest

from countersign.core import errors
from countersign.core.errors import BY_CODE, CountersignError

# Catalogue §1; (r) there is True here. taint_blocked and budget_exceeded come with the gateway.
CODES = {
    "invalid_argument": False,
    "not_found": False,
    "already_exists": False,
    "conflict": False,
    "failed_precondition": False,
    "idempotency_mismatch": False,
    "unauthenticated": False,
    "permission_denied": False,
    "policy_denied": False,
    "approval_required": False,
    "approval_expired": False,
    "confirmation_required": False,
    "freeze_window": True,
    "plan_stale": False,
    "locked": True,
    "rate_limited": True,
    "quota_exceeded": False,
    "provider_error": False,
    "timeout": True,
    "unavailable": True,
    "canceled": False,
    "internal": False,
}


def test_every_code_is_of_the_catalogue_and_retryable_as_it_says() -> None:
    assert {code: error.retryable for code, error in BY_CODE.items()} == CODES


@pytest.mark.parametrize("code", CODES)
def test_the_class_of_a_code_has_that_code(code: str) -> None:
    assert BY_CODE[code].code == code


@pytest.mark.parametrize(
    ("code", "kind"),
    [("internal", CountersignError), ("unavailable", errors.TransientError), ("failed_precondition", errors.PermanentError)],
)
def test_a_code_that_several_share_is_of_the_most_general(code: str, kind: type[CountersignError]) -> None:
    assert BY_CODE[code] is kind


def test_an_error_carries_what_the_reader_needs_next() -> None:
    bare = errors.NotFound("no stack acme/dev/net; `list_stacks` tells which there are")
    full = errors.InvalidArgument("m", field="f", next=["run_get"], retry_after_seconds=2.5, details={"a": 1})

    assert (str(bare), bare.message) == ("no stack acme/dev/net; `list_stacks` tells which there are",) * 2
    assert (bare.field, bare.next, bare.retry_after_seconds, bare.details) == (None, (), None, {})
    assert (full.field, full.next, full.retry_after_seconds, full.details) == ("f", ("run_get",), 2.5, {"a": 1})
