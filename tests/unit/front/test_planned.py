"""A plan of any size fits into one answer: the worst first, attributes as far as there is room."""

import json
from typing import Any

import pytest

from mcp_front.planned import ATTRIBUTES, _like, fitted

ROOM = 10_000


def change(n: int, **facts: Any) -> dict[str, Any]:
    attributes = [{"name": f"size[{a}]", "before": "small", "after": "large"} for a in range(facts.pop("attributes", 3))]
    where = facts.pop("address", f'module.service["api-{n}"].google_compute_instance.worker[{n}]')
    return {"address": where, "action": "update", "change_class": "update", "attributes": attributes, "reason": None, **facts}


def size(rows: list[dict[str, Any]]) -> int:
    return len(json.dumps(rows, ensure_ascii=False).encode())


def test_of_a_few_changes_everything_is_shown() -> None:
    (row,) = fitted([change(1, replace_paths=["size"], reason="replace_because_cannot_update", previous_address="a.b")], ROOM)

    assert row == {
        "address": 'module.service["api-1"].google_compute_instance.worker[1]',
        "action": "update",
        "class": "update",
        "moved_from": "a.b",
        "replaced_because_of": ["size"],
        "reason": "replace_because_cannot_update",
        "attributes": ["size[0]: small → large", "size[1]: small → large", "size[2]: small → large"],
    }


def test_a_thousand_changes_fit_and_the_first_keep_their_attributes() -> None:
    rows = fitted([change(n) for n in range(1000)], ROOM)

    assert len(rows) == 50
    assert size(rows) <= ROOM + 100
    assert "attributes" in rows[0]
    assert "attributes" not in rows[-1]


def test_addresses_of_any_length_fit_in_fewer_rows() -> None:
    rows = fitted([change(n, address="a" * 900) for n in range(1000)], ROOM)

    assert 5 < len(rows) < 50
    assert size(rows) <= ROOM + 100


def test_of_many_attributes_the_first_are_shown_and_the_rest_counted() -> None:
    (row,) = fitted([change(1, attributes=40, attributes_left_out=5)], ROOM)

    assert (len(row["attributes"]), row["attributes_left_out"]) == (ATTRIBUTES, 33)


@pytest.mark.parametrize(
    ("attribute", "line"),
    [
        ({"name": "n", "before": None, "after": "x"}, "n: (none) → x"),
        (
            {"name": "n", "before": "x", "after": "(known after apply)", "forces_replacement": True},
            "n: x → (known after apply) (forces replacement)",
        ),
        ({"name": "n", "before": "y" * 200, "after": "x\x1b[31m\u202e"}, f"n: {'y' * 120}… (200 characters) → x"),
        ("only_a_name", "only_a_name"),
    ],
)
def test_an_attribute_is_one_clean_line(attribute: Any, line: str) -> None:
    (row,) = fitted([change(1) | {"attributes": [attribute]}], ROOM)

    assert row["attributes"] == [line]


def test_of_what_is_made_there_is_no_value_before() -> None:
    (row,) = fitted([change(1, attributes=1) | {"action": "create"}], ROOM)

    assert row["attributes"] == ["size[0] = large"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("worker", True),
        ('module.service["api-1"]*', True),
        ("*[1]", True),
        ('module.*["api-1"]*worker[1]', True),
        ("module.network*", False),
        ("*worker", False),
        ("*api*api*", False),
        ("*", True),
    ],
)
def test_an_address_is_found_by_a_part_or_a_pattern_and_brackets_are_just_brackets(wanted: str, found: bool) -> None:
    assert _like('module.service["api-1"].terraform_data.worker[1]', wanted) is found
