"""What is told outside, in which words, and how it is signed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.errors import FailedPrecondition
from countersign.core.notice import (
    ATTEMPTS,
    WAITS,
    Facts,
    Moment,
    document,
    event_id,
    moment_of,
    signatures,
    signing_key,
    trial_document,
    wait_after,
)
from countersign.core.plan import Counts
from countersign.core.policy import Need, Requirement
from countersign.core.run import ENDS, RunState
from tests.requirements import requirement

FACTS = Facts(
    org="acme",
    run_id="run_1",
    run_type="destroy_terraform",
    env="acme/prod",
    stack="acme/prod/shop",
    state=RunState.AWAITING_APPROVAL,
    requester="agent:claude",
    acts_for="person:ana",
    change_class="delete",
    plan_number=1,
    requirement=Requirement(need=Need.OTHER, people=1, confirm_name="acme/prod/shop", rule="protected"),
    expires_at="2026-01-02T00:00:00.000000Z",
    at="2026-01-01T00:00:00.000000Z",
)


def told(facts: Facts, moment: Moment, counts: Counts | None = None) -> dict[str, object]:
    text = document(facts, moment, id="evt_1", counts=counts, source="https://gate", url="https://gate/runs/run_1")
    event: dict[str, object] = json.loads(text)
    return event


@requirement("webhook:what-is-told")
def test_a_waiting_run_is_told_as_a_cloud_event_with_who_must_agree_and_where() -> None:
    assert told(FACTS, Moment.WAITING, Counts(delete=3)) == {
        "specversion": "1.0",
        "id": "evt_1",
        "source": "https://gate",
        "type": "countersign.run.waiting",
        "subject": "run_1",
        "time": "2026-01-01T00:00:00.000000Z",
        "datacontenttype": "application/json",
        "data": {
            "organization": "acme",
            "environment": "acme/prod",
            "stack": "acme/prod/shop",
            "run_id": "run_1",
            "run_type": "destroy_terraform",
            "state": "awaiting_approval",
            "change_class": "delete",
            "counts": {"create": 0, "update": 0, "replace": 0, "delete": 3, "imported": 0, "moved": 0, "forgotten": 0},
            "requester": "agent:claude",
            "acts_for": "person:ana",
            "approval": {"by": "a person other than the requester's", "people": 1, "typed_name": True},
            "expires_at": "2026-01-02T00:00:00.000000Z",
            "url": "https://gate/runs/run_1",
            "text": "destroy_terraform on acme/prod/shop waits for a person other than the requester's; 3 to destroy, class delete; "
            "asked for by agent:claude for person:ana",
        },
    }


def test_an_end_says_which_and_why_in_a_code_and_asks_for_nothing() -> None:
    ended = FACTS.model_copy(update={"state": RunState.ERRORED, "code": "policy_denied", "acts_for": None})

    data = told(ended, Moment.ENDED)["data"]

    assert isinstance(data, dict)
    assert data["text"] == "destroy_terraform on acme/prod/shop ended: errored (policy_denied); asked for by agent:claude"
    assert not {"approval", "expires_at", "acts_for", "counts"} & set(data)


def test_an_operator_hears_that_the_state_is_blocked_and_a_run_without_a_requirement_waits_for_a_decision() -> None:
    lost = FACTS.model_copy(update={"state": RunState.NEEDS_OPERATOR})
    bare = FACTS.model_copy(update={"requirement": None, "change_class": None})

    assert "found what was changed outside of it; 2 changed, class update;" in json.dumps(
        told(FACTS.model_copy(update={"change_class": "update"}), Moment.DRIFTED, Counts(update=2))
    )
    assert "needs an operator; its state is blocked until then;" in json.dumps(told(lost, Moment.NEEDS_OPERATOR))
    assert "does what nobody approved; look at it now;" in json.dumps(told(lost, Moment.ALARM))
    assert "waits for a decision; asked for by" in json.dumps(told(bare, Moment.WAITING, Counts(create=1)))


def test_a_requester_whose_name_looks_like_a_credential_is_not_spelled_out_to_a_chat() -> None:
    odd = FACTS.model_copy(update={"requester": "agent:ghp_0123456789abcdefghijklmnopqrstuvwxyz"})

    assert "ghp_" not in str(told(odd, Moment.WAITING)["data"]["text"])  # type: ignore[index]


def test_states_in_which_somebody_is_told_are_three_kinds_and_no_other() -> None:
    moments = {state: moment_of(state) for state in RunState}

    assert {s for s, m in moments.items() if m is Moment.ENDED} == ENDS
    assert [s for s, m in moments.items() if m is Moment.WAITING] == [RunState.AWAITING_APPROVAL]
    assert [s for s, m in moments.items() if m is Moment.NEEDS_OPERATOR] == [RunState.NEEDS_OPERATOR]


def test_a_test_event_is_about_no_run_and_says_so() -> None:
    event = json.loads(trial_document(id="evt_2", source="https://gate", at="2026-01-01T00:00:00.000000Z", webhook="chat"))

    assert (event["type"], event["subject"]) == ("countersign.webhook.test", "chat")
    assert event["data"] == {"webhook": "chat", "text": "A test from Countersign. Nothing waits for anybody."}


def test_the_id_of_an_event_is_that_of_its_place_in_the_ledger() -> None:
    assert event_id("acme", "run_1", 7) == event_id("acme", "run_1", 7)
    assert len({event_id("acme", "run_1", n) for n in range(100)} | {event_id("other", "run_1", 1)}) == 101


@requirement("webhook:signed")
def test_signatures_are_those_of_the_specifications_own_example() -> None:
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    given = signatures([key], id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=b'{"test": 2432232314}')

    assert given == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_while_a_secret_is_changed_both_sign() -> None:
    old, new = signing_key("the old secret, long enough"), signing_key(" the new secret, long enough\n")

    both = signatures([new, old], id="evt_1", timestamp=1, body=b"{}").split(" ")

    assert both == [signatures([key], id="evt_1", timestamp=1, body=b"{}") for key in (new, old)]
    assert signing_key("the new secret, long enough") == new


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("short", "at least 16 bytes, this one has 5"),
        ("whsec_!!!", "goes on in base64"),
        ("whsec_aaaa", "at least 16 bytes, this one has 3"),
    ],
)
def test_a_secret_that_can_be_guessed_is_refused_without_being_repeated(secret: str, why: str) -> None:
    with pytest.raises(FailedPrecondition, match=why) as refused:
        signing_key(secret)

    assert secret not in refused.value.message


@given(st.integers(min_value=0, max_value=100))
def test_waits_grow_and_end_at_the_longest(attempts: int) -> None:
    assert wait_after(attempts) <= wait_after(attempts + 1) <= WAITS[-1]


def test_all_attempts_together_take_about_a_day() -> None:
    hours = sum(wait_after(n).total_seconds() for n in range(1, ATTEMPTS)) / 3600

    assert 18 <= hours <= 30
