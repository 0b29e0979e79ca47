"""What an engine is: the contract every adapter that plans and applies fulfils.

The activities around it do turn, claim, artifacts, policy and records; an engine only knows its tool. Adding one touches
neither the run workflow nor approvals, policies or records.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from countersign.core.plan import Plan
from countersign.core.reconcile import Decision, Stop
from countersign.core.run import Mode, RunState


@dataclass(frozen=True, kw_only=True)
class Said:
    """A line of an apply's journal that is worth keeping, reduced to what was done to which object."""

    number: int  # of the line in the journal, from 1
    line: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What whoever follows an apply heard since it was asked last."""

    said: tuple[Said, ...] = field(default=(), repr=False)
    upto: int = 0  # lines of the journal read so far
    process: int | None = None  # the engine's, on its machine


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where an engine process is; goes into heartbeats and rows, so it carries no values."""

    done: int = 0
    total: int = 0
    current: str = ""  # addresses in the works, bounded
    over: bool = False  # the engine has ended, and what is told next is how
    alarms: tuple[str, ...] = ()  # what it does outside of what was approved, redacted; all there were so far
    hear: Callable[[], Heard] | None = field(default=None, compare=False, repr=False)  # of an apply: what goes into the store


Beat = Callable[[Progress], Awaitable[None]]


class Wish(IntEnum):
    """What people want of an apply that runs."""

    GO_ON = 0
    STOP = 1  # one interrupt: it stores its state, frees its lock, and tells what it did
    KILL = 2  # by force, after it was asked to stop


Wanted = Callable[[], Wish | bool]


@dataclass(frozen=True, kw_only=True)
class Release:
    """A Helm release: where it lives in its environment's cluster, and what it is called there."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The registered stack, as the store has it."""

    org: str
    stack_id: str
    path: str  # "org/env/slug"
    env: str  # "org/env"
    source_repo: str | None  # None: the configured folder of stacks
    source_path: str  # a name below it
    git_ref: str | None
    engine: str  # "terraform" | "tofu" | "helm"
    version: str | None = None  # of the engine, as `core.terraform.versions` reads it; None is whatever there is
    vars: Mapping[str, object] = field(default_factory=dict)  # JSON values; {"secret": slug} names a sealed one
    plan_credential: str | None = None  # slug of a secret whose JSON object becomes environment of the plan's child
    apply_credential: str | None = None
    reads: tuple[str, ...] = ()  # stacks whose outputs its plans get: ids, or paths
    release: Release | None = None  # Helm's: it has no source and no state of ours
    adopted: bool = False  # its state was taken over from where its configuration says, or there was none
    released: bool = False  # its state was given back: nothing is planned against the one that is here
    own: bool = False  # its state stays in the backend that its configuration declares; what is here is what runs saw of it


@dataclass(frozen=True, kw_only=True)
class Read:
    """Another stack's outputs, as they are."""

    stack_id: str
    path: str
    lineage: str | None
    serial: int
    outputs: Mapping[str, Mapping[str, object]] = field(repr=False)  # name → {value, sensitive}


