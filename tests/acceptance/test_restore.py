"""A data folder is lost and comes back from a backup; what happened in between is found, and nothing is made twice."""

import asyncio
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.installed import eventually
from tests.acceptance.restored import SERVERS, STACK, THREE, Machine, machine
from tests.acceptance.test_crashes import engines
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path) as made:
        yield made


@requirement("restore:found", "restore:fenced", "backup:whole")
async def test_an_apply_that_the_backup_did_not_know_is_found_by_its_state_and_its_plan_is_never_claimed_again(it: Machine) -> None:
    run_id = it.waiting()
    backup = it.folder / "backup.tar"
    made = it.json("backup", str(backup))
    assert (made["keys"], made["missing"], oct(backup.stat().st_mode & 0o777)) == ("inside", [], "0o600")
    assert it.json("backup", "--verify", str(backup))["states"] == made["states"]
    it.agree(run_id)
    await it.reaches(run_id, "applied")
    assert it.cloud.changes() == ["create one", "create two"]
    it.it.stop()

    refused = it.json("restore", str(backup), code=1)
    assert "--replace" in refused["error"]["message"]
    told = it.json("restore", str(backup), "--replace")

    [state] = told["states"]
    assert (state["path"], state["before"], state["serial"] > 0, state["reconciling"]) == (STACK, 0, True, run_id)
    await it.up()
    await it.reaches(run_id, "applied")
    it.is_clean()
    assert it.cloud.changes() == ["create one", "create two"]

    it.configure(SERVERS + THREE)
    held = it.waiting()
    it.agree(held)
    await it.tells(held, "countersign state accept local/dev/servers")
    it.it.cli("state", "accept", "dev/servers", "--reason", "compared it with the cloud")
    await it.reaches(held, "applied")
    it.is_clean()
    assert it.cloud.changes() == ["create one", "create two", "create three"]


@requirement("restore:found", "promise:crash-costs-nothing")
async def test_an_apply_that_was_lost_after_the_backup_is_found_by_its_folder_and_asks_only_for_the_rest(it: Machine) -> None:
    run_id = it.waiting()
    it.json("backup", str(it.folder / "backup.tar"), "--keys", str(it.folder / "keys.json"))
    in_flight = it.cloud.hook(op="create", name="two", when="before")
    it.agree(run_id)
    await asyncio.to_thread(in_flight.reached)
    [apply] = engines(it.it)
    it.it.kill_all()
    os.killpg(os.getpgid(apply), signal.SIGKILL)
    in_flight.release("drop")
    shutil.rmtree(it.it.data / "keys")

    told = it.json("restore", str(it.folder / "backup.tar"), "--keys", str(it.folder / "keys.json"), "--replace")
    assert [state["reconciling"] for state in told["states"]] == [run_id]
    await it.up()

    asks = await it.reaches(run_id, "awaiting_approval")  # that somebody had agreed is lost with the store
    assert asks["state"] == "awaiting_approval"
    assert "1 to add, 1 to import" in it.it.cli("show", run_id)
    it.it.cli("state", "accept", "dev/servers", "--reason", "compared it with the cloud")
    it.agree(run_id)
    await it.reaches(run_id, "applied")
    it.is_clean()
    assert it.cloud.changes() == ["create one", "create two"]


@requirement("restore:found", "state:by-hand")
async def test_on_a_new_machine_nothing_is_applied_over_what_the_backup_does_not_know_until_a_person_has_looked(it: Machine) -> None:
    first = it.waiting()
    it.json("backup", str(it.folder / "backup.tar"))
    it.agree(first)
    await it.reaches(first, "applied")
    (it.folder / "kept.tfstate").write_text(it.it.cli("state", "pull", "dev/servers"))
    it.it.stop()

    new = await it.another("new")
    [state] = new.json("restore", str(it.folder / "backup.tar"))["states"]
    assert (state["serial"], state["reconciling"]) == (0, None), "nothing on this machine tells"
    await new.up()
    try:
        new.agree(first)
        await new.reaches(first, "approved")
        again = new.waiting("--idempotency-key", "once-more")  # the plan that would make everything a second time
        new.agree(again)
        await new.reaches(again, "approved")
        await new.tells(again, "countersign state accept local/dev/servers")
        assert it.cloud.changes() == ["create one", "create two"]

        push = ["state", "push", "dev/servers", str(it.folder / "kept.tfstate"), "--confirm", STACK, "--reason", "from the old machine"]
        assert new.json(*push)["changed"]
        new.it.cli("state", "accept", "dev/servers", "--reason", "it is what exists")
        await new.reaches(first, "planned_and_finished")
        await new.reaches(again, "planned_and_finished")
        new.is_clean()
        assert it.cloud.changes() == ["create one", "create two"]
    finally:
        new.it.stop()


async def journal_shipped(data: Path) -> bool:
    with closing(sqlite3.connect(f"{(data / 'countersign.db').as_uri()}?mode=ro", uri=True)) as store:
        return bool(store.execute("SELECT count(*) FROM journals").fetchone()[0])


@requirement("restore:found", "restore:fenced", "reconcile:look-up")
async def test_an_apply_that_was_open_in_the_backup_reconciles_on_the_machine_that_took_over(it: Machine) -> None:
    in_flight = it.cloud.hook(op="create", name="two", when="after")
    run_id = it.waiting()
    it.agree(run_id)
    await asyncio.to_thread(in_flight.reached)
    await eventually(lambda: journal_shipped(it.it.data), "what the apply told to be in the store")  # a backup has what the store has
    made = it.json("backup", str(it.folder / "backup.tar"))
    assert made["states"][0]["open_attempt"] is not None
    [apply] = engines(it.it)
    it.it.kill_all()
    os.killpg(os.getpgid(apply), signal.SIGKILL)
    in_flight.release("drop")

    new = await it.another("new")
    assert new.json("restore", str(it.folder / "backup.tar"))["states"][0]["reconciling"] == run_id
    await new.up()
    try:
        new.it.cli("state", "accept", "dev/servers", "--reason", "its one apply is accounted for")
        await new.reaches(run_id, "applied", "needs_operator")
        new.is_clean()
        assert it.cloud.changes() == ["create one", "create two"]
    finally:
        new.it.stop()
