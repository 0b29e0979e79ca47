"""Journals of applies that leave their machine while they run, and what they are worth where it never comes back."""

import contextlib
import copy
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.beating import heartbeating
from activities.watching import Watching
from countersign.adapters.process import boot_id, marked_processes
from countersign.adapters.store import journals
from countersign.adapters.store.journals import Shipped
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.reconciled import Found, tell_found, tell_gone
from countersign.core.engine import Heard, Progress, Remains, Said
from countersign.core.errors import FailedPrecondition, InvalidArgument
from countersign.core.run import RunState
from countersign.core.steps import ENGINES, FollowInput, engine_steps
from countersign.core.terraform.testimony import told
from countersign.worker.strays import end_strays
from tests.integration.lost_applies import Lost, Stubborn, item, lost
from tests.integration.processes import until
from tests.postgres import BOTH, database_of
from tests.requirements import requirement
from tests.service import ANA, eventually, temporal_server

pytestmark = pytest.mark.anyio
S = RunState


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture
async def it(client: Client, tmp_path: Path) -> AsyncIterator[Lost]:
    async with lost(client, tmp_path) as running:
        yield running


@pytest.fixture(params=BOTH)
async def either(request: pytest.FixtureRequest, client: Client, tmp_path: Path) -> AsyncIterator[Lost]:
    """For what is about the store, on each of them."""
    with database_of(request) as database:
        async with lost(client, tmp_path, database=database) as running:
            yield running


async def shipped(it: Lost, attempt: AttemptRow) -> Shipped:
    async with it.it.store.read() as conn:
        return await journals.shipped(conn, it.it.keyring, org=it.it.org, attempt=attempt)


async def told_of(it: Lost, attempt: AttemptRow, lines: int) -> Shipped:
    """What the store has of the journal, as soon as that many objects are told."""

    async def there() -> Shipped | None:
        found = await shipped(it, attempt)
        return found if len(told(found.testimony)) >= lines else None

    found: Shipped = await eventually(there, f"{lines} objects to be told in the store")
    return found


# Plain objects behind the gate: made twice nothing is, so that nobody has to look them up.
PLAIN = 'resource "terraform_data" "plain_{n}" {{\n  depends_on = [{behind}]\n  input      = "{n}"\n}}\n'


def plain(*numbers: int, behind: str) -> str:
    return "\n".join(PLAIN.format(n=n, behind=behind) for n in numbers)


@requirement("journal:shipped")
async def test_what_an_apply_did_is_in_the_store_within_a_second_with_its_machine_process_lock_and_epoch(either: Lost) -> None:
    it = either
    it.configure(it.world.chain(2, gates=[2]))
    run = await it.applying()
    async with it.world.held(2):
        [attempt] = await it.attempts(run)
        found = await told_of(it, attempt, 2)
        made = {number: ids[0] for number, ids in it.world.lines("made").items()}
        assert [one.line for one in told(found.testimony)] == [f"terraform_data.item_{n}: created, id {made[n]}" for n in (1, 2)]
        completed = [json.loads(line)["@timestamp"] for line in found.testimony.splitlines() if b"apply_complete" in line]
        async with it.it.store.read() as conn:
            rows = (await conn.execute(journals.journals.select().order_by(journals.journals.c.seq))).all()
        assert datetime.fromisoformat(rows[-1].at) - datetime.fromisoformat(completed[-1]) < timedelta(seconds=1 + SLACK)
        assert len(rows) <= 1 + (datetime.fromisoformat(rows[-1].at) - attempt.opened_at) / timedelta(milliseconds=900)
        run_folder = it.it.engine.where(attempt.id) / "run"
        assert found.facts == {
            "host": it.it.here.host,
            "boot_id": boot_id(),
            "epoch": attempt.epoch,
            "process": int((run_folder / "pid").read_text()),
            "lock": (await it.head()).lock.id,  # type: ignore[union-attr]
        }
        assert not found.broken and found.late == b""
        assert all(id.encode() not in row.sealed for row in rows for id in made.values()), "sealed"
    await it.it.reaches(run.id, S.APPLIED)


SLACK = 1.0  # seconds this machine may be late when it is busy


