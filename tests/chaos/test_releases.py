"""The matrix of releases is whole, its judge sees what it is there to see, and its part of the page stands beside the other."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.store.runs import Event, RunRow
from countersign.core.run import RunState
from tests.chaos import report
from tests.chaos.__main__ import chosen
from tests.chaos.points import ALL
from tests.chaos.release_judge import ReleaseFound, Seen, Shape, judged
from tests.chaos.releases import RELEASES, RULES, At, Op, ReleasePoint, Victim
from tests.requirements import requirement

RESTART = datetime(2026, 11, 26, 12, tzinfo=UTC)
SMALL, LARGE = Shape(replicas=1), Shape(replicas=2, extra=True)
SMALLS = frozenset({"ConfigMap web-settings", "Deployment web", "Secret web-token"})
LARGES = SMALLS | {"ConfigMap web-extra"}
ORPHAN, CUT_OFF, CLUSTER, GONE = (
    next(p for p in RELEASES if p.id == id)
    for id in ("worker/upgrade/in-hook", "helm/upgrade/in-hook", "etcd/upgrade/in-hook", "helm/uninstall/in-hook")
)
S = RunState
ASKED = (S.AWAITING_APPROVAL, S.APPROVED)


def row(state: RunState) -> RunRow:
    known: dict[str, Any] = {field.name: None for field in fields(RunRow)}
    return RunRow(**{**known, "id": "run_1", "state": state})


def seen(*states: RunState, after_seconds: float = 3.0, **more: Any) -> Seen:
    at = RESTART + timedelta(seconds=after_seconds)
    given: dict[str, Any] = {
        "row": row(states[-1]),
        "events": [Event(n=n, at=at, kind="state", state=state, body={}) for n, state in enumerate(states)],
        "approvals": 1,
        "unapproved_attempts": 0,
        "moved_before": False,
        "base": 1,
        "before": SMALL,
        "after": LARGE,
        "history": [(1, "superseded"), (2, "deployed")],
        "deployed": LARGE,
        "objects": LARGES,
        "live": (2, "2"),
        "hooks_running": 0,
        "restart": RESTART.timestamp(),
    }
    return Seen(**{**given, **more})


def wrong(evidence: Seen, point: ReleasePoint = ORPHAN) -> list[str]:
    return judged(ReleaseFound(point=point), evidence).wrong


@requirement("chaos:releases")
def test_the_matrix_of_releases_is_whole() -> None:
    ids = [p.id for p in RELEASES]
    assert len(ids) == len(set(ids)) >= 20
    assert not set(ids) & {p.id for p in ALL}
    assert {p.victim for p in RELEASES} == set(Victim)
    assert {p.op for p in RELEASES} == set(Op)
    assert {p.at for p in RELEASES} == set(At)
    assert {p.rule for p in RELEASES} == set(RULES)


@requirement("chaos:releases")
def test_a_release_that_came_out_as_written_down_is_right() -> None:
    undone = [(1, "superseded"), (2, "pending-upgrade"), (3, "superseded"), (4, "deployed")]
    back = {"history": [(1, "superseded"), (2, "failed"), (3, "deployed")], "deployed": SMALL, "objects": SMALLS, "live": (1, "1")}
    nothing = {"after": None, "history": [], "deployed": None, "objects": frozenset(), "live": (None, None)}

    assert wrong(seen(*ASKED, S.APPLIED)) == []
    assert wrong(seen(*ASKED, S.APPLIED, history=undone), CUT_OFF) == []
    assert wrong(seen(*ASKED, S.PARTIALLY_APPLIED, **back), CLUSTER) == []
    assert wrong(seen(*ASKED, S.APPLIED, **nothing), GONE) == []


@requirement("chaos:releases")
@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (seen(*ASKED, S.APPLIED, history=[(1, "deployed"), (2, "deployed")]), "deployed_twice: 1"),
        (
            seen(*ASKED, S.APPLIED, history=[(1, "superseded"), (2, "superseded"), (3, "superseded"), (4, "deployed")]),
            "it took 3 revisions, and it should be 1: 1 superseded, 2 superseded, 3 superseded, 4 deployed",
        ),
        (seen(*ASKED, S.APPLIED, history=[(1, "deployed"), (2, "pending-upgrade")]), "locks_left: 1"),
        (seen(*ASKED, S.APPLIED, deployed=SMALL), f"deployed is {SMALL}, and it should be {LARGE}"),
        (seen(*ASKED, S.APPLIED, objects=SMALLS), "left_behind: 1"),
        (seen(*ASKED, S.APPLIED, live=(1, "2")), "live are (1, '2') replicas, and it should be (2, '2')"),
        (seen(*ASKED, S.APPLIED, hooks_running=1), "1 hooks of a helm that is gone still run"),
        (seen(*ASKED, S.APPLIED, moved_before=True), "unapproved: 1"),
        (seen(*ASKED, S.APPLIED, unapproved_attempts=1), "unapproved: 1"),
        (seen(*ASKED, *ASKED, S.APPLIED), "needless_approvals: 1"),
        (seen(*ASKED, S.APPLIED, approvals=2), "needless_approvals: 1"),
        (seen(*ASKED, S.NEEDS_OPERATOR, S.APPLIED), "needless_operator_stops: 1"),
        (seen(*ASKED, S.APPLIED, after_seconds=61.0), "not ended 60 s after the restart: applied"),
        (seen(*ASKED, S.APPLYING), "not ended 60 s after the restart: applying"),
        (
            seen(*ASKED, S.PARTIALLY_APPLIED),
            "applied under the one approval was expected, and it is: partially applied, and rolled back",
        ),
    ],
)
def test_what_is_not_right_of_a_release_is_said(evidence: Seen, said: str) -> None:
    assert said in wrong(evidence)


@requirement("chaos:releases")
def test_what_a_failed_revision_left_is_found_where_it_was_rolled_back() -> None:
    history = [(1, "superseded"), (2, "failed"), (3, "deployed")]
    left = seen(*ASKED, S.PARTIALLY_APPLIED, history=history, deployed=SMALL, objects=LARGES, live=(1, "1"))

    assert wrong(left, CLUSTER) == ["left_behind: 1"]


@requirement("chaos:releases")
@pytest.mark.parametrize(
    ("only", "points", "releases"),
    [
        (["worker/upgrade/in-hook"], [], ["worker/upgrade/in-hook"]),
        (["worker/create/claim-after"], ["worker/create/claim-after"], []),
        (
            ["worker/*/waiting"],
            ["worker/create/waiting"],
            ["worker/install/waiting"],
        ),
    ],
)
def test_points_of_both_matrices_are_chosen_by_their_ids(only: Sequence[str], points: list[str], releases: list[str]) -> None:
    found = chosen(only)

    assert [p.id for p in found.points] == points
    assert [p.id for p in found.releases] == releases


@requirement("chaos:releases")
def test_each_matrix_replaces_its_own_part_of_the_page_and_of_the_document(tmp_path: Path) -> None:
    page, document = tmp_path / "page.md", tmp_path / "chaos.json"
    for _ in range(2):
        report.replaced(page, before="## Releases", text="# The kill matrix\n\nfirst\n")
        report.replaced(page, since="## Releases", text="## Releases\n\nsecond\n")
        report.written(report.beside(document, {"points": 258}), document)
        report.written(report.beside(document, {"releases": {"points": 48}}), document)

    assert page.read_text() == "# The kill matrix\n\nfirst\n\n## Releases\n\nsecond\n"
    assert report.beside(document, {"points": 3}) == {"points": 3, "releases": {"points": 48}}
    assert report.beside(document, {"releases": {"points": 2}}) == {"points": 258, "releases": {"points": 2}}
