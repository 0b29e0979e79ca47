"""The live guard: what is approved passes, everything else is an alarm, in the instant it is begun."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.terraform.guard import ALARMS, Guard, operations_of
from tests.requirements import requirement
from tests.unit.core.documents import change, plan
from tests.unit.core.terraform.test_events import fed, hook

PLAN = plan(
    change("thing.new", "create", after={"a": 1}),
    change("thing.old", "delete", before={"a": 1}),
    change("thing.other", "delete", "create", before={"a": 1}, after={"a": 2}),
    change("thing.same", "no-op", before={"a": 1}, after={"a": 1}),
    change("thing.spare", "delete", before={"a": 1}, deposed="abc"),
    change("data.thing.read", "read", after={"a": 1}, mode="data"),
    action_invocations=[{"address": "action.thing.tell"}],
)
APPROVED = {
    "thing.new": ["create"],
    "thing.old": ["delete"],
    "thing.other": ["delete", "create"],
    "thing.spare": ["delete"],
    "action.thing.tell": ["invoke"],
}


def test_a_plan_announces_its_operations() -> None:
    assert operations_of(PLAN) == APPROVED
    assert operations_of({}) == {}


def guarded(*events: dict[str, Any]) -> list[str]:
    guard = Guard(APPROVED)
    journal = fed()
    journal.guard = guard
    for event in events:
        journal.feed(json.dumps(event).encode())
    return guard.alarms


def begun(address: str, action: str) -> dict[str, Any]:
    return hook("apply_start", address, action)


WELL = [
    begun("thing.new", "create"),
    begun("thing.old", "delete"),
    begun("thing.other", "delete"),
    begun("thing.other", "create"),
    begun("thing.spare", "delete"),
    begun("data.thing.read", "read"),
    begun("data.thing.elsewhere", "read"),
    begun("thing.same", "noop"),
    {"type": "action_start", "hook": {"action": {"addr": "action.thing.tell"}}},
]


@given(st.permutations(WELL))
def test_what_was_approved_raises_no_alarm_in_whatever_order_it_comes(events: list[dict[str, Any]]) -> None:
    assert guarded(*events) == []


@requirement("guard:alarm")
@pytest.mark.parametrize(
    ("event", "alarms"),
    [
        (begun("thing.foreign", "create"), ["thing.foreign: its create was begun, and that is not in the approved plan"]),
        (begun("thing.new", "update"), ["thing.new: its update was begun, and that is not in the approved plan"]),
        (begun("thing.new", "create"), ["thing.new: its create was begun again"]),
        (
            begun("thing.new", "delete"),
            [
                "thing.new: its delete was begun, and that is not in the approved plan",
                "objects whose destruction was begun: 4, approved: 3",
            ],
        ),
        (
            {"type": "action_start", "hook": {"action": {"addr": "action.thing.wipe"}}},
            ["action.thing.wipe: its invoke was begun, and that is not in the approved plan"],
        ),
    ],
)
def test_everything_else_is_an_alarm(event: dict[str, Any], alarms: list[str]) -> None:
    assert guarded(*WELL, event) == alarms


def test_events_may_have_another_word_than_plans_have() -> None:
    forgotten = Guard(operations_of(plan(change("thing.left", "forget", before={"a": 1}), change("thing.other", "delete", "create"))))
    for address, action in (("thing.left", "remove"), ("thing.other", "replace")):
        forgotten.begun(address, action)
    assert forgotten.alarms == []
    forgotten.begun("thing.other", "replace")
    assert forgotten.alarms == [
        "thing.other: its delete was begun again",
        "objects whose destruction was begun: 2, approved: 1",
        "thing.other: its create was begun again",
    ]


def test_it_says_so_once_and_not_for_ever() -> None:
    twice = [begun("thing.new", "create")] * 4
    assert guarded(*twice) == ["thing.new: its create was begun again"]
    assert len(guarded(*(begun(f"thing.n{n}", "create") for n in range(ALARMS + 5)))) == ALARMS
    assert len(guarded(*(begun("thing.old", "delete") for _ in range(9)))) == 2
