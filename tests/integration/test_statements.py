"""Kept statements say the same on SQLite, where they go past SQLAlchemy, as on Postgres."""

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from countersign.adapters.store import statements
from countersign.adapters.store.schema import events, secrets, switches
from tests.service import Service

pytestmark = pytest.mark.anyio

SECRET = {
    "org_id": "o",
    "slug": "s",
    "sealed": b"\x00\xff",
    "kid": "k",
    "fingerprint": "fingerprint_of_it",
    "created_at": "t",
    "created_by": "p",
}
SWITCH = {"org_id": "o", "id": "all", "is_on": True, "reason": "because", "by": "p", "until": None, "at": "t"}


async def test_a_row_comes_back_with_the_types_of_its_columns(it: Service) -> None:
    async with it.store.begin() as tx:
        await statements.add(tx, secrets, version=1, **SECRET)
        await statements.add(tx, switches, **SWITCH)

        secret = await statements.first(tx, secrets, org_id="o", slug="s")
        switch = await statements.first(tx, switches, org_id="o", until=None)
        longer = (await tx.execute(select(switches).where(switches.c.org_id == "o"))).one()

    assert secret is not None and switch is not None
    assert (secret.sealed, secret.version) == (b"\x00\xff", 1)
    assert (switch.is_on, switch.until, switch.reason) == (True, None, "because")
    assert tuple(switch) == tuple(longer)
    assert switch._mapping == longer._mapping


async def test_the_newest_and_all_in_order(it: Service) -> None:
    async with it.store.begin() as tx:
        for version in (2, 3, 1):
            await statements.add(tx, secrets, version=version, **SECRET)

        newest = await statements.first(tx, secrets, org_id="o", slug="s", newest="version")
        every = await statements.every(tx, secrets, order=("version",), org_id="o")
        none = await statements.first(tx, secrets, org_id="nobody")

    assert newest is not None and newest.version == 3
    assert [row.version for row in every] == [1, 2, 3]
    assert none is None


async def test_a_change_tells_how_many_rows_it_met_and_what_they_are_now(it: Service) -> None:
    async with it.store.begin() as tx:
        await statements.add(tx, switches, **SWITCH)

        met = await statements.change(tx, switches, {"org_id": "o", "id": "all"}, is_on=False, until="later")
        missed = await statements.change(tx, switches, {"org_id": "o", "until": None}, is_on=True)
        row = await statements.changed(tx, switches, {"org_id": "o", "until": "later"}, reason="another", until=None)
        gone = await statements.changed(tx, switches, {"org_id": "o", "until": "later"}, reason="another")

    assert (met, missed, gone) == (1, 0, None)
    assert row is not None and (row.is_on, row.reason, row.until) == (False, "another", None)


async def test_rows_that_are_counted_tell_their_number(it: Service) -> None:
    said = {"org_id": "o", "run_id": "r", "at": "t", "kind": "state", "state": "pending", "body": "{}"}
    async with it.store.begin() as tx:
        first, second = await statements.add(tx, events, **said), await statements.add(tx, events, **said)
        other = await statements.add(tx, switches, **SWITCH)

    assert second == first + 1 > 1 or (first, second) == (1, 2)
    assert other == 0


async def test_what_the_database_refuses_is_refused_in_the_same_words(it: Service) -> None:
    with pytest.raises(IntegrityError) as refused:
        async with it.store.begin() as tx:
            await statements.add(tx, secrets, version=1, **SECRET)
            await statements.add(tx, secrets, version=1, **SECRET)

    assert "fingerprint_of_it" not in str(refused.value)  # no value of a row is in what an error says
    async with it.store.read() as conn:
        assert await statements.first(conn, secrets, org_id="o") is None
