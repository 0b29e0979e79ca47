"""Which releases are looked at for drift: those that were deployed through the gate, until they are uninstalled through it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from activities.reading import Reading
from countersign.adapters.keyring import Keyring
from countersign.adapters.schedules import Wanted
from countersign.adapters.store import records, runs
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.records import StackRow
from countersign.adapters.store.requests import Draft, request_run
from countersign.adapters.store.schema import runs as runs_table
from countersign.core.engine import Release
from countersign.core.principal import SYSTEM
from countersign.core.run import RUN_TYPES, RunState
from countersign.worker.schedules import settle
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
EVERY = {"local/dev": "2h"}


@pytest.fixture(params=BOTH)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    with database_of(request) as database:
        opened = await Store.open(database or f"sqlite+aiosqlite:///{tmp_path / 'countersign.db'}")
        yield opened
        await opened.close()


async def released(store: Store, name: str, *, env: str = "local/dev") -> StackRow:
    return await records.register_release(store, env=env, release=Release(namespace="shop", name=name), by=SYSTEM)


async def ran(store: Store, release: StackRow, run_type: str, state: RunState, **asked: object) -> str:
    """A run of that type that ended so, one minute after the one before."""
    begun = await request_run(
        store,
        Draft(run_type=RUN_TYPES[run_type], stack=release.config, arguments=dict(asked)),
        org=release.org,
        principal=SYSTEM,
        key=None,
        message=None,
    )
    async with store.begin() as tx:
        count = (await runs.list_runs(tx, release.org, stack_id=release.id))[1]
        ended = store.now() + timedelta(minutes=count)
        await tx.execute(update(runs_table).where(runs_table.c.id == begun.run_id).values(state=str(state), ended_at=stamp(ended)))
    return begun.run_id


class Board:
    """Temporal's schedules, as `adapters.schedules.Schedules` has them."""

    def __init__(self) -> None:
        self.made: dict[str, Wanted] = {}

    async def there(self) -> dict[str, timedelta | None]:
        return {id: one.every for id, one in self.made.items()}

    async def put(self, wanted: Wanted) -> None:
        self.made[wanted.id] = wanted

    async def remove(self, id: str) -> None:
        del self.made[id]

    @property
    def paths(self) -> list[str]:
        return sorted(one.path for one in self.made.values())


@requirement("drift:scheduled")
async def test_a_release_has_a_schedule_from_its_first_deploy_to_its_uninstall(store: Store) -> None:
    board = Board()

    async def settled() -> list[str]:
        await settle(store, board, ["local"], EVERY)  # type: ignore[arg-type]  # what it asks of them, and no more
        return board.paths

    web, api = await released(store, "web"), await released(store, "api")
    elsewhere = await released(store, "web", env="local/prod")
    assert await settled() == []
    await ran(store, web, "helm_deploy", RunState.APPLIED)
    await ran(store, api, "helm_deploy", RunState.ERRORED)
    await ran(store, elsewhere, "helm_deploy", RunState.APPLIED)
    assert await settled() == ["local/dev/shop.web"]
    assert [one.every for one in board.made.values()] == [timedelta(hours=2)]
    await ran(store, api, "helm_deploy", RunState.PARTIALLY_APPLIED)
    await ran(store, web, "helm_uninstall", RunState.REJECTED)
    assert await settled() == ["local/dev/shop.api", "local/dev/shop.web"]
    await ran(store, web, "helm_uninstall", RunState.APPLIED)
    assert await settled() == ["local/dev/shop.api"]
    await ran(store, web, "helm_deploy", RunState.APPLIED)
    assert await settled() == ["local/dev/shop.api", "local/dev/shop.web"]
    await settle(store, board, ["local"])  # type: ignore[arg-type]  # the setting is gone
    assert board.paths == []


async def test_a_reader_hears_what_the_newest_deploy_was_asked_for(store: Store, tmp_path: Path) -> None:
    """That is how values that were sealed are known by their places."""
    web = await released(store, "web")
    reading = Reading(store=store, keyring=Keyring.open(tmp_path, role="worker"), engine=None)  # type: ignore[arg-type]  # not asked
    asked_for = reading._asked_for("local")

    assert await asked_for("local/dev/shop.web") is None
    assert await asked_for("local/dev/shop.nobody") is None
    await ran(store, web, "helm_deploy", RunState.APPLIED, values={"token": {"secret": "old"}})
    await ran(store, web, "helm_deploy", RunState.APPLIED, values={"token": {"secret": "new"}})
    await ran(store, web, "helm_deploy", RunState.REJECTED, values={"token": "plain"})
    found = await asked_for("local/dev/shop.web")
    assert found is not None and found["values"] == {"token": {"secret": "new"}}
