"""After a lost operation of Helm: what its history says was done, and what follows.

Helm's lock is a status without a holder and without an end, so nothing here goes by age. What counts is that the process is proved dead
(the caller's work), the revision that was planned with, and the run's label on the one that follows it: labels alone prove nothing, for
an upgrade inherits them and a rollback copies them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from countersign.core.reconcile import Proof

PENDING = ("pending-install", "pending-upgrade", "pending-rollback")
ONCE_DEPLOYED = ("deployed", "superseded")
AT_REST = (*ONCE_DEPLOYED, "failed", "uninstalled")
LABEL = "countersign-run"  # on the revision that a run makes


@dataclass(frozen=True, kw_only=True)
class Revision:
    number: int
    status: str
    run: str | None = None  # its label
    description: str = ""

    @property
    def pending(self) -> bool:
        return self.status in PENDING

    def rolled_back_to(self) -> int | None:
        """Of a rollback: the revision it goes to, which its description says from the start."""
        to = self.description.removeprefix("Rollback to ")
        return int(to) if to != self.description and to.isdigit() else None

    def __str__(self) -> str:
        return f"revision {self.number} ({self.status})"


def newest(history: Iterable[Revision]) -> Revision | None:
    return max(history, key=lambda one: one.number, default=None)


def deployed(history: Iterable[Revision]) -> Revision | None:
    """The newest that is deployed: what the cluster runs, as far as Helm knows."""
    return newest(one for one in history if one.status == "deployed")


def left_behind(history: Sequence[Revision]) -> tuple[Revision, ...]:
    """Failed revisions newer than the deployed one: what they made is live, and belongs to nobody."""
    current = deployed(history)
    return tuple(one for one in history if one.status == "failed" and (current is None or one.number > current.number))


def to_roll_back_to(history: Iterable[Revision], *, before: int) -> Revision | None:
    """The newest revision below `before` that once was deployed. Named explicitly: helm itself would take the one before, failed or not."""
    return newest(one for one in history if one.number < before and one.status in ONCE_DEPLOYED)


class Action(StrEnum):
    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    UNINSTALL = "uninstall"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the lost operation was to do."""

    action: Action
    base: int  # the newest revision when it was planned; 0: there was no release
    run: str
    base_status: str = ""
    to: int | None = None  # of a rollback
    recovering: tuple[int, ...] = ()  # numbers of revisions that we ourselves were about to make, or to remove, to undo it


class Then(StrEnum):
    DONE = "done"
    AGAIN = "again"  # nothing of it is left: plan what was agreed to once more
    ROLL_BACK = "roll_back"  # to `Finding.to`, then again
    UNINSTALL = "uninstall"  # then again: of an install that was cut off, where nothing was there before
    ASK = "ask"  # somebody else moved the release meanwhile: people look at what that means now
    OPERATOR = "operator"  # somebody else may still be at work on it, or there is nothing to go back to


@dataclass(frozen=True, kw_only=True)
class Finding:
    then: Then
    why: str
    to: int | None = None


def found(expected: Expected, history: Sequence[Revision]) -> Finding:
    """What became of it, by evidence. The process has to be proved dead before anybody asks."""
    last = newest(history)
    if expected.action is Action.UNINSTALL:
        return _uninstalled(expected, last)
    if last is None:
        if expected.base:
            return Finding(then=Then.ASK, why=f"revision {expected.base} was there, and the release has no history any more")
        return Finding(then=Then.AGAIN, why="no revision was stored, so nothing was applied")
    if last.number == expected.base:
        return Finding(then=Then.AGAIN, why=f"{last} is still the newest, so nothing was applied")
    own = next((one for one in history if one.number == expected.base + 1), None)
    if own is None or not _ours(expected, own):
        return _foreign(last, f"{last} is not of this run, which was planned with revision {expected.base}")
    return _ours_is(expected, own, last, history)


