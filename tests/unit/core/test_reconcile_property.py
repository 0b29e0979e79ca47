"""Whatever point an apply died at: the rest is proven, exactly the approved world comes out of it, and any one lie is refused."""

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from countersign.core.reconcile import Proof
from countersign.core.terraform.salvage import BOTH, Salvage, fold
from countersign.core.terraform.subset import prove
from tests.requirements import requirement
from tests.unit.core.crashes import STEPS, Thing, World
from tests.unit.core.documents import Json, change, output

MINUTE = timedelta(minutes=1)
TYPES = ("fake_thing", "terraform_data")


@st.composite
def worlds(draw: st.DrawFn, *, at_least: int = 1) -> World:
    kinds = draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=at_least, max_size=6))
    things = []
    for number, kind in enumerate(kinds):
        reached = draw(st.integers(0, len(STEPS[kind])))
        stored = draw(st.integers(0, reached))
        things.append(Thing(f"t{number}", kind, draw(st.sampled_from(TYPES)), reached, stored, draw(st.booleans())))
    lost = draw(st.integers(0, 4))
    if lost:  # the state is never newer than the journal: an end is written before it is offered for storing
        for thing in things:
            thing.stored = 0
    return World(things, whole=draw(st.booleans()), drop=lost)


def proven(world: World, salvage: Salvage, new: Json) -> Proof:
    return prove(world.approved(), new, salvage, age=MINUTE)


def in_the_middle(world: World) -> bool:
    """Whether a create-first replace is caught with both objects alive and one of them unknown to the state."""
    return any(t.new_id in world.objects and t.old_id in world.objects for t in world.things if t.kind == "create_first")


@requirement("promise:crash-costs-nothing")
@given(worlds())
def test_after_any_crash_the_rest_is_proven_and_the_approved_world_comes_out(world: World) -> None:
    salvage = world.salvage()
    if salvage.stops:
        assert {stop.reason for stop in salvage.stops} == {BOTH}
        assert in_the_middle(world)
        return
    new = world.planned_again(salvage)

    proof = proven(world, salvage, new)

    assert proof.refused == ()
    assert proof.ok
    world.carry_out(new)
    assert real(world) == [line for line in world.wanted() if line[0].startswith("fake_thing")]


def real(world: World) -> list[Any]:
    """What is more than a line in the state: a second one of the other types is no duplicate."""
    return [line for line in world.told() if line[0].startswith("fake_thing")]


@settings(max_examples=15)
@given(worlds())
def test_what_has_not_begun_is_proven_by_the_very_plan_that_was_approved(world: World) -> None:
    untouched = World([Thing(t.name, t.kind, t.type, named=t.named) for t in world.things])
    approved = untouched.approved()

    proof = prove(approved, approved, fold([], approved, None), age=MINUTE)

    assert proof.ok
    assert proof.left == 2 + sum(t.kind != "keep" for t in world.things)


# One lie at a time. Each changes a plan that was proven, or says there is nothing in it to change.

Lie = Callable[[Json, World], bool]


def _first(new: Json, fits: Callable[[Json], bool]) -> Json | None:
    return next((c for c in new["resource_changes"] if fits(c)), None)


def one_more_create(new: Json, world: World) -> bool:
    new["resource_changes"].append(change("fake_thing.more", "create", after={"name": "more"}))
    return True


def one_more_delete(new: Json, world: World) -> bool:
    one = _first(new, lambda c: c["change"]["actions"] == ["no-op"] and "importing" not in c["change"])
    if one is None:
        return False
    one["change"]["actions"], one["change"]["after"] = ["delete"], None
    return True


def a_changed_value(new: Json, world: World) -> bool:
    one = _first(new, lambda c: c["change"]["after"] is not None and c["address"] in changed(world))
    if one is None:
        return False
    one["change"]["after"]["size"] = "999"
    return True


def an_added_value(new: Json, world: World) -> bool:
    one = _first(new, lambda c: c["change"]["after"] is not None and c["address"] in changed(world))
    if one is None:
        return False
    one["change"]["after"]["added"] = "x"
    return True


def a_value_no_longer_known(new: Json, world: World) -> bool:
    one = _first(new, lambda c: c["change"]["after"] is not None and c["address"] in changed(world))
    if one is None:
        return False
    one["change"]["after"]["name"], one["change"]["after_unknown"]["name"] = None, True
    return True


def another_object(new: Json, world: World) -> bool:
    one = _first(new, lambda c: c["change"]["before"] is not None)
    if one is None:
        return False
    for side in ("before", "after"):
        if one["change"][side] is not None and "id" in one["change"][side]:
            one["change"][side]["id"] = "somebody-elses"
    return True


