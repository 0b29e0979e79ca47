"""`countersign.view/1`: the whole plan for people, every change with its attributes before and after.

What is sensitive, or looks so, is a keyed fingerprint: a reviewer sees that a secret changes, and not to what. The view is
bounded; it says what it leaves out and how much there is.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring as _quoted
from typing import Any

from countersign.core.plan import worst
from countersign.core.redaction import Redactor, looks_secret
from countersign.core.terraform import document as doc
from countersign.core.terraform.classes import classes_of
from countersign.core.terraform.document import NOTHING, Number, ResourceChange, Side, differ, marked
from countersign.core.terraform.plan import classes_in, counts_of, facts_of, where
from countersign.core.terraform.semantic import Macs, tagged

CHANGES = 1000  # with attributes; the rest is counted
LEAVES = 100  # attributes of one change
SIZE = 2 << 20  # characters of all changes together
AT_ONCE = 100  # changes that are written together: that takes less time than one by one, and what there is no room for is not made
UNKNOWN = "(known after apply)"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Renders sides of one change: as text, or None where there is nothing on that side."""

    macs: Macs
    redactor: Redactor
    address: str

    def text(self, side: Side, name: str, *, hidden: bool) -> str | None:
        if side is NOTHING:
            return None
        if side.unknown is True:
            return UNKNOWN
        if side.absent:
            return None
        if hidden or side.sensitive is True:
            fingerprint = self.macs.of(tagged(side.value, side.unknown), "view", self.address, name)
            return f"(sensitive fp:{fingerprint[:8]})"
        if isinstance(side.value, bool):
            return "true" if side.value else "false"
        if isinstance(side.value, Mapping | list):  # empty, or there is no other side to take it apart with
            size, (opened, closed) = len(side.value), "{}" if isinstance(side.value, Mapping) else "[]"
            return f"{opened}{f'… {size}' if size else ''}{closed}"
        return self.redactor.line(str(side.value))


_NODES = (dict, list)
_written = json.JSONEncoder(ensure_ascii=False).encode
Leaf = tuple[str, Side, Side, bool]  # path, before, after, hidden


def leaves(before: Side, after: Side, name: str) -> list[Leaf]:
    """The leaves of an attribute that differs which differ themselves.

    Hidden is what looks secret by its name or is sensitive on either side: the other side may well be the same value.
    """
    found: list[Leaf] = []
    if not (before.absent and after.absent):
        _add_leaves(before, after, name, found)
    return found


def _add_leaves(before: Side, after: Side, name: str, found: list[Leaf]) -> None:
    hidden = looks_secret(name) or before.sensitive is True or after.sensitive is True
    if hidden or after.unknown is True or (_is_plain(before) and _is_plain(after)):
        found.append((name, before, after, hidden))
        return
    names, length = sorted(before.name_set() | after.name_set()), max(before.length(), after.length())
    if not (names or length):
        found.append((name, before, after, hidden))
        return
    inner = [(before.child(key), after.child(key), f"{name}.{key}") for key in names]
    inner += [(before.child(index), after.child(index), f"{name}[{index}]") for index in range(length)]
    for old, new, path in inner:
        if not (old.absent and new.absent) and differ(old, new):
            _add_leaves(old, new, path, found)


def _is_plain(side: Side) -> bool:
    """Whether there is nothing to be taken apart."""
    return not isinstance(side.value, _NODES) and not isinstance(side.unknown, _NODES)


def view_of(document: Mapping[str, Any], *, mode: str, macs: Macs, redactor: Redactor) -> bytes:
    """The view as JSON, UTF-8. Keys: v, engine_version, mode, counts, change_class, total, shown, truncated, classes, changes,
    outputs, outputs_total.

    A change is a `core.plan.Change` plus `attributes`: [{name, before, after, forces_replacement?, sensitive?, unknown?}],
    `attributes_left_out` and `reason`. `before` and `after` are text for people, null where there is nothing.
    """
    classed = [(worst(classes_of(c)), c) for c in doc.changes(document) if not c.bare_no_op]
    classed.sort(key=lambda pair: (-pair[0].rank, pair[1].address))
    changes = [change for _, change in classed]
    redactor.look_through(_texts(changes[:CHANGES]))
    written, shown = _within_size(_entry(change, macs, redactor) for change in changes[:CHANGES])
    outputs = list(doc.outputs(document))
    head = {
        "v": "countersign.view/1",
        "engine_version": document.get("terraform_version"),
        "mode": mode,
        "counts": counts_of(changes).model_dump(),
        "change_class": worst(classes_in(document, changes)),
        "total": len(changes),
        "shown": shown,
        "truncated": shown < len(changes),
        "classes": Counter(str(change_class) for change_class, _ in classed),
    }
    foot = {
        "outputs": [_output(name, actions, before, after, macs, redactor) for name, actions, before, after in outputs[:LEAVES]],
        "outputs_total": len(outputs),
    }
    # The changes were written once, to know their size, and are not written again.
    return f'{_written(head)[:-1]}, "changes": {written}, {_written(foot)[1:]}'.encode("utf-8", "backslashreplace")


