"""A stack whose state was given back: nothing is planned against the one that is here, and nothing that waits is applied."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.adapters.store import records, state
from countersign.adapters.store.custody import Adoption, Release
from countersign.core.run import RunState
from tests.integration.front import ANA
from tests.integration.in_the_cloud import InTheCloud, in_the_cloud
from tests.postgres import BOTH, database_of
from tests.requirements import requirement
from tests.service import temporal_server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, client: Client, tmp_path: Path) -> AsyncIterator[InTheCloud]:
    with database_of(request) as database:
        async with in_the_cloud(client, tmp_path, database=database) as running:
            yield running


async def stack_of(it: InTheCloud) -> records.StackRow:
    async with it.lost.it.store.read() as conn:
        return await records.get_stack(conn, "local", "dev/demo")


@requirement("state:released")
async def test_what_waits_is_not_applied_and_nothing_new_is_begun_until_it_is_taken_over_again(it: InTheCloud) -> None:
    await it.applied()
    it.lost.configure((it.lost.folder / "stacks" / "demo" / "main.tf").read_text().replace("size = 1", "size = 2"))
    waiting = (await it.ended("apply_terraform"))["run"]
    assert waiting["state"] == "awaiting_approval"
    head = await it.lost.head()

    store = it.lost.it.store
    await Release(store=store, stack=await stack_of(it), by=ANA, to="file", reason="")(head, None)

    where = {"env": "dev", "workspace": "demo"}
    for tool in ("terraform_plan", "destroy_terraform", "terraform_detect_drift"):
        assert "countersign stack adopt dev/demo" in (await it.agent.refused(tool, **where))["message"]
    assert (await it.workspace())["custody"]["kept"] == "away"
    await it.lost.agree(await it.lost.it.run(waiting["run_id"]))
    ended = await it.lost.it.reaches(waiting["run_id"], RunState.ERRORED)
    assert "was given back" in str(ended.reason)
    assert "was given back" in (await it.agent.refused("apply_terraform", **where))["message"]
    assert sorted(it.cloud.changes()) == ["create one", "create two"]
    assert (await it.lost.head()).serial == head.serial

    adoption = Adoption(store=store, artifacts=it.lost.it.artifacts, stack=await stack_of(it), by=ANA, origin="file", reason="")
    await adoption(await state_bytes(it))
    await it.applied()
    assert sorted(it.cloud.changes()) == ["create one", "create two", "update one"]


async def state_bytes(it: InTheCloud) -> bytes:
    async with it.lost.it.store.read() as conn:
        stack = await records.get_stack(conn, "local", "dev/demo")
        newest = await state.snapshot(conn, "local", stack.id)
        assert newest is not None
        return await it.lost.it.artifacts.read(conn, org="local", artifact_id=newest.artifact_id)
