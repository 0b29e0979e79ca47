"""A lost apply, from the kill to the end of its run: what was made is kept, what is left is made, and nobody is asked in vain."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from countersign.adapters.process import marked_processes
from countersign.adapters.store import state
from countersign.adapters.terraform import environment
from countersign.core.approval import CancelInput, Channel
from countersign.core.engine import ApplyJob
from countersign.core.run import RunState
from countersign.core.steps import Decided
from countersign.worker.sweep import sweep
from tests.gates import close, held, open_for_good
from tests.integration.lost_applies import Lost, item, lost
from tests.integration.processes import until
from tests.integration.state_service import document
from tests.integration.test_cancel import later
from tests.requirements import requirement
from tests.service import ANA, BO, eventually, temporal_server

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


BY_ITSELF = ["approved", "applying", "interrupted", "reconciling", "approved", "applying", "verifying", "applied"]


@requirement("reconcile:by-itself", "promise:crash-costs-nothing", "I3")
@pytest.mark.parametrize("at", [1, 4])
async def test_an_apply_that_is_killed_is_finished_under_its_approval_and_makes_nothing_twice(it: Lost, at: int) -> None:
    it.configure(it.world.chain(4, gates=[at]))
    run = await it.applying()
    async with it.world.held(at):
        assert (await it.head()).serial == 0, "nothing was stored"
        await it.kill(run)

    applied = await it.it.reaches(run.id, S.APPLIED)

    assert (await it.states(run))[-8:] == BY_ITSELF
    taken = "created by this run as approved; it is only taken into the state and settled"
    proof = await it.proof(run)
    assert [line for line in proof if line.endswith(taken)] == [f"terraform_data.item_{n}: {taken}" for n in range(1, at + 1)]
    assert sum("still to be done" in line for line in proof if "item" in line) == 4 - at
    given = [(d.by, d.channel, d.plan_digest) for d in await it.it.decisions(run.id)]
    assert given == [(ANA, Channel.FRONT, run.plan_digest), (ANA, Channel.CARRIED, applied.plan_digest)]
    first, second = await it.attempts(run)
    assert (first.outcome, second.outcome) == ("reconciling", "applied")
    await it.is_settled()


@requirement("reconcile:by-itself", "promise:crash-costs-nothing", "I3")
async def test_a_plan_that_was_claimed_by_who_died_before_the_start_is_applied_under_its_approval(
    it: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def died(job: ApplyJob) -> None:
        monkeypatch.undo()

    it.configure(it.world.chain(2, gates=[]))
    monkeypatch.setattr(it.engine, "launch", died)
    run = await it.applying()

    await it.it.reaches(run.id, S.APPLIED)

    assert (await it.states(run))[-8:] == BY_ITSELF
    assert [a.outcome for a in await it.attempts(run)] == ["reconciling", "applied"]
    await it.is_settled()


@requirement("reconcile:by-itself", "promise:crash-costs-nothing", "I3")
async def test_an_apply_that_found_no_state_service_goes_on_under_its_approval_when_there_is_one(
    it: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = it.engine.launch

    async def away(job: ApplyJob) -> None:
        monkeypatch.undo()
        await launch(replace(job, state=replace(job.state, address="http://127.0.0.1:1/v1/state/none")))

    it.configure(it.world.chain(2, gates=[]))
    monkeypatch.setitem(environment._RETRIES, "TF_HTTP_RETRY_MAX", "0")
    monkeypatch.setattr(it.engine, "launch", away)
    run = await it.applying()

    await it.it.reaches(run.id, S.APPLIED)

    assert (await it.states(run))[-8:] == BY_ITSELF
    assert [a.outcome for a in await it.attempts(run)] == ["reconciling", "applied"]
    assert len(await it.it.decisions(run.id)) == 2  # the person's, and that one carried over
    await it.is_settled()


@requirement("reconcile:unstored-state", "I2", "I4")
async def test_a_state_that_could_not_be_stored_is_stored_and_the_run_ends_applied_without_another_apply(it: Lost) -> None:
    it.configure(it.world.chain(3, gates=[1]))
    run = await it.applying()
    async with it.world.held(1), it.it.store.begin() as tx:
        await state.raise_epoch(tx, it.it.org, it.stack_id)  # whoever writes now is a zombie

    await it.it.reaches(run.id, S.APPLIED)

    assert (await it.states(run))[-5:] == ["applying", "interrupted", "reconciling", "verifying", "applied"]
    assert (len(await it.attempts(run)), len(await it.ids())) == (1, 3)
    await it.is_settled()


@requirement("reconcile:unstored-state", "I5")
@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_apply_that_is_killed_while_its_last_state_is_stored_is_accounted_for(it: Lost, when: str) -> None:
    it.configure(it.world.chain(3, gates=[1]))
    run = await it.applying()

    async def killed() -> None:
        it.disk.before = it.disk.after = None
        await it.kill(run)

    async with it.world.held(1):
        setattr(it.disk, when, killed)

    await it.it.reaches(run.id, S.APPLIED)

    await it.is_settled()


@requirement("reconcile:canceled")
async def test_a_run_that_was_canceled_and_then_killed_records_what_it_made_and_makes_no_more(it: Lost) -> None:
    it.configure(it.world.chain(3, gates=[2]))
    run = await it.applying()
    async with it.world.held(2):
        await it.it.runs.cancel(run.id, CancelInput(reason="enough"))
        await it.it.reaches(run.id, S.CANCELING)
        await it.kill(run)

    ended = await it.it.reaches(run.id, S.PARTIALLY_APPLIED)

    assert ended.code == "canceled"
    assert sorted(await it.ids()) == ["item_1", "item_2"]
    await it.is_settled(left=1)


@requirement("reconcile:canceled")
async def test_a_cancel_that_comes_while_what_is_left_is_planned_counts(it: Lost) -> None:
    planning = it.world.folder / "planning"
    open_for_good(planning)
    it.configure(it.world.chain(2, gates=[1], before=READ_WHILE_PLANNING))
    run = await it.applying()
    async with it.world.held(1):
        close(planning)
        await it.kill(run)
    async with held(planning, eventually):
        await it.it.runs.cancel(run.id, CancelInput(reason="enough"))

    await it.it.reaches(run.id, S.PARTIALLY_APPLIED)

    assert sorted(await it.ids()) == ["item_1"]
    await it.is_settled(left=1)


READ_WHILE_PLANNING = """
data "terraform_remote_state" "planning" {
  backend = "local"
  config = {
    path = "${var.world}/planning"
  }
}
"""


@requirement("reconcile:zombie", "reconcile:canceled")
async def test_an_apply_that_hangs_is_killed_after_the_grace_and_what_it_made_is_recorded(client: Client, tmp_path: Path) -> None:
    async with lost(client, tmp_path, engine={"grace_seconds": 0.5}) as it:
        it.configure(it.world.chain(2, gates=[1]))
        run = await it.applying()
        async with it.world.held(1):
            [attempt] = await it.attempts(run)
            for pid in marked_processes(attempt.id):
                os.kill(pid, signal.SIGSTOP)
            await it.it.runs.cancel(run.id, CancelInput(reason="it hangs"))
            await until(lambda: not marked_processes(attempt.id), "it to be killed")
        await it.it.reaches(run.id, S.PARTIALLY_APPLIED)

        assert sorted(await it.ids()) == ["item_1"]
        await it.is_settled(left=1)


@requirement("reconcile:destroying")
async def test_a_destruction_that_is_killed_half_way_is_finished_and_destroys_nothing_twice(it: Lost) -> None:
    it.configure(it.world.chain(3, gates=[]).replace("echo ${self.id} >> ${self.input}.gone", HELD_WHEN_GOING))
    for n in (1, 3):
        (it.world.folder / f"{n}.go").touch()
    await it.applied()
    run = await it.applying(tool="destroy_terraform")
    await until((it.world.folder / "2.going").exists, "the destruction to reach item 2")
    await it.kill(run)
    (it.world.folder / "2.go").touch()

    await it.it.reaches(run.id, S.APPLIED)

    assert {n: len(ids) for n, ids in it.world.lines("gone").items()} == {1: 1, 2: 1, 3: 1}
    assert await it.ids() == {}
    assert (await it.head()).lock is None


HELD_WHEN_GOING = "touch ${self.input}.going; until [ -e ${self.input}.go ]; do sleep 0.02; done; echo ${self.id} >> ${self.input}.gone"


@requirement("reconcile:replacing")
async def test_a_replacement_that_is_killed_between_its_halves_is_finished(it: Lost) -> None:
    replaced = item(9).replace("  input =", "  triggers_replace = 1\n  input =")
    it.configure(it.world.chain(0, gates=[], after=replaced))
    await it.applied()
    waits = replaced.replace("triggers_replace = 1", "triggers_replace = 2\n  depends_on = [data.terraform_remote_state.gate_1]")
    it.configure(it.world.chain(1, gates=[1], after=waits))
    run = await it.applying()
    async with it.world.held(1):
        await until(lambda: it.world.lines("gone").get(9), "the old object to be destroyed")
        await it.journal_says(run, "apply_complete", "terraform_data.item_9")
        await it.kill(run)

    await it.it.reaches(run.id, S.APPLIED)

    assert "terraform_data.item_9: destroyed by this run as approved; it is created as approved" in await it.proof(run)
    assert (len(it.world.lines("made")[9]), len(it.world.lines("gone")[9])) == (2, 1)
    await it.is_settled()


@requirement("reconcile:again")
async def test_an_apply_that_is_lost_twice_goes_on_and_the_third_time_a_person_has_to_let_it(it: Lost) -> None:
    it.configure(it.world.chain(4, gates=[1, 2, 3]))
    run = await it.applying()
    for number in (1, 2, 3):
        async with it.world.held(number):
            await it.kill(run, number=number)

    stopped = await it.it.reaches(run.id, S.NEEDS_OPERATOR)
    assert stopped.reason is not None
    assert stopped.reason.splitlines() == [
        "The apply was lost 3 times; find out what ends it before it goes on.",
        "The apply was lost 3 times; find out what ends it before it goes on.",
        "    countersign doctor",
        "Then let the run look again:",
        f"    countersign resume {run.id}",
    ]
    await it.it.runs.resume(run.id, "machine:worker-of-this-machine")
    await it.seen(run, S.NEEDS_OPERATOR, times=2)
    await it.it.runs.resume(run.id, ANA.id)

    await it.it.reaches(run.id, S.APPLIED)

    assert [d.channel for d in await it.it.decisions(run.id)] == [Channel.FRONT, *[Channel.CARRIED] * 3]
    await it.is_settled()


@requirement("reconcile:difference")
async def test_what_differs_from_what_was_approved_is_asked_and_a_rejection_leaves_the_state_blocked(it: Lost) -> None:
    told = it.world.folder / "told"
    told.write_text("as approved")
    it.configure(it.world.chain(1, gates=[1], after=TOLD))
    run = await it.applying()
    async with it.world.held(1):
        told.write_text("another text")
        await it.kill(run)

    asked = await it.it.reaches(run.id, S.AWAITING_APPROVAL)
    assert asked.reason == "What is left differs from what was approved.\nterraform_data.told: input not as approved"
    assert asked.plan_digest != run.plan_digest
    await it.refuse(asked, reason="not like this")
    blocked = await it.it.reaches(run.id, S.NEEDS_OPERATOR)
    assert "Rejected: not like this." in (blocked.reason or "")
    [attempt] = await it.attempts(run)
    assert attempt.closed_at is None
    await it.it.runs.resume(run.id, ANA.id)
    again = await it.seen(run, S.AWAITING_APPROVAL, times=3)
    await it.agree(again)

    await it.it.reaches(run.id, S.APPLIED)

    await it.is_settled()


TOLD = """
resource "terraform_data" "told" {
  depends_on = [data.terraform_remote_state.gate_1]
  input      = file("${var.world}/told")
}
"""


@requirement("reconcile:by-itself", "ui:terminate", "I4")
async def test_what_a_terminated_run_left_open_is_closed_before_the_next_run_of_its_state_plans(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        await it.it.client.get_workflow_handle(run.id).terminate(reason="an operator terminates it")
        await it.kill(run)
        second = await it.it.start(it.stack, tool="apply_terraform", by=BO, vars={"world": str(it.world.folder)})
        await it.it.reaches(second.id, S.PENDING)

    stands = run

    async def brought_back() -> bool:
        nonlocal stands
        with later(it.it.store, seconds=10):  # again and again, as a worker does: what has just moved is left alone
            await sweep(it.it.store, it.it.runs, [it.it.org])
        stands = await it.it.run(run.id)
        return stands.state is S.APPLIED

    # A step that fails on a busy machine is tried again with pauses that grow.
    await eventually(brought_back, "the terminated run to be applied", 90, seen=lambda: f"and it is {stands.state}: {stands.reason}")
    await it.it.runs.wake(second.id)
    await it.it.reaches(second.id, S.PLANNED_AND_FINISHED)

    attempts = await it.attempts(run)
    planning = next(e for e in await it.events(second) if e.state is S.PLANNING)
    applied = next(e for e in await it.events(run) if e.state is S.APPLIED)
    assert [a.outcome for a in attempts] == ["reconciling", "applied"]
    assert all(a.closed_at is not None for a in attempts)
    assert applied.n < planning.n  # by the ledger's order: the sweep's clock was ahead
    await it.is_settled()


@requirement("reconcile:expired", "I8")
async def test_an_approval_that_expired_meanwhile_is_asked_for_again(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        await it.expired(run)
        await it.kill(run)

    asked = await it.it.reaches(run.id, S.AWAITING_APPROVAL)
    assert asked.reason == "The approval has expired; what is left is a part of what was approved."
    await it.agree(asked)

    await it.it.reaches(run.id, S.APPLIED)

    assert [d.channel for d in await it.it.decisions(run.id)] == [Channel.FRONT, Channel.FRONT]
    await it.is_settled()


@requirement("reconcile:decided-at-once")
async def test_a_decision_in_the_instant_a_reconciled_plan_is_recorded_waits_for_the_workflow_to_hear_of_it(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    deciding: list[asyncio.Task[Decided]] = []

    async def decided() -> None:
        """In the last moment of reconciling: the row waits for people, and the workflow believes that it reconciles."""
        it.engine.at_last = None
        asked = await it.it.run(run.id)
        assert asked.state is S.AWAITING_APPROVAL
        deciding.append(asyncio.create_task(it.it.approve(asked)))
        await eventually(taken, "the workflow to take the decision")

    async def taken() -> bool:
        history = await it.it.client.get_workflow_handle(run.id).fetch_history()
        accepted = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
        return sum(event.event_type == accepted for event in history.events) == 2

    async with it.world.held(1):
        await it.expired(run)
        it.engine.at_last = decided
        await it.kill(run)

    await it.it.reaches(run.id, S.APPLIED)

    assert (await deciding[0]).accepted
    await it.is_settled()


@requirement("reconcile:unknown-object")
async def test_what_was_under_way_and_cannot_be_looked_up_is_an_operators_with_exact_instructions(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[]).replace("echo ${self.id} >> ${self.input}.made", "touch ${self.input}.begun; sleep 600", 1))
    run = await it.applying()
    await until((it.world.folder / "1.begun").exists, "the first item to be begun")
    await it.kill(run)

    stopped = await it.it.reaches(run.id, S.NEEDS_OPERATOR)

    why = (
        "terraform_data.item_1: its creation may have been under way, and there is no look-up for terraform_data. "
        "Look for it in the cloud, then tell the run: the first line if exactly one exists, else the second."
    )
    assert (stopped.reason or "").splitlines() == [
        why,
        why,
        f"    countersign resume {run.id} --exists terraform_data.item_1=ID",
        f"    countersign resume {run.id} --absent terraform_data.item_1",
        "Then let the run look again:",
        f"    countersign resume {run.id}",
    ]
    assert (await it.head()).lock is None


@requirement("reconcile:foreign-lock", "I5")
async def test_a_lock_of_somebody_else_is_never_broken(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        it.engine.meanwhile = lambda: it.locked_by('{"ID":"another","Who":"cy@laptop","Created":"2026-01-01T00:00:00Z"}')
        await it.kill(run)

    stopped = await it.it.reaches(run.id, S.NEEDS_OPERATOR)

    assert "The state is locked by cy@laptop since 2026-01-01T00:00:00Z (lock another), and not by this run" in (stopped.reason or "")
    it.engine.meanwhile = None
    await it.locked_by(None)
    await it.it.runs.resume(run.id, ANA.id)
    await it.it.reaches(run.id, S.APPLIED)
    await it.is_settled()


@requirement("reconcile:state-moved", "promise:approved-is-what-runs")
async def test_a_plan_of_what_is_left_is_not_replaced_by_one_that_knows_nothing_of_the_lost_apply(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        await it.expired(run)
        await it.kill(run)
    asked = await it.it.reaches(run.id, S.AWAITING_APPROVAL)
    await it.push_by_hand(document(1))
    await it.agree(asked)

    await it.it.reaches(run.id, S.APPLIED)

    assert (await it.states(run))[-7:] == ["approved", "needs_operator", "reconciling", *BY_ITSELF[-4:]]
    assert len(await it.attempts(run)) == 2
    await it.is_settled()


@requirement("reconcile:survivors", "I5")
async def test_beside_what_cannot_be_ended_nothing_is_planned_and_its_lock_stays(it: Lost) -> None:
    it.configure(it.world.chain(2, gates=[1]))
    run = await it.applying()
    async with it.world.held(1):
        it.engine.survivors = 1
        await it.kill(run)

    stopped = await it.it.reaches(run.id, S.NEEDS_OPERATOR)

    assert (stopped.reason or "").startswith(f"1 processes of the lost apply still run on {it.it.here.host}")
    assert (await it.head()).lock is not None
    assert await it.ids() == {}
    it.engine.survivors = 0
    await it.it.runs.resume(run.id, ANA.id)
    await it.it.reaches(run.id, S.APPLIED)
    await it.is_settled()
