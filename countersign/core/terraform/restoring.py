"""What it means to make an earlier state the newest one again, told as a plan so that people read and approve it as one.

Only the record changes. An object the earlier state does not have is forgotten and runs on; one that only the earlier state has
comes back into the record, whether it exists or not; whatever has other attributes is recorded as it was. The next plan compares
all of that with the world.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from countersign.core.terraform.document import refuse_unfinished
from countersign.core.terraform.state import Instance, Path, StateDocument

FORMAT = "1.2"  # of a plan's document, as the engines have it
RECORD_ONLY = "Only the record changes, nothing in the cloud: the next plan compares it with what exists, and makes again what is gone."


def document_of(now: StateDocument | None, then: StateDocument) -> dict[str, Any]:
    """The difference in the form of a plan's document. `now` is None where there is no state."""
    held = _objects(now.instances if now is not None else ())
    kept = _objects(then.instances)
    changes = [_change(held.get(key), kept.get(key)) for key in sorted({*held, *kept})]
    had: Mapping[str, Mapping[str, Any]] = now.outputs if now is not None else {}
    names = sorted({*had, *then.outputs})
    outputs = {name: change for name in names if (change := _output(had.get(name), then.outputs.get(name))) is not None}
    made = {"format_version": FORMAT, "terraform_version": then.engine_version, "resource_changes": changes, "output_changes": outputs}
    refuse_unfinished(made, partial=False)
    return made


def _objects(instances: Sequence[Instance]) -> dict[tuple[str, str], Instance]:
    return {(one.address, one.deposed or ""): one for one in instances if one.entry.get("mode") != "data"}


def _change(now: Instance | None, then: Instance | None) -> dict[str, Any]:
    one = then or now
    assert one is not None  # it is in one of them
    change: dict[str, Any] = {
        "actions": _actions(now, then),
        "before": now.attributes if now else None,
        "after": then.attributes if then else None,
        "after_unknown": False,
        "before_sensitive": _marks(now.hidden) if now else False,
        "after_sensitive": _marks(then.hidden) if then else False,
    }
    if now is None and then is not None:
        change["importing"] = {"id": str(then.attributes.get("id") or "")}
    where = {"address": one.address, "mode": "managed", "type": one.type, "provider_name": str(one.entry.get("provider", ""))}
    return {**where, **({"deposed": one.deposed} if one.deposed else {}), "change": change}


def _actions(now: Instance | None, then: Instance | None) -> list[str]:
    if now is None:
        return ["no-op"]  # with an import: it comes back under this stack's control
    if then is None:
        return ["forget"]
    if now.attributes.get("id") != then.attributes.get("id"):
        return ["forget", "create"]  # of two objects under one address, the one that is recorded now is let go
    return ["no-op"] if now.attributes == then.attributes and now.own.get("status") == then.own.get("status") else ["update"]


def _output(now: Mapping[str, Any] | None, then: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if now == then:
        return None
    action = "create" if now is None else "delete" if then is None else "update"
    sides = {side: one.get("value") if one else None for side, one in (("before", now), ("after", then))}
    marks = {f"{side}_sensitive": bool(one and one.get("sensitive")) for side, one in (("before", now), ("after", then))}
    return {"actions": [action], **sides, **marks, "after_unknown": False}


def _marks(hidden: frozenset[Path]) -> object:
    """Paths of sensitive values as the tree of marks that plans have."""
    if () in hidden:
        return True
    tree: dict[str, Any] = {}
    for path in sorted(hidden, key=len):
        _mark(tree, path)
    return tree


def _mark(tree: dict[str, Any], path: Path) -> None:
    """A mark inside of a list covers the list: more is hidden than has to be, never less."""
    name, below = str(path[0]), path[1:]
    if not below or isinstance(below[0], int):
        tree[name] = True
    elif tree.get(name) is not True:
        _mark(tree.setdefault(name, {}), below)


def sentences(*, serial: int, written: int) -> Iterator[str]:
    yield RECORD_ONLY
    yield f"The content of serial {serial} is written as serial {written}; what is there now stays in the history."
