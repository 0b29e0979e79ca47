"""Folding the engine's event stream: progress while it runs, and afterwards what it did and how it ended.

The journal is the only witness of what a killed apply did. "Nothing was changed" may be concluded from it only if it was
read to its end, so whoever feeds it says whether that is so.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from pydantic_core import from_json

from countersign.core.engine import Finding, Progress
from countersign.core.redaction import Redactor, clean_line
from countersign.core.run import RunState
from countersign.core.terraform.guard import HARMLESS, Guard

CURRENT = 5  # addresses in the works that a progress names
# The engine may have changed the world and could not record it, or still holds the lock.
_NOT_STORED = (
    "failed to save state",
    "failed to persist state",
    "error saving state",
    "failed to write state",
    "error uploading state",
    "releasing the state lock",
)


@dataclass
class Journal:
    """What the lines fed so far say. Feed each line once, in order; lines that are no JSON are kept as text."""

    version: str | None = None
    started: dict[str, str] = field(default_factory=dict)  # address → action in the works
    results: list[dict[str, object]] = field(default_factory=list)  # {address, action, id, ok}
    touched: bool = False  # something that changes the world was started
    findings: list[Finding] = field(default_factory=list)
    summary: Mapping[str, int] | None = None  # of the operation: add, change, remove, import
    operation: str | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    planned: int = 0
    refreshed: int = 0
    text: list[str] = field(default_factory=list)  # messages as people read them
    guard: Guard | None = None  # where it is known what was approved
    _done: set[str] = field(default_factory=set)
    _highest: int = 0

    def feed(self, line: bytes) -> Mapping[str, Any] | None:
        """The event on the line, or None where it is none."""
        try:
            event = _event(line)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self.text.append(line.decode(errors="replace"))
            return None
        if message := event.get("@message"):
            self.text.append(str(message))
        handler = _HANDLERS.get(str(event.get("type", "")))
        if handler is not None:
            try:
                handler(self, event)
            except (AttributeError, TypeError):
                # Not as any engine writes it. Nobody may conclude from it that nothing was done.
                self.touched = True
        return event

    def progress(self, total: int) -> Progress:
        """`total` is what was approved; done never goes back, though a replace is two operations on one address."""
        self._highest = max(self._highest, len(self._done - set(self.started)))
        now = [clean_line(address) for address in self.started]
        named = ", ".join(now[:CURRENT]) + (f" and {len(now) - CURRENT} more" if len(now) > CURRENT else "")
        return Progress(done=min(self._highest, total) if total else self._highest, total=total, current=named[:400])

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "error"]

    # One method for each kind of event.

    def _version(self, event: Mapping[str, Any]) -> None:
        self.version = str(event.get("terraform") or event.get("tofu") or "") or None

    def _start(self, event: Mapping[str, Any]) -> None:
        address, action = _subject(event)
        self.started[address] = action
        if self.guard is not None:
            self.guard.begun(address, action)
        self.touched = self.touched or action not in HARMLESS

    def _end(self, event: Mapping[str, Any], *, ok: bool) -> None:
        address, action = _subject(event)
        self.started.pop(address, None)
        if action in HARMLESS:
            return
        self._done.add(address)
        hook = event.get("hook") or {}
        result: dict[str, object] = {"address": address, "action": action, "ok": ok}
        if ok and hook.get("id_key") == "id" and hook.get("id_value"):
            result["id"] = str(hook["id_value"])
        self.results.append(result)

    def _complete(self, event: Mapping[str, Any]) -> None:
        self._end(event, ok=True)

    def _errored(self, event: Mapping[str, Any]) -> None:
        self._end(event, ok=False)

    def _provision(self, event: Mapping[str, Any]) -> None:
        self.touched = True

    def _diagnostic(self, event: Mapping[str, Any]) -> None:
        self.findings.append(finding_of(event.get("diagnostic") or {}))

    def _summary(self, event: Mapping[str, Any]) -> None:
        counted = event.get("changes") or {}
        self.operation = str(counted.get("operation", ""))
        self.summary = {k: v for k, v in counted.items() if isinstance(v, int)}

    def _outputs(self, event: Mapping[str, Any]) -> None:
        self.outputs = event.get("outputs") or {}

    def _planned(self, event: Mapping[str, Any]) -> None:
        self.planned += 1

    def _refreshed(self, event: Mapping[str, Any]) -> None:
        self.refreshed += 1


_HANDLERS = {
    "version": Journal._version,
    "apply_start": Journal._start,
    "apply_complete": Journal._complete,
    "apply_errored": Journal._errored,
    "action_start": Journal._start,
    "action_complete": Journal._complete,
    "action_errored": Journal._errored,
    "provision_start": Journal._provision,
    "diagnostic": Journal._diagnostic,
    "change_summary": Journal._summary,
    "outputs": Journal._outputs,
    "planned_change": Journal._planned,
    "refresh_complete": Journal._refreshed,
}


def _subject(event: Mapping[str, Any]) -> tuple[str, str]:
    """Address and action. Where an action of the configuration is invoked, `action` is what names it."""
    hook = event.get("hook") or {}
    action = hook.get("action", "action")
    if isinstance(action, Mapping):
        return str(action.get("addr") or "?"), "invoke"
    return str((hook.get("resource") or {}).get("addr") or "?"), str(action)


def finding_of(diagnostic: Mapping[str, Any]) -> Finding:
    """A diagnostic of the engine; `line` counts from 1. The text is the engine's: redact it before it is shown."""
    where = diagnostic.get("range") or {}
    start = where.get("start") or {}
    return Finding(
        severity=str(diagnostic.get("severity", "error")),
        summary=str(diagnostic.get("summary", "")),
        detail=str(diagnostic.get("detail", "")),
        file=where.get("filename") or None,
        line=int(start["line"]) if isinstance(start.get("line"), int) else None,
        address=diagnostic.get("address") or None,
    )


