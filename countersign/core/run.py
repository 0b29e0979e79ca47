"""The run: plan → check → countersign → apply → verify → record, and every state it can be in.

One table says which state may follow which; whoever records a state asks it first. `needs_operator` is no end: it waits
for a person and keeps the stack's state blocked until evidence closes the attempt.
"""

from collections.abc import Mapping
from enum import StrEnum

from countersign.core.model import Payload


class RunState(StrEnum):
    PENDING = "pending"  # accepted; waiting for its turn
    PLANNING = "planning"
    CHECKING = "checking"  # policy weighs the plan
    AWAITING_APPROVAL = "awaiting_approval"
    APPROVED = "approved"
    APPLYING = "applying"
    VERIFYING = "verifying"
    STALE = "stale"  # somebody else moved the state: planned again
    INTERRUPTED = "interrupted"  # an apply was lost: nobody knows yet what it did
    RECONCILING = "reconciling"
    NEEDS_OPERATOR = "needs_operator"
    CANCELING = "canceling"
    # Ends
    PLANNED_AND_FINISHED = "planned_and_finished"
    APPLIED = "applied"
    PARTIALLY_APPLIED = "partially_applied"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELED = "canceled"
    ERRORED = "errored"  # before any change


_S = RunState
ENDS: frozenset[RunState] = frozenset(
    {_S.PLANNED_AND_FINISHED, _S.APPLIED, _S.PARTIALLY_APPLIED, _S.REJECTED, _S.EXPIRED, _S.CANCELED, _S.ERRORED}
)

TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    # From here, and from wherever else nothing has changed yet, to partially applied: of a composite the steps before were applied.
    _S.PENDING: frozenset({_S.PLANNING, _S.CANCELED, _S.ERRORED, _S.PARTIALLY_APPLIED}),
    _S.PLANNING: frozenset({_S.PLANNED_AND_FINISHED, _S.CHECKING, _S.PENDING, _S.CANCELING, _S.CANCELED, _S.ERRORED, _S.PARTIALLY_APPLIED}),
    _S.CHECKING: frozenset({_S.AWAITING_APPROVAL, _S.APPROVED, _S.ERRORED, _S.PARTIALLY_APPLIED}),
    # From here and from approved to an operator: where a lost apply of the run is not accounted for, nothing may end it.
    _S.AWAITING_APPROVAL: frozenset({_S.APPROVED, _S.REJECTED, _S.EXPIRED, _S.CANCELED, _S.STALE, _S.NEEDS_OPERATOR, _S.PARTIALLY_APPLIED}),
    _S.APPROVED: frozenset(
        {_S.APPLYING, _S.STALE, _S.EXPIRED, _S.CANCELED, _S.ERRORED, _S.AWAITING_APPROVAL, _S.NEEDS_OPERATOR, _S.PARTIALLY_APPLIED}
    ),
    _S.APPLYING: frozenset({_S.VERIFYING, _S.PARTIALLY_APPLIED, _S.STALE, _S.INTERRUPTED, _S.CANCELING, _S.ERRORED}),
    _S.VERIFYING: frozenset({_S.APPLIED, _S.PARTIALLY_APPLIED, _S.INTERRUPTED}),
    _S.STALE: frozenset({_S.PLANNING, _S.PENDING, _S.CANCELED, _S.ERRORED, _S.EXPIRED, _S.PARTIALLY_APPLIED}),
    _S.INTERRUPTED: frozenset({_S.RECONCILING, _S.NEEDS_OPERATOR}),
    # Approved where what is left is proven to be a part of what was approved: it is claimed like any other plan.
    _S.RECONCILING: frozenset(
        {
            _S.APPROVED,
            _S.AWAITING_APPROVAL,
            _S.NEEDS_OPERATOR,
            _S.VERIFYING,
            _S.PARTIALLY_APPLIED,
            _S.CANCELED,
            _S.ERRORED,
        }
    ),
    _S.NEEDS_OPERATOR: frozenset({_S.RECONCILING}),
    _S.CANCELING: frozenset({_S.CANCELED, _S.VERIFYING, _S.PARTIALLY_APPLIED, _S.INTERRUPTED, _S.ERRORED}),
    **{end: frozenset() for end in ENDS},
}


def may_follow(before: RunState, after: RunState) -> bool:
    """Whether a run in `before` may be recorded in `after`. Staying is no transition and always allowed."""
    return before is after or after in TRANSITIONS[before]


class Mode(StrEnum):
    """What the engine is asked for; the run's type fixes it."""

    VALIDATE = "validate"
    SPECULATIVE = "speculative"  # a plan to look at, never applied by this run
    DRIFT = "drift"  # what changed outside since the last apply; never applied
    APPLY = "apply"
    DESTROY = "destroy"


class RunType(Payload):
    """A run's type is the name of the tool that starts it."""

    name: str
    engine: str
    mode: Mode

    @property
    def changes(self) -> bool:
        """Whether such a run may come to apply, so that it needs a turn and a countersigned plan."""
        return self.mode in (Mode.APPLY, Mode.DESTROY)


def typed_name(path: str, engine: str) -> str:
    """What people type where something is destroyed: a stack's path, or the name of a release, whose slug is `namespace.name`."""
    return path.rpartition("/")[2].partition(".")[2] if engine == "helm" else path


# What changes the record and nothing else is no change of the cloud that rules could class: whatever they say, a person agrees.
ASK_A_PERSON = frozenset({"terraform_restore_state"})

COMPOSITE = "composite"  # a plan of plans: name of its type, and of the engine that it has none of

RUN_TYPES: dict[str, RunType] = {
    t.name: t
    for t in (
        RunType(name="terraform_validate", engine="terraform", mode=Mode.VALIDATE),
        RunType(name="terraform_plan", engine="terraform", mode=Mode.SPECULATIVE),
        RunType(name="terraform_detect_drift", engine="terraform", mode=Mode.DRIFT),
        RunType(name="apply_terraform", engine="terraform", mode=Mode.APPLY),
        RunType(name="terraform_import", engine="terraform", mode=Mode.APPLY),
        RunType(name="terraform_restore_state", engine="terraform", mode=Mode.APPLY),
        RunType(name="destroy_terraform", engine="terraform", mode=Mode.DESTROY),
        RunType(name="helm_deploy", engine="helm", mode=Mode.APPLY),
        RunType(name="helm_rollback", engine="helm", mode=Mode.APPLY),
        RunType(name="helm_uninstall", engine="helm", mode=Mode.DESTROY),
        RunType(name="helm_detect_drift", engine="helm", mode=Mode.DRIFT),
        RunType(name=COMPOSITE, engine=COMPOSITE, mode=Mode.APPLY),
    )
}
