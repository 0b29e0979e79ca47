"""The matrix of releases as data: what is killed, where, and what has to come of it, written down before anything is run.

Helm's lock is a status in the cluster that nobody holds, and its process goes on when whoever started it is dead. So two
things are asked of every point beside those of Terraform: how many revisions it took, for a rollback beside a helm that lives
would show there, and that what is live is what the one deployed revision says.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Victim(StrEnum):
    HELM = "helm"
    WORKER = "worker"  # helm lives on
    BOTH = "worker-and-helm"
    APISERVER = "apiserver"
    ETCD = "etcd"
    FRONT = "front"
    TEMPORAL = "temporal"


LONG = 15.0  # seconds without a cluster, longer than a hook runs
CLUSTER = {Victim.APISERVER: "kube-apiserver", Victim.ETCD: "etcd"}  # programs of the control plane


class Op(StrEnum):
    INSTALL = "install"
    UPGRADE = "upgrade"
    ROLLBACK = "rollback"
    UNINSTALL = "uninstall"


class At(StrEnum):
    """Where a run is held. What helm itself does is held by stopping helm; all else by a gate of `seams.py`, named behind it."""

    WAITING = "waiting"  # the plan is recorded and waits for people: nothing is under way
    CLAIMED = "claimed"  # claim after
    STARTED = "started"  # launch after
    HOOK = "in-hook"  # the hook's job runs, the revision is pending
    NOT_READY = "not-ready"  # objects are applied, and helm waits for pods that take 8 s
    ENDED = "ended"  # outcome before: helm has ended, and nobody wrote it down
    ACCOUNTED = "accounted"  # helm was killed in its hook before; then conclude before: undone, planned again, not recorded
    UNDOING = "undoing"  # helm was killed in its hook before; then the helm that rolls back is in a hook of its own


GATES = {
    At.CLAIMED: ("claim", "after"),
    At.STARTED: ("launch", "after"),
    At.ENDED: ("outcome", "before"),
    At.ACCOUNTED: ("conclude", "before"),
}
IN_HELM = (At.HOOK, At.NOT_READY)
AGAIN = (At.ACCOUNTED, At.UNDOING)  # helm is lost first


class Verdict(StrEnum):
    APPLIED = "applied under the one approval"
    BACK = "partially applied, and rolled back"
    OPERATOR = "needs_operator"


@dataclass(frozen=True, kw_only=True)
class Rule:
    verdicts: tuple[Verdict, ...]
    why: str
    revisions: int | None = (
        1  # that it takes beyond those there were, where no chance is in it; an install that is taken back forgets its own
    )


RULES = {
    "waits": Rule(verdicts=(Verdict.APPLIED,), why="who waits for people holds nothing"),
    "not begun": Rule(
        verdicts=(Verdict.APPLIED,), why="claimed, and no helm was started: it is proved that none ever will be, and planned again"
    ),
    "living orphan": Rule(
        verdicts=(Verdict.APPLIED,), why="helm lives: the next worker follows it to its end, and nothing is rolled back beside it"
    ),
    "recorded": Rule(verdicts=(Verdict.APPLIED,), why="helm ended, and its exit code and the release's history say how"),
    "just started": Rule(
        verdicts=(Verdict.APPLIED,),
        why="whether helm had stored a revision is chance: none, and it is planned again; a pending one is undone first",
        revisions=None,
    ),
    "taken back": Rule(
        verdicts=(Verdict.APPLIED,), why="nothing was ever deployed: what was cut off is uninstalled and planned again, as approved"
    ),
    "rolled back": Rule(
        verdicts=(Verdict.APPLIED,),
        why="the revision was cut off: back to the newest that was deployed, and what was approved is done from there",
        revisions=3,
    ),
    "undone twice": Rule(
        verdicts=(Verdict.APPLIED,),
        why="our own rollback was cut off as well, and was written down before: it is done again, and then what was approved",
        revisions=4,
    ),
    "finished": Rule(verdicts=(Verdict.APPLIED,), why="an uninstall that was cut off is finished by another", revisions=None),
    "cluster's end": Rule(
        verdicts=(Verdict.APPLIED, Verdict.BACK),
        why="helm outlives a short absence or fails of it, as its connections have it: what it left is undone, and said as it is",
        revisions=None,
    ),
}


@dataclass(frozen=True, kw_only=True)
class ReleasePoint:
    victim: Victim
    op: Op
    at: At
    rule: str
    away: float = 0.0  # seconds, of a cluster that is not started again at once

    @property
    def id(self) -> str:
        return f"{self.victim}/{self.op}/{self.at}{'+long' if self.away else ''}"

    def seed(self, seed: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{seed} {self.id}".encode()).digest()[:4], "big")

    @property
    def expected(self) -> Rule:
        return RULES[self.rule]


def _points(victim: Victim, *rows: tuple[Op, At, str]) -> Iterator[ReleasePoint]:
    for op, at, rule in rows:
        yield ReleasePoint(victim=victim, op=op, at=at, rule=rule)


def _long(victim: Victim) -> Iterator[ReleasePoint]:
    for op, at in ((Op.INSTALL, At.HOOK), (Op.UPGRADE, At.NOT_READY), (Op.UPGRADE, At.HOOK), (Op.UNINSTALL, At.HOOK)):
        yield ReleasePoint(victim=victim, op=op, at=at, rule="finished" if op is Op.UNINSTALL else "cluster's end", away=LONG)


_CUT_OFF = (
    (Op.INSTALL, At.HOOK, "taken back"),
    (Op.INSTALL, At.NOT_READY, "taken back"),
    (Op.UPGRADE, At.HOOK, "rolled back"),
    (Op.UPGRADE, At.NOT_READY, "rolled back"),
    (Op.ROLLBACK, At.HOOK, "rolled back"),
    (Op.UNINSTALL, At.HOOK, "finished"),
)
_CLUSTER = (
    (Op.UPGRADE, At.WAITING, "waits"),
    (Op.INSTALL, At.CLAIMED, "not begun"),
    (Op.INSTALL, At.NOT_READY, "cluster's end"),
    (Op.UPGRADE, At.HOOK, "cluster's end"),
    (Op.ROLLBACK, At.NOT_READY, "cluster's end"),
    (Op.UNINSTALL, At.HOOK, "finished"),
    (Op.UPGRADE, At.ENDED, "recorded"),
)

RELEASES: tuple[ReleasePoint, ...] = (
    *_points(Victim.HELM, (Op.UPGRADE, At.STARTED, "just started"), *_CUT_OFF, (Op.ROLLBACK, At.NOT_READY, "rolled back")),
    *_points(
        Victim.WORKER,
        (Op.INSTALL, At.WAITING, "waits"),
        (Op.UPGRADE, At.CLAIMED, "not begun"),
        (Op.INSTALL, At.HOOK, "living orphan"),
        (Op.INSTALL, At.NOT_READY, "living orphan"),
        (Op.UPGRADE, At.HOOK, "living orphan"),
        (Op.UPGRADE, At.NOT_READY, "living orphan"),
        (Op.ROLLBACK, At.HOOK, "living orphan"),
        (Op.UNINSTALL, At.HOOK, "living orphan"),
        (Op.INSTALL, At.ENDED, "recorded"),
        (Op.UPGRADE, At.ENDED, "recorded"),
        (Op.ROLLBACK, At.ENDED, "recorded"),
        (Op.UNINSTALL, At.ENDED, "recorded"),
        (Op.UPGRADE, At.ACCOUNTED, "rolled back"),
    ),
    *_points(
        Victim.BOTH,
        (Op.UPGRADE, At.STARTED, "just started"),
        *_CUT_OFF,
        (Op.UPGRADE, At.UNDOING, "undone twice"),
    ),
    *_points(Victim.FRONT, (Op.INSTALL, At.WAITING, "waits"), (Op.UPGRADE, At.HOOK, "living orphan")),
    *_points(
        Victim.TEMPORAL,
        (Op.UPGRADE, At.WAITING, "waits"),
        (Op.INSTALL, At.NOT_READY, "living orphan"),
        (Op.UPGRADE, At.ENDED, "recorded"),
    ),
    *_points(Victim.APISERVER, *_CLUSTER),
    *_long(Victim.APISERVER),
    *_points(Victim.ETCD, *_CLUSTER),
    *_long(Victim.ETCD),
)
