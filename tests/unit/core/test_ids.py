"""Ids say the same for the same parts and never for others."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from countersign.core import ids
from tests.requirements import requirement

TEXT = st.text(max_size=12, alphabet=st.characters(exclude_categories=["Cs"]))
PARTS = st.lists(TEXT, max_size=4)


@requirement("promise:asking-twice")
def test_a_run_id_is_what_its_parts_make_it_and_stays_so() -> None:
    assert ids.run_id(org="acme", principal="person:ana", tool="apply_terraform", key="release-41") == "run_wwpcxhp6t46hqd3y3qywghchgc"


@requirement("ids:no-collisions")
@pytest.mark.parametrize("field", ["org", "principal", "tool", "key"])
def test_each_part_of_a_run_id_counts(field: str) -> None:
    parts = {"org": "acme", "principal": "person:ana", "tool": "apply_terraform", "key": "release-41"}

    assert ids.run_id(**parts) != ids.run_id(**{**parts, field: parts[field] + "x"})


@requirement("ids:no-collisions")
@given(PARTS, PARTS)
def test_two_lists_of_parts_never_make_one_id(one: list[str], other: list[str]) -> None:
    assume(one != other)

    assert ids.derive("x", *one) != ids.derive("x", *other)


@requirement("ids:no-collisions")
@given(TEXT, TEXT, TEXT)
def test_parts_do_not_run_into_each_other(a: str, b: str, c: str) -> None:
    assume(b)

    assert len({ids.derive("x", a + b, c), ids.derive("x", a, b + c), ids.derive("x", a + b + c), ids.derive("x", a, b, c)}) == 4


def test_an_empty_part_is_a_part() -> None:
    assert len({ids.derive("x"), ids.derive("x", ""), ids.derive("x", "", "")}) == 3


@given(PARTS)
def test_an_id_is_26_letters_nobody_misreads(parts: list[str]) -> None:
    assert re.fullmatch("st_[0-9a-hjkmnp-tv-z]{26}", ids.derive("st", *parts))


def test_all_of_the_hash_is_in_the_id() -> None:
    seen = [set(column) for column in zip(*(ids.derive("x", str(n))[2:] for n in range(600)), strict=True)]

    assert all(len(letters) == 32 for letters in seen)


@pytest.mark.parametrize("text", ["run_" + "0" * 26, "run_wwpcxhp6t46hqd3y3qywghchgc"])
def test_run_ids_are_recognised(text: str) -> None:
    assert ids.RUN_ID.match(text)


@pytest.mark.parametrize("text", ["run_" + "0" * 25, "run_" + "0" * 27, "run_" + "A" * 26, "st_" + "0" * 26, "run_" + "0" * 26 + "\n", ""])
def test_other_texts_are_no_run_ids(text: str) -> None:
    assert not ids.RUN_ID.match(text)


@pytest.mark.parametrize("text", ["a", "demo", "a-1", "a" * 63])
def test_slugs_are_recognised(text: str) -> None:
    assert ids.SLUG.match(text)


@pytest.mark.parametrize("text", ["", "A", "1a", "-a", "a-", "a_b", "a/b", "..", "a" * 64, "demo\n", "a\n", "dëmo"])
def test_other_texts_are_no_slugs(text: str) -> None:
    assert not ids.SLUG.match(text)
