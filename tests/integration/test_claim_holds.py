"""The claim holds against everything Temporal can do: resets, replayed signals, steps started by hand, lost workers."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.testing import ActivityEnvironment

from countersign.adapters.store import audit, plans, turns
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import switches
from countersign.core.approval import ApproveInput
from countersign.core.errors import CountersignError
from countersign.core.policy import Need, Policy, Rule
from countersign.core.run import RunState
from countersign.core.steps import ApplyInput, pause_before_look
from countersign.worker import interceptors
from countersign.worker.sweep import sweep
from tests.integration.test_cancel import later
from tests.requirements import requirement
from tests.service import ANA, BO, CY, Service, eventually
from tests.toy.engine import install
from tests.toy.steering import launched, toy

pytestmark = pytest.mark.anyio
install()


async def reset_to_start(it: Service, run_id: str) -> None:
    """What "Reset" in the Temporal UI does, to the first workflow task."""
    first = (await tasks_of(it, run_id))[0]
    await reset(it, run_id, first)


async def tasks_of(it: Service, run_id: str) -> list[int]:
    """Every event that a workflow can be reset to."""
    history = await it.client.get_workflow_handle(run_id).fetch_history()
    return [event.event_id for event in history.events if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]


async def reset(it: Service, run_id: str, event: int, *, of: str | None = None) -> None:
    """To that event of its newest workflow run, or of the one named."""
    description = await it.client.get_workflow_handle(run_id, run_id=of).describe()
    await it.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=it.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=run_id, run_id=description.run_id),
            reason="a test resets it",
            workflow_task_finish_event_id=event,
            request_id=f"reset-{run_id}-{event}",
        )
    )


def claim_of(run: RunRow) -> ApplyInput:
    return ApplyInput(org=run.org, run_id=run.id, plan_digest=run.plan_digest or "")


async def by_hand(it: Service, request: ApplyInput) -> Any:
    """`apply` as anybody with access to Temporal could start it: an activity without a workflow."""
    return await ActivityEnvironment().run(it.steps().apply, request)


@requirement("bad:apply-by-hand", "I1")
async def test_an_apply_by_hand_of_a_plan_nobody_approved_starts_nothing_and_is_audited(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    standing = await by_hand(it, ApplyInput(org=it.org, run_id=run.id, plan_digest=waiting.plan_digest or ""))

    assert standing.state is RunState.AWAITING_APPROVAL
    assert toy(it).launched == []


@requirement("I3")
async def test_an_apply_by_hand_after_the_run_applied_starts_nothing(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    applied = await it.reaches(run.id, RunState.APPLIED)

    await by_hand(it, ApplyInput(org=it.org, run_id=run.id, plan_digest=applied.plan_digest or ""))

    assert toy(it).world == ["a create"]
    assert len(toy(it).launched) == 1


async def test_an_apply_by_hand_of_another_runs_plan_is_refused(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    other = await it.start(await it.stack("other"))
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    with pytest.raises(CountersignError) as refused:
        await by_hand(it, ApplyInput(org=it.org, run_id=other.id, plan_digest=waiting.plan_digest or ""))

    assert refused.value.code == "failed_precondition"


@requirement("bad:reset-after-approval", "I3")
async def test_a_reset_after_the_approval_applies_nothing_twice(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await it.reaches(run.id, RunState.APPLIED)

    await reset_to_start(it, run.id)
    await it.client.get_workflow_handle(run.id).result()

    assert toy(it).world == ["a create"]
    assert (await it.run(run.id)).state is RunState.APPLIED


@requirement("bad:reset-after-approval", "I1", "I3")
async def test_a_reset_to_any_event_of_a_run_applies_nothing_twice(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await it.reaches(run.id, RunState.APPLIED)
    await it.client.get_workflow_handle(run.id).result()
    events = await tasks_of(it, run.id)
    assert len(events) >= 3
    first = (await it.client.get_workflow_handle(run.id).describe()).run_id

    for event in events:
        await reset(it, run.id, event, of=first)
        result = await it.client.get_workflow_handle(run.id).result()
        assert result["state"] == "applied", f"reset to event {event}"

    assert toy(it).world == ["a create"]
    assert len(toy(it).launched) == 1


@requirement("I3")
async def test_signals_and_updates_that_come_again_apply_nothing_twice(it: Service) -> None:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    digest = waiting.plan_digest or ""
    given = ApproveInput(plan_digest=digest, signed=it.signed(run.id, ANA, plan_digest=digest))
    handle = it.client.get_workflow_handle(run.id)

    first = await it.runs.approve(run.id, given, update_id="one")
    assert await it.runs.approve(run.id, given, update_id="one") == first, "a retry of the same update"
    for _ in range(3):
        await handle.signal("approve", given)
    with pytest.raises(CountersignError):
        await it.runs.approve(run.id, given, update_id="another")

    (await launched(it) / "go").touch()
    await it.reaches(run.id, RunState.APPLIED)
    await handle.result()
    assert (toy(it).world, len(toy(it).launched)) == (["a create"], 1)


@requirement("bad:reset-mid-apply", "I3")
async def test_a_reset_in_mid_apply_follows_the_attempt_that_runs(it: Service) -> None:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await it.reaches(run.id, RunState.APPLYING)

    folder = await launched(it)
    await reset_to_start(it, run.id)
    (folder / "go").touch()

    await it.reaches(run.id, RunState.APPLIED)
    await it.client.get_workflow_handle(run.id).result()
    assert toy(it).world == ["a create"]
    assert len(toy(it).launched) == 1


async def test_a_worker_that_goes_away_in_mid_apply_is_replaced_and_the_run_ends_applied(it: Service) -> None:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await it.reaches(run.id, RunState.APPLYING)

    await it.stop_workers()
    await it.start_workers()
    (toy(it).where(toy(it).launched[0]) / "go").touch()

    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["a create"]


async def test_what_cannot_be_followed_waits_for_an_operator_and_blocks_the_state(it: Service) -> None:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    stack = await it.stack()
    run = await it.start(stack)
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await it.reaches(run.id, RunState.APPLYING)

    (await launched(it) / "lost").touch()
    waiting = await it.reaches(run.id, RunState.NEEDS_OPERATOR)

    assert waiting.reason and "run_resume" in waiting.reason
    second = await it.start(stack, by=BO)

    async def queued() -> bool:
        from countersign.adapters.store import turns

        async with it.store.read() as conn:
            place = await turns.place(conn, org=it.org, stack_id=stack.id, run_id=second.id)
        return place is not None and place.ahead == (run.id,)

    await eventually(queued, "the second run to be told who blocks the state")
    attempt = toy(it).where(toy(it).launched[0])
    (attempt / "lost").unlink()
    (attempt / "go").touch()
    await it.runs.resume(run.id, "person:ana")
    await it.reaches(run.id, RunState.APPLIED)


async def test_a_terminated_workflow_leaves_a_truthful_record_and_frees_the_turn(it: Service) -> None:
    toy(it).want(("a", "create"))
    stack = await it.stack()
    run = await it.start(stack)
    await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    await it.client.get_workflow_handle(run.id).terminate(reason="an operator terminates it")

    async def swept() -> bool:
        await sweep(it.store, it.runs, [it.org])
        return (await it.run(run.id)).state is RunState.CANCELED

    await eventually(swept, "the sweep to find the terminated workflow")
    assert "before anything was changed: an operator terminates it" in ((await it.run(run.id)).reason or "")
    again = await it.start(stack, by=BO)
    await it.reaches(again.id, RunState.AWAITING_APPROVAL)


async def test_a_freeze_stops_the_claim_until_it_is_lifted(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    async with it.store.begin() as tx:
        await tx.execute(
            switches.insert().values(
                org_id=it.org, id="all_writes", is_on=True, reason="audit", by="person:bo", at="2026-01-01T00:00:00.000000Z"
            )
        )
    await it.approve(waiting)
    await it.reaches(run.id, RunState.APPROVED)
    await by_hand(it, ApplyInput(org=it.org, run_id=run.id, plan_digest=waiting.plan_digest or ""))
    assert toy(it).launched == []

    async with it.store.begin() as tx:
        await tx.execute(update(switches).values(is_on=False))
    await it.runs.wake(run.id)
    await it.reaches(run.id, RunState.APPLIED)


@requirement("I8")
async def test_an_approval_expires_while_a_freeze_lasts(it: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "SKEW", timedelta(days=2))
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    frozen = {
        "org_id": it.org,
        "id": "all_writes",
        "is_on": True,
        "reason": "audit",
        "by": "person:bo",
        "at": "2026-01-01T00:00:00.000000Z",
    }
    async with it.store.begin() as tx:
        await tx.execute(switches.insert().values(frozen))
    await it.approve(waiting)
    await it.reaches(run.id, RunState.APPROVED)

    with later(it.store, hours=25):
        await it.runs.wake(run.id)
        await it.reaches(run.id, RunState.EXPIRED)

    assert toy(it).launched == []


async def test_an_approved_run_that_waits_for_a_day_stays_within_what_temporal_keeps_of_a_workflow(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    frozen = {"org_id": it.org, "id": "all_writes", "is_on": True, "reason": "audit", "by": "person:bo"}
    async with it.store.begin() as tx:
        await tx.execute(switches.insert().values(frozen | {"at": "2026-01-01T00:00:00.000000Z"}))
    await it.approve(waiting)

    async def looks(number: int) -> int:
        """Events when it has looked that often, and sleeps."""

        async def looked() -> int:
            history = (await it.client.get_workflow_handle(run.id).fetch_history()).events
            timers = [e for e in history if e.event_type == EventType.EVENT_TYPE_TIMER_STARTED]
            applies = [e for e in history if e.activity_task_scheduled_event_attributes.activity_type.name == "toy.apply"]
            return len(history) if len(applies) == number and timers and history[-1].event_id == timers[-1].event_id else 0

        return int(await eventually(looked, f"look {number}"))

    first = await looks(1)
    await it.runs.wake(run.id)
    each = await looks(2) - first

    passed, number = timedelta(), 0
    while passed < timedelta(hours=24):
        passed, number = passed + pause_before_look(number), number + 1
    assert each > 5
    assert number * each < 51_200 / 2


@requirement("bad:racing-approvals")
async def test_two_approvals_racing_apply_once(it: Service) -> None:
    import asyncio

    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    results = await asyncio.gather(it.approve(waiting, by=ANA), it.approve(waiting, by=BO), return_exceptions=True)

    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["a create"]
    assert any(not isinstance(r, BaseException) and r.accepted for r in results)


@requirement("I8")
async def test_an_approval_that_expires_cannot_be_used(it: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptors, "SKEW", timedelta(days=2))  # a worker whose clock is off by itself does nothing at all
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    now = it.store._clock  # the store's clock is the one that decides
    it.store._clock = lambda: now() + timedelta(hours=25)
    try:
        with pytest.raises(CountersignError) as refused:
            await it.approve(waiting)
        assert refused.value.code in ("approval_expired", "permission_denied")
    finally:
        it.store._clock = now
    assert toy(it).launched == []


async def test_an_approval_that_expires_while_its_run_waits_for_the_state_leaves_the_queue(
    it: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "SKEW", timedelta(days=2))
    toy(it).want(("a", "create"))
    stack = await it.stack()
    agreed = await it.reaches((await it.start(stack)).id, RunState.AWAITING_APPROVAL)
    toy(it).hold_applies = True
    holder = await it.reaches((await it.start(stack, by=BO)).id, RunState.AWAITING_APPROVAL)
    await it.approve(holder)
    await it.reaches(holder.id, RunState.APPLYING)
    await it.approve(agreed)

    async def queued() -> bool:
        async with it.store.read() as conn:
            place = await turns.place(conn, org=it.org, stack_id=stack.id, run_id=agreed.id)
        return place is not None and place.ahead == (holder.id,)

    await eventually(queued, "the approved run to wait for the state")
    with later(it.store, hours=25):
        await it.runs.wake(agreed.id)
        await it.reaches(agreed.id, RunState.EXPIRED)
    (toy(it).where(toy(it).launched[0]) / "go").touch()
    await it.reaches(holder.id, RunState.APPLIED)

    await it.reaches((await it.start(stack, by=CY)).id, RunState.AWAITING_APPROVAL)


async def test_a_run_that_is_asked_for_again_while_it_waits_for_the_state_lets_others_pass_meanwhile(it: Service) -> None:
    toy(it).want(("a", "create"))
    stack = await it.stack()
    agreed = await it.reaches((await it.start(stack)).id, RunState.AWAITING_APPROVAL)
    toy(it).hold_applies = True
    holder = await it.reaches((await it.start(stack, by=BO)).id, RunState.AWAITING_APPROVAL)
    await it.approve(holder)
    await it.reaches(holder.id, RunState.APPLYING)
    await it.approve(agreed)
    await it.reaches(agreed.id, RunState.APPROVED)
    await by_hand(it, claim_of(agreed))  # in the queue, if its workflow did not come to it yet

    stricter = replace(it.steps(), policy=Policy(rules=(Rule(need=Need.TWO),)))
    await ActivityEnvironment().run(stricter.apply, claim_of(agreed))
    assert (await it.run(agreed.id)).state is RunState.AWAITING_APPROVAL
    (toy(it).where(toy(it).launched[0]) / "go").touch()
    await it.reaches(holder.id, RunState.APPLIED)

    await it.reaches((await it.start(stack, by=CY)).id, RunState.AWAITING_APPROVAL)


async def test_the_audit_chain_holds_and_names_what_happened(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await it.reaches(run.id, RunState.APPLIED)

    async with it.store.read() as conn:
        assert await audit.first_broken(conn, it.org) is None
        assert [a.outcome for a in await plans.attempts_of(conn, it.org, run.id)] == ["applied"]
