"""One digest for all plans that mean the same, and another for each that means something else (reference 2.2)."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from countersign.core.errors import ProviderError
from countersign.core.terraform import document as doc
from countersign.core.terraform.document import Number, Side
from countersign.core.terraform.semantic import Macs, Origin, difference, semantic, tagged, variables
from tests.requirements import requirement
from tests.unit.core.terraform.plans import FIXTURES, RECORDED, edited, entry, recorded, written

MACS = Macs(key=b"a key of the deployment", kid="k1")
ORIGIN = Origin(stack_id="st_1", mode="normal", engine="terraform", source="sha256:" + "1" * 64, lock="sha256:" + "2" * 64)


def digest(document: dict[str, Any], origin: Origin = ORIGIN, macs: Macs = MACS) -> str:
    return semantic(document, origin=origin, macs=macs)[1]


def records(document: dict[str, Any]) -> dict[str, Any]:
    return {r["address"]: r for r in json.loads(semantic(document, origin=ORIGIN, macs=MACS)[0])["changes"]}


# The form itself.


def test_a_whole_document_written_out() -> None:
    document = written(
        entry("update", address="thing.b", before={"id": "1", "a": 1, "s": "x"}, after={"id": "1", "a": 2, "s": "x"}),
        entry(after={"a": 1, "n": None}, unknown={"id": True}, sensitive={"a": True}),
        variables={"region": {"value": "eu"}},
        output_changes={"o": {"actions": ["create"], "before": None, "after": "v"}},
    )

    data, _ = semantic(document, origin=ORIGIN, macs=MACS)

    assert json.loads(data) == {
        "v": "countersign.plan/1",
        "kid": "k1",
        "stack": "st_1",
        "mode": "normal",
        "engine": "terraform 1.11.4",
        "source": "sha256:" + "1" * 64,
        "lock": "sha256:" + "2" * 64,
        "targets": [],
        "variables": {"region": "eb1d29b3ee69493715a5a3e1db95f6a7"},
        "changes": [
            {
                "address": "thing.a",
                "mode": "managed",
                "type": "thing",
                "provider": "registry.terraform.io/acme/thing",
                "deposed": None,
                "previous_address": None,
                "actions": ["create"],
                "classes": ["create"],
                "replace_paths": [],
                "attributes": {"a": [None, "ab7390cc4ce4802504c6b47783124c49!"], "id": [None, "?"]},
            },
            {
                "address": "thing.b",
                "mode": "managed",
                "type": "thing",
                "provider": "registry.terraform.io/acme/thing",
                "deposed": None,
                "previous_address": None,
                "actions": ["update"],
                "classes": ["update"],
                "replace_paths": [],
                "attributes": {"a": ["62d5ff3eefd4edd23b1be1f3eb21768e", "959427b4ff9e20547a9526fb1c8df08b"]},
                "object": "7b2f5da12a0b2172de6086d641905fca",
            },
        ],
        "outputs": {"o": [["create"], None, "a524a15a4abc06eb53aebc78a0879cbd"]},
        "actions": [],
    }


def test_the_digest_is_that_of_the_document_and_needs_no_key() -> None:
    data, found = semantic(recorded("demo_change"), origin=ORIGIN, macs=MACS)

    assert found == "sha256:" + hashlib.sha256(data).hexdigest()
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# What does not matter.


def shuffled(document: Any) -> Any:
    """Keys of every object the other way round, and resource_changes too."""
    if isinstance(document, dict):
        turned = {key: shuffled(document[key]) for key in reversed(document)}
        if "resource_changes" in turned:
            turned["resource_changes"].reverse()
        return turned
    return [shuffled(item) for item in document] if isinstance(document, list) else document


UNIMPORTANT: dict[str, Callable[[dict[str, Any]], object]] = {
    "time": lambda d: d.update(timestamp="2031-01-01T00:00:00Z"),
    "prior state": lambda d: d.update(prior_state={"values": {"outputs": {"x": {"value": 1}}}}),
    "planned values": lambda d: d.pop("planned_values"),
    "drift": lambda d: d.update(resource_drift=[entry("update", before={"a": 1}, after={"a": 2})]),
    "relevant attributes": lambda d: d.update(relevant_attributes=[]),
    "reasons": lambda d: [c.update(action_reason="replace_because_tainted") for c in d["resource_changes"]],
    "lineage and serial": lambda d: d.update(lineage="x", serial=Number("99")),
    "checks": lambda d: d.update(checks=[{"status": "fail"}]),
    "the configuration": lambda d: d.pop("configuration"),
    "a bare no-op": lambda d: d["resource_changes"].append(entry("no-op", before={"id": "1"}, after={"id": "1"})),
    "an unchanged output": lambda d: d["output_changes"].update(same={"actions": ["no-op"], "before": 1, "after": 1}),
}


@requirement("plan:semantic-digest")
@pytest.mark.parametrize("what", UNIMPORTANT)
def test_what_is_left_out_on_purpose_changes_nothing(what: str) -> None:
    document = recorded("demo_change")

    assert digest(edited(document, UNIMPORTANT[what])) == digest(document)


@requirement("plan:semantic-digest")
@pytest.mark.parametrize("name", [n for n in RECORDED if n != "demo_target"])
def test_order_and_formatting_change_nothing(name: str) -> None:
    document = recorded(name)

    assert digest(shuffled(document)) == digest(document)
    raw = json.loads((FIXTURES / "plans" / f"{name}.json").read_bytes())
    assert digest(doc.parse(json.dumps(raw, sort_keys=True, separators=(",", ":")))) == digest(document)


@requirement("plan:semantic-digest")
@pytest.mark.parametrize("spelling", ["3", "3.0", "30e-1", "0.3e1"])
def test_the_spelling_of_a_number_changes_nothing(spelling: str) -> None:
    plan = '{"format_version": "1.2", "resource_changes": [{"address": "t.a", "change": {"actions": ["create"], "after": {"a": %s}}}]}'
    assert digest(doc.parse(plan % spelling)) == digest(doc.parse(plan % "3"))


@requirement("plan:semantic-digest")
def test_an_old_value_does_not_matter_where_the_new_one_is_unknown() -> None:
    def plan(old: str) -> dict[str, Any]:
        return written(entry("update", before={"id": "1", "etag": old}, after={"id": "1"}, unknown={"etag": True}))

    assert digest(plan("one")) == digest(plan("two"))


def test_an_old_value_matters_where_part_of_the_new_one_is_known() -> None:
    def plan(old: str) -> dict[str, Any]:
        return written(entry("update", before={"id": "1", "l": [old]}, after={"id": "1", "l": ["b", None]}, unknown={"l": [False, True]}))

    assert digest(plan("one")) != digest(plan("two"))


@requirement("plan:semantic-digest")
def test_after_an_apply_nothing_is_left_to_compare() -> None:
    data, _ = semantic(recorded("no_change"), origin=ORIGIN, macs=MACS)

    assert json.loads(data)["changes"] == []
    assert json.loads(data)["outputs"] == {}


def test_volatile_variables_may_differ() -> None:
    def plan(token: str) -> dict[str, Any]:
        return written(entry(after={"a": 1}), variables={"token": {"value": token}, "region": {"value": "eu"}})

    volatile = Origin(**{**vars(ORIGIN), "volatile": frozenset({"token"})})

    assert digest(plan("one"), volatile) == digest(plan("two"), volatile)
    assert digest(plan("one")) != digest(plan("two"))


# What does matter.


def changes(document: dict[str, Any], address: str) -> dict[str, Any]:
    (found,) = [c for c in document["resource_changes"] if c["address"] == address]
    return found


def change(document: dict[str, Any], address: str) -> dict[str, Any]:
    found: dict[str, Any] = changes(document, address)["change"]
    return found


API = 'module.service["api"]'
IMPORTANT: dict[str, Callable[[dict[str, Any]], object]] = {
    "a value": lambda d: change(d, f"{API}.terraform_data.disk")["after"].update(input="another"),
    "a rotated secret": lambda d: change(d, f"{API}.terraform_data.database")["after"]["input"].update(password="once more"),
    "the secret that was": lambda d: change(d, f"{API}.terraform_data.database")["before"]["input"].update(password="another"),
    "an address": lambda d: changes(d, f"{API}.terraform_data.disk").update(address="terraform_data.disk"),
    "a type": lambda d: changes(d, f"{API}.terraform_data.disk").update(type="google_compute_disk"),
    "a mode": lambda d: changes(d, f"{API}.terraform_data.disk").update(mode="data"),
    "a provider": lambda d: changes(d, f"{API}.terraform_data.disk").update(provider_name="evil/disk"),
    "a deposed object": lambda d: changes(d, f"{API}.terraform_data.disk").update(deposed="00aa00aa"),
    "the order of a replacement": lambda d: change(d, f"{API}.terraform_data.disk")["actions"].reverse(),
    "an action": lambda d: change(d, f"{API}.terraform_data.disk").update(actions=["create"]),
    "one change more": lambda d: d["resource_changes"].append(entry(after={"a": Number("1")})),
    "one change less": lambda d: d["resource_changes"].remove(changes(d, f"{API}.terraform_data.disk")),
    "why it is replaced": lambda d: change(d, f"{API}.terraform_data.disk").update(replace_paths=[["input"]]),
    "known that becomes unknown": lambda d: (
        change(d, f"{API}.terraform_data.disk")["after"].pop("input"),
        change(d, f"{API}.terraform_data.disk")["after_unknown"].update(input=True),
    ),
    "unknown that becomes known": lambda d: (
        change(d, f"{API}.terraform_data.disk")["after"].update(id="chosen"),
        change(d, f"{API}.terraform_data.disk")["after_unknown"].update(id=False),
    ),
    "a lost mark": lambda d: change(d, f"{API}.terraform_data.database").update(after_sensitive={}),
    "a new mark": lambda d: change(d, f"{API}.terraform_data.disk").update(after_sensitive={"input": True}),
    "the object it is done to": lambda d: change(d, f"{API}.terraform_data.disk")["before"].update(id="another object"),
    "where it was": lambda d: changes(d, f"{API}.terraform_data.disk").update(previous_address="terraform_data.disk"),
    "an import": lambda d: change(d, f"{API}.terraform_data.disk").update(importing={"id": "x"}),
    "generated configuration": lambda d: change(d, f"{API}.terraform_data.disk").update(generated_config="resource {}"),
    "a variable": lambda d: d["variables"]["environment"].update(value="prod"),
    "a variable nothing uses": lambda d: d["variables"].update(unused={"value": 1}),
    "an output": lambda d: d["output_changes"]["replicas"].update(after=Number("7")),
    "the action of an output": lambda d: d["output_changes"]["replicas"].update(actions=["delete"]),
    "the mark of an output": lambda d: d["output_changes"]["replicas"].update(after_sensitive=True),
    "the engine's version": lambda d: d.update(terraform_version="1.11.5"),
    "an action invoked": lambda d: d.update(action_invocations=[{"address": "action.x"}]),
}


@requirement("plan:semantic-digest", "promise:approved-is-what-runs")
@pytest.mark.parametrize("what", IMPORTANT)
def test_whatever_changes_the_meaning_changes_the_digest(what: str) -> None:
    document = recorded("demo_change")
    other = edited(document, IMPORTANT[what])

    assert digest(other) != digest(document)
    assert difference(semantic(document, origin=ORIGIN, macs=MACS)[0], semantic(other, origin=ORIGIN, macs=MACS)[0])


@requirement("plan:semantic-digest", "promise:approved-is-what-runs")
@pytest.mark.parametrize(
    "facts",
    [
        {"stack_id": "st_2"},
        {"mode": "destroy"},
        {"engine": "tofu"},
        {"source": "sha256:" + "3" * 64},
        {"lock": None},
        {"targets": ("thing.a",)},
    ],
)
def test_what_a_plan_was_made_from_is_in_its_digest(facts: dict[str, Any]) -> None:
    document = recorded("demo_change")

    assert digest(document, Origin(**{**vars(ORIGIN), **facts})) != digest(document)


@requirement("plan:semantic-digest")
def test_another_key_makes_another_digest_and_says_which_it_was() -> None:
    document = recorded("needs_variable")

    assert digest(document, macs=Macs(key=b"another", kid="k1")) != digest(document)
    assert digest(document, macs=Macs(key=MACS.key, kid="k2")) != digest(document)


@requirement("plan:semantic-digest")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 3}, {"a": "3"}),
        ({"a": True}, {"a": "true"}),
        ({"a": True}, {"a": 1}),
        ({"a": []}, {"a": {}}),
        ({"a": ""}, {"a": []}),
        ({"a": ["x", "y"]}, {"a": ["xy"]}),
        ({"a": ["x", "y"]}, {"a": ["y", "x"]}),
        ({"a": [["x"], []]}, {"a": [[], ["x"]]}),
        ({"a": {"k": "v"}}, {"a": {"k": {"v": ""}}}),
        ({"a": [None]}, {"a": []}),
        ({"a": {"k": None}}, {"a": {}}),
        ({"a": "x"}, {"b": "x"}),
        ({"a": "x"}, {"a": "x", "b": False}),
    ],
)
def test_values_that_differ_make_digests_that_differ(one: Any, other: Any) -> None:
    assert digest(written(entry(after=one))) != digest(written(entry(after=other)))


def test_a_mark_moved_inside_of_a_value_is_a_difference() -> None:
    value = {"o": {"a": "x", "b": "x"}}

    assert digest(written(entry(after=value, sensitive={"o": {"a": True}}))) != digest(
        written(entry(after=value, sensitive={"o": {"b": True}}))
    )
    assert digest(written(entry(after=value, sensitive={"o": {"a": True, "b": False}}))) == digest(
        written(entry(after=value, sensitive={"o": {"a": True}}))
    )


def test_what_is_imported_is_in_the_digest() -> None:
    def plan(**facts: Any) -> dict[str, Any]:
        return written(entry("no-op", before={"id": "1"}, after={"id": "1"}, **facts))

    digests = [digest(plan(importing={"id": id_})) for id_ in ("one", "two")]
    digests += [digest(plan(importing={"id": "one"}, generated_config=text)) for text in ("a", "b")]
    assert len(set(digests)) == 4


def test_a_deposed_object_is_another_than_the_one_that_lives() -> None:
    value = {"before": {"id": "1", "s": "x"}, "after": {"id": "1", "s": "y"}}
    plan = written(entry("update", **value), entry("update", deposed="00aa", **value))

    live, deposed = json.loads(semantic(plan, origin=ORIGIN, macs=MACS)[0])["changes"]
    assert (live["deposed"], deposed["deposed"]) == (None, "00aa")
    assert live["attributes"]["s"][1] != deposed["attributes"]["s"][1]
    assert live["object"] != deposed["object"]
    assert digest(shuffled(plan)) == digest(plan)
    gone = semantic(written(entry("update", **value)), origin=ORIGIN, macs=MACS)[0]
    assert difference(semantic(plan, origin=ORIGIN, macs=MACS)[0], gone) == ("thing.a: no longer planned (update)",)
    assert difference(semantic(written(), origin=ORIGIN, macs=MACS)[0], semantic(plan, origin=ORIGIN, macs=MACS)[0]) == (
        "thing.a: now planned (update)",
        "thing.a: now planned (update)",
    )


def test_of_what_is_destroyed_only_the_object_is_recorded() -> None:
    (record,) = records(written(entry("delete", before={"id": "1", "a": "x"}))).values()

    assert sorted(record) == [
        "actions",
        "address",
        "classes",
        "deposed",
        "mode",
        "object",
        "previous_address",
        "provider",
        "replace_paths",
        "type",
    ]


def test_what_a_replaced_object_was_does_not_matter_beside_which_it_is() -> None:
    def plan(old: str) -> dict[str, Any]:
        return written(entry("delete,create", before={"id": "1", "etag": old}, after={"etag": "new"}, unknown={"id": True}))

    assert digest(plan("one")) == digest(plan("two"))


def test_null_is_nothing_where_something_is_made() -> None:
    assert digest(written(entry(after={"a": 1, "b": None}))) == digest(written(entry(after={"a": 1})))


def test_an_update_to_null_is_an_update() -> None:
    (record,) = records(written(entry("update", before={"id": "1", "a": 1}, after={"id": "1", "a": None}))).values()

    assert record["attributes"]["a"][1] is None
    assert record["attributes"]["a"][0]


def test_identity_stands_for_the_object_where_the_provider_has_one() -> None:
    def plan(identity: dict[str, str] | None, id_: str = "1") -> dict[str, Any]:
        more = {"before_identity": identity} if identity is not None else {}
        return written(entry("delete", before={"id": id_}, **more))

    assert digest(plan({"arn": "a"})) != digest(plan({"arn": "b"}))
    assert digest(plan({"arn": "a"}, "1")) == digest(plan({"arn": "a"}, "2"))
    assert digest(plan(None, "1")) != digest(plan(None, "2"))


@pytest.mark.parametrize("actions", ["update", "delete", "delete,create", "forget"])
def test_what_is_done_to_an_object_says_to_which(actions: str) -> None:
    (record,) = records(written(entry(actions, before={"id": "1", "a": 1}, after={"id": "1", "a": 2}))).values()

    assert record["object"]
    assert "object" not in records(written(entry("create", after={"a": 1})))["thing.a"]


def test_the_order_of_invoked_actions_is_in_their_own_words() -> None:
    actions = [{"address": f"action.x[{n}]", "lifecycle_action_trigger": {"actions_list_index": n}} for n in range(3)]

    assert digest(written(action_invocations=actions)) == digest(written(action_invocations=actions[::-1]))
    assert digest(written(action_invocations=actions)) != digest(written(action_invocations=actions[:2]))


@pytest.mark.parametrize("facts", [{"errored": True}, {"complete": False}, {"deferred_changes": [{}]}])
def test_a_plan_that_is_not_whole_has_no_digest(facts: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        digest(written(**facts))


def test_a_plan_with_targets_has_one_that_names_them() -> None:
    origin = Origin(**{**vars(ORIGIN), "targets": ("b", "a")})
    data, _ = semantic(recorded("demo_target"), origin=origin, macs=MACS)

    assert json.loads(data)["targets"] == ["a", "b"]


# Values, and what is left of them.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@requirement("plan:semantic-digest")
@given(VALUES, VALUES)
def test_no_two_values_have_one_tree(one: Any, other: Any) -> None:
    assert (tagged(one) == tagged(other)) is (spelled(one) == spelled(other))


def spelled(value: Any) -> str:
    """As Python writes it, keys sorted: tells True from 1 and 1 from "1"."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {spelled(value[key])}" for key in sorted(value)) + "}"
    return f"[{', '.join(map(spelled, value))}]" if isinstance(value, list) else repr(value)


