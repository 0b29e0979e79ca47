"""Cancels at any moment: how soon the engine gets its one SIGINT, and what becomes of an apply that does not heed it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from countersign.adapters.process import marked_processes
from countersign.adapters.settings import TerraformSettings
from countersign.adapters.store.database import Store
from countersign.core.approval import CancelInput
from countersign.core.run import RunState
from tests.integration.lost_applies import Lost, lost
from tests.integration.processes import until
from tests.integration.test_run_signals import details_say
from tests.requirements import requirement
from tests.service import PATIENCE, eventually, temporal_server

pytestmark = pytest.mark.anyio
S = RunState
WITHIN = 3.0  # seconds, until the engine has its SIGINT


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[Lost]:
    async with lost(client, tmp_path) as running:
        yield running


async def interrupted(folder: Path) -> float:
    """When the attempt's engine was interrupted."""

    async def sent() -> bool:
        return (folder / "sent").exists()

    await eventually(sent, "the one SIGINT")
    return float((folder / "interrupted").read_text())


@requirement("cancel:at-any-moment")
@pytest.mark.parametrize("follower", ["who launched it", "who took over", "who comes later"])
async def test_a_cancel_reaches_an_apply_within_three_seconds_whoever_follows_it(it: Lost, follower: str) -> None:
    it.configure(it.world.chain(3, gates=[2]))
    run = await it.applying()
    async with it.world.held(2):
        [attempt] = await it.attempts(run)
        if follower != "who launched it":
            await it.it.stop_workers()
        if follower == "who took over":
            await it.it.start_workers()
            await followed(it, run.id)
        asked = time.time()
        await it.it.runs.cancel(run.id, CancelInput(reason="enough"))
        if follower == "who comes later":
            await it.it.start_workers()
            await followed(it, run.id)
            asked = time.time()
        took = await interrupted(it.it.engine.where(attempt.id) / "run") - asked
        assert took <= WITHIN, f"it took {took:.2f} s"
        journal = it.it.engine.where(attempt.id) / "run" / "journal"
        await until(lambda: b"Stopping operation" in journal.read_bytes(), "Terraform to heed it")

    ended = await it.it.reaches(run.id, S.PARTIALLY_APPLIED)

    assert (ended.code, ended.done) == ("canceled", 2)
    assert ended.reason == "Stopped on request in mid-apply; what was done by then is recorded in the state."
    assert [(r["address"], r["ok"]) for r in ended.resources] == [("terraform_data.item_1", True), ("terraform_data.item_2", True)]
    assert sorted(await it.ids()) == ["item_1", "item_2"]
    await it.is_settled(left=1)


async def followed(it: Lost, run_id: str) -> None:
    """A new worker has the step in its hands: before that there is nobody whom a cancel could reach."""

    async def beats() -> bool:
        pending = (await it.it.client.get_workflow_handle(run_id).describe()).raw_description.pending_activities
        return any(one.activity_type.name == "terraform.follow" and one.HasField("last_heartbeat_time") for one in pending)

    await eventually(beats, "somebody to follow the apply")


@requirement("cancel:at-any-moment")
async def test_a_cancel_reaches_a_plan_that_is_being_made_within_three_seconds(client: Client, tmp_path: Path) -> None:
    engine, said = tmp_path / "terraform", tmp_path / "said"
    engine.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = plan ] || exec /usr/local/bin/terraform "$@"\ntrap \'date +%s.%N >>{said}; exit 1\' INT\n'
        f"echo begun >{said}\nwhile :; do sleep 0.05; done\n"
    )
    engine.chmod(0o700)
    async with lost(client, tmp_path, engine={"executable": engine}) as it:
        it.configure(it.world.chain(1, gates=[]))
        run = await it.it.start(it.stack, tool="apply_terraform", vars={"world": str(it.world.folder)})

        async def begun() -> bool:
            return said.exists() and bool(said.read_text())

        await eventually(begun, "the plan to be under way")
        asked = time.time()
        await it.it.runs.cancel(run.id, CancelInput(reason="enough"))

        await it.it.reaches(run.id, S.CANCELED)

        [_, at] = said.read_text().split()
        assert float(at) - asked <= WITHIN
        assert (await it.head()).lock is None


