"""What an exit code of `countersign` means: scripts branch on it, so these numbers are an interface.

Every code of the catalogue and every state a run can stop in has exactly one exit code; a test holds both lists against it. States are
written as words here: what declares them takes longer to load than the rest of a command line.
"""

from collections.abc import Mapping
from enum import IntEnum

from countersign.core.errors import CountersignError


class Exit(IntEnum):
    OK = 0
    FAILED = 1  # the run or the command failed, or was refused for what it is
    USAGE = 2  # wrong arguments; also what the shell gets for an unknown option
    WAITS = 3  # a person has to agree first; nothing is wrong
    UNAVAILABLE = 4  # a part of the service does not answer, or is busy: worth trying again unchanged
    NOT_PERMITTED = 5  # the key, the role or the policy does not allow it
    NOT_FOUND = 6
    NEEDS_OPERATOR = 7  # an apply was lost and a person has to look
    INTERRUPTED = 130  # Ctrl-C; what was started goes on


MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "done, or nothing to do",
    Exit.FAILED: "failed or refused: the run ended without applying all of its plan, or the command could not do what it was asked for",
    Exit.USAGE: "wrong arguments or settings",
    Exit.WAITS: "waits for approval",
    Exit.UNAVAILABLE: "the service does not answer or is busy; try again",
    Exit.NOT_PERMITTED: "not permitted: missing or wrong key, role, or policy",
    Exit.NOT_FOUND: "not found",
    Exit.NEEDS_OPERATOR: "needs an operator",
    Exit.INTERRUPTED: "interrupted with Ctrl-C; a run that was started goes on",
}

HELP = "Exit codes: " + " · ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items()) + "."

BY_ERROR: Mapping[str, Exit] = {
    "invalid_argument": Exit.USAGE,
    "not_found": Exit.NOT_FOUND,
    "already_exists": Exit.FAILED,
    "conflict": Exit.FAILED,
    "failed_precondition": Exit.FAILED,
    "idempotency_mismatch": Exit.FAILED,
    "unauthenticated": Exit.NOT_PERMITTED,
    "permission_denied": Exit.NOT_PERMITTED,
    "policy_denied": Exit.NOT_PERMITTED,
    "approval_required": Exit.WAITS,
    "approval_expired": Exit.FAILED,
    "confirmation_required": Exit.NOT_PERMITTED,
    "taint_blocked": Exit.NOT_PERMITTED,
    "freeze_window": Exit.NOT_PERMITTED,
    "plan_stale": Exit.FAILED,
    "locked": Exit.UNAVAILABLE,
    "rate_limited": Exit.UNAVAILABLE,
    "quota_exceeded": Exit.FAILED,
    "budget_exceeded": Exit.FAILED,
    "provider_error": Exit.FAILED,
    "timeout": Exit.UNAVAILABLE,
    "unavailable": Exit.UNAVAILABLE,
    "canceled": Exit.FAILED,
    "internal": Exit.FAILED,
}

BY_STATE: Mapping[str, Exit] = {
    "applied": Exit.OK,
    "planned_and_finished": Exit.OK,
    "awaiting_approval": Exit.WAITS,
    "needs_operator": Exit.NEEDS_OPERATOR,
    "partially_applied": Exit.FAILED,
    "rejected": Exit.FAILED,
    "expired": Exit.FAILED,
    "canceled": Exit.FAILED,
    "errored": Exit.FAILED,
}


def of_error(error: CountersignError) -> Exit:
    return BY_ERROR.get(error.code, Exit.FAILED)


def of_state(state: str) -> Exit:
    """What a command that waited for a run ends with; a run that still goes on is no failure."""
    from countersign.core.run import RunState

    return BY_STATE.get(state, Exit.OK) if state in set(RunState) else Exit.FAILED
