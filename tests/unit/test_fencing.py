"""Who may read, lock and write a state: every rule of the state service, without one."""

import itertools
import json
from datetime import UTC, datetime, timedelta

import pytest

from countersign.core import fencing
from countersign.core.errors import InvalidArgument
from countersign.core.fencing import Credential, Head, Lock, Mode, Wish
from countersign.core.terraform.state import Header
from tests.requirements import requirement

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINE = Lock(id="mine", who="me@here", created="2026-01-01", text='{"ID":"mine"}')
THEIRS = Lock(id="theirs", who="you@there", created="2026-01-01", text='{"ID":"theirs"}')
STORED = "sha256:" + "5" * 64
OTHER = "sha256:" + "6" * 64
NEXT = Header(lineage="l", serial=6)


def credential(mode: Mode = Mode.APPLY, *, epoch: int = 3, revoked: bool = False, left: timedelta = timedelta(hours=1)) -> Credential:
    return Credential(
        id="att_me", org="local", stack_id="st_1", run_id="run_1", mode=mode, epoch=epoch, expires_at=NOW + left, revoked=revoked
    )


def head(lock: Lock | None = MINE, by: str | None = "att_me", *, epoch: int = 3, seq: int = 5) -> Head:
    stored = {"lineage": "l", "serial": 5, "sha256": STORED} if seq else {}
    return Head(epoch=epoch, lock=lock, lock_credential=by if lock else None, seq=seq, **stored)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "wish"), list(itertools.product(Mode, Wish)))
def test_a_credential_may_do_what_its_mode_says_and_nothing_else(mode: Mode, wish: Wish) -> None:
    allowed = {
        Mode.READ: {Wish.READ},
        Mode.PLAN: {Wish.READ, Wish.LOCK, Wish.UNLOCK},
        Mode.APPLY: {Wish.READ, Wish.LOCK, Wish.UNLOCK, Wish.WRITE},
    }

    refusal = fencing.admission(credential(mode), head(), wish, now=NOW)

    assert (refusal is None) is (wish in allowed[mode])
    assert refusal is None or refusal.status == 403


@requirement("I2", "state:fencing")
@pytest.mark.parametrize("wish", Wish)
@pytest.mark.parametrize("mode", [Mode.PLAN, Mode.APPLY])
@pytest.mark.parametrize("epoch", [2, 4])
def test_a_credential_of_another_epoch_may_do_nothing(mode: Mode, wish: Wish, epoch: int) -> None:
    refusal = fencing.admission(credential(mode, epoch=epoch), head(epoch=3), wish, now=NOW)

    assert refusal is not None
    assert refusal.status == 403


def test_a_claim_elsewhere_does_not_end_a_speculative_plan() -> None:
    assert fencing.admission(credential(Mode.READ, epoch=1), head(epoch=3), Wish.READ, now=NOW) is None


@pytest.mark.parametrize("mode", Mode)
def test_a_revoked_or_expired_credential_may_do_nothing(mode: Mode) -> None:
    for ended in (credential(mode, revoked=True), credential(mode, left=timedelta(0))):
        refusal = fencing.admission(ended, head(), Wish.READ, now=NOW)
        assert refusal is not None
        assert refusal.status == 403


def test_a_free_lock_is_given_and_given_again_to_the_same_attempt_under_the_same_id() -> None:
    assert fencing.locking(credential(), head(None), MINE) is None
    assert fencing.locking(credential(), head(), MINE) is None


@pytest.mark.parametrize(("by", "asked"), [("att_me", THEIRS), ("att_you", MINE), ("att_you", THEIRS)])
def test_a_held_lock_is_refused_with_its_holder(by: str, asked: Lock) -> None:
    refusal = fencing.locking(credential(), head(MINE, by), asked)

    assert refusal is not None
    assert (refusal.status, refusal.holder) == (423, MINE)


def test_a_lock_is_freed_by_its_own_attempt_named_or_by_force() -> None:
    assert fencing.unlocking(credential(), head(), "mine") is None
    assert fencing.unlocking(credential(), head(), None) is None


def test_freeing_what_is_free_is_no_error() -> None:
    assert fencing.unlocking(credential(), head(None), "mine") is None


@pytest.mark.parametrize(("by", "named"), [("att_me", "theirs"), ("att_you", "mine"), ("att_you", None)])
def test_a_lock_of_another_is_not_freed_and_the_holder_is_named(by: str, named: str | None) -> None:
    refusal = fencing.unlocking(credential(), head(MINE, by), named)

    assert refusal is not None
    assert (refusal.status, refusal.holder) == (409, MINE)


@pytest.mark.parametrize(
    ("lock", "by", "named"), [(None, None, "mine"), (MINE, "att_me", None), (MINE, "att_me", "x"), (MINE, "you", "mine")]
)
def test_a_write_without_the_lock_of_this_attempt_and_its_id_is_refused(lock: Lock | None, by: str | None, named: str | None) -> None:
    refusal = fencing.writing(credential(), head(lock, by), named, NEXT, OTHER)

    assert refusal is not None
    assert refusal.status == 409


