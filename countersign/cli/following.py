"""Following a run from the terminal: what it does as it does it, and back as soon as it ended or somebody has to act.

A front that goes away meanwhile is waited for, because the run goes on without it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from countersign.cli.front import Answer, Front
from countersign.cli.output import safe
from countersign.core.errors import Unavailable
from countersign.core.run import ENDS, RunState

ABSENT = 60.0  # seconds a front may be away before we give up; `up` starts it again within a few
POLL = 20.0  # seconds of one long poll
AGAIN = 1.0  # seconds between two tries to reach a front that is away
WAITING = frozenset({RunState.AWAITING_APPROVAL, RunState.NEEDS_OPERATOR})
SHOWN = 6  # resources in the works, one line each


class Watcher(Protocol):
    """Is told every step of a run."""

    def seen(self, run: dict[str, Any], changes: list[dict[str, Any]]) -> None: ...

    def away(self) -> None: ...


class Silent:
    def seen(self, run: dict[str, Any], changes: list[dict[str, Any]]) -> None:
        pass

    def away(self) -> None:
        pass


class Narrator:
    """Shows a run: a moving bar on a terminal, a line per step elsewhere."""

    def __init__(self, out: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._begun = clock()
        self._first: datetime | None = None
        self._state = ""
        self._lines: list[str] = []
        self._spinner = Spinner("dots")
        self._run: dict[str, Any] = {}
        self._working: dict[str, float] = {}  # address → when it was first seen in the works
        self._live: Live | None = None

    def shown(self) -> AbstractContextManager[object]:
        """The block in which things move."""
        if not self._out.is_terminal:
            return nullcontext()
        self._live = Live(console=self._out, get_renderable=self._moving, refresh_per_second=10, transient=True)
        return self._live

    def seen(self, run: dict[str, Any], changes: list[dict[str, Any]]) -> None:
        self._run = run
        for change in changes:
            state, body, at = str(change.get("state", "")), change.get("body") or {}, self._elapsed(change.get("at"))
            if change.get("kind") == "state" and state != self._state:
                self._say(state, at)
            elif change.get("kind") == "warning":
                self._out.print(Text("  ALARM  ", style="bold white on red").append_text(safe(f" {body.get('message', '')}", "red")))
            elif change.get("kind") == "refused" and body.get("channel") == "claim":  # it waits, and somebody can do something about it
                self._out.print(Text("  ").append_text(safe(body.get("message", ""), "yellow")))
            elif change.get("kind") == "progress":
                self._in_the_works(str(body.get("current", "")), int(body.get("done", 0)), int(body.get("total", 0)), at)
        if (state := str(run.get("state", ""))) != self._state:
            self._say(state, self._elapsed(None))

    def away(self) -> None:
        self._out.print(Text("  the front does not answer; the run goes on, waiting for the front …", style="yellow"))

    def _elapsed(self, at: Any) -> float:
        """Seconds from the first change that is told to this one, by the ledger's own times where it tells them."""
        try:
            moment = datetime.fromisoformat(str(at))
        except ValueError:
            return self._clock() - self._begun
        self._first = self._first or moment
        return (moment - self._first).total_seconds()

    def _say(self, state: str, at: float) -> None:
        self._state = state
        line = Text().append(f"{at:6.2f} s  ", style="dim").append("● ", style=style_of(state))
        self._out.print(line.append_text(safe(state.replace("_", " "))))
        if state not in (RunState.APPLYING, RunState.VERIFYING):
            self._working.clear()

    def _in_the_works(self, current: str, done: int, total: int, at: float) -> None:
        now = self._clock()
        addresses = [a for a in current.split(", ") if a]
        self._working = {address: self._working.get(address, now) for address in addresses}
        if not self._out.is_terminal and (done or addresses):
            self._out.print(Text().append(f"{at:6.2f} s    {done} of {total} done  ", style="dim").append_text(safe(current)))

    def _moving(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        progress = self._run.get("progress") or {}
        done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
        label = safe(str(self._run.get("state", "")).replace("_", " "))
        bar: RenderableType = ProgressBar(total=total, completed=done, width=30) if total else Text("")
        grid.add_row(self._spinner, label, bar, Text(f"{done}/{total}" if total else "", style="dim"))
        now = self._clock()
        for address, since in list(self._working.items())[:SHOWN]:
            grid.add_row("", Text("  ↳", style="dim"), safe(address), Text(f"{now - since:.0f} s", style="dim"))
        return grid


def style_of(state: str) -> str:
    if state in (RunState.APPLIED, RunState.PLANNED_AND_FINISHED, RunState.APPROVED):
        return "green"
    if state in WAITING or state in (RunState.INTERRUPTED, RunState.RECONCILING, RunState.STALE):
        return "yellow"
    return "red" if state in ENDS else "cyan"


async def follow(
    front: Front, run_id: str, *, watcher: Watcher, through: bool = False, since: str = "0", longest: float | None = None
) -> Answer:
    """The answer of `run_wait` as soon as the run ended or waits for a person; with `through` only at its end.

    `since` is the cursor of the first change to tell ("0": all of them); `longest` the seconds after which it answers anyhow.
    """
    ends = time.monotonic() + longest if longest is not None else None
    cursor, gone = since, 0.0
    while True:
        left = POLL if ends is None else min(POLL, ends - time.monotonic())
        try:
            answer = await front.call("run_wait", run_id=run_id, until="change", **{"from": cursor}, timeout_seconds=max(left, 0.1))
        except Unavailable:
            gone = gone or time.monotonic()
            if time.monotonic() - gone > ABSENT:
                raise
            watcher.away()
            await asyncio.sleep(AGAIN)
            continue
        gone = 0.0
        run, data = answer.get("run") or {}, answer.get("data") or {}
        cursor = data.get("cursor", cursor)
        watcher.seen(run, data.get("changes") or [])
        state = run.get("state")
        if state in ENDS or (state in WAITING and not through) or (ends is not None and time.monotonic() >= ends):
            return answer