@given(VALUES, VALUES)
def test_no_two_values_have_one_mac(one: Any, other: Any) -> None:
    assume(tagged(one) != tagged(other))

    assert MACS.of(tagged(one), "d") != MACS.of(tagged(other), "d")


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_equal_secrets_in_two_places_look_different(one: list[str], other: list[str]) -> None:
    assume(one != other)

    assert MACS.of(["s", "secret"], *one) != MACS.of(["s", "secret"], *other)


@pytest.mark.parametrize(
    ("value", "unknown", "tree"),
    [
        (None, False, ["z"]),
        (None, True, ["u"]),
        ("x", True, ["u"]),
        (True, False, ["b", True]),
        (3, False, ["n", "3e0"]),
        (Number("30e-1"), False, ["n", "3e0"]),
        ("3", False, ["s", "3"]),
        ([None, "x"], [True, False], ["l", [["u"], ["s", "x"]]]),
        (None, [True], ["l", [["u"]]]),
        (["x"], [False, True], ["l", [["s", "x"], ["u"]]]),
        ({"b": "x"}, {"a": True}, ["m", [["a", "u"], ["b", "s", "x"]]]),
        (None, {"a": True}, ["m", [["a", "u"]]]),
        (None, {"a": False}, ["z"]),
        ({}, {}, ["m", []]),
        ([], [], ["l", []]),
    ],
)
def test_a_partly_unknown_value_keeps_its_known_part(value: Any, unknown: Any, tree: Any) -> None:
    assert tagged(value, unknown) == tree


