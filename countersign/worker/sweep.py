"""Temporal can be emptied, restored, or told to terminate; the rows stay, and this brings the two together again.

A run whose workflow is missing is started again and hears from its first step where it stands. One that was ended from
outside is recorded truthfully: canceled where nothing was begun, followed where an attempt is open. Either way a new
workflow shows in Temporal what became of it.
"""

import asyncio
import contextlib
import itertools
from datetime import timedelta

from countersign.adapters.logs import Log
from countersign.adapters.store import audit, plans, runs, turns
from countersign.adapters.store.database import Store
from countersign.adapters.store.runs import RunRow
from countersign.adapters.temporal import Runs
from countersign.core.errors import CountersignError, NotFound
from countersign.core.principal import SYSTEM
from countersign.core.redaction import Redactor
from countersign.core.run import RunState, may_follow

log = Log(__name__)

EVERY = timedelta(seconds=10)
SETTLED = timedelta(seconds=5)  # a row younger than this may still be on its way into Temporal
CATCH_UP = 6  # rounds; a Temporal is not restored every minute
MOST = 200  # runs asked after one by one in a round
LATELY = timedelta(minutes=2)  # several rounds, so that one that fails is made up for
_ENDED_BY_SOMEBODY = frozenset({"TERMINATED", "CANCELED"})


async def sweep(store: Store, workflows: Runs, orgs: list[str]) -> int:
    """One round over all open runs; returns how many had to be brought together."""
    mended = 0
    for org in orgs:
        async with store.read() as conn:
            open_runs = await runs.open_before(conn, org, store.now() - SETTLED)
            next_ones = await turns.next_ones(conn, org)
        for run_id in next_ones:  # a wake-up may be lost with whoever should have sent it
            with contextlib.suppress(CountersignError):
                await workflows.wake(run_id)
        if len(open_runs) > MOST:  # a list of those that run may be some moments old, and is one question for all of them
            running = await workflows.running()
            open_runs = [one for one in open_runs if one not in running]
        for run_id in open_runs:
            async with store.read() as conn:
                run = await runs.get_run(conn, org, run_id)
            status = await workflows.status(run.id)
            if status == "RUNNING":
                continue
            mended += 1
            if status in _ENDED_BY_SOMEBODY:
                await _end_if_nothing_began(store, workflows, run, status)
            await workflows.start(run, again=status is not None)
    for run_id in await workflows.terminated_since(store.now() - LATELY):
        mended += await _show_its_end(store, workflows, orgs, run_id)
    return mended


async def catch_up(store: Store, workflows: Runs, orgs: list[str]) -> int:
    """Wake workflows that wait for people where their rows do not: a Temporal that was restored from an older copy knows nothing of
    what was decided and done since, and would wait until time is over. Returns how many there were."""
    waiting = await workflows.waiting()
    woken = 0
    for org in orgs:
        async with store.read() as conn:
            states = await runs.states_of(conn, org, [*waiting])
        for run_id in (id for id, state in states.items() if state != waiting[id]):
            await workflows.wake(run_id)
            woken += 1
    return woken


async def _show_its_end(store: Store, workflows: Runs, orgs: list[str], run_id: str) -> bool:
    """Start a workflow for a run that ended although its own was terminated: an apply may end before anybody looks."""
    async with store.read() as conn:
        for org in orgs:
            with contextlib.suppress(NotFound):
                run = await runs.get_run(conn, org, run_id)
                break
        else:
            return False
    if not run.ended or await workflows.status(run_id) != "TERMINATED":
        return False
    await workflows.start(run, again=True)
    return True


async def _end_if_nothing_began(store: Store, workflows: Runs, run: RunRow, status: str) -> None:
    """Record the end of a run whose workflow somebody ended, if nothing was begun; else it has to go on, to be followed."""
    given = Redactor().line(await workflows.why_terminated(run.id))
    async with store.begin() as tx:
        live = await runs.get_run(tx, run.org, run.id)
        if live.ended:
            return
        if await turns.open_attempt_of(tx, org=run.org, stack_id=run.stack_id) == run.id or not may_follow(live.state, RunState.CANCELED):
            return
        now, why = store.now(), f"its workflow was ended in Temporal ({status.lower()}) before anything was changed"
        why = f"{why}: {given}" if given else why
        live = await runs.move(tx, live, RunState.CANCELED, at=now, body={"message": why}, reason=why, code="canceled")
        await audit.of_run(tx, run, at=now, action="run.ended_in_temporal", by=SYSTEM)
        freed = await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)
        steps = await runs.members_of(tx, live)  # those of a composite ended with it
    for run_id in ([freed] if freed else []) + [step.id for step in steps]:
        await workflows.wake(run_id)


async def resume_own(store: Store, workflows: Runs, orgs: list[str], host: str) -> int:
    """Look again at attempts of this machine for which an operator was asked while it was away; returns how many there are."""
    found = 0
    for org in orgs:
        async with store.read() as conn:
            waiting, _ = await runs.list_runs(conn, org, states=[RunState.NEEDS_OPERATOR], limit=MOST)
            mine = [
                run for run in waiting if any(a.closed_at is None and a.host == host for a in await plans.attempts_of(conn, org, run.id))
            ]
        for run in mine:
            with contextlib.suppress(CountersignError):  # without a workflow, sweeping starts one that looks by itself
                await workflows.resume(run.id, f"machine:worker-{host}")
        found += len(mine)
    return found


async def keep_sweeping(store: Store, workflows: Runs, orgs: list[str], stop: asyncio.Event) -> None:
    rounds = itertools.count()
    while not stop.is_set():
        try:
            if next(rounds) % CATCH_UP == 0:
                await catch_up(store, workflows, orgs)
            if mended := await sweep(store, workflows, orgs):
                log.info("brought runs and workflows together", runs=mended)
        except CountersignError as failed:
            log.warning("sweep put off", reason=failed.message)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY.total_seconds())
