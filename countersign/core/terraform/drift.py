"""Drift: what was changed outside of a stack since its last apply, told like a plan so that people read it as one.

A refresh-only plan says it beside the changes it would make, of which it has none. Nothing of it is ever applied: the next plan of
the stack takes the drift into account by itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from countersign.core.plan import Plan
from countersign.core.terraform import document as doc
from countersign.core.terraform.document import ResourceChange

NAMED = 5  # addresses in one sentence


def as_changes(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a refresh-only plan with what drifted as its changes. Outputs follow from that and are left out."""
    return {**document, "resource_changes": document.get("resource_drift") or [], "resource_drift": [], "output_changes": {}}


def told(plan: Plan, document: Mapping[str, Any]) -> Plan:
    """`plan` is of `as_changes(document)`: what it says about the future is about the past here."""
    drifted = [c for c in doc.changes(document) if not c.bare_no_op]
    return plan.model_copy(update={"risks": tuple(_sentences(drifted)), "drift": True})


def _sentences(drifted: list[ResourceChange]) -> Iterator[str]:
    gone = [c.address for c in drifted if "delete" in c.actions]
    changed = [c.address for c in drifted if c.actions == ("update",)]
    if gone:
        yield f"Gone, and made again by the next apply: {_listed(gone)}."
    if changed:
        yield f"Changed outside of this stack; the next apply changes back what the configuration says otherwise: {_listed(changed)}."


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