def another_import(new: Json, world: World) -> bool:
    one = _first(new, lambda c: "importing" in c["change"])
    if one is None:
        return False
    one["change"]["importing"] = {"id": "somebody-elses"}
    return True


def an_import_more(new: Json, world: World) -> bool:
    one = _first(new, lambda c: "importing" not in c["change"] and c["change"]["before"] is not None)
    if one is None:
        return False
    one["change"]["importing"] = {"id": one["change"]["before"]["id"]}
    return True


def made_twice(new: Json, world: World) -> bool:
    one = _first(new, lambda c: "importing" in c["change"])
    if one is None:
        return False
    del one["change"]["importing"]
    one["change"] |= {"actions": ["create"], "before": None, "after_unknown": {"id": True, "etag": True}}
    return True


def another_type(new: Json, world: World) -> bool:
    if not new["resource_changes"]:
        return False
    new["resource_changes"][0]["type"] = "fake_database"
    return True


def a_resource_less(new: Json, world: World) -> bool:
    kept = {t.address for t in world.things if t.kind != "delete"}
    one = _first(new, lambda c: c["address"] in kept and "deposed" not in c)
    if one is None:
        return False
    new["resource_changes"].remove(one)
    return True


def one_more_output(new: Json, world: World) -> bool:
    new["output_changes"]["more"] = output("create", after="x")
    return True


def another_output(new: Json, world: World) -> bool:
    new["output_changes"]["fixed"]["after"] = "y"
    return True


def drift_elsewhere(new: Json, world: World) -> bool:
    new["resource_drift"].append(change("fake_thing.elsewhere", "update", before={"id": "x"}, after={"id": "x"}))
    return True


def errors(new: Json, world: World) -> bool:
    new["errored"] = True
    return True


def a_part_only(new: Json, world: World) -> bool:
    new["complete"] = False
    return True


def another_configuration(new: Json, world: World) -> bool:
    new["configuration"] = {"root_module": {"changed": True}}
    return True


def another_variable(new: Json, world: World) -> bool:
    new["variables"] = {"added": {"value": "x"}}
    return True


def a_replace_more(new: Json, world: World) -> bool:
    one = _first(new, lambda c: c["change"]["actions"] in (["no-op"], ["update"]))
    if one is None:
        return False
    one["change"]["actions"], one["action_reason"] = ["delete", "create"], "replace_by_request"
    return True


def changed(world: World) -> set[str]:
    return {t.address for t in world.things if t.kind != "keep"}


LIES: list[Lie] = [
    one_more_create, one_more_delete, a_changed_value, an_added_value, a_value_no_longer_known, another_object, another_import,
    an_import_more, made_twice, another_type, a_resource_less, one_more_output, another_output, drift_elsewhere, errors, a_part_only,
    another_configuration, another_variable, a_replace_more,
]  # fmt: skip


# Every lie can be told about this one: something of each kind done, under way, and not begun.
EXAMPLE = World(
    [
        Thing("made", "create", reached=3),
        Thing("stored", "create", reached=3, stored=3),
        Thing("begun", "create", reached=1),
        Thing("updated", "update", reached=3, stored=3),
        Thing("kept", "keep"),
        Thing("replaced", "replace", reached=4),
        Thing("gone", "delete", reached=2),
        Thing("left", "create_first", reached=4, stored=3),
    ]
)


def lied(world: World, lies: list[Lie]) -> int:
    """How many of the lies there was something to tell about; each was refused."""
    salvage = world.salvage()
    if salvage.stops:
        return 0
    approved, truth, told = world.approved(), world.planned_again(salvage), 0
    assert prove(approved, truth, salvage, age=MINUTE).ok
    for lie in lies:
        new = copy.deepcopy(truth)
        if lie(new, world):
            assert not prove(approved, new, salvage, age=MINUTE).ok, lie
            told += 1
    return told


@requirement("promise:approved-is-what-runs")
@pytest.mark.parametrize("lie", LIES)
def test_one_lie_is_refused(lie: Lie) -> None:
    assert lied(EXAMPLE, [lie]) == 1


@settings(max_examples=20)  # each of them once about each world
@given(worlds(at_least=3))
def test_any_one_lie_is_refused_about_any_crash(world: World) -> None:
    lied(world, LIES)


@settings(max_examples=15)
@given(worlds())
def test_without_the_journal_nothing_that_was_made_is_believed(world: World) -> None:
    """Rule e needs the witness: what is there is this run's only if the journals say so."""
    world = World([*world.things, Thing("made", "create", reached=3)])
    salvage = world.salvage()
    assume(not salvage.stops)

    silent = Salvage(needs={}, whole=True, held=salvage.held)

    assert not prove(world.approved(), world.planned_again(salvage), silent, age=MINUTE).ok
