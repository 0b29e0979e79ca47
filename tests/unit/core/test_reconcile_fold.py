"""The table of what an address needs after a lost apply, row by row (reference §5, step 7)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from countersign.core.terraform.imports import import_blocks, is_importable
from countersign.core.terraform.operations import AttemptJournal, attempt_of
from countersign.core.terraform.salvage import BOTH, Hit, Need, Remedy, Rules, Salvage, fold
from tests.unit.core.documents import Json, change, event, journal, plan, state_of

A = "fake_thing.a"
NEW = {"name": "a", "project": "p", "secret": None}
UNKNOWN = {"id": True, "etag": True}
CREATE = change(A, "create", after=NEW, unknown=UNKNOWN)
OLD = {**NEW, "id": "old", "etag": "e1"}
REPLACE = change(A, "delete", "create", before=OLD, after=NEW, unknown=UNKNOWN)
CREATE_FIRST = change(A, "create", "delete", before=OLD, after=NEW, unknown=UNKNOWN)
COMMANDED = {"root_module": {"resources": [{"address": A, "provisioners": [{"type": "local-exec"}]}]}}
RULES = Rules(unique={"fake_*": ("name", "project")})

STARTED = event("apply_start", A, "create")
MADE = (STARTED, event("apply_complete", A, "create", "new"))
FAILED = (STARTED, event("apply_errored", A, "create"))
PROVISIONING = (STARTED, event("provision_start", A))
DELETING = event("apply_start", A, "delete", "old")
DELETED = (DELETING, event("apply_complete", A, "delete"))

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
LATER, EARLIER = SINCE + timedelta(minutes=1), SINCE - timedelta(minutes=1)


def folded(approved: Json, *events: bytes, whole: bool = True, state: Any = (), rules: Rules = RULES, **more: Any) -> Salvage:
    document = plan(approved, **more)
    attempt = attempt_of(document, document, attempt_id="1", journal=journal(*events), whole=whole)
    return fold([attempt], document, state_of(state), rules=rules)


def need(*args: Any, **more: Any) -> Need:
    return folded(*args, **more).needs[A]


def held(id: str | None, **more: Any) -> list[dict[str, Any]]:
    return [{"address": A, "id": id, **more}]


# Complete


def test_what_was_created_and_is_not_in_the_state_is_imported() -> None:
    salvage = folded(CREATE, *MADE)

    assert salvage.imports == {A: "new"}
    assert (salvage.removals, salvage.replaces, salvage.stops, salvage.look_ups, salvage.absent) == ((), (), (), (), frozenset())


def test_what_was_created_and_is_in_the_state_needs_nothing() -> None:
    found = need(CREATE, *MADE, state=held("new"))

    assert (found.remedy, found.ours, found.id) == (Remedy.NOTHING, True, "new")


def test_what_replaced_an_object_that_the_state_still_has_takes_its_place() -> None:
    salvage = folded(REPLACE, *DELETED, *MADE, state=held("old"))

    assert salvage.imports == {A: "new"}
    assert salvage.removals == (A,)
    assert salvage.replaces == ()


def test_a_new_object_beside_an_old_one_that_may_live_is_an_operators() -> None:
    found = need(CREATE_FIRST, *MADE, state=held("old"), rules=Rules())

    assert (found.remedy, found.reason) == (Remedy.OPERATOR, BOTH)


@pytest.mark.parametrize("began", [(), (DELETING,)])
def test_where_types_are_looked_up_the_old_object_is_looked_for(began: tuple[bytes, ...]) -> None:
    salvage = folded(CREATE_FIRST, *MADE, *began, state=held("old"))
    [asked] = salvage.look_ups
    assert asked.look_up is not None
    assert (asked.look_up.old, asked.look_up.unique) == ({"old"}, {"name": "a", "project": "p"})

    gone = salvage.settled(A, [Hit(id="new")], since=SINCE, label=None)
    both = salvage.settled(A, [Hit(id="new"), Hit(id="old")], since=SINCE, label=None)

    assert (gone.imports, gone.removals) == ({A: "new"}, (A,))
    assert [stop.reason for stop in both.stops] == [BOTH]


def test_an_old_object_of_another_name_would_not_be_seen_so_it_is_an_operators() -> None:
    renamed = change(A, "create", "delete", before={**OLD, "name": "b"}, after=NEW, unknown=UNKNOWN)

    assert need(renamed, *MADE, state=held("old")).remedy is Remedy.OPERATOR


def test_an_operators_word_that_only_this_object_exists_is_enough() -> None:
    document = plan(CREATE_FIRST)
    lost = attempt_of(document, document, attempt_id="1", journal=journal(*MADE), whole=True)

    salvage = fold([lost, AttemptJournal(attempt_id="answers", whole=True, answers={A: "new"})], document, state_of(held("old")))

    assert (salvage.imports, salvage.removals) == ({A: "new"}, (A,))


def test_what_was_created_without_an_id_is_an_operators() -> None:
    other_key = (STARTED, event("apply_complete", A, "create", "x", id_key="name"))
    for events in ((STARTED, event("apply_complete", A, "create")), other_key):
        assert need(CREATE, *events).reason == "it was created, and the journal does not tell the id"
        assert need(REPLACE, *DELETED, *events, state=held(None)).remedy is Remedy.OPERATOR


def test_what_has_no_id_at_all_and_is_in_the_state_needs_nothing() -> None:
    found = need(CREATE, STARTED, event("apply_complete", A, "create"), state=held(None))

    assert (found.remedy, found.ours, found.id) == (Remedy.NOTHING, True, None)


def test_what_was_created_and_destroyed_again_is_not_begun() -> None:
    again = (event("apply_start", A, "delete", "new"), event("apply_complete", A, "delete"))

    assert folded(CREATE, *MADE, *again).needs == {}
    assert folded(REPLACE, *DELETED, *MADE, *again).replaces == (A,)


NAMED = (event("apply_start", A, "delete", "same"), event("apply_complete", A, "delete"))
REPLACE_NAMED = change(A, "delete", "create", before={**OLD, "id": "same"}, after=NEW, unknown=UNKNOWN)


def test_where_ids_are_names_what_replaced_an_object_has_its_id_and_exists() -> None:
    made = (*NAMED, STARTED, event("apply_complete", A, "create", "same"))

    in_the_state = folded(REPLACE_NAMED, *made, state=held("same"))
    assert (in_the_state.needs[A].remedy, in_the_state.needs[A].id, in_the_state.replaces) == (Remedy.NOTHING, "same", ())
    assert folded(REPLACE_NAMED, *made, state=[]).imports == {A: "same"}


def test_where_ids_are_names_what_was_in_flight_is_found_under_the_old_id() -> None:
    salvage = folded(REPLACE_NAMED, *NAMED, STARTED, state=held("same"))

    found = salvage.settled(A, [Hit(id="same", made_at=LATER)], since=SINCE, label=None)
    assert (found.imports, found.removals) == ({A: "same"}, (A,))
    assert salvage.settled(A, [], since=SINCE, label=None).absent == {A}


def test_what_this_run_made_and_lies_deposed_is_an_operators() -> None:
    assert need(CREATE, *MADE, state=held("new", deposed="d1")).reason == "the object this run made is deposed in the state"


def test_an_import_is_passed_over_while_anything_is_deposed_there_so_that_must_be_gone() -> None:
    aside = held("old", deposed="d1")

    gone = folded(CREATE_FIRST, *MADE, *DELETED, state=aside)
    assert (gone.imports, gone.removals, gone.held) == ({A: "new"}, (A,), {(A, "d1")})

    asked = folded(CREATE_FIRST, *MADE, state=aside)
    assert asked.settled(A, [], since=SINCE, label=None).imports == {A: "new"}
    assert asked.settled(A, [Hit(id="old")], since=SINCE, label=None).stops[0].reason == BOTH
    for other in (held("other", deposed="d1"), held(None, deposed="d1"), [*aside, *held("other", deposed="d2")]):
        assert folded(CREATE_FIRST, *MADE, state=other).stops[0].reason == BOTH
        found = folded(CREATE_FIRST, STARTED, state=other).settled(A, [Hit(id="x", label="run")], since=SINCE, label="run")
        assert found.stops[0].reason == BOTH


def test_an_object_deposed_at_a_replace_that_destroys_first_stays_an_operators() -> None:
    found = folded(REPLACE, *DELETED, STARTED, state=[*held("old"), *held("other", deposed="d1")])

    assert found.settled(A, [Hit(id="x", label="run")], since=SINCE, label="run").stops[0].reason == BOTH
    assert found.settled(A, [], since=SINCE, label="run").replaces == (A,)


def test_a_moved_object_is_found_where_it_was_and_removed_there() -> None:
    moved = {**REPLACE, "previous_address": "fake_thing.before"}

    salvage = folded(moved, *DELETED, *MADE, state=[{"address": "fake_thing.before", "id": "old"}])

    assert (salvage.imports, salvage.removals) == ({A: "new"}, ("fake_thing.before",))


@pytest.mark.parametrize("address", ["fake_thing", 'fake_thing.a["${x}"]', "fake_thing.a\nimport", 'fake_thing.a["%{x}"]', "fake thing.a"])
def test_what_is_no_address_is_never_written_into_configuration(address: str) -> None:
    events = (event("apply_start", address, "create"), event("apply_complete", address, "create", "x"))
    one = change(address, "create", after=NEW, unknown=UNKNOWN, type="fake_thing")

    assert not is_importable(address)
    assert folded(one, *events).needs[address].remedy is Remedy.OPERATOR
    assert folded(one, events[0]).needs[address].remedy is Remedy.OPERATOR


def test_an_import_says_address_and_id_and_evaluates_nothing() -> None:
    text = import_blocks({'module.m["a.b"].fake_thing.each["$${x}\\"y"]': 'a"b${c}%{d}\n', "fake_thing.a[0]": "x"})

    assert is_importable('module.m["a.b"].fake_thing.each["$${x}\\"y"]')
    assert is_importable("fake_thing.größe[0]")
    assert text == (
        'import {\n  to = fake_thing.a[0]\n  id = "x"\n}\n'
        "\n"
        'import {\n  to = module.m["a.b"].fake_thing.each["$${x}\\"y"]\n  id = "a\\"b$${c}%%{d}\\n"\n}\n'
    )
    assert import_blocks({}) == ""


# Under way


@pytest.mark.parametrize("events", [(STARTED,), FAILED])
def test_what_may_have_been_created_is_looked_up_by_what_is_unique(events: tuple[bytes, ...]) -> None:
    [asked] = folded(CREATE, *events).look_ups

    assert asked.look_up is not None
    assert (asked.look_up.type, asked.look_up.unique, asked.look_up.old) == ("fake_thing", {"name": "a", "project": "p"}, frozenset())


@pytest.mark.parametrize(
    ("hits", "remedy"),
    [
        ([], Remedy.CREATE),
        ([Hit(id="x", made_at=LATER)], Remedy.IMPORT),
        ([Hit(id="x", made_at=SINCE)], Remedy.IMPORT),
        ([Hit(id="x", label="run")], Remedy.IMPORT),
        ([Hit(id="x", made_at=EARLIER, label="run")], Remedy.IMPORT),
        ([Hit(id="x", made_at=EARLIER)], Remedy.CREATE),
        ([Hit(id="x", made_at=EARLIER, label="other")], Remedy.CREATE),
        ([Hit(id="x")], Remedy.OPERATOR),
        ([Hit(id="x", label="other")], Remedy.OPERATOR),
        ([Hit(id="x", label="run"), Hit(id="y", made_at=LATER)], Remedy.OPERATOR),
        ([Hit(id="x", label="run"), Hit(id="x", label="run")], Remedy.IMPORT),
        ([Hit(id="x", label="run"), Hit(id="y")], Remedy.OPERATOR),
    ],
)
def test_only_one_object_that_is_provably_this_runs_is_taken(hits: list[Hit], remedy: Remedy) -> None:
    salvage = folded(CREATE, STARTED).settled(A, hits, since=SINCE, label="run")

    assert salvage.needs[A].remedy is remedy
    assert salvage.imports == ({A: "x"} if remedy is Remedy.IMPORT else {})
    assert salvage.absent == ({A} if remedy is Remedy.CREATE else frozenset())


def test_without_a_label_only_the_time_counts() -> None:
    salvage = folded(CREATE, STARTED).settled(A, [Hit(id="x", made_at=EARLIER)], since=SINCE, label=None)

    assert salvage.absent == {A}


@pytest.mark.parametrize("state", [held("old"), []])
def test_of_a_replace_under_way_the_old_object_is_no_hit(state: Any) -> None:
    salvage = folded(REPLACE, *DELETED, STARTED, state=state)

    none = salvage.settled(A, [Hit(id="old", made_at=EARLIER)], since=SINCE, label=None)
    one = salvage.settled(A, [Hit(id="new", made_at=LATER)], since=SINCE, label=None)

    assert (none.absent, none.replaces) == ({A}, (A,))
    assert (one.imports, one.removals, one.replaces) == ({A: "new"}, (A,) if state else (), ())


def test_of_a_create_first_under_way_both_objects_may_live() -> None:
    salvage = folded(CREATE_FIRST, STARTED, state=held("old"))

    def settled(*ids: str) -> Salvage:
        return salvage.settled(A, [Hit(id=id, made_at=LATER) for id in ids], since=SINCE, label=None)

    assert settled("new", "old").stops[0].reason == BOTH
    assert settled("new").imports == {A: "new"}
    assert (settled("old").absent, settled("old").replaces) == ({A}, (A,))
    assert settled().absent == {A}


def test_of_a_create_first_under_way_an_old_object_of_another_name_is_not_looked_for() -> None:
    renamed = change(A, "create", "delete", before={**OLD, "name": "b"}, after=NEW, unknown=UNKNOWN)
    salvage = folded(renamed, STARTED, state=held("old"))

    assert salvage.settled(A, [Hit(id="new", made_at=LATER)], since=SINCE, label=None).stops[0].reason == BOTH
    assert salvage.settled(A, [], since=SINCE, label=None).absent == {A}


def test_a_deposed_old_object_is_no_hit() -> None:
    salvage = folded(CREATE_FIRST, STARTED, state=held("aside", deposed="d1"))

    assert salvage.settled(A, [Hit(id="aside", made_at=LATER)], since=SINCE, label=None).absent == {A}


def test_a_type_without_look_up_is_an_operators() -> None:
    found = need(CREATE, STARTED, rules=Rules(unique={"other_*": ("name",)}))

    assert found.reason == "its creation may have been under way, and there is no look-up for fake_thing"


def test_a_name_that_was_not_known_cannot_be_looked_up() -> None:
    late = change(A, "create", after={"project": "p"}, unknown={"name": True, "id": True})

    found = need(late, STARTED)

    assert found.reason == "its creation may have been under way, and name, by which it would be looked up, was not known before the apply"


# In the state though its create is not complete


def test_what_was_stored_in_mid_provisioning_is_replaced() -> None:
    salvage = folded(CREATE, *PROVISIONING, state=held("x"))

    assert (salvage.needs[A].remedy, salvage.needs[A].id) == (Remedy.REPLACE, "x")
    assert salvage.replaces == (A,)


def test_what_has_provisioners_and_was_stored_before_the_journal_broke_off_is_replaced() -> None:
    assert folded(CREATE, whole=False, state=held("x"), configuration=COMMANDED).replaces == (A,)


def test_what_is_tainted_is_replaced_by_the_plan_itself() -> None:
    found = need(CREATE, *PROVISIONING, state=held("x", tainted=True))

    assert (found.remedy, found.ours, found.half) == (Remedy.NOTHING, True, False)


def test_what_the_state_has_of_a_create_is_witnessed_by_the_state() -> None:
    found = need(CREATE, whole=False, state=held("x"))

    assert (found.remedy, found.ours, found.id) == (Remedy.NOTHING, True, "x")


def test_a_new_object_in_the_place_of_a_replaced_one_is_half_made_too() -> None:
    assert folded(REPLACE, *DELETED, *PROVISIONING, state=held("x")).replaces == (A,)


def test_what_has_no_id_may_be_the_old_object_of_a_replace() -> None:
    assert need(REPLACE, *DELETED, STARTED, state=held(None)).remedy is Remedy.LOOK_UP


def test_what_is_found_in_the_cloud_with_its_provisioners_unknown_is_imported_and_replaced() -> None:
    salvage = folded(CREATE, STARTED, configuration=COMMANDED).settled(A, [Hit(id="x", made_at=LATER)], since=SINCE, label=None)

    assert (salvage.imports, salvage.replaces) == ({A: "x"}, (A,))


# Inert types


@pytest.mark.parametrize("type", ["terraform_data", "null_resource", "time_sleep"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_lives_in_the_state_alone_is_created_again(type: str, whole: bool) -> None:
    one = change(A, "create", after={"input": "x"}, unknown={"id": True}, type=type)

    assert folded(one, STARTED, whole=whole).absent == {A}


def test_a_plan_that_tells_no_configuration_has_no_provisioners() -> None:
    one = change(A, "create", after={}, unknown={"id": True}, type="terraform_data")

    for none in (None, {}, {"root_module": None}):
        assert folded(one, STARTED, configuration=none).absent == {A}


def test_with_provisioners_nothing_is_inert() -> None:
    one = change(A, "create", after={}, unknown={"id": True}, type="terraform_data")

    assert need(one, STARTED, configuration=COMMANDED).remedy is Remedy.OPERATOR


def test_terraform_data_keeps_its_id_where_an_import_does_not_replace_it() -> None:
    plain = change(A, "create", after={"input": "x", "triggers_replace": None}, unknown={"id": True}, type="terraform_data")
    triggered = change(A, "create", after={"triggers_replace": "x"}, unknown={"id": True}, type="terraform_data")
    null = change(A, "create", after={}, unknown={"id": True}, type="null_resource")

    assert folded(plain, *MADE).imports == {A: "new"}
    assert folded(triggered, *MADE).absent == {A}
    assert folded(null, *MADE).absent == {A}


def test_an_inert_replace_is_asked_for_again() -> None:
    one = change(A, "create", "delete", before=OLD, after={}, unknown={"id": True}, type="null_resource")

    assert folded(one, STARTED, state=held("old")).replaces == (A,)
    assert folded(one, *MADE, state=held("old")).replaces == (A,)
    assert folded({**one, "type": "terraform_data"}, *MADE, state=held("old")).replaces == (A,)


# Nothing in the journal


def test_what_a_whole_journal_does_not_mention_was_not_begun() -> None:
    assert folded(CREATE).needs == {}
    assert folded(CREATE).replaces == ()
    assert folded(REPLACE, state=held("old")).replaces == (A,)
    assert folded(CREATE_FIRST, state=held("old")).replaces == (A,)


def test_a_replace_of_which_only_the_delete_is_done_is_asked_for_again() -> None:
    salvage = folded(REPLACE, *DELETED, state=held("old"))

    assert (salvage.needs, salvage.replaces, salvage.deleting) == ({}, (A,), {A})


@pytest.mark.parametrize("one", [CREATE, REPLACE])
def test_a_gap_may_hide_every_approved_create(one: Json) -> None:
    salvage = folded(one, whole=False, state=held("old") if one is REPLACE else ())

    assert (salvage.whole, salvage.needs[A].remedy) == (False, Remedy.LOOK_UP)
    found = salvage.settled(A, [Hit(id="new", made_at=LATER)], since=SINCE, label=None)
    assert found.imports == {A: "new"}


def test_a_gap_hides_no_update_delete_or_read() -> None:
    document = plan(
        change(A, "update", before=OLD, after=OLD),
        change("fake_thing.b", "delete", before=OLD),
        change("data.fake_lookup.c", "read", after={}, mode="data"),
        change("fake_thing.d", "create", after=NEW, deposed="x"),
    )
    attempt = attempt_of(document, document, attempt_id="1", journal=b"", whole=False)

    assert fold([attempt], document, None).needs == {}


def test_a_torn_line_is_a_gap_whatever_is_said_about_the_journal() -> None:
    torn = journal(*MADE) + b'{"type": "apply_sta'

    document = plan(CREATE, change("fake_thing.b", "create", after={**NEW, "name": "b"}, unknown=UNKNOWN))
    salvage = fold([attempt_of(document, document, attempt_id="1", journal=torn, whole=True)], document, None, rules=RULES)

    assert not salvage.whole
    assert [n.address for n in salvage.look_ups] == ["fake_thing.b"]
    assert salvage.imports == {A: "new"}


def test_lines_that_are_no_events_are_passed_over() -> None:
    noise = b'warning: something\n{"@message": "no type"}\n' + event("apply_complete", "fake_thing.never_begun", "create", "x") + b"\n"
    reading = event("apply_start", A, "read") + b"\n" + event("apply_start", A, "noop") + b"\n" + event("refresh_start", A) + b"\n"

    assert folded(CREATE, noise + reading).needs == {}
    assert folded(CREATE, noise + reading).whole


def test_an_event_between_start_and_end_ends_nothing() -> None:
    assert need(CREATE, STARTED, event("apply_progress", A, "create")).remedy is Remedy.LOOK_UP


# Several attempts


def attempts(*texts: bytes, second: AttemptJournal | None = None) -> Salvage:
    document = plan(CREATE)
    made = [attempt_of(document, document, attempt_id=str(n), journal=text, whole=True) for n, text in enumerate(texts)]
    return fold([*made, *([second] if second else [])], document, None, rules=RULES)


def test_a_later_create_replaces_what_was_known_of_an_address() -> None:
    later = (STARTED, event("apply_complete", A, "create", "newer"))
    gone = (event("apply_start", A, "delete", "new"), event("apply_complete", A, "delete"))

    assert attempts(journal(*MADE), journal(*gone, *later)).imports == {A: "newer"}
    assert attempts(journal(STARTED), journal(*later)).imports == {A: "newer"}
    assert attempts(journal(*MADE), journal(*gone)).needs == {}


def test_what_an_earlier_reconciling_found_is_remembered() -> None:
    new = plan(change(A, "no-op", before={**NEW, "id": "found"}, after={**NEW, "id": "found"}, importing={"id": "found"}))
    second = attempt_of(new, plan(CREATE), attempt_id="2", journal=journal(), whole=False)

    assert second.found == {A: "found"}
    assert attempts(journal(STARTED), second=second).imports == {A: "found"}


def test_what_an_earlier_reconciling_did_not_find_is_not_looked_for_again() -> None:
    second = attempt_of(plan(CREATE), plan(CREATE), attempt_id="2", journal=journal(), whole=True, absent=[A])

    assert attempts(journal(STARTED), second=second).needs == {}
    torn = attempt_of(plan(CREATE), plan(CREATE), attempt_id="2", journal=journal(), whole=False, absent=[A])
    assert attempts(journal(STARTED), second=torn).needs[A].remedy is Remedy.LOOK_UP


def test_the_users_own_imports_are_not_this_runs() -> None:
    wanted = plan(change(A, "no-op", before=OLD, after=OLD, importing={"id": "old"}), change("fake_thing.b", "no-op", importing={}))

    assert attempt_of(wanted, wanted, attempt_id="1", journal=b"", whole=True).found == {}
    assert attempt_of(wanted, plan(), attempt_id="1", journal=b"", whole=True).found == {A: "old"}


HALF = {**NEW, "id": "half"}
AGAIN = plan(change(A, "delete", "create", before=HALF, after=NEW, unknown=UNKNOWN, reason="replace_by_request"))
TAKEN = plan(change(A, "delete", "create", before=HALF, after=NEW, unknown=UNKNOWN, reason="replace_by_request", importing={"id": "half"}))
GOING = event("apply_start", A, "delete", "half")
GONE = (GOING, event("apply_complete", A, "delete"))


@pytest.mark.parametrize("second", [AGAIN, TAKEN])
def test_what_a_second_crash_left_half_made_is_still_replaced(second: Json) -> None:
    crash = attempt_of(second, plan(CREATE), attempt_id="2", journal=journal(), whole=True)
    lost = attempt_of(plan(CREATE), plan(CREATE), attempt_id="1", journal=journal(*PROVISIONING), whole=True)

    stored = fold([lost, crash], plan(CREATE), state_of(held("half")), rules=RULES)
    unstored = fold([lost, crash], plan(CREATE), None, rules=RULES)

    assert (stored.imports, stored.replaces, stored.look_ups) == ({}, (A,), ())
    assert (unstored.imports, unstored.replaces, unstored.look_ups) == ({A: "half"}, (A,), ())


def test_what_a_second_crash_may_have_destroyed_is_looked_for() -> None:
    crash = attempt_of(TAKEN, plan(CREATE), attempt_id="2", journal=journal(GOING), whole=True)
    salvage = attempts(journal(STARTED), second=crash)

    alive = salvage.settled(A, [Hit(id="half", made_at=EARLIER)], since=SINCE, label=None)
    assert (alive.imports, alive.replaces) == ({A: "half"}, (A,))
    assert salvage.settled(A, [], since=SINCE, label=None).absent == {A}
    assert fold([crash], plan(CREATE), None).imports == {A: "half"}  # no look-up: the import tells


def test_what_a_second_crash_destroyed_is_not_looked_for_again() -> None:
    crash = attempt_of(AGAIN, plan(CREATE), attempt_id="2", journal=journal(*GONE), whole=True)

    assert attempts(journal(STARTED), second=crash).needs == {}


def test_a_gap_in_the_second_attempt_may_hide_the_new_one() -> None:
    crash = attempt_of(AGAIN, plan(CREATE), attempt_id="2", journal=journal(*GONE), whole=False)

    assert attempts(journal(STARTED), second=crash).needs[A].remedy is Remedy.LOOK_UP


def test_the_old_object_of_an_approved_replace_is_not_this_runs() -> None:
    again = plan(change(A, "delete", "create", before=OLD, after=NEW, unknown=UNKNOWN, reason="replace_by_request"))

    assert attempt_of(again, plan(REPLACE), attempt_id="2", journal=b"", whole=True).found == {}


def test_a_create_that_was_not_approved_is_an_operators() -> None:
    other = "fake_thing.other"
    events = (event("apply_start", other, "create"), event("apply_complete", other, "create", "x"))
    reason = "something was created here, and the approved plan does not simply create it"

    assert folded(CREATE, *events).needs[other].reason == reason
    assert folded(CREATE, *events, state=[{"address": other, "id": "x"}]).needs[other].remedy is Remedy.NOTHING
    assert need(change(A, "update", before=OLD, after=OLD), *MADE).reason == reason
    assert need({**CREATE, "change": {**CREATE["change"], "importing": {"id": "y"}}}, *MADE).reason == reason


def test_nothing_that_identifies_an_object_is_shown_by_accident() -> None:
    shown = repr(folded(CREATE, *MADE)) + repr(folded(CREATE_FIRST, *MADE, state=held("old")))

    assert "'new'" not in shown
    assert "'old'" not in shown
    assert "'p'" not in shown
