"""What people countersign, and when that is enough.

The approval document names the saved plan, its inputs and its target; its digest is `plan_digest` everywhere. `weigh`
is the one function that decides: the step `decide` asks it when somebody agrees, and the claim asks it again.
"""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Literal

from countersign.core.digests import canonical, sha256
from countersign.core.model import Payload
from countersign.core.policy import Need, Requirement
from countersign.core.principal import UNNAMED_PERSON, Kind, Principal


class Target(Payload):
    """What will be changed, as it was resolved when the plan was made."""

    stack_id: str
    stack_path: str  # "org/env/slug"; the name people type
    lineage: str | None = None  # of the state; None while there is no state
    serial: int = 0
    account: str | None = None  # project, account or cluster, as resolved
    credential: str | None = None  # record of the apply credential, "slug@version"


class ApprovalDocument(Payload):
    """`countersign.approval/1`: everything apply checks before it changes anything."""

    v: Literal["countersign.approval/1"] = "countersign.approval/1"
    org: str
    run_id: str
    plan_number: int  # 1 for the first plan of the run; a re-plan counts up
    mode: str
    plan_sha256: str  # of the saved plan's bytes
    bundle_sha256: str  # of the bundle apply rebuilds its work directory from
    semantic_digest: str
    inputs_digest: str  # commit, source tree, modules, lock file, variables, files the plan made
    target: Target
    engine_build: str
    policy_version: str
    expires_at: str  # RFC 3339, UTC

    @property
    def digest(self) -> str:
        return sha256(canonical(self.model_dump(mode="json")))


class Channel(StrEnum):
    """How a decision came in."""

    FRONT = "front"  # MCP, CLI, page: signed by the front
    TEMPORAL_UI = "temporal_ui"  # no verified person
    POLICY = "policy"  # nobody had to agree
    CARRIED = "carried"  # an approval of an equal plan of the same run
    COMPOSITE = "composite"  # an approval of the whole that this run is a step of


class Approval(Payload):
    plan_digest: str
    by: Principal
    channel: Channel
    at: datetime
    confirm_name: str | None = None
    comment: str | None = None


class Verdict(StrEnum):
    WAITING = "waiting"
    APPROVED = "approved"
    EXPIRED = "expired"
    DENIED = "denied"


class Refusal(Payload):
    """Why one approval does not count; `code` is one of the catalogue's."""

    code: str
    message: str


def refused(approval: Approval, *, requirement: Requirement, plan_digest: str, requester: Principal, protected: bool) -> Refusal | None:
    """Why `approval` does not count towards `requirement`, or None where it does."""
    by, need = approval.by, requirement.need
    if approval.plan_digest != plan_digest:
        return Refusal(code="plan_stale", message=f"that is another plan; the current one is {plan_digest}")
    if need is Need.DENY:
        return Refusal(code="policy_denied", message=f"nobody can approve this: {requirement.rule}")
    if by.kind is not Kind.PERSON and not (need is Need.CONFIRM and by.id == requester.id and not protected):
        return Refusal(code="policy_denied", message=f"this needs a person to agree ({requirement.rule}); {by.kind}s do not count")
    # By whatever channel: an approval that was carried over to an equal plan names nobody still.
    if by.id == UNNAMED_PERSON.id and (protected or need.rank >= Need.OTHER.rank):
        return Refusal(
            code="policy_denied",
            message="a decision from the Temporal UI names nobody, and this needs a named person other than the requester's; "
            "approve it on the run's page (`countersign open`), with `countersign approve` or in an MCP client",
        )
    if need.rank >= Need.OTHER.rank and by.id == requester.person:
        return Refusal(code="policy_denied", message=f"{by.id} asked for this change, so another person has to agree ({requirement.rule})")
    if requirement.confirm_name is not None and approval.confirm_name != requirement.confirm_name:
        given = "no name was given" if not approval.confirm_name else "another name was given"
        return Refusal(
            code="confirmation_required",
            message=f"this destroys something: type {requirement.confirm_name!r} as confirm_name ({given})",
        )
    return None


def weigh(
    approvals: Collection[Approval],
    *,
    requirement: Requirement,
    plan_digest: str,
    requester: Principal,
    protected: bool,
    expires_at: datetime,
    now: datetime,
) -> Verdict:
    """Decide whether the plan may be applied at `now`.

    `approvals` come in any order and may repeat; those that do not count are no error: they may simply be late.
    """
    if requirement.need is Need.DENY:
        return Verdict.DENIED
    if now >= expires_at:
        return Verdict.EXPIRED
    if requirement.automatic:
        return Verdict.APPROVED
    agreed = {
        a.by.id
        for a in approvals
        if refused(a, requirement=requirement, plan_digest=plan_digest, requester=requester, protected=protected) is None
    }
    return Verdict.APPROVED if len(agreed) >= requirement.people else Verdict.WAITING


class SignedDecision(Payload):
    """`countersign.decision/1`: what the front forwards, with its signature over the exact bytes of `payload`."""

    payload: str  # canonical JSON of DecisionClaims
    signature: str  # base64, Ed25519
    key_id: str


class DecisionClaims(Payload):
    v: Literal["countersign.decision/1"] = "countersign.decision/1"
    org: str
    run_id: str
    decision: Literal["approve", "reject", "cancel"]
    plan_digest: str | None = None
    confirm_name: str | None = None
    comment: str | None = None  # the reason, for reject and cancel
    principal: Principal
    nonce: str
    expires_at: datetime


class ApproveInput(Payload):
    """The one object of Update and signal `approve`; `signed` is added by the front, people in the UI leave it out."""

    plan_digest: str
    comment: str | None = None
    confirm_name: str | None = None
    signed: SignedDecision | None = None


class RejectInput(Payload):
    """The one object of Update and signal `reject`."""

    reason: str
    signed: SignedDecision | None = None


class CancelInput(Payload):
    """The one object of signal `cancel`."""

    reason: str = ""
    force: bool = False
    signed: SignedDecision | None = None