@requirement("cancel:at-any-moment")
async def test_a_cancel_between_the_claim_and_the_start_starts_nothing(it: Lost) -> None:
    launching = asyncio.Event()

    async def hangs() -> None:
        launching.set()
        await asyncio.Event().wait()

    it.engine.launching = hangs
    it.configure(it.world.chain(1, gates=[]))
    run = await it.applying()
    await asyncio.wait_for(launching.wait(), PATIENCE)
    await it.it.runs.cancel(run.id, CancelInput(reason="enough"))

    ended = await it.it.reaches(run.id, S.CANCELED)

    assert (ended.code, it.world.lines("made"), await it.ids()) == ("canceled", {}, {})
    [attempt] = await it.attempts(run)
    assert (attempt.outcome, ended.reason) == ("canceled", "Stopped on request before anything was changed.")
    assert (await it.head()).lock is None


@contextlib.contextmanager
def later(store: Store, **by: Any) -> Iterator[None]:
    """By the store's clock, which is the one that decides."""
    now = store._clock
    store._clock = lambda: now() + timedelta(**by)
    try:
        yield
    finally:
        store._clock = now


@requirement("cancel:force", "reconcile:zombie", "I4")
async def test_an_apply_that_heeds_no_interrupt_is_ended_by_force_after_its_time_and_is_reconciled(client: Client, tmp_path: Path) -> None:
    async with lost(client, tmp_path, terraform=TerraformSettings(force_after_seconds=30)) as it:
        await ended_by_force(it)


async def ended_by_force(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        [attempt] = await it.attempts(run)
        for pid in marked_processes(attempt.id):
            os.kill(pid, signal.SIGSTOP)
        await it.it.runs.cancel(run.id, CancelInput(reason="it hangs"))
        await it.it.reaches(run.id, S.CANCELING)
        await it.it.runs.cancel(run.id, CancelInput(reason="at once", force=True))
        told = await details_say(it.it, run.id, "force is possible in")
        assert "may still do so by itself, which loses nothing" in told
        assert marked_processes(attempt.id)

        with later(it.it.store, seconds=31):
            await it.it.runs.cancel(run.id, CancelInput(reason="now", force=True))
            await it.it.runs.cancel(run.id, CancelInput(reason="now", force=True))
            await until(lambda: not marked_processes(attempt.id), "it to be killed")
    ended = await it.it.reaches(run.id, S.PARTIALLY_APPLIED)

    assert (ended.code, sorted(await it.ids())) == ("canceled", ["item_1"])
    assert (await it.states(run))[-5:] == ["applying", "canceling", "interrupted", "reconciling", "partially_applied"]
    assert [e.body["message"] for e in await it.events(run) if e.kind == "force"] == ["now"]
    await it.is_settled(left=1)


@requirement("cancel:at-any-moment", "promise:crash-costs-nothing")
async def test_a_worker_that_shuts_down_does_not_wait_for_an_apply_that_is_being_canceled(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        [attempt] = await it.attempts(run)
        frozen = marked_processes(attempt.id)
        try:
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            await it.it.runs.cancel(run.id, CancelInput(reason="enough"))
            await interrupted(it.it.engine.where(attempt.id) / "run")
            await asyncio.wait_for(it.it.stop_workers(), 15)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        journal = it.it.engine.where(attempt.id) / "run" / "journal"
        await until(lambda: b"Stopping operation" in journal.read_bytes(), "Terraform to hear of it")
    await it.it.start_workers()

    ended = await it.it.reaches(run.id, S.PARTIALLY_APPLIED, patience=90)  # steps in dead hands time out first

    assert (ended.code, sorted(await it.ids())) == ("canceled", ["item_1"])
    await it.is_settled(left=1)


@requirement("cancel:force")
async def test_force_without_a_cancel_before_is_a_cancel(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        [attempt] = await it.attempts(run)
        await it.it.runs.cancel(run.id, CancelInput(reason="now", force=True))
        await interrupted(it.it.engine.where(attempt.id) / "run")
        assert not (it.it.engine.where(attempt.id) / "run" / "killed").exists()

    assert (await it.it.reaches(run.id, S.PARTIALLY_APPLIED)).code == "canceled"
