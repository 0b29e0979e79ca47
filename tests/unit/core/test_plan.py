"""Classes, counts and what a stored plan shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.plan import Change, ChangeClass, Counts, Plan, shown, worst
from tests.requirements import requirement

# Design §2, harmless first.
CLASSES = [
    "none",
    "labels",
    "update",
    "create",
    "import",
    "move",
    "forget",
    "replace",
    "delete",
    "stateful_replace",
    "stateful_delete",
    "unknown",
]


@requirement("plan:classes")
def test_the_classes_stand_in_the_order_of_the_design() -> None:
    assert [str(c) for c in sorted(ChangeClass, key=lambda c: c.rank)] == CLASSES


@requirement("plan:classes")
@pytest.mark.parametrize("name", CLASSES)
def test_what_destroys_is_everything_from_replace_on(name: str) -> None:
    assert ChangeClass(name).destroys is (name in ("replace", "delete", "stateful_replace", "stateful_delete", "unknown"))


@given(st.lists(st.sampled_from(ChangeClass)))
def test_the_worst_class_is_the_last_in_that_order(classes: list[ChangeClass]) -> None:
    assert worst(classes) == (max(classes, key=lambda c: CLASSES.index(c)) if classes else "none")


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (Counts(), "no changes"),
        (Counts(create=2), "2 to add"),
        (Counts(update=1, delete=3), "1 to change, 3 to destroy"),
        (
            Counts(create=1, update=2, replace=3, delete=4, imported=5, moved=6, forgotten=7),
            "1 to add, 2 to change, 3 to replace, 4 to destroy, 5 to import, 6 to move, 7 to forget",
        ),
    ],
)
def test_counts_in_words(counts: Counts, words: str) -> None:
    assert Plan(engine="terraform", engine_build="b", counts=counts).in_words == words
    assert str(counts) == words


@pytest.mark.parametrize("field", Counts.model_fields)
def test_every_count_is_part_of_the_total_and_makes_a_plan_one_that_changes_something(field: str) -> None:
    assert Counts(**{field: 3}).total == 3
    assert Plan(engine="terraform", engine_build="b", counts=Counts(**{field: 1})).changes_anything


def test_a_changed_output_is_a_change_and_nothing_is_none() -> None:
    assert Plan(engine="terraform", engine_build="b", outputs_changed=("endpoint",)).changes_anything
    assert not Plan(engine="terraform", engine_build="b").changes_anything


def change(address: str, change_class: str) -> Change:
    return Change(address=address, type="t", action="update", change_class=ChangeClass(change_class))


def test_the_worst_changes_come_first_then_by_address() -> None:
    changes = [change("b", "update"), change("a", "update"), change("z", "delete"), change("c", "none"), change("d", "unknown")]

    assert [c.address for c in shown(changes)] == ["d", "z", "a", "b", "c"]


def test_a_stored_plan_shows_fifty_changes_and_never_drops_a_worse_one_for_a_milder() -> None:
    changes = [change(f"a{n:03}", "create") for n in range(80)] + [change("z", "stateful_delete")]

    assert [c.address for c in shown(changes)] == ["z", *(f"a{n:03}" for n in range(49))]