@dataclass(frozen=True, kw_only=True)
class StateAccess:
    """How the engine's process reaches our state API in one attempt. Worthless afterwards."""

    address: str  # http://127.0.0.1:8701/v1/state/<org>/<stack id>
    username: str
    password: str
    lineage: str | None  # what the head was when access was given
    serial: int


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A state that another keeps, as it was there."""

    backend: str
    data: bytes | None = field(repr=False)  # None where nothing is there


Reveal = Callable[[str], Awaitable[str]]  # slug of a sealed secret → its value; inside an attempt only


@dataclass(frozen=True, kw_only=True)
class PlanJob:
    run_id: str
    plan_number: int
    attempt_id: str  # marks the processes of this attempt (COUNTERSIGN_ATTEMPT)
    stack: StackConfig
    mode: Mode
    destroy: bool = False  # plan the destruction of everything: always in Mode.DESTROY, on request in Mode.SPECULATIVE
    type: str = ""  # of the run
    request: Mapping[str, object] = field(
        default_factory=dict
    )  # what was asked for, as it was taken: what an engine of its own words needs
    vars: Mapping[str, object]  # the request's, over those of the stack
    targets: tuple[str, ...]  # speculative only
    imports: Mapping[str, str] = field(default_factory=dict)  # address → id of an object that exists, to be taken into the state
    restore: bytes | None = field(default=None, repr=False)  # an earlier state, to be the newest one again; the source counts for nothing
    commit: str | None
    reads: tuple[Read, ...] = ()
    applied_commit: str | None = None  # of the newest apply of this stack from the same repository
    state: StateAccess
    reveal: Reveal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A diagnostic: what a broken configuration gets back."""

    severity: str  # "error" | "warning"
    summary: str
    detail: str = ""
    file: str | None = None
    line: int | None = None
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What planning gave. Bytes are plaintext here and sealed by the caller before anything else happens to them."""

    plan: Plan
    plan_sha256: str  # of the saved plan
    bundle: bytes  # saved plan, configuration, lock file: what apply rebuilds its clean work directory from
    plan_json: bytes
    view: bytes  # JSON for people: every change with attributes before and after, redacted
    semantic_document: bytes
    inputs: Mapping[str, object]  # commit, tree, lock file, variables as keyed hashes: canonical JSON
    log: str  # redacted
    warnings: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()  # validate: what is wrong, if anything
    account: str | None = None
    lineage: str | None = None
    serial: int = 0
    seen: Seen | None = field(default=None, repr=False)  # the state it was made of, where another keeps that
    adoptable: bool = False  # a speculative plan of the whole stack: a run that applies may take it as its own
    expires_at: datetime | None = None  # of a plan that was made before and adopted: it may not live longer than it would have


@dataclass(frozen=True, kw_only=True)
class ApplyJob:
    attempt_id: str
    epoch: int
    run_id: str
    stack: StackConfig
    mode: Mode
    bundle: bytes  # unsealed, its hash already compared
    expected: int  # changes approved, for progress
    state: StateAccess
    reveal: Reveal


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended, on evidence. `state` is one of verifying (done, to be recorded applied), partially_applied,
    stale, errored (before any change), canceled (before any change), interrupted (nobody knows)."""

    state: RunState
    code: str | None = None
    message: str = ""
    done: int = 0
    total: int = 0
    outputs: Mapping[str, object] = field(default_factory=dict)  # {name: {"value": …, "type": …} or {"sensitive": true}}
    resources: tuple[Mapping[str, object], ...] = ()  # {address, action, id?, ok}; bounded by the caller
    log: str = ""  # redacted
    journal: bytes = b""  # redacted NDJSON
    evidence: tuple[str, ...] = ()  # lines a person reads: exit code, whole journal, lock free, …
    own: bool = False  # its state stays in a backend of its own, where what it came to is to be looked up


@dataclass(frozen=True, kw_only=True)
class Remains:
    """What a lost attempt left on its machine, after everything of it was ended."""

    survivors: int = 0  # processes that still live, or of which nobody can tell
    testimony: bytes = b""  # what it did, object by object: addresses, operations and ids, nothing it printed
    whole: bool = False  # read to its end after every process was gone, on the boot it began
    state: bytes | None = field(default=None, repr=False)  # a state it could not store
    last_word: datetime | None = None  # when it last said something


@dataclass(frozen=True, kw_only=True)
class Left:
    """An attempt's folder that lies on this machine, for whoever has lost the rows it belongs to."""

    attempt_id: str
    run_id: str
    path: str  # of the stack; empty where the folder does not say
    errored_state: str | None = None  # file with a state it could not store
    made: tuple[str, ...] = ()  # "address (id …)" of what its journal says it created; bounded


@dataclass(frozen=True, kw_only=True)
class Told:
    """One object as people are told of it: address and id without what is secret."""

    address: str
    action: str
    id: str | None = None
    ok: bool | None = None  # None: begun, and not known to be ended

    @property
    def line(self) -> str:
        """In words, for an operator."""
        done = {"create": "created", "update": "updated", "delete": "destroyed"}
        if self.ok is None:
            return f"{self.address}: its {self.action} was begun, and may be done or not"
        if not self.ok:
            return f"{self.address}: its {self.action} failed, and may be done in part"
        return f"{self.address}: {done[self.action]}" + (f", id {self.id}" if self.id else "")

    @property
    def row(self) -> dict[str, object]:
        """As the result of an apply has it."""
        return {"address": self.address, "action": self.action, **({"id": self.id} if self.id else {}), "ok": self.ok}


