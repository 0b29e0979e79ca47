"""What a release's history says of an operation that was lost, and what follows from it."""

from typing import Any

import pytest

from countersign.core.helm.recovery import (
    Action,
    Expected,
    Revision,
    Then,
    deployed,
    found,
    left_behind,
    newest,
    proved,
    to_roll_back_to,
)
from tests.requirements import requirement

OURS = "run_ours"


def history(*said: str) -> list[Revision]:
    """`1 superseded`, `2 pending-upgrade run_ours`, `3 deployed - Rollback to 1`."""
    made = []
    for one in said:
        number, status, *rest = one.split(" ", 3)
        run, description = [*rest, "", ""][:2]
        made.append(Revision(number=int(number), status=status, run=run if run not in ("", "-") else None, description=description))
    return made


def deploy(base: int, **more: Any) -> Expected:
    return Expected(action=Action.DEPLOY, base=base, run=OURS, **more)


def uninstalled(base: int, **more: Any) -> Expected:
    return deploy(base, base_status="uninstalled", **more)


@requirement("helm:recovered-by-evidence")
@pytest.mark.parametrize(
    ("expected", "there", "then", "to"),
    [
        # Finished, by whoever was left to finish it.
        (deploy(1), ["1 superseded", "2 deployed run_ours"], Then.DONE, None),
        (deploy(0), ["1 deployed run_ours"], Then.DONE, None),
        # Nothing was stored.
        (deploy(0), [], Then.AGAIN, None),
        (deploy(2), ["1 superseded", "2 deployed"], Then.AGAIN, None),
        # Cut off: back to the newest that once was deployed, by its number.
        (deploy(2), ["1 superseded", "2 deployed", "3 pending-upgrade run_ours"], Then.ROLL_BACK, 2),
        (deploy(3), ["1 superseded", "2 superseded", "3 failed", "4 pending-upgrade run_ours"], Then.ROLL_BACK, 2),
        (deploy(1), ["1 deployed", "2 failed run_ours"], Then.ROLL_BACK, 1),
        (deploy(0), ["1 pending-install run_ours"], Then.UNINSTALL, None),
        # What failed before may hold data, and is no longer ours to remove.
        (deploy(1), ["1 failed", "2 pending-upgrade run_ours"], Then.OPERATOR, None),
        (deploy(2), ["1 failed", "2 failed", "3 failed run_ours"], Then.OPERATOR, None),
        (deploy(2), ["3 pending-upgrade run_ours"], Then.OPERATOR, None),
        # Uninstalled with its history kept, which helm then calls superseded: nothing was there, and nothing older comes back.
        (uninstalled(1), ["1 superseded", "2 pending-install run_ours"], Then.UNINSTALL, None),
        (uninstalled(2), ["1 superseded", "2 superseded", "3 failed run_ours"], Then.UNINSTALL, None),
        (uninstalled(2), ["1 superseded", "2 superseded", "3 uninstalling run_ours"], Then.UNINSTALL, None),
        (uninstalled(2, recovering=(3,)), ["1 superseded", "2 superseded", "3 uninstalled run_ours"], Then.AGAIN, None),
        (deploy(2), ["1 superseded", "2 deployed", "3 uninstalled run_ours"], Then.ASK, None),
        # Undone already, by helm itself or by us.
        (deploy(1), ["1 superseded", "2 failed run_ours", "3 deployed - Rollback to 1"], Then.AGAIN, None),
        # Undoing it was cut off: only where we know that it was we who began it.
        (deploy(1, recovering=(3,)), ["1 superseded", "2 failed run_ours", "3 pending-rollback - Rollback to 1"], Then.ROLL_BACK, 1),
        (deploy(1), ["1 superseded", "2 failed run_ours", "3 pending-rollback - Rollback to 1"], Then.OPERATOR, None),
        # Somebody else's.
        (deploy(1), ["1 superseded", "2 deployed run_other"], Then.ASK, None),
        (deploy(1), ["1 superseded", "2 deployed"], Then.ASK, None),
        (deploy(1), ["1 deployed", "2 pending-upgrade"], Then.OPERATOR, None),
        (deploy(1), ["1 superseded", "2 uninstalling"], Then.OPERATOR, None),
        (deploy(1), ["1 superseded", "2 superseded run_ours", "3 deployed run_ours"], Then.ASK, None),
        (deploy(1), ["1 superseded", "2 pending-upgrade run_ours", "3 deployed - Rollback to 1", "4 pending-upgrade"], Then.OPERATOR, None),
        (deploy(1), ["1 superseded", "3 deployed run_ours"], Then.ASK, None),
        (deploy(2), [], Then.ASK, None),
        # A rollback of it that failed is at rest, whoever began it, and is made once more.
        (deploy(1), ["1 superseded", "2 failed run_ours", "3 failed - Rollback to 1"], Then.ROLL_BACK, 1),
        # A rollback carries its target's labels; what it says of itself counts.
        (Expected(action=Action.ROLLBACK, base=2, run=OURS, to=1), ["2 superseded", "3 deployed - Rollback to 1"], Then.DONE, None),
        (
            Expected(action=Action.ROLLBACK, base=2, run=OURS, to=1),
            ["1 superseded", "2 deployed", "3 pending-rollback - Rollback to 1"],
            Then.ROLL_BACK,
            2,
        ),
        (Expected(action=Action.ROLLBACK, base=3, run=OURS, to=1), ["3 deployed", "4 deployed - Rollback to 2"], Then.ASK, None),
        (Expected(action=Action.ROLLBACK, base=3, run=OURS, to=1), ["3 deployed", "4 deployed - Upgrade complete"], Then.ASK, None),
        # An uninstall.
        (Expected(action=Action.UNINSTALL, base=2, run=OURS), [], Then.DONE, None),
        (Expected(action=Action.UNINSTALL, base=2, run=OURS), ["1 superseded", "2 uninstalled"], Then.DONE, None),
        (Expected(action=Action.UNINSTALL, base=2, run=OURS), ["1 superseded", "2 uninstalling"], Then.AGAIN, None),
        (Expected(action=Action.UNINSTALL, base=2, run=OURS), ["1 superseded", "2 deployed"], Then.AGAIN, None),
        (Expected(action=Action.UNINSTALL, base=2, run=OURS), ["2 superseded", "3 deployed"], Then.ASK, None),
        (Expected(action=Action.UNINSTALL, base=2, run=OURS), ["2 superseded", "3 pending-upgrade"], Then.OPERATOR, None),
    ],
)
def test_the_history_says_what_follows(expected: Expected, there: list[str], then: Then, to: int | None) -> None:
    finding = found(expected, history(*there))

    assert (finding.then, finding.to) == (then, to)
    assert finding.why


