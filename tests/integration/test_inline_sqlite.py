"""Many writers on one SQLite file: they take turns, none waits for a thread that another one holds, and none leaves a lock behind."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from countersign.adapters.store.database import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    async with made.begin() as tx:
        await tx.execute(text("CREATE TABLE counter (n INTEGER NOT NULL)"))
        await tx.execute(text("INSERT INTO counter VALUES (0)"))
    yield made
    await made.close()


async def count(store: Store) -> None:
    async with store.begin() as tx:
        before = (await tx.execute(text("SELECT n FROM counter"))).scalar_one()
        await asyncio.sleep(0)  # somebody else may try to come in between
        await tx.execute(text("UPDATE counter SET n = :n"), {"n": before + 1})


async def counted(store: Store) -> int:
    async with store.read() as conn:
        return int((await conn.execute(text("SELECT n FROM counter"))).scalar_one())


async def test_more_writers_than_threads_all_come_through(store: Store) -> None:
    await asyncio.wait_for(asyncio.gather(*(count(store) for _ in range(100))), 20)

    assert await counted(store) == 100


async def test_writers_who_give_up_leave_no_lock_behind(store: Store) -> None:
    for _ in range(20):
        tasks = [asyncio.create_task(count(store)) for _ in range(6)]
        await asyncio.sleep(0.001)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    before = await counted(store)

    await asyncio.wait_for(count(store), 5)

    assert await counted(store) == before + 1


async def test_a_write_that_fails_is_undone_and_the_next_one_goes_on(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.begin() as tx:
            await tx.execute(text("UPDATE counter SET n = 7"))
            raise ZeroDivisionError

    await asyncio.wait_for(count(store), 5)

    assert await counted(store) == 1


async def test_another_process_that_holds_the_lock_is_waited_for_and_then_told_of(store: Store) -> None:
    holder = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()\n"
    )
    assert store.path is not None
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(sys.executable, "-c", holder, str(store.path), stdin=pipe, stdout=pipe)
    assert other.stdout is not None and other.stdin is not None
    await asyncio.wait_for(other.stdout.readline(), 20)
    waiting = asyncio.create_task(count(store))
    assert await counted(store) == 0  # readers do not wait
    assert not waiting.done()
    other.stdin.close()
    await asyncio.wait_for(waiting, 20)
    await asyncio.wait_for(other.wait(), 20)
    assert await counted(store) == 1


async def test_readers_and_writers_at_once_see_whole_transactions(store: Store) -> None:
    async def look() -> None:
        async with store.read() as conn:
            first = (await conn.execute(text("SELECT n FROM counter"))).scalar_one()
            await asyncio.sleep(0)
            assert (await conn.execute(text("SELECT n FROM counter"))).scalar_one() == first

    await asyncio.wait_for(asyncio.gather(*(work(store) if work is count else look() for work in [count, look] * 30)), 20)
