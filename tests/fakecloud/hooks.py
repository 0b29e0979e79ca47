"""What holds the fake cloud up: before or after a change of the world it waits, fails, or never answers.

A hook that blocks makes "in flight" an input of a test: the test waits until it is reached, kills whom it likes, and then
says what becomes of the request: it goes on (a cloud finishes what it has begun, whoever is gone), or it is dropped (the
request was lost on its way).
"""

import threading
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

PATIENCE = 300.0  # seconds a request is held at most: no test waits for ever


@dataclass(kw_only=True)
class Hook:
    op: str = "*"  # create, update, delete, read, lookup, or what a gate is called
    type: str = "*"
    name: str = "*"
    project: str = "*"
    when: Literal["before", "after"] = "before"  # of the change, which is recorded in between
    do: Literal["block", "fail", "delay", "drop"] = "block"
    status: int = 500  # of "fail"
    seconds: float = 0.0  # of "delay"
    times: int = 1  # requests it holds up; -1: all of them
    id: int = 0
    reached: int = 0
    waiting: int = 0
    released: str | None = None  # "go" | "drop"
    changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def fits(self, op: str, when: str, type: str, name: str, project: str) -> bool:
        globs = ((op, self.op), (type, self.type), (name, self.name), (project, self.project))
        return self.when == when and self.times != 0 and all(fnmatchcase(value, glob) for value, glob in globs)

    def told(self) -> dict[str, Any]:
        return {"id": self.id, "reached": self.reached, "waiting": self.waiting, "released": self.released}


class Dropped(Exception):
    """The connection is closed without an answer."""


class Failed(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"the fake cloud was told to fail with {status}")
        self.status = status


class Hooks:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: dict[int, Hook] = {}
        self._last = 0

    def add(self, hook: Hook) -> Hook:
        with self._lock:
            self._last += 1
            hook.id = self._last
            self._all[hook.id] = hook
        return hook

    def get(self, id: int) -> Hook:
        return self._all[id]

    def clear(self) -> None:
        """Remove all; what they hold is let go."""
        with self._lock:
            gone, self._all = list(self._all.values()), {}
        for hook in gone:
            self.release(hook, "go")

    def release(self, hook: Hook, then: str) -> None:
        """Let go what it holds; it holds nothing any more."""
        with hook.changed:
            hook.released, hook.times = then, 0
            hook.changed.notify_all()

    def await_reached(self, hook: Hook, seconds: float) -> dict[str, Any]:
        """What is known of it as soon as a request has reached it, or after `seconds`."""
        with hook.changed:
            hook.changed.wait_for(lambda: hook.reached > 0, min(seconds, PATIENCE))
            return hook.told()

    def pass_by(self, op: str, when: str, type: str, name: str, project: str = "") -> None:
        """Be held up by every hook that fits. Raises Dropped or Failed."""
        for hook in list(self._all.values()):
            with hook.changed:
                if not hook.fits(op, when, type, name, project):
                    continue
                hook.times -= 1
                hook.reached += 1
                hook.changed.notify_all()
                if hook.do == "block":
                    hook.waiting += 1
                    hook.changed.wait_for(lambda hook=hook: hook.released is not None, PATIENCE)
                    hook.waiting -= 1
            if hook.do == "drop" or hook.released == "drop":
                raise Dropped
            if hook.do == "fail":
                raise Failed(hook.status)
            if hook.do == "delay":
                time.sleep(hook.seconds)
