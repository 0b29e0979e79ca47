"""Plans to test with: those a real Terraform made (tests/fixtures), and small ones written out."""

import copy
import json
from pathlib import Path
from typing import Any

from countersign.core.terraform import document as doc

FIXTURES = Path(__file__).parents[3] / "fixtures"
RECORDED = sorted(path.stem for path in (FIXTURES / "plans").glob("*.json"))


def recorded(name: str) -> dict[str, Any]:
    """A plan of a real Terraform, as `parse` gives it."""
    return doc.parse((FIXTURES / "plans" / f"{name}.json").read_bytes())


def written(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A plan of these changes, as `parse` gives it: numbers are written as Python numbers."""
    whole = {"format_version": "1.2", "terraform_version": "1.11.4", "resource_changes": list(changes), "complete": True, **more}
    return doc.parse(json.dumps(whole))


def entry(
    actions: str = "create",
    *,
    address: str = "thing.a",
    type: str = "thing",
    before: Any = None,
    after: Any = None,
    unknown: Any = None,
    was_sensitive: Any = None,
    sensitive: Any = None,
    **more: Any,
) -> dict[str, Any]:
    """One of `resource_changes`; `actions` are words with a comma between."""
    change = {
        "actions": actions.split(","),
        "before": before,
        "after": after,
        "after_unknown": unknown if unknown is not None else {},
        "before_sensitive": was_sensitive if was_sensitive is not None else {},
        "after_sensitive": sensitive if sensitive is not None else {},
    }
    of_change = ("replace_paths", "importing", "generated_config", "before_identity")
    change |= {key: more.pop(key) for key in of_change if key in more}
    return {
        "address": address,
        "mode": "managed",
        "type": type,
        "name": "a",
        "provider_name": "registry.terraform.io/acme/thing",
        "change": change,
        **more,
    }


def one(*args: Any, **more: Any) -> doc.ResourceChange:
    (change,) = doc.changes(written(entry(*args, **more)))
    return change


def edited(document: dict[str, Any], edit: Any) -> dict[str, Any]:
    """A copy, after `edit` was let at it."""
    changed = copy.deepcopy(document)
    edit(changed)
    return changed