def test_what_no_plan_holds_is_refused() -> None:
    with pytest.raises(TypeError, match="float"):
        tagged(1.5)


@pytest.mark.parametrize(
    ("side", "mark"),
    [
        (Side(value="x"), ""),
        (Side(value="x", sensitive=True), "!"),
        (Side(value={"a": "x"}, unknown={"b": True}), "~"),
        (Side(value={"a": "x"}, unknown={"b": True}, sensitive={"a": True}), "~!"),
    ],
)
def test_a_mac_is_sixteen_bytes_and_its_marks(side: Side, mark: str) -> None:
    text = MACS.side(side, "d")

    assert text is not None
    assert len(text) == 32 + len(mark)
    assert text.endswith(mark)
    assert int(text[:32], 16)


@pytest.mark.parametrize(
    ("side", "text"), [(Side(), None), (Side(unknown=True), "?"), (Side(unknown=True, sensitive=True), "?!"), (Side(sensitive=True), None)]
)
def test_what_has_no_value_has_no_mac(side: Side, text: str | None) -> None:
    assert MACS.side(side, "d") == text


def test_the_key_is_not_in_what_python_shows_of_it() -> None:
    assert "deployment" not in repr(MACS)


@requirement("plan:view-hides", "promise:no-secrets")
@pytest.mark.parametrize("name", [n for n in RECORDED if n != "demo_target"])
def test_no_value_of_a_plan_is_in_its_document(name: str) -> None:
    document = recorded(name)
    data, _ = semantic(document, origin=ORIGIN, macs=MACS)

    for secret in doc.secrets_of(document):
        assert secret.encode() not in data
    for text in ("only-for-the-demo", "rotated-since", "10.0.1.0/24", "open sesame", "t0ken-of-the-test", "example.internal"):
        assert text.encode() not in data


