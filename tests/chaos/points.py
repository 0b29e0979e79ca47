"""The matrix as data: every point, and what has to come of it, written down before anything is run.

A verdict is how a run that lost something has to go on by the rules of the reference (terraform §5): by itself, by asking
people for a difference, or by waiting for an operator. Each has the reason for which it is the right one; a run that stops
although its rule lets it go on fails as much as one that goes on although its rule forbids it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Victim(StrEnum):
    WORKER = "worker"
    TERRAFORM = "terraform"
    PROVIDER = "provider"
    TEMPORAL = "temporal"
    FRONT = "front"
    STATE = "state"
    DATABASE = "database"  # in the runs on Postgres


class Kind(StrEnum):
    """What a service is made of."""

    USUAL = "usual"  # SQLite, and a provider that Terraform reattaches to
    PLUGIN = "plugin"  # Terraform starts the provider itself, so that it can be killed alone
    POSTGRES = "postgres"


class Op(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DESTROY = "destroy"


class Verdict(StrEnum):
    ITSELF = "applied by itself"
    ASKS = "asks again"
    OPERATOR = "needs_operator"


# Of which type the stack is made: one that can be looked up, one that cannot, one that holds data.
SERVER, THING, DATABASE = "fake_server", "fake_thing", "fake_database"
CLOUD_OPS = ("create", "read", "update", "delete")  # gates in the cloud; all others are in our own processes
WAITING = "waiting"  # no gate: the run waits for people, and nothing is under way


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where a run is held. `name` is the object's, for gates in the cloud."""

    op: str
    when: str = ""
    name: str = ""
    times: int = 1

    @property
    def id(self) -> str:
        return "-".join(part for part in (self.op, self.name, self.when) if part)

    @property
    def in_cloud(self) -> bool:
        return self.op in CLOUD_OPS


@dataclass(frozen=True, kw_only=True)
class Rule:
    verdict: Verdict
    why: str


