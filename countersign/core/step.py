"""Steps: what workflows ask for and activities do, typed, with timeouts and retries in one place.

Workflows and activities do not know each other; both know steps. A step belongs to an engine (`terraform.plan`) or to the
run itself (`run.decide`).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from countersign.core.model import Payload

Takes = TypeVar("Takes", bound=Payload)
Gives = TypeVar("Gives", bound=Payload)

# What is of no engine: the runs' own steps, questions, schedules, runs that are made of runs.
RUNS_QUEUE = "countersign"


def engine_queue(engine: str) -> str:
    """Where an engine's runs live and its processes are started: its workers say how many of these at once.

    Both on one queue, for then Temporal hands a step to the worker that asked for it in its answer, and saves three hops of its own.
    Deciding waits behind no process: it is done in place, and moving a run is of `RUNS_QUEUE`.
    """
    return f"countersign-{engine}"


def host_queue(host: str) -> str:
    """The queue of one machine: what only the machine of an attempt can do."""
    return f"countersign-host-{host}"


@dataclass(frozen=True, kw_only=True)
class Step(Generic[Takes, Gives]):
    name: str
    takes: type[Takes]
    gives: type[Gives]
    attempt_timeout: timedelta
    attempts: int = 0  # 0: until it succeeds; 1: tried once
    heartbeat_timeout: timedelta | None = None
    queue: str = RUNS_QUEUE
    on_host: bool = False  # runs on the queue of the machine that holds the attempt
    schedule_to_start: timedelta | None = None  # how long to wait for that machine
    in_place: bool = False  # short and idempotent, on rows alone: done within the workflow's own task, which saves two of its hops

    def implemented_by(self, function: Callable[[Any, Takes], Awaitable[Gives]]) -> Callable[[Any, Takes], Awaitable[Gives]]:
        """Mark the method that does this step; the worker registers it under the step's name."""
        function.__step__ = self  # type: ignore[attr-defined]  # a function has no such attribute until here
        return function
