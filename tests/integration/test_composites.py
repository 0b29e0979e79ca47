"""A plan of plans, driven through a real Temporal with the tiny engine: one approval, ordered applies, an honest end."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities import composing
from countersign.adapters.store import plans, records, requests, runs, state
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import runs as runs_table
from countersign.adapters.store.schema import states as states_table
from countersign.core import composite
from countersign.core.approval import CancelInput
from countersign.core.engine import StackConfig
from countersign.core.errors import CountersignError
from countersign.core.principal import Principal
from countersign.core.run import ENDS, RUN_TYPES, Mode, RunState
from countersign.core.steps import ApplyInput
from countersign.worker.sweep import sweep
from tests.integration.test_cancel import later
from tests.integration.test_temporal_restored import Machine
from tests.requirements import requirement
from tests.service import AGENT, BO, PATIENCE, Service, eventually, service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import launched, toy

pytestmark = pytest.mark.anyio
install()


Step = tuple[str, records.StackRow] | tuple[str, records.StackRow, str]


async def compose(it: Service, *steps: Step, by: Principal = AGENT, mode: Mode | None = None, **arguments: Any) -> RunRow:
    """Each step: run type, stack, and why it is planned late, if it is. `arguments` are given to all of them."""
    drafts = [
        requests.Draft(
            run_type=RUN_TYPES[step[0]],
            stack=step[1].config,
            arguments=arguments,
            mode=mode if mode is Mode.SPECULATIVE else None,
            late=step[2] if len(step) == 3 else None,
        )
        for step in steps
    ]
    paths = [one.stack.path for one in drafts]
    whole = StackConfig(
        org=it.org,
        stack_id=composite.stacks_of(it.org, [one.stack.stack_id for one in drafts]),
        path=composite.name_of(paths),
        env="local/dev",
        source_repo=None,
        source_path="",
        git_ref=None,
        engine="composite",
    )
    asked = await requests.request_run(
        it.store,
        requests.Draft(
            run_type=RUN_TYPES["composite"],
            stack=whole,
            arguments={"steps": [{"type": one.run_type.name, "stack": one.stack.path, "late": one.late} for one in drafts]},
            mode=mode,
        ),
        org=it.org,
        principal=by,
        key=None,
        message=None,
        steps=drafts,
    )
    run = await it.run(asked.run_id)
    await it.runs.start(run)
    return run


async def members(it: Service, run: RunRow) -> list[RunRow]:
    async with it.store.read() as conn:
        return await runs.members_of(conn, run)


async def states(it: Service, run: RunRow) -> list[str]:
    return [str(one.state) for one in await members(it, run)]


async def shown(it: Service, run: RunRow) -> list[tuple[str, str]]:
    async with it.store.read() as conn:
        plan = await plans.get_plan(conn, it.org, run.id)
    assert plan is not None
    return [(change.address, change.action) for change in plan.summary.changes]


async def two(it: Service) -> tuple[records.StackRow, records.StackRow]:
    toy(it).want(("net", "create"), of="net")
    toy(it).want(("app", "create"), ("tls", "create"), of="app")
    return await it.stack("net"), await it.stack("app")


@requirement("composite:one-approval")
async def test_two_plans_are_shown_as_one_and_one_approval_applies_both_in_order(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))

    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    assert sorted(await shown(it, waiting)) == [("1/net", "create"), ("2/app", "create"), ("2/tls", "create")]
    assert await states(it, run) == ["awaiting_approval", "awaiting_approval"]
    assert toy(it).world == []
    await it.approve(waiting)
    applied = await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["net create", "app create", "tls create"]
    assert (applied.done, applied.total) == (3, 3)
    assert applied.outputs == {"1/made": {"value": 1}, "2/made": {"value": 2}}
    assert await states(it, run) == ["applied", "applied"]
    first, second = await members(it, run)
    for member in (first, second):
        (said,) = await it.decisions(member.id)
        assert (said.by.id, str(said.channel), said.plan_digest) == ("person:ana", "composite", member.plan_digest)


@requirement("composite:asks-again")
async def test_a_step_that_cannot_be_planned_before_is_planned_then_and_asks_again_for_itself_alone(it: Service) -> None:
    net, app = await two(it)
    toy(it).want(("app", "create"), of="app", needs=net.id)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    first = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    assert await shown(it, first) == [("1/net", "create")]
    assert await risks(it, first) == [
        "Step 2 (local/dev/app) is planned only after the steps before it, and asks again then: there is nothing to build on yet"
    ]

    await it.approve(first)
    again = await asked_again(it, run, first)

    assert toy(it).world == ["net create"]
    assert await shown(it, again) == [("2/app", "create")]
    assert (again.plan_number, again.done, again.reason) == (2, 0, None)
    with pytest.raises(CountersignError) as refused:
        await it.approve(again, digest=first.plan_digest)
    assert refused.value.code == "plan_stale"
    await it.approve(again, by=BO)
    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["net create", "app create"]
    assert [d.by.id for member in await members(it, run) for d in await it.decisions(member.id)] == ["person:ana", "person:bo"]


async def test_a_step_that_was_asked_to_be_late_is_not_planned_before(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app, "its chart needs what step 1 makes"))
    first = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    assert await shown(it, first) == [("1/net", "create")]
    assert (await members(it, run))[1].plan_number == 0
    await it.approve(first)
    await it.approve(await asked_again(it, run, first))
    await it.reaches(run.id, RunState.APPLIED)


async def test_a_step_with_nothing_to_do_yet_is_planned_again_when_its_turn_comes(it: Service) -> None:
    net, app = await two(it)
    toy(it).want(of="app")
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    first = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    assert await states(it, run) == ["awaiting_approval", "pending"]

    toy(it).want(("app", "update"), of="app")  # what the first one makes gives it something to do
    await it.approve(first)
    again = await asked_again(it, run, first)

    assert await shown(it, again) == [("2/app", "update")]
    await it.approve(again)
    await it.reaches(run.id, RunState.APPLIED)


async def test_steps_without_changes_end_the_whole_where_it_is_planned(it: Service) -> None:
    net, app = await two(it)
    toy(it).want(of="net")
    toy(it).want(of="app")
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))

    await it.reaches(run.id, RunState.PLANNED_AND_FINISHED)

    assert await states(it, run) == ["planned_and_finished", "planned_and_finished"]


@requirement("composite:asks-again", "promise:approved-is-what-runs")
@pytest.mark.parametrize("means_the_same", [True, False])
async def test_a_step_whose_state_moved_is_planned_again_and_asked_for_only_if_it_means_something_else(
    it: Service, means_the_same: bool
) -> None:
    net, app = await two(it)
    toy(it).hold_applies = True
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    first = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    await it.approve(first)
    await step_reaches(it, run, 1, RunState.APPLYING)

    async with it.store.begin() as tx:  # somebody else moves the state of the second
        await state.hold(tx, it.org, app.id)
        await tx.execute(update(states_table).where(states_table.c.stack_id == app.id).values(lineage="l", serial=7))
    if not means_the_same:
        toy(it).want(("app", "create"), ("tls", "create"), ("dns", "create"), of="app")
    toy(it).hold_applies = False
    await let_go(it, 0)

    if means_the_same:
        await it.reaches(run.id, RunState.APPLIED)
        assert [str(d.channel) for d in await it.decisions((await members(it, run))[1].id)] == ["composite", "carried"]
    else:
        again = await asked_again(it, run, first)
        assert toy(it).world == ["net create"]
        assert sorted(await shown(it, again)) == [("2/app", "create"), ("2/dns", "create"), ("2/tls", "create")]
        await it.approve(again)
        await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world[0] == "net create" and len(toy(it).launched) == 2


@requirement("composite:honest-end")
async def test_a_second_step_that_fails_leaves_an_honest_partial_result_and_the_third_is_not_begun(it: Service) -> None:
    net, app = await two(it)
    toy(it).want(("app", "fail"), of="app")
    last = await it.stack("last")
    toy(it).want(("last", "create"), of="last")
    run = await compose(it, ("apply_toy", net), ("apply_toy", app), ("apply_toy", last))
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))

    ended = await it.reaches(run.id, RunState.PARTIALLY_APPLIED)

    assert (ended.code, ended.reason) == ("provider_error", "step 2 (local/dev/app) ended errored: it was refused")
    assert (ended.done, ended.total) == (1, 3)
    assert await states(it, run) == ["applied", "errored", "canceled"]
    assert toy(it).world == ["net create"]


async def test_a_first_step_that_fails_before_any_change_ends_the_whole_errored(it: Service) -> None:
    net, app = await two(it)
    toy(it).want(("net", "fail"), of="net")
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))

    ended = await it.reaches(run.id, RunState.ERRORED)

    assert ended.reason == "step 1 (local/dev/net) ended errored: it was refused"
    assert await states(it, run) == ["errored", "canceled"]


async def test_a_step_that_cannot_be_planned_at_all_ends_the_whole_before_anything(it: Service) -> None:
    net, app = await two(it)
    toy(it).want(error="no such module", of="app")
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))

    ended = await it.reaches(run.id, RunState.ERRORED)

    assert (ended.code, ended.reason) == ("provider_error", "step 2 (local/dev/app) ended errored: no such module")
    assert await every_workflow_ends(it, run) == ["canceled", "errored"]


@requirement("composite:honest-end")
async def test_a_late_step_that_cannot_be_planned_after_all_leaves_what_was_applied_told(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app, "it needs step 1"))
    toy(it).want(error="no such module", of="app")
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))

    ended = await it.reaches(run.id, RunState.PARTIALLY_APPLIED)

    assert ended.reason == "step 2 (local/dev/app) ended errored: no such module"


@requirement("composite:claim")
async def test_nobody_decides_about_a_step_by_itself(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    for member in await members(it, run):
        for decide in (it.approve, it.reject):
            with pytest.raises(CountersignError) as refused:
                await decide(member)
            assert refused.value.code == "failed_precondition"
            assert f"this is step {member.step} of {run.id}" in refused.value.message

    assert await states(it, run) == ["awaiting_approval", "awaiting_approval"]
    assert toy(it).launched == []


@requirement("composite:claim", "I1")
async def test_a_step_is_claimed_only_in_its_turn_and_under_what_was_said_to_the_whole(it: Service) -> None:
    net, app = await two(it)
    toy(it).hold_applies = True
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    first, second = await members(it, run)

    # A row that says approved is not enough: somebody wrote it, and nobody agreed.
    assert await claimed_by_hand(it, second) == f"{run.id}, which this is a step of, is awaiting_approval and lets no step begin"

    await it.approve(waiting)
    await step_reaches(it, run, 1, RunState.APPLYING)
    assert await claimed_by_hand(it, second) == f"a step of {run.id} that comes before this one is not done"
    await let_go(it, 0)
    await step_reaches(it, run, 2, RunState.APPLYING)
    await let_go(it, 1)
    await it.reaches(run.id, RunState.APPLIED)
    assert len(toy(it).launched) == 2
    assert {first.id, second.id} == {a.run_id for a in await attempts(it, run)}


async def test_a_rejected_whole_ends_its_steps_and_changes_nothing(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app, "later"))

    await it.reject(await it.reaches(run.id, RunState.AWAITING_APPROVAL), reason="not today")

    assert (await it.reaches(run.id, RunState.REJECTED)).reason == "not today"
    assert await every_workflow_ends(it, run) == ["canceled", "canceled"]
    assert toy(it).world == []
    alone = await it.start(net)  # nothing of it blocks the state
    await it.reaches(alone.id, RunState.AWAITING_APPROVAL)


@requirement("composite:honest-end")
async def test_a_whole_rejected_after_its_first_step_was_applied_says_so(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app, "later"))
    first = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    await it.approve(first)

    await it.reject(await asked_again(it, run, first), reason="not like this")

    assert (await it.reaches(run.id, RunState.PARTIALLY_APPLIED)).reason == "not like this"
    assert await every_workflow_ends(it, run) == ["applied", "canceled"]


@requirement("composite:cancel")
async def test_a_cancel_in_mid_apply_reaches_the_step_that_runs_and_no_other_begins(it: Service) -> None:
    net, app = await two(it)
    toy(it).hold_applies = True
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await step_reaches(it, run, 1, RunState.APPLYING)

    await it.runs.cancel(run.id, CancelInput(reason="stop"))

    ended = await it.reaches(run.id, RunState.PARTIALLY_APPLIED)
    assert ended.reason == "step 1 (local/dev/net) ended partially_applied: interrupted"
    assert await every_workflow_ends(it, run) == ["partially_applied", "canceled"]
    assert len(toy(it).launched) == 1


@requirement("composite:cancel")
async def test_a_cancel_while_people_think_ends_all_of_it(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    await it.runs.cancel(run.id, CancelInput(reason="never mind"))

    assert (await it.reaches(run.id, RunState.CANCELED)).reason == "never mind"
    assert await every_workflow_ends(it, run) == ["canceled", "canceled"]


@requirement("composite:cancel")
async def test_a_cancel_while_a_step_waits_for_its_turn_to_be_planned_ends_all_of_it(it: Service) -> None:
    net, app = await two(it)
    toy(it).hold_applies = True
    busy = await it.start(app)
    await it.approve(await it.reaches(busy.id, RunState.AWAITING_APPROVAL))
    await launched(it, 0)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await step_reaches(it, run, 1, RunState.AWAITING_APPROVAL)
    assert [(await it.run(run.id)).state, *await states(it, run)] == ["planning", "awaiting_approval", "pending"]

    await it.runs.cancel(run.id, CancelInput(reason="never mind"))

    assert (await it.reaches(run.id, RunState.CANCELED)).reason == "never mind"
    assert await every_workflow_ends(it, run) == ["canceled", "canceled"]
    await let_go(it, 0)
    await it.reaches(busy.id, RunState.APPLIED)


@requirement("composite:cancel")
async def test_a_step_that_does_not_stop_is_ended_by_force_through_the_whole(client: Client, tmp_path: Path) -> None:
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), terraform={"force_after_seconds": 0}) as it:
        net, app = await two(it)
        toy(it).hold_applies, toy(it).heeds_interrupts = True, False
        run = await compose(it, ("apply_toy", net), ("apply_toy", app))
        await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
        await launched(it, 0)
        await it.runs.cancel(run.id, CancelInput(reason="stop"))
        await step_reaches(it, run, 1, RunState.CANCELING)

        await it.runs.cancel(run.id, CancelInput(reason="now", force=True))

        await it.reaches(run.id, RunState.PARTIALLY_APPLIED)
        assert await states(it, run) == ["partially_applied", "canceled"]


async def test_a_lost_step_is_waited_for_and_the_whole_goes_on_when_it_is_accounted_for(it: Service) -> None:
    net, app = await two(it)
    toy(it).hold_applies = True
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await step_reaches(it, run, 1, RunState.APPLYING)
    folder = await launched(it, 0)
    (folder / "lost").touch()

    member = await step_reaches(it, run, 1, RunState.NEEDS_OPERATOR)

    async def told() -> bool:
        return f"it needs an operator: run_resume {member.id}" in (await it.run(run.id)).current

    await eventually(told, "the composite to say that its step needs an operator")
    assert (await it.run(run.id)).state is RunState.APPLYING
    (folder / "lost").unlink()
    toy(it).hold_applies = False
    await it.runs.resume(member.id, "person:ana")
    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["net create", "app create", "tls create"]


@requirement("composite:survives")
async def test_a_composite_whose_worker_dies_in_each_of_its_steps_goes_on_under_another(it: Service) -> None:
    net, app = await two(it)
    toy(it).hold_applies = True
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    await it.approve(waiting)

    for number in (1, 2):
        await step_reaches(it, run, number, RunState.APPLYING)
        folder = await launched(it, number - 1)
        await it.stop_workers()
        (folder / "go").touch()
        await it.start_workers()
    await it.reaches(run.id, RunState.APPLIED, patience=60)

    assert toy(it).world == ["net create", "app create", "tls create"]
    assert len(toy(it).launched) == 2


@requirement("composite:survives")
async def test_who_leads_a_composite_dies_after_each_of_its_records_and_before_it_tells_anybody(
    it: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, app = await two(it)
    told = composing.Said.look
    deaths: list[str] = []

    async def dies(self: composing.Said, run_id: str) -> None:
        if run_id not in deaths:
            deaths.append(run_id)
            raise RuntimeError("the worker is gone")
        await told(self, run_id)

    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    monkeypatch.setattr(composing.Said, "look", dies)
    await it.approve(waiting)

    await it.reaches(run.id, RunState.APPLIED, patience=60)

    assert deaths == [one.id for one in await members(it, run)]
    assert toy(it).world == ["net create", "app create", "tls create"] and len(toy(it).launched) == 2


@requirement("composite:survives")
async def test_workflows_terminated_in_temporal_are_brought_back_and_nothing_is_done_twice(it: Service) -> None:
    net, app = await two(it)
    toy(it).hold_applies = True
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await step_reaches(it, run, 1, RunState.APPLYING)
    for one in (run, *await members(it, run)):
        await it.client.get_workflow_handle(one.id).terminate("a test ends it")

    with later(it.store, seconds=10):
        await sweep(it.store, it.runs, [it.org])
    await let_go(it, 0)

    ended = await it.reaches(run.id, RunState.PARTIALLY_APPLIED, patience=60)
    # The second had not begun, so its end in Temporal was taken for a wish.
    assert ended.reason is not None and ended.reason.startswith("step 2 (local/dev/app) ended canceled: its workflow was ended in Temporal")
    assert toy(it).world == ["net create"] and len(toy(it).launched) == 1


@requirement("composite:survives")
async def test_a_whole_whose_workflow_is_terminated_while_people_think_ends_with_the_workflows_of_its_steps(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    await it.client.get_workflow_handle(run.id).terminate("a test ends it")

    with later(it.store, seconds=10):
        await sweep(it.store, it.runs, [it.org])

    assert (await it.run(run.id)).state is RunState.CANCELED
    assert await every_workflow_ends(it, run) == ["canceled", "canceled"]


@requirement("composite:survives")
async def test_an_emptied_temporal_is_told_of_all_of_it_again_and_nothing_is_done_twice(tmp_path: Path) -> None:
    async with Machine(tmp_path) as machine:
        it = machine.it
        net, app = await two(it)
        toy(it).hold_applies = True
        run = await compose(it, ("apply_toy", net), ("apply_toy", app, "it needs step 1"))
        first = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
        await it.approve(first)
        folder = await launched(it, 0)

        await machine.restored(empty=True)
        (folder / "go").touch()
        await machine.swept()

        again = await asked_again(it, run, first)
        await machine.restored(empty=True)
        await machine.swept()
        toy(it).hold_applies = False
        await eventually(lambda: taken(it, again), "the approval to be taken by a workflow that is new")
        await it.reaches(run.id, RunState.APPLIED, patience=60)
        assert toy(it).world == ["net create", "app create", "tls create"]
        assert len(toy(it).launched) == 2


async def test_a_newer_composite_of_the_same_steps_takes_the_place_of_one_that_waits(it: Service) -> None:
    net, app = await two(it)
    older = await compose(it, ("apply_toy", net), ("apply_toy", app))
    await it.reaches(older.id, RunState.AWAITING_APPROVAL)

    newer = await compose(it, ("apply_toy", net), ("apply_toy", app, "later"))
    await it.reaches(newer.id, RunState.AWAITING_APPROVAL)

    superseded = await it.reaches(older.id, RunState.CANCELED)
    assert superseded.reason == f"superseded by {newer.id}, a newer request of the same kind"
    assert await states(it, older) == ["canceled", "canceled"]


@requirement("composite:policy")
async def test_policy_lets_a_whole_pass_only_if_it_lets_each_step_pass(client: Client, tmp_path: Path) -> None:
    policy = {"rules": [{"classes": ["create", "none"], "need": "auto"}, {"classes": ["delete"], "need": "deny"}, {"need": "person"}]}
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), policy=policy) as it:
        net, app = await two(it)
        alone = await compose(it, ("apply_toy", net), ("apply_toy", app, "later"))
        await it.reaches(alone.id, RunState.APPLIED)  # both only create, and nobody had to be asked, for the late one neither
        toy(it).want(("app", "update"), of="app")
        asked = await compose(it, ("apply_toy", net), ("apply_toy", app))
        waiting = await it.reaches(asked.id, RunState.AWAITING_APPROVAL)
        assert waiting.requirement is not None and waiting.requirement.rule.startswith("step 2: ")
        toy(it).want(("app", "delete"), of="app")
        denied = await compose(it, ("apply_toy", app), ("apply_toy", net))
        ended = await it.reaches(denied.id, RunState.ERRORED)
        assert ended.code == "policy_denied"


@requirement("composite:policy", "promise:destroying-asks")
async def test_what_destroys_in_several_steps_asks_for_every_name(it: Service) -> None:
    net, app = await two(it)
    toy(it).want(("net", "delete"), of="net")
    toy(it).want(("app", "delete"), of="app")
    run = await compose(it, ("destroy_toy", app), ("destroy_toy", net))
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    for wrong in (None, "local/dev/app", "local/dev/net, local/dev/app"):
        with pytest.raises(CountersignError) as refused:
            await it.approve(waiting, confirm_name=wrong)
        assert refused.value.code == "confirmation_required"
    await it.approve(waiting, confirm_name="local/dev/app, local/dev/net")

    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["app delete", "net delete"]


async def test_a_dry_run_shows_all_that_can_be_planned_and_ends(it: Service) -> None:
    net, app = await two(it)
    run = await compose(it, ("apply_toy", net), ("apply_toy", app, "later"), mode=Mode.SPECULATIVE)

    ended = await it.reaches(run.id, RunState.PLANNED_AND_FINISHED)

    assert await shown(it, ended) == [("1/net", "create")]
    assert await every_workflow_ends(it, run) == ["planned_and_finished", "canceled"]


# What these tests share


async def taken(it: Service, run: RunRow) -> bool:
    try:
        return (await it.approve(run)).accepted
    except CountersignError as failed:
        if failed.code not in ("unavailable", "not_found"):
            raise
        return False


async def risks(it: Service, run: RunRow) -> list[str]:
    async with it.store.read() as conn:
        plan = await plans.get_plan(conn, it.org, run.id)
    assert plan is not None
    return list(plan.summary.risks)


async def asked_again(it: Service, run: RunRow, before: RunRow) -> RunRow:
    async def again() -> RunRow | None:
        now = await it.run(run.id)
        assert now.state not in ENDS, f"it ended {now.state}: {now.reason}"
        return now if now.state is RunState.AWAITING_APPROVAL and now.plan_digest != before.plan_digest else None

    found: RunRow = await eventually(again, "the composite to ask again")
    return found


async def step_reaches(it: Service, run: RunRow, number: int, state: RunState) -> RunRow:
    return await it.reaches((await members(it, run))[number - 1].id, state)


async def let_go(it: Service, number: int) -> None:
    (await launched(it, number) / "go").touch()


async def every_workflow_ends(it: Service, run: RunRow) -> list[str]:
    """The states of the steps, once Temporal says that the workflows of all of it are over."""
    for one in (run, *await members(it, run)):
        await asyncio.wait_for(it.client.get_workflow_handle(one.id).result(), PATIENCE)
    return await states(it, run)


async def attempts(it: Service, run: RunRow) -> list[plans.AttemptRow]:
    async with it.store.read() as conn:
        return [a for member in await members(it, run) for a in await plans.attempts_of(conn, it.org, member.id)]


async def claimed_by_hand(it: Service, member: RunRow) -> str:
    """Write that the step is approved, as no part of ours does, and start its apply by hand; why nothing was claimed."""
    async with it.store.begin() as tx:
        await tx.execute(update(runs_table).where(runs_table.c.id == member.id).values(state="approved"))
    request = ApplyInput(org=it.org, run_id=member.id, plan_digest=member.plan_digest or "")
    standing = await ActivityEnvironment().run(it.steps().apply, request)
    assert standing.state is RunState.AWAITING_APPROVAL
    return str(standing.message)
