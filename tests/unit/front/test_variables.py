"""Secrets come by reference: whatever looks like one in another shape is refused, and no value is repeated."""

from typing import Any

import pytest

from countersign.core.errors import InvalidArgument
from mcp_front.variables import checked_vars
from tests.requirements import requirement

PLAIN: dict[str, Any] = {"name": "demo", "replicas": 3, "labels": {"team": "x"}, "zones": ["a", "b"], "on": True, "none": None}


def test_plain_values_and_references_are_taken_as_they_are() -> None:
    given = {**PLAIN, "db_password": {"secret": "db-password"}, "mount": {"secret": {"name": "x"}, "path": "/x"}}
    given["users"] = [{"name": "a", "password": {"secret": "db-password"}}, {"inner": {"secret": "other"}}]

    assert checked_vars(given) == given


@requirement("promise:no-secrets")
@pytest.mark.parametrize(
    "value",
    [
        {"secret": "not a slug: hunter2-hunter2"},
        {"secret": "ok", "value": "hunter2-hunter2"},
        {"secret": 5},
        {"secret": {"value": "hunter2-hunter2"}},
        {"inner": {"secret": "hunter2-hunter2 is no slug"}},
        [{"secret": {"value": "hunter2-hunter2"}}],
        {"a": [{"b": {"secret": "hunter2-hunter2", "user": "x"}}]},
    ],
)
def test_anything_else_shaped_like_a_secret_is_refused_without_its_value(value: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        checked_vars({"db_password": value})

    assert refused.value.field == "vars.db_password"
    assert "{secret: slug}" in refused.value.message
    assert "hunter2" not in refused.value.message


@pytest.mark.parametrize("name", ["", "1st", "a b", "a.b", "x" * 101, "-x", "TF\nVAR"])
def test_what_is_no_name_of_a_variable_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="no name of a variable"):
        checked_vars({name: 1})


def test_the_door_is_no_place_for_data() -> None:
    for given in ({"a": "x" * (65 << 10)}, {f"v{n}": n for n in range(201)}):
        with pytest.raises(InvalidArgument, match="200 values or 64 KiB"):
            checked_vars(given)
