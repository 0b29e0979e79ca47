"""A worker that died in mid-apply, and the one that takes its place: what was in its hands is handed back at once."""

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client

from countersign.core.run import RunState
from countersign.worker.succeeding import gone, identity
from tests.integration.lost_applies import Lost, lost
from tests.requirements import requirement
from tests.service import eventually, temporal_server

pytestmark = pytest.mark.anyio
STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
S = RunState


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[Lost]:
    async with lost(client, tmp_path) as running:
        yield running


async def under_way(it: Lost, run_id: str) -> list[str]:
    described = await it.it.client.get_workflow_handle(run_id).describe()
    return [p.activity_type.name for p in described.raw_description.pending_activities if p.state == STARTED]


@requirement("worker:succeeds", "promise:crash-costs-nothing")
async def test_the_steps_of_a_worker_that_is_gone_are_done_by_the_next_before_a_heartbeat_is_missed(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        assert await under_way(it, run.id) == ["terraform.apply"]
        assert await it.it.runs.hand_back(run.id, gone=lambda who: False) == 0

        assert await it.it.runs.hand_back(run.id, gone=lambda who: True) == 1

        async def followed() -> bool:
            return await under_way(it, run.id) == ["terraform.follow"]

        await eventually(followed, "the apply to be followed", 4.0)  # a heartbeat is missed after five

    await it.it.reaches(run.id, S.APPLIED)
    assert len(await it.attempts(run)) == 1
    await it.is_settled()
    assert await it.it.runs.hand_back(run.id, gone=lambda who: True) == 0, "a run that has ended has nothing in its hands"


@requirement("worker:succeeds")
def test_only_a_worker_of_this_machine_that_lives_no_more_is_gone() -> None:
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
        is_gone = gone("h1")

        assert is_gone(f"worker@h1:{dead.pid}")
        assert is_gone(identity("h1")), "asked before this one has done anything, it is an earlier one of the same number"
        assert not is_gone(f"worker@h1:{os.getppid()}")
        assert not is_gone(f"worker@h2:{dead.pid}")
        assert not is_gone("worker@h1")
