"""Fencing as properties: whatever rows and requests there are, an older attempt does nothing and nothing is overwritten.

`tests/unit/test_fencing.py` says each rule with an example; these say that no combination gets around them.
"""

import dataclasses
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core import fencing
from countersign.core.errors import InvalidArgument
from countersign.core.fencing import Credential, Head, Lock, Mode, Wish
from countersign.core.terraform.state import Header
from tests.requirements import requirement

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGESTS = ["sha256:" + letter * 64 for letter in "ab"]

LOCKS = st.builds(
    Lock, id=st.sampled_from(["l1", "l2"]), who=st.sampled_from(["me", "you"]), created=st.sampled_from(["t1", "t2"]), text=st.just("{}")
)


@st.composite
def heads(draw: st.DrawFn) -> Head:
    lock = draw(st.none() | LOCKS)
    stored: dict[str, Any] = {}
    if draw(st.booleans()):
        stored = {
            "lineage": draw(st.sampled_from(["x", "y"])),
            "serial": draw(st.integers(0, 4)),
            "sha256": draw(st.sampled_from(DIGESTS)),
            "seq": 1,
        }
    return Head(
        epoch=draw(st.integers(0, 2)), lock=lock, lock_credential=draw(st.sampled_from(["att_1", "att_2"])) if lock else None, **stored
    )


CREDENTIALS = st.builds(
    Credential,
    id=st.sampled_from(["att_1", "att_2"]),
    org=st.just("acme"),
    stack_id=st.just("st_1"),
    run_id=st.just("run_1"),
    mode=st.sampled_from(Mode),
    epoch=st.integers(0, 2),
    expires_at=st.sampled_from([NOW - timedelta(seconds=1), NOW, NOW + timedelta(seconds=1)]),
    revoked=st.booleans(),
)
HEADERS = st.builds(Header, lineage=st.sampled_from(["x", "y"]), serial=st.integers(0, 5))
RIGHTS = {"read": {"read"}, "plan": {"read", "lock", "unlock"}, "apply": {"read", "lock", "unlock", "write"}}


@requirement("I2", "state:fencing", "promise:one-writer")
@given(CREDENTIALS, heads(), st.sampled_from(Wish))
def test_only_a_live_credential_of_the_current_epoch_does_anything(credential: Credential, head: Head, wish: Wish) -> None:
    refusal = fencing.admission(credential, head, wish, now=NOW)

    live = not credential.revoked and credential.expires_at > NOW and (credential.mode == "read" or credential.epoch == head.epoch)
    assert (refusal is None) is (live and wish in RIGHTS[credential.mode])
    assert refusal is None or (refusal.status == 403 and refusal.why and refusal.holder is None)


@requirement("I2", "state:fencing")
@given(CREDENTIALS, heads(), LOCKS)
def test_a_lock_is_taken_only_where_it_is_free_or_the_same(credential: Credential, head: Head, asked: Lock) -> None:
    refusal = fencing.locking(credential, head, asked)

    mine = head.lock is not None and head.lock_credential == credential.id and head.lock.id == asked.id
    assert (refusal is None) is (head.lock is None or mine)
    assert refusal is None or (refusal.status, refusal.holder) == (423, head.lock)


@requirement("I5", "state:fencing")
@given(CREDENTIALS, heads(), st.sampled_from([None, "l1", "l2"]))
def test_a_lock_is_freed_only_by_its_holder(credential: Credential, head: Head, lock_id: str | None) -> None:
    refusal = fencing.unlocking(credential, head, lock_id)

    if head.lock is None:
        assert refusal is None
    else:
        holder = head.lock_credential == credential.id and lock_id in (None, head.lock.id)
        assert (refusal is None) is holder
        assert refusal is None or (refusal.status, refusal.holder) == (409, head.lock)


@requirement("I2", "state:fencing", "promise:one-writer")
@given(CREDENTIALS, heads(), st.sampled_from([None, "l1", "l2"]), HEADERS, st.sampled_from(DIGESTS))
def test_a_snapshot_is_written_only_under_the_own_lock_as_the_next_of_its_lineage(
    credential: Credential, head: Head, lock_id: str | None, header: Header, sha256: str
) -> None:
    refusal = fencing.writing(credential, head, lock_id, header, sha256)

    held = head.lock is not None and head.lock_credential == credential.id and head.lock.id == lock_id
    first = head.seq == 0
    again = not first and (header.serial, sha256) == (head.serial, head.sha256)
    next_ = header.lineage == head.lineage and header.serial > head.serial
    assert (refusal is None) is (held and (first or again or next_))
    assert fencing.repeats(head, header, sha256) is again
    assert refusal is None or refusal.status == 409


