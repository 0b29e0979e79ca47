"""What came of a point of the releases, from outside: helm's own history, what lives in the namespace, and the rows of decisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from countersign.adapters.store.runs import Event, RunRow
from countersign.core.run import RunState
from tests.chaos.judge import STUCK
from tests.chaos.releases import Op, ReleasePoint, Verdict

COUNTS = (
    "deployed_twice",  # deployed revisions beside the one
    "left_behind",  # objects that live and are not of the deployed revision, or the reverse
    "unapproved",  # changes and attempts nobody had agreed to
    "needless_approvals",
    "needless_operator_stops",
    "locks_left",  # a newest revision that is pending: helm refuses every other operation
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a release is to be, or is."""

    replicas: int
    extra: bool = False  # the object that only one of two revisions has

    @property
    def objects(self) -> frozenset[str]:
        always = {"ConfigMap web-settings", "Deployment web", "Secret web-token"}
        return frozenset({*always, "ConfigMap web-extra"} if self.extra else always)


@dataclass(kw_only=True)
class ReleaseFound:
    """One row."""

    point: ReleasePoint
    verdict: str = ""
    state: str = ""
    history: str = ""  # "1 superseded, 2 deployed"
    deployed_twice: int = 0
    left_behind: int = 0
    unapproved: int = 0
    needless_approvals: int = 0
    needless_operator_stops: int = 0
    locks_left: int = 0
    stuck: bool = False
    recovery: float | None = None
    wrong: list[str] = field(default_factory=list)
    tries: int = 1

    @property
    def failed(self) -> bool:
        return bool(self.wrong)

    def told(self) -> dict[str, Any]:
        point, rule = self.point, self.point.expected
        return {
            "id": point.id,
            "victim": str(point.victim),
            "op": str(point.op),
            "boundary": str(point.at),
            "tries": self.tries,
            "expected": " or ".join(rule.verdicts),
            "why": rule.why,
            "verdict": self.verdict,
            "state": self.state,
            "history": self.history,
            **{name: getattr(self, name) for name in COUNTS},
            "stuck": self.stuck,
            "recovery_seconds": None if self.recovery is None else round(self.recovery, 2),
            "wrong": self.wrong,
        }


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All there is about one point, after it came to its end."""

    row: RunRow | None
    events: Sequence[Event]
    approvals: int  # that people gave
    unapproved_attempts: int
    moved_before: bool  # whether the release moved before anybody had agreed
    base: int  # the newest revision before
    before: Shape | None
    after: Shape | None
    history: Sequence[tuple[int, str]]  # (number, status)
    deployed: Shape | None  # what the values of the newest deployed revision say
    objects: frozenset[str]  # that live and carry Helm's label
    live: tuple[int | None, str | None]  # replicas of the deployment, and what the ConfigMap says of them
    hooks_running: int
    restart: float


def verdict_of(row: RunRow | None) -> str:
    known = {RunState.APPLIED: Verdict.APPLIED, RunState.PARTIALLY_APPLIED: Verdict.BACK, RunState.NEEDS_OPERATOR: Verdict.OPERATOR}
    return "no run" if row is None else known.get(row.state, str(row.state))


def judged(found: ReleaseFound, seen: Seen) -> ReleaseFound:
    """Fill in the row."""
    row, rule = seen.row, found.point.expected
    found.verdict, found.state = verdict_of(row), str(row.state) if row else ""
    found.history = ", ".join(f"{number} {status}" for number, status in seen.history)
    asked = sum(e.kind == "state" and e.state is RunState.AWAITING_APPROVAL for e in seen.events)
    stopped = any(e.kind == "state" and e.state is RunState.NEEDS_OPERATOR for e in seen.events)
    found.needless_operator_stops = int(stopped and Verdict.OPERATOR not in rule.verdicts)
    found.needless_approvals = max(asked - 1, seen.approvals - 1, 0)
    found.unapproved = seen.unapproved_attempts + int(seen.moved_before)
    _release(found, seen)
    _time(found, seen)
    for name in COUNTS:
        if number := getattr(found, name):
            found.wrong.append(f"{name}: {number}")
    if found.verdict not in rule.verdicts:
        why = f" ({(row.reason or '')[:300]})" if row is not None and row.reason else ""
        found.wrong.append(f"{' or '.join(rule.verdicts)} was expected, and it is: {found.verdict}{why}")
    return found


def _release(found: ReleaseFound, seen: Seen) -> None:
    """The release against what was approved. While a run goes on nothing of it is settled."""
    deployed = [number for number, status in seen.history if status == "deployed"]
    found.deployed_twice = max(len(deployed) - 1, 0)
    if found.verdict not in (Verdict.APPLIED, Verdict.BACK):
        return
    last = seen.history[-1][1] if seen.history else "deployed"
    found.locks_left = int(last != "deployed")
    wanted = seen.after if found.verdict == Verdict.APPLIED else seen.before
    if seen.deployed != wanted:
        found.wrong.append(f"deployed is {seen.deployed}, and it should be {wanted}")
    found.left_behind = len(seen.objects ^ (wanted.objects if wanted else frozenset()))
    said = (wanted.replicas, str(wanted.replicas)) if wanted else (None, None)
    if seen.live != said:
        found.wrong.append(f"live are {seen.live} replicas, and it should be {said}")
    if seen.hooks_running:
        found.wrong.append(f"{seen.hooks_running} hooks of a helm that is gone still run")
    _revisions(found, seen)


def _revisions(found: ReleaseFound, seen: Seen) -> None:
    if found.point.op is Op.UNINSTALL:
        if found.verdict == Verdict.APPLIED and seen.history:
            found.wrong.append(f"uninstalled, and there are revisions: {found.history}")
        return
    took, expected = (seen.history[-1][0] if seen.history else 0) - seen.base, found.point.expected.revisions
    if expected is not None and took != expected:
        found.wrong.append(f"it took {took} revisions, and it should be {expected}: {found.history}")


def _time(found: ReleaseFound, seen: Seen) -> None:
    row = seen.row
    came = row is not None and found.verdict in set(Verdict)
    reached = next((e.at for e in reversed(seen.events) if e.kind == "state" and row is not None and e.state is row.state), None)
    found.recovery = max(0.0, reached.timestamp() - seen.restart) if came and reached is not None else None
    found.stuck = not came or (found.recovery or 0.0) > STUCK
    if found.stuck:
        found.wrong.append(f"not ended {STUCK:g} s after the restart: {found.state}")


def shape_of(values: Mapping[str, Any]) -> Shape:
    """What the values of a revision say."""
    return Shape(replicas=int(values.get("replicas", 1)), extra=bool(values.get("extra")))
