"""The canary of a lane: one secret that went through every run, looked for everywhere it must not be."""

from collections.abc import AsyncIterator

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store.schema import artifacts, attempts, metadata
from tests.acceptance.installed import tidied
from tests.acceptance.test_canary import decoded_histories, files, spellings
from tests.chaos.lane import CANARY, Lane
from tests.postgres import PASSWORD

# Sealed, and needed: what is applied, and what it came to.
ALLOWED = frozenset({"plan_bundle", "plan_json", "state"})
NEEDLES = [*spellings(CANARY), *spellings(PASSWORD)]


async def leaks_of(lane: Lane) -> list[str]:
    """Where it was found. Raises AssertionError where it was found nowhere at all: such a search proves nothing."""
    await tidied(lane.it.data)
    found = [f"told: {number}" for number, told in enumerate(lane.said) if _in(told)]
    found += [f"history of {name}" async for name, text in decoded_histories(lane.it) if _in(text)]
    found += [name async for name, data in _rows(lane) if _in(data)]
    found += [f"file {name}" for name, data in files(lane.it.data) if _in(data) and not await _of_open_attempt(lane, name)]
    if _in(lane.it.log().encode()):
        found.append("log of up")
    kept = [one async for one in _artifacts(lane)]
    found += [f"artifact {kind} {name}" for kind, name, data in kept if kind not in ALLOWED and _in(data)]
    assert any(_in(data) for kind, _, data in kept if kind in ALLOWED), "the canary never went through anything"
    return found


async def _rows(lane: Lane) -> AsyncIterator[tuple[str, bytes]]:
    for table in metadata.sorted_tables:
        name = f"row of {table.name}"

        async def look(conn: AsyncConnection, query: object = table.select()) -> list[bytes]:
            rows = (await conn.execute(query)).all()  # type: ignore[call-overload]
            return [b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in row) for row in rows]

        for data in await lane.read(look):
            yield name, data


async def _artifacts(lane: Lane) -> AsyncIterator[tuple[str, str, bytes]]:
    """Every artifact in clear: kind, name, bytes."""
    async with lane.store.read() as conn:
        for row in (await conn.execute(artifacts.select())).all():
            yield row.kind, row.name, await lane.artifacts.read(conn, org=row.org_id, artifact_id=row.id)


async def _of_open_attempt(lane: Lane, name: str) -> bool:
    """The folder of an attempt holds secrets in clear for as long as it is open, as documented."""
    folder, _, rest = name.partition("/")
    if folder != "attempts":
        return False
    query = select(attempts.c.closed_at).where(attempts.c.id == rest.partition("/")[0])

    async def look(conn: AsyncConnection) -> bool:
        row = (await conn.execute(query)).first()
        return row is not None and row.closed_at is None

    return await lane.read(look)


def _in(data: bytes) -> bool:
    return any(needle in data for needle in NEEDLES)
