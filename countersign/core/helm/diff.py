"""What an upgrade, a rollback or an uninstall would do, object by object: the plan of a release.

The cluster is asked what each object would become (a server-side apply that is not kept), and that is compared with what is there. Helm's
own dry run sends nothing to the API, so quota, immutable fields and other managers' fields pass it unseen.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from countersign.core.fingerprints import Fingerprints
from countersign.core.helm.manifests import POLICY, Key, Manifest, annotations
from countersign.core.helm.redaction import Path, Veil, hidden_in, tree
from countersign.core.plan import SHOWN, Change, ChangeClass, Counts, Plan, shown, worst
from countersign.core.redaction import cut

NAMED = 5  # addresses in one sentence; the whole list is in the view
ATTRIBUTES = 20  # names of attributes in a stored change
CHANGES = 1000  # in the view, with attributes
LEAVES = 100  # attributes of one change in the view
SIZE = 2 << 20  # characters of all changes of the view together
TEXT = 500  # characters of one side of an attribute

# What the server keeps of its own, or controllers write: no change of anybody's.
_SERVERS = frozenset({"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink"})
_CONTROLLERS = frozenset({"deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration"})

# Kinds that hold data, or whose loss takes others with it; as "Kind" of Kubernetes itself or "Kind.group".
STATEFUL: tuple[str, ...] = (
    "PersistentVolumeClaim", "PersistentVolume", "StatefulSet.apps", "Namespace", "Secret", "CustomResourceDefinition.*",
    "StorageClass.storage.k8s.io", "VolumeSnapshot*.snapshot.storage.k8s.io",
    "*Database*.*", "*Cluster.*", "*Postgres*.*", "Postgresql.*", "*MySQL*.*", "*Mongo*.*", "*Redis*.*", "*Kafka*.*", "*Elasticsearch*.*",
    "*Cassandra*.*", "*Bucket*.*", "*ObjectStore*.*", "*Backup*.*", "*Tenant.*",
)  # fmt: skip
_NOT_STATEFUL: tuple[str, ...] = ("ClusterRole.rbac.authorization.k8s.io",)
RIGHTS: tuple[str, ...] = ("*.rbac.authorization.k8s.io", "*WebhookConfiguration.admissionregistration.k8s.io", "ServiceAccount")
_MERGED_BY = ("mountPath", "devicePath", "containerPort", "port", "name", "ip", "topologyKey")  # parts of lists, as Kubernetes does
_IN_THE_ADDRESS = (("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"))
_LABELS = frozenset({"metadata", "labels", "matchLabels", "selector", "annotations"})
_COUNTED = {"create": "create", "update": "update", "replace": "replace", "delete": "delete", "keep": "forgotten"}


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A field that another manager owns, and that would be taken from it."""

    manager: str
    field: str


@dataclass(frozen=True, kw_only=True)
class Looked:
    """One object of the target, and what the cluster says of it."""

    manifest: Manifest
    live: Mapping[str, Any] | None = field(default=None, repr=False)  # None: it does not exist
    predicted: Mapping[str, Any] | None = field(default=None, repr=False)  # None: the cluster could not say
    conflicts: tuple[Conflict, ...] = ()  # forced in what is predicted
    immutable: tuple[str, ...] = ()  # fields that the server does not let change
    unchecked: str = ""  # why the cluster could not say
    taken_over: bool = False  # it exists, and belongs to no release or to another one


