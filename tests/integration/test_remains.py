"""What a lost apply leaves on its machine, and what the engine makes of it: without Temporal, on a state in memory."""

import asyncio
import json
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.process import MARKER, marked_processes
from countersign.core.engine import Planned, Reconciled, ReconcileJob, Remains, Witness
from countersign.core.errors import FailedPrecondition, Unavailable
from countersign.core.reconcile import Next, Stop
from countersign.core.run import Mode, RunState
from tests.integration.processes import PATIENCE, leaves_no_process, new_attempt, python, until
from tests.integration.terraform_bench import SECRETS, Bench, bench, each, reveal
from tests.requirements import requirement

__all__ = ["bench", "each", "leaves_no_process"]
pytestmark = pytest.mark.anyio


async def killed(it: Bench, planned: Planned, stack: str = "gates") -> str:
    """An attempt whose whole group was killed at its gate."""
    attempt = await it.launch(planned, stack)
    await until((it.world / "1.reached").exists, "the apply to reach its gate")
    os.killpg(int((it.engine.where(attempt) / "run" / "pgid").read_text()), signal.SIGKILL)
    await it.follow(attempt)
    it.state.lock = None
    return attempt


def events(remains: Remains) -> list[tuple[str, str, str | None]]:
    said = [json.loads(line) for line in remains.testimony.splitlines()]
    return [(e["type"], e["hook"]["resource"]["addr"], e["hook"].get("action")) for e in said if "hook" in e]


BEGUN = [
    ("apply_start", "terraform_data.before", "create"),
    ("apply_complete", "terraform_data.before", "create"),
    ("apply_start", "terraform_data.gate", "create"),
    ("provision_start", "terraform_data.gate", None),
]


# What is left


@requirement("reconcile:testimony")
async def test_a_killed_apply_leaves_what_it_did_and_nothing_that_it_printed(each: Bench) -> None:
    each.write("gates", main_tf=GATES.replace("touch", "echo printed-by-a-provisioner; touch"))
    attempt = await killed(each, await each.plan("gates", vars={"world": str(each.world)}))

    remains = await each.engine.end(attempt, same_boot=True)

    assert (remains.survivors, remains.whole, remains.state) == (0, True, None)
    assert events(remains) == BEGUN
    [made] = [e for e in map(json.loads, remains.testimony.splitlines()) if e["type"] == "apply_complete"]
    assert (made["hook"]["id_key"], len(made["hook"]["id_value"])) == ("id", 36)
    assert "printed-by-a-provisioner" in (each.engine.where(attempt) / "run" / "journal").read_text()
    assert b"printed" not in remains.testimony
    assert remains.last_word is not None and datetime.now(UTC) - remains.last_word < timedelta(minutes=1)
    assert await each.engine.end(attempt, same_boot=True) == remains


GATES = (Path(__file__).parents[1] / "stacks" / "gates" / "main.tf").read_text()


async def test_after_a_reboot_or_with_a_torn_line_a_journal_is_never_whole(bench: Bench) -> None:
    attempt = await killed(bench, await bench.plan("gates", vars={"world": str(bench.world)}))
    journal = bench.engine.where(attempt) / "run" / "journal"

    assert not (await bench.engine.end(attempt, same_boot=False)).whole
    for torn in ('{"type":"apply_start","hook"', '{"type":"apply_start","hook"\n'):
        text = journal.read_text()
        journal.write_text(text + torn)
        remains = await bench.engine.end(attempt, same_boot=True)
        assert (remains.whole, events(remains)) == (False, BEGUN)
        journal.write_text(text)
    (bench.engine.where(attempt) / "run" / "started").write_text("another boot")
    assert not (await bench.engine.end(attempt, same_boot=True)).whole


async def test_where_the_folder_is_gone_nothing_is_known_and_what_lives_is_ended(bench: Bench) -> None:
    attempt = new_attempt()
    living = await python("import signal; signal.pause()", env={MARKER: attempt})
    await until(lambda: marked_processes(attempt) == [living.pid], "a process of the attempt")

    assert await bench.engine.end(attempt, same_boot=True) == Remains()

    assert await living.wait() == -signal.SIGKILL


@requirement("reconcile:zombie")
async def test_what_runs_on_is_ended_with_everything_it_started(bench: Bench) -> None:
    planned = await bench.plan("gates", vars={"world": str(bench.world)})
    attempt = await bench.launch(planned, "gates")
    await until((bench.world / "1.reached").exists, "the apply to reach its gate")
    for pid in marked_processes(attempt):
        os.kill(pid, signal.SIGSTOP)

    remains = await bench.engine.end(attempt, same_boot=True)

    assert (remains.survivors, remains.whole, events(remains)) == (0, True, BEGUN)
    assert marked_processes(attempt) == []


async def test_what_never_started_did_nothing_and_never_will(bench: Bench) -> None:
    planned = await bench.plan("gates", vars={"world": str(bench.world)})
    job = bench.apply_job(planned, "gates")
    bench.engine.where(job.attempt_id).mkdir()

    remains = await bench.engine.end(job.attempt_id, same_boot=True)

    assert (remains.survivors, remains.whole, remains.testimony) == (0, True, b"")
    with pytest.raises(FailedPrecondition, match="given up"):
        await bench.engine.launch(job)


async def test_a_state_that_could_not_be_stored_is_picked_up(bench: Bench) -> None:
    planned = await bench.plan("gates", vars={"world": str(bench.world)})
    bench.state.refuse_writes = True
    (bench.world / "1.open").touch()
    attempt = await bench.launch(planned, "gates")
    assert (await bench.follow(attempt)).state is RunState.INTERRUPTED

    remains = await bench.engine.end(attempt, same_boot=True)

    assert {r["name"] for r in json.loads(remains.state or b"{}")["resources"]} == {"before", "gate", "after"}


