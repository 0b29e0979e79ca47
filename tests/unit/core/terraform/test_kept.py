"""A state in a backend of its own: what is weaker, and whose lock lies there."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from countersign.core.terraform.kept import Held, held_in, left_by, locks, risks, unfit
from tests.requirements import requirement

S3 = """
Error: Error acquiring the state lock

Error message: operation error S3: PutObject, https response error
StatusCode: 412, RequestID: nRNK8
Lock Info:
  ID:        25aed717-e8c6-3fa9-5661-c77524470194
  Path:      artifacts/state
  Operation: OperationTypeApply
  Who:       root@vm
  Version:   1.11.4
  Created:   2026-11-26 03:34:44.923026894 +0000 UTC
  Info:
"""
HTTP = """
Error: Error acquiring the state lock

Error message: HTTP remote state already locked:
ID=55d35ee2-b50f-fca0-05d7-1154bb7a4d20
Lock Info:
  ID:        42579a0e-b3b8-d058-a967-0513801a9645
  Operation: state-rm
  Who:       root@vm
  Created:   2026-11-26 03:35:00.32032016 +0000 UTC
"""
LEFT = Held(
    id="25aed717-e8c6-3fa9-5661-c77524470194",
    who="root@vm",
    operation="OperationTypeApply",
    created=datetime(2026, 11, 26, 3, 34, 44, 923026, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("backend", "config", "expected"),
    [
        ("s3", {}, False),
        ("s3", {"use_lockfile": True}, True),
        ("s3", {"dynamodb_table": "locks"}, True),
        ("http", {"lock_address": None}, False),
        ("http", {"lock_address": "https://states.example.com/x"}, True),
        ("consul", {"lock": False}, False),
        ("consul", {"lock": None}, True),
        ("pg", {}, True),
        ("gcs", {}, True),
    ],
)
def test_a_backend_locks_unless_it_is_configured_not_to(backend: str, config: dict[str, Any], expected: bool) -> None:
    assert locks(backend, config) is expected


@requirement("state:kept-told")
def test_what_is_weaker_is_told_worst_first() -> None:
    usual = risks("gcs", locking=True, before=4, serial=4)

    assert len(usual) == 2
    assert "nothing is fenced" in usual[0]
    assert "its lock is the one of gcs" in usual[1].lower()
    assert risks("s3", locking=False, before=0, serial=7)[0].startswith("The backend s3 is declared without a lock")
    assert risks("pg", locking=True, before=7, serial=5)[0] == "The serial went back from 7 to 5: somebody put an earlier state there."


@requirement("state:kept")
@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (["gcs"], None),
        (["s3", "s3"], None),
        ([], "declares none"),
        (["local"], "declares a file"),
        (["cloud"], "declares cloud; a state can stay in one of azurerm, consul,"),
        (["remote"], "declares remote;"),
        (["pg", "s3"], "declares pg and s3;"),
    ],
)
def test_a_state_stays_only_where_several_can_write_it(declared: list[str], why: str | None) -> None:
    said = unfit("acme/dev/shop", declared)

    assert (said is None) if why is None else (said is not None and why in said and "acme/dev/shop" in said)


@requirement("state:kept-lock")
def test_a_lock_is_read_from_what_the_engine_says_and_its_own_question_is_not_taken_for_it() -> None:
    assert held_in(S3) == LEFT
    assert held_in(S3.replace("\n  ", "\n│   ")) == LEFT
    assert held_in(HTTP) == Held(id="55d35ee2-b50f-fca0-05d7-1154bb7a4d20")
    assert held_in(HTTP.replace("already locked:\nID=55d35ee2-b50f-fca0-05d7-1154bb7a4d20", "no")) == Held(id="whose id is not told")
    assert held_in("Error: No matching objects found") is None
    assert held_in(S3.replace(" +0000 UTC", " tomorrow")) == Held(id=LEFT.id, who="root@vm", operation="OperationTypeApply")
    assert LEFT.in_words == "by root@vm since 2026-11-26 03:34:44 UTC (OperationTypeApply), lock 25aed717-e8c6-3fa9-5661-c77524470194"
    assert Held(id="l1").in_words == "by somebody, lock l1"
    assert held_in(S3.replace(".923026894", "")) == Held(
        id=LEFT.id, who=LEFT.who, operation=LEFT.operation, created=datetime(2026, 11, 26, 3, 34, 44, tzinfo=UTC)
    )


def said(*events: tuple[str, str]) -> bytes:
    return b"".join(json.dumps({"type": kind, "@timestamp": f"2026-11-26T03:34:{at}Z"}).encode() + b"\n" for kind, at in events)


BEGAN = said(("version", "44.863121"), ("apply_start", "44.953162"), ("apply_complete", "45.1"))


@requirement("state:kept-lock")
def test_a_lock_is_of_the_lost_apply_only_where_it_was_taken_before_its_first_change_on_its_machine() -> None:
    assert left_by(LEFT, BEGAN, host="vm")
    assert not left_by(LEFT, BEGAN, host="another")
    assert not left_by(LEFT, said(("version", "44.863121")), host="vm")  # it may never have had the lock
    assert not left_by(LEFT, said(("version", "44.99"), ("apply_start", "45.0")), host="vm")  # somebody had it before
    assert not left_by(LEFT, said(("version", "44.1"), ("apply_start", "44.9")), host="vm")  # somebody took it afterwards
    assert not left_by(LEFT, b"", host="vm")
    assert not left_by(LEFT, b"no journal\n", host="vm")
    assert not left_by(Held(id="x", who="root@vm", operation="OperationTypePlan", created=LEFT.created), BEGAN, host="vm")
    assert not left_by(Held(id="x", who="root@vm", operation="OperationTypeApply"), BEGAN, host="vm")
