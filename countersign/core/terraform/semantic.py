"""`countersign.plan/1`: one document for all plans that mean the same, without a value anybody could guess.

Two plans of one configuration never have equal bytes; people must not be asked twice because of that. Every value is a
keyed MAC, marked sensitive or not, because Terraform does not mark every secret; whoever holds the document can recompute
the digest without the key. Left out on purpose: times, serial, lineage, drift, reasons.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from typing import Any

from countersign.core.digests import canonical, sha256, spelled
from countersign.core.fingerprints import Fingerprints
from countersign.core.terraform import document as doc
from countersign.core.terraform.classes import classes_of
from countersign.core.terraform.document import Number, ResourceChange, Side, marked, pruned

VERSION = "countersign.plan/1"


def tagged(value: object, unknown: object = False) -> list[object]:
    """A value as a tree in which no two types share a spelling; partly unknown values keep their known part."""
    if unknown is True:
        return ["u"]
    if value is None and not marked(unknown):
        return ["z"]
    if isinstance(value, bool):
        return ["b", value]
    if isinstance(value, Number):
        return ["n", value.normal]
    if isinstance(value, int):
        return ["n", Number(value).normal]
    if isinstance(value, str):
        return ["s", value]
    side = Side(value=value, unknown=unknown)
    if isinstance(value, list) or isinstance(unknown, list):
        children = [side.child(i) for i in range(side.length())]
        return ["l", [tagged(c.value, c.unknown) for c in children]]
    if isinstance(value, dict) or isinstance(unknown, dict):
        items = [(key, side.child(key)) for key in side.names()]
        return ["m", [[key, *tagged(child.value, child.unknown)] for key, child in items]]
    raise TypeError(f"a plan holds no {type(value).__name__}")


class Macs(Fingerprints):
    """Fingerprints of values with marks beside them."""

    def side(self, side: Side, *domain: str) -> str | None:
        """`?` unknown, None absent, else a MAC; `~` partly unknown, `!` sensitive."""
        if not side.sensitive:  # as below, and what most values are
            if side.unknown is True:
                return "?"
            if side.unknown is False and type(side.value) is str:
                return self.of_text("s", side.value, *domain)
        mark = "!" if marked(side.sensitive) else ""
        if side.unknown is True:
            return "?" + mark
        if side.absent:
            return None
        tree = tagged(side.value, side.unknown)
        if mark and side.sensitive is not True:
            tree = ["!", tree, pruned(side.sensitive)]  # which part is sensitive is part of what it means
        return self.of(tree, *domain) + ("~" if marked(side.unknown) else "") + mark


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a plan was made from; changes effects without changing a single value of the plan."""

    stack_id: str
    mode: str  # "normal" | "destroy"
    engine: str  # "terraform" | "tofu"
    source: str  # digest of the checkout, without our own files
    lock: str | None  # sha256 of the lock file
    targets: tuple[str, ...] = ()
    volatile: frozenset[str] = frozenset()  # variables that may differ: tokens of one attempt


def semantic(document: Mapping[str, Any], *, origin: Origin, macs: Macs) -> tuple[bytes, str]:
    """The document as canonical JSON, and its digest. Raises ProviderError for a plan that must not be compared."""
    doc.refuse_unfinished(document, partial=bool(origin.targets))
    changes = sorted((c for c in doc.changes(document) if not c.bare_no_op), key=lambda c: (c.address, c.deposed or ""))
    actions = sorted(macs.of(tagged(a), "action", str(a.get("address"))) for a in document.get("action_invocations") or ())
    others = {
        "v": VERSION,
        "kid": macs.kid,
        "stack": origin.stack_id,
        "mode": origin.mode,
        "engine": f"{origin.engine} {document.get('terraform_version', '')}",
        "source": origin.source,
        "lock": origin.lock,
        "targets": sorted(origin.targets),
        "variables": variables(document, macs, origin.volatile),
        "outputs": {
            name: [list(actions), macs.side(before, "output", name), macs.side(after, "output", name)]
            for name, actions, before, after in doc.outputs(document)
        },
    }
    # The keys are in order: of the others each comes after these two.
    whole = f'{{"actions":{spelled(actions)},"changes":[{",".join([_record(c, macs) for c in changes])}],{spelled(others)[1:]}'
    try:
        data = whole.encode()
    except UnicodeEncodeError:
        data = canonical(_encodable(json.loads(whole)))
    return data, sha256(data)


