"""Keeping parts running, with real processes: they come back, more patiently each time, and end with their supervisor."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from countersign.adapters.process import Running
from countersign.cli import supervisor
from countersign.cli.ground import NOTE, Ground, born, processes_of
from countersign.cli.supervisor import Ended, Part, Ready, Supervisor, started

pytestmark = pytest.mark.anyio
PATIENCE = 20.0  # seconds; every wait is bounded
STAYS = 'echo started; touch "$0"; while :; do sleep 0.05; done'
DIES = 'echo "what went wrong" >&2; exit 7'


def part(tmp_path: Path, script: str, name: str = "it", wave: int = 0) -> Part:
    flag = tmp_path / f"{name}.flag"

    async def ready(_: int) -> bool:
        return flag.exists()

    env = {"PATH": "/usr/bin:/bin", "COUNTERSIGN_DATA": str(tmp_path)}
    return Part(name=name, argv=["/bin/sh", "-c", script, str(flag)], env=env, log=tmp_path / f"{name}.log", ready=ready, wave=wave)


async def until(probe: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not probe():
        assert time.monotonic() < ends, f"waited {PATIENCE} s for {what}"
        await asyncio.sleep(0.02)


class Watched:
    def __init__(self) -> None:
        self.told: list[Ready | Ended] = []
        self.pids: dict[str, int] = {}

    @property
    def ends(self) -> list[Ended]:
        return [event for event in self.told if isinstance(event, Ended)]

    @property
    def readies(self) -> list[Ready]:
        return [event for event in self.told if isinstance(event, Ready)]


@asynccontextmanager
async def supervised(tmp_path: Path, *parts: Part) -> AsyncIterator[tuple[Supervisor, Watched]]:
    watched = Watched()

    def moved(pids: object) -> None:
        watched.pids = dict(pids)  # type: ignore[call-overload]

    keeper = Supervisor(parts, start=partial(started, cwd=tmp_path), tell=watched.told.append, moved=moved)
    await keeper.start()
    try:
        yield keeper, watched
    finally:
        await keeper.stop()
    assert watched.pids == {}
    await until(lambda: processes_of(tmp_path) == [], "every process to end")


async def test_all_parts_are_ready_together_and_end_together(tmp_path: Path) -> None:
    async with supervised(tmp_path, part(tmp_path, STAYS, "a"), part(tmp_path, STAYS, "b", wave=1)) as (keeper, watched):
        await asyncio.wait_for(keeper.ready(), PATIENCE)

        assert {event.part for event in watched.readies} == {"a", "b"}
        assert set(watched.pids) == {"a", "b"}
    assert watched.ends == []


async def test_a_part_that_is_killed_comes_back(tmp_path: Path) -> None:
    async with supervised(tmp_path, part(tmp_path, STAYS)) as (keeper, watched):
        await asyncio.wait_for(keeper.ready(), PATIENCE)
        before = watched.pids["it"]
        os.kill(before, signal.SIGKILL)

        await until(lambda: len(watched.readies) == 2, "the part to be ready again")

        assert watched.pids["it"] != before
        assert watched.ends[0].code == -signal.SIGKILL
        assert watched.readies[1].again


async def test_a_part_that_keeps_failing_is_tried_more_patiently_and_its_last_words_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.02)
    async with supervised(tmp_path, part(tmp_path, DIES)) as (_, watched):
        await until(lambda: len(watched.ends) >= 4, "four ends")

        assert [end.again_in for end in watched.ends[:4]] == [0.02, 0.04, 0.08, 0.16]
        assert [end.times for end in watched.ends[:4]] == [1, 2, 3, 4]
        # The last words of this life, and not those of the lives before.
        assert {(end.code, end.tail) for end in watched.ends} == {(7, ("what went wrong",))}


async def test_a_part_that_was_never_ready_twice_in_a_row_is_started_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.02)
    forked_from: list[str | None] = []

    async def start(part: Part) -> Running:
        forked_from.append(part.zygote)
        return await started(replace(part, argv=["/bin/sh", "-c", STAYS if part.zygote is None else DIES, part.argv[-1]]), cwd=tmp_path)

    keeper = Supervisor([replace(part(tmp_path, ""), zygote="store")], start=start, tell=lambda _: None)
    await keeper.start()
    try:
        await asyncio.wait_for(keeper.ready(), PATIENCE)
    finally:
        await keeper.stop()

    assert forked_from == ["store", "store", None]


async def test_told_to_stop_it_does_not_wait_for_a_part_it_starts_again(tmp_path: Path) -> None:
    first, again, abandoned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def start(part: Part) -> Running:
        if not first.is_set():
            first.set()
            return await started(part, cwd=tmp_path)
        again.set()
        try:
            return await asyncio.Future()
        finally:
            abandoned.set()

    keeper = Supervisor([part(tmp_path, DIES)], start=start, tell=lambda _: None)
    await keeper.start()
    await asyncio.wait_for(again.wait(), PATIENCE)

    await asyncio.wait_for(keeper.stop(), PATIENCE)

    assert abandoned.is_set()


async def test_a_part_that_ignores_sigterm_is_ended_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STOP_GRACE", 0.2)
    async with supervised(tmp_path, part(tmp_path, f"trap '' TERM; {STAYS}")) as (keeper, _):
        await asyncio.wait_for(keeper.ready(), PATIENCE)


async def test_parts_stop_wave_by_wave(tmp_path: Path) -> None:
    says = "trap 'date +%s%N >\"$0.end\"; exit 0' TERM; " + STAYS
    async with supervised(tmp_path, part(tmp_path, says, "state", wave=1), part(tmp_path, says, "worker", wave=0)) as (keeper, _):
        await asyncio.wait_for(keeper.ready(), PATIENCE)

    ends = {name: int((tmp_path / f"{name}.flag.end").read_text()) for name in ("state", "worker")}
    assert ends["worker"] < ends["state"]


ORPHANING = """
import asyncio, sys
from functools import partial
from pathlib import Path
from countersign.cli.ground import Ground
from countersign.cli.supervisor import Part, Supervisor, started

