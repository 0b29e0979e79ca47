"""Two hundred runs on one state, and a thousand stacks: everybody's turn comes, and nobody's request waits for all of another's."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import select
from temporalio.client import Client

from countersign.adapters.store import runs
from countersign.adapters.store.schema import events
from countersign.core.errors import Unavailable
from countersign.core.policy import Need, Policy, Rule
from countersign.core.principal import Kind, Principal
from countersign.core.run import RunState
from countersign.worker.sweep import sweep
from tests.requirements import requirement
from tests.service import AGENT, BO, Service, eventually, service
from tests.toy.engine import ToyEngine, install

pytestmark = pytest.mark.anyio

Asked = TypeVar("Asked")
AUTO = Policy(rules=(Rule(need=Need.AUTO),))
MANY, STACKS = 200, 1000
PATIENCE = 240.0  # seconds; a bound for a machine that does other things as well


async def all_ended(it: Service, count: int, state: RunState) -> None:
    async def ended() -> bool:
        async with it.store.read() as conn:
            return (await runs.list_runs(conn, it.org, states=[state], limit=1))[1] == count

    await eventually(ended, f"{count} runs to be {state}", PATIENCE)


async def order_of(it: Service, state: RunState) -> list[str]:
    """The runs in the order in which they became that."""
    async with it.store.read() as conn:
        query = select(events.c.run_id).where(events.c.kind == "state", events.c.state == str(state)).order_by(events.c.n)
        return list(dict.fromkeys((await conn.execute(query)).scalars()))


@requirement("queue:scale", "queue:fair")
async def test_two_hundred_runs_on_one_state_are_applied_one_by_one_and_a_person_waits_for_few(client: Client, tmp_path: Path) -> None:
    install()
    toy = ToyEngine(tmp_path / "toy")
    toy.want(("a", "create"))
    async with service(client, tmp_path, toy, policy=AUTO) as it:
        stack = await it.stack()
        toy.hold_applies = True
        asked = [await it.start(stack, key=f"intent-{number:04}") for number in range(MANY)]
        persons = await it.start(stack, by=BO, key="intent-of-bo")
        toy.hold_applies = False
        (toy.where(toy.launched[0]) / "go").touch()

        await all_ended(it, MANY + 1, RunState.APPLIED)

        order = await order_of(it, RunState.APPLYING)
        assert order.index(persons.id) <= 5  # those that were under way when the person came, and one more
        # Several are asked for their turn at the same time, so neighbours may change places, and nobody else.
        places = {run_id: place for place, run_id in enumerate(run_id for run_id in order if run_id != persons.id)}
        assert max(abs(places[run.id] - place) for place, run in enumerate(asked)) <= 10
        assert len(toy.world) == MANY + 1


async def asked(ask: Callable[[], Awaitable[Asked]]) -> Asked:
    """As whoever asks is told to: once more, where the store of a machine under this load was busy for too long."""
    try:
        return await ask()
    except Unavailable:
        return await ask()


@requirement("queue:scale")
async def test_a_thousand_stacks_are_planned_and_every_open_run_of_theirs_is_looked_after(client: Client, tmp_path: Path) -> None:
    install()
    toy = ToyEngine(tmp_path / "toy")
    toy.want(("a", "create"))
    async with service(client, tmp_path, toy) as it:
        for first in range(0, STACKS, 20):
            stacks = await asyncio.gather(*(asked(partial(it.stack, f"s{number}")) for number in range(first, first + 20)))
            by = Principal(id=f"agent:a{first}", kind=Kind.AGENT)
            await asyncio.gather(*(asked(partial(it.start, stack, by=by, key=f"plan-{stack.id}")) for stack in stacks))
        await all_ended(it, STACKS, RunState.AWAITING_APPROVAL)

        async with it.store.read() as conn:
            oldest = (await runs.list_runs(conn, it.org, offset=STACKS - 1, limit=1))[0][0]
        await it.client.get_workflow_handle(oldest.id).terminate()

        async def ended() -> bool:
            await sweep(it.store, it.runs, [it.org])
            return (await it.run(oldest.id)).state is RunState.CANCELED

        await eventually(ended, "the oldest of a thousand open runs to be brought together with its workflow", 60.0)


async def test_an_approved_run_goes_before_those_that_have_yet_to_be_planned(client: Client, tmp_path: Path) -> None:
    install()
    toy = ToyEngine(tmp_path / "toy")
    toy.want(("a", "create"))
    async with service(client, tmp_path, toy) as it:
        stack = await it.stack()
        agreed = await it.reaches((await it.start(stack, key="intent-agreed")).id, RunState.AWAITING_APPROVAL)
        toy.hold_applies = True
        holder = await it.reaches((await it.start(stack, by=BO, key="intent-holder")).id, RunState.AWAITING_APPROVAL)
        await it.approve(holder)
        await it.reaches(holder.id, RunState.APPLYING)
        queued = await it.start(stack, by=AGENT, key="intent-queued")
        await it.approve(agreed)

        async def both_wait() -> bool:
            return (await it.run(queued.id)).state is RunState.PENDING and (await it.run(agreed.id)).state is RunState.APPROVED

        await eventually(both_wait, "both to wait")
        toy.hold_applies = False
        (toy.where(toy.launched[0]) / "go").touch()
        await it.reaches(queued.id, RunState.AWAITING_APPROVAL, RunState.APPLIED)

        assert await order_of(it, RunState.APPLYING) == [holder.id, agreed.id]