def variables(document: Mapping[str, Any], macs: Macs, volatile: frozenset[str] = frozenset()) -> dict[str, str]:
    """Variable → MAC of the value it has in this plan."""
    return {
        name: macs.of(tagged(variable.get("value")), "variable", name)
        for name, variable in sorted((document.get("variables") or {}).items())
        if name not in volatile
    }


def _record(change: ResourceChange, macs: Macs) -> str:
    """What is planned for one object, as canonical JSON: written key by key it takes a third of the time, and there are thousands."""
    where = change.address if change.deposed is None else f"{change.address} {change.deposed}"
    attributes = _attributes(change, where, macs)
    written = [
        f'"actions":{_list(change.actions)},"address":{_text(change.address)}',
        *([f'"attributes":{{{attributes}}}'] if attributes else ()),
        f'"classes":{_list(classes_of(change))},"deposed":{_text(change.deposed)}',
    ]
    if change.generated_config is not None:
        written.append(f'"generated_config":"{macs.of(change.generated_config, "generated", where)}"')
    if change.importing is not None:
        written.append(f'"importing":"{macs.of(tagged(change.importing), "import", where)}"')
    written.append(f'"mode":{_text(change.mode)}')
    if isinstance(change.before.value, Mapping):
        who = change.identity if change.identity is not None else change.before.value.get("id")
        written.append(f'"object":"{macs.of(tagged(who), "object", where)}"')
    written.append(
        f'"previous_address":{_text(change.previous_address)},"provider":{_text(change.provider)}'
        f',"replace_paths":{_list(change.replace_paths)},"type":{_text(change.type)}'
    )
    return f"{{{','.join(written)}}}"


def _attributes(change: ResourceChange, where: str, macs: Macs) -> str:
    updates = change.actions == ("update",)
    written: list[str] = []
    for name, before, after in change.attributes():
        if not updates and after.absent:
            continue
        # The old value says nothing where the new one is unknown: it may differ without a change of meaning.
        old = macs.side(before, "attribute", where, name) if updates and after.unknown is not True else None
        written.append(f"{_text(name)}:[{_mac(old)},{_mac(macs.side(after, 'attribute', where, name))}]")
    return ",".join(written)


def _mac(mac: str | None) -> str:
    return "null" if mac is None else f'"{mac}"'  # hexadecimal, and marks that nothing escapes


def _text(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


@lru_cache(maxsize=1024)  # of thousands of changes: a handful
def _list(texts: tuple[str, ...]) -> str:
    return spelled(list(texts))


def _encodable(value: Any) -> Any:
    """Lone surrogates have no UTF-8; they are spelled out, so that no plan can make the digest fail."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(k): _encodable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_encodable(v) for v in value]
    return value


def difference(old: bytes, new: bytes) -> tuple[str, ...]:
    """What distinguishes two semantic documents, in addresses and attribute names, without a value."""
    before, after = json.loads(old), json.loads(new)
    whole = ("stack", "mode", "engine", "source", "lock", "kid", "targets", "actions")
    lines = [f"{part} differs" for part in whole if before.get(part) != after.get(part)]
    for part in ("variables", "outputs"):
        names = {**before.get(part, {}), **after.get(part, {})}
        lines += [f"{part[:-1]} {n} differs" for n in sorted(names) if before.get(part, {}).get(n) != after.get(part, {}).get(n)]
    olds, news = ({(c["address"], c["deposed"]): c for c in d.get("changes", ())} for d in (before, after))
    for key in sorted({*olds, *news}, key=lambda k: (k[0], k[1] or "")):
        if key not in news:
            lines.append(f"{key[0]}: no longer planned ({', '.join(olds[key]['actions'])})")
        elif key not in olds:
            lines.append(f"{key[0]}: now planned ({', '.join(news[key]['actions'])})")
        elif olds[key] != news[key]:
            lines.append(f"{key[0]}: {', '.join(_differing(olds[key], news[key]))}")
    return tuple(lines)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = [p for p in sorted({*old, *new} - {"attributes"}) if old.get(p) != new.get(p)]
    was, now = old.get("attributes", {}), new.get("attributes", {})
    return names + [n for n in sorted({*was, *now}) if was.get(n) != now.get(n)]
