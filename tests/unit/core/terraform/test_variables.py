"""Values for variables: the request's over the stack's, and nothing the configuration does not declare."""

import pytest

from countersign.core.errors import InvalidArgument
from countersign.core.terraform.variables import merged, secret_named, secrets_named, with_secrets
from tests.requirements import requirement


def test_the_request_wins_over_the_stack_and_the_rest_stays() -> None:
    assert merged({"a": 1, "b": 2}, {"b": 3, "c": None}, declared={"a", "b", "c", "d"}) == {"a": 1, "b": 3, "c": None}
    assert merged({}, {}, declared=()) == {}


@requirement("bad:missing-variable")
@pytest.mark.parametrize(
    ("stack", "request_", "declared", "words"),
    [
        ({}, {"regoin": "eu"}, {"size", "region"}, "the request sets the variable 'regoin', which the configuration does not declare"),
        ({"regoin": "eu"}, {}, {"size", "region"}, "the stack sets the variable 'regoin'"),
        ({"regoin": "eu"}, {"regoin": "us"}, {"region"}, "the request sets the variable 'regoin'"),
        ({}, {"regoin": "eu"}, {"size", "region"}, "declared are: region, size"),
        ({}, {"regoin": "eu"}, (), "declared are: none at all"),
    ],
)
def test_an_undeclared_variable_is_named_with_what_there_is(
    stack: dict[str, object], request_: dict[str, object], declared: set[str], words: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        merged(stack, request_, declared=declared)

    assert words in refused.value.message
    assert refused.value.field == "vars.regoin"


def test_an_endless_name_is_cut_in_the_answer() -> None:
    with pytest.raises(InvalidArgument) as refused:
        merged({}, {"x" * 5000: 1}, declared={"a"})

    assert len(refused.value.message) < 300
    assert refused.value.field == "vars." + "x" * 100


@pytest.mark.parametrize(
    ("value", "slug"),
    [
        ({"secret": "db-password"}, "db-password"),
        ({"secret": "a", "more": 1}, None),
        ({"secret": 1}, None),
        ({"secret": None}, None),
        ({}, None),
        ("secret", None),
        (["secret"], None),
        (None, None),
    ],
)
def test_a_sealed_secret_is_named_by_exactly_one_key(value: object, slug: str | None) -> None:
    assert secret_named(value) == slug


NESTED: dict[str, object] = {
    "z": {"secret": "one"},
    "plain": 1,
    "a": {"users": [{"name": "x", "password": {"secret": "two"}}, {"password": {"secret": "one"}}, "text"], "again": {"secret": "two"}},
}


def test_secrets_are_named_by_variable_however_deep_they_stand() -> None:
    assert list(secrets_named(NESTED)) == [("a", "two"), ("a", "one"), ("z", "one")]


def test_a_secret_takes_the_place_where_it_is_named_and_the_rest_stays() -> None:
    assert with_secrets(NESTED, str.upper) == {
        "z": "ONE",
        "plain": 1,
        "a": {"users": [{"name": "x", "password": "TWO"}, {"password": "ONE"}, "text"], "again": "TWO"},
    }
