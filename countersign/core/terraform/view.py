"""`countersign.view/1`: the whole plan for people, every change with its attributes before and after.

What is sensitive, or looks so, is a keyed fingerprint: a reviewer sees that a secret changes, and not to what. The view is
bounded; it says what it leaves out and how much there is.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from countersign.core.plan import Change, ChangeClass, worst
from countersign.core.redaction import Redactor, looks_secret
from countersign.core.terraform import document as doc
from countersign.core.terraform.document import Number, ResourceChange, Side, marked
from countersign.core.terraform.plan import change_of, counts_of
from countersign.core.terraform.semantic import Macs, tagged

CHANGES = 1000  # with attributes; the rest is counted
LEAVES = 100  # attributes of one change
SIZE = 2 << 20  # characters of all changes together
UNKNOWN = "(known after apply)"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Renders sides of one change: as text, or None where there is nothing on that side."""

    macs: Macs
    redactor: Redactor
    address: str

    def text(self, side: Side, name: str, *, hidden: bool) -> str | None:
        if side.unknown is True:
            return UNKNOWN
        if side.absent:
            return None
        if hidden or side.sensitive is True:
            fingerprint = self.macs.of(tagged(side.value, side.unknown), "view", self.address, name)
            return f"(sensitive fp:{fingerprint[:8]})"
        if isinstance(side.value, str) and not isinstance(side.value, Number):
            return self.redactor.line(side.value)
        if isinstance(side.value, bool):
            return "true" if side.value else "false"
        if isinstance(side.value, Mapping | list):  # only empty ones are leaves
            return "{}" if isinstance(side.value, Mapping) else "[]"
        return str(side.value)


def leaves(before: Side, after: Side, name: str, *, hidden: bool = False) -> Iterator[tuple[str, Side, Side, bool]]:
    """The differing leaves below an attribute: (path, before, after, hidden by its name)."""
    hidden = hidden or looks_secret(name)
    whole = before.sensitive is True or after.sensitive is True or after.unknown is True or hidden
    names, length = sorted({*before.names(), *after.names()}), max(before.length(), after.length())
    if whole or not (names or length):
        yield name, before, after, hidden
        return
    for key in names:
        yield from _differing(before.child(key), after.child(key), f"{name}.{key}" if name else key, hidden)
    for index in range(length):
        yield from _differing(before.child(index), after.child(index), f"{name}[{index}]", hidden)


def _differing(before: Side, after: Side, name: str, hidden: bool) -> Iterator[tuple[str, Side, Side, bool]]:
    if before.absent and after.absent:
        return
    if before.value == after.value and not marked(after.unknown) and before.sensitive == after.sensitive:
        return
    yield from leaves(before, after, name, hidden=hidden)


def view_of(document: Mapping[str, Any], *, mode: str, macs: Macs, redactor: Redactor) -> bytes:
    """The view as JSON, UTF-8. Keys: v, engine_version, mode, counts, total, shown, truncated, classes, changes, outputs.

    A change is a `core.plan.Change` plus `attributes`: [{name, before, after, forces_replacement?, sensitive?, unknown?}],
    `attributes_left_out` and `reason`. `before` and `after` are text for people, null where there is nothing.
    """
    pairs = [(c, change_of(c, redactor)) for c in doc.changes(document) if not c.bare_no_op]
    pairs.sort(key=lambda pair: (-pair[1].change_class.rank, pair[1].address))
    written: list[dict[str, Any]] = []
    room = SIZE
    for change, summary in pairs[:CHANGES]:
        entry = _entry(change, summary, macs, redactor)
        room -= len(json.dumps(entry))
        if room < 0:
            break
        written.append(entry)
    classes: dict[str, int] = {}
    for _, summary in pairs:
        classes[summary.change_class] = classes.get(summary.change_class, 0) + 1
    whole = {
        "v": "countersign.view/1",
        "engine_version": document.get("terraform_version"),
        "mode": mode,
        "counts": counts_of(change for change, _ in pairs).model_dump(),
        "change_class": worst(summary.change_class for _, summary in pairs) if pairs else ChangeClass.NONE,
        "total": len(pairs),
        "shown": len(written),
        "truncated": len(written) < len(pairs),
        "classes": classes,
        "changes": written,
        "outputs": _outputs(document, macs, redactor),
    }
    return json.dumps(whole, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _entry(change: ResourceChange, summary: Change, macs: Macs, redactor: Redactor) -> dict[str, Any]:
    entry = summary.model_dump(mode="json")
    show = Shown(macs=macs, redactor=redactor, address=change.address)
    rows: list[dict[str, Any]] = []
    left_out = 0
    forcing = set(change.replace_paths)
    for attribute, before, after in change.attributes():
        for name, old, new, hidden in leaves(before, after, attribute):
            if len(rows) >= LEAVES:
                left_out += 1
                continue
            row: dict[str, Any] = {
                "name": redactor.line(name),
                "before": show.text(old, name, hidden=hidden),
                "after": show.text(new, name, hidden=hidden),
            }
            if hidden or marked(old.sensitive) or marked(new.sensitive):
                row["sensitive"] = True
            if marked(new.unknown):
                row["unknown"] = True
            if any(name == path or name.startswith((f"{path}.", f"{path}[")) for path in forcing):
                row["forces_replacement"] = True
            rows.append(row)
    entry.update(attributes=rows, attributes_left_out=left_out, reason=change.reason)
    if change.importing is not None:
        entry["importing"] = redactor.line(str(change.importing.get("id") or UNKNOWN))
    return entry


def _outputs(document: Mapping[str, Any], macs: Macs, redactor: Redactor) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, actions, before, after in doc.outputs(document):
        show = Shown(macs=macs, redactor=redactor, address="output")
        hidden = looks_secret(name) or marked(before.sensitive) or marked(after.sensitive)
        rows.append(
            {
                "name": redactor.line(name),
                "action": actions[0] if len(actions) == 1 else "update",
                "before": _compact(show, before, name, hidden),
                "after": _compact(show, after, name, hidden),
                **({"sensitive": True} if hidden else {}),
            }
        )
        if len(rows) == LEAVES:
            break
    return rows


def _compact(show: Shown, side: Side, name: str, hidden: bool) -> str | None:
    """An output on one line, also where it is a list or an object."""
    if hidden or side.unknown is True or side.absent or not isinstance(side.value, Mapping | list) or not side.value:
        return show.text(side, name, hidden=hidden)
    return show.redactor.line(json.dumps(_plain(show.redactor.value(side.value)), ensure_ascii=False))


def _plain(value: object) -> object:
    """Numbers as numbers again, where that is exact."""
    if isinstance(value, Number):
        return int(value) if value.lstrip("-").isdigit() and len(value) < 16 else str(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value