def test_a_plan_whose_names_hold_half_a_letter_has_a_digest_all_the_same() -> None:
    plan = written(entry(address='thing.a["\ud800"]', after={"\udfff": "\ud800"}), variables={"\ud800": {"value": "\ud800"}})

    assert digest(plan).startswith("sha256:")


def test_the_macs_of_variables_alone() -> None:
    document = written(variables={"b": {"value": "x"}, "a": {"value": "x"}, "v": {}})

    found = variables(document, MACS, frozenset({"v"}))
    assert list(found) == ["a", "b"]
    assert found["a"] != found["b"]
    assert variables({}, MACS) == {}


# What an approver of a plan made again sees.


@requirement("plan:semantic-digest")
def test_a_difference_names_addresses_and_attributes_and_no_value() -> None:
    old = written(
        entry("update", address="thing.u", before={"id": "1", "size": "small"}, after={"id": "1", "size": "large"}),
        entry("delete", address="thing.gone", before={"id": "2"}),
        entry("delete", address="thing.d", deposed="00aa", before={"id": "3"}),
        entry(address="thing.same", after={"a": "x"}),
        variables={"region": {"value": "eu"}, "same": {"value": 1}},
        output_changes={"o": {"actions": ["create"], "after": "x"}},
    )
    new = written(
        entry("update", address="thing.u", before={"id": "9", "size": "small"}, after={"id": "9", "size": "huge"}, replace_paths=[["a"]]),
        entry(address="thing.new", after={"a": "secret value"}),
        entry(address="thing.same", after={"a": "x"}),
        variables={"region": {"value": "us"}, "same": {"value": 1}, "added": {"value": 2}},
        output_changes={"o": {"actions": ["create"], "after": "y"}},
    )
    origin = Origin(stack_id="st_2", mode="destroy", engine="tofu", source="s", lock=None)

    lines = difference(semantic(old, origin=ORIGIN, macs=MACS)[0], semantic(new, origin=origin, macs=MACS)[0])

    assert lines == (
        "stack differs",
        "mode differs",
        "engine differs",
        "source differs",
        "lock differs",
        "variable added differs",
        "variable region differs",
        "output o differs",
        "thing.d: no longer planned (delete)",
        "thing.gone: no longer planned (delete)",
        "thing.new: now planned (create)",
        "thing.u: object, replace_paths, size",
    )


def test_equal_documents_have_no_difference() -> None:
    data, _ = semantic(recorded("kinds"), origin=ORIGIN, macs=MACS)

    assert difference(data, data) == ()
