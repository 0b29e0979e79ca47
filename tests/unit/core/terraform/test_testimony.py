"""What is kept of a journal, and what two testimonies of one journal say together."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.engine import Told
from countersign.core.redaction import Redactor
from countersign.core.terraform.testimony import began, event_of, joined, kept, last_word, moment, told
from tests.requirements import requirement

AT = "2026-01-01T00:00:0{}.000000Z"


def hook(kind: str, address: object = "thing.a", action: str = "create", *, second: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "@level": "info",
        "@message": "thing.a: a secret in words",
        "@timestamp": AT.format(second),
        "type": kind,
        "hook": {"resource": {"addr": address, "resource_key": "k"}, "action": action, **more},
    }


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join((kept(event) or b"") + b"\n" for event in events)


@requirement("reconcile:testimony")
def test_of_an_operation_address_action_id_and_moment_are_kept_and_no_word_that_was_printed() -> None:
    said = kept(hook("apply_complete", id_key="id", id_value="i-1", elapsed_seconds=3))

    assert json.loads(said or b"") == {
        "type": "apply_complete",
        "@timestamp": "2026-01-01T00:00:00.000000Z",
        "hook": {"resource": {"addr": "thing.a"}, "action": "create", "id_key": "id", "id_value": "i-1"},
    }


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"type": "version", "terraform": "1.11.4", "@message": "Terraform"}, {"type": "version"}),
        (
            {"type": "provision_start", "hook": {"resource": {"addr": "thing.a"}, "provisioner": "local-exec"}},
            {"type": "provision_start", "hook": {"resource": {"addr": "thing.a"}}},
        ),
        ({"type": "apply_start", "hook": {"resource": "?"}}, {"type": "apply_start", "hook": {"resource": {"addr": None}}}),
        (
            {"type": "diagnostic", "diagnostic": {"severity": "error", "address": "thing.a", "detail": "token=hunter22"}},
            {"type": "diagnostic", "diagnostic": {"severity": "error", "address": "thing.a"}},
        ),
        ({"type": "diagnostic", "diagnostic": {"severity": "warning", "address": "thing.a"}}, None),
        ({"type": "diagnostic", "diagnostic": {"severity": "error"}}, None),
        ({"type": "diagnostic", "diagnostic": "no"}, None),
        ({"type": "apply_start", "hook": "no"}, None),
        ({"type": "provision_progress", "hook": {"output": "printed"}}, None),
        ({"type": "outputs", "outputs": {"a": {"value": "x"}}}, None),
    ],
)
def test_each_kind_of_event_is_reduced_to_what_counts(event: dict[str, Any], said: dict[str, Any] | None) -> None:
    found = kept(event)

    assert (json.loads(found) if found is not None else None) == said


def test_beside_what_is_secret_stands_how_it_may_be_shown() -> None:
    event = hook("apply_complete", 'thing.a["hunter22"]', id_key="id", id_value="hunter22-1")

    said = json.loads(kept(event, Redactor(("hunter22",))) or b"")

    assert said["shown"] == {"addr": 'thing.a["(redacted)"]', "id": "(redacted)-1"}
    assert said["hook"]["id_value"] == "hunter22-1", "an import needs it as it is"
    assert "shown" not in json.loads(kept(hook("apply_start"), Redactor(("hunter22",))) or b"")
    testimony = json.dumps(said).encode()
    assert [one.line for one in told(testimony)] == ['thing.a["(redacted)"]: created, id (redacted)-1']


@pytest.mark.parametrize("type", ["apply_progress", "log", None, 7, ["version"], {"version": "apply_start"}])
def test_of_an_event_that_says_nothing_of_an_operation_nothing_is_kept(type: object) -> None:
    assert kept({"type": type, "hook": {"resource": {"addr": "a.b"}, "action": "create"}}) is None


def test_what_is_no_event_is_none() -> None:
    assert (event_of(b"text"), event_of(b"[1]"), event_of(b"[" * 100_000)) == (None, None, None)
    assert event_of(b'{"a": 1}') == {"a": 1}


def test_moments_need_a_time_zone() -> None:
    assert moment({"@timestamp": "2026-01-01T00:00:01"}) is None
    assert moment({}) is None
    testimony = lines({"type": "version"}, hook("apply_start", second=1), hook("apply_complete", second=3))
    assert (began(testimony), last_word(testimony)) == (
        datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC),
    )
    assert (began(b"text\n"), last_word(b"")) == (None, None)


@requirement("journal:shipped")
@given(st.integers(0, 6), st.integers(0, 6))
def test_of_two_testimonies_of_one_journal_the_longer_counts(ours: int, theirs: int) -> None:
    whole = [lines(hook("apply_start", f"thing.n{n}")) for n in range(6)]

    assert joined(b"".join(whole[:ours]), b"".join(whole[:theirs])) == b"".join(whole[: max(ours, theirs)])


def test_where_they_differ_both_count_and_how_a_line_may_be_shown_makes_no_difference() -> None:
    one, two, three = (lines(hook("apply_start", f"thing.{name}")) for name in ("one", "two", "three"))
    shown = one.replace(b"}\n", b',"shown":{"addr":"(redacted)"}}\n')

    assert joined(one + two, one + three) == one + two + three
    assert joined(shown, one + two) == shown + two
    assert joined(b"text\n", b"text\nother\n") == b"text\nother\n"


def test_people_are_told_what_was_done_and_what_may_have_been() -> None:
    testimony = lines(
        {"type": "version"},
        hook("apply_start", "thing.made"),
        hook("apply_complete", "thing.made", id_key="id", id_value="i-1"),
        hook("apply_start", "thing.old", "delete", id_key="id", id_value="i-0"),
        hook("apply_complete", "thing.old", "delete"),
        hook("apply_start", "thing.flight"),
        hook("apply_start", "thing.wrong", "update", id_key="name", id_value="n"),
        hook("apply_errored", "thing.wrong", "update"),
        hook("apply_start", "data.thing.read", "read"),
        {"type": "apply_start", "hook": {"resource": None, "action": "create"}},
    )

    found = told(testimony)

    assert [one.line for one in found] == [
        "thing.made: created, id i-1",
        "thing.old: destroyed",
        "thing.flight: its create was begun, and may be done or not",
        "thing.wrong: its update failed, and may be done in part",
        "None: its create was begun, and may be done or not",
    ]
    assert found[0].row == {"address": "thing.made", "action": "create", "id": "i-1", "ok": True}
    assert found[2].row == {"address": "thing.flight", "action": "create", "ok": None}
    assert told(b"text\n") == ()
    assert Told(address="a", action="delete", ok=True).line == "a: destroyed"
