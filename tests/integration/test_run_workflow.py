"""The run, driven through a real Temporal with a tiny engine: what is asked, agreed, claimed, applied and recorded."""

from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.adapters.store import statements
from countersign.adapters.store.schema import credentials
from countersign.core.errors import CountersignError
from countersign.core.run import RunState
from tests.requirements import requirement
from tests.service import AGENT, ANA, BO, Service, eventually, service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import toy

pytestmark = pytest.mark.anyio
install()


async def test_a_plan_that_a_person_agrees_to_is_applied_once(it: Service) -> None:
    toy(it).want(("a", "create"), ("b", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    decided = await it.approve(waiting)
    applied = await it.reaches(run.id, RunState.APPLIED)

    assert decided.accepted
    assert toy(it).world == ["a create", "b create"]
    assert applied.outputs == {"made": {"value": 2}}
    assert len(toy(it).launched) == 1


async def test_a_plan_without_changes_ends_the_run(it: Service) -> None:
    toy(it).want()
    run = await it.start(await it.stack())

    await it.reaches(run.id, RunState.PLANNED_AND_FINISHED)


async def test_a_plan_that_fails_ends_the_run_with_its_reason(it: Service) -> None:
    toy(it).want(error="the cloud says no")
    run = await it.start(await it.stack())

    ended = await it.reaches(run.id, RunState.ERRORED)

    assert (ended.code, ended.reason) == ("provider_error", "the cloud says no")


@pytest.mark.parametrize("error", ["", "the cloud says no"])
async def test_what_a_plan_was_given_opens_nothing_once_it_is_recorded(it: Service, error: str) -> None:
    toy(it).want(("a", "create"), error=error)
    run = await it.start(await it.stack())

    await it.reaches(run.id, RunState.ERRORED if error else RunState.AWAITING_APPROVAL)

    async with it.store.read() as conn:
        given = await statements.every(conn, credentials, run_id=run.id, order=("id",))
    assert [(one.mode, one.revoked_at is not None) for one in given] == [("plan", True)]


async def test_a_rejected_run_changes_nothing(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())

    await it.reject(await it.reaches(run.id, RunState.AWAITING_APPROVAL), reason="not today")
    ended = await it.reaches(run.id, RunState.REJECTED)

    assert ended.reason == "not today"
    assert toy(it).world == []


async def test_an_agent_does_not_count_as_a_person(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    with pytest.raises(CountersignError) as refused:
        await it.approve(waiting, by=AGENT)

    assert refused.value.code == "policy_denied"
    assert (await it.run(run.id)).state is RunState.AWAITING_APPROVAL


async def test_another_digest_is_refused_with_the_current_one(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    with pytest.raises(CountersignError) as refused:
        await it.approve(waiting, digest="sha256:" + "0" * 64)

    assert refused.value.code == "plan_stale"
    assert waiting.plan_digest and waiting.plan_digest in refused.value.message


async def test_what_destroys_needs_the_typed_name(it: Service) -> None:
    toy(it).want(("a", "delete"))
    run = await it.start(await it.stack(), tool="destroy_toy")
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    for wrong in (None, "local/dev/other"):
        with pytest.raises(CountersignError) as refused:
            await it.approve(waiting, confirm_name=wrong)
        assert refused.value.code == "confirmation_required"
    await it.approve(waiting, confirm_name="local/dev/demo")

    await it.reaches(run.id, RunState.APPLIED)


async def test_an_approval_signed_for_another_run_is_refused(it: Service) -> None:
    from countersign.core.approval import ApproveInput

    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    other = await it.start(await it.stack("other"))
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    digest = waiting.plan_digest or ""
    signed = it.signed(other.id, ANA, plan_digest=digest)

    with pytest.raises(CountersignError) as refused:
        await it.runs.approve(run.id, ApproveInput(plan_digest=digest, signed=signed), update_id="u")

    assert refused.value.code == "permission_denied"


async def test_a_second_run_on_a_state_waits_for_its_turn_and_a_stale_plan_is_made_again(it: Service) -> None:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    stack = await it.stack()
    first = await it.start(stack)
    await it.approve(await it.reaches(first.id, RunState.AWAITING_APPROVAL))
    await it.reaches(first.id, RunState.APPLYING)

    second = await it.start(stack, by=BO)

    async def queued() -> bool:
        from countersign.adapters.store import turns

        async with it.store.read() as conn:
            place = await turns.place(conn, org=it.org, stack_id=stack.id, run_id=second.id)
        return place is not None and place.position == 1 and place.ahead == (first.id,)

    await eventually(queued, "the second run to be told its place")
    assert (await it.run(second.id)).state is RunState.PENDING
    (toy(it).where(toy(it).launched[0]) / "go").touch()
    await it.reaches(first.id, RunState.APPLIED)
    await it.reaches(second.id, RunState.AWAITING_APPROVAL, patience=10)


async def test_a_cancel_before_the_apply_ends_the_run(it: Service) -> None:
    from countersign.core.approval import CancelInput

    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    await it.runs.cancel(run.id, CancelInput(reason="never mind"))

    assert (await it.reaches(run.id, RunState.CANCELED)).reason == "never mind"


async def test_a_cancel_in_mid_apply_interrupts_once_and_tells_the_partial_result(it: Service) -> None:
    from countersign.core.approval import CancelInput

    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await it.reaches(run.id, RunState.APPLYING)

    await it.runs.cancel(run.id, CancelInput(reason="stop"))

    await it.reaches(run.id, RunState.PARTIALLY_APPLIED, patience=10)


@requirement("I1")
async def test_a_milder_change_that_policy_asks_a_person_for_is_not_let_through_by_a_worse_one_it_does_not(
    client: Client, tmp_path: Path
) -> None:
    """Rules need not ask most for the worst: here an update needs a person, and creating needs nobody."""
    policy = {"rules": [{"classes": ["create"], "need": "auto"}, {"need": "person"}]}
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), policy=policy) as it:
        toy(it).want(("a", "create"), ("b", "update"))
        run = await it.start(await it.stack())
        await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
        await it.reaches(run.id, RunState.APPLIED)

        toy(it).want(("c", "create"))
        alone = await it.start(await it.stack("alone"))
        await it.reaches(alone.id, RunState.APPLIED)
