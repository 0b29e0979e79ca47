"""The whole plan for people: what changes from what to what, and of secrets only that they change."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.redaction import HIDDEN, Redactor
from countersign.core.terraform import document as doc
from countersign.core.terraform.document import Number, Side
from countersign.core.terraform.semantic import Macs
from countersign.core.terraform.view import Shown, view_of
from tests.requirements import requirement
from tests.unit.core.terraform.plans import RECORDED, edited, entry, recorded, written

MACS = Macs(key=b"a key of the deployment", kid="k1")


def view(document: dict[str, Any], secrets: set[str] | None = None, mode: str = "apply") -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(view_of(document, mode=mode, macs=MACS, redactor=Redactor(secrets or ())))
    return shown


def rows(*args: Any, **more: Any) -> list[tuple[str, str | None, str | None]]:
    (change,) = view(written(entry(*args, **more)))["changes"]
    return [(row["name"], row["before"], row["after"]) for row in change["attributes"]]


# What it tells.


@requirement("plan:counts-and-risks")
def test_the_frame_of_a_real_plan() -> None:
    shown = view(recorded("kinds"), mode="destroy")

    assert {key: shown[key] for key in ("v", "engine_version", "mode", "change_class", "total", "shown", "truncated", "classes")} == {
        "v": "countersign.view/1",
        "engine_version": "1.11.4",
        "mode": "destroy",
        "change_class": "delete",
        "total": 9,
        "shown": 9,
        "truncated": False,
        "classes": {"delete": 1, "forget": 1, "move": 2, "import": 1, "create": 1, "update": 2, "none": 1},
    }
    assert shown["counts"] == {"create": 1, "update": 3, "replace": 0, "delete": 1, "imported": 1, "moved": 2, "forgotten": 1}
    assert [c["address"] for c in shown["changes"]][:3] == ["terraform_data.gone", "terraform_data.left_behind", "terraform_data.new_name"]


def test_an_attribute_that_is_absent_on_both_sides_is_no_row_whatever_its_marks_say() -> None:
    said = rows("update", before={"pin": None, "size": 1}, after={"pin": None, "size": 2}, was_sensitive={"pin": True}, sensitive={})

    assert said == [("size", "1", "2")]


def test_a_real_replacement_in_full() -> None:
    (disk,) = [c for c in view(recorded("demo_change"))["changes"] if c["action"] == "replace"]

    assert disk == {
        "address": 'module.service["api"].terraform_data.disk',
        "type": "terraform_data",
        "action": "replace",
        "change_class": "replace",
        "previous_address": None,
        "replace_paths": ["triggers_replace"],
        "attributes": [
            {"name": "id", "before": "00000000-0000-0000-0000-000000000009", "after": "(known after apply)", "unknown": True},
            {"name": "output", "before": "shop-dev-api-disk", "after": "(known after apply)", "unknown": True},
            {"name": "triggers_replace[0]", "before": "small", "after": "large", "forces_replacement": True},
        ],
        "attributes_left_out": 0,
        "reason": "replace_because_cannot_update",
    }


def test_a_change_of_type_is_shown() -> None:
    (retyped,) = [c for c in view(recorded("kinds"))["changes"] if c["address"] == "terraform_data.retyped"]

    assert [(r["name"], r["before"], r["after"]) for r in retyped["attributes"]] == [
        ("input", "3", "3"),
        ("output", "3", "(known after apply)"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "unknown", "expected"),
    [
        ({"a": "x"}, {"a": "y"}, {}, [("a", "x", "y")]),
        ({"a": True}, {"a": False}, {}, [("a", "true", "false")]),
        ({"a": 1}, {"a": 2.50}, {}, [("a", "1", "2.5")]),
        ({"a": None}, {"a": "x"}, {}, [("a", None, "x")]),
        ({"a": "x"}, {"a": None}, {}, [("a", "x", None)]),
        ({"a": ""}, {"a": "x"}, {}, [("a", "", "x")]),
        ({"a": []}, {"a": {}}, {}, [("a", "[]", "{}")]),
        ({"a": "x"}, {}, {"a": True}, [("a", "x", "(known after apply)")]),
        ({"a": {"b": 1, "c": 2}}, {}, {"a": True}, [("a", "{… 2}", "(known after apply)")]),
        ({"a": [1, 2, 3]}, {}, {"a": True}, [("a", "[… 3]", "(known after apply)")]),
        ({"a": {"b": "x", "c": "same"}}, {"a": {"b": "y", "c": "same"}}, {}, [("a.b", "x", "y")]),
        ({"a": {"b": "x"}}, {"a": {"c": "y"}}, {}, [("a.b", "x", None), ("a.c", None, "y")]),
        ({"a": ["x", "y"]}, {"a": ["x", "z", "w"]}, {}, [("a[1]", "y", "z"), ("a[2]", None, "w")]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, {}, [("a[0].b", "1", "2")]),
        ({"a": {"b": "x"}}, {"a": {}}, {"a": {"b": True}}, [("a.b", "x", "(known after apply)")]),
        ({"a": ["x"]}, {"a": {"k": "x"}}, {}, [("a.k", None, "x"), ("a[0]", "x", None)]),
        ({"a": "x"}, {"a": ["x"]}, {}, [("a[0]", None, "x")]),
    ],
)
def test_each_difference_is_a_row(before: Any, after: Any, unknown: Any, expected: list[tuple[str, str | None, str | None]]) -> None:
    assert rows("update", before=before, after=after, unknown=unknown) == expected


def test_what_stays_the_same_is_not_shown_of_a_replacement_or_a_move() -> None:
    assert rows("delete,create", before={"a": "x", "b": {"c": 1, "d": 1}}, after={"a": "x", "b": {"c": 1, "d": 2}}) == [("b.d", "1", "2")]
    assert rows("no-op", previous_address="thing.b", before={"a": "x"}, after={"a": "x"}) == []


def test_what_is_made_or_destroyed_is_shown_whole() -> None:
    assert rows("create", after={"a": "x", "n": None, "l": []}, unknown={"id": True}) == [
        ("a", None, "x"),
        ("id", None, "(known after apply)"),
        ("l", None, "[]"),
    ]
    assert rows("delete", before={"a": "x", "n": None}) == [("a", "x", None)]


@pytest.mark.parametrize(
    ("path", "forced"),
    [
        (["a"], ["a.b[0]"]),
        (["a", "b", 0], ["a.b[0]"]),
        (["a", "b"], ["a.b[0]"]),
        (["ab"], ["ab"]),
        (["late", "x", 1], ["late"]),
        (["b"], []),
    ],
)
def test_what_forces_a_replacement_is_marked(path: list[Any], forced: list[str]) -> None:
    shown = view(
        written(
            entry(
                "delete,create",
                before={"a": {"b": [1]}, "ab": 1, "late": {"x": [1]}},
                after={"a": {"b": [2]}, "ab": 2},
                unknown={"late": True},
                replace_paths=[path],
            )
        )
    )

    assert [row["name"] for row in shown["changes"][0]["attributes"] if row.get("forces_replacement")] == forced


def test_an_import_tells_what_is_imported() -> None:
    def importing(what: dict[str, Any]) -> str:
        text: str = view(written(entry("no-op", importing=what)))["changes"][0]["importing"]
        return text

    assert importing({"id": "an-id"}) == "an-id"
    assert importing({"identity": {"arn": "x"}}) == "(known after apply)"
    assert "importing" not in view(written(entry()))["changes"][0]


def test_outputs_on_one_line_each() -> None:
    shown = view(
        written(
            output_changes={
                "list": {"actions": ["update"], "before": [1, "x"], "after": {"n": 1, "f": 1.5, "t": True, "z": None}},
                "late": {"actions": ["create"], "after_unknown": True},
                "partly": {"actions": ["create"], "after": {"a": 1}, "after_unknown": {"b": True}},
                "gone": {"actions": ["delete"], "before": "x"},
                "replaced": {"actions": ["delete", "create"], "before": "x", "after": "y"},
                "empty": {"actions": ["create"], "after": {}},
                "db_password": {"actions": ["update"], "before": "old", "after": "new"},
                "marked": {"actions": ["create"], "after": {"a": "b"}, "after_sensitive": {"a": True}},
            }
        )
    )
    outputs = {o["name"]: o for o in shown["outputs"]}

    assert outputs["list"] == {
        "name": "list",
        "action": "update",
        "before": '[1, "x"]',
        "after": '{"n": 1, "f": "1.5", "t": true, "z": null}',
    }
    assert outputs["late"] == {"name": "late", "action": "create", "before": None, "after": "(known after apply)", "unknown": True}
    assert outputs["partly"] == {"name": "partly", "action": "create", "before": None, "after": '{"a": 1}', "unknown": True}
    assert (outputs["gone"]["after"], outputs["empty"]["after"], outputs["replaced"]["action"]) == (None, "{}", "update")
    assert outputs["db_password"]["sensitive"] is outputs["marked"]["sensitive"] is True
    assert outputs["db_password"]["before"] != outputs["db_password"]["after"]
    assert shown["outputs_total"] == 8
    assert shown["change_class"] == "update"


def test_a_view_of_nothing() -> None:
    shown = view(recorded("no_change"))

    assert (shown["change_class"], shown["total"], shown["changes"], shown["outputs"], shown["truncated"]) == ("none", 0, [], [], False)


def test_invoked_actions_are_unknown_to_the_view_as_to_policy() -> None:
    assert view(written(entry(), action_invocations=[{"address": "action.x"}]))["change_class"] == "unknown"


# What it hides.

FINGERPRINT = r"\(sensitive fp:[0-9a-f]{8}\)"


@requirement("plan:view-hides")
def test_of_a_secret_one_sees_whether_it_changes_and_nothing_else() -> None:
    ((name, before, after),) = rows("update", before={"s": "old"}, after={"s": "new"}, was_sensitive={"s": True}, sensitive={"s": True})

    assert name == "s"
    assert before is not None
    assert after is not None
    assert before.startswith("(sensitive fp:")
    assert before != after


@requirement("plan:view-hides")
def test_a_secret_in_another_place_has_another_fingerprint() -> None:
    shown = rows(after={"s": "secret", "t": "secret"}, sensitive={"s": True, "t": True})

    assert shown[0][2] != shown[1][2]


@requirement("plan:view-hides")
@pytest.mark.parametrize("marks", [({"s": True}, {}), ({}, {"s": True})])
def test_where_one_side_is_sensitive_the_other_is_hidden_too(marks: tuple[Any, Any]) -> None:
    ((_, before, after),) = rows("update", before={"s": "1234"}, after={"s": "1234"}, was_sensitive=marks[0], sensitive=marks[1])

    assert before == after
    assert before is not None
    assert "1234" not in before


@requirement("plan:view-hides")
@pytest.mark.parametrize("name", ["password", "token", "connection_string"])
def test_a_name_that_looks_secret_hides_whatever_is_below(name: str) -> None:
    shown = view(written(entry(after={"config": {name: {"inner": ["clear text"]}}, name: "clear text"})))

    assert "clear text" not in json.dumps(shown)
    assert [(r["name"], r["sensitive"]) for r in shown["changes"][0]["attributes"]] == sorted([(f"config.{name}", True), (name, True)])


@requirement("plan:view-hides", "promise:no-secrets")
@pytest.mark.parametrize("value", ["it is the-secret", {"k": ["the-secret"]}, {"the-secret": 1}])
def test_a_known_secret_is_hidden_where_nothing_marks_it(value: Any) -> None:
    document = written(entry(after={"a": value}), output_changes={"o": {"actions": ["create"], "after": value}})

    text = json.dumps(view(document, {"the-secret"}), ensure_ascii=False)
    assert "the-secret" not in text
    assert HIDDEN in text


@requirement("plan:view-hides")
def test_a_known_secret_number_is_hidden_where_nothing_marks_it() -> None:
    document = written(entry(after={"a": 1234567}), output_changes={"o": {"actions": ["create"], "after": [1234567]}})

    assert "1234567" not in json.dumps(view(document, {"1234567"}))


@requirement("plan:view-hides", "promise:no-secrets")
@pytest.mark.parametrize("name", RECORDED)
def test_no_secret_of_a_real_plan_is_in_its_view(name: str) -> None:
    document = recorded(name)
    secrets = doc.secrets_of(document)

    text = view_of(document, mode="apply", macs=MACS, redactor=Redactor(secrets)).decode()

    assert [s for s in {*secrets, "only-for-the-demo", "rotated-since", "open sesame", "t0ken-of-the-test"} if s in text] == []


# Any value with any marks: each text is a token of its own, so that one sees which of them come through.


@st.composite
def marked_values(draw: st.DrawFn) -> tuple[Any, Any, set[str]]:
    """A value, its sensitive marks, and the texts that no one may see."""
    hidden: set[str] = set()
    count = 0

    def token(secret: bool) -> str:
        nonlocal count
        count += 1
        text = f"token-{count:04}"
        if secret:
            hidden.add(text)
        return text

    def build(depth: int, secret: bool) -> tuple[Any, Any]:
        marked = draw(st.booleans()) if not secret else True
        kind = draw(st.sampled_from(["text", "list", "map"] if depth < 3 else ["text"]))
        if kind == "text":
            return token(marked), marked
        size = draw(st.integers(0, 3))
        # A container is sensitive as a whole, or its parts say for themselves.
        whole = secret or (marked and draw(st.booleans()))
        parts = [build(depth + 1, whole) for _ in range(size)]
        values, below = [value for value, _ in parts], [mark for _, mark in parts]
        if kind == "list":
            return values, whole or below
        named = [f"k{n}" for n in range(size)]
        return dict(zip(named, values, strict=True)), whole or dict(zip(named, below, strict=True))

    value, marks = build(0, False)
    return value, marks, hidden


@requirement("plan:view-hides")
@given(marked_values(), marked_values(), st.sampled_from(["create", "update", "delete", "delete,create"]), st.booleans())
def test_marks_alone_hide_every_value_below_them(
    old: tuple[Any, Any, set[str]], new: tuple[Any, Any, set[str]], actions: str, as_output: bool
) -> None:
    before, was_sensitive, hidden_before = old
    after, sensitive, hidden_after = new
    # The two sides share their tokens, so a text may be public on one side and secret on the other.
    if as_output:
        change = {"before": before, "after": after, "before_sensitive": was_sensitive, "after_sensitive": sensitive}
        document = written(output_changes={"o": {"actions": actions.split(","), **change}})
    else:
        document = written(
            entry(actions, before={"a": before}, after={"a": after}, was_sensitive={"a": was_sensitive}, sensitive={"a": sensitive})
        )
    public = tokens(before, was_sensitive) | tokens(after, sensitive)

    text = view_of(document, mode="apply", macs=MACS, redactor=Redactor()).decode()

    assert [t for t in (hidden_before | hidden_after) - public if t in text] == []


def tokens(value: Any, marks: Any) -> set[str]:
    """The texts outside of every mark."""
    if marks is True:
        return set()
    if isinstance(value, str):
        return {value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {text for key, item in items for text in tokens(item, marks[key] if marks else False)}


def test_a_side_that_is_sensitive_is_hidden_whoever_asks() -> None:
    shown = Shown(macs=MACS, redactor=Redactor(), address="thing.a")

    text = shown.text(Side(value="clear text", sensitive=True), "a", hidden=False)
    assert text is not None
    assert text.startswith("(sensitive fp:")
    assert shown.text(Side(value="clear text"), "a", hidden=False) == "clear text"
    assert shown.text(Side(sensitive=True), "a", hidden=True) is None


# Bounds.


@requirement("bad:huge-plan")
def test_a_change_shows_a_hundred_attributes_and_counts_the_rest() -> None:
    (change,) = view(written(entry(after={f"a{n:03}": n for n in range(130)})))["changes"]

    assert (len(change["attributes"]), change["attributes_left_out"]) == (100, 30)


@requirement("bad:huge-plan")
def test_a_view_is_bounded_shows_the_worst_and_says_what_is_missing() -> None:
    long = "x" * 1000
    wide = {f"attribute_{n}": long for n in range(100)}
    changes = [entry(address=f"thing.a[{n}]", after=wide) for n in range(100)]
    changes.append(entry("delete", address="thing.z", before={"a": 1}))

    data = view_of(written(*changes), mode="apply", macs=MACS, redactor=Redactor())

    shown = json.loads(data)
    assert len(data) < 3 << 20
    assert shown["changes"][0]["address"] == "thing.z"
    assert (shown["total"], shown["truncated"]) == (101, True)
    assert shown["shown"] == len(shown["changes"]) < 101
    assert shown["classes"] == {"delete": 1, "create": 100}
    assert shown["changes"][1]["attributes"][0]["after"] == "x" * 256 + "… (1000 characters)"


def test_a_thousand_changes_have_attributes_and_the_rest_is_counted() -> None:
    shown = view(written(*(entry(address=f"thing.a[{n:04}]") for n in range(1001))))

    assert (shown["total"], shown["shown"], shown["truncated"]) == (1001, 1000, True)


def test_a_hundred_outputs_are_shown_and_all_are_counted() -> None:
    shown = view(written(output_changes={f"o{n:03}": {"actions": ["create"], "after": n} for n in range(120)}))

    assert (len(shown["outputs"]), shown["outputs_total"]) == (100, 120)


@requirement("bad:control-characters")
def test_names_and_values_are_clean() -> None:
    text = view_of(
        written(
            entry(address="thing.a\u202e", after={"k\u200bey": {"in\x1b[31mner": "va\u202elue\nnext"}}, importing={"id": "i\x00d"}),
            output_changes={"o\x07": {"actions": ["create"], "after": ["a\u2066b"]}},
        ),
        mode="apply",
        macs=MACS,
        redactor=Redactor(),
    ).decode()

    assert '"key.inner"' in text
    assert '"value next"' in text
    assert not any(c in text for c in "\u202e\u200b\x1b\x00\x07\u2066")


def test_half_a_letter_stops_nothing() -> None:
    assert view(written(entry(address='thing.a["\ud800"]', after={"\ud800": "\ud800"})))["total"] == 1


def test_numbers_stay_numbers_in_an_output_where_that_is_exact() -> None:
    after = {"small": 3, "exact": 123456789012345, "big": 10**30, "minus": -5}
    (output,) = view(written(output_changes={"o": {"actions": ["create"], "after": after}}))["outputs"]

    assert output["after"] == '{"small": 3, "exact": 123456789012345, "big": "1' + "0" * 30 + '", "minus": -5}'
    assert isinstance(doc.parse('{"format_version": "1.2", "n": 1}')["n"], Number)


def test_reordering_a_plan_does_not_reorder_its_view() -> None:
    document = recorded("demo_change")

    assert view(edited(document, lambda d: d["resource_changes"].reverse())) == view(document)