@requirement("journal:shipped")
async def test_what_an_apply_told_last_is_left_to_its_record_and_shipped_where_that_does_not_close_it(it: Lost) -> None:
    it.configure(it.world.chain(1, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        [attempt] = await it.attempts(run)
        await told_of(it, attempt, 1)
        await it.it.stop_workers()
        before = await shipped(it, attempt)
        last = b'{"type":"apply_complete","hook":{"resource":{"addr":"terraform_data.plain"},"action":"create"}}'
        heard = Heard(said=(Said(number=before.upto + 1, line=last),), upto=before.upto + 1, process=None)

        async def ended() -> tuple[bytes, bytes]:
            async with heartbeating():
                watching = Watching(it.it.steps(), await it.it.run(run.id), attempt)
                await watching.tell(Progress(over=True, hear=lambda: heard))
                told_at_the_end = (await shipped(it, attempt)).testimony
                await watching.rest()
                return told_at_the_end, (await shipped(it, attempt)).testimony

        assert await ActivityEnvironment().run(ended) == (before.testimony, before.testimony + last + b"\n")
    await it.it.start_workers()
    await it.it.reaches(run.id, S.APPLIED)


@requirement("journal:shipped", "reconcile:reboot")
async def test_a_journal_that_a_power_cut_has_shortened_is_made_up_for_by_what_was_shipped(it: Lost) -> None:
    it.configure(it.world.chain(1, gates=[1], after=plain(1, behind="data.terraform_remote_state.gate_1")))
    run = await it.applying()
    async with it.world.held(1):
        [attempt] = await it.attempts(run)
        await told_of(it, attempt, 1)
        await it.it.stop_workers()
        await it.kill(run)
        await it.booted_since(run)
        journal = it.it.engine.where(attempt.id) / "run" / "journal"
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    await it.it.start_workers()

    await it.it.reaches(run.id, S.APPLIED)

    [id] = it.world.lines("made")[1]
    assert (await it.ids())["item_1"] == id, "taken into the state, and not made again"
    await it.is_settled()


@contextlib.asynccontextmanager
async def another_machine(it: Lost, attempt: AttemptRow) -> AsyncIterator[None]:
    """In the place of the one on which the attempt runs, whose disk and processes are gone; inside, only the new one works."""
    await it.it.stop_workers()
    os.killpg(int((it.it.engine.where(attempt.id) / "run" / "pgid").read_text()), signal.SIGKILL)
    shutil.rmtree(it.it.engine.where(attempt.id))
    before = it.it.here
    it.it.here = replace(before, host=f"{before.host}-new", boot_id="the boot of another machine")
    await it.it.start_workers()
    yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "terraform", engine_steps("terraform", reconciles=True, away=timedelta(seconds=1)))


@requirement("journal:machine-gone", "promise:crash-costs-nothing", "I4")
@pytest.mark.usefixtures("impatient")
async def test_where_the_machine_never_comes_back_an_operator_is_told_and_another_worker_goes_on_from_the_journal(it: Lost) -> None:
    it.configure(it.world.chain(1, gates=[1], after=plain(1, 2, behind="data.terraform_remote_state.gate_1")))
    run = await it.applying()
    async with it.world.held(1):
        [attempt] = await it.attempts(run)
        found = await told_of(it, attempt, 1)
        async with another_machine(it, attempt):
            asked = await it.it.reaches(run.id, S.NEEDS_OPERATOR)
    [id] = it.world.lines("made")[1]
    lines = (asked.reason or "").splitlines()
    process = found.facts["process"]
    assert [line for line in lines if line.startswith("What it had told by ")] == [lines[2]]
    assert lines[2].endswith(f"({attempt.id}, process {process}); what it did after that nobody knows:")
    assert lines[3] == f"    terraform_data.item_1: created, id {id}"
    assert lines[4].startswith(f"1. Bring the machine {attempt.host} back")
    assert lines[-1] == f"    countersign resume {run.id} --machine-gone {attempt.host}"
    assert list(asked.resources) == [{"address": "terraform_data.item_1", "action": "create", "id": id, "ok": True}]
    assert (await it.head()).lock is not None, "nobody said yet that it is dead"

    await it.it.runs.resume(run.id, ANA.id)
    await it.seen(run, S.NEEDS_OPERATOR, times=2)
    with pytest.raises(InvalidArgument, match=f"lost on {attempt.host}, not on another"):
        await tell_gone(it.it.store, org=it.it.org, run_id=run.id, host="another", by=ANA)
    await tell_gone(it.it.store, org=it.it.org, run_id=run.id, host=attempt.host, by=ANA)
    await it.it.runs.resume(run.id, ANA.id)
    await it.it.reaches(run.id, S.APPLIED)

    assert "terraform_data.item_1: created by this run as approved; it is only taken into the state and settled" in await it.proof(run)
    assert (await it.ids())["item_1"] == id
    assert [a.host for a in await it.attempts(run)] == [attempt.host, it.it.here.host]
    await it.is_settled()
    with pytest.raises(FailedPrecondition, match="asks no operator"):
        await tell_gone(it.it.store, org=it.it.org, run_id=run.id, host=attempt.host, by=ANA)


@requirement("journal:machine-gone", "reconcile:unknown-object")
@pytest.mark.usefixtures("impatient")
async def test_what_a_shipped_journal_does_not_tell_is_never_taken_for_not_done(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        [attempt] = await it.attempts(run)
        await told_of(it, attempt, 1)
        async with another_machine(it, attempt):
            await it.it.reaches(run.id, S.NEEDS_OPERATOR)
    await tell_gone(it.it.store, org=it.it.org, run_id=run.id, host=attempt.host, by=ANA)
    await it.it.runs.resume(run.id, ANA.id)

    stopped = await it.seen(run, S.NEEDS_OPERATOR, times=2)

    lines = (stopped.reason or "").splitlines()
    assert "terraform_data.item_2: its creation may have been under way" in lines[0]
    assert f"    countersign resume {run.id} --exists terraform_data.item_2=ID" in lines
    assert f"    countersign resume {run.id} --absent terraform_data.item_2" in lines
    assert not any("item_1" in line for line in lines), "that one is known"


@requirement("journal:late", "state:fencing")
async def test_a_journal_is_told_by_its_own_machine_each_line_once_and_apart_when_it_comes_too_late(either: Lost) -> None:
    it = either
    it.configure(it.world.chain(1, gates=[]))
    run = await it.applied()
    [attempt] = await it.attempts(run)
    begun = b'{"type":"apply_start","hook":{"resource":{"addr":"thing.late"},"action":"create"}}'
    facts = {"org": it.it.org, "attempt_id": attempt.id, "at": it.it.store.now()}

    async def tells(*numbers: int, host: str = it.it.here.host, attempt_id: str = attempt.id) -> bool:
        said = [Said(number=n, line=begun) for n in numbers]
        async with it.it.store.begin() as tx:
            return await journals.append(tx, it.it.keyring, **(facts | {"attempt_id": attempt_id}), host=host, said=said, upto=max(numbers))

    for wrong in ({"host": "another"}, {"attempt_id": "att_of_nobody"}):
        with pytest.raises(FailedPrecondition, match="not one of this machine"):
            await tells(1001, **wrong)
    before = await shipped(it, attempt)
    assert await tells(1001, 1002)
    assert await tells(1001, 1002, 1003)

    after = await shipped(it, attempt)
    assert after.testimony == before.testimony
    assert after.late == (begun + b"\n") * 3
    assert (after.upto, after.broken) == (1003, False)
    async with it.it.store.begin() as tx:
        await tx.execute(journals.journals.delete().where(journals.journals.c.upto == 1002))
    assert (await shipped(it, attempt)).broken


class Elsewhere(Stubborn):
    """The engine of another machine: it cannot see, and not end, what runs on the first one."""

    async def end(self, attempt_id: str, *, same_boot: bool) -> Remains:
        return Remains() if not self.where(attempt_id).exists() else await super().end(attempt_id, same_boot=same_boot)


@requirement("journal:late", "I2", "state:fencing", "reconcile:zombie")
@pytest.mark.usefixtures("impatient")
async def test_a_machine_that_was_given_up_and_goes_on_writes_no_state_and_what_it_made_is_told_when_it_is_back(it: Lost) -> None:
    it.configure(it.world.chain(1, gates=[1], after=item(2, "data.terraform_remote_state.gate_1")))
    run = await it.applying()
    first, before = it.engine, it.it.here
    async with it.world.held(1):
        [attempt] = await it.attempts(run)
        await told_of(it, attempt, 1)
        await it.it.stop_workers()
        frozen = marked_processes(attempt.id)
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
    second = copy.copy(first)
    second.__class__ = Elsewhere
    second._attempts = replace(first._attempts, root=it.folder / "elsewhere")
    it.it.engine = it.engine = second
    it.it.here = replace(before, host=f"{before.host}-new", boot_id="the boot of another machine")
    await it.it.start_workers()
    await it.it.reaches(run.id, S.NEEDS_OPERATOR)
    with pytest.raises(FailedPrecondition, match=f"one of {attempt.host}; only its own machine"):
        asked = FollowInput(org=it.it.org, run_id=run.id, attempt_id=attempt.id)
        await ActivityEnvironment().run(it.it.steps().follow, asked)
    await tell_gone(it.it.store, org=it.it.org, run_id=run.id, host=attempt.host, by=ANA)
    found = Found(exists={}, missing=frozenset({"terraform_data.item_2"}))
    await tell_found(it.it.store, org=it.it.org, run_id=run.id, found=found, by=ANA)
    await it.it.runs.resume(run.id, ANA.id)
    await it.it.reaches(run.id, S.APPLIED)
    ours, head = await it.document(), await it.head()

    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: len(it.world.lines("made").get(2, ())) == 2, "the zombie to go on in the world, which no fence prevents")
    await until(lambda: not marked_processes(attempt.id), "the zombie to come to its end")

    async def comes_back() -> int:
        return await end_strays(it.it.store, it.it.keyring, [first], [it.it.org], before)

    assert (await comes_back(), await comes_back()) == (1, 0)
    late = it.world.lines("made")[2][1]
    told_late = f"{attempt.id} on {attempt.host} went on after it was given up: terraform_data.item_2: created, id {late}"
    after = await it.it.run(run.id)
    assert (after.state, [one["message"] for one in after.alarms]) == (S.APPLIED, [told_late])
    assert (await shipped(it, attempt)).late != b""
    assert (await it.document(), (await it.head()).serial, (await it.head()).lock) == (ours, head.serial, None), "no write, no lock"
    assert not first.where(attempt.id).exists()
