"""Reading `show -json`: numbers, marks beside values, and which attributes a change changes."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.errors import ProviderError
from countersign.core.terraform import document as doc
from countersign.core.terraform.document import Number, Side
from tests.requirements import requirement
from tests.unit.core.terraform.plans import RECORDED, entry, one, recorded, written

# Numbers.


@requirement("plan:semantic-digest")
@pytest.mark.parametrize(
    ("texts", "normal"),
    [
        (["3", "3.0", "30e-1", "0.3E1", "3e0", "3.000", "300e-2"], "3e0"),
        (["-3", "-3.0", "-30e-1"], "-3e0"),
        (["0", "-0", "0.0", "0e5", "-0.00e-7"], "0"),
        (["100", "1e2", "1E+2", "10e1"], "1e2"),
        (["0.001", "1e-3", "10e-4"], "1e-3"),
        (["1e400"], "1e400"),
        (["123456789012345678901234567890"], "12345678901234567890123456789e1"),
        (["0.123456789012345678901234567891"], "123456789012345678901234567891e-30"),
    ],
)
def test_numbers_are_compared_by_value_and_exactly(texts: list[str], normal: str) -> None:
    assert [Number(text).normal for text in texts] == [normal] * len(texts)
    assert len({Number(text) for text in texts}) == 1


@given(st.decimals(allow_nan=False, allow_infinity=False), st.decimals(allow_nan=False, allow_infinity=False))
def test_two_numbers_are_equal_where_they_are_equal(one_: Decimal, other: Decimal) -> None:
    a, b = Number(one_), Number(other)

    assert (a == b) is (one_ == other)
    assert (a != b) is (one_ != other)
    assert a != b or hash(a) == hash(b)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_normal_number_says_the_same_number(value: Decimal) -> None:
    assert Decimal(Number(value).normal) == value


@requirement("plan:semantic-digest")
def test_a_number_is_no_text_and_no_answer() -> None:
    assert Number("3") != "3"
    text: object = "3"
    assert text != Number("3")
    assert [Number("3")] != ["3"]
    assert {"a": Number("1")} != {"a": True}
    assert Number("3") == Number("3.0")


def test_what_is_no_decimal_is_its_own_normal() -> None:
    assert Number("0x1f").normal == "0x1f"


def test_numbers_survive_reading() -> None:
    document = written(entry(after={"big": 10**29, "plain": 3, "point": 2.5}))

    (change,) = doc.changes(document)
    assert change.after.value == {"big": Number("1" + "0" * 29), "plain": Number("3"), "point": Number("2.5")}
    assert doc.parse('{"format_version": "1.2", "n": 1e400}')["n"] == Number("1e400")


# Reading.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON"),
        (b"no", "no JSON"),
        (b'{"format_version": "1.2"', "no JSON"),
        (b'{"format_version": "1.2", "n": NaN}', "no JSON"),
        (b'{"format_version": "1.2", "n": -Infinity}', "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[]", "format"),
        (b"null", "format"),
        (b"{}", "format"),
        (b'{"format_version": "0.2"}', "format"),
        (b'{"format_version": "2.0"}', "format"),
        (b'{"format_version": "10.0"}', "format"),
    ],
)
def test_what_this_version_does_not_understand_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ProviderError, match=words):
        doc.parse(data)


@requirement("bad:huge-plan")
@pytest.mark.parametrize("depth", [201, 900, 100_000])
def test_a_plan_nested_deeper_than_anybody_reads_is_refused(depth: int) -> None:
    nested = "[" * depth + "]" * depth

    with pytest.raises(ProviderError):
        doc.parse(f'{{"format_version": "1.2", "resource_changes": {nested}}}')


def test_a_plan_nested_as_deep_as_modules_and_objects_are_is_read() -> None:
    nested = "[" * 150 + "]" * 150

    assert doc.parse(f'{{"format_version": "1.2", "deep": {nested}}}')["deep"]


@pytest.mark.parametrize("version", ["1.0", "1.2", "1.99"])
def test_every_format_1_is_read(version: str) -> None:
    assert doc.parse(json.dumps({"format_version": version})) == {"format_version": version}


@requirement("plan:semantic-digest")
@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"errored": True}, "ended in errors"),
        ({"complete": False}, "incomplete"),
        ({"deferred_changes": [{}]}, "defers changes"),
        ({"deferred_action_invocations": [{}]}, "defers changes"),
    ],
)
def test_a_plan_that_is_not_whole_is_refused(facts: dict[str, Any], words: str) -> None:
    with pytest.raises(ProviderError, match=words):
        doc.refuse_unfinished(written(**facts), partial=False)


def test_only_a_speculative_plan_may_have_targets() -> None:
    doc.refuse_unfinished(written(complete=False), partial=True)

    for facts in ({"errored": True}, {"deferred_changes": [{}]}):
        with pytest.raises(ProviderError):
            doc.refuse_unfinished(written(complete=False, **facts), partial=True)


@pytest.mark.parametrize("facts", [{}, {"errored": False}, {"deferred_changes": []}])
def test_a_whole_plan_is_not_refused(facts: dict[str, Any]) -> None:
    doc.refuse_unfinished(written(**facts), partial=False)
    doc.refuse_unfinished({"format_version": "1.2"}, partial=False)  # OpenTofu says nothing about completeness


def test_a_plan_with_targets_is_marked_incomplete_by_the_engine() -> None:
    with pytest.raises(ProviderError, match="incomplete"):
        doc.refuse_unfinished(recorded("demo_target"), partial=False)


# Marks.


@pytest.mark.parametrize(
    ("marks", "any_"),
    [
        (True, True),
        (False, False),
        (None, False),
        ({}, False),
        ({"a": False, "b": [False, {}]}, False),
        ({"a": [False, {"b": True}]}, True),
        ([[], [True]], True),
        ("true", False),
        (1, False),
    ],
)
def test_whether_anything_is_marked(marks: object, any_: bool) -> None:
    assert doc.marked(marks) is any_


@pytest.mark.parametrize(
    ("marks", "key", "mark"),
    [
        (True, "a", True),
        (True, 0, True),
        ({"a": True}, "a", True),
        ({"a": True}, "b", False),
        ([False, True], 1, True),
        ([False, True], 2, False),
        ([True], "a", False),
        (False, "a", False),
        (None, 0, False),
    ],
)
def test_a_mark_covers_what_is_below_it(marks: object, key: str | int, mark: object) -> None:
    assert doc.below(marks, key) is mark


def test_a_side_knows_its_parts_also_where_only_marks_tell_of_them() -> None:
    side = Side(value={"a": 1, "l": [1]}, unknown={"b": True, "l": [False, True]}, sensitive={"a": True})

    assert side.names() == ["a", "b", "l"]
    assert side.child("a") == Side(value=1, unknown=False, sensitive=True)
    assert side.child("b") == Side(value=None, unknown=True, sensitive=False)
    assert side.child("l").length() == 2
    assert side.child("l").child(1) == Side(value=None, unknown=True, sensitive=False)
    assert side.child("l").child(0) == Side(value=1, unknown=False, sensitive=False)
    assert Side(value=3).child("a") == Side()
    assert (Side(value="text").names(), Side(value="text").length()) == ([], 0)


@pytest.mark.parametrize(
    ("side", "absent"),
    [
        (Side(), True),
        (Side(unknown={"a": False}), True),
        (Side(value=False), False),
        (Side(unknown={"a": True}), False),
        (Side(value=""), False),
    ],
)
def test_what_is_null_and_not_unknown_is_absent(side: Side, absent: bool) -> None:
    assert side.absent is absent


# Changes.


def test_a_change_is_read_with_everything_that_is_asked_later() -> None:
    change = one(
        "delete,create",
        address='m.thing.a["x"]',
        previous_address="thing.b",
        deposed="00aa",
        before={"id": "1"},
        after={"id": None},
        replace_paths=[["b"], ["a", 0, "c"]],
        importing={"id": "x"},
        generated_config="resource {}",
        before_identity={"arn": "a"},
        action_reason="replace_because_tainted",
    )

    assert change.address == 'm.thing.a["x"]'
    assert change.actions == ("delete", "create")
    assert (change.mode, change.type, change.provider) == ("managed", "thing", "registry.terraform.io/acme/thing")
    assert (change.previous_address, change.deposed, change.reason) == ("thing.b", "00aa", "replace_because_tainted")
    assert change.replace_paths == ("a[0].c", "b")
    assert (change.importing, change.generated_config, change.identity) == ({"id": "x"}, "resource {}", {"arn": "a"})


def test_an_entry_that_says_nothing_is_a_change_of_nothing_known() -> None:
    (change,) = doc.changes({"resource_changes": [{}]})

    assert (change.address, change.mode, change.actions, change.before.absent, change.after.absent) == ("", "managed", (), True, True)
    assert doc.changes({}) == ()


@pytest.mark.parametrize(
    ("facts", "moved", "bare"),
    [
        ({}, False, True),
        ({"previous_address": "thing.a"}, False, True),
        ({"previous_address": "thing.b"}, True, False),
        ({"importing": {"id": "x"}}, False, False),
    ],
)
def test_a_no_op_counts_only_where_it_moves_or_imports(facts: dict[str, Any], moved: bool, bare: bool) -> None:
    change = one("no-op", before={"id": "1"}, after={"id": "1"}, **facts)

    assert (change.moved, change.bare_no_op) == (moved, bare)


@pytest.mark.parametrize("actions", ["create", "update", "delete", "read", "delete,create", "something-new"])
def test_everything_but_a_no_op_counts(actions: str) -> None:
    assert not one(actions).bare_no_op


@pytest.mark.parametrize(
    ("before", "after", "unknown", "was_sensitive", "sensitive", "changed"),
    [
        ({"a": 1}, {"a": 2}, {}, {}, {}, ["a"]),
        ({"a": 1}, {"a": 1}, {}, {}, {}, []),
        ({"a": 3}, {"a": 3.0}, {}, {}, {}, []),
        ({"a": 3}, {"a": "3"}, {}, {}, {}, ["a"]),
        ({"a": [3]}, {"a": ["3"]}, {}, {}, {}, ["a"]),
        ({"a": {"b": 3}}, {"a": {"b": "3"}}, {}, {}, {}, ["a"]),
        ({"a": None}, {"a": 0}, {}, {}, {}, ["a"]),
        ({"a": ""}, {"a": None}, {}, {}, {}, ["a"]),
        ({"a": False}, {"a": 0}, {}, {}, {}, ["a"]),
        ({"a": 1}, {}, {"a": True}, {}, {}, ["a"]),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": True}}, {}, {}, ["a"]),
        ({"a": 1}, {"a": 1}, {"a": False}, {}, {}, []),
        ({"a": 1}, {"a": 1}, {}, {"a": True}, {}, ["a"]),
        ({"a": 1}, {"a": 1}, {}, {}, {"a": True}, ["a"]),
        ({"a": [1]}, {"a": [1]}, {}, {"a": [False]}, {}, []),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, {}, {"a": {"b": True}}, {"a": {"b": True}}, []),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, {}, {}, {}, ["a", "b"]),
    ],
)
def test_an_update_lists_what_it_changes(
    before: Any, after: Any, unknown: Any, was_sensitive: Any, sensitive: Any, changed: list[str]
) -> None:
    change = one("update", before=before, after=after, unknown=unknown, was_sensitive=was_sensitive, sensitive=sensitive)

    assert [name for name, _, _ in change.attributes()] == changed
    assert [name for name, _, _ in change.changing()] == changed


def test_what_is_made_anew_lists_everything_it_will_have() -> None:
    change = one("delete,create", before={"a": 1, "b": 1, "n": None}, after={"a": 1, "b": 2, "n": None}, unknown={"id": True})

    assert [name for name, _, _ in change.attributes()] == ["a", "b", "id"]
    assert [name for name, _, _ in change.changing()] == ["b", "id"]


def test_what_is_created_lists_what_it_has_and_what_it_will_have() -> None:
    sensitive = {"a": True, "n": True}
    change = one("create", after={"a": "1", "n": None, "l": []}, unknown={"id": True, "l": [False], "o": {}}, sensitive=sensitive)

    assert [(name, before) for name, before, _ in change.attributes()] == [("a", Side()), ("id", Side()), ("l", Side())]
    assert [after for _, _, after in change.attributes()] == [Side("1", False, True), Side(None, True), Side([], [False])]
    assert change.changing() == change.attributes()


def test_children_are_each_the_child_of_that_name() -> None:
    for side in (Side({"a": 1}), Side({"a": 1}, {"b": True}), Side({"a": 1}, False, {"a": True}), Side({"a": 1}, True), Side(3), Side()):
        assert side.children(["a", "b", "c"]) == [side.child("a"), side.child("b"), side.child("c")]


def test_what_only_moves_changes_no_attribute() -> None:
    change = one("no-op", previous_address="thing.b", before={"a": 1}, after={"a": 1})

    assert [name for name, _, _ in change.attributes()] == ["a"]
    assert list(change.changing()) == []


def test_a_retyped_value_of_a_real_plan_is_a_change() -> None:
    (change,) = [c for c in doc.changes(recorded("kinds")) if c.address == "terraform_data.retyped"]

    assert [name for name, _, _ in change.changing()] == ["input", "output"]


def test_outputs_that_change_are_told_by_name() -> None:
    document = written(
        output_changes={
            "z": {"actions": ["update"], "before": 1, "after": 2, "before_sensitive": True, "after_sensitive": False},
            "a": {"actions": ["create"], "after_unknown": True},
            "same": {"actions": ["no-op"], "before": 1, "after": 1},
        }
    )

    assert [(name, actions, before.sensitive, after.unknown) for name, actions, before, after in doc.outputs(document)] == [
        ("a", ("create",), False, True),
        ("z", ("update",), True, False),
    ]
    assert list(doc.outputs({})) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (["a"], "a"),
        (["a", "b"], "a.b"),
        (["rule", 0, "port"], "rule[0].port"),
        ([Number("0")], "[0]"),
        (["a", Number("12")], "a[12]"),
        ([], ""),
    ],
)
def test_a_path_is_spelled_as_people_write_it(path: list[str | int], text: str) -> None:
    assert doc.spelled(path) == text


# Secrets.


@requirement("redaction:every-spelling", "plan:view-hides")
def test_every_text_under_a_sensitive_mark_is_collected_wherever_it_stands() -> None:
    document = written(
        entry(
            "update",
            before={"a": "before-secret", "b": "public"},
            was_sensitive={"a": True},
            after={"a": "after-secret"},
            sensitive={"a": True},
        ),
        entry(after={"l": ["public", {"x": "in-a-list"}], "m": {"k": "in-a-map"}}, sensitive={"l": [False, True], "m": True}),
        resource_drift=[
            entry("update", before={"a": "drift-before"}, was_sensitive=True, after={"a": "drift-after"}, sensitive={"a": True})
        ],
        output_changes={
            "o": {"before": "output-before", "before_sensitive": True, "after": {"x": "output-after"}, "after_sensitive": {"x": True}}
        },
        planned_values={
            "outputs": {"o": {"value": "planned-output", "sensitive": True}, "p": {"value": "public", "sensitive": False}},
            "root_module": {
                "resources": [{"values": {"a": "planned-value"}, "sensitive_values": {"a": True}}],
                "child_modules": [{"resources": [{"values": {"a": "in-a-module", "b": "public"}, "sensitive_values": {"a": True}}]}],
            },
        },
        prior_state={
            "values": {
                "outputs": {"o": {"value": "prior-output", "sensitive": True}},
                "root_module": {"resources": [{"values": {"a": "prior-value"}, "sensitive_values": {"a": True}}]},
            }
        },
        variables={"v": {"value": "given-secret"}, "w": {"value": "public"}, "n": {"value": 1234567}, "short": {"value": "12345"}},
        configuration={
            "root_module": {"variables": {"v": {"sensitive": True}, "w": {}, "n": {"sensitive": True}, "short": {"sensitive": True}}}
        },
        action_invocations=[
            {"address": "action.x", "config_values": {"a": "action-secret", "b": "public"}, "config_sensitive": {"a": True}}
        ],
    )

    assert doc.secrets_of(document) == {
        "before-secret",
        "after-secret",
        "in-a-list",
        "in-a-map",
        "drift-before",
        "drift-after",
        "output-before",
        "output-after",
        "planned-output",
        "planned-value",
        "in-a-module",
        "prior-output",
        "prior-value",
        "given-secret",
        "1234567",
        "action-secret",
    }


def test_a_document_without_any_of_it_has_no_secrets() -> None:
    assert doc.secrets_of({"format_version": "1.2"}) == set()


def test_a_secret_number_is_kept_in_every_way_it_is_written() -> None:
    document = doc.parse(
        '{"format_version": "1.2", "variables": {"a": {"value": 1234560}, "b": {"value": 1234560.0}},'
        ' "configuration": {"root_module": {"variables": {"a": {"sensitive": true}, "b": {"sensitive": true}}}}}'
    )

    assert sorted(doc.secrets_of(document)) == ["1234560", "1234560.0"]
    assert {type(secret) for secret in doc.secrets_of(document)} == {str}


@requirement("promise:no-secrets")
@pytest.mark.parametrize(
    ("name", "secrets"),
    [
        ("demo_create", {"only-for-the-demo"}),
        ("demo_change", {"only-for-the-demo", "rotated-since"}),
        ("needs_variable", {"t0ken-of-the-test"}),
        ("destroy", {"t0ken-of-the-test"}),
        ("kinds", {"open sesame"}),
        ("gates_create", set()),
    ],
)
def test_the_secrets_of_a_real_plan_are_found(name: str, secrets: set[str]) -> None:
    found = doc.secrets_of(recorded(name))

    assert secrets <= found
    assert all(any(secret in text for secret in secrets) for text in found), found


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_plan_is_read(name: str) -> None:
    document = recorded(name)

    assert [c.address for c in doc.changes(document)] == [c["address"] for c in document["resource_changes"]]
