"""The matrix on several services at once: which points share a stack, which share a kill, and what became of all of them."""

import asyncio
import os
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import batch
from tests.chaos.batch import Life
from tests.chaos.judge import Found
from tests.chaos.lane import Lane, lane
from tests.chaos.leaks import leaks_of
from tests.chaos.points import Kind, Op, Point, Victim

TOGETHER = 4  # stacks that one kill is tried on
Told = Callable[[Found], None]


@dataclass(kw_only=True)
class Outcome:
    seed: int
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 1))  # of the machine, before it began
    rows: list[Found] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)  # where a secret was found
    unclosed: list[str] = field(default_factory=list)  # workflows of runs that ended


@dataclass(frozen=True)
class Crew:
    """Stacks that live through points of one victim side by side."""

    lives: tuple[Life, ...]

    @property
    def victim(self) -> Victim:
        return self.lives[0].points[0].victim

    @property
    def on(self) -> Kind:
        return self.lives[0].points[0].on

    @property
    def rounds(self) -> int:
        return max(len(life.points) for life in self.lives)


def lives_of(points: Sequence[Point], seed: int) -> list[Life]:
    """Points of one victim and type, as lives of stacks: made, changed, replaced, destroyed. Which meet is the seed's choice."""
    chance = random.Random(seed)
    left = {op: [p for p in points if p.op is op] for op in Op}
    for some in left.values():
        chance.shuffle(some)
    lives = []
    while any(left.values()):
        lives.append(Life([some.pop() for some in left.values() if some]))
    return lives


def crews_of(points: Sequence[Point], seed: int, together: int = TOGETHER) -> list[Crew]:
    """All points once, victims taking turns: a supervisor waits longer for a part that dies again and again."""
    kinds: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        kinds[point.victim, point.type].append(point)
    by_victim: dict[str, deque[Crew]] = defaultdict(deque)
    for (victim, _), some in sorted(kinds.items()):
        lives = lives_of(some, seed)
        by_victim[victim].extend(Crew(tuple(lives[i : i + together])) for i in range(0, len(lives), together))
    crews = []
    while any(by_victim.values()):
        crews += [waiting.popleft() for _, waiting in sorted(by_victim.items()) if waiting]
    return crews


async def run(points: Sequence[Point], *, seed: int, folder: Path, lanes: int, told: Told, mutate: str | None = None) -> Outcome:
    """Every point once; where nothing but the time was wrong, once more with less beside it."""
    outcome = await _pass(points, seed, folder / "first", lanes, told, mutate)
    late = [row.point for row in outcome.rows if row.late]
    if late and not mutate:
        again = await _pass(late, seed, folder / "again", 1, told, mutate)
        for row in again.rows:
            row.tries = 2
        outcome.rows = [row for row in outcome.rows if not row.late] + again.rows
        outcome.leaks += again.leaks
        outcome.unclosed += again.unclosed
    order = {point.id: n for n, point in enumerate(points)}
    outcome.rows.sort(key=lambda row: order[row.point.id])
    return outcome


async def _pass(points: Sequence[Point], seed: int, folder: Path, lanes: int, told: Told, mutate: str | None) -> Outcome:
    """`lanes` services at the same time: first the kinds of which there is one, then the usual ones."""
    outcome = Outcome(seed=seed)
    crews, slots = crews_of(points, seed), asyncio.Semaphore(lanes)
    by_kind = {kind: deque(c for c in crews if c.on is kind) for kind in (Kind.PLUGIN, Kind.POSTGRES, Kind.USUAL)}

    async def work(name: str, kind: Kind) -> None:
        async with slots:
            await _work(folder / name, kind, by_kind[kind], outcome, told, mutate)

    async with asyncio.TaskGroup() as working:
        for kind, waiting in by_kind.items():
            for number in range(min(lanes if kind is Kind.USUAL else 1, len(waiting))):
                working.create_task(work(f"{kind}-{number}", kind))
    return outcome


async def _work(folder: Path, kind: Kind, crews: deque[Crew], outcome: Outcome, told: Told, mutate: str | None) -> None:
    if not crews:
        return  # others were quicker
    async with lane(folder, kind, mutate=mutate) as one:
        while crews:
            await _crew(one, crews.popleft(), outcome, told)
        outcome.unclosed += await one.open_workflows()
        outcome.leaks += await leaks_of(one)


async def _crew(one: Lane, crew: Crew, outcome: Outcome, told: Told) -> None:
    for number in range(crew.rounds):
        living = [life for life in crew.lives if len(life.points) > number]
        for found in await batch.run(one, living, [life.points[number] for life in living], outcome.seed, attempt=str(outcome.seed)):
            outcome.rows.append(found)
            told(found)
