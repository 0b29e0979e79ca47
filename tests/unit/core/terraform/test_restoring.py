"""The difference between two states, told as a plan."""

import json
from typing import Any

from countersign.core.redaction import Redactor
from countersign.core.terraform import document as doc
from countersign.core.terraform.classes import action_of
from countersign.core.terraform.plan import plan_of
from countersign.core.terraform.restoring import document_of, sentences
from countersign.core.terraform.state import StateDocument, read, written
from tests.requirements import requirement


def thing(
    name: str, *, mode: str = "managed", sensitive: Any = (), key: Any = None, status: str | None = None, **attributes: Any
) -> dict[str, Any]:
    own: dict[str, Any] = {"attributes": {"id": name, **attributes}, "sensitive_attributes": list(sensitive)}
    own |= {"index_key": key} if key is not None else {}
    own |= {"status": status} if status else {}
    return {"mode": mode, "type": "fake_thing", "name": name, "provider": 'provider["fake.test/a/fake"]', "instances": [own]}


def state(*resources: dict[str, Any], **outputs: Any) -> StateDocument:
    whole = {"version": 4, "serial": 3, "lineage": "l", "terraform_version": "1.11.4", "resources": list(resources), "outputs": outputs}
    return read(json.dumps(whole).encode())


def told(now: StateDocument | None, then: StateDocument) -> dict[str, Any]:
    return doc.parse(written(document_of(now, then)).encode())


def actions(now: StateDocument | None, then: StateDocument) -> dict[str, str]:
    return {c.address: action_of(c) for c in doc.changes(told(now, then))}


def mark(*path: Any) -> list[dict[str, Any]]:
    kinds = {str: "get_attr", int: "index"}
    steps: list[dict[str, Any]] = []
    for part in path:
        value = part if isinstance(part, str) else {"value": part, "type": "number"}
        steps.append({"type": kinds[type(part)], "value": value})
    return steps


@requirement("state:restored")
def test_every_kind_of_difference_between_two_records_is_a_change_of_the_record_alone() -> None:
    now = state(thing("same"), thing("new"), thing("changed", size=2), thing("tainted", status="tainted"), thing("d", mode="data"))
    then = state(thing("same"), thing("old"), thing("changed", size=1), thing("tainted"))

    assert actions(now, then) == {
        "fake_thing.changed": "update",
        "fake_thing.new": "forget",
        "fake_thing.old": "import",
        "fake_thing.same": "no-op",
        "fake_thing.tainted": "update",
    }


@requirement("state:restored")
def test_another_object_under_the_same_address_lets_go_of_the_one_that_is_recorded_now() -> None:
    assert actions(state(thing("one") | {"instances": [{"attributes": {"id": "b"}}]}), state(thing("one"))) == {"fake_thing.one": "forget"}


@requirement("state:restored")
def test_where_there_is_no_state_everything_comes_back() -> None:
    document = told(None, state(thing("one", key=0), a={"value": 1, "type": "number"}))

    [change] = doc.changes(document)
    assert (change.address, change.importing) == ("fake_thing.one[0]", {"id": "one"})
    assert [(name, kinds) for name, kinds, *_ in doc.outputs(document)] == [("a", ("create",))]


@requirement("state:restored")
def test_a_deposed_object_is_one_of_its_own() -> None:
    aside = {"instances": [{"attributes": {"id": "x"}, "deposed": "abcd"}, {"attributes": {"id": "one"}}]}

    found = [(c.address, c.deposed, action_of(c)) for c in doc.changes(told(state(thing("one") | aside), state(thing("one"))))]

    assert found == [("fake_thing.one", None, "no-op"), ("fake_thing.one", "abcd", "forget")]


@requirement("state:restored")
def test_outputs_that_differ_are_named_and_equal_ones_are_not() -> None:
    one, two = {"value": "first", "type": "string"}, {"value": "second", "type": "string", "sensitive": True}

    document = told(state(a=one, b=one, c=one), state(a=one, b=two, d=two))

    assert {name: kinds for name, kinds, *_ in doc.outputs(document)} == {"b": ("update",), "c": ("delete",), "d": ("create",)}
    assert "second" in doc.secrets_of(document)
    assert "first" not in doc.secrets_of(document)


@requirement("state:restored")
def test_what_is_marked_in_either_state_is_a_secret_of_the_plan() -> None:
    marks = [
        mark("token"),
        mark("token", "part"),
        mark("nested", "key"),
        mark("nested", "other"),
        mark("items", 0),
        mark("items", 1),
        mark("deep", "a"),
    ]
    values: Any = {"token": {"part": "token-of-old"}, "nested": {"key": "key-of-old", "other": "other-of-old", "open": "plain-value"}}
    values["deep"] = {"a": {"b": "deep-of-old"}}
    secret = thing("one", sensitive=marks, items=["first-of-old", "second-of-old"], **values)
    whole = thing("two", sensitive=[mark("gone", "away")], size="all-of-two-hidden")

    document = told(state(thing("one")), state(secret, whole))

    found = doc.secrets_of(document)
    assert {"token-of-old", "key-of-old", "other-of-old", "first-of-old", "second-of-old", "all-of-two-hidden"} <= found
    assert "plain-value" not in found


@requirement("state:restored")
def test_the_plan_is_classed_by_what_the_record_loses() -> None:
    plan = plan_of(
        told(state(thing("one"), thing("two")), state(thing("one"))), engine="terraform", semantic_digest="", redactor=Redactor()
    )

    assert (str(plan.change_class), plan.counts.forgotten, plan.engine_build) == ("forget", 1, "terraform 1.11.4")
    assert plan.risks == ("Left behind, running and unmanaged: fake_thing.two.",)


def test_people_are_told_which_serial_becomes_which() -> None:
    assert list(sentences(serial=3, written=9)) == [
        "Only the record changes, nothing in the cloud: the next plan compares it with what exists, and makes again what is gone.",
        "The content of serial 3 is written as serial 9; what is there now stays in the history.",
    ]
