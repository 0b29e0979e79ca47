"""What came of a point, from outside: the cloud's own record, the state, the rows of decisions, and the clock."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from countersign.adapters.store.runs import Event, RunRow
from countersign.core.run import RunState
from tests.chaos.points import ALONE, ASKED, Op, Point, Verdict
from tests.fakecloud.client import truth_of
from tests.fakecloud.world import live

BY_HAND = "the test"  # on whose behalf the cloud was asked by nobody's Terraform
NOT_TRIED = "not tried"
STUCK = 60.0  # seconds after the restart of the victim within which a run has come to its end, or to somebody


@dataclass(kw_only=True)
class Found:
    """One row of the matrix."""

    point: Point
    seed: int
    verdict: str = ""
    state: str = ""
    duplicates: int = 0
    lost: int = 0
    unapproved: int = 0
    needless_approvals: int = 0
    needless_operator_stops: int = 0
    operator_stop: bool = False
    stuck: bool = False
    leaks: int = 0
    recovery: float | None = None  # seconds from the victim's restart to the verdict
    reattach: float | None = None  # seconds from the victim's restart until the live apply was followed again
    wrong: list[str] = field(default_factory=list)  # in words; empty where all is as it has to be

    tries: int = 1

    @property
    def failed(self) -> bool:
        return bool(self.wrong)

    @property
    def late(self) -> bool:
        """Nothing is wrong but the time, or it was never brought to its boundary: a machine may just have had no time for it."""
        return self.failed and (self.verdict == NOT_TRIED or (self.stuck and len(self.wrong) == 1))

    def told(self) -> dict[str, Any]:
        point = self.point
        return {
            "id": point.id,
            "victim": str(point.victim),
            "op": str(point.op),
            "boundary": point.at.id,
            "seed": self.seed,
            "tries": self.tries,
            "expected": str(point.expected.verdict),
            "why": point.expected.why,
            "verdict": self.verdict,
            "state": self.state,
            "duplicates": self.duplicates,
            "lost": self.lost,
            "unapproved": self.unapproved,
            "needless_approvals": self.needless_approvals,
            "needless_operator_stops": self.needless_operator_stops,
            "stuck": self.stuck,
            "leaks": self.leaks,
            "recovery_seconds": None if self.recovery is None else round(self.recovery, 2),
            "reattach_seconds": None if self.reattach is None else round(self.reattach, 2),
            "wrong": self.wrong,
        }


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All there is about one point, after it came to its end."""

    row: RunRow | None  # when it had ended, or waited for somebody
    final: RunRow | None  # after it was answered where it had to be
    events: Sequence[Event]
    record: Sequence[Mapping[str, Any]]  # changes of this stack's objects since the run began
    all_record: Sequence[Mapping[str, Any]]  # and all there ever were
    before_agreement: int  # of `record`: changes before anybody had agreed
    state: Mapping[str, Any]
    locked: bool
    unapproved_attempts: int
    restart: float
    size: int
    kind: str


def verdict_of(row: RunRow | None) -> str:
    if row is None:
        return "no run"
    match row.state:
        case RunState.APPLIED:
            return Verdict.ITSELF
        case RunState.AWAITING_APPROVAL:
            return Verdict.ASKS
        case RunState.NEEDS_OPERATOR:
            return Verdict.OPERATOR
        case other:
            return str(other)


def judged(found: Found, seen: Evidence) -> Found:
    """Fill in the row."""
    point, row = found.point, seen.row
    found.verdict, found.state = verdict_of(row), str(seen.final.state) if seen.final else ""
    asked = sum(e.kind == "state" and e.state is RunState.AWAITING_APPROVAL for e in seen.events)
    stopped = any(e.kind == "state" and e.state is RunState.NEEDS_OPERATOR for e in seen.events)
    expected = point.expected.verdict
    found.operator_stop = stopped
    found.needless_operator_stops = int(stopped and expected is not Verdict.OPERATOR)
    needed = 0 if point.also == ALONE else 1
    found.needless_approvals = max(asked - needed, 0) if expected is not Verdict.ASKS else 0
    found.unapproved = seen.before_agreement + seen.unapproved_attempts
    _time(found, seen)
    _world(found, seen)
    for name in ("duplicates", "lost", "unapproved", "needless_approvals", "needless_operator_stops"):
        if number := getattr(found, name):
            found.wrong.append(f"{name}: {number}")
    if found.stuck:
        found.wrong.append(f"not ended {STUCK:g} s after the restart: {found.state}")
    if found.verdict != expected:
        why = f" ({(row.reason or '')[:300]})" if row is not None and row.reason else ""
        found.wrong.append(f"{expected} was expected, and it is: {found.verdict}{why}")
    return found


def _time(found: Found, seen: Evidence) -> None:
    reached = next((e.at for e in reversed(seen.events) if e.kind == "state" and seen.row and e.state is seen.row.state), None)
    came = seen.row is not None and found.verdict in set(Verdict)
    found.recovery = max(0.0, _seconds(reached) - seen.restart) if came and reached is not None else None
    ended = seen.row is not None and (seen.row.ended or found.verdict in set(Verdict))
    found.stuck = not ended or (found.recovery or 0.0) > STUCK


def _seconds(at: datetime) -> float:
    return at.timestamp()


def _world(found: Found, seen: Evidence) -> None:
    truth = truth_of(list(seen.all_record), dict(seen.state))
    made = Counter(f"create {line['object']['name']}" for line in seen.record if line["op"] == "create")
    allowed = Counter(asked for asked in ASKED[found.point.op] if asked.startswith("create"))
    by_hand = (line["object"]["name"] for line in seen.record if line["op"] == "delete" and line["by"] == BY_HAND)
    twice = sum((made - allowed - Counter(f"create {name}" for name in by_hand)).values())
    found.duplicates = max(len(truth.duplicates), twice)
    found.lost = len(truth.lost) + len(truth.orphans)
    if found.state != RunState.APPLIED:
        if found.verdict == found.point.expected.verdict:
            found.wrong.append(f"answered, it did not end applied: {found.state} ({(seen.final.reason or '')[:300] if seen.final else ''})")
        return
    if seen.locked:
        found.wrong.append("the state is still locked")
    wanted = set() if found.point.op is Op.DESTROY else {("one", seen.size), ("two", seen.size), ("three", seen.size)}
    objects = live(seen.all_record).values()
    there = {(o["name"], o["attributes"].get("size")) for o in objects}
    kinds = {o["attributes"].get("kind") for o in objects if o["name"] == "two"}
    if there != wanted or (wanted and kinds != {seen.kind}):
        found.wrong.append(f"the world is not what was approved: {sorted(there)}, {sorted(map(str, kinds))}")
