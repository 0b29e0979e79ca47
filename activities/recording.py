"""Taking the turn to plan, and what becomes of a plan: the same for whoever makes it, an engine or the steps of a composite."""

import json
from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.engine import RunStep
from countersign.adapters.artifacts import Written
from countersign.adapters.store import audit, composites, runs, state, turns
from countersign.adapters.store.check import record_plan, supersede
from countersign.adapters.store.database import stamp
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.core.engine import Planned
from countersign.core.errors import CountersignError, NotYet
from countersign.core.principal import SYSTEM
from countersign.core.run import COMPOSITE, ENDS, RunState
from countersign.core.steps import RunRef, Standing

_PLANNABLE = frozenset({RunState.PENDING, RunState.PLANNING, RunState.STALE})


class Recording(RunStep):
    async def _turn_to_plan(self, tx: AsyncConnection, ref: RunRef) -> RunRow:
        """The run in `planning`, holding the turn where it needs one; or as it is where there is nothing to plan yet."""
        now = self.store.now()
        run = await runs.get_run(tx, ref.org, ref.run_id)
        if run.state not in _PLANNABLE:
            return run
        if run.parent is not None:
            if not await composites.may_plan(tx, run):
                return run if run.state is RunState.PENDING else await runs.move(tx, run, RunState.PENDING, at=now)
            if run.late is not None:
                run = await runs.note(tx, run, at=now, kind="released", body={}, late=None)
        if run.changes:
            place = await turns.take(tx, org=run.org, stack_id=run.stack_id, run_id=run.id, by=run.requester.id, at=stamp(now))
            if not place.held:
                if run.state is not RunState.PENDING:
                    run = await runs.move(tx, run, RunState.PENDING, at=now)
                return await runs.note(tx, run, at=now, kind="queued", body={"position": place.position, "ahead": list(place.ahead)})
        return run if run.state is RunState.PLANNING else await runs.move(tx, run, RunState.PLANNING, at=now)

    async def _plan_failed(self, run: RunRow, failed: CountersignError) -> Standing:
        async with self.store.begin() as tx:
            now = self.store.now()
            live = await runs.get_run(tx, run.org, run.id)
            freed = None
            if live.state is RunState.PLANNING and await self._comes_later(tx, live, failed):
                live = await runs.move(tx, live, RunState.PENDING, at=now, body={"message": failed.message}, late=failed.message)
                freed = await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)
            elif live.state is RunState.PLANNING:
                body = {"code": failed.code, "message": failed.message, "findings": failed.details.get("findings", [])}
                live = await runs.move(
                    tx, live, RunState.ERRORED, at=now, body=json.loads(json.dumps(body)), reason=failed.message, code=failed.code
                )
                await audit.of_run(tx, run, at=now, action="run.plan", by=SYSTEM, outcome=failed.code)
                freed = await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)
            standing = await standing_of(tx, live, trust=self.trust)
        await self.wake_up(freed)
        return standing

    async def _comes_later(self, tx: AsyncConnection, run: RunRow, failed: CountersignError) -> bool:
        """Whether a step of a composite failed for want of what a step before it makes."""
        needs = failed.details.get("needs") if isinstance(failed, NotYet) else None
        return isinstance(needs, str) and await composites.waits_for(tx, run, needs)

    async def _record_plan(self, run: RunRow, planned: Planned, written: Mapping[str, Written], attempt_id: str | None = None) -> Standing:
        """Plan, artifacts, verdict, states and audit in one transaction; a plan that came too late changes nothing.

        What configuration read in the environment of that attempt opens nothing any more.
        """
        woken: list[str | None] = []
        async with self.store.begin() as tx:
            now = self.store.now()
            live = await runs.get_run(tx, run.org, run.id)
            if attempt_id is not None:
                await state.revoke(tx, run.org, attempt_id)
            if live.state is RunState.PLANNING and live.plan_number == run.plan_number:
                refs = await self.artifacts.record(tx, *written.values())
                live = await record_plan(tx, live, planned, refs, policy=self.policy, now=now)
                woken += await supersede(tx, live, now)
                if live.state is not RunState.APPROVED:
                    woken.append(await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id))
            standing = await standing_of(tx, live, trust=self.trust)
        for run_id in woken:
            await self.wake_up(run_id)
        if run.engine == COMPOSITE:  # what it took the place of ended with its steps, as it may have itself
            for run_id in (*woken, *([run.id] if standing.state in ENDS else [])):
                await self._wake_members(run.org, run_id)
        return standing

    async def _wake_members(self, org: str, run_id: str | None) -> None:
        """What ended a composite ended its steps; their workflows are told."""
        if run_id is None:
            return
        async with self.store.read() as conn:
            members = await runs.members_of(conn, await runs.get_run(conn, org, run_id))
        for member in members:
            await self.wake_up(member.id)