@requirement("I5")
@pytest.mark.parametrize(("field", "other"), [("id", "l2"), ("who", "you"), ("created", "t2")])
def test_a_lock_is_ours_only_by_id_owner_and_time(field: str, other: str) -> None:
    ours = Lock(id="l1", who="me", created="t1", text="{}")
    facts = {"id": "l1", "who": "me", "created": "t1"}

    assert ours.is_recorded_as(Lock(**facts, text="other words"))
    assert not ours.is_recorded_as(Lock(**{**facts, field: other}, text="{}"))


@pytest.mark.parametrize(
    ("head", "credential", "words"),
    [
        ({"epoch": 4}, {}, "epoch 3, and the state is at 4"),
        ({}, {"revoked": True}, "revoked"),
        ({}, {"expires_at": NOW}, "expired"),
        ({}, {"mode": Mode.PLAN}, "a credential to plan may not write"),
    ],
)
def test_a_refusal_says_why(head: dict[str, Any], credential: dict[str, Any], words: str) -> None:
    facts = {"id": "a", "org": "o", "stack_id": "s", "run_id": "r", "mode": Mode.APPLY, "epoch": 3, "expires_at": NOW + timedelta(hours=1)}

    refusal = fencing.admission(Credential(**{**facts, **credential}), Head(**{"epoch": 3, **head}), Wish.WRITE, now=NOW)

    assert refusal is not None
    assert words in refusal.why


@pytest.mark.parametrize(
    ("head", "lock_id", "header", "words"),
    [
        (Head(), "l1", Header(lineage="x", serial=1), "not locked"),
        (
            Head(lock=Lock(id="l1", who="", created="", text="{}"), lock_credential="b"),
            "l1",
            Header(lineage="x", serial=1),
            "another holds",
        ),
        (
            Head(lock=Lock(id="l1", who="", created="", text="{}"), lock_credential="a", lineage="x", serial=3, seq=1),
            "l1",
            Header(lineage="y", serial=4),
            "the lineage is y, and that of the stored state x",
        ),
        (
            Head(lock=Lock(id="l1", who="", created="", text="{}"), lock_credential="a", lineage="x", serial=3, seq=1),
            "l1",
            Header(lineage="x", serial=3),
            "the serial is 3, and the stored state has 3 already",
        ),
    ],
)
def test_a_refused_write_says_why(head: Head, lock_id: str, header: Header, words: str) -> None:
    credential = Credential(id="a", org="o", stack_id="s", run_id="r", mode=Mode.APPLY, epoch=0, expires_at=NOW)

    refusal = fencing.writing(credential, head, lock_id, header, DIGESTS[0])

    assert refusal is not None
    assert words in refusal.why


# Locks as engines send them.


def test_a_lock_is_read_and_kept_as_it_was_sent() -> None:
    text = '{"ID": "l1", "Operation": "OperationTypeApply", "Who": "me@here", "Created": "2026-03-01T12:00:00Z", "Info": ""}'

    lock = fencing.lock_of(text.encode())

    assert (lock.id, lock.who, lock.created, lock.text) == ("l1", "me@here", "2026-03-01T12:00:00Z", text)
    assert fencing.stored_lock(lock.text) == lock
    assert fencing.lock_of(b'{"ID": "l1", "Who": null}') == Lock(id="l1", who="", created="", text='{"ID": "l1", "Who": null}')


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"[]",
        b"null",
        b"{}",
        b'{"ID": 3}',
        b'{"ID": ""}',
        json.dumps({"ID": "x" * 129}).encode(),
        json.dumps({"ID": "x", "Info": "y" * 20_000}).encode(),
        b"[" * 9000,
        b"\xff\xfe",
        '{"ID": "x"}'.encode("utf-16"),
    ],
)
def test_what_is_no_lock_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        fencing.lock_of(data)


@pytest.mark.parametrize(("data", "lock_id"), [(b"", None), (b"  \n", None), (b'{"ID": "l1"}', "l1")])
def test_an_unlock_names_the_lock_or_forces_it(data: bytes, lock_id: str | None) -> None:
    assert fencing.lock_id_of(data) == lock_id


