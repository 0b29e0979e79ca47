"""Sessions and codes of the pages as rows, on either database: what is used once is used once, whoever tries at the same time."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from countersign.adapters.store import audit, keys, page_sessions
from countersign.adapters.store.database import Store
from countersign.adapters.store.keys import KeyRow
from countersign.core.principal import SYSTEM, Kind, Principal
from tests.integration.front import moved_clock
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
ANA = Principal(id="person:ana", kind=Kind.PERSON)


@pytest.fixture(params=BOTH)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """Two processes' views of one store."""
    with database_of(request) as database:
        url = database or f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
        opened = [await Store.open(url), await Store.open(url)]
        yield opened
        for store in opened:
            await store.close()


async def made(store: Store) -> KeyRow:
    key, _ = await keys.create_key(store, org="acme", principal=ANA, role="approver", by=SYSTEM)
    return key


@requirement("page:open")
async def test_of_several_that_use_a_code_at_once_one_gets_its_key(stores: list[Store]) -> None:
    one, two = stores
    key = await made(one)
    code, ends = await page_sessions.make_code(one, key)
    assert timedelta(seconds=55) < ends - one.now() <= timedelta(seconds=60)

    got = await asyncio.gather(*(page_sessions.use_code(store, code) for store in (one, two) * 4))

    assert [found.id for found in got if found is not None] == [key.id]
    assert await page_sessions.use_code(two, "no-code-of-anybody-at-all") is None


@requirement("page:sessions")
async def test_a_session_of_one_front_is_one_on_every_front_until_it_ends_on_any(stores: list[Store]) -> None:
    one, two = stores
    token = await page_sessions.open_session(one, await made(one), how="key")

    async with two.read() as conn:
        session = await page_sessions.session_of(conn, token, now=two.now())
    assert session is not None and session.key.principal == ANA
    with moved_clock(two, minutes=59):
        await page_sessions.seen(two, session)
    with moved_clock(one, minutes=90):
        async with one.read() as conn:
            assert await page_sessions.session_of(conn, token, now=one.now()) is not None
    await page_sessions.close_session(two, session)

    async with one.read() as conn:
        assert await page_sessions.session_of(conn, token, now=one.now()) is None
        assert await audit.first_broken(conn, "acme") is None


async def test_rows_that_are_over_do_not_pile_up(stores: list[Store]) -> None:
    store, _ = stores
    key = await made(store)
    await page_sessions.open_session(store, key, how="key")
    await page_sessions.make_code(store, key)

    with moved_clock(store, days=2):
        await page_sessions.open_session(store, key, how="key")
        await page_sessions.make_code(store, key)

    async with store.read() as conn:
        for table in (page_sessions.page_sessions, page_sessions.page_codes):
            assert len((await conn.execute(table.select())).all()) == 1
