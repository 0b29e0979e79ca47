"""What the event stream says, and what may be concluded from it: reference 1.2 and 1.4, and the journals of a real Terraform."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.engine import Finding, Progress
from countersign.core.redaction import HIDDEN, Redactor
from countersign.core.run import RunState, may_follow
from countersign.core.terraform.events import (
    Ended,
    Journal,
    finding_of,
    in_words,
    redacted,
    redacted_line,
    redacted_lines,
    told_outputs,
    told_results,
    verdict,
)
from tests.requirements import requirement
from tests.unit.core.terraform.plans import FIXTURES


def fed(*events: Mapping[str, Any] | bytes | str) -> Journal:
    journal = Journal()
    for event in events:
        journal.feed(event if isinstance(event, bytes) else event.encode() if isinstance(event, str) else json.dumps(event).encode())
    return journal


def recorded(name: str) -> Journal:
    return fed(*(FIXTURES / "journals" / f"{name}.ndjson").read_bytes().splitlines())


def hook(kind: str, address: str = "thing.a", action: str = "create", **more: Any) -> dict[str, Any]:
    return {"type": kind, "hook": {"resource": {"addr": address}, "action": action, **more}}


def error(summary: str, detail: str = "", **more: Any) -> dict[str, Any]:
    return {"type": "diagnostic", "diagnostic": {"severity": "error", "summary": summary, "detail": detail, **more}}


def summary(operation: str = "apply") -> dict[str, Any]:
    return {"type": "change_summary", "changes": {"add": 1, "change": 0, "remove": 0, "operation": operation}}


# The verdict.

STARTED = hook("apply_start")
STALE = error("Saved plan is stale", "The given plan file can no longer be applied because the state was changed …")
LOCKED = error("Error acquiring the state lock", "Error message: HTTP remote state already locked: ID=x")
NOT_STORED = error("Failed to save state", "Error saving state: HTTP error: 403")
NOT_FREED = error("Error releasing the state lock", "Error message: …")
OTHER = error("creating Bucket: quota exceeded")


@requirement("apply:verdict", "I4")
@pytest.mark.parametrize(
    ("events", "ended", "state", "code"),
    [
        # Done: exit code 0 and the summary of this operation, in a journal that was read to its end.
        ([STARTED, hook("apply_complete"), summary()], {"exit_code": 0}, "verifying", None),
        ([STARTED, summary("destroy")], {"exit_code": 0}, "verifying", None),
        ([summary()], {"exit_code": 0}, "verifying", None),
        ([STARTED, summary()], {"exit_code": 0, "stop_asked": True}, "verifying", None),
        # Only one of the two is no proof.
        ([STARTED], {"exit_code": 0}, "interrupted", "internal"),
        ([STARTED, summary("plan")], {"exit_code": 0}, "interrupted", "internal"),
        ([STARTED, summary()], {"exit_code": 0, "whole": False}, "interrupted", "internal"),
        ([STARTED, summary()], {"exit_code": None}, "interrupted", "internal"),
        # No word, or one of another: nobody knows.
        ([], {"exit_code": None}, "interrupted", "internal"),
        ([], {"exit_code": None, "killed": True}, "interrupted", "internal"),
        ([STARTED], {"exit_code": -9}, "interrupted", "internal"),
        ([STARTED], {"exit_code": 137}, "interrupted", "internal"),
        ([], {"exit_code": 2}, "interrupted", "internal"),
        ([], {"exit_code": 1, "whole": False}, "interrupted", "internal"),
        ([STALE], {"exit_code": 1, "whole": False}, "interrupted", "internal"),
        # Nothing was begun, and that is certain: before any change.
        ([OTHER], {"exit_code": 1}, "errored", "provider_error"),
        ([], {"exit_code": 1}, "errored", "provider_error"),
        ([STALE], {"exit_code": 1}, "stale", "plan_stale"),
        ([LOCKED], {"exit_code": 1}, "errored", "locked"),
        ([OTHER], {"exit_code": 1, "stop_asked": True}, "canceled", "canceled"),
        ([STALE], {"exit_code": 1, "stop_asked": True}, "canceled", "canceled"),
        ([hook("apply_start", action="read"), OTHER], {"exit_code": 1}, "errored", "provider_error"),
        ([hook("apply_start", action="noop"), OTHER], {"exit_code": 1}, "errored", "provider_error"),
        # Something was begun, the state is stored and the lock is free: partly done.
        ([STARTED, OTHER], {"exit_code": 1}, "partially_applied", "provider_error"),
        ([hook("apply_start", action="delete"), OTHER], {"exit_code": 1}, "partially_applied", "provider_error"),
        ([hook("apply_start", action="something new"), OTHER], {"exit_code": 1}, "partially_applied", "provider_error"),
        ([{"type": "apply_start"}, OTHER], {"exit_code": 1}, "partially_applied", "provider_error"),
        ([{"type": "provision_start"}, OTHER], {"exit_code": 1}, "partially_applied", "provider_error"),
        (
            [{"type": "action_start", "hook": {"action": {"addr": "action.x.y"}}}, OTHER],
            {"exit_code": 1},
            "partially_applied",
            "provider_error",
        ),
        ([STARTED, OTHER], {"exit_code": 1, "stop_asked": True}, "partially_applied", "canceled"),
        ([STARTED, STALE], {"exit_code": 1}, "partially_applied", "provider_error"),
        ([STARTED, LOCKED], {"exit_code": 1}, "partially_applied", "provider_error"),
        # Begun, and the state not stored or the lock not freed: nobody knows.
        ([STARTED, NOT_STORED], {"exit_code": 1}, "interrupted", "internal"),
        ([STARTED, OTHER, NOT_STORED], {"exit_code": 1, "stop_asked": True}, "interrupted", "internal"),
        ([STARTED, NOT_FREED], {"exit_code": 1}, "interrupted", "internal"),
        ([STARTED, OTHER], {"exit_code": 1, "state_left_over": True}, "interrupted", "internal"),
        ([STARTED, error("x", "Failed to persist state to backend")], {"exit_code": 1}, "interrupted", "internal"),
        ([STARTED, error("Error uploading state: 500")], {"exit_code": 1}, "interrupted", "internal"),
        ([STARTED, error("Failed to write state")], {"exit_code": 1}, "interrupted", "internal"),
        # A warning of these words is none of these errors.
        (
            [STARTED, {"type": "diagnostic", "diagnostic": {"severity": "warning", "summary": "Failed to save state"}}, OTHER],
            {"exit_code": 1},
            "partially_applied",
            "provider_error",
        ),
    ],
)
def test_how_an_apply_ended(events: list[dict[str, Any]], ended: dict[str, Any], state: str, code: str | None) -> None:
    found, why, message = verdict(fed(*events), Ended(**{"whole": True, **ended}))

    assert (found, why) == (state, code)
    assert bool(message) is (state != "verifying")


@requirement("apply:verdict", "I4")
def test_whatever_is_not_proven_is_interrupted() -> None:
    journals = [[], [STARTED], [summary()], [STARTED, summary()], [STARTED, summary("plan")]]
    errors = [[], [OTHER], [STALE], [LOCKED], [NOT_STORED], [NOT_FREED]]
    codes = [None, -9, -2, 0, 1, 2, 126, 130]
    flags = list(itertools.product([True, False], repeat=4))

    for began, said, code, (whole, stop, killed, left) in itertools.product(journals, errors, codes, flags):
        ended = Ended(exit_code=code, whole=whole, stop_asked=stop, killed=killed, state_left_over=left)
        state, _, _ = verdict(fed(*began, *said), ended)
        case = (began, said, ended, state)

        assert state in ("verifying", "errored", "stale", "canceled", "partially_applied", "interrupted"), case
        if state != "interrupted":
            assert whole, case
            assert code in (0, 1), case
        if state == "verifying":
            assert code == 0, case
            assert summary() in began, case
        if state in ("errored", "stale", "canceled"):
            assert code == 1, case
            assert STARTED not in began, case
        if state == "partially_applied":
            assert STARTED in began, case
            assert not left, case
            assert said not in ([NOT_STORED], [NOT_FREED]), case


@requirement("apply:verdict")
@pytest.mark.parametrize(
    ("name", "ended", "state", "code"),
    [
        ("applied", Ended(exit_code=0, whole=True), "verifying", None),
        ("destroyed", Ended(exit_code=0, whole=True), "verifying", None),
        ("partial", Ended(exit_code=1, whole=True), "partially_applied", "provider_error"),
        ("stale", Ended(exit_code=1, whole=True), "stale", "plan_stale"),
        ("locked", Ended(exit_code=1, whole=True), "errored", "locked"),
        ("interrupted", Ended(exit_code=1, whole=True, stop_asked=True), "partially_applied", "canceled"),
        ("killed", Ended(exit_code=None, whole=True), "interrupted", "internal"),
        ("killed", Ended(exit_code=-9, whole=True), "interrupted", "internal"),
        ("killed", Ended(exit_code=1, whole=True), "partially_applied", "provider_error"),
    ],
)
def test_the_ends_of_a_real_engine(name: str, ended: Ended, state: str, code: str | None) -> None:
    assert verdict(recorded(name), ended)[:2] == (state, code)


@pytest.mark.parametrize(
    ("events", "ended", "message"),
    [
        (
            [],
            Ended(exit_code=None, whole=True, killed=True),
            "Nobody knows what the apply did: it was asked to stop, did not, and was killed.",
        ),
        ([], Ended(exit_code=None, whole=True), "Nobody knows what the apply did: its process is gone without an exit code."),
        ([], Ended(exit_code=0, whole=False), "Nobody knows what the apply did: it left exit code 0 and a torn journal."),
        ([], Ended(exit_code=0, whole=True), "Nobody knows what the apply did: exit code 0, no summary in its journal."),
        (
            [STARTED, NOT_STORED],
            Ended(exit_code=1, whole=True),
            "The apply changed something and could not store the state: Failed to save state: Error saving state: HTTP error: 403",
        ),
        ([STARTED, OTHER], Ended(exit_code=1, whole=True), "creating Bucket: quota exceeded"),
        (
            [STARTED],
            Ended(exit_code=1, whole=True, stop_asked=True),
            "Stopped on request in mid-apply; what was done by then is recorded in the state.",
        ),
        ([OTHER], Ended(exit_code=1, whole=True, stop_asked=True), "Stopped on request before anything was changed."),
        ([LOCKED], Ended(exit_code=1, whole=True), "The state is locked by somebody else; nothing was changed."),
        (
            [STALE],
            Ended(exit_code=1, whole=True),
            "The state moved after this plan was made; nothing was changed. It has to be planned again.",
        ),
        ([], Ended(exit_code=1, whole=True), "no diagnostic was given"),
    ],
)
def test_a_verdict_in_words(events: list[dict[str, Any]], ended: Ended, message: str) -> None:
    assert verdict(fed(*events), ended)[2] == message


# Feeding.


def test_a_real_apply_is_folded_into_what_it_did() -> None:
    journal = recorded("applied")

    assert (journal.version, journal.operation, journal.summary) == (
        "1.11.4",
        "apply",
        {"add": 13, "change": 0, "import": 0, "remove": 0},
    )
    assert len(journal.results) == 13
    assert {(r["action"], r["ok"], len(str(r["id"]))) for r in journal.results} == {("create", True, 36)}
    assert {"module.network.terraform_data.network", "terraform_data.release"} < {r["address"] for r in journal.results}
    assert (journal.started, journal.findings, journal.touched) == ({}, [], True)
    assert set(journal.outputs) == {"connection_strings", "endpoints", "network_id", "replicas"}
    assert journal.text[-1] == "Outputs: 4"


def test_a_real_failure_names_what_was_done_what_failed_and_why() -> None:
    journal = recorded("partial")

    assert [(r["address"], r["ok"]) for r in journal.results] == [("terraform_data.done", True), ("terraform_data.fails", False)]
    assert journal.errors[0].summary == "local-exec provisioner error"
    assert (journal.errors[0].file, journal.errors[0].line, journal.errors[0].address) == ("main.tf", 8, "terraform_data.fails")


def test_what_was_in_the_works_when_the_engine_was_killed() -> None:
    journal = recorded("killed")

    assert journal.started == {"terraform_data.gate": "create"}
    assert [r["address"] for r in journal.results] == ["terraform_data.before"]


@pytest.mark.parametrize(
    "line",
    [b"", b"not json", b'{"type": "apply_start"', b"[1]", b"null", b"3", b"\xff\xfe", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"],
)
def test_a_line_that_is_no_event_is_kept_as_text(line: bytes) -> None:
    journal = fed(line)

    assert journal.text == [line.decode(errors="replace")]
    assert not journal.touched


@requirement("I4")
@pytest.mark.parametrize(
    "event",
    [
        {"type": "apply_start", "hook": "text"},
        {"type": "apply_start", "hook": {"resource": "text"}},
        {"type": "apply_complete", "hook": ["x"]},
        {"type": "diagnostic", "diagnostic": "text"},
        {"type": "diagnostic", "diagnostic": {"range": "text"}},
        {"type": "change_summary", "changes": 3},
    ],
)
def test_from_an_event_no_engine_writes_nobody_concludes_that_nothing_was_done(event: dict[str, Any]) -> None:
    assert fed(event).touched


@pytest.mark.parametrize(
    "kind", ["refresh_start", "apply_progress", "ephemeral_op_start", "log", "resource_drift", "something_new", 3, None]
)
def test_events_that_say_nothing_about_what_was_done_are_passed_by(kind: object) -> None:
    journal = fed({"type": kind, "@message": "words"})

    assert (journal.text, journal.touched, journal.results, journal.started) == (["words"], False, [], {})


@pytest.mark.parametrize(
    ("event", "version"),
    [({"terraform": "1.11.4"}, "1.11.4"), ({"tofu": "1.12.6"}, "1.12.6"), ({}, None)],
)
def test_the_version_of_either_engine(event: dict[str, Any], version: str | None) -> None:
    assert fed({"type": "version", **event}).version == version


def test_what_a_plan_reports_while_it_runs_is_counted() -> None:
    journal = fed({"type": "planned_change"}, {"type": "planned_change"}, {"type": "refresh_complete"}, summary("plan"))

    assert (journal.planned, journal.refreshed, journal.touched) == (2, 1, False)


def test_an_operation_is_in_the_works_until_it_ends_well_or_badly() -> None:
    journal = fed(
        hook("apply_start", "a.ok"),
        hook("apply_start", "b.bad", "update"),
        hook("apply_start", "c.open", "delete"),
        hook("apply_start", "data.d", "read"),
        hook("apply_complete", "a.ok", id_key="id", id_value="i-1"),
        hook("apply_errored", "b.bad", "update", id_key="id", id_value="i-2"),
        hook("apply_complete", "data.d", "read", id_key="id", id_value="i-3"),
    )

    assert journal.results == [
        {"address": "a.ok", "action": "create", "ok": True, "id": "i-1"},
        {"address": "b.bad", "action": "update", "ok": False},
    ]
    assert journal.started == {"c.open": "delete"}


@pytest.mark.parametrize("key", [{"id_key": "arn", "id_value": "x"}, {"id_key": "id"}, {"id_key": "id", "id_value": ""}, {}])
def test_only_an_id_is_an_id(key: dict[str, str]) -> None:
    assert "id" not in fed(hook("apply_complete", **key)).results[0]


def test_invoked_actions_are_operations_of_their_own_name() -> None:
    invoked = {"hook": {"action": {"addr": "action.lambda.warm"}, "lifecycle": {"resource": {"addr": "thing.a"}}}}

    journal = fed({"type": "action_start", **invoked})
    assert (journal.started, journal.touched) == ({"action.lambda.warm": "invoke"}, True)
    assert fed({"type": "action_complete", **invoked}).results == [{"address": "action.lambda.warm", "action": "invoke", "ok": True}]
    assert fed({"type": "action_errored", **invoked}).results[0]["ok"] is False
    assert fed({"type": "action_start", "hook": {"action": {}}}).started == {"?": "invoke"}


# Progress.


def test_progress_counts_what_is_done_and_names_what_is_in_the_works() -> None:
    journal = fed(*(hook("apply_start", f"thing.a[{n}]") for n in range(7)), hook("apply_complete", "thing.a[0]"))

    assert journal.progress(9) == Progress(done=1, total=9, current="thing.a[1], thing.a[2], thing.a[3], thing.a[4], thing.a[5] and 1 more")
    assert fed().progress(0) == Progress(done=0, total=0, current="")


def test_progress_never_goes_back_though_a_replacement_is_two_operations() -> None:
    journal = Journal()
    seen = []
    for event in (
        hook("apply_start", action="delete"),
        hook("apply_complete", action="delete"),
        hook("apply_start"),
        hook("apply_complete"),
    ):
        journal.feed(json.dumps(event).encode())
        seen.append(journal.progress(1).done)

    assert seen == [0, 1, 1, 1]


def test_progress_is_never_more_than_what_was_approved() -> None:
    journal = fed(hook("apply_complete", "a"), hook("apply_complete", "b"))

    assert journal.progress(1).done == 1
    assert journal.progress(0).done == 2


@given(st.lists(st.tuples(st.sampled_from(["apply_start", "apply_complete", "apply_errored"]), st.sampled_from("abc")), max_size=20))
def test_progress_only_grows_whatever_the_order(events: list[tuple[str, str]]) -> None:
    journal = Journal()
    done = 0
    for kind, address in events:
        journal.feed(json.dumps(hook(kind, address)).encode())
        now = journal.progress(3).done
        assert done <= now <= 3
        done = now


@requirement("bad:control-characters")
def test_progress_is_clean_and_short() -> None:
    journal = fed(hook("apply_start", "thing.a\x1b[31m\u202e"), *(hook("apply_start", f"{n}" * 200) for n in range(4)))

    current = journal.progress(9).current
    assert current.startswith("thing.a, ")
    assert len(current) == 400


# Findings.


@requirement("bad:broken-hcl")
def test_a_diagnostic_becomes_a_finding_with_file_and_line() -> None:
    diagnostic = {
        "severity": "warning",
        "summary": "Invalid expression",
        "detail": "Expected the start of an expression.",
        "address": "thing.a",
        "range": {"filename": "main.tf", "start": {"line": 6, "column": 11, "byte": 90}},
    }

    assert finding_of(diagnostic) == Finding(
        severity="warning",
        summary="Invalid expression",
        detail="Expected the start of an expression.",
        file="main.tf",
        line=6,
        address="thing.a",
    )
    assert finding_of({}) == Finding(severity="error", summary="", detail="", file=None, line=None, address=None)
    assert finding_of({"range": {"filename": "", "start": {"line": "6"}}}).line is None


@requirement("bad:broken-hcl", "bad:failing-plan")
@pytest.mark.parametrize(
    ("findings", "words"),
    [
        ([], "no diagnostic was given"),
        ([Finding(severity="error", summary="Broken", file="main.tf", line=6)], "Broken (main.tf line 6)"),
        ([Finding(severity="error", summary="Broken", file="main.tf")], "Broken (main.tf)"),
        ([Finding(severity="error", summary="Broken", line=6)], "Broken"),
        ([Finding(severity="error", summary="Broken", detail="so\n  it is")], "Broken: so it is"),
        ([Finding(severity="error", summary="Broken", detail="x" * 500)], "Broken: " + "x" * 400),
        ([Finding(severity="error", summary="One"), Finding(severity="error", summary="Two")], "One (and 1 more)"),
        ([Finding(severity="warning", summary="Odd"), Finding(severity="error", summary="Broken")], "Broken"),
        ([Finding(severity="warning", summary="Odd"), Finding(severity="warning", summary="Odder")], "Odd (and 1 more)"),
    ],
)
def test_findings_in_words_begin_with_the_first_error(findings: list[Finding], words: str) -> None:
    assert in_words(findings) == words
    assert in_words(iter(findings)) == words


@requirement("promise:no-secrets")
def test_a_finding_is_redacted_in_every_part() -> None:
    redactor = Redactor(["the-secret"])
    text = "a the-secret\x1b[31m"

    shown = redacted(Finding(severity="error", summary=text, detail=f"{text}\n" * 500, file=text, line=3, address=text), redactor)

    assert (shown.summary, shown.file, shown.address) == (f"a {HIDDEN}",) * 3
    assert (shown.severity, shown.line) == ("error", 3)
    assert len(shown.detail) == 2000
    assert "the-secret" not in shown.detail
    bare = Finding(severity="error", summary="s")
    assert redacted(bare, redactor) == bare


# What is told afterwards.


@requirement("promise:no-secrets")
def test_outputs_are_told_without_what_is_sensitive() -> None:
    journal = fed(
        {
            "type": "outputs",
            "outputs": {
                "url": {"value": "https://x", "type": "string"},
                "marked": {"sensitive": True, "value": "clear text", "type": "string"},
                "db_password": {"value": "clear text", "type": "string"},
                "deep": {"value": {"k": ["the-secret", 3, 0.5]}, "type": "dynamic"},
            },
        }
    )

    assert told_outputs(journal, Redactor(["the-secret"])) == {
        "url": {"value": "https://x", "type": "string"},
        "marked": {"sensitive": True},
        "db_password": {"value": HIDDEN, "type": "string"},
        "deep": {"value": {"k": [HIDDEN, 3, 0.5]}, "type": "dynamic"},
    }


@requirement("promise:no-secrets")
def test_the_outputs_of_a_real_apply() -> None:
    told = told_outputs(recorded("applied"), Redactor(["only-for-the-demo"]))

    assert told["connection_strings"] == {"sensitive": True}
    assert told["replicas"] == {"value": 3, "type": "number"}
    assert told["endpoints"] == {
        "value": {"api": "https://shop-dev-api.example.internal", "web": "https://shop-dev-web.example.internal"},
        "type": ["object", {"api": "string", "web": "string"}],
    }


def test_an_output_whose_name_is_a_secret_stops_nothing() -> None:
    journal = fed({"type": "outputs", "outputs": {"endpoint": {"value": 1, "type": "number"}}})

    assert told_outputs(journal, Redactor(["endpoint"])) == {HIDDEN: {"value": 1, "type": "number"}}


def test_results_tell_what_ended_and_then_what_never_did() -> None:
    journal = fed(
        hook("apply_start", "thing.open"),
        hook("apply_start", "data.open", "read"),
        hook("apply_complete", 'thing.a["the-secret"]', id_key="id", id_value="the-secret"),
        hook("apply_errored", "x" * 600),
    )

    assert told_results(journal, Redactor(["the-secret"])) == (
        {"address": f'thing.a["{HIDDEN}"]', "action": "create", "ok": True, "id": HIDDEN},
        {"address": "x" * 512 + "… (600 characters)", "action": "create", "ok": False},
        {"address": "thing.open", "action": "create", "ok": None},
    )


@requirement("promise:no-secrets", "redaction:every-spelling")
def test_a_line_of_the_journal_stays_json_without_its_secrets() -> None:
    event = {"@message": 'said "the-secret" & more', "hook": {"the-secret": ["the-secret", 3, None, True, 1.5]}}

    line = redacted_line(json.dumps(event).encode(), Redactor(["the-secret"]))

    assert json.loads(line) == {"@message": f'said "{HIDDEN}" & more', "hook": {HIDDEN: [HIDDEN, 3, None, True, 1.5]}}
    assert b" : " not in line
    assert b"\n" not in line


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), st.booleans(), st.sampled_from(["log", "outputs"]))
def test_an_event_is_heard_as_it_was_said(said: dict[str, Any], ascii_only: bool, kind: str) -> None:
    event = said | {"type": kind, "@message": "m", "outputs": {}}

    assert Journal().feed(json.dumps(event, ensure_ascii=ascii_only).encode("utf-8", "backslashreplace")) == event


def test_half_a_letter_and_what_is_nested_deeply_are_heard() -> None:
    assert Journal().feed(b'{"type": "log", "a": "\\ud800"}') == {"type": "log", "a": "\ud800"}
    nested = Journal().feed(b'{"type": "log", "a": ' + b"[" * 300 + b"]" * 300 + b"}")
    assert nested is not None and len(repr(nested["a"])) == 600


def test_outputs_that_no_float_holds_are_told_as_they_were_written() -> None:
    journal = fed('{"type": "outputs", "outputs": {"n": {"sensitive": false, "type": "number", "value": 1e400}}}')

    assert told_outputs(journal, Redactor()) == {"n": {"value": "1e400", "type": "number"}}


@pytest.mark.parametrize("line", [b'{"n": 1e400}', b'{"n": -1e400}'])
def test_a_number_beyond_floats_stays_json(line: bytes) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(redacted_line(line, Redactor()), parse_constant=refuse)["n"].lstrip("-") == "1e400"


@requirement("promise:no-secrets")
@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"panic: the-secret\x1b[31m", f"panic: {HIDDEN}"),
        (b"two\nlines the-secret", f"two lines {HIDDEN}"),
        (b"\xff the-secret", f"\ufffd {HIDDEN}"),
        (b"[" * 100_000 + b"the-secret", "[" * 100_000 + HIDDEN),
    ],
)
def test_a_line_that_is_no_json_is_redacted_text_on_one_line(line: bytes, told: str) -> None:
    assert redacted_line(line, Redactor(["the-secret"])).decode() == told


@requirement("promise:no-secrets")
@pytest.mark.parametrize("name", ["applied", "partial", "interrupted"])
def test_no_secret_of_a_real_journal_is_told(name: str) -> None:
    redactor = Redactor(["echo the disk is full >&2; exit 3", "shop-dev-api.example.internal", "1.reached"])
    lines = (FIXTURES / "journals" / f"{name}.ndjson").read_bytes().splitlines()

    told = b"\n".join(redacted_line(line, redactor) for line in lines)

    assert HIDDEN.encode() in told
    assert [
        text for text in (b"disk is full >", b"disk is full \\u003e", b"shop-dev-api.example.internal", b"1.reached") if text in told
    ] == []
    assert verdict(fed(*told.splitlines()), Ended(exit_code=1, whole=True))[0] is verdict(recorded(name), Ended(exit_code=1, whole=True))[0]


@requirement("promise:no-secrets")
@pytest.mark.parametrize("secret", ["the-secret", "not in there"])
@pytest.mark.parametrize(
    "odd", [b'{"m":"escaped \\"the-secret\\""}', "{'m':'\u202ethe-secret'}".encode(), b"\x1b[31mthe-secret", b"\xff the-secret"]
)
def test_many_lines_are_told_as_each_of_them_is(odd: bytes, secret: str) -> None:
    lines = [b'{"m":"harmless","n":1.5}', odd, b'{"m":"ghp_' + b"a" * 36 + b'"}', b'{"the-secret":["the-secret",3]}', b'{"m":"more"}']
    redactor = Redactor([secret])

    told = redacted_lines(lines, redactor)

    assert told == [redacted_line(line, redactor) for line in lines]


@requirement("promise:no-secrets")
def test_lines_without_a_secret_stay_as_they_are_beside_one_that_is_cleaned() -> None:
    lines = [b'{"m": "harmless"}', b'{"m": "escaped \\"the-secret\\" \\u202e"}', b"text"]

    told = redacted_lines(lines, Redactor(["the-secret"]))

    assert told == [lines[0], b'{"m":"escaped \\"(redacted)\\" \\u202e"}', b"text"]


@requirement("promise:no-secrets")
def test_of_lines_that_are_all_plain_one_with_a_secret_is_cleaned_and_none_without() -> None:
    lines = [b'{"m":"harmless"}', b'{"m":"the-secret"}', b"text"]

    assert redacted_lines(lines, Redactor(["the-secret"])) == [lines[0], b'{"m":"(redacted)"}', b"text"]
    assert redacted_lines(lines, Redactor(["another-one"])) == lines


def test_the_states_of_a_verdict_may_follow_an_apply() -> None:
    for state in ("verifying", "stale", "errored", "partially_applied", "interrupted"):
        assert may_follow(RunState.APPLYING, RunState(state))
    for state in ("verifying", "canceled", "errored", "partially_applied", "interrupted"):
        assert may_follow(RunState.CANCELING, RunState(state))
