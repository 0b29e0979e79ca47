"""The subset proof, rule by rule (reference §5, step 9): what each allows, and that nothing else passes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from countersign.core.reconcile import Proof
from countersign.core.terraform.agreement import agrees
from countersign.core.terraform.document import Number, Side
from countersign.core.terraform.salvage import Need, Remedy, Salvage
from countersign.core.terraform.subset import LIMIT, prove
from tests.unit.core.documents import Json, change, output, plan

A = "fake_thing.a"
MINUTE = timedelta(minutes=1)
NEW = {"name": "a", "size": 1, "secret": "s3cret"}
UNKNOWN = {"id": True, "etag": True}
MADE = {**NEW, "id": "new", "etag": "e2"}
OLD = {**NEW, "size": 0, "id": "old", "etag": "e1"}

CREATE = change(A, "create", after=NEW, unknown=UNKNOWN)
UPDATE = change(A, "update", before=OLD, after={**NEW, "id": "old"}, unknown={"etag": True})
DELETE = change(A, "delete", before=OLD)
REPLACE = change(A, "delete", "create", before=OLD, after=NEW, unknown=UNKNOWN)
CREATE_FIRST = change(A, "create", "delete", before=OLD, after=NEW, unknown=UNKNOWN)
PRESENT = change(A, "no-op", before=MADE, after=MADE)
UPDATED = change(A, "no-op", before={**OLD, "size": 1}, after={**OLD, "size": 1})
ADOPT = change(A, "no-op", before=MADE, after=MADE, importing={"id": "new"})
SETTLE = change(A, "update", before={**MADE, "secret": None}, after=MADE, importing={"id": "new"})
TAINTED = change(A, "delete", "create", before=MADE, after=NEW, unknown=UNKNOWN, reason="replace_because_tainted")
AGAIN = change(A, "create", "delete", before=MADE, after=NEW, unknown=UNKNOWN, reason="replace_by_request")
ASIDE = change(A, "delete", before=OLD, deposed="d1")

OURS = Need(address=A, remedy=Remedy.NOTHING, id="new", ours=True)
TAKEN = Need(address=A, remedy=Remedy.IMPORT, id="new", ours=True)
TAKEN_HALF = Need(address=A, remedy=Remedy.IMPORT, id="new", ours=True, half=True)
HALF = Need(address=A, remedy=Remedy.REPLACE, id="new", ours=True, half=True)


def salvage(*needs: Need, whole: bool = True, deleting: bool = False, **more: Any) -> Salvage:
    return Salvage(needs={n.address: n for n in needs}, whole=whole, deleting=frozenset({A} if deleting else ()), **more)


def proof(old: Json | list[Json], new: Json | list[Json], facts: Salvage | None = None, *, age: timedelta = MINUTE, **more: Any) -> Proof:
    olds, news = ([one] if isinstance(one, dict) else one for one in (old, new))
    volatile = more.pop("volatile", ())
    return prove(plan(*olds), plan(*news, **more), facts or salvage(), age=age, volatile=volatile)


def with_(one: Json, side: str = "after", **values: Any) -> Json:
    return {**one, "change": {**one["change"], side: {**(one["change"][side] or {}), **values}}}


# Rule a


@pytest.mark.parametrize(
    ("one", "action"),
    [(CREATE, "create"), (UPDATE, "update"), (DELETE, "delete"), (REPLACE, "replace"), (CREATE_FIRST, "replace")],
)
def test_what_is_still_to_be_done_may_be_done_as_approved(one: Json, action: str) -> None:
    told = proof(one, one)

    assert told.ok
    assert told.lines == (f"{A}: {action} as approved, still to be done",)
    assert told.left == 1


@pytest.mark.parametrize("other", [UPDATE, DELETE, REPLACE, CREATE_FIRST, CREATE])
@pytest.mark.parametrize("one", [UPDATE, DELETE, REPLACE, CREATE_FIRST, CREATE])
def test_one_action_is_never_another(one: Json, other: Json) -> None:
    assert proof(one, other).ok is (one is other)
    if one is not other and not (other is CREATE and one in (REPLACE, CREATE_FIRST)):  # that is rule d
        assert not proof(one, other, salvage(deleting=True, whole=False)).ok


def test_a_known_value_that_differs_is_named_and_its_value_is_not() -> None:
    told = proof(CREATE, with_(CREATE, size=2, secret="other"))

    assert told.refused == (f"{A}: secret, size not as approved",)


@pytest.mark.parametrize("one", [UPDATE, DELETE, REPLACE])
def test_another_object_at_the_address_is_not_the_one_approved(one: Json) -> None:
    assert proof(one, with_(one, "before", id="other")).refused == (f"{A}: it is another object than the one approved",)


@pytest.mark.parametrize("one", [CREATE, REPLACE])
def test_what_this_run_made_is_never_made_again(one: Json) -> None:
    if one is CREATE:
        assert proof(one, one, salvage(OURS)).refused == (f"{A}: it exists already and would be made twice",)
    assert not proof(one, one, salvage(OURS)).ok


@pytest.mark.parametrize("now", [CREATE, [], PRESENT, {**ADOPT, "change": {**ADOPT["change"], "importing": {"id": "other"}}}])
def test_nobody_is_asked_about_a_plan_that_would_lose_what_this_run_made(now: Any) -> None:
    told = proof(CREATE, now, salvage(TAKEN))

    assert told.refused[0] == f"{A}: this run made it, and the plan does not take it into the state"
    assert not told.trustworthy


def test_half_made_and_destroyed_on_the_way_to_be_made_again_it_is_created_as_approved() -> None:
    assert proof(CREATE, CREATE, salvage(HALF, deleting=True)).ok
    assert not proof(CREATE, CREATE, salvage(HALF)).ok
    assert proof(REPLACE, CREATE, salvage(HALF, deleting=True)).ok


def test_an_import_that_was_approved_is_still_to_be_done() -> None:
    wanted = {**UPDATE, "change": {**UPDATE["change"], "importing": {"id": "old"}}}
    unknown = {**UPDATE, "change": {**UPDATE["change"], "before": None, "importing": {"unknown": True}}}

    assert proof(wanted, wanted).ok
    assert proof(wanted, UPDATE).ok
    assert proof(unknown, UPDATE).ok
    assert proof(UPDATE, wanted).refused == (f"{A}: its import was not approved",)
    assert not proof(wanted, {**wanted, "change": {**wanted["change"], "importing": {"id": "other"}}}).ok


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"type": "fake_database"}, "its type or provider differs"),
        ({"provider_name": "fake.test/other/fake"}, "its type or provider differs"),
        ({"mode": "data"}, "its type or provider differs"),
        ({"previous_address": "fake_thing.b"}, "its move was not approved"),
    ],
)
def test_what_is_about_another_thing_is_refused(more: Json, said: str) -> None:
    assert proof(UPDATE, {**UPDATE, **more}).refused == (f"{A}: {said}",)


def test_generated_configuration_must_be_what_was_approved() -> None:
    assert not proof(UPDATE, {**UPDATE, "change": {**UPDATE["change"], "generated_config": "x"}}).ok


def test_a_move_is_done_once() -> None:
    moved = {**UPDATE, "previous_address": "fake_thing.b"}

    assert proof(moved, moved).ok
    assert proof(moved, UPDATE).ok
    assert not proof(moved, {**UPDATE, "previous_address": "fake_thing.c"}).ok


# Rule b


@pytest.mark.parametrize("one", [CREATE, REPLACE, CREATE_FIRST])
@pytest.mark.parametrize(("now", "more"), [(ADOPT, ""), (SETTLE, " and settled")])
def test_what_this_run_made_is_taken_into_the_state(one: Json, now: Json, more: str) -> None:
    told = proof(one, now, salvage(TAKEN))

    assert told.lines == (f"{A}: created by this run as approved; it is only taken into the state{more}",)
    assert (told.ok, told.left) == (True, 1)


def test_of_an_import_that_updates_the_import_may_be_left_alone() -> None:
    wanted = {**UPDATE, "change": {**UPDATE["change"], "importing": {"id": "old"}}}
    left = {**UPDATED, "change": {**UPDATED["change"], "importing": {"id": "old"}}}
    another = {**left, "change": {**left["change"], "importing": {"id": "other"}}}

    told = proof(wanted, left)
    assert (told.ok, told.lines, told.left) == (True, (f"{A}: update as approved is done; it is only taken into the state",), 1)
    assert proof(wanted, another).refused == (f"{A}: it is another object than the one approved",)
    assert proof(wanted, with_(left, "before", id="other")).refused == (f"{A}: it is another object than the one approved",)
    assert proof(wanted, with_(left, size=9)).refused == (f"{A}: size not as approved",)
    assert not proof(UPDATE, left).ok


NOT_OURS = f"{A}: the object that would be imported is not the one this run made"


@pytest.mark.parametrize(
    ("now", "facts", "said"),
    [
        (ADOPT, salvage(), NOT_OURS),
        (ADOPT, salvage(Need(address=A, remedy=Remedy.IMPORT, id="other", ours=True)), NOT_OURS),
        (ADOPT, salvage(Need(address=A, remedy=Remedy.IMPORT, id="new")), NOT_OURS),
        (with_(ADOPT, "before", id="other"), salvage(TAKEN), NOT_OURS),
        ({**ADOPT, "change": {**ADOPT["change"], "importing": {"id": "other"}}}, salvage(TAKEN), NOT_OURS),
        (with_(ADOPT, size=7), salvage(TAKEN), f"{A}: size not as approved"),
        (ADOPT, salvage(TAKEN_HALF), f"{A}: it was created, and import is planned"),
        (ADOPT, salvage(OURS), NOT_OURS),
        (ADOPT, salvage(HALF), NOT_OURS),
        (change(A, "delete", before=MADE, importing={"id": "new"}), salvage(TAKEN), f"{A}: it was created, and delete is planned"),
    ],
)  # fmt: skip
def test_nothing_else_is_taken_into_the_state(now: Json, facts: Salvage, said: str) -> None:
    assert proof(CREATE, now, facts).refused[-1] == said


def test_an_approved_update_is_not_an_import() -> None:
    assert not proof(UPDATE, ADOPT, salvage(TAKEN)).ok


# Rule c


@pytest.mark.parametrize(
    ("one", "now", "need"),
    [
        (CREATE, TAINTED, OURS),
        (CREATE, AGAIN, HALF),
        (REPLACE, TAINTED, OURS),
        (CREATE_FIRST, AGAIN, HALF),
        (CREATE, {**AGAIN, "change": {**AGAIN["change"], "importing": {"id": "new"}}}, TAKEN_HALF),
    ],
)
def test_what_was_left_half_made_is_made_again(one: Json, now: Json, need: Need) -> None:
    told = proof(one, now, salvage(need), age=LIMIT)

    assert told.lines == (f"{A}: left half made by this run; it is made again as approved",)
    assert told.ok


@pytest.mark.parametrize(
    ("now", "facts", "said"),
    [
        (TAINTED, salvage(), "create was approved, and replace is planned"),
        (AGAIN, salvage(OURS), "create was approved, and replace is planned"),
        ({**TAINTED, "action_reason": "replace_because_cannot_update"}, salvage(HALF), "create was approved, and replace is planned"),
        (with_(TAINTED, "before", id="other"), salvage(OURS), "the object that would be replaced is not the one this run made"),
        ({**TAINTED, "change": {**TAINTED["change"], "importing": {"id": "x"}}}, salvage(OURS),
         "the object that would be replaced is not the one this run made"),
        ({**AGAIN, "change": {**AGAIN["change"], "importing": {"id": "new"}}}, salvage(HALF),
         "the object that would be replaced is not the one this run made"),
        (AGAIN, salvage(TAKEN_HALF), "the object that would be replaced is not the one this run made"),
        (with_(TAINTED, size=7), salvage(OURS), "size not as approved"),
    ],
)  # fmt: skip
def test_nothing_else_is_replaced(now: Json, facts: Salvage, said: str) -> None:
    assert proof(CREATE, now, facts).refused[-1] == f"{A}: {said}"


LEFT_OVERS = [
    (CREATE, [TAINTED], salvage(OURS)),
    (REPLACE, [CREATE], salvage(deleting=True)),
    (CREATE_FIRST, [PRESENT, ASIDE], salvage(OURS)),
]


@pytest.mark.parametrize(("one", "now", "facts"), LEFT_OVERS)
def test_what_destroys_again_is_asked_after_a_quarter_of_an_hour(one: Json, now: list[Json], facts: Salvage) -> None:
    late = proof(one, now, facts, age=LIMIT + timedelta(seconds=1))

    assert proof(one, now, facts, age=LIMIT).ok
    assert [r.partition(": ")[2] for r in late.refused] == ["the apply ended too long ago to go on with its replacement unasked"]


@pytest.mark.parametrize(("one", "now", "facts"), LEFT_OVERS)
def test_what_holds_data_is_asked_at_once(one: Json, now: list[Json], facts: Salvage) -> None:
    database = {"type": "fake_database"}

    told = proof({**one, **database}, [{**n, **database} for n in now], facts)

    assert [r.partition(": ")[2] for r in told.refused] == ["it holds data, so what is left of its replacement is asked again"]


# Rule d


@pytest.mark.parametrize(
    "facts",
    [salvage(deleting=True), salvage(whole=False), salvage(held=frozenset({(A, "d1")}))],
)
def test_of_a_replace_only_the_create_may_be_left(facts: Salvage) -> None:
    told = proof(REPLACE, CREATE, facts)

    assert told.lines == (f"{A}: destroyed by this run as approved; it is created as approved",)
    assert told.ok


@pytest.mark.parametrize(
    ("now", "facts", "said"),
    [
        (CREATE, salvage(), "its old object is gone, and not by this run"),
        (CREATE, salvage(held=frozenset({(A, None), ("fake_thing.b", "d1")})), "its old object is gone, and not by this run"),
        (CREATE, salvage(OURS, deleting=True), "it exists already and would be made twice"),
        (with_(CREATE, size=7), salvage(deleting=True), "size not as approved"),
    ],
)
def test_no_other_create_follows_from_a_replace(now: Json, facts: Salvage, said: str) -> None:
    assert proof(REPLACE, now, facts).refused == (f"{A}: {said}",)


def test_of_a_replace_that_created_first_only_the_old_object_may_be_left() -> None:
    told = proof(CREATE_FIRST, [PRESENT, ASIDE], salvage(OURS))

    assert told.lines == (
        f"{A}: replace as approved is done",
        f"{A} (deposed object d1): replaced by this run as approved; its old object is destroyed",
    )
    assert told.ok


@pytest.mark.parametrize(
    ("one", "aside"),
    [
        (REPLACE, ASIDE),
        (CREATE_FIRST, with_(ASIDE, "before", id="other")),
        (CREATE_FIRST, with_(ASIDE, "before", id=None)),
        (with_(CREATE_FIRST, "before", id=None), with_(ASIDE, "before", id=None)),
        (CREATE_FIRST, {**ASIDE, "change": {**ASIDE["change"], "actions": ["update"]}}),
    ],
)
def test_no_other_deposed_object_is_destroyed(one: Json, aside: Json) -> None:
    assert not proof(one, [PRESENT, aside], salvage(OURS)).ok


def test_a_deposed_object_that_was_approved_to_go_may_go_or_be_gone() -> None:
    kept = change(A, "no-op", before=MADE, after=MADE)

    assert proof([kept, ASIDE], [kept, ASIDE]).ok
    assert proof([kept, ASIDE], kept, salvage(held=frozenset({(A, "d1")}))).ok
    assert not proof([kept, ASIDE], kept, salvage(held=frozenset({(A, "d2")}))).ok
    assert not proof([kept], [kept, ASIDE]).ok
    assert not proof([], [ASIDE]).ok


# Rule e


@pytest.mark.parametrize(
    ("one", "now", "facts", "action"),
    [
        (CREATE, PRESENT, salvage(OURS), "create"),
        (REPLACE, PRESENT, salvage(OURS), "replace"),
        (CREATE_FIRST, PRESENT, salvage(OURS), "replace"),
        (UPDATE, UPDATED, salvage(), "update"),
        (DELETE, [], salvage(deleting=True), "delete"),
        (DELETE, [], salvage(held=frozenset({(A, None)})), "delete"),
        (DELETE, [], salvage(whole=False), "delete"),
        (change(A, "forget", before=OLD), [], salvage(), "forget"),
    ],
)
def test_what_is_done_is_there_and_as_approved(one: Json, now: Any, facts: Salvage, action: str) -> None:
    told = proof(one, now, facts)

    assert told.lines == (f"{A}: {action} as approved is done",)
    assert (told.ok, told.left) == (True, 0)


@pytest.mark.parametrize(
    ("one", "now", "facts", "said"),
    [
        (CREATE, PRESENT, salvage(), "the object that is there is not the one this run made"),
        (CREATE, with_(PRESENT, id="other"), salvage(OURS), "the object that is there is not the one this run made"),
        (REPLACE, with_(PRESENT, id="old"), salvage(OURS), "the object that is there is not the one this run made"),
        (CREATE, PRESENT, salvage(HALF), "it was left half made, and is not made again"),
        (CREATE, with_(PRESENT, size=7), salvage(OURS), "size not as approved"),
        (CREATE, [], salvage(OURS), "create was approved, and it is not there"),
        (UPDATE, with_(UPDATED, "before", id="other"), salvage(), "it is another object than the one approved"),
        (UPDATE, with_(UPDATED, size=7), salvage(), "size not as approved"),
        (UPDATE, [], salvage(), "update was approved, and it is not there"),
        (DELETE, [], salvage(), "delete was approved, is not planned any more, and was not done by this run"),
        (DELETE, UPDATED, salvage(deleting=True), "delete was approved, is not planned any more, and was not done by this run"),
    ],
)
def test_what_is_not_planned_any_more_and_was_not_done_is_refused(one: Json, now: Any, facts: Salvage, said: str) -> None:
    assert proof(one, now, facts).refused == (f"{A}: {said}",)


def test_a_data_source_is_read_as_approved_or_was_read_while_planning() -> None:
    read = change("data.fake_lookup.a", "read", after={"name": "a"}, unknown={"id": True}, mode="data")

    assert proof(read, read).ok
    assert proof(read, []).lines == ("data.fake_lookup.a: read already",)
    assert not proof([], read).ok
    assert not proof(read, with_(read, name="b")).ok


def test_what_was_left_alone_stays_as_it_was() -> None:
    assert proof(PRESENT, PRESENT).lines == ()
    assert proof(PRESENT, PRESENT).ok
    assert proof(PRESENT, with_(PRESENT, "before", id="other")).refused == (f"{A}: it is another object than when the plan was approved",)
    assert proof(PRESENT, []).refused == (f"{A}: it was there when the plan was approved, and is no more",)
    assert proof([], PRESENT).refused == (f"{A}: it was not there when the plan was approved",)
    assert proof([], CREATE).refused == (f"{A}: create was not approved",)
    assert proof(UPDATED, UPDATE).refused == (f"{A}: update was not approved",)


def test_what_this_version_does_not_know_is_refused_even_as_approved() -> None:
    odd = change(A, "conjure", before=OLD, after=OLD)

    assert proof(odd, odd).refused == (f"{A}: this version does not know what was approved",)


# Rules f, g and h


def outputs_proof(old: Mapping[str, Any], new: Mapping[str, Any]) -> Proof:
    return prove(plan(outputs=dict(old)), plan(outputs=dict(new)), salvage(), age=MINUTE)


def test_outputs_change_as_approved_or_have_changed() -> None:
    approved = {"known": output("create", after="x"), "late": output("create", unknown=True), "gone": output("delete", before="x")}

    assert outputs_proof(approved, approved).lines == (
        "output gone: changes as approved",
        "output known: changes as approved",
        "output late: changes as approved",
    )
    assert outputs_proof(approved, approved).left == 3
    done = outputs_proof(approved, {"known": output("no-op", before="x", after="x"), "late": output("update", before="a", after="b")})
    assert done.lines == ("output gone: is as approved", "output known: is as approved", "output late: changes as approved")
    assert (done.ok, done.left) == (True, 1)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"a": output("create", after="y")}, "output a: not what was approved"),
        ({"a": output("no-op", before="y", after="y")}, "output a: not what was approved"),
        ({"a": output("create", unknown=True)}, "output a: not what was approved"),
        ({"a": output("delete", before="x")}, "output a: not what was approved"),
        ({}, "output a: not what was approved"),
        ({"a": output("create", after="x"), "b": output("create", after="z")}, "output b: its change was not approved"),
    ],
)
def test_no_other_output_changes(new: Mapping[str, Any], said: str) -> None:
    assert outputs_proof({"a": output("create", after="x")}, new).refused == (said,)


def test_a_plan_says_nothing_where_there_are_no_outputs() -> None:
    gone, kept, bare = plan(outputs={"a": output("delete", before="x")}), plan(outputs={"a": output("create", after="x")}), plan()
    del bare["output_changes"], bare["resource_drift"]

    assert prove(gone, bare, salvage(), age=MINUTE).ok
    assert not prove(kept, bare, salvage(), age=MINUTE).ok
    assert not prove(bare, kept, salvage(), age=MINUTE).ok


def test_an_output_that_was_to_go_may_not_stay_nor_lose_its_mark() -> None:
    assert not outputs_proof({"a": output("delete", before="x")}, {"a": output("no-op", before="x", after="x")}).ok
    hidden = output("create", after="x", sensitive=True)
    assert not outputs_proof({"a": hidden}, {"a": output("create", after="x")}).ok
    assert outputs_proof({"a": hidden}, {"a": hidden}).ok


def test_what_changed_outside_of_the_approved_addresses_is_refused() -> None:
    elsewhere = change("fake_thing.b", "update", before=OLD, after=OLD)

    assert proof(UPDATE, UPDATE, drift=[change(A, "update", before=OLD, after=OLD)]).ok
    assert proof(UPDATE, UPDATE, drift=[elsewhere]).refused == ("fake_thing.b: changed outside of this run (update)",)
    assert proof({**UPDATE, "previous_address": "fake_thing.b"}, UPDATE, drift=[elsewhere]).ok
    assert proof(UPDATE, UPDATE, drift=[{**elsewhere, "previous_address": A}]).ok
    assert not proof(
        [UPDATE, {**UPDATED, "address": "fake_thing.b"}], [UPDATE, {**UPDATED, "address": "fake_thing.b"}], drift=[elsewhere]
    ).ok


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"errored": True}, "the plan ended in errors"),
        ({"errored": None}, "the plan ended in errors"),
        ({"complete": False}, "the plan is incomplete"),
        ({"complete": None}, "the plan is incomplete"),
        ({"deferred_changes": [{}]}, "the plan defers changes to a later one"),
    ],
)
def test_an_unfinished_plan_proves_nothing_and_nobody_is_asked_about_it(more: Json, said: str) -> None:
    told = proof(UPDATE, UPDATE, **more)

    assert (told.refused, told.trustworthy, told.ok) == ((said,), False, False)


def test_an_engine_that_does_not_say_whether_a_plan_is_complete_is_believed() -> None:
    bare = plan(UPDATE)
    del bare["complete"], bare["errored"]

    assert prove(bare, bare, salvage(), age=MINUTE).ok


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"terraform_version": "1.11.5"}, "the engine is another version"),
        ({"configuration": {"root_module": {"x": 1}}}, "the configuration differs"),
        ({"variables": {"region": {"value": "eu"}}}, "variable region differs"),
        ({"action_invocations": [{}]}, "actions would be invoked beside the resources, and nobody knows whether they were"),
    ],
)
def test_what_changes_the_effect_without_changing_a_value_is_refused(more: Json, said: str) -> None:
    told = proof(UPDATE, UPDATE, **more)
    back = prove(plan(UPDATE, **more), plan(UPDATE), salvage(), age=MINUTE)

    assert (told.refused, back.refused) == ((said,), (said,))
    assert told.trustworthy


def test_variables_are_equal_by_value_and_volatile_ones_may_differ() -> None:
    def told(old: Any, new: Any, *volatile: str) -> bool:
        variables = [{"variables": {"v": {"value": value}}} for value in (old, new)]
        return prove(plan(**variables[0]), plan(**variables[1]), salvage(), age=MINUTE, volatile=volatile).ok

    assert told(3, 3.0)
    assert told({"a": [1]}, {"a": [1]})
    assert not told(3, "3")
    assert not told("x", "y")
    assert not told(None, "y")
    assert told("x", "y", "v")


@pytest.mark.parametrize("remedy", [Remedy.LOOK_UP, Remedy.OPERATOR])
def test_nothing_is_proven_while_an_object_is_not_accounted_for(remedy: Remedy) -> None:
    told = proof(UPDATE, UPDATE, salvage(Need(address="fake_thing.b", remedy=remedy)))

    assert told.refused == ("fake_thing.b: nobody knows whether it was created",)
    assert not told.trustworthy


def test_lines_name_no_value() -> None:
    cases = [proof(CREATE, ADOPT, salvage(TAKEN)), proof(CREATE, with_(CREATE, secret="0ther")), proof(CREATE, with_(PRESENT, id="zzz"))]

    for told in cases:
        text = " ".join((*told.lines, *told.refused))
        assert not any(value in text for value in ("s3cret", "0ther", "zzz", "e2"))


# What agrees


def side(value: Any = None, unknown: Any = False, sensitive: Any = False) -> Side:
    return Side(value=value, unknown=unknown, sensitive=sensitive)


@pytest.mark.parametrize(
    ("approved", "now"),
    [
        (side("x"), side("x")),
        (side(Number("3")), side(Number("3.0"))),
        (side(), side()),
        (side(unknown=True), side("x")),
        (side(unknown=True), side()),
        (side(unknown=True), side(unknown=True)),
        (side({"a": "x"}), side({"a": "x", "b": None})),
        (side({"a": "x", "b": None}), side({"a": "x"})),
        (side({"a": "x"}, {"b": True}), side({"a": "x", "b": "y"})),
        (side(None, {"b": True}), side({"b": "y"})),
        (side(["x", None], [False, True]), side(["x", "y"])),
        (side([]), side([])),
        (side({}), side({})),
        (side("x", sensitive=True), side("x", sensitive=True)),
        (side("x"), side("x", sensitive=True)),
        (side({"a": "x"}, sensitive={"a": True}), side({"a": "x"}, sensitive=True)),
    ],
)
def test_what_was_unknown_is_settled_and_the_rest_is_equal(approved: Side, now: Side) -> None:
    assert agrees(approved, now)


@pytest.mark.parametrize(
    ("approved", "now"),
    [
        (side("x"), side("y")),
        (side("3"), side(Number("3"))),
        (side("true"), side(True)),
        (side("x"), side()),
        (side(), side("x")),
        (side(), side(unknown=True)),
        (side("x"), side(unknown=True)),
        (side({"a": "x"}), side({"a": "x", "b": "y"})),
        (side({"a": "x", "b": "y"}), side({"a": "x"})),
        (side({"a": {"b": 1}}), side({"a": {"b": 2}})),
        (side({"a": "x"}, {"b": True}), side({"a": "z", "b": "y"})),
        (side(["x"]), side(["x", "y"])),
        (side(["x", "y"]), side(["x"])),
        (side(["x", "y"]), side(["y", "x"])),
        (side([]), side({})),
        (side("x"), side(["x"])),
        (side("x", sensitive=True), side("x")),
        (side(unknown=True, sensitive=True), side("x")),
        (side({"a": "x"}, sensitive={"a": True}), side({"a": "x"}, sensitive={"b": True})),
        (side({"a": "x", "b": "y"}, sensitive=True), side({"a": "x", "b": "y"}, sensitive={"a": True})),
    ],
)
def test_what_was_known_may_not_change_nor_may_anything_be_added(approved: Side, now: Side) -> None:
    assert not agrees(approved, now)