@dataclass(frozen=True, kw_only=True)
class Witness:
    """One lost attempt of a run, for whoever reconciles."""

    attempt_id: str
    testimony: bytes
    whole: bool
    plan_json: bytes = field(repr=False)  # of the plan it applied
    known: bytes = b"{}"  # what reconciling knew when it made that plan; as `Reconciled.known`
    exists: Mapping[str, str] = field(default_factory=dict)  # address → id, as an operator found it in the cloud afterwards
    missing: frozenset[str] = frozenset()  # addresses of which an operator found nothing


@dataclass(frozen=True, kw_only=True)
class ReconcileJob:
    run_id: str
    plan_number: int  # of the plan to be made
    attempt_id: str  # marks the processes of this work
    stack: StackConfig
    mode: Mode
    approved: bytes = field(repr=False)  # the bundle of the plan people agreed to
    approved_json: bytes = field(repr=False)
    witnesses: tuple[Witness, ...]  # oldest first; the last is the attempt that is open
    left_over_state: bytes | None = field(repr=False)
    state: StateAccess  # may write: the attempt before is fenced
    age: timedelta  # since the attempt ended
    crashes: int  # lost attempts of this run
    approval_live: bool
    here: bool = True  # the attempt was one of this machine
    stops: tuple[Stop, ...] = ()  # what only an operator can clear, found before the engine was asked
    canceled: bool = False  # somebody wants no more: where something is left, only record what was done (Next.STOP)
    reveal: Reveal


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    decision: Decision
    planned: Planned | None = None  # what is left; None where it could not be planned
    known: bytes = b"{}"  # JSON the engine wants back as `Witness.known`, should the next attempt be lost too
    log: str = ""  # redacted


class Engine(Protocol):
    name: str

    async def plan(self, job: PlanJob, beat: Beat) -> Planned:
        """Make a saved plan. Raises ProviderError with findings where the configuration or the plan fails."""
        ...

    async def moved(self, job: PlanJob, inputs: Mapping[str, object], beat: Beat) -> str | None:
        """Why a plan made of `inputs` is no plan of what `job` names today, or None: asked before such a plan is adopted."""
        ...

    async def launch(self, job: ApplyJob) -> None:
        """Start the detached process that changes the world, once per attempt id; returns when it runs."""
        ...

    async def follow(self, attempt_id: str, beat: Beat, *, stop: Wanted) -> Outcome:
        """Watch an attempt to its end, whoever launched it. `stop()` true: interrupt it once, wait, tell the partial result;
        KILL: end it with everything it started."""
        ...

    async def forget(self, attempt_id: str) -> None:
        """Remove what the attempt left on this machine, after its outcome was recorded."""
        ...

    def where(self, attempt_id: str) -> Path:
        """The attempt's folder on this machine."""
        ...


@runtime_checkable
class Accountable(Protocol):
    def told(self, testimony: bytes) -> Sequence[Told]:
        """What a testimony says, for people."""
        ...


@runtime_checkable
class Keeper(Protocol):
    """An engine that can work on a state which the configuration's own backend keeps."""

    async def seen(self, job: PlanJob, bundle: bytes, beat: Beat) -> Seen:
        """The state as it is now in the backend that the planned configuration in `bundle` declares. Reads only."""
        ...


@runtime_checkable
class Tidy(Protocol):
    """An engine whose plans lie in folders that outlive a worker which is killed."""

    async def tidy(self) -> None:
        """Remove what such a worker left, as soon as nobody uses it. Called once, beside whatever is asked for meanwhile."""
        ...


class Reconciler(Accountable, Engine, Protocol):
    """An engine that can account for a lost apply. Without it an interrupted run waits for an operator."""

    def joined(self, shipped: bytes, found: bytes) -> bytes:
        """One testimony of what left the machine while the apply ran, and of what was found there afterwards."""
        ...

    async def end(self, attempt_id: str, *, same_boot: bool) -> Remains:
        """End whatever is left of an attempt that is fenced, and tell what it left. May be called again."""
        ...

    async def reconcile(self, job: ReconcileJob, beat: Beat) -> Reconciled:
        """Learn what lost attempts did, plan what is left, and prove that it is a part of what was approved. May be called again."""
        ...
