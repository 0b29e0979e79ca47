"""The schema that migrations make, held against the one the code believes in."""

from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from countersign.adapters.store.database import Store
from countersign.adapters.store.schema import metadata

pytestmark = pytest.mark.anyio


def differences(path: Path) -> list[Any]:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    engine.dispose()
    return list(found)


@pytest.fixture(params=["made", "migrated"])
async def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store that was made anew, and one that every migration went over."""
    made = tmp_path / "a.db"
    if request.param == "migrated":
        made.touch()  # what is there is migrated, be it empty
    store = await Store.open(f"sqlite+aiosqlite:///{made}")
    await store.close()
    return made


async def test_a_store_has_the_schema_of_the_code_however_it_came_to_be(path: Path) -> None:
    assert differences(path) == []


async def test_both_say_the_same_to_sqlite(tmp_path: Path) -> None:
    """What a comparison of models does not see: conditions of partial indexes, and numbers that are never used again."""
    (tmp_path / "migrated.db").touch()
    said = {}
    for name in ("made", "migrated"):
        store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / name}.db")
        async with store.read() as connection:
            rows = (await connection.execute(text("SELECT type, name, sql FROM sqlite_master WHERE type = 'index'"))).all()
        await store.close()
        said[name] = {row.name: " ".join((row.sql or "").replace('"', "").split()) for row in rows}

    assert said["made"] == said["migrated"]


async def test_numbers_of_events_are_never_used_twice(path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{path}")
    async with store.read() as connection:
        made = (await connection.execute(text("SELECT name, sql FROM sqlite_master WHERE name IN ('events', 'lock_events')"))).all()
    await store.close()

    assert {name for name, sql in made if "AUTOINCREMENT" in sql} == {"events", "lock_events"}
