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

# One shared queue: an activity on the workflow's own queue is dispatched eagerly, which saves a hop.
RUNS_QUEUE = "countersign"


def engine_queue(engine: str) -> str:
    """Where an engine's own processes are started: its workers say how many at once, so deciding never waits behind them."""
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