RULES = {
    "asked again": Rule(verdict=Verdict.ITSELF, why="nothing was answered: the client asks again with its key, and there is one run"),
    "not begun": Rule(verdict=Verdict.ITSELF, why="nothing was begun: the step is done again, and what people agreed to counts"),
    "planned again": Rule(verdict=Verdict.ITSELF, why="a plan changes nothing, so it is made again"),
    "waits": Rule(verdict=Verdict.ITSELF, why="who waits for people holds nothing"),
    "followed": Rule(verdict=Verdict.ITSELF, why="the apply lives, and whoever is there next follows it to its end"),
    "stored again": Rule(verdict=Verdict.ITSELF, why="the engine asks the state service again, and an answer that was lost is a repeat"),
    "accounted for": Rule(verdict=Verdict.ITSELF, why="journal and look-up account for every object, and the rest was approved"),
    "recorded": Rule(verdict=Verdict.ITSELF, why="the apply ended, and its evidence says how"),
    "no look-up": Rule(verdict=Verdict.OPERATOR, why="a creation was under way, and there is no look-up for its type"),
    "journal": Rule(verdict=Verdict.ITSELF, why="no creation was under way: the journal names every object"),
    "holds data": Rule(verdict=Verdict.ASKS, why="what holds data is destroyed and not made yet: the rest of it is asked again"),
    "changed outside": Rule(verdict=Verdict.ASKS, why="somebody changed the world meanwhile: the difference is asked"),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    victim: Victim
    op: Op
    at: Boundary
    rule: str
    type: str = SERVER
    first: Boundary | None = None  # the apply is lost there before, so that reconciling is what is held
    also: str = ""  # "apply": Temporal delivers the apply once more; "meddle": somebody destroys an object by hand; "late": see batch
    # "alone": policy lets the agent agree by itself, so that one step plans and applies

    @property
    def id(self) -> str:
        kind = "" if self.type == SERVER else f"-{self.type.removeprefix('fake_')}"
        extra = f"+{self.also}" if self.also else ""
        first = f"{self.first.id}>" if self.first else ""
        return f"{self.victim}/{self.op}{kind}/{first}{self.at.id}{extra}"

    @property
    def on(self) -> Kind:
        """The kind of service it is tried on."""
        return {Victim.PROVIDER: Kind.PLUGIN, Victim.DATABASE: Kind.POSTGRES}.get(self.victim, Kind.USUAL)

    @property
    def expected(self) -> Rule:
        return RULES[self.rule]

    def seed(self, seed: int) -> int:
        """The point's own. It decides whether a process or its whole group is killed, and what becomes of a request that was held."""
        return int.from_bytes(hashlib.sha256(f"{seed} {self.id}".encode()).digest()[:4], "big")

    @property
    def in_apply(self) -> bool:
        """Whether a Terraform that applies lives while the run is held."""
        at = self.first or self.at
        return (at.in_cloud and at.op != "read") or at.op in ("launch", "lock.apply", "write.apply", "unlock.apply")


def _b(op: str, when: str, name: str = "", **more: int) -> Boundary:
    return Boundary(op=op, when=when, name=name, **more)


def gates(*texts: str) -> tuple[Boundary, ...]:
    """ "claim before", "create two after"; "waiting" alone."""
    found = []
    for text in texts:
        op, *rest = text.split()
        found.append(_b(op, rest[-1] if rest else "", rest[0] if len(rest) == 2 else ""))
    return tuple(found)


# What an operation asks of the cloud, in order.
ASKED: dict[Op, tuple[str, ...]] = {
    Op.CREATE: ("create one", "create two", "create three"),
    Op.UPDATE: ("update one", "update two", "update three"),
    Op.REPLACE: ("delete two", "create two", "update three"),
    Op.DESTROY: ("delete three", "delete two", "delete one"),
}


def in_cloud(op: Op) -> tuple[Boundary, ...]:
    return gates(*(f"{asked} {when}" for asked in ASKED[op] for when in ("before", "after")))


ASKING = gates("ask before", "start before")
PLANNING = gates("plan before", "turn after", "lock.plan after", "record before")
WAITS = gates("record after", WAITING)
DECIDING = gates("approve before", "decide before", "decide after")
CLAIMING = gates("claim before", "claim after")
STARTING = gates("launch after", "lock.apply before", "lock.apply after")
STORING = gates("write.apply before", "write.apply after", "unlock.apply before", "unlock.apply after")
RECORDING = gates("outcome before", "outcome after")
ALONE = "alone"


def _points(victim: Victim, op: Op, boundaries: Sequence[Boundary], rule: str, **more: str) -> Iterator[Point]:
    for at in boundaries:
        yield Point(victim=victim, op=op, at=at, rule=rule, **more)


def _worker() -> Iterator[Point]:
    v = Victim.WORKER
    yield from _points(v, Op.CREATE, ASKING, "not begun")
    yield from _points(v, Op.CREATE, PLANNING, "planned again")
    yield from _points(v, Op.CREATE, WAITS, "waits")
    yield from _points(v, Op.CREATE, (*DECIDING, *CLAIMING), "not begun")
    yield from _points(
        v, Op.CREATE, (*STARTING, *gates("create one before", "create two after", "create three after"), *STORING), "followed"
    )
    yield from _points(v, Op.CREATE, RECORDING, "recorded")
    for op in (Op.UPDATE, Op.REPLACE, Op.DESTROY):
        yield from _points(v, op, gates("read two before"), "planned again")
        yield from _points(v, op, gates("decide after", "claim after"), "not begun")
        first, *_, last = in_cloud(op)
        yield from _points(v, op, (first, last), "followed")
        yield from _points(v, op, gates("outcome before"), "recorded")


def _temporal() -> Iterator[Point]:
    v = Victim.TEMPORAL
    yield from _points(v, Op.CREATE, ASKING, "asked again")
    yield from _points(v, Op.CREATE, PLANNING, "planned again")
    yield from _points(v, Op.CREATE, WAITS, "waits")
    yield from _points(v, Op.CREATE, (*DECIDING, *CLAIMING), "not begun")
    yield from _points(v, Op.CREATE, gates("launch after", "create one before", "create two after", "write.apply before"), "followed")
    yield from _points(v, Op.CREATE, RECORDING, "recorded")
    for op in (Op.UPDATE, Op.REPLACE, Op.DESTROY):
        yield from _points(v, op, gates("read two before"), "planned again")
        yield from _points(v, op, gates("decide after", "claim before"), "not begun")
        yield from _points(v, op, in_cloud(op)[2:3], "followed")
    yield Point(victim=v, op=Op.CREATE, at=_b(WAITING, ""), rule="waits", also="apply")
    yield Point(victim=v, op=Op.CREATE, at=_b("create", "before", "two"), rule="followed", also="apply")
    yield Point(victim=v, op=Op.UPDATE, at=_b("update", "after", "two"), rule="followed", also="apply")


def _front() -> Iterator[Point]:
    v = Victim.FRONT
    yield from _points(v, Op.CREATE, ASKING, "asked again")
    yield from _points(v, Op.CREATE, gates("turn after", "record before"), "planned again")
    yield from _points(v, Op.CREATE, WAITS, "waits")
    yield from _points(v, Op.CREATE, (*DECIDING, *gates("claim after")), "not begun")
    yield from _points(v, Op.CREATE, gates("create two before", "write.apply after"), "followed")
    yield from _points(v, Op.CREATE, gates("outcome before"), "recorded")
    for op in (Op.UPDATE, Op.REPLACE, Op.DESTROY):
        yield from _points(v, op, gates("approve before"), "not begun")
        yield from _points(v, op, in_cloud(op)[1:2], "followed")


def _state() -> Iterator[Point]:
    v = Victim.STATE
    yield from _points(v, Op.CREATE, PLANNING, "planned again")
    yield from _points(v, Op.CREATE, WAITS, "waits")
    yield from _points(v, Op.CREATE, gates("decide before", "claim before", "claim after"), "not begun")
    yield from _points(v, Op.CREATE, (*STARTING, *STORING), "stored again")
    yield from _points(v, Op.CREATE, gates("create two before", "create three after"), "followed")
    yield from _points(v, Op.CREATE, gates("outcome before"), "recorded")
    for op in (Op.UPDATE, Op.REPLACE, Op.DESTROY):
        yield from _points(
            v, op, gates("lock.apply after", "write.apply before", "write.apply after", "unlock.apply after"), "stored again"
        )
        yield from _points(v, op, in_cloud(op)[3:4], "followed")


def _terraform() -> Iterator[Point]:
    v = Victim.TERRAFORM
    yield from _points(v, Op.CREATE, gates("lock.plan after"), "planned again")
    yield from _points(v, Op.CREATE, (*STARTING[1:], *in_cloud(Op.CREATE), *STORING), "accounted for")
    for op in (Op.UPDATE, Op.REPLACE, Op.DESTROY):
        yield from _points(v, op, gates("read two before"), "planned again")
        yield from _points(
            v, op, (*gates("lock.apply after"), *in_cloud(op), *gates("write.apply before", "write.apply after")), "accounted for"
        )
    # No look-up for the type: whatever was under way is an operator's, and nothing else is.
    yield from _points(v, Op.CREATE, gates("create one after", "create two before", "create three after"), "no look-up", type=THING)
    yield from _points(v, Op.CREATE, gates("lock.apply after", "write.apply before"), "journal", type=THING)
    yield from _points(v, Op.UPDATE, gates("update one after", "update two before"), "journal", type=THING)
    yield from _points(v, Op.REPLACE, gates("create two before"), "no look-up", type=THING)
    yield from _points(v, Op.REPLACE, gates("delete two after"), "journal", type=THING)
    yield from _points(v, Op.DESTROY, gates("delete two before", "delete one after"), "journal", type=THING)
    # What holds data is not made again unasked.
    yield from _points(v, Op.REPLACE, gates("delete two after"), "holds data", type=DATABASE)
    yield from _points(v, Op.CREATE, gates("create two after"), "no look-up", type=DATABASE)
    yield Point(victim=v, op=Op.UPDATE, at=_b("update", "after", "one"), rule="changed outside", also="meddle")
    # What its dead process asked for arrives while it is accounted for.
    yield Point(victim=v, op=Op.CREATE, at=_b("lock.apply", "before"), rule="accounted for", also="late")
    yield Point(victim=v, op=Op.UPDATE, at=_b("write.apply", "before"), rule="accounted for", also="late")


def _provider() -> Iterator[Point]:
    v = Victim.PROVIDER
    yield from _points(v, Op.CREATE, in_cloud(Op.CREATE), "accounted for")
    for op in (Op.UPDATE, Op.REPLACE, Op.DESTROY):
        yield from _points(v, op, gates("read two before"), "planned again")
        yield from _points(v, op, in_cloud(op)[1:5], "accounted for")


def _database() -> Iterator[Point]:
    """Postgres, killed whole: whoever was connected is cut off, and nothing that was committed is gone."""
    v = Victim.DATABASE
    yield from _points(v, Op.CREATE, ASKING, "asked again")
    yield from _points(v, Op.CREATE, PLANNING, "planned again")
    yield from _points(v, Op.CREATE, WAITS, "waits")
    yield from _points(v, Op.CREATE, (*DECIDING, *CLAIMING), "not begun")
    yield from _points(v, Op.CREATE, gates("launch after", "create two before", "create three after"), "followed")
    yield from _points(v, Op.CREATE, (*gates("lock.apply before", "lock.apply after"), *STORING), "stored again")
    yield from _points(v, Op.CREATE, RECORDING, "recorded")
    for op in (Op.UPDATE, Op.REPLACE, Op.DESTROY):
        yield from _points(v, op, gates("claim after"), "not begun")
        yield from _points(v, op, in_cloud(op)[2:3], "followed")
        yield from _points(v, op, gates("write.apply before"), "stored again")
        yield from _points(v, op, gates("outcome before"), "recorded")


def _alone() -> Iterator[Point]:
    """Nobody is asked, and the step that planned goes on with the apply: its parts are lost one by one all the same."""
    for v in (Victim.WORKER, Victim.TEMPORAL):
        yield from _points(v, Op.CREATE, gates("record before"), "planned again", also=ALONE)
        yield from _points(v, Op.CREATE, gates("record after", "claim before", "claim after"), "not begun", also=ALONE)
        yield from _points(v, Op.CREATE, gates("launch after", "create two after", "write.apply before"), "followed", also=ALONE)
        yield from _points(v, Op.CREATE, RECORDING, "recorded", also=ALONE)
    yield from _points(Victim.FRONT, Op.CREATE, gates("claim after"), "not begun", also=ALONE)
    yield from _points(Victim.STATE, Op.CREATE, gates("write.apply before"), "stored again", also=ALONE)
    yield from _points(Victim.TERRAFORM, Op.CREATE, gates("create two after"), "accounted for", also=ALONE)
    yield from _points(Victim.DATABASE, Op.CREATE, gates("claim after"), "not begun", also=ALONE)
    yield from _points(Victim.WORKER, Op.UPDATE, gates("record after"), "not begun", also=ALONE)
    yield from _points(Victim.WORKER, Op.UPDATE, gates("update two after"), "followed", also=ALONE)


def _again() -> Iterator[Point]:
    """Lost while what was lost is accounted for."""
    two = _b("create", "after", "two")
    for at in gates("remains before", "remains after", "job after", "lock.apply after", "conclude before", "conclude after"):
        yield Point(victim=Victim.WORKER, op=Op.CREATE, at=at, rule="accounted for", first=two)
    yield Point(victim=Victim.TEMPORAL, op=Op.CREATE, at=_b("conclude", "before"), rule="accounted for", first=two)
    yield Point(victim=Victim.TEMPORAL, op=Op.CREATE, at=_b("remains", "after"), rule="accounted for", first=two)
    yield Point(victim=Victim.STATE, op=Op.CREATE, at=_b("job", "after"), rule="accounted for", first=two)
    yield Point(victim=Victim.DATABASE, op=Op.CREATE, at=_b("job", "after"), rule="accounted for", first=two)
    yield Point(victim=Victim.FRONT, op=Op.CREATE, at=_b("job", "after"), rule="accounted for", first=two)
    yield Point(victim=Victim.TERRAFORM, op=Op.CREATE, at=_b("create", "before", "three"), rule="accounted for", first=two)


ALL: tuple[Point, ...] = (*_worker(), *_temporal(), *_front(), *_state(), *_terraform(), *_provider(), *_database(), *_alone(), *_again())
