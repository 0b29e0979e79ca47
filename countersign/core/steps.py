"""The steps a run is made of, and what they say to each other.

History carries only these: references, digests and short texts. An engine has a plan, an apply and a follow step with the
same shapes whatever it changes, which is why the run workflow knows no engine.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from countersign.core.approval import ApproveInput, Channel, RejectInput
from countersign.core.model import Payload
from countersign.core.run import COMPOSITE, RunState
from countersign.core.step import RUNS_QUEUE, Step, engine_queue


class RunInput(Payload):
    """What a run workflow starts with; everything else is read from the store by the steps."""

    org: str
    run_id: str
    engine: str


class RunRef(Payload):
    org: str
    run_id: str


class Standing(Payload):
    """Where the run stands after a step: the workflow branches on `state` alone.

    `details` is Markdown for the Temporal UI; the other fields serve its search attributes and timers.
    """

    state: RunState
    plan_digest: str | None = None
    change_class: str | None = None
    details: str = ""
    expires_at: datetime | None = None
    attempt_id: str | None = None
    host: str | None = None  # of the open attempt, where there is one
    code: str | None = None  # of the failure or refusal
    message: str = ""


class ApplyInput(Payload):
    org: str
    run_id: str
    plan_digest: str


class FollowInput(Payload):
    org: str
    run_id: str
    attempt_id: str
    stop: bool = False  # somebody wished to cancel before this began


class DecideInput(Payload):
    """One decision as it arrived. Without a signature it comes from the Temporal UI (or from anyone who can reach it)."""

    org: str
    run_id: str
    approve: ApproveInput | None = None
    reject: RejectInput | None = None
    nonce: str  # of the handler that took it: a retried step finds its own verdict
    via: str = "update"  # or "signal"


class Decided(Payload):
    """What became of one decision. A refused one changes nothing."""

    accepted: bool
    standing: Standing
    channel: Channel = Channel.FRONT
    by: str = ""
    code: str | None = None
    message: str = ""


class EndReason(StrEnum):
    EXPIRED = "expired"
    CANCELED = "canceled"
    LOST = "lost"  # the attempt's machine does not answer, or its process is gone without a word
    FAILED = "failed"  # a step gave up before any change
    RESUME = "resume"  # somebody asks to look again


class EndInput(Payload):
    """Ask the ledger to move the run for a reason that is no plan, decision or apply."""

    org: str
    run_id: str
    reason: EndReason
    by: str | None = None  # who asked, where somebody did
    message: str = ""


def pause_before_look(number: int) -> timedelta:
    """How long whoever waits for what may pass (a turn, a freeze, a backend that is away) leaves before look `number`, from 0.

    Soon at first. Later there is time: each look is some twenty events, and a history that has 51,200 of them is ended by Temporal.
    """
    return timedelta(seconds=15) if number < _SOON else timedelta(minutes=2)


_SOON = 40  # looks: ten minutes
_BEAT = timedelta(seconds=5)
_SHORT = timedelta(seconds=30)
LED = timedelta(days=7)  # one try to lead a composite to its end: it waits for turns and for operators, and the next try goes on

# A person waits for it, and a repeated one finds its own verdict by its nonce.
DECIDE = Step(name="run.decide", takes=DecideInput, gives=Decided, attempt_timeout=_SHORT, in_place=True)
# Idempotent by the transition table: a run that moved already answers where it stands.
MOVE = Step(name="run.move", takes=EndInput, gives=Standing, attempt_timeout=_SHORT)
# Ending by force an apply that was asked to stop: recorded if it may be, and carried out by whoever follows the apply.
FORCE = Step(name="run.force", takes=EndInput, gives=Decided, attempt_timeout=_SHORT)
# A worker that is frozen swallows what waits on a queue, and after a loss this is what comes first.
STAND = Step(name="run.stand", takes=RunRef, gives=Standing, attempt_timeout=_SHORT, in_place=True)


class DriftInput(Payload):
    """A stack whose time it is to be looked at."""

    org: str
    stack_id: str


class DriftBegun(Payload):
    run_id: str | None = None
    skipped: str | None = None  # why there is none


# Begins a run of its own, found again by the key it is asked with, so it may be tried again.
BEGIN_DRIFT = Step(name="drift.begin", takes=DriftInput, gives=DriftBegun, attempt_timeout=_SHORT)


@dataclass(frozen=True, kw_only=True)
class EngineSteps:
    plan: Step[RunRef, Standing]
    apply: Step[ApplyInput, Standing]
    follow: Step[FollowInput, Standing]
    reconcile: Step[FollowInput, Standing] | None = None  # without it an interrupted run needs an operator
    home: str = RUNS_QUEUE  # the queue of its runs' workflows


def engine_steps(
    name: str,
    *,
    plan: timedelta = timedelta(hours=1),
    apply: timedelta = timedelta(hours=4),
    away: timedelta = timedelta(minutes=2),
    reconciles: bool = False,
) -> EngineSteps:
    """The steps of the engine `name`; `plan` and `apply` are the longest one attempt may take, `away` is how long an attempt's
    machine may be away before an operator is asked."""
    queue = engine_queue(name)
    # Each part of it may be repeated, and only the attempt's own machine has its evidence.
    reconcile: Step[FollowInput, Standing] = Step(
        name=f"{name}.reconcile",
        takes=FollowInput,
        gives=Standing,
        queue=queue,  # where somebody said that its machine is gone for good
        attempt_timeout=apply,
        heartbeat_timeout=_BEAT,
        on_host=True,
        schedule_to_start=away,
    )
    return EngineSteps(
        # Reads the world and writes rows; what it did is found again by run and plan number, so it may be tried again.
        plan=Step(name=f"{name}.plan", takes=RunRef, gives=Standing, queue=queue, attempt_timeout=plan, heartbeat_timeout=_BEAT),
        # Tried once: it claims the plan and launches what changes the world. What is lost is followed, never tried again.
        apply=Step(
            name=f"{name}.apply", takes=ApplyInput, gives=Standing, queue=queue, attempt_timeout=apply, heartbeat_timeout=_BEAT, attempts=1
        ),
        # Only watches, so it may be tried for as long as the attempt is open, on the attempt's own machine.
        follow=Step(
            name=f"{name}.follow",
            takes=FollowInput,
            gives=Standing,
            attempt_timeout=apply,
            heartbeat_timeout=_BEAT,
            on_host=True,
            schedule_to_start=away,
        ),
        reconcile=reconcile if reconciles else None,
        home=queue,
    )


def composite_steps() -> EngineSteps:
    """Of runs that are made of runs: they only watch others and move rows. Any machine may do that, and many at once, for long."""
    steps = engine_steps(COMPOSITE, plan=LED, apply=LED)
    return replace(steps, follow=replace(steps.follow, queue=engine_queue(COMPOSITE), schedule_to_start=None), home=RUNS_QUEUE)


ENGINES: dict[str, EngineSteps] = {
    "terraform": engine_steps("terraform", reconciles=True),
    "helm": engine_steps("helm", reconciles=True),
    COMPOSITE: composite_steps(),
}


def home_of(engine: str) -> str:
    """The queue a run of that engine lives on; of one that only a newer worker knows, the one that all of them serve."""
    return ENGINES[engine].home if engine in ENGINES else RUNS_QUEUE
