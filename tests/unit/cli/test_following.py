"""Following a run: it comes back when somebody has to act, and a front that is away costs nothing but time."""

import io
from typing import Any

import pytest
from rich.console import Console

from countersign.cli import following
from countersign.cli.following import Narrator, Silent, follow
from countersign.core.errors import Unavailable
from tests.requirements import requirement
from tests.unit.cli.fronts import RUN_ID, FakeFront

pytestmark = pytest.mark.anyio


class Recorder:
    def __init__(self) -> None:
        self.states: list[str] = []
        self.absences = 0

    def seen(self, run: dict[str, Any], changes: list[dict[str, Any]]) -> None:
        self.states += [change["state"] for change in changes]

    def away(self) -> None:
        self.absences += 1


class Restarting(FakeFront):
    """Its front is away for the first calls, as while `up` starts it again."""

    absent: int = 2

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        if self.absent:
            self.absent -= 1
            raise Unavailable("the front does not answer")
        return await super().call(tool, **arguments)


async def test_it_tells_every_state_and_returns_where_a_person_is_waited_for() -> None:
    watcher = Recorder()

    answer = await follow(FakeFront(), RUN_ID, watcher=watcher)

    assert watcher.states == ["planning", "awaiting_approval"]
    assert answer["run"]["state"] == "awaiting_approval"


async def test_it_goes_on_from_a_cursor_without_telling_twice() -> None:
    front, watcher = FakeFront(approved=True), Recorder()

    answer = await follow(front, RUN_ID, watcher=watcher, since="2")

    assert watcher.states == ["applying", "applied"]
    assert answer["run"]["state"] == "applied"


async def test_a_front_that_is_away_is_waited_for_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "AGAIN", 0.0)
    watcher = Recorder()

    await follow(Restarting(), RUN_ID, watcher=watcher)

    assert watcher.absences == 2
    assert watcher.states == ["planning", "awaiting_approval"]


async def test_a_front_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "AGAIN", 0.0)
    monkeypatch.setattr(following, "ABSENT", -1.0)

    with pytest.raises(Unavailable):
        await follow(Restarting(), RUN_ID, watcher=Silent())


def test_where_nothing_moves_each_step_is_a_line() -> None:
    out = io.StringIO()
    narrator = Narrator(Console(file=out, width=120, markup=False))
    working = {"done": 1, "total": 3, "current": "module.a.x[\x1b[2J0], [bold]y"}

    with narrator.shown():
        narrator.seen({"state": "applying"}, [{"kind": "state", "state": "applying", "at": "2026-01-31T12:00:00.500000Z"}])
        narrator.seen(
            {"state": "applying"}, [{"kind": "progress", "state": "applying", "body": working, "at": "2026-01-31T12:00:01.750000Z"}]
        )

    assert out.getvalue().splitlines() == ["  0.00 s  ● applying", "  1.25 s    1 of 3 done  module.a.x[0], [bold]y"]


@requirement("guard:alarm")
def test_an_alarm_is_told_whether_or_not_anything_moves() -> None:
    out = io.StringIO()
    narrator = Narrator(Console(file=out, width=120, color_system=None))
    alarm = {"n": 3, "kind": "warning", "state": "applying", "body": {"message": "a.b: its delete was begun", "alarm": True}}

    narrator.seen({"state": "applying"}, [{"n": 2, "kind": "state", "state": "applying"}, alarm])

    assert "ALARM" in out.getvalue() and "a.b: its delete was begun" in out.getvalue()