def test_a_state_is_empty_until_its_first_snapshot() -> None:
    assert Head().empty
    assert not Head(seq=1).empty


def test_the_story_of_one_attempt() -> None:
    mine = Lock(id="l1", who="me", created="t1", text="{}")
    attempt = Credential(id="a", org="o", stack_id="s", run_id="r", mode=Mode.APPLY, epoch=1, expires_at=NOW + timedelta(hours=1))
    locked = Head(epoch=1, lock=mine, lock_credential="a")
    stored = Head(epoch=1, lock=mine, lock_credential="a", lineage="x", serial=1, sha256=DIGESTS[0], seq=1)

    assert fencing.admission(attempt, Head(epoch=1), Wish.LOCK, now=NOW) is None
    assert fencing.locking(attempt, Head(epoch=1), mine) is None
    assert fencing.writing(attempt, locked, "l1", Header(lineage="x", serial=1), DIGESTS[0]) is None
    assert fencing.writing(attempt, stored, "l1", Header(lineage="x", serial=1), DIGESTS[0]) is None  # its answer got lost
    assert fencing.writing(attempt, stored, "l1", Header(lineage="x", serial=2), DIGESTS[1]) is None
    assert fencing.unlocking(attempt, stored, "l1") is None
    assert fencing.unlocking(attempt, Head(epoch=1), "l1") is None


@requirement("I5")
@pytest.mark.parametrize("lock_id", [None, "l1", "l2"])
def test_the_lock_of_another_is_neither_taken_nor_freed(lock_id: str | None) -> None:
    theirs = Lock(id="l1", who="you", created="t1", text='{"ID": "l1"}')
    head = Head(lock=theirs, lock_credential="b")
    attempt = Credential(id="a", org="o", stack_id="s", run_id="r", mode=Mode.APPLY, epoch=0, expires_at=NOW)

    taken, freed = fencing.locking(attempt, head, theirs), fencing.unlocking(attempt, head, lock_id)

    assert taken is not None
    assert freed is not None
    assert (taken.status, freed.status, freed.holder) == (423, 409, theirs)


LOCK = Lock(id="l1", who="me", created="t1", text="{}")
HELD = Head(epoch=1, lock=LOCK, lock_credential="att_1")
DEAD = Credential(
    id="att_1", org="acme", stack_id="st_1", run_id="run_1", mode=Mode.APPLY, epoch=0, expires_at=NOW + timedelta(hours=1), revoked=True
)


@requirement("I5")
@pytest.mark.parametrize(
    ("head", "lock_id", "holder", "recorded", "dead", "why"),
    [
        (Head(), "l1", DEAD, LOCK, True, "the state is not locked"),
        (HELD, "l2", DEAD, LOCK, True, "the state is locked under another id: lock l1 of me"),
        (HELD, "l1", None, LOCK, True, "lock l1 of me is not one that an attempt of ours recorded, so nobody here can tell whether"),
        (HELD, "l1", DEAD, None, True, "lock l1 of me is not one that an attempt of ours recorded"),
        (HELD, "l1", DEAD, dataclasses.replace(LOCK, created="t2"), True, "is not one that an attempt of ours recorded"),
        (HELD, "l1", dataclasses.replace(DEAD, revoked=False, epoch=1), LOCK, True, "is held by run_1, whose attempt is not fenced"),
        (HELD, "l1", DEAD, LOCK, False, "is held by the apply of run_1, and nothing proves yet that it is dead"),
    ],
)
def test_a_lock_is_broken_only_if_it_is_ours_fenced_and_dead(
    head: Head, lock_id: str, holder: Credential | None, recorded: Lock | None, dead: bool, why: str
) -> None:
    assert why in (fencing.breaking(head, lock_id, holder, recorded, dead=dead, now=NOW) or "")


@requirement("I5")
def test_what_a_dead_apply_or_an_ended_planner_left_may_be_broken() -> None:
    planner = dataclasses.replace(DEAD, mode=Mode.PLAN)

    assert fencing.breaking(HELD, "l1", DEAD, LOCK, dead=True, now=NOW) is None
    assert fencing.breaking(HELD, "l1", planner, LOCK, dead=False, now=NOW) is None
    assert fencing.breaking(dataclasses.replace(HELD, lock=dataclasses.replace(LOCK, who="")), "l2", DEAD, LOCK, dead=True, now=NOW) == (
        "the state is locked under another id: lock l1 of nobody named"
    )