def redacted(finding: Finding, redactor: Redactor) -> Finding:
    return Finding(
        severity=finding.severity,
        summary=redactor.line(finding.summary, 500),
        detail=redactor.lines(finding.detail)[:2000],
        file=redactor.line(finding.file) if finding.file else None,
        line=finding.line,
        address=redactor.line(finding.address) if finding.address else None,
    )


def in_words(findings: Iterable[Finding]) -> str:
    """The first error on one line, with file and line, and how many more there are. Give redacted findings."""
    found = list(findings)
    errors = [f for f in found if f.severity == "error"] or found
    if not errors:
        return "no diagnostic was given"
    first = errors[0]
    where = f" ({first.file} line {first.line})" if first.file and first.line else f" ({first.file})" if first.file else ""
    detail = " ".join(first.detail.split())
    text = f"{first.summary}{where}" + (f": {detail[:400]}" if detail else "")
    return text if len(errors) == 1 else f"{text} (and {len(errors) - 1} more)"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What is known about the process of an apply that does not run any more."""

    exit_code: int | None  # None: it died without a word
    whole: bool  # the journal was read to its end after every process was gone
    stop_asked: bool = False
    killed: bool = False  # by us, after it was asked to stop
    state_left_over: bool = False  # errored.tfstate lies in the work directory: the state was not stored


def verdict(journal: Journal, ended: Ended) -> tuple[RunState, str | None, str]:
    """How an apply ended, on evidence: state, code, message. The message is the engine's words: redact it.

    Only exit code *and* journal together count; whatever they do not prove is `interrupted`.
    """
    if ended.exit_code is None:
        how = "it was asked to stop, did not, and was killed" if ended.killed else "its process is gone without an exit code"
        return RunState.INTERRUPTED, "internal", f"Nobody knows what the apply did: {how}."
    if not ended.whole:
        return RunState.INTERRUPTED, "internal", f"Nobody knows what the apply did: it left exit code {ended.exit_code} and a torn journal."
    if ended.exit_code == 0 and journal.summary is not None and journal.operation in ("apply", "destroy"):
        return RunState.VERIFYING, None, ""
    if ended.exit_code != 1:
        return RunState.INTERRUPTED, "internal", f"Nobody knows what the apply did: exit code {ended.exit_code}, no summary in its journal."
    said = [f.summary.lower() + " " + f.detail.lower() for f in journal.errors]
    if journal.touched:
        if ended.state_left_over or any(text in line for line in said for text in _NOT_STORED):
            return (
                RunState.INTERRUPTED,
                "internal",
                "The apply changed something and could not store the state: " + in_words(journal.findings),
            )
        if ended.stop_asked:
            return (
                RunState.PARTIALLY_APPLIED,
                "canceled",
                "Stopped on request in mid-apply; what was done by then is recorded in the state.",
            )
        return RunState.PARTIALLY_APPLIED, "provider_error", in_words(journal.findings)
    if ended.stop_asked:
        return RunState.CANCELED, "canceled", "Stopped on request before anything was changed."
    if any("saved plan is stale" in line for line in said):
        return RunState.STALE, "plan_stale", "The state moved after this plan was made; nothing was changed. It has to be planned again."
    if any("acquiring the state lock" in line for line in said):
        return RunState.ERRORED, "locked", "The state is locked by somebody else; nothing was changed."
    return RunState.ERRORED, "provider_error", in_words(journal.findings)


def told_outputs(journal: Journal, redactor: Redactor) -> dict[str, object]:
    """Outputs as they may be shown: {name: {"value", "type"}}, and {"sensitive": true} without the value."""
    told: dict[str, object] = {}
    for name, output in sorted(journal.outputs.items()):
        shown = redactor.value({name: output.get("value")})
        assert isinstance(shown, dict)  # as it was given
        # Under the name it may have: one that is itself a secret is hidden as well.
        for shown_name, value in shown.items():
            told[shown_name] = {"sensitive": True} if output.get("sensitive") else {"value": value, "type": output.get("type")}
    return told


def told_results(journal: Journal, redactor: Redactor) -> tuple[Mapping[str, object], ...]:
    """Each finished operation in order, then those that were started and never ended (ok null)."""
    redactor.look_through(v for r in journal.results for v in r.values() if isinstance(v, str))
    ended = [{k: redactor.line(v, 512) if isinstance(v, str) else v for k, v in r.items()} for r in journal.results]
    open_: list[dict[str, object]] = [
        {"address": redactor.line(address, 512), "action": action, "ok": None}
        for address, action in journal.started.items()
        if action not in HARMLESS
    ]
    return (*ended, *open_)


def redacted_lines(lines: Sequence[bytes], redactor: Redactor) -> list[bytes]:
    """Lines of the journal with secrets hidden. Nearly always there are none, and all of them are looked through at once."""
    together = b"\n".join(lines)
    if not together.translate(None, _PLAIN + b"\n") and redactor.text(whole := together.decode()) == whole:
        return list(lines)
    plain = b"\n".join(line for line in lines if _is_plain(line)).decode()
    if redactor.text(plain) == plain:
        return [line if _is_plain(line) else redacted_line(line, redactor) for line in lines]
    return [redacted_line(line, redactor) for line in lines]


_PLAIN = bytes(code for code in range(ord(" "), 0x7F) if code != ord("\\"))


def _is_plain(line: bytes) -> bool:
    """Whether it says what it says: nothing is escaped, and nothing has to be."""
    return not line.translate(None, _PLAIN)


def redacted_line(line: bytes, redactor: Redactor) -> bytes:
    """One line of the journal with secrets hidden; it stays JSON where it was."""
    try:
        event = _patient(line.decode())
    except (ValueError, RecursionError):
        return redactor.lines(line.decode(errors="replace")).replace("\n", " ").encode("utf-8", "replace")
    return json.dumps(_rough(event, redactor), separators=(",", ":"), ensure_ascii=True).encode()


def _finite(written: str) -> float | str:
    """1e400 is more than a float holds, and Infinity is no JSON."""
    return number if isfinite(number := float(written)) else written


_patient = json.JSONDecoder(parse_float=_finite).decode


def _event(line: bytes) -> Any:
    """The JSON on a line; a journal has thousands, and this parser takes a third of the time."""
    try:
        event = from_json(line, cache_strings="keys")
    except ValueError:  # also where it does not take what the other does: half letters, deep nesting
        return _patient(line.decode())
    # Of all that is told these are values of somebody's choice, and may be numbers that no float holds.
    return _patient(line.decode()) if isinstance(event, dict) and event.get("type") == "outputs" else event


def _rough(value: object, redactor: Redactor) -> object:
    """Every text, by its content alone: the names in an event are the engine's, not of attributes."""
    if isinstance(value, str):
        return redactor.text(value)
    if isinstance(value, dict):
        return {redactor.text(k): _rough(v, redactor) for k, v in value.items()}
    if isinstance(value, list):
        return [_rough(v, redactor) for v in value]
    return value
