"""Values for variables: the request's over the stack's, and nothing the configuration does not declare."""

import pytest

from countersign.core.errors import InvalidArgument
from countersign.core.terraform.variables import merged, secret_named, secrets_named
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


def test_variables_that_name_a_secret_are_told_by_name() -> None:
    values = {"z": {"secret": "one"}, "plain": 1, "a": {"secret": "two"}}

    assert list(secrets_named(values)) == [("a", "two"), ("z", "one")]