def _texts(changes: list[ResourceChange]) -> Iterator[str]:
    """What of these is going to be shown, as far as it is easily said."""
    for change in changes:
        yield where(change)
        for _, before, after in change.changing():
            if type(after.value) is str:
                yield after.value
            if type(before.value) is str:
                yield before.value


def _within_size(entries: Iterable[str]) -> tuple[str, int]:
    """Those that there is room for, as a list, and how many they are. What comes far behind these is not made."""
    written: list[str] = []
    shown, room = 0, SIZE
    left = iter(entries)
    while some := list(islice(left, AT_ONCE)):
        together = ", ".join(some)
        length = _room(together) - 2 * (len(some) - 1)  # what parts them does not count
        if length > room:
            each = iter(some)
            while (room := room - _room(text := next(each))) >= 0:  # they do not all fit, so one of them ends this
                written.append(text)
                shown += 1
            break
        written.append(together)
        shown += len(some)
        room -= length
    return f"[{', '.join(written)}]", shown


def _room(text: str) -> int:
    """Characters it takes. A letter beyond ASCII takes as much room as its escape."""
    return len(text) if text.isascii() and "\x7f" not in text else len(json.dumps(text)) - 2 - text.count('"') - text.count("\\")


def _entry(change: ResourceChange, macs: Macs, redactor: Redactor) -> str:
    """One change as JSON. It is written piece by piece: of a thousand changes that takes half the time."""
    facts = facts_of(change, redactor)
    rows, left_out = _rows(change, macs, redactor)
    importing = "" if change.importing is None else f', "importing": {_text(redactor.line(str(change.importing.get("id") or UNKNOWN)))}'
    return (
        f'{{"address": {_text(facts["address"])}, "type": {_text(facts["type"])}, "action": {_text(facts["action"])}'
        f', "change_class": {_text(facts["change_class"])}, "previous_address": {_text(facts["previous_address"])}'
        f', "replace_paths": {_written(facts["replace_paths"]) if facts["replace_paths"] else "[]"}, "attributes": [{", ".join(rows)}]'
        f', "attributes_left_out": {left_out}, "reason": {"null" if change.reason is None else _written(change.reason)}{importing}}}'
    )


def _rows(change: ResourceChange, macs: Macs, redactor: Redactor) -> tuple[list[str], int]:
    """The rows of its attributes as JSON, and how many there was no room for."""
    show = Shown(macs=macs, redactor=redactor, address=change.address)
    rows: list[str] = []
    left_out = 0
    forcing = set(change.replace_paths)
    for attribute, before, after in change.changing():
        if before is NOTHING and not forcing and len(rows) < LEAVES and (plain := _plain_row(attribute, after, redactor)) is not None:
            rows.append(plain)
            continue
        for name, old, new, hidden in leaves(before, after, attribute):
            if len(rows) >= LEAVES:
                left_out += 1
                continue
            marks = ""
            if hidden or (old.sensitive and marked(old.sensitive)) or (new.sensitive and marked(new.sensitive)):
                marks += ', "sensitive": true'
            if new.unknown and marked(new.unknown):
                marks += ', "unknown": true'
            if forcing and any(_within(name, path) or _within(path, name) for path in forcing):
                marks += ', "forces_replacement": true'
            rows.append(_row(redactor.line(name), show.text(old, name, hidden=hidden), show.text(new, name, hidden=hidden), marks))
    return rows, left_out


def _row(name: str, before: str | None, after: str | None, marks: str = "") -> str:
    return f'{{"name": {_text(name)}, "before": {_text(before)}, "after": {_text(after)}{marks}}}'


def _text(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


def _plain_row(name: str, after: Side, redactor: Redactor) -> str | None:
    """The row of a plain value of what is created: most rows of a large plan are one. None where it takes a closer look."""
    if after.sensitive or looks_secret(name):
        return None
    if after.unknown is True:
        return _row(redactor.line(name), None, UNKNOWN, ', "unknown": true')
    if after.unknown or type(after.value) is not str:
        return None
    return _row(redactor.line(name), None, redactor.line(after.value))


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith((f"{other}.", f"{other}["))


def _output(name: str, actions: tuple[str, ...], before: Side, after: Side, macs: Macs, redactor: Redactor) -> dict[str, Any]:
    show = Shown(macs=macs, redactor=redactor, address="output")
    hidden = looks_secret(name) or marked(before.sensitive) or marked(after.sensitive)
    row: dict[str, Any] = {
        "name": redactor.line(name),
        "action": actions[0] if len(actions) == 1 else "update",
        "before": _compact(show, before, name, hidden),
        "after": _compact(show, after, name, hidden),
    }
    if hidden:
        row["sensitive"] = True
    if marked(after.unknown):
        row["unknown"] = True
    return row


def _compact(show: Shown, side: Side, name: str, hidden: bool) -> str | None:
    """An output on one line, also where it is a list or an object."""
    if hidden or side.unknown is True or side.absent or not isinstance(side.value, Mapping | list) or not side.value:
        return show.text(side, name, hidden=hidden)
    return show.redactor.line(json.dumps(show.redactor.value(_plain(side.value)), ensure_ascii=False))


def _plain(value: object) -> object:
    """Numbers as numbers again, where that is exact."""
    if isinstance(value, Number):
        return int(value) if value.lstrip("-").isdigit() and len(value) < 16 else str(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value