def _foreign(last: Revision, why: str) -> Finding:
    """Somebody else's revision: where it has come to rest, people decide on what is there now."""
    return Finding(then=Then.ASK if last.status in AT_REST else Then.OPERATOR, why=why)


def _ours(expected: Expected, own: Revision) -> bool:
    if expected.action is Action.ROLLBACK:  # it carries the labels of its target
        return own.rolled_back_to() == expected.to
    return own.run == expected.run


def _ours_is(expected: Expected, own: Revision, last: Revision, history: Sequence[Revision]) -> Finding:
    if last is own and own.status == "deployed":
        mark = f"goes back to revision {expected.to}" if expected.action is Action.ROLLBACK else "carries the label of this run"
        return Finding(then=Then.DONE, why=f"{own} {mark}, and is the one after revision {expected.base}")
    above = [one for one in history if one.number > own.number]
    foreign = next((one for one in above if one.rolled_back_to() is None), None)
    if foreign is not None:
        return _foreign(last, f"{foreign} came after that of this run, and is not its own")
    if above and last.status == "deployed":
        return Finding(then=Then.AGAIN, why=f"{own} was rolled back by {last}")
    if above and last.pending and last.number not in expected.recovering:
        return Finding(then=Then.OPERATOR, why=f"somebody began {last} after that of this run, and nobody here knows whether they live")
    if last is own and own.status == "uninstalled":
        then = Then.AGAIN if own.number in expected.recovering else Then.ASK
        return Finding(then=then, why=f"{own} was removed again, {'to undo it' if then is Then.AGAIN else 'by somebody else'}")
    if not expected.base or expected.base_status == "uninstalled":  # so all there is was made by this run
        return Finding(then=Then.UNINSTALL, why=f"{own} was cut off, and nothing was installed before it")
    back = to_roll_back_to(history, before=own.number)
    if back is None:
        why = f"{own} was cut off, and none before it was ever deployed; to remove it would remove what was there before, and its data"
        return Finding(then=Then.OPERATOR, why=why)
    return Finding(then=Then.ROLL_BACK, to=back.number, why=f"{own} was cut off; revision {back.number} is the newest that was deployed")


def _uninstalled(expected: Expected, last: Revision | None) -> Finding:
    if last is None or last.status == "uninstalled":
        return Finding(then=Then.DONE, why="the release has no deployed revision any more")
    if last.number != expected.base:
        return _foreign(last, f"{last} came after revision {expected.base}, which was to be uninstalled")
    if last.status == "uninstalling":
        return Finding(then=Then.AGAIN, why=f"{last}: the uninstall was cut off, and a second one finishes it")
    return Finding(then=Then.AGAIN, why=f"{last} is still there, so nothing was removed")


def proved(approved: Iterable[Mapping[str, Any]], left: Iterable[Mapping[str, Any]]) -> Proof:
    """Whether what is planned now does nothing that was not agreed to. Both are records of objects (`diff.record_of`)."""
    agreed = {str(record["address"]): record for record in approved}
    lines: list[str] = []
    refused: list[str] = []
    changes = 0
    for record in left:
        address, before = str(record["address"]), agreed.pop(str(record["address"]), None)
        if record["actions"] == ["no-op"]:
            lines.append(f"{address}: is as it should be")
            continue
        changes += 1
        if before is not None and _within(record, before):
            lines.append(f"{address}: {record['actions'][0]}, as approved")
        else:
            refused.append(f"{address}: {record['actions'][0]}, which is not what was approved")
    lines += [f"{address}: is no part of it any more" for address in sorted(agreed)]
    return Proof(lines=tuple(lines), refused=tuple(refused), left=changes)


def _within(record: Mapping[str, Any], agreed: Mapping[str, Any]) -> bool:
    same = all(record[name] == agreed[name] for name in ("actions", "classes", "conflicts", "replace_paths"))
    return same and all(agreed["attributes"].get(name) == sides for name, sides in record["attributes"].items())
