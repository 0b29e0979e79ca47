"""When a plan may be applied: who counts, for what, and until when."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.approval import (
    Approval,
    ApprovalDocument,
    ApproveInput,
    CancelInput,
    Channel,
    DecisionClaims,
    RejectInput,
    SignedDecision,
    Target,
    Verdict,
    refused,
    weigh,
)
from countersign.core.policy import Need, Requirement
from countersign.core.principal import SYSTEM, UNNAMED_PERSON, Kind, Principal
from tests.requirements import requirement

PLAN = "sha256:" + "a" * 64
OTHER_PLAN = "sha256:" + "b" * 64
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEADLINE = NOON + timedelta(hours=24)

ANA = Principal(id="person:ana", kind=Kind.PERSON)
BO = Principal(id="person:bo", kind=Kind.PERSON)
CY = Principal(id="person:cy", kind=Kind.PERSON)
ANAS_AGENT = Principal(id="agent:claude", kind=Kind.AGENT, acts_for="person:ana")
BOS_AGENT = Principal(id="agent:other", kind=Kind.AGENT, acts_for="person:bo")
CI = Principal(id="machine:ci", kind=Kind.MACHINE)


def needs(need: Need, name: str | None = None) -> Requirement:
    people = {"auto": 0, "confirm": 1, "person": 1, "other": 1, "two": 2, "deny": 0}[need]
    return Requirement(need=need, people=people, confirm_name=name, rule="the rule")


def agrees(by: Principal, *, plan: str = PLAN, name: str | None = None, channel: Channel = Channel.FRONT) -> Approval:
    return Approval(plan_digest=plan, by=by, channel=channel, at=NOON, confirm_name=name)


def from_the_ui(*, name: str | None = None) -> Approval:
    return agrees(UNNAMED_PERSON, name=name, channel=Channel.TEMPORAL_UI)


def verdict(
    *approvals: Approval,
    need: Need = Need.PERSON,
    requester: Principal = ANAS_AGENT,
    protected: bool = False,
    name: str | None = None,
    now: datetime = NOON,
) -> Verdict:
    return weigh(
        approvals,
        requirement=needs(need, name),
        plan_digest=PLAN,
        requester=requester,
        protected=protected,
        expires_at=DEADLINE,
        now=now,
    )


def why(
    approval: Approval,
    need: Need = Need.PERSON,
    *,
    requester: Principal = ANAS_AGENT,
    protected: bool = False,
    name: str | None = None,
) -> str | None:
    refusal = refused(approval, requirement=needs(need, name), plan_digest=PLAN, requester=requester, protected=protected)
    return refusal.code if refusal else None


# Who counts. One row for each need: does the approval of … count, where Ana's agent asked?
COUNTS: Mapping[Need, Mapping[str, bool]] = {
    Need.AUTO: {"ana": True, "bo": True, "the ui": True, "ana's agent": False, "bo's agent": False, "ci": False},
    Need.CONFIRM: {"ana": True, "bo": True, "the ui": True, "ana's agent": True, "bo's agent": False, "ci": False},
    Need.PERSON: {"ana": True, "bo": True, "the ui": True, "ana's agent": False, "bo's agent": False, "ci": False},
    Need.OTHER: {"ana": False, "bo": True, "the ui": False, "ana's agent": False, "bo's agent": False, "ci": False},
    Need.TWO: {"ana": False, "bo": True, "the ui": False, "ana's agent": False, "bo's agent": False, "ci": False},
    Need.DENY: {"ana": False, "bo": False, "the ui": False, "ana's agent": False, "bo's agent": False, "ci": False},
}
WHO = {
    "ana": agrees(ANA),
    "bo": agrees(BO),
    "the ui": from_the_ui(),
    "ana's agent": agrees(ANAS_AGENT),
    "bo's agent": agrees(BOS_AGENT),
    "ci": agrees(CI),
}


@requirement("I7")
@pytest.mark.parametrize("need", Need)
@pytest.mark.parametrize("who", WHO)
def test_who_counts_for_which_need(need: Need, who: str) -> None:
    assert (why(WHO[who], need) is None) is COUNTS[need][who]


@requirement("I7", "bad:requester-approves")
@pytest.mark.parametrize("need", [Need.OTHER, Need.TWO])
@pytest.mark.parametrize("requester", [ANA, ANAS_AGENT, Principal(id="machine:anas-cron", kind=Kind.MACHINE, acts_for="person:ana")])
def test_nobody_countersigns_what_they_or_their_own_agent_asked_for(need: Need, requester: Principal) -> None:
    assert why(agrees(ANA), need, requester=requester) == "policy_denied"
    assert why(agrees(BO), need, requester=requester) is None


@requirement("I7")
def test_an_agent_that_acts_for_another_person_is_still_no_person() -> None:
    assert [why(agrees(BOS_AGENT), need) for need in (Need.PERSON, Need.OTHER, Need.TWO)] == ["policy_denied"] * 3


@requirement("I7")
def test_only_the_very_agent_that_asked_can_confirm() -> None:
    assert why(agrees(ANAS_AGENT), Need.CONFIRM) is None
    assert why(agrees(Principal(id="agent:second", kind=Kind.AGENT, acts_for="person:ana")), Need.CONFIRM) == "policy_denied"
    assert why(agrees(CI), Need.CONFIRM, requester=CI) is None


def test_an_agent_confirms_nothing_in_a_protected_environment() -> None:
    assert why(agrees(ANAS_AGENT), Need.CONFIRM, protected=True) == "policy_denied"


def test_any_person_is_another_one_for_a_machine_that_acts_for_nobody() -> None:
    assert why(agrees(ANA), Need.OTHER, requester=CI) is None


@requirement("ui:protected")
@pytest.mark.parametrize(
    ("need", "protected", "counts"),
    [
        (Need.CONFIRM, False, True),
        (Need.PERSON, False, True),
        (Need.OTHER, False, False),
        (Need.TWO, False, False),
        (Need.CONFIRM, True, False),
        (Need.PERSON, True, False),
        (Need.OTHER, True, False),
        (Need.TWO, True, False),
    ],
)
@pytest.mark.parametrize("channel", Channel)
def test_the_unnamed_person_counts_as_one_person_and_never_where_it_matters_who(
    need: Need, protected: bool, counts: bool, channel: Channel
) -> None:
    # Also where the approval was carried over to an equal plan: that gives nobody a name.
    assert why(agrees(UNNAMED_PERSON, channel=channel), need, protected=protected) == (None if counts else "policy_denied")


def test_a_verified_person_counts_from_the_temporal_ui_as_from_anywhere() -> None:
    assert why(agrees(BO, channel=Channel.TEMPORAL_UI), Need.OTHER, protected=True) is None


@requirement("bad:wrong-digest")
@pytest.mark.parametrize("need", Need)
def test_an_approval_of_another_plan_is_refused_with_the_digest_of_this_one(need: Need) -> None:
    refusal = refused(agrees(BO, plan=OTHER_PLAN), requirement=needs(need), plan_digest=PLAN, requester=ANA, protected=False)

    assert refusal is not None
    assert refusal.code == "plan_stale"
    assert PLAN in refusal.message


@requirement("bad:wrong-typed-name", "promise:destroying-asks")
@pytest.mark.parametrize("typed", [None, "", "acme/prod/Net", "acme/prod/net ", " acme/prod/net", "net", "acme/prod/net\n", "true", "yes"])
def test_the_name_must_be_typed_exactly(typed: str | None) -> None:
    assert why(agrees(BO, name=typed), name="acme/prod/net") == "confirmation_required"
    assert why(from_the_ui(name=typed), name="acme/prod/net") == "confirmation_required"


def test_the_right_name_counts_and_a_name_nobody_asked_for_does_no_harm() -> None:
    assert why(agrees(BO, name="acme/prod/net"), name="acme/prod/net") is None
    assert why(agrees(BO, name="acme/prod/net")) is None


@pytest.mark.parametrize(("typed", "told"), [(None, "no name was given"), ("", "no name was given"), ("net", "another name was given")])
def test_a_refused_name_tells_what_to_type(typed: str | None, told: str) -> None:
    refusal = refused(
        agrees(BO, name=typed), requirement=needs(Need.PERSON, "acme/dev/net"), plan_digest=PLAN, requester=ANA, protected=False
    )

    assert refusal is not None
    assert "'acme/dev/net'" in refusal.message
    assert told in refusal.message


@pytest.mark.parametrize(
    ("approval", "need", "words"),
    [
        (agrees(CI), Need.PERSON, "a person to agree (the rule)"),
        (from_the_ui(), Need.OTHER, "names nobody"),
        (agrees(ANA), Need.OTHER, "person:ana asked for this change"),
        (agrees(BO), Need.DENY, "nobody can approve this: the rule"),
    ],
)
def test_a_refusal_says_what_is_missing(approval: Approval, need: Need, words: str) -> None:
    refusal = refused(approval, requirement=needs(need), plan_digest=PLAN, requester=ANA, protected=False)

    assert refusal is not None
    assert words in refusal.message


# The verdict.


@requirement("I1")
@pytest.mark.parametrize("need", [n for n in Need if n not in (Need.AUTO, Need.DENY)])
def test_without_an_approval_a_plan_waits(need: Need) -> None:
    assert verdict(need=need) is Verdict.WAITING


def test_what_policy_leaves_to_nobody_is_approved() -> None:
    assert verdict(need=Need.AUTO) is Verdict.APPROVED


@pytest.mark.parametrize("need", [Need.CONFIRM, Need.PERSON, Need.OTHER])
def test_one_person_is_enough_for_one(need: Need) -> None:
    assert verdict(agrees(BO), need=need) is Verdict.APPROVED


@requirement("I7")
def test_two_are_two_different_people() -> None:
    assert verdict(agrees(BO), need=Need.TWO) is Verdict.WAITING
    assert verdict(agrees(BO), agrees(BO), need=Need.TWO) is Verdict.WAITING
    assert verdict(agrees(BO), agrees(ANA), need=Need.TWO) is Verdict.WAITING
    assert verdict(agrees(BO), from_the_ui(), need=Need.TWO) is Verdict.WAITING
    assert verdict(agrees(BO), agrees(BOS_AGENT), need=Need.TWO) is Verdict.WAITING
    assert verdict(agrees(BO), agrees(CY), need=Need.TWO) is Verdict.APPROVED


@requirement("I1", "bad:wrong-digest")
def test_approvals_of_an_earlier_plan_do_not_let_a_newer_one_through() -> None:
    assert verdict(agrees(BO, plan=OTHER_PLAN), agrees(CY, plan=OTHER_PLAN), need=Need.PERSON) is Verdict.WAITING
    assert verdict(agrees(BO), agrees(CY, plan=OTHER_PLAN), need=Need.TWO) is Verdict.WAITING


@requirement("I8")
@pytest.mark.parametrize("need", [n for n in Need if n is not Need.DENY])
def test_at_the_deadline_it_is_over_for_every_need(need: Need) -> None:
    everybody = (agrees(ANA), agrees(BO), agrees(CY))

    assert verdict(*everybody, need=need, now=DEADLINE - timedelta(microseconds=1)) is Verdict.APPROVED
    assert verdict(*everybody, need=need, now=DEADLINE) is Verdict.EXPIRED
    assert verdict(*everybody, need=need, now=DEADLINE + timedelta(days=400)) is Verdict.EXPIRED


def test_what_policy_denies_is_denied_whoever_agrees_and_whenever() -> None:
    assert verdict(agrees(BO), agrees(CY), need=Need.DENY) is Verdict.DENIED
    assert verdict(need=Need.DENY, now=DEADLINE) is Verdict.DENIED


PRINCIPALS = st.sampled_from([ANA, BO, CY, ANAS_AGENT, BOS_AGENT, CI, UNNAMED_PERSON, SYSTEM])
APPROVALS = st.builds(
    Approval,
    plan_digest=st.sampled_from([PLAN, PLAN, OTHER_PLAN]),
    by=PRINCIPALS,
    channel=st.sampled_from(Channel),
    at=st.just(NOON),
    confirm_name=st.sampled_from([None, "acme/dev/net", "acme/dev/Net"]),
)
QUESTIONS = st.fixed_dictionaries(
    {
        "need": st.sampled_from(Need),
        "requester": PRINCIPALS,
        "protected": st.booleans(),
        "name": st.sampled_from([None, "acme/dev/net"]),
    }
)


@requirement("approval:order-and-repetition")
@given(st.lists(APPROVALS, max_size=6), QUESTIONS, st.randoms(use_true_random=False))
def test_order_and_repetition_never_matter(given_: list[Approval], question: dict[str, Any], chance: Any) -> None:
    shuffled = given_ + [a for a in given_ if chance.random() < 0.5]
    chance.shuffle(shuffled)

    assert verdict(*shuffled, **question) is verdict(*given_, **question)


@given(st.lists(APPROVALS, max_size=5), APPROVALS, QUESTIONS)
def test_one_more_approval_never_takes_an_agreement_back(given_: list[Approval], more: Approval, question: dict[str, Any]) -> None:
    if verdict(*given_, **question) is Verdict.APPROVED:
        assert verdict(*given_, more, **question) is Verdict.APPROVED


@requirement("I1")
@given(st.lists(APPROVALS, max_size=6), QUESTIONS)
def test_only_approvals_of_this_plan_that_are_not_refused_decide(given_: list[Approval], question: dict[str, Any]) -> None:
    counted = [a for a in given_ if a.plan_digest == PLAN and why(a, **question) is None]

    assert verdict(*counted, **question) is verdict(*given_, **question)


@requirement("I7")
@given(st.lists(APPROVALS, max_size=6), QUESTIONS)
def test_agents_and_machines_never_make_up_for_a_person(given_: list[Approval], question: dict[str, Any]) -> None:
    if question["need"] in (Need.PERSON, Need.OTHER, Need.TWO):
        people = [a for a in given_ if a.by.kind is Kind.PERSON]
        assert verdict(*people, **question) is verdict(*given_, **question)


@requirement("I8")
@given(st.lists(APPROVALS, max_size=6), QUESTIONS, st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=1000)))
def test_nothing_is_approved_after_the_deadline(given_: list[Approval], question: dict[str, Any], late: timedelta) -> None:
    assert verdict(*given_, **question, now=DEADLINE + late) in (Verdict.EXPIRED, Verdict.DENIED)


# The document people agree to.

DOCUMENT = ApprovalDocument(
    org="acme",
    run_id="run_1",
    plan_number=1,
    mode="apply",
    plan_sha256="sha256:" + "1" * 64,
    bundle_sha256="sha256:" + "2" * 64,
    semantic_digest="sha256:" + "3" * 64,
    inputs_digest="sha256:" + "4" * 64,
    target=Target(stack_id="st_1", stack_path="acme/dev/net", lineage="a lineage", serial=7, account="project-1", credential="deployer@3"),
    engine_build="terraform 1.11.4",
    policy_version="sha256:" + "5" * 64,
    expires_at="2026-03-02T12:00:00.000000Z",
)


def test_the_digest_of_an_approval_document_stays_what_it_is() -> None:
    written = json.dumps(json.loads(DOCUMENT.model_dump_json()), sort_keys=True, separators=(",", ":"))

    assert written.startswith('{"bundle_sha256":"sha256:2222')
    assert '"v":"countersign.approval/1"' in written
    assert DOCUMENT.digest == "sha256:53e4d7e9c472def2ac9210410f16d0afab82a71adf006b0d41b313417ad41eac"


def changed(value: object) -> object:
    return value + 1 if isinstance(value, int) else f"{value}x"


@requirement("approval:bound-to-document", "promise:approved-is-what-runs")
@pytest.mark.parametrize("field", [f for f in ApprovalDocument.model_fields if f not in ("v", "target")])
def test_every_field_of_the_document_is_in_its_digest(field: str) -> None:
    assert DOCUMENT.model_copy(update={field: changed(getattr(DOCUMENT, field))}).digest != DOCUMENT.digest


@requirement("approval:bound-to-document", "promise:approved-is-what-runs")
@pytest.mark.parametrize("field", Target.model_fields)
def test_every_field_of_the_target_is_in_the_digest(field: str) -> None:
    for value in (changed(getattr(DOCUMENT.target, field)), None):
        target = DOCUMENT.target.model_copy(update={field: value})
        assert DOCUMENT.model_copy(update={"target": target}).digest != DOCUMENT.digest


def test_what_a_document_names_is_what_the_design_asks_for() -> None:
    assert set(ApprovalDocument.model_fields) == {
        "v",
        "org",
        "run_id",
        "plan_number",
        "mode",
        "plan_sha256",
        "bundle_sha256",
        "semantic_digest",
        "inputs_digest",
        "target",
        "engine_build",
        "policy_version",
        "expires_at",
    }
    assert set(Target.model_fields) == {"stack_id", "stack_path", "lineage", "serial", "account", "credential"}


def test_a_document_reads_back_as_the_same() -> None:
    assert ApprovalDocument.model_validate_json(DOCUMENT.model_dump_json()) == DOCUMENT


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        (ApproveInput, {"plan_digest": PLAN}),
        (RejectInput, {"reason": "too big"}),
        (CancelInput, {}),
        (SignedDecision, {"payload": "{}", "signature": "c2ln", "key_id": "front-1"}),
        (
            DecisionClaims,
            {
                "org": "acme",
                "run_id": "run_1",
                "decision": "approve",
                "principal": {"id": "person:bo", "kind": "person"},
                "nonce": "n",
                "expires_at": "2026-03-01T12:00:00Z",
            },
        ),
    ],
)
def test_a_decision_is_one_object_and_unknown_fields_of_newer_versions_are_ignored(
    kind: Callable[..., Any], sent: dict[str, object]
) -> None:
    assert kind(**sent, from_a_newer_version=1) == kind(**sent)


def test_a_decision_can_be_to_approve_reject_or_cancel_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="decision"):
        DecisionClaims(org="o", run_id="r", decision="force", principal=ANA, nonce="n", expires_at=NOON)  # type: ignore[arg-type]
