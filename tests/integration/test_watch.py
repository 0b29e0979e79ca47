"""Waiting on SQLite: told at once by whoever commits, of the run one waits for, and also where nobody could tell."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from countersign.adapters.store import bell, watch
from countersign.adapters.store.database import Store
from countersign.adapters.store.watch import Watch
from tests.requirements import requirement
from tests.service import eventually

pytestmark = pytest.mark.anyio
INSERT = "INSERT INTO events (org_id, run_id, at, kind, state, body) VALUES ('local', '{run}', '', 'progress', '{state}', '{{}}')"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    yield opened
    await opened.close()


@pytest.fixture
async def watching(store: Store) -> AsyncIterator[Watch]:
    made = Watch(store)
    yield made
    await made.close()


async def event(store: Store, run: str, state: str = "planning") -> None:
    async with store.begin() as tx:
        await tx.execute(text(INSERT.format(run=run, state=state).replace(":", "\\:")))


async def waits(watching: Watch, number: int) -> None:
    async def so_many() -> bool:
        return watching.waiting == number

    await eventually(so_many, f"{number} to wait")


@requirement("waiting:of-one-run")
async def test_who_waits_for_a_run_is_told_of_its_events_and_of_no_others(store: Store, watching: Watch) -> None:
    seen = watching.seen
    one = asyncio.create_task(watching.changed(after=seen, timeout=20, run="run_1"))
    other = asyncio.create_task(watching.changed(after=seen, timeout=20, run="run_2"))
    every = asyncio.create_task(watching.changed(after=seen, timeout=20))
    await waits(watching, 3)

    await event(store, "run_1")
    assert await one and await every
    assert not other.done()
    await event(store, "run_2")
    assert await other


@requirement("waiting:of-one-run")
async def test_who_waits_for_states_of_a_run_sleeps_through_the_others(store: Store, watching: Watch) -> None:
    seen = watching.seen
    ended = asyncio.create_task(watching.changed(after=seen, timeout=20, run="run_1", states={"applied", "errored"}))
    any_ = asyncio.create_task(watching.changed(after=seen, timeout=20, run="run_1"))
    await waits(watching, 2)

    await event(store, "run_1")
    assert await any_
    assert not ended.done()
    await event(store, "run_2", state="applied")
    every = asyncio.create_task(watching.changed(after=watching.seen, timeout=20))
    await event(store, "run_1", state="errored")

    assert await ended and await every


@requirement("waiting:of-one-run")
async def test_an_event_between_the_look_and_the_wait_is_not_lost(store: Store, watching: Watch) -> None:
    await event(store, "run_0")
    seen = watching.seen
    await event(store, "run_1")
    await event(store, "run_2")

    assert await watching.changed(after=seen, timeout=20, run="run_1")
    assert await watching.changed(after=seen, timeout=20, run="run_2")
    assert not await watching.changed(after=seen, timeout=0.05, run="run_3")


@requirement("waiting:of-one-run")
async def test_another_store_of_the_same_file_rings(store: Store, watching: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SURELY", 60.0)
    other = await Store.open(store.url)
    waiting = asyncio.create_task(watching.changed(after=watching.seen, timeout=20, run="run_1"))
    await waits(watching, 1)

    await event(other, "run_1")

    assert await asyncio.wait_for(waiting, 5)
    await other.close()


@requirement("waiting:of-one-run")
async def test_what_was_committed_by_somebody_who_could_not_ring_is_found_all_the_same(store: Store, watching: Watch) -> None:
    commits = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    waiting = asyncio.create_task(watching.changed(after=watching.seen, timeout=20, run="run_1"))
    await waits(watching, 1)

    silent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", commits, str(store.path), INSERT.format(run="run_1", state="planning")
    )
    assert await asyncio.wait_for(silent.wait(), 20) == 0

    assert await asyncio.wait_for(waiting, 5)


@requirement("waiting:of-one-run")
async def test_where_the_kernel_tells_nothing_the_watcher_looks(store: Store, watching: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dumb:
        def __init__(self, *_: object) -> None:
            raise OSError(24, "too many open files")

    monkeypatch.setattr(watch, "Bell", Dumb)
    monkeypatch.setattr(watch, "SURELY", 60.0)
    waiting = asyncio.create_task(watching.changed(after=watching.seen, timeout=20, run="run_1"))
    await waits(watching, 1)

    await event(store, "run_1")

    assert await asyncio.wait_for(waiting, 5)


@requirement("waiting:of-one-run")
async def test_nothing_is_held_when_nobody_waits(store: Store, watching: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SURELY", 0.01)
    closed: list[bell.Bell] = []
    close = bell.Bell.close
    monkeypatch.setattr(bell.Bell, "close", lambda it: (closed.append(it), close(it)))
    began = time.monotonic()

    assert not await watching.changed(after=watching.seen, timeout=0.05, run="run_1")

    assert time.monotonic() - began >= 0.05

    async def all_closed() -> bool:
        return len(closed) == 1 and watching.waiting == 0

    await eventually(all_closed, "the bell to be given back")
