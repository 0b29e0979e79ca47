"""Questions to what only a worker reaches, such as a cluster: asked by the front, answered within seconds, kept by nobody.

The front holds no credentials, and histories hold no values: question and reply travel sealed, and only fronts and workers open them.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, runtime_checkable

from countersign.core.engine import Reveal
from countersign.core.model import Payload
from countersign.core.step import Step

WORKFLOW = "Read"
WITHIN = timedelta(seconds=20)  # for all of it: somebody waits


class Question(Payload):
    id: str  # what question and reply are sealed for
    org: str
    engine: str
    sealed: str  # base64


class Reply(Payload):
    sealed: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question as an engine gets it."""

    id: str  # marks the processes of this work
    org: str
    env: str  # "org/env"; empty where no environment is meant
    subject: str  # what the engine calls it
    arguments: Mapping[str, object] = field(repr=False)
    reveal: Reveal
    asked_for: Callable[[str], Awaitable[Mapping[str, object] | None]]  # path of a stack → what its newest apply was asked for


@runtime_checkable
class Reader(Protocol):
    """An engine that answers questions. It changes nothing."""

    name: str

    async def read(self, asked: Asked) -> Mapping[str, object]:
        """JSON, redacted. Raises what a tool is to say."""
        ...


def read_queue(engine: str) -> str:
    """A queue of its own: whoever looks does not wait behind plans."""
    return f"countersign-{engine}-reads"


def read_step(engine: str) -> Step[Question, Reply]:
    """Changes nothing, so it may be tried again; whoever asked is gone soon."""
    return Step(name=f"{engine}.read", takes=Question, gives=Reply, queue=read_queue(engine), attempt_timeout=WITHIN, attempts=2)
