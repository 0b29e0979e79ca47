"""What a run said, in steps: the log of each plan and each apply, and its ledger, which is there while it still goes on.

An answer is a bounded piece of one step with a cursor to go on from; without a cursor it is the end of the step that failed,
or of the last one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store.database import stamp
from countersign.adapters.store.plans import attempts_of
from countersign.adapters.store.runs import Event, RunRow, members_of, run_events
from countersign.core.errors import InvalidArgument
from countersign.core.run import RunState
from mcp_front import lookup
from mcp_front.call import Call
from mcp_front.documents import Document, content, documents_of
from mcp_front.envelope import clean, untrusted

LEDGER = "ledger"
EVENTS = 20_000  # of the ledger, so that its end is the newest even of an apply of hours
CHARACTERS = 36_000  # of one answer
LINE = 2000  # characters of one line
_FAILED = frozenset({RunState.ERRORED, RunState.PARTIALLY_APPLIED, RunState.INTERRUPTED, RunState.NEEDS_OPERATOR})
_RANK = {"error": 0, "warning": 1, "info": 2}
_MARKS = {"error": "error", "warn": "warning", "warning": "warning"}


@dataclass(frozen=True, kw_only=True)
class Step:
    name: str  # "plan-1", "apply-1", "journal-1", "ledger"; of a step of a composite "2/plan-1"
    failed: bool
    document: Document | None  # None: the ledger, or what a failed plan left in it
    run: RunRow  # whose it is


@dataclass(frozen=True, kw_only=True)
class Asked:
    step: str | None
    level: str | None
    cursor: str | None  # "plan-1:120"
    lines: int


async def log_data(call: Call, conn: AsyncConnection, run: RunRow, asked: Asked) -> dict[str, Any]:
    """The answer about one piece of one step. Raises InvalidArgument for a step or cursor that is none of this run's."""
    steps = await _steps(call, conn, run)
    step, begin = _chosen(run, steps, asked)
    text = await _text(call, conn, step)
    first, end, shown = _piece(text, begin=begin, lines=asked.lines, level=asked.level)
    return {
        "step": step.name,
        "failed": step.failed,
        "steps": [{"step": s.name, "failed": s.failed, **({"size": s.document.size} if s.document else {})} for s in steps],
        "from": first,
        "lines": len(shown),
        "total_lines": len(text),
        "cursor": f"{step.name}:{end}",
        "more": end < len(text),
        "content": untrusted("\n".join(shown), f"{step.name} of {run.id}", limit=2 * CHARACTERS),
    }


async def _steps(call: Call, conn: AsyncConnection, run: RunRow) -> list[Step]:
    """What failed first, then in order of time; the ledger last. Of a composite those of its steps too."""
    found = await _own_steps(call, conn, run)
    for member in await members_of(conn, run):
        found += [replace(step, name=f"{member.step}/{step.name}") for step in await _own_steps(call, conn, member)]
    return sorted(found, key=lambda step: not step.failed)


async def _own_steps(call: Call, conn: AsyncConnection, run: RunRow) -> list[Step]:
    attempts = [attempt.id for attempt in await attempts_of(conn, run.org, run.id)]
    failed = run.state in _FAILED
    found: list[Step] = []
    for document in await documents_of(call, conn, run):
        of = document.name.removeprefix(f"{document.kind}-")
        number = str(attempts.index(of) + 1) if of in attempts else of
        name = {"log": f"plan-{number}", "apply_log": f"apply-{number}", "journal": f"journal-{number}"}.get(document.kind)
        if name is not None and document.size:
            last = document.kind == "apply_log" and of == (attempts or [""])[-1]
            found.append(Step(name=name, failed=failed and last, document=document, run=run))
    if run.state is RunState.ERRORED and not attempts and run.code != "policy_denied":
        found.append(Step(name=f"plan-{run.plan_number + 1}", failed=True, document=None, run=run))
    found.append(Step(name=LEDGER, failed=False, document=None, run=run))
    return found


def _chosen(run: RunRow, steps: Sequence[Step], asked: Asked) -> tuple[Step, int | None]:
    """The step, and the line to go on from; None for the end of it."""
    begin: int | None = None
    name = asked.step
    if asked.cursor is not None:
        at, _, line = asked.cursor.rpartition(":")
        if not at or not line.isdecimal() or (name is not None and name != at):
            raise InvalidArgument("this cursor is not of that step; leave it out to read the end of the step", field="from")
        name, begin = at, int(line)
    by_name = {step.name: step for step in steps}
    if name is None:
        logs = [step for step in steps if step.name.rpartition("/")[2].startswith(("plan", "apply"))]
        return (steps[0] if steps[0].failed else logs[-1] if logs and run.ended else by_name[LEDGER]), begin
    if name not in by_name:
        raise InvalidArgument(f"no step {name[:60]!r} in this run{lookup.nearest(name, by_name)}", field="step")
    return by_name[name], begin


async def _text(call: Call, conn: AsyncConnection, step: Step) -> list[str]:
    if step.document is not None:
        return (await content(call, conn, step.document)).decode(errors="replace").splitlines()
    events = await run_events(conn, step.run.org, step.run.id, limit=EVENTS)
    if step.name.rpartition("/")[2] == LEDGER:
        return [_event_line(e) for e in events]
    failure = next((e.body for e in reversed(events) if e.state is RunState.ERRORED), {})
    return list(_finding_lines(failure)) or [str(failure.get("message", ""))]


def _event_line(event: Event) -> str:
    """One event on one line. Which events there are is the ledger's business, so their bodies are told as they are."""
    said = " ".join(f"{name}={clean(value)}" for name, value in event.body.items() if value not in (None, "", [], {}))
    return f"{stamp(event.at)} {event.state} {event.kind} {said}".rstrip()


def _finding_lines(failure: Mapping[str, Any]) -> Iterable[str]:
    for finding in failure.get("findings") or ():
        where = f" ({finding['file']} line {finding['line']})" if finding.get("file") and finding.get("line") else ""
        yield f"{str(finding.get('severity', 'error')).capitalize()}: {finding.get('summary', '')}{where}"
        yield from (f"  {line}" for line in str(finding.get("detail") or "").splitlines())


def _piece(text: Sequence[str], *, begin: int | None, lines: int, level: str | None) -> tuple[int, int, list[str]]:
    """(first line, line to go on from, the lines): forward from `begin`, or the end of the text."""
    wanted = [(n, line) for n, line in enumerate(text) if level is None or _RANK[_level(line)] <= _RANK[level]]
    chosen = [(n, line) for n, line in wanted if n >= begin][:lines] if begin is not None else wanted[-lines:]
    shown: list[tuple[int, str]] = []
    room = CHARACTERS
    for n, line in chosen if begin is not None else reversed(chosen):
        short = line if len(line) <= LINE else f"{line[:LINE]}… ({len(line)} characters)"
        room -= len(short) + 1
        if room < 0:
            break
        shown.append((n, short))
    if begin is None:
        shown.reverse()
    if not shown:
        return begin or 0, len(text), []
    reached_the_end = begin is None or len(shown) == len(chosen) < lines
    return shown[0][0], len(text) if reached_the_end else shown[-1][0] + 1, [line for _, line in shown]


def _level(line: str) -> str:
    """Of a line of the journal by its mark, of a message by how it begins."""
    if line.startswith("{"):
        try:
            return _MARKS.get(str(json.loads(line).get("@level")), "info")
        except (ValueError, AttributeError):
            return "info"
    word = line.lstrip("│╷╵ ").partition(":")[0].lower()
    return _MARKS.get(word, "info")