@dataclass(frozen=True, kw_only=True)
class Removed:
    """One object of the release that the target does not have. What is not live is gone already."""

    manifest: Manifest
    live: Mapping[str, Any] | None = field(default=None, repr=False)
    uninstalled: bool = False  # with the whole release

    @property
    def stays(self) -> bool:
        """As Helm sees it: an uninstall goes by what the chart said, all else by the object as it is live."""
        return self.manifest.kept if self.uninstalled else annotations(self.live or {}).get(POLICY) == "keep"


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One value that differs. None: there is nothing on that side."""

    path: Path  # parts of lists by their names, where they have some
    before: object = field(repr=False)
    after: object = field(repr=False)
    hidden: bool

    @property
    def name(self) -> str:
        out = ""
        for step in self.path:
            out += f"[{step}]" if isinstance(step, int) or step.startswith("[") else f".{step}" if out else step
        return out.replace("[[", "[").replace("]]", "]")


@dataclass(frozen=True, kw_only=True)
class Difference:
    manifest: Manifest
    action: str  # "create", "update", "delete", "replace", "keep": left behind by a release that has it no more; "no-op"
    leaves: tuple[Leaf, ...] = field(default=(), repr=False)
    looked: Looked | None = None  # of what is in the target

    @property
    def key(self) -> Key:
        return self.manifest.key

    @property
    def told(self) -> tuple[Leaf, ...]:
        """The leaves as people read them: images first, then what the chart says, then what the cluster adds, labels last. Without what
        the address says already."""
        whole = self.action in ("create", "delete")
        declared = {leaf.path for leaf in _leaves(None, self.manifest.body)} if whole else frozenset[Path]()
        kept = [leaf for leaf in self.leaves if not (whole and leaf.path in _IN_THE_ADDRESS)]

        def interest(leaf: Leaf) -> tuple[bool, bool, bool]:
            return leaf.path[-1] != "image", any(step in _LABELS for step in leaf.path), whole and leaf.path not in declared

        return tuple(sorted(kept, key=interest))

    @property
    def classes(self) -> tuple[ChangeClass, ...]:
        """Every class that fits, mildest first."""
        stateful = is_stateful(self.key)
        match self.action:
            case "create":
                found = {ChangeClass.CREATE}
            case "update":
                labels = all(leaf.path[:2] in (("metadata", "labels"), ("metadata", "annotations")) for leaf in self.leaves)
                found = {ChangeClass.LABELS if labels else ChangeClass.UPDATE}
            case "delete":
                found = {ChangeClass.STATEFUL_DELETE if stateful else ChangeClass.DELETE}
            case "replace":
                found = {ChangeClass.STATEFUL_REPLACE if stateful else ChangeClass.REPLACE}
            case "keep":
                found = {ChangeClass.FORGET}
            case _:
                found = {ChangeClass.NONE}
        if self.looked is not None and self.looked.taken_over:
            found = {*found, ChangeClass.IMPORT} - {ChangeClass.NONE}
        return tuple(sorted(found, key=lambda c: c.rank))


def is_stateful(key: Key) -> bool:
    return _matches(key.type, STATEFUL) and not _matches(key.type, _NOT_STATEFUL)


def is_rights(key: Key) -> bool:
    return _matches(key.type, RIGHTS)


def _matches(type_name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(type_name, pattern) for pattern in patterns)


def normal(body: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what the server and its controllers write into it."""
    given = body.get("metadata")
    metadata = {k: v for k, v in given.items() if k not in _SERVERS} if isinstance(given, Mapping) else {}
    noted = {k: v for k, v in annotations(body).items() if k not in _CONTROLLERS}
    metadata.pop("annotations", None)
    return {k: v for k, v in body.items() if k != "status"} | {"metadata": metadata | ({"annotations": noted} if noted else {})}


def compared(looked: Iterable[Looked], removed: Iterable[Removed] = ()) -> tuple[Difference, ...]:
    """What would be done to each object; also to those to which nothing would, as "no-op"."""
    return (*map(_to_become, looked), *map(_to_go, removed))


def drifted(looked: Iterable[Looked]) -> tuple[Difference, ...]:
    """What was changed outside of the release: from what it declares to what is there."""
    found = []
    for one in looked:
        if one.live is None:
            found.append(Difference(manifest=one.manifest, action="delete", leaves=tuple(_leaves(one.manifest.body, None))))
            continue
        leaves = tuple(_leaves(_becomes(one, one.live), one.live))
        found.append(Difference(manifest=one.manifest, action="update" if leaves else "no-op", leaves=leaves))
    return tuple(found)


def _to_become(one: Looked) -> Difference:
    if one.live is None:
        body = one.manifest.body if one.predicted is None else one.predicted
        return Difference(manifest=one.manifest, action="create", leaves=tuple(_leaves(None, body)), looked=one)
    leaves = tuple(_leaves(one.live, _becomes(one, one.live)))
    action = "replace" if one.immutable else "update" if leaves else "no-op"
    return Difference(manifest=one.manifest, action=action, leaves=leaves, looked=one)


