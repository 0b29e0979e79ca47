"""What people see of an answer: what destroys first, and every foreign text as it is."""

import io
from typing import Literal

import pytest
from rich.console import Console, RenderableType

from countersign.cli.output import rows, safe
from countersign.cli.views import outputs_view, plan_view, run_view, runs_view
from tests.requirements import requirement
from tests.unit.cli.fronts import DIGEST, NAME, RUN_ID, change, plan

RUN = {"run_id": RUN_ID, "state": "awaiting_approval", "plan_digest": DIGEST, "approval": {"needed": 1, "by": ["a person"]}}
HOSTILE = "x[bold red]y[/] \x1b[2J\x1b]0;title\x07\u202eevil\r\nnext :smile: [link=http://evil]z[/link]"


def text_of(*parts: RenderableType, width: int = 200, color: bool = False) -> str:
    out = io.StringIO()
    system: Literal["truecolor"] | None = "truecolor" if color else None
    console = Console(file=out, width=width, markup=False, emoji=False, highlight=False, force_terminal=color, color_system=system)
    for part in parts:
        console.print(part)
    return out.getvalue()


def place(lines: list[str], text: str) -> int:
    return next(i for i, line in enumerate(lines) if text in line)


def test_what_destroys_stands_before_what_creates() -> None:
    made = plan(change("a.created"), change("b.updated", "update"), change("c.deleted", "delete"), change("d.replaced", "replace"))

    lines = text_of(plan_view(made, RUN)).splitlines()

    order = [place(lines, name) for name in ("c.deleted", "d.replaced", "b.updated", "a.created")]
    assert order == sorted(order)
    assert "  - c.deleted" in lines[order[0]]
    assert "-/+ d.replaced" in lines[order[1]]


def test_an_action_nobody_knows_stands_before_all_others() -> None:
    lines = text_of(plan_view(plan(change("a", "create"), change("b", "explode")), RUN)).splitlines()

    assert place(lines, "? b") < place(lines, "+ a")


def test_the_digest_is_never_broken_in_two() -> None:
    assert DIGEST in text_of(plan_view(plan(), RUN), width=100)


def test_the_plan_says_who_must_agree_what_to_type_and_what_to_run() -> None:
    run = RUN | {"approval": {"needed": 2, "by": ["two people"], "confirm_name": NAME, "expires_at": "2026-01-31T12:00:05.1Z"}}

    text = text_of(plan_view(plan(change("a", "delete"), needs="two people (protected)"), run))

    assert "two people (protected), 2 more, until 2026-01-31 12:00:05" in text
    assert NAME in text
    assert f"countersign approve {RUN_ID} --digest {DIGEST} --name …" in text
    assert f"countersign reject {RUN_ID} --reason …" in text


def test_a_command_to_copy_never_holds_the_name_that_a_person_has_to_type() -> None:
    run = RUN | {"approval": {"needed": 1, "by": ["a person"], "confirm_name": NAME}}

    (line,) = [line for line in text_of(plan_view(plan(), run)).splitlines() if "to agree" in line]

    assert NAME not in line


def test_why_something_is_replaced_and_that_it_holds_data_is_told() -> None:
    told = change("db", "replace", replaced_because_of=["size", "zone"], attributes=["size: 1 → 2 (forces replacement)"])
    told["class"] = "stateful_replace"

    text = text_of(plan_view(plan(told), RUN))

    assert "holds data" in text
    assert "because of size, zone" in text
    assert "size: 1 → 2 (forces replacement)" in text


def test_risks_come_before_changes_and_what_is_left_out_is_counted() -> None:
    made = plan(change("a"), risks=["one object would be destroyed"], risks_left_out=3)
    made["changes"] |= {"total": 90, "matching": 90}

    lines = text_of(plan_view(made, RUN)).splitlines()

    assert next(i for i, line in enumerate(lines) if "would be destroyed" in line) < next(
        i for i, line in enumerate(lines) if "+ a" in line
    )
    assert any("and 3 more" in line for line in lines)
    assert any("and 89 more of 90" in line for line in lines)


@requirement("bad:control-characters")
@pytest.mark.parametrize(
    "part",
    [
        plan_view(plan(change(HOSTILE, attributes=[HOSTILE]), risks=[HOSTILE], outputs=[HOSTILE], needs=HOSTILE, engine=HOSTILE), RUN),
        plan_view(plan(findings=[{"severity": "error", "summary": HOSTILE, "detail": HOSTILE, "file": HOSTILE, "line": 3}]), RUN),
        run_view({"run": RUN, "data": {"type": HOSTILE, "requester": HOSTILE, "reason": {"text": HOSTILE}, "message": HOSTILE}}),
        runs_view([{"run_id": HOSTILE, "state": HOSTILE, "requester": HOSTILE}]),
        outputs_view({"values": {HOSTILE: {"value": HOSTILE}}}),
        rows("stacks", ("stack",), [(HOSTILE,)]),
        safe(HOSTILE),
    ],
)
def test_foreign_text_is_no_markup_and_moves_no_cursor(part: RenderableType) -> None:
    text = text_of(part)

    assert "x[bold red]y[/]" in text
    assert ":smile:" in text
    assert not set(text) & {"\x1b", "\x07", "\u202e", "\r"}
    assert "\x1b[2J" not in text_of(part, color=True)


def test_sensitive_outputs_stay_hidden_whatever_came_along() -> None:
    outputs = {"values": {"password": {"sensitive": True, "value": "hunter2"}, "url": {"value": "https://x"}, "list": {"value": [1, "a"]}}}

    text = text_of(outputs_view(outputs))

    assert "hunter2" not in text
    assert "(sensitive)" in text
    assert "https://x" in text
    assert '[1, "a"]' in text


def test_a_run_tells_refused_decisions_with_their_reason() -> None:
    refused = {"decision": "approve", "accepted": False, "by": "agent:claude", "channel": "front", "message": "this needs a person"}

    text = text_of(run_view({"run": RUN, "data": {"approvals": [refused], "requester": "agent:claude", "acts_for": "person:ana"}}))

    assert "✗ approve by agent:claude (front)" in text
    assert "this needs a person" in text
    assert "agent:claude for person:ana" in text
