"""The testimony of an apply: of its journal what was done to which object, and nothing that was printed.

It is what leaves the machine while the apply runs, and all there is of the journal where that machine never comes back. So it
counts for what it says and never for what it does not say: only a journal that was read to its end on its own machine is whole.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from countersign.core.engine import Told
from countersign.core.redaction import Redactor

_OPERATIONS = frozenset({"apply_start", "apply_complete", "apply_errored"})
_PROVISIONERS = frozenset({"provision_start", "provision_complete", "provision_errored"})
_COUNT = _OPERATIONS | _PROVISIONERS | {"version", "diagnostic"}
_CHANGES = frozenset({"create", "update", "delete"})
WIDTH = 512  # characters of an address or id as people see it


def event_of(line: bytes) -> Mapping[str, Any] | None:
    """The event on a line, or None where the line is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def counts(event: Mapping[str, Any]) -> bool:
    """Whether something of it may be kept: most of a journal is progress and what commands print."""
    kind = event.get("type")
    return isinstance(kind, str) and kind in _COUNT


def kept(event: Mapping[str, Any], redactor: Redactor | None = None) -> bytes | None:
    """Of one event what an operation is known by, as the engine spells it, or None.

    With a `redactor` it says beside it how address and id may be shown, where they may not be shown as they are.
    """
    kind, hook = event.get("type"), event.get("hook")
    if not counts(event):
        return None
    head = f'"type":{_json(kind)}' + (f',"@timestamp":{_json(event["@timestamp"])}' if "@timestamp" in event else "")
    if kind == "version":
        return _line(head)  # it says when the attempt began
    if kind != "diagnostic" and isinstance(hook, dict):
        resource = hook.get("resource")
        address = resource.get("addr") if isinstance(resource, dict) else None
        names = ("action", "id_key", "id_value") if kind in _OPERATIONS else ()
        named = "".join([f',"{name}":{_json(hook[name])}' for name in names if name in hook])
        shown = _shown(address, hook.get("id_value") if names else None, redactor)
        return _line(head, f'"hook":{{"resource":{{"addr":{_json(address)}}}{named}}}', *([f'"shown":{_json(shown)}'] if shown else ()))
    said = event.get("diagnostic")
    if kind == "diagnostic" and isinstance(said, dict) and said.get("severity") == "error" and isinstance(said.get("address"), str):
        return _line(head, f'"diagnostic":{{"severity":"error","address":{_json(said["address"])}}}')
    return None


_written = json.JSONEncoder(separators=(",", ":")).encode


def _json(value: object) -> str:
    return _quoted(value) if type(value) is str else _written(value)  # an encoder takes four times as long, and there are thousands


def _line(*said: str) -> bytes:
    return f"{{{','.join(said)}}}".encode()


def _shown(address: object, id: object, redactor: Redactor | None) -> dict[str, str]:
    told: dict[str, str] = {}
    if redactor is not None:
        for name, text in (("addr", address), ("id", id)):
            if isinstance(text, str) and (shown := redactor.line(text, WIDTH)) != text:
                told[name] = shown
    return told


def moment(event: Mapping[str, Any]) -> datetime | None:
    """When the engine said it; None where it does not say so, or not in a way that has a time zone."""
    try:
        at = datetime.fromisoformat(str(event.get("@timestamp")))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def moments(testimony: bytes) -> Iterator[datetime]:
    """When what it tells was said, in order."""
    for line in testimony.splitlines():
        if (at := moment(event_of(line) or {})) is not None:
            yield at


def began(testimony: bytes) -> datetime | None:
    """When the attempt that gave this testimony began."""
    return next(moments(testimony), None)


def last_word(testimony: bytes) -> datetime | None:
    return max(moments(testimony), default=None)


def joined(shipped: bytes, found: bytes) -> bytes:
    """One testimony of two of one journal: what left the machine in time, and what was found on it afterwards.

    Both begin where the journal began. Either may reach further: a power cut costs the file its end, and what was written last
    had not been shipped. Where they differ, both count.
    """
    ours, theirs = _lines(shipped), _lines(found)
    plain, common = [_plain(line) for line in ours], 0
    while common < len(plain) and common < len(theirs) and plain[common] == _plain(theirs[common]):
        common += 1
    return b"".join(line + b"\n" for line in (*ours, *theirs[common:]))


def _lines(testimony: bytes) -> list[bytes]:
    return [line for line in testimony.split(b"\n") if line]


def _plain(line: bytes) -> object:
    """What the line says, however it may be shown."""
    event = event_of(line)
    return line if event is None else {name: value for name, value in event.items() if name != "shown"}


def told(testimony: bytes) -> Sequence[Told]:
    """What changed or may have changed, in the order it was begun."""
    found: dict[tuple[str, str], Told] = {}
    for line in _lines(testimony):
        event = event_of(line) or {}
        hook, kind = event.get("hook"), event.get("type")
        if kind not in _OPERATIONS or not isinstance(hook, dict) or hook.get("action") not in _CHANGES:
            continue
        address, action = str((hook.get("resource") or {}).get("addr")), str(hook["action"])
        shown = event.get("shown") or {}
        id = shown.get("id", hook.get("id_value")) if hook.get("id_key") == "id" else None
        ok = None if kind == "apply_start" else kind == "apply_complete"
        seen = Told(address=_SHAPES.line(str(shown.get("addr", address)), WIDTH), action=action, id=_id(id), ok=ok)
        found[address, action] = seen
    return tuple(found.values())


_SHAPES = Redactor()  # knows no secret, only what credentials look like


def _id(id: object) -> str | None:
    return _SHAPES.line(str(id), WIDTH) if id else None
