"""Record one history of each story a run can take, for the replay tests: `python -m tests.replay.record VERSION [STORY…]`.

Histories of released versions stay: approvals wait for days, so a new worker meets runs that an older one began.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from countersign.adapters.settings import TerraformSettings
from countersign.core.approval import ApproveInput, CancelInput
from countersign.core.policy import Need, Policy, Rule
from countersign.core.run import RunState
from tests.service import BO, Service, service, temporal_server
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import launched, toy

HISTORIES = Path(__file__).parent / "histories"
S = RunState


async def applied(it: Service) -> str:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
    await it.reaches(run.id, S.APPLIED)
    return run.id


async def no_changes(it: Service) -> str:
    toy(it).want()
    run = await it.start(await it.stack())
    await it.reaches(run.id, S.PLANNED_AND_FINISHED)
    return run.id


async def plan_fails(it: Service) -> str:
    toy(it).want(error="the cloud says no")
    run = await it.start(await it.stack())
    await it.reaches(run.id, S.ERRORED)
    return run.id


async def rejected(it: Service) -> str:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.reject(await it.reaches(run.id, S.AWAITING_APPROVAL))
    await it.reaches(run.id, S.REJECTED)
    return run.id


async def destroyed_by_signals(it: Service) -> str:
    toy(it).want(("a", "delete"))
    run = await it.start(await it.stack(), tool="destroy_toy")
    waiting = await it.reaches(run.id, S.AWAITING_APPROVAL)
    handle = it.client.get_workflow_handle(run.id)
    await handle.signal("approve", "nonsense")
    await handle.signal("approve", ApproveInput(plan_digest=waiting.plan_digest or "", confirm_name="wrong"))
    await handle.signal("approve", ApproveInput(plan_digest=waiting.plan_digest or "", confirm_name="local/dev/demo"))
    await it.reaches(run.id, S.APPLIED)
    return run.id


async def canceled_while_waiting(it: Service) -> str:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.reaches(run.id, S.AWAITING_APPROVAL)
    await it.runs.cancel(run.id, CancelInput(reason="never mind"))
    await it.reaches(run.id, S.CANCELED)
    return run.id


async def canceled_in_the_ui(it: Service) -> str:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.reaches(run.id, S.AWAITING_APPROVAL)
    await it.client.get_workflow_handle(run.id).cancel()
    await it.reaches(run.id, S.CANCELED)
    return run.id


async def canceled_in_mid_apply(it: Service) -> str:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
    await launched(it)
    await it.runs.cancel(run.id, CancelInput(reason="stop"))
    await it.reaches(run.id, S.PARTIALLY_APPLIED)
    return run.id


async def ended_by_force(it: Service) -> str:
    """An apply that does what nobody approved, and heeds no interrupt."""
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    toy(it).heeds_interrupts = False
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
    await launched(it)
    await it.runs.alarm(run.id)
    await it.runs.cancel(run.id, CancelInput(reason="stop"))
    await it.reaches(run.id, S.CANCELING)
    await it.runs.cancel(run.id, CancelInput(reason="now", force=True))
    await it.reaches(run.id, S.PARTIALLY_APPLIED)
    return run.id


async def queued_and_stale(it: Service) -> str:
    """The second run waits for its turn; the state moves under an approved plan of the third."""
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    stack = await it.stack()
    first = await it.start(stack)
    await it.approve(await it.reaches(first.id, S.AWAITING_APPROVAL))
    folder = await launched(it)
    second = await it.start(stack, by=BO)
    await it.reaches(second.id, S.PENDING)
    (folder / "go").touch()
    await it.reaches(first.id, S.APPLIED)
    waiting = await it.reaches(second.id, S.AWAITING_APPROVAL)
    await move_state(it, stack.id)
    toy(it).hold_applies = False
    await it.approve(waiting)
    await it.reaches(second.id, S.APPLIED)
    return second.id


async def move_state(it: Service, stack_id: str) -> None:
    """Somebody else stored a newer state."""
    from countersign.adapters.store.schema import states

    async with it.store.begin() as tx:
        await tx.execute(states.update().where(states.c.stack_id == stack_id).values(serial=states.c.serial + 1))


async def operator_resumes(it: Service) -> str:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
    folder = await launched(it)
    (folder / "lost").touch()
    await it.reaches(run.id, S.NEEDS_OPERATOR)
    (folder / "lost").unlink()
    (folder / "go").touch()
    await it.runs.resume(run.id, "person:ana")
    await it.reaches(run.id, S.APPLIED)
    return run.id


async def worker_replaced(it: Service) -> str:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, S.AWAITING_APPROVAL))
    folder = await launched(it)
    await it.stop_workers()
    await it.start_workers()
    (folder / "go").touch()
    await it.reaches(run.id, S.APPLIED)
    return run.id


async def agreed_by_policy(it: Service) -> str:
    toy(it).want(("a", "create"))
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    folder = await launched(it)
    await it.runs.show(run.id)
    (folder / "go").touch()
    await it.reaches(run.id, S.APPLIED)
    return run.id


async def canceled_before_it_began(it: Service) -> str:
    """Beside it lies one of a workflow that did not listen before its plan (docs/decisions/0025)."""
    toy(it).want(("a", "create"))
    await it.stop_workers()
    run = await it.start(await it.stack())
    await it.runs.cancel(run.id, CancelInput(reason="not that one"))
    await it.start_workers()
    await it.reaches(run.id, S.CANCELED)
    return run.id


STORIES: tuple[Callable[[Service], Awaitable[str]], ...] = (
    applied,
    no_changes,
    plan_fails,
    rejected,
    destroyed_by_signals,
    canceled_while_waiting,
    canceled_in_the_ui,
    canceled_in_mid_apply,
    ended_by_force,
    queued_and_stale,
    operator_resumes,
    worker_replaced,
    agreed_by_policy,
    canceled_before_it_began,
)
POLICIES = {agreed_by_policy: Policy(rules=(Rule(need=Need.AUTO),))}


SETTINGS: dict[str, Any] = {"ui_approvals": "trusted", "terraform": TerraformSettings(force_after_seconds=0)}


async def main(version: str, *names: str) -> None:
    """All stories, or those that are named."""
    install()
    folder = HISTORIES / version
    folder.mkdir(parents=True, exist_ok=True)
    async with temporal_server() as client:
        for story in (s for s in STORIES if not names or s.__name__ in names):
            with tempfile.TemporaryDirectory() as data:
                async with service(
                    client, Path(data), ToyEngine(Path(data) / "toy"), policy=POLICIES.get(story, Policy()), **SETTINGS
                ) as it:
                    run_id = await story(it)
                    handle = client.get_workflow_handle(run_id)
                    await asyncio.wait_for(handle.result(), 30)
                    history = await handle.fetch_history()
                    compact = json.dumps(json.loads(history.to_json()), separators=(",", ":"))
                    (folder / f"{story.__name__}.json").write_text(compact + "\n")
    await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
