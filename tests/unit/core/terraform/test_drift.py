"""Drift as people read it: by address, in the past, and never as something that would be applied."""

import json
from typing import Any

from countersign.core.plan import ChangeClass, Counts, Plan
from countersign.core.redaction import Redactor
from countersign.core.terraform import document as doc
from countersign.core.terraform.drift import as_changes, told
from countersign.core.terraform.plan import plan_of


def entry(address: str, before: Any, after: Any, *actions: str) -> dict[str, Any]:
    kind, name = address.split(".")
    change = {"actions": list(actions), "before": before, "after": after, "before_sensitive": {}, "after_sensitive": {}}
    return {"address": address, "mode": "managed", "type": kind, "name": name, "change": change}


def drifted(*entries: dict[str, Any]) -> Plan:
    whole = {
        "format_version": "1.2",
        "terraform_version": "1.11.4",
        "resource_changes": [entry("fake_thing.kept", {"size": 1}, {"size": 1}, "no-op")],
        "resource_drift": list(entries),
        "output_changes": {"size": {"actions": ["update"], "before": 1, "after": 2}},
    }
    document = as_changes(doc.parse(json.dumps(whole)))
    return told(plan_of(document, engine="terraform", semantic_digest="d", redactor=Redactor()), document)


def test_what_changed_and_what_is_gone_are_told_by_address() -> None:
    plan = drifted(
        entry("fake_thing.one", {"size": 1, "name": "one"}, {"size": 9, "name": "one"}, "update"),
        entry("fake_database.two", {"name": "two"}, None, "delete"),
        entry("fake_thing.still", {"size": 1}, {"size": 1}, "no-op"),
    )

    assert (plan.counts, plan.change_class) == (Counts(update=1, delete=1), ChangeClass.STATEFUL_DELETE)
    assert plan.in_words == "1 changed, 1 gone"
    assert [(c.address, c.action, c.attributes) for c in plan.changes] == [
        ("fake_database.two", "delete", ("name",)),
        ("fake_thing.one", "update", ("size",)),
    ]
    assert plan.risks == (
        "Gone, and made again by the next apply: fake_database.two.",
        "Changed outside of this stack; the next apply changes back what the configuration says otherwise: fake_thing.one.",
    )
    assert plan.outputs_changed == ()


def test_without_drift_there_is_nothing_to_tell() -> None:
    plan = drifted()

    assert (plan.changes_anything, plan.risks) == (False, ())


def test_of_many_a_few_are_named() -> None:
    plan = drifted(*(entry(f"fake_thing.n{n}", {"size": 1}, {"size": 2}, "update") for n in range(7)))

    assert plan.risks[0].endswith("fake_thing.n4 and 2 more.")
