"""The judge of the kill matrix sees what it is there to see."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from countersign.adapters.store.runs import Event, RunRow
from countersign.core.run import RunState
from tests.chaos.judge import Evidence, Found, judged
from tests.chaos.points import ALL, Point
from tests.requirements import requirement

RESTART = datetime(2026, 11, 26, 12, tzinfo=UTC)
CREATES = next(p for p in ALL if p.id == "terraform/create/create-two-after")
ALONE = next(p for p in ALL if p.id == "worker/create/create-two-after+alone")
ASKS = next(p for p in ALL if p.id == "terraform/replace-database/delete-two-after")
NAMES = ("one", "two", "three")


def line(n: int, op: str, name: str, *, id: str = "", by: str = "att_1") -> dict[str, Any]:
    one = {"id": id or f"{name}-id", "type": "fake_server", "project": "p", "name": name, "attributes": {"size": 1, "kind": "a"}}
    return {"n": n, "op": op, "by": by, "object": one}


MADE = [line(n, "create", name) for n, name in enumerate(NAMES, 1)]


def state_of(*ids: str) -> dict[str, Any]:
    return {"resources": [{"mode": "managed", "type": "fake_server", "instances": [{"attributes": {"id": id}} for id in ids]}]}


def row(state: RunState) -> RunRow:
    known: dict[str, Any] = {field.name: None for field in fields(RunRow)}
    return RunRow(**{**known, "id": "run_1", "state": state})


def seen(*states: RunState, after: float = 3.0, record: list[dict[str, Any]] = MADE, ids: tuple[str, ...] = (), **more: Any) -> Evidence:
    at = RESTART + timedelta(seconds=after)
    last = row(states[-1])
    given: dict[str, Any] = {
        "row": last,
        "final": last,
        "events": [Event(n=n, at=at, kind="state", state=state, body={}) for n, state in enumerate(states)],
        "record": record,
        "all_record": record,
        "before_agreement": 0,
        "state": state_of(*(ids or ("one-id", "two-id", "three-id"))),
        "locked": False,
        "unapproved_attempts": 0,
        "restart": RESTART.timestamp(),
        "size": 1,
        "kind": "a",
    }
    return Evidence(**{**given, **more})


def wrong(evidence: Evidence, point: Point = CREATES) -> list[str]:
    return judged(Found(point=point, seed=1), evidence).wrong


S = RunState
ASKED = (S.AWAITING_APPROVAL, S.APPROVED)


@requirement("chaos:matrix")
def test_a_run_that_ended_as_written_down_is_right() -> None:
    assert wrong(seen(*ASKED, S.APPLIED)) == []


@requirement("chaos:matrix")
@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (seen(*ASKED, S.APPLIED, record=[*MADE, line(4, "create", "two", id="two-again")]), "duplicates: 1"),
        (seen(*ASKED, S.APPLIED, record=[*MADE, line(4, "delete", "two"), line(5, "create", "two", id="two-id")]), "duplicates: 1"),
        (seen(*ASKED, S.APPLIED, ids=("one-id", "three-id")), "lost: 1"),
        (seen(*ASKED, S.APPLIED, ids=("one-id", "two-id", "three-id", "four-id")), "lost: 1"),
        (seen(*ASKED, S.APPLIED, before_agreement=2), "unapproved: 2"),
        (seen(*ASKED, S.APPLIED, unapproved_attempts=1), "unapproved: 1"),
        (seen(*ASKED, *ASKED, S.APPLIED), "needless_approvals: 1"),
        (seen(*ASKED, S.NEEDS_OPERATOR, S.APPLIED), "needless_operator_stops: 1"),
        (seen(*ASKED, S.APPLIED, after=61.0), "not ended 60 s after the restart: applied"),
        (seen(*ASKED, S.APPLYING), "not ended 60 s after the restart: applying"),
        (seen(*ASKED, S.PARTIALLY_APPLIED), "applied by itself was expected, and it is: partially_applied"),
        (seen(*ASKED, S.APPLIED, locked=True), "the state is still locked"),
        (seen(*ASKED, S.APPLIED, size=2), "the world is not what was approved: [('one', 1), ('three', 1), ('two', 1)], ['a']"),
    ],
)
def test_what_is_not_right_is_said(evidence: Evidence, said: str) -> None:
    assert said in wrong(evidence)


@requirement("chaos:matrix")
def test_a_run_that_goes_on_where_it_has_to_ask_is_as_wrong_as_one_that_asks_where_it_may_go_on() -> None:
    assert "asks again was expected, and it is: applied by itself" in wrong(seen(*ASKED, S.APPLIED), ASKS)
    assert "applied by itself was expected, and it is: asks again" in wrong(seen(*ASKED, S.AWAITING_APPROVAL))


@requirement("chaos:matrix")
def test_a_run_that_policy_alone_agrees_to_asks_nobody() -> None:
    assert wrong(seen(S.APPROVED, S.APPLIED), ALONE) == []
    assert wrong(seen(*ASKED, S.APPLIED), ALONE) == ["needless_approvals: 1"]
