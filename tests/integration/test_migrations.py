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


async def test_the_migrations_make_the_schema_of_the_code(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
    await store.close()

    assert differences(tmp_path / "a.db") == []


async def test_numbers_of_events_are_never_used_twice(tmp_path: Path) -> None:
    store = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
    async with store.read() as connection:
        made = (await connection.execute(text("SELECT name, sql FROM sqlite_master WHERE name IN ('events', 'lock_events')"))).all()
    await store.close()

    assert {name for name, sql in made if "AUTOINCREMENT" in sql} == {"events", "lock_events"}