async def main(folder):
    async def ready(_):
        return True
    with Ground(folder) as ground:
        part = Part(name="it", argv=["/bin/sh", "-c", sys.argv[2]], env={"PATH": "/usr/bin:/bin"}, log=folder / "it.log", ready=ready)
        keeper = Supervisor([part], start=partial(started, cwd=folder), tell=lambda _: None, moved=partial(ground.write, "x"))
        await keeper.start()
        print(keeper.pids["it"], flush=True)
        await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("script", ["while :; do sleep 0.05; done", "trap '' TERM; while :; do sleep 0.05; done"])
async def test_what_a_killed_supervisor_leaves_is_gone_when_the_next_one_starts(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countersign.cli.ground.ENDING", 0.5)
    first = await asyncio.create_subprocess_exec(sys.executable, "-c", ORPHANING, str(tmp_path), script, stdout=asyncio.subprocess.PIPE)
    assert first.stdout is not None
    child = int(await asyncio.wait_for(first.stdout.readline(), PATIENCE))
    first.kill()
    await first.wait()

    with Ground(tmp_path) as ground:
        assert (tmp_path / NOTE).exists()
        await ground.end_leftovers()

    assert born(child) is None


async def test_a_process_that_only_has_the_number_of_an_old_part_is_left_alone(tmp_path: Path) -> None:
    with Ground(tmp_path) as ground:
        ground.write("x", {"it": os.getpid()})
        (tmp_path / NOTE).write_text((tmp_path / NOTE).read_text().replace(f'"since": {born(os.getpid())}', '"since": 1'))

        assert await ground.end_leftovers() == []


@pytest.mark.parametrize(
    ("environment", "words", "serves"),
    [
        ({"COUNTERSIGN_DATA": "{data}"}, [], True),  # a part
        ({"COUNTERSIGN_ATTEMPT": "att_x"}, ["{data}/attempts/x"], True),  # an attempt, or what it started
        ({"COUNTERSIGN_DATA": "{data}-of-another"}, [], False),
        ({}, ["{data}/logs/worker.log"], False),  # somebody reads a log
    ],
)
async def test_what_serves_a_data_folder_is_told_from_what_only_looks_at_it(
    tmp_path: Path, environment: dict[str, str], words: list[str], serves: bool
) -> None:
    env = {"PATH": "/usr/bin:/bin", **{name: value.format(data=tmp_path) for name, value in environment.items()}}
    arguments = [word.format(data=tmp_path) for word in words]
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "echo; read line", *arguments, env=env, stdin=-1, stdout=-1)
    assert process.stdout is not None
    await process.stdout.readline()  # it is the shell by now
    try:
        assert [pid for pid, _ in processes_of(tmp_path)] == ([process.pid] if serves else [])
    finally:
        process.kill()
        await process.wait()
