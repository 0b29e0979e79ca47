"""A Temporal that forgot: restored from an older copy, or emptied. Rows remember, and nothing is applied twice or unasked."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from countersign.core.approval import ApproveInput
from countersign.core.errors import CountersignError
from countersign.core.run import RunState
from countersign.worker.sweep import catch_up, sweep
from tests.integration.test_cancel import later
from tests.requirements import requirement
from tests.service import ANA, PATIENCE, Service, eventually, service, temporal_server
from tests.toy.engine import ToyEngine, install

pytestmark = pytest.mark.anyio
install()
S = RunState


class Machine:
    """The service, and a Temporal that is stopped, copied, put back and emptied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "temporal" / "temporal.db"
        self.database.parent.mkdir()
        self.toy = ToyEngine(folder / "toy")
        self.it: Service
        self._up = contextlib.AsyncExitStack()

    async def start(self) -> None:
        client = await self._up.enter_async_context(temporal_server(self.database))
        if hasattr(self, "it"):
            self.it.client = client
            await self.it.start_workers()
        else:
            self.it = await self._service.enter_async_context(service(client, self.folder / "data", self.toy))

    async def stop(self) -> None:
        await self.it.stop_workers()
        await self._up.aclose()

    async def copied(self) -> None:
        """Stop, keep a copy of what Temporal knows, and go on."""
        await self.stop()
        shutil.copytree(self.database.parent, self.folder / "copy")
        await self.start()

    async def restored(self, *, empty: bool = False) -> None:
        await self.stop()
        shutil.rmtree(self.database.parent)
        if empty:
            self.database.parent.mkdir()
        else:
            shutil.copytree(self.folder / "copy", self.database.parent)
        await self.start()

    async def swept(self) -> None:
        """What a worker does at its start and every now and then; rows that have just moved are left alone by it."""
        with later(self.it.store, seconds=10):
            await catch_up(self.it.store, self.it.runs, [self.it.org])
            await sweep(self.it.store, self.it.runs, [self.it.org])

    async def closed(self, run_id: str) -> RunState:
        """Where the run's workflow says that it ended."""
        result = await asyncio.wait_for(self.it.client.get_workflow_handle(run_id).result(), PATIENCE)
        return RunState(result["state"])

    async def waits(self, *run_ids: str) -> None:
        """Temporal itself knows that these runs wait for people: the rows say so a moment before."""

        async def known() -> bool:
            return {*run_ids} <= {*await self.it.runs.waiting()}

        await eventually(known, "Temporal to know who waits")

    async def launched(self) -> Path:
        async def there() -> list[str]:
            return self.toy.launched

        return self.toy.where((await eventually(there, "the apply to be launched"))[0])

    async def __aenter__(self) -> "Machine":
        (self.folder / "data").mkdir()
        self._service = contextlib.AsyncExitStack()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._service.aclose()
        await self._up.aclose()


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with Machine(tmp_path) as running:
        yield running


@requirement("claim:temporal-restored", "I3")
async def test_a_temporal_restored_from_before_the_approval_applies_nothing_twice_and_closes_the_run(machine: Machine) -> None:
    it = machine.it
    machine.toy.want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, S.AWAITING_APPROVAL)
    await machine.waits(run.id)
    await machine.copied()
    given = ApproveInput(plan_digest=waiting.plan_digest or "", signed=it.signed(run.id, ANA, plan_digest=waiting.plan_digest))
    await it.runs.approve(run.id, given, update_id="the-approval")
    await it.reaches(run.id, S.APPLIED)

    await machine.restored()
    again = await it.runs.approve(run.id, given, update_id="the-approval")

    assert again.accepted, "the verdict that is on record, whatever Temporal has forgotten"
    assert await machine.closed(run.id) is S.APPLIED
    assert machine.toy.world == ["a create"]
    assert len(machine.toy.launched) == 1


@requirement("claim:temporal-restored")
async def test_a_restored_temporal_that_waits_for_a_decision_long_made_is_told(machine: Machine) -> None:
    it = machine.it
    machine.toy.want(("a", "create"))
    machine.toy.hold_applies = True
    stack = await it.stack()
    run = await it.start(stack)
    waiting = await it.reaches(run.id, S.AWAITING_APPROVAL)
    other = await it.start(await it.stack("other"))
    await it.reaches(other.id, S.AWAITING_APPROVAL)
    await machine.waits(run.id, other.id)
    await machine.copied()
    await it.approve(waiting)
    folder = await machine.launched()
    await it.reject(await it.run(other.id), reason="no")
    await it.reaches(other.id, S.REJECTED)

    await machine.restored()
    await machine.swept()

    assert await machine.closed(other.id) is S.REJECTED
    (folder / "go").touch()
    await it.reaches(run.id, S.APPLIED)
    assert await machine.closed(run.id) is S.APPLIED
    assert (machine.toy.world, len(machine.toy.launched)) == (["a create"], 1)
    assert await catch_up(it.store, it.runs, [it.org]) == 0


@requirement("claim:temporal-restored", "I3")
async def test_a_temporal_restored_from_mid_apply_starts_no_other_apply(machine: Machine) -> None:
    it = machine.it
    machine.toy.want(("a", "create"))
    machine.toy.hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
    folder = await machine.launched()
    await machine.copied()
    (folder / "go").touch()
    await it.reaches(run.id, S.APPLIED)

    await machine.restored()

    assert await machine.closed(run.id) is S.APPLIED
    assert (machine.toy.world, len(machine.toy.launched)) == (["a create"], 1)


@requirement("claim:temporal-restored", "I1", "I3")
async def test_an_empty_temporal_is_repopulated_from_the_store_and_each_run_goes_on_from_where_it_stands(machine: Machine) -> None:
    it = machine.it
    machine.toy.want(("a", "create"))
    machine.toy.hold_applies = True
    applying = await it.start(await it.stack("applying"))
    await it.approve(await it.reaches(applying.id, S.AWAITING_APPROVAL))
    folder = await machine.launched()
    waiting = await it.start(await it.stack("waiting"))
    asked = await it.reaches(waiting.id, S.AWAITING_APPROVAL)

    await machine.restored(empty=True)
    begun = time.monotonic()
    await machine.swept()
    (folder / "go").touch()
    await it.reaches(applying.id, S.APPLIED)

    assert (await it.run(waiting.id)).state is S.AWAITING_APPROVAL, "nobody approved it meanwhile"
    assert len(machine.toy.launched) == 1
    machine.toy.hold_applies = False

    async def taken() -> bool:
        with contextlib.suppress(CountersignError):
            return (await it.approve(asked)).accepted
        return False

    await eventually(taken, "the approval of the same plan to be taken")
    await it.reaches(waiting.id, S.APPLIED)
    assert [await machine.closed(one) for one in (applying.id, waiting.id)] == [S.APPLIED, S.APPLIED]
    assert sorted(machine.toy.world) == ["a create", "a create"], "one of each stack"
    assert len(machine.toy.launched) == 2
    assert time.monotonic() - begun < 60