def test_the_newest_and_the_deployed_revision_are_found_in_any_order() -> None:
    there = history("3 failed", "1 superseded", "2 deployed")

    assert str(newest(there)) == "revision 3 (failed)"
    assert deployed(there) == Revision(number=2, status="deployed")
    assert [one.number for one in left_behind(there)] == [3]
    assert to_roll_back_to(there, before=2) == Revision(number=1, status="superseded")
    assert newest([]) is None and deployed([]) is None


def test_an_install_that_failed_left_what_it_made() -> None:
    assert [one.number for one in left_behind(history("1 failed", "2 failed"))] == [1, 2]


@pytest.mark.parametrize(
    ("status", "pending"), [("pending-install", True), ("pending-rollback", True), ("failed", False), ("deployed", False)]
)
def test_pending_is_what_helm_calls_so(status: str, pending: bool) -> None:
    assert Revision(number=1, status=status).pending is pending


def record(address: str, action: str = "update", **attributes: list[str | None]) -> dict[str, Any]:
    return {
        "address": address,
        "actions": [action],
        "classes": [action],
        "attributes": attributes,
        "conflicts": [],
        "replace_paths": [],
    }


def test_what_is_left_of_an_approved_plan_is_proven_object_by_object() -> None:
    approved = [
        record("Deployment/a", replicas=["1", "2"]),
        record("ConfigMap/b", "create", data=[None, "x"]),
        record("Secret/c", "delete"),
    ]
    left = [record("Deployment/a", replicas=["1", "2"]), record("ConfigMap/b", "no-op")]

    proof = proved(approved, left)

    assert proof.ok and proof.left == 1
    assert proof.lines == (
        "Deployment/a: update, as approved",
        "ConfigMap/b: is as it should be",
        "Secret/c: is no part of it any more",
    )


@pytest.mark.parametrize(
    "left",
    [
        record("Deployment/a", replicas=["1", "3"]),
        record("Deployment/a", replicas=["1", "2"], image=["a", "b"]),
        record("Deployment/a", "delete"),
        record("Deployment/new", "create"),
        {**record("Deployment/a", replicas=["1", "2"]), "conflicts": ["kubectl .spec.replicas"]},
    ],
)
def test_what_was_not_approved_is_told_and_proves_nothing(left: dict[str, Any]) -> None:
    proof = proved([record("Deployment/a", replicas=["1", "2"])], [left])

    assert not proof.ok
    assert len(proof.refused) == 1 and left["address"] in proof.refused[0]