# What the engine makes of it


def job_of(it: Bench, planned: Planned, remains: Remains, stack: str = "gates", **more: Any) -> ReconcileJob:
    witness = Witness(attempt_id="att_lost", testimony=remains.testimony, whole=remains.whole, plan_json=planned.plan_json)
    made = ReconcileJob(
        run_id="run_test",
        plan_number=2,
        attempt_id=new_attempt(),
        stack=it.stack(stack),
        mode=Mode.APPLY,
        approved=planned.bundle,
        approved_json=planned.plan_json,
        witnesses=(replace(witness, exists=more.pop("exists", {}), missing=frozenset(more.pop("missing", ()))),),
        left_over_state=remains.state,
        state=it.state.access(),
        age=timedelta(seconds=1),
        crashes=1,
        approval_live=True,
        reveal=reveal,
    )
    return replace(made, **more)


async def reconciled(it: Bench, planned: Planned, remains: Remains, **more: Any) -> Reconciled:
    return await asyncio.wait_for(it.engine.reconcile(job_of(it, planned, remains, **more), it.beat), 60)


@requirement("reconcile:unknown-object", "reconcile:operator-tells")
async def test_what_people_say_of_an_object_nobody_could_look_up_counts(each: Bench) -> None:
    planned = await each.plan("gates", vars={"world": str(each.world)})
    remains = await each.engine.end(await killed(each, planned), same_boot=True)

    asked = await reconciled(each, planned, remains)
    assert (asked.decision.next, asked.planned) == (Next.OPERATOR, None)
    assert "terraform_data.gate: its creation may have been under way" in asked.decision.why

    missing = await reconciled(each, planned, remains, missing=["terraform_data.gate"])
    assert missing.decision.next is Next.CONTINUE
    assert missing.decision.lines[-2:] == (
        "terraform_data.gate: create as approved, still to be done",
        "output length: changes as approved",
    )
    exists = await reconciled(each, planned, remains, exists={"terraform_data.gate": "11111111-2222-3333-4444-555555555555"})
    taken = "terraform_data.gate: created by this run as approved; it is only taken into the state"
    assert exists.decision.next is Next.CONTINUE and taken in exists.decision.lines


@requirement("reconcile:same-inputs", "promise:no-secrets")
async def test_what_is_left_is_planned_from_what_was_approved_whatever_the_stack_says_now(bench: Bench) -> None:
    bench.write("inputs", main_tf=INPUTS + GATES)
    values = {
        "token": {"secret": "token"},
        "count_of": 12345678901234567890123,
        "ratio": 0.1,
        "name": 'ä"${x}',
        "none": None,
        "world": str(bench.world),
    }
    planned = await bench.plan("inputs", vars=values)
    remains = await bench.engine.end(await killed(bench, planned, "inputs"), same_boot=True)
    bench.write("inputs", main_tf='resource "terraform_data" "other" {}\n')
    before, SECRETS["token"] = SECRETS["token"], "another-token-since-then"
    try:
        found = await reconciled(bench, planned, remains, stack="inputs", missing=["terraform_data.gate"])
    finally:
        SECRETS["token"] = before

    assert (found.decision.next, found.decision.difference) == (Next.CONTINUE, ()), found.decision
    assert found.planned is not None
    assert found.planned.inputs["tree"] == planned.inputs["tree"]
    assert found.planned.inputs["variables"] == planned.inputs["variables"]
    assert any(line.startswith('terraform_data.keyed["(redacted)"]: create') for line in found.decision.lines)
    told = "\n".join((*found.decision.lines, found.log, found.planned.view.decode(), found.planned.plan.model_dump_json()))
    assert before not in told and bench.state.password not in told
    (bench.world / "1.open").touch()
    applied = await asyncio.wait_for(bench.apply(found.planned, "inputs"), PATIENCE)
    assert applied.state is RunState.VERIFYING, applied.message


INPUTS = """
variable "token" {
  type      = string
  sensitive = true
}
variable "count_of" {
  type = any
}
variable "ratio" {
  type = number
}
variable "name" {
  type = string
}
variable "none" {
  type    = string
  default = "a default"
}
resource "terraform_data" "keyed" {
  for_each = toset([nonsensitive(var.token)])
  input    = [var.count_of, var.ratio, var.name, var.none]
}
"""


async def test_a_plan_that_fails_afterwards_is_an_operators(bench: Bench) -> None:
    bench.write("gates", main_tf=GATES.replace('input = "first"', 'input = file("${var.world}/told")'))
    (bench.world / "told").write_text("x")
    planned = await bench.plan("gates", vars={"world": str(bench.world)})
    remains = await bench.engine.end(await killed(bench, planned), same_boot=True)
    (bench.world / "told").unlink()

    found = await reconciled(bench, planned, remains, missing=["terraform_data.gate"])

    assert found.decision.next is Next.OPERATOR
    assert "The plan of what is left failed: plan failed: Invalid function argument" in found.decision.why
    assert found.decision.instructions[1] == "    countersign logs run_test"
    assert "Error: Invalid function argument" in found.log


async def test_nothing_is_planned_beside_what_may_still_live_and_a_silent_state_service_is_asked_again(bench: Bench) -> None:
    planned = await bench.plan()
    stopped = await reconciled(bench, planned, Remains(), stack="demo", stops=(Stop(why="Something lives."),))
    assert (stopped.decision.next, stopped.decision.why, stopped.log) == (Next.OPERATOR, "Something lives.", "")

    away = replace(bench.state.access(), address="http://127.0.0.1:1/v1/state/local/st_test")
    with pytest.raises(Unavailable, match="state service"):
        await reconciled(bench, planned, Remains(), stack="demo", state=away)
