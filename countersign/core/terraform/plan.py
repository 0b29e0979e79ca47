"""A plan document as people and policy see it: changes with classes, counts, and what a reviewer reads first."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from countersign.core.plan import SHOWN, Change, ChangeClass, Counts, Plan, shown, worst
from countersign.core.redaction import Redactor
from countersign.core.terraform import document as doc
from countersign.core.terraform.classes import STATEFUL_TYPES, action_of, classes_of, is_rights, is_stateful, unknown_rights
from countersign.core.terraform.document import ResourceChange, Side, marked

NAMED = 5  # addresses in one sentence; the whole list is in the view
ATTRIBUTES = 20  # names of attributes in a stored change
_COUNTED = {"create": "create", "update": "update", "replace": "replace", "delete": "delete", "forget": "forgotten", "unknown": "update"}


def plan_of(
    document: Mapping[str, Any], *, engine: str, semantic_digest: str, redactor: Redactor, stateful: Iterable[str] = STATEFUL_TYPES
) -> Plan:
    """What the whole run carries about a plan: no values, bounded, worst first.

    `engine` is "terraform" or "tofu". Data sources read at apply are changes without a class: shown, not counted.
    """
    stateful = tuple(stateful)
    entries = [c for c in doc.changes(document) if not c.bare_no_op]
    outputs_changed = tuple(redactor.line(name) for name, *_ in doc.outputs(document))
    classes = classes_in(document, entries, stateful)
    # Described are only those that may be among the shown: the rest is thousands at times.
    worst_first = sorted(entries, key=lambda c: (-worst(classes_of(c, stateful)).rank, c.address))[:SHOWN]
    return Plan(
        engine=engine,
        engine_build=f"{engine} {document.get('terraform_version', 'unknown')}",
        counts=counts_of(entries),
        change_class=worst(classes),
        classes=classes,
        changes=shown(change_of(c, redactor, stateful) for c in worst_first),
        risks=tuple(redactor.line(sentence, 500) for sentence in risks_of(document, entries, stateful)),
        outputs_changed=outputs_changed[:100],
        semantic_digest=semantic_digest,
    )


def classes_in(
    document: Mapping[str, Any], changes: Iterable[ResourceChange], stateful: Iterable[str] = STATEFUL_TYPES
) -> tuple[ChangeClass, ...]:
    """Every class in the plan, mildest first."""
    found = {one for change in changes for one in classes_of(change, stateful)}
    if document.get("action_invocations"):
        found.add(ChangeClass.UNKNOWN)
    if found <= {ChangeClass.NONE} and any(True for _ in doc.outputs(document)):
        found.add(ChangeClass.UPDATE)  # only the record changes, yet others may read it
    return tuple(sorted(found, key=lambda c: c.rank))


def change_of(change: ResourceChange, redactor: Redactor, stateful: Iterable[str] = STATEFUL_TYPES) -> Change:
    attributes = [f"{name}+" if after.unknown and marked(after.unknown) else name for name, _, after in change.changing()]
    shown = [redactor.line(name) for name in attributes[:ATTRIBUTES]]
    return Change(**facts_of(change, redactor, stateful), attributes=tuple(shown))


def facts_of(change: ResourceChange, redactor: Redactor, stateful: Iterable[str] = STATEFUL_TYPES) -> dict[str, Any]:
    """What a `Change` says beside its attributes, field by field: the view has a thousand of them."""
    line = redactor.line
    return {
        "address": line(where(change)),
        "type": line(change.type),
        "action": action_of(change),
        "change_class": worst(classes_of(change, stateful)),
        "previous_address": line(change.previous_address or "") or None if change.moved else None,
        "replace_paths": [line(path) for path in change.replace_paths[:ATTRIBUTES]],
    }


def counts_of(changes: Iterable[ResourceChange]) -> Counts:
    """Imports and moves that also change something count as both."""
    counted: Counter[str] = Counter()
    kinds = Counter([(action_of(c), c.importing is not None, c.moved) for c in changes if c.mode == "managed"])
    for (action, imported, moved), number in kinds.items():
        counted[_COUNTED.get(action, "")] += number
        counted["imported"] += number if imported else 0
        counted["moved"] += number if moved else 0
    return Counts(**{field: counted[field] for field in Counts.model_fields})


def where(change: ResourceChange) -> str:
    return change.address if change.deposed is None else f"{change.address} (deposed object {change.deposed})"


def risks_of(document: Mapping[str, Any], changes: list[ResourceChange], stateful: Iterable[str] = STATEFUL_TYPES) -> Iterator[str]:
    """Sentences a reviewer reads first, the worst at the top. They name addresses, never values."""
    stateful = tuple(stateful)
    by_action: dict[str, list[ResourceChange]] = {}
    for change in changes:
        by_action.setdefault(action_of(change), []).append(change)
    if strange := by_action.get("unknown"):
        yield f"This version does not know what would be done to {_named(strange)}: denied unless policy says otherwise."
    if invoked := document.get("action_invocations"):
        yield f"{_some(len(invoked), 'action')} would be invoked beside the resources; what an action does cannot be shown."
    if gone := [c for a in ("delete", "replace") for c in by_action.get(a, ()) if is_stateful(c.type, stateful)]:
        yield f"Data may be lost: {_named(gone)} would be destroyed or replaced."
    if deleted := [c for c in by_action.get("delete", ()) if not is_stateful(c.type, stateful)]:
        yield f"{_some(len(deleted), 'object')} would be destroyed: {_named(deleted)}."
    if replaced := [c for c in by_action.get("replace", ()) if not is_stateful(c.type, stateful)]:
        why = sorted({path for c in replaced for path in c.replace_paths})
        yield f"{_some(len(replaced), 'object')} would be destroyed and created again: {_named(replaced)}" + (
            f", because of {', '.join(why[:NAMED])}." if why else "."
        )
    if forgotten := by_action.get("forget"):
        yield f"Left behind, running and unmanaged: {_named(forgotten)}."
    rights = [c for c in changes if is_rights(c.type) and action_of(c) in ("create", "update", "replace", "delete")]
    if rights:
        yield f"Changes who may do what: {_named(rights)}."
    if unsettled := [c for c in rights if unknown_rights(c)]:
        yield f"What is granted is known only after apply: {_named(unsettled)}."
    exposed = [
        where(c) for c in changes if marked(c.before.sensitive) and any(_exposed(before, after) for _, before, after in c.attributes())
    ]
    exposed += [f"output {name}" for name, _, before, after in doc.outputs(document) if _exposed(before, after)]
    if exposed:
        yield f"Values that were sensitive would be shown in clear from now on: {_listed(exposed)}."
    yield from _of_commands(document, changes)
    if imported := [c for c in changes if c.importing is not None]:
        yield f"Existing objects would come under this stack's control: {_named(imported)}."
    if drifted := document.get("resource_drift"):
        yield f"{_some(len(drifted), 'object')} changed outside of this stack since the last apply; the plan takes that into account."
    if failed := [c for c in document.get("checks") or () if c.get("status") in ("fail", "error")]:
        yield f"The configuration's own checks fail: {_listed([str((c.get('address') or {}).get('to_display', '?')) for c in failed])}."
    settled_later = sum(1 for c in changes for _, _, after in c.attributes() if after.unknown and marked(after.unknown))
    if settled_later:
        yield f"{_some(settled_later, 'value')} will be known only after apply; the view lists them."


def _of_commands(document: Mapping[str, Any], changes: list[ResourceChange]) -> Iterator[str]:
    runs = {"create", "replace", "delete"}
    configured = dict(provisioners_in(((document.get("configuration") or {}).get("root_module")) or {}))
    commanded = [c for c in changes if action_of(c) in runs and unindexed(c.address) in configured] if configured else []
    if commanded:
        kinds = sorted({kind for c in commanded for kind in configured[unindexed(c.address)]})
        yield f"Commands run while applying ({', '.join(kinds)}): {_named(commanded)}. A plan cannot show what they do."
    if read := [c for c in changes if action_of(c) == "read"]:
        yield f"Read only while applying, after the approval: {_named(read)}."


def provisioners_in(module: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Address without indexes → types of its provisioners."""
    for resource in module.get("resources") or ():
        if provisioners := resource.get("provisioners"):
            yield prefix + str(resource.get("address")), tuple(sorted({str(p.get("type")) for p in provisioners}))
    for name, call in (module.get("module_calls") or {}).items():
        yield from provisioners_in(call.get("module") or {}, f"{prefix}module.{name}.")


def unindexed(address: str) -> str:
    """`module.a["x.y"].b.c[0]` → `module.a.b.c`; brackets inside quotes are text."""
    if '"' not in address and "[" not in address and "]" not in address:
        return address
    out, quoted, depth, escaped = [], False, 0, False
    for letter in address:
        if quoted:
            quoted = escaped or letter != '"'
            escaped = letter == "\\" and not escaped
        elif letter == '"':
            quoted = True
        elif letter == "[":
            depth += 1
        elif letter == "]":
            depth -= 1
        elif depth == 0:
            out.append(letter)
    return "".join(out)


def _exposed(before: Side, after: Side) -> bool:
    """Whether some part of a value loses its sensitive mark and is still there."""
    if after.absent or after.sensitive is True or not marked(before.sensitive):
        return False
    if before.sensitive is True:
        return not marked(after.sensitive)
    parts: list[str | int] = [*before.names(), *range(before.length())]
    return any(_exposed(before.child(part), after.child(part)) for part in parts)


def _named(changes: list[ResourceChange]) -> str:
    return _listed([where(c) for c in changes])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _some(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