@pytest.mark.parametrize(
    ("header", "sha256", "taken"),
    [
        (Header(lineage="l", serial=6), OTHER, True),
        (Header(lineage="l", serial=60), OTHER, True),
        (Header(lineage="l", serial=5), STORED, True),
        (Header(lineage="l", serial=5), OTHER, False),
        (Header(lineage="l", serial=4), OTHER, False),
        (Header(lineage="other", serial=6), OTHER, False),
    ],
)
def test_a_write_continues_the_stored_lineage_with_a_higher_serial(header: Header, sha256: str, taken: bool) -> None:
    refusal = fencing.writing(credential(), head(), "mine", header, sha256)

    assert (refusal is None) is taken
    assert refusal is None or refusal.status == 409


def test_the_first_snapshot_brings_its_own_lineage_and_any_serial() -> None:
    for serial in (0, 1, 40):
        assert fencing.writing(credential(), head(seq=0), "mine", Header(lineage="new", serial=serial), OTHER) is None


def test_only_the_same_bytes_under_the_same_serial_are_a_repeat() -> None:
    assert fencing.repeats(head(), Header(lineage="l", serial=5), STORED)
    assert not fencing.repeats(head(), Header(lineage="l", serial=5), OTHER)
    assert not fencing.repeats(head(), Header(lineage="l", serial=6), STORED)
    assert not fencing.repeats(Head(), Header(lineage="l", serial=0), STORED)


@requirement("I5")
def test_a_lock_is_known_again_by_id_owner_and_time_whatever_else_it_says() -> None:
    asked = {"ID": "i", "Who": "ana@host", "Created": "2026-01-01T00:00:00Z", "Operation": "OperationTypeApply"}
    lock = fencing.lock_of(json.dumps(asked).encode())

    assert lock.is_recorded_as(fencing.stored_lock(json.dumps({**asked, "Info": "x"})))
    for field, value in (("ID", "j"), ("Who", "bo@host"), ("Created", "2026-01-02T00:00:00Z")):
        assert not lock.is_recorded_as(fencing.stored_lock(json.dumps({**asked, field: value})))


@pytest.mark.parametrize("body", [b"x", b"[]", b"{}", b'{"ID": ""}', b'{"ID": 3}', b"\xff", b"[" * 9000, b'{"ID": "%s"}' % (b"x" * 20_000)])
def test_what_is_no_lock_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        fencing.lock_of(body)


@pytest.mark.parametrize(
    ("held", "there", "same", "newer", "refused"),
    [
        (Head(), ("any", 9), False, False, None),
        (Head(seq=3, lineage="l", serial=7), ("l", 7), True, False, None),
        (
            Head(seq=3, lineage="l", serial=7),
            ("l", 7),
            False,
            True,
            "the serial there is 7, and the state kept here has 7 with other content",
        ),
        (
            Head(seq=3, lineage="l", serial=7),
            ("l", 6),
            False,
            True,
            "the serial there is 6, and the state kept here has 7 with other content",
        ),
        (Head(seq=3, lineage="l", serial=7), ("l", 8), False, False, "the serial there is 8, and the state kept here has 7"),
        (Head(seq=3, lineage="l", serial=7), ("l", 8), False, True, None),
        (Head(seq=3, lineage="l", serial=7), ("m", 9), False, True, "the lineage there is m, and that of the state kept here l"),
    ],
)
def test_a_state_from_elsewhere_is_taken_over_where_nothing_here_is_lost(
    held: Head, there: tuple[str, int], same: bool, newer: bool, refused: str | None
) -> None:
    why = fencing.adopting(held, Header(lineage=there[0], serial=there[1]), same=same, newer=newer)

    assert why is None if refused is None else why is not None and why.startswith(refused)


def test_an_empty_unlock_names_no_lock_and_opentofus_names_its_id() -> None:
    assert fencing.lock_id_of(b"") is None
    assert fencing.lock_id_of(b'{"ID": "i", "Operation": "", "Info": "", "Who": ""}') == "i"


@pytest.mark.parametrize(
    ("held", "pushed", "force", "refused"),
    [
        (Head(), ("any", 1), False, None),
        (Head(seq=3, lineage="l", serial=7), ("l", 8), False, None),
        (Head(seq=3, lineage="l", serial=7), ("l", 7), False, "its serial is 7, and the stored state has 7"),
        (Head(seq=3, lineage="l", serial=7), ("m", 9), False, "its lineage is m, and that of the stored state l"),
        (Head(seq=3, lineage="l", serial=7), ("m", 2), True, None),
    ],
)
def test_a_push_by_hand_goes_on_in_the_same_history_unless_it_is_forced(
    held: Head, pushed: tuple[str, int], force: bool, refused: str | None
) -> None:
    why = fencing.pushing(held, Header(lineage=pushed[0], serial=pushed[1]), force=force)

    assert why is None if refused is None else why is not None and why.startswith(refused)