def _to_go(one: Removed) -> Difference:
    action = "no-op" if one.live is None else "keep" if one.stays else "delete"
    leaves = tuple(_leaves(one.live, None)) if action == "delete" else ()
    return Difference(manifest=one.manifest, action=action, leaves=leaves)


def _becomes(one: Looked, live: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the cluster predicts, or else what is declared over what is there."""
    if one.predicted is not None:
        return one.predicted
    over: Mapping[str, Any] = _over(live, one.manifest.body)
    return over


def _over(under: Any, declared: Any) -> Any:
    if isinstance(under, Mapping) and isinstance(declared, Mapping):
        return {**under, **{key: _over(under.get(key), value) for key, value in declared.items()}}
    mine, theirs = _by_name(declared), _by_name(under)
    if mine and theirs:
        return [_over(theirs.get(name), value) for name, value in mine.items()] + [v for k, v in theirs.items() if k not in mine]
    return declared


def client_side(live: Mapping[str, Any]) -> bool:
    """Whether Helm applied this object as Helm 3 does: the server does not know then what the chart declared, and a dry run of it
    leaves everything there that an upgrade takes away."""
    fields = (live.get("metadata") or {}).get("managedFields") or ()
    ways = {one.get("operation") for one in fields if one.get("manager") == "helm" and not one.get("subresource")}
    return ways == {"Update"}


def taken_away(predicted: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """`predicted` without what was declared `before` and is not `after`: Helm itself takes that away of such an object."""
    found: dict[str, Any] = _without(predicted, before, after)
    place = {key: value for key, value in predicted["metadata"].items() if key == "namespace"}  # which a chart may say or leave out
    return {**found, "metadata": {**found["metadata"], **place}}


def _without(there: Any, before: Any, after: Any) -> Any:
    if all(isinstance(side, Mapping) for side in (there, before, after)):
        kept = {key: value for key, value in there.items() if key not in before or key in after}
        return {key: _without(value, before.get(key), after.get(key)) for key, value in kept.items()}
    if not all(isinstance(side, list) for side in (there, before, after)):
        return there
    if not any(isinstance(item, Mapping | list) for side in (there, before, after) for item in side):
        return [item for item in there if item not in before or item in after]
    for key in _MERGED_BY:
        theirs, olds, news = (_by_key(side, key) for side in (there, before, after))
        if theirs is not None and olds is not None and news is not None:
            return [_without(item, olds.get(k), news.get(k)) for k, item in theirs.items() if k not in olds or k in news]
    return there


def _by_key(items: list[Any], key: str) -> dict[str, Any] | None:
    """None where not all have one of their own."""
    if not all(isinstance(item, Mapping) and key in item for item in items):
        return None
    found = {f"{item[key]} {item.get('protocol') or 'TCP'}": item for item in items}
    return found if len(found) == len(items) else None


def _leaves(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[Leaf]:
    olds, news = (normal(body) if body is not None else None for body in (before, after))
    hidden = tuple(frozenset(hidden_in(body)) if body is not None else frozenset() for body in (olds, news))
    yield from _walk(olds, news, (), (), (), hidden)


def _walk(before: Any, after: Any, path: Path, old: Path, new: Path, hidden: tuple[frozenset[Path], ...]) -> Iterator[Leaf]:
    """`path` is for people; `old` and `new` are where it is on either side."""
    if not isinstance(before, Mapping | list) and before == after and isinstance(before, bool) == isinstance(after, bool):
        return
    if old in hidden[0] or new in hidden[1]:
        if before != after:
            yield Leaf(path=path, before=before, after=after, hidden=True)
        return
    maps = tuple(side if isinstance(side, Mapping) else {} for side in (before, after))
    if any(maps) and all(side is None or isinstance(side, Mapping) for side in (before, after)):
        for key in sorted({*map(str, maps[0]), *map(str, maps[1])}):
            yield from _walk(maps[0].get(key), maps[1].get(key), (*path, key), (*old, key), (*new, key), hidden)
        return
    lists = tuple(side if isinstance(side, list) else [] for side in (before, after))
    if any(lists) and all(side is None or isinstance(side, list) for side in (before, after)):
        yield from _walk_lists(lists[0], lists[1], path, old, new, hidden)
        return
    if before != after or isinstance(before, bool) != isinstance(after, bool):  # else both are empty
        yield Leaf(path=path, before=before, after=after, hidden=False)


def _walk_lists(
    before: list[Any], after: list[Any], path: Path, old: Path, new: Path, hidden: tuple[frozenset[Path], ...]
) -> Iterator[Leaf]:
    """Containers, variables, volumes by their names: one that is put in front moves all others, and changes none."""
    names = (_by_name(before), _by_name(after))
    if all(names[side] or not given for side, given in enumerate((before, after))):
        places = tuple({name: index for index, name in enumerate(found)} for found in names)
        for name in dict.fromkeys((*names[0], *names[1])):
            was, now = (found.get(name) for found in names)
            where = (*old, places[0].get(name, -1)), (*new, places[1].get(name, -1))
            yield from _walk(was, now, (*path, f"[{name}]"), *where, hidden)
        return
    for index in range(max(len(before), len(after))):
        was, now = (side[index] if index < len(side) else None for side in (before, after))
        yield from _walk(was, now, (*path, index), (*old, index), (*new, index), hidden)


def _by_name(items: Any) -> dict[str, Any]:
    """The parts of a list by their names; nothing where not all have one of their own."""
    if not isinstance(items, list) or not all(isinstance(item, Mapping) and isinstance(item.get("name"), str) for item in items):
        return {}
    named = {str(item["name"]): item for item in items}
    return named if len(named) == len(items) else {}


def counts_of(differences: Iterable[Difference]) -> Counts:
    counted: Counter[str] = Counter()
    for one in differences:
        if one.action in _COUNTED:
            counted[_COUNTED[one.action]] += 1
        if one.looked is not None and one.looked.taken_over:
            counted["imported"] += 1
    return Counts(**counted)


def plan_of(
    differences: Iterable[Difference],
    *,
    engine_build: str,
    veil: Veil,
    hooks: Iterable[Manifest] = (),
    risks: Iterable[str] = (),
    source: str = "",
    semantic_digest: str = "",
) -> Plan:
    """What the whole run carries about a release's plan: no values, bounded, worst first. `hooks` are those that would run; `risks` are
    sentences of the engine's own, which come after those about what would be lost."""
    found = [one for one in differences if one.action != "no-op" or ChangeClass.IMPORT in one.classes]
    classes = {one for difference in found for one in difference.classes}
    return Plan(
        engine="helm",
        engine_build=engine_build,
        source=source,
        counts=counts_of(found),
        change_class=worst(classes),
        classes=tuple(sorted(classes, key=lambda c: c.rank)),
        changes=shown(change_of(one, veil) for one in _worst_first(found)[:SHOWN]),
        risks=tuple(veil.redactor.line(sentence, 500) for sentence in (*_of_losses(found), *risks, *_of_changes(found), *_of_hooks(hooks))),
        semantic_digest=semantic_digest,
    )


def drift_of(differences: Iterable[Difference], *, engine_build: str, veil: Veil, semantic_digest: str = "") -> Plan:
    """The same of what others did. Nothing of it is going to be done."""
    found = [one for one in differences if one.action != "no-op"]
    plan = plan_of(found, engine_build=engine_build, veil=veil, semantic_digest=semantic_digest)
    gone = [one.key.address for one in found if one.action == "delete"]
    changed = [one.key.address for one in found if one.action == "update"]
    told = [f"Gone, and made again by the next deploy: {_listed(gone)}."] if gone else []
    if changed:
        told.append(f"Changed outside of this release; the next deploy changes back what the chart says otherwise: {_listed(changed)}.")
    return plan.model_copy(update={"risks": tuple(told), "drift": True})


def change_of(difference: Difference, veil: Veil) -> Change:
    names = [leaf.name for leaf in difference.told]
    if difference.action != "update" and difference.action != "replace":
        names = list(dict.fromkeys(str(leaf.path[0]) for leaf in difference.told))
    return Change(
        address=difference.key.address,
        type=difference.key.type,
        action={"keep": "forget", "no-op": "import"}.get(difference.action, difference.action),
        change_class=worst(difference.classes),
        replace_paths=tuple(veil.redactor.line(path) for path in (difference.looked.immutable if difference.looked else ())[:ATTRIBUTES]),
        attributes=tuple(veil.redactor.line(name) for name in names[:ATTRIBUTES]),
    )


def record_of(difference: Difference, fingerprints: Fingerprints) -> dict[str, Any]:
    """What a semantic document says of one object: equal records mean the same to whoever agreed."""
    where = difference.key.address

    def mac(leaf: Leaf, value: object) -> str | None:
        return None if value is None else fingerprints.of(tree(value), "attribute", where, leaf.name)

    return {
        "address": where,
        "actions": [difference.action],
        "classes": [str(c) for c in difference.classes],
        "attributes": {leaf.name: [mac(leaf, leaf.before), mac(leaf, leaf.after)] for leaf in difference.leaves},
        "conflicts": sorted(f"{c.manager} {c.field}" for c in (difference.looked.conflicts if difference.looked else ())),
        "replace_paths": list(difference.looked.immutable if difference.looked else ()),
    }


def view_of(differences: Iterable[Difference], *, mode: str, engine_build: str, veil: Veil, hooks: Iterable[Manifest] = ()) -> bytes:
    """`countersign.view/1` as JSON: the whole plan for people, as Terraform's; `hooks` are listed beside the changes."""
    found = _worst_first(one for one in differences if one.action != "no-op" or ChangeClass.IMPORT in one.classes)
    written: list[dict[str, Any]] = []
    room = SIZE
    for one in found[:CHANGES]:
        entry = _entry(one, veil)
        room -= len(json.dumps(entry))
        if room < 0:
            break
        written.append(entry)
    whole = {
        "v": "countersign.view/1",
        "engine_version": engine_build,
        "mode": mode,
        "counts": counts_of(found).model_dump(),
        "change_class": worst(c for one in found for c in one.classes),
        "total": len(found),
        "shown": len(written),
        "truncated": len(written) < len(found),
        "classes": Counter(str(worst(one.classes)) for one in found),
        "changes": written,
        "outputs": [],
        "outputs_total": 0,
        "hooks": [hook_row(one) for one in _in_order(hooks)][:LEAVES],
    }
    return json.dumps(whole, ensure_ascii=False).encode("utf-8", "backslashreplace")


def hook_row(one: Manifest) -> dict[str, Any]:
    hook = one.hook
    row: dict[str, Any] = {"address": one.key.address, "source": one.source}
    if hook is not None:
        row |= {"events": list(hook.events), "weight": hook.weight, "delete_policies": list(hook.delete_policies)}
    return row


def _entry(difference: Difference, veil: Veil) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    immutable = difference.looked.immutable if difference.looked else ()
    for leaf in difference.told[:LEAVES]:
        before, after = sides(leaf, veil, difference.key.address)
        row: dict[str, Any] = {"name": veil.redactor.line(leaf.name), "before": before, "after": after}
        if leaf.hidden:
            row["sensitive"] = True
        if any(leaf.name.startswith(path.lstrip(".")) for path in immutable):
            row["forces_replacement"] = True
        rows.append(row)
    entry = change_of(difference, veil).model_dump(mode="json")
    entry |= {"attributes": rows, "attributes_left_out": max(0, len(difference.told) - LEAVES), "reason": None}
    if difference.looked is not None and difference.looked.unchecked:
        entry["unchecked"] = veil.redactor.line(difference.looked.unchecked)
    return entry


def sides(leaf: Leaf, veil: Veil, address: str) -> tuple[str | None, str | None]:
    """Before and after as text for people; of long texts only the lines that differ."""

    def told(value: object) -> str | None:
        if value is None:
            return None
        if leaf.hidden:
            return veil.fingerprint(value, address, leaf.name)
        if isinstance(value, str):
            return veil.text(value, address, leaf.name)
        return json.dumps(value, ensure_ascii=False)  # numbers, true and false, and what is empty

    before, after = told(leaf.before), told(leaf.after)
    if before is not None and after is not None:
        if before == after:
            before, after = (f"{cut(text, TEXT)} {veil.fingerprint(value, address, leaf.name)}" for text, value in
                             ((before, leaf.before), (after, leaf.after)))  # fmt: skip
        elif "\n" in before + after:
            before, after = _apart(before, after)
    return (None if before is None else cut(before, TEXT)), (None if after is None else cut(after, TEXT))


def _apart(before: str, after: str) -> tuple[str, str]:
    """Two texts of many lines without the lines they begin and end with alike."""
    olds, news = before.split("\n"), after.split("\n")
    shortest = min(len(olds), len(news))
    same = next((i for i in range(shortest) if olds[i] != news[i]), shortest)
    ends = next((i for i in range(shortest - same) if olds[-1 - i] != news[-1 - i]), shortest - same)
    told = f"… {same} lines alike …\n" if same else ""
    return told + "\n".join(olds[same : len(olds) - ends]), told + "\n".join(news[same : len(news) - ends])


def _of_losses(found: list[Difference]) -> Iterator[str]:
    """Sentences a reviewer reads first, the worst at the top. They name addresses, never values."""
    gone = [one for one in found if one.action in ("delete", "replace")]
    if lost := [one for one in gone if is_stateful(one.key)]:
        yield f"Data may be lost: {_named(lost)} would be deleted or replaced."
    if crds := [one for one in gone if one.manifest.is_crd]:
        yield f"With a CustomResourceDefinition every object of its kind is deleted: {_named(crds)}."
    if spaces := [one for one in gone if one.key.type == "Namespace"]:
        yield f"With a Namespace everything in it is deleted, whoever put it there: {_named(spaces)}."
    if deleted := [one for one in gone if one.action == "delete" and not is_stateful(one.key)]:
        yield f"{_some(len(deleted), 'object')} would be deleted: {_named(deleted)}."
    if replaced := [one for one in gone if one.action == "replace"]:
        fields = sorted({path for one in replaced if one.looked is not None for path in one.looked.immutable})
        yield f"The cluster does not let {_listed(fields)} change: {_named(replaced)} would have to be deleted and made again."
    if idle := [one for one in found if any(_to_zero(leaf) for leaf in one.leaves)]:
        yield f"Would run no more, scaled to zero: {_named(idle)}."


def _of_changes(found: list[Difference]) -> Iterator[str]:
    conflicts = [(one, conflict) for one in found if one.looked is not None for conflict in one.looked.conflicts]
    if conflicts:
        managers = sorted({conflict.manager for _, conflict in conflicts})
        fields = [f"{one.key.address} {conflict.field}" for one, conflict in conflicts]
        yield f"Fields that {_listed(managers)} manages would be taken over by force: {_listed(fields)}."
    if taken := [one for one in found if one.looked is not None and one.looked.taken_over]:
        yield f"Existing objects would come under this release's control: {_named(taken)}."
    if rights := [one for one in found if is_rights(one.key)]:
        yield f"Changes who may do what: {_named(rights)}."
    runs = [one for one in found if one.action != "delete" and not one.manifest.is_crd]  # a definition only spells these words
    if bold := [one for one in runs if any(_on_the_node(leaf) for leaf in one.leaves)]:
        yield f"Gets rights on the machines it runs on (privileged, or the host's files or network): {_named(bold)}."
    if kept := [one for one in found if one.action == "keep"]:
        yield f"Left behind, running and unmanaged, for its resource-policy is keep: {_named(kept)}."
    unchecked = [one for one in found if one.looked is not None and one.looked.unchecked]
    if unchecked:
        why = list(dict.fromkeys(one.looked.unchecked for one in unchecked if one.looked is not None))
        yield f"The cluster could not be asked about {_named(unchecked)}: {_listed(why)}."


def _of_hooks(hooks: Iterable[Manifest]) -> Iterator[str]:
    told = [f"{one.key.address} ({', '.join(one.hook.events)})" for one in _in_order(hooks) if one.hook is not None]
    if told:
        yield f"Hooks run while applying: {_listed(told)}. A plan cannot show what they do."


def _in_order(hooks: Iterable[Manifest]) -> list[Manifest]:
    return sorted(hooks, key=lambda one: (one.hook.weight if one.hook is not None else 0, one.key))


def _to_zero(leaf: Leaf) -> bool:
    return leaf.path == ("spec", "replicas") and leaf.after == 0 and leaf.before not in (None, 0)


def _on_the_node(leaf: Leaf) -> bool:
    if leaf.after is None or leaf.after is False:
        return False
    return any(step in ("privileged", "hostNetwork", "hostPID", "hostIPC", "hostPath", "hostPort") for step in leaf.path)


def _worst_first(differences: Iterable[Difference]) -> list[Difference]:
    return sorted(differences, key=lambda one: (-worst(one.classes).rank, one.key.address))


def _named(found: list[Difference]) -> str:
    return _listed([one.key.address for one in found])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _some(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
