"""How bad is a change: from harmless labels to what destroys data.

The actions an engine may write are a closed list; what has no name here is `unknown`, which policy denies by default.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache

from countersign.core.plan import ChangeClass
from countersign.core.terraform.document import ResourceChange, marked

LABELS = frozenset({"tags", "tags_all", "labels", "effective_labels", "terraform_labels", "annotations", "effective_annotations"})

# What holds data or names others depend on: to lose one is not undone by creating it again.
STATEFUL_TYPES: tuple[str, ...] = (
    "*database*", "*_db_*", "*_db", "*sql*", "*rds*", "*dynamodb*", "*spanner*", "*bigtable*", "*bigquery*", "*firestore*", "*mongo*",
    "*redis*", "*memcache*", "*elasticache*", "*opensearch*", "*elasticsearch*", "*bucket*", "*disk*", "*volume*", "*snapshot*",
    "*_ebs_*", "*_efs_*", "*filestore*", "*file_system*", "*storage_account*", "*kms*", "*_key*", "*secret*", "*_cluster*", "*project",
    "*_organization*", "*dns*zone*", "*_zone", "*registry*", "*_ecr_*", "*repository*", "*topic*", "*queue*", "*_stream*",
    "*kubernetes_namespace*", "*persistent_volume*", "*cosmosdb*", "*alloydb*", "*redshift*", "*docdb*", "*resource_group", "*vault*",
)  # fmt: skip

# Who may do what.
RIGHTS_TYPES: tuple[str, ...] = ("*_iam_*", "*_iam", "*role*", "*policy*", "*_permission*", "*_grant*", "*membership*", "*access_binding*")
_RIGHTS_ATTRIBUTES = frozenset({"member", "members", "role", "role_arn", "role_id", "policy", "policy_arn", "policy_data", "principal",
                                "principal_id", "principals", "subject", "subjects", "assume_role_policy", "bindings"})  # fmt: skip

_ACTIONS: dict[tuple[str, ...], str] = {
    ("no-op",): "no-op",
    ("create",): "create",
    ("read",): "read",
    ("update",): "update",
    ("delete", "create"): "replace",
    ("create", "delete"): "replace",
    ("delete",): "delete",
    ("forget",): "forget",
    ("create", "forget"): "forget",
    ("forget", "create"): "forget",
}


def action_of(change: ResourceChange) -> str:
    """The one word people read; "unknown" for what this version does not know."""
    if (known := change.made_out.get("action")) is None:
        known = change.made_out["action"] = _action_of(change)
    return known


def _action_of(change: ResourceChange) -> str:
    action = _ACTIONS.get(change.actions, "unknown")
    if action == "no-op":
        return "import" if change.importing is not None else "move" if change.moved else "no-op"
    return action


def classes_of(change: ResourceChange, stateful: Iterable[str] = STATEFUL_TYPES) -> tuple[ChangeClass, ...]:
    """Every class that fits, mildest first: import and move combine with any other."""
    if stateful is not STATEFUL_TYPES:
        return _classes_of(change, stateful)
    if (known := change.made_out.get("classes")) is None:
        known = change.made_out["classes"] = _classes_of(change, stateful)
    return known


def _classes_of(change: ResourceChange, stateful: Iterable[str]) -> tuple[ChangeClass, ...]:
    action = action_of(change)
    found = _of_update(change, stateful) if action == "update" else _main_classes(action, is_stateful(change.type, stateful))
    return _combined(found, imported=change.importing is not None, moved=change.moved)


@lru_cache(maxsize=1024)  # a plan has thousands of changes and a handful of kinds
def _combined(main: frozenset[ChangeClass], *, imported: bool, moved: bool) -> tuple[ChangeClass, ...]:
    found = main | ({ChangeClass.IMPORT} if imported else set()) | ({ChangeClass.MOVE} if moved else set())
    if len(found) > 1:
        found = found - {ChangeClass.NONE}
    return tuple(sorted(found, key=lambda c: c.rank))


def _of_update(change: ResourceChange, stateful: Iterable[str]) -> frozenset[ChangeClass]:
    attributes = change.attributes()
    names = {name for name, _, _ in attributes}
    found = {ChangeClass.LABELS if names and names <= LABELS else ChangeClass.UPDATE}
    if unknown_rights(change) or (is_stateful(change.type, stateful) and any(marked(after.unknown) for _, _, after in attributes)):
        found.add(ChangeClass.CREATE)  # nobody can see yet what will be granted or set: more than an update, and still one
    return frozenset(found)


@lru_cache(maxsize=64)
def _main_classes(action: str, holds_data: bool) -> frozenset[ChangeClass]:
    match action:
        case "no-op" | "read" | "import" | "move":
            return frozenset({ChangeClass.NONE})
        case "create":
            return frozenset({ChangeClass.CREATE})
        case "replace":
            return frozenset({ChangeClass.STATEFUL_REPLACE if holds_data else ChangeClass.REPLACE})
        case "delete":
            return frozenset({ChangeClass.STATEFUL_DELETE if holds_data else ChangeClass.DELETE})
        case "forget":
            return frozenset({ChangeClass.FORGET})
        case _:
            return frozenset({ChangeClass.UNKNOWN})


def is_stateful(type_name: str, stateful: Iterable[str] = STATEFUL_TYPES) -> bool:
    # The usual patterns are the same tuple each time: to hash forty texts is most of the work.
    return _is_stateful(type_name) if stateful is STATEFUL_TYPES else _any_matches(type_name, tuple(stateful))


@lru_cache(maxsize=1024)
def _is_stateful(type_name: str) -> bool:
    return _any_matches(type_name, STATEFUL_TYPES)


@lru_cache(maxsize=1024)
def is_rights(type_name: str) -> bool:
    return _any_matches(type_name, RIGHTS_TYPES)


@lru_cache(maxsize=1024)  # a plan has thousands of changes and a handful of types
def _any_matches(type_name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(type_name, pattern) for pattern in patterns)


def unknown_rights(change: ResourceChange) -> tuple[str, ...]:
    """Attributes that grant something and are settled only at apply."""
    if not is_rights(change.type):
        return ()
    return tuple(name for name, _, after in change.attributes() if name in _RIGHTS_ATTRIBUTES and marked(after.unknown))
