"""The steps `apply` and `follow` of any engine: claim, launch once, follow to the end, record on evidence."""

import asyncio
import contextlib
import json
import secrets as random
from dataclasses import replace
from datetime import datetime
from typing import Any

from temporalio import activity

from activities.beating import heartbeating, until_done
from activities.engine import EngineStep
from activities.ledger import RESOURCES_KEPT
from activities.watching import Watching
from countersign.adapters.artifacts import Content
from countersign.adapters.store import audit, claim, plans, records, runs
from countersign.adapters.store.custody import saw
from countersign.adapters.store.ending import end_waiting
from countersign.adapters.store.plans import AttemptRow, PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.core.digests import sha256
from countersign.core.engine import ApplyJob, Keeper, Outcome, PlanJob, Progress
from countersign.core.errors import CountersignError, FailedPrecondition, ProviderError, Unavailable
from countersign.core.ids import derive
from countersign.core.principal import SYSTEM
from countersign.core.run import Mode, RunState
from countersign.core.steps import ApplyInput, FollowInput, RunRef, Standing
from countersign.core.terraform.state import header_of

# Where evidence about an open attempt still counts. An operator may be asked already: evidence answers for itself.
_MOVING = frozenset(
    {
        RunState.APPLYING,
        RunState.RECONCILING,
        RunState.CANCELING,
        RunState.VERIFYING,
        RunState.INTERRUPTED,
        RunState.NEEDS_OPERATOR,
    }
)


LOOK_AFTER = 60.0  # seconds for a look at a state that another keeps
KEPT_THERE = "state_in"  # of a plan's inputs: the backend that keeps the state itself


class Applying(EngineStep):
    async def apply(self, asked: ApplyInput) -> Standing:
        """Claim the plan, launch, and follow to the end. Tried once; what is lost on the way is followed, never tried again."""
        async with heartbeating():
            run, plan, bundle = await self._bundle(asked)
            if bundle is None:
                return await self.stand(RunRef(org=asked.org, run_id=asked.run_id))
            seen: claim.At | None = None
            if KEPT_THERE in plan.inputs:
                try:
                    seen = await self._seen(run, bundle)
                except (ProviderError, Unavailable) as away:
                    return await self._waits(run, f"the state cannot be looked at in its own backend: {away.message}")
            taken = await claim.claim(
                self.store,
                org=asked.org,
                run_id=asked.run_id,
                plan_digest=asked.plan_digest,
                bundle_sha256=sha256(bundle),
                policy=self.policy,
                host=self.here.host,
                boot_id=self.here.boot_id,
                seen=seen,
            )
            if not isinstance(taken, claim.Claimed):
                return await self.stand(RunRef(org=asked.org, run_id=asked.run_id))
            await self._launch(run, taken, bundle)
            return await self._follow(asked.org, asked.run_id, taken.attempt)

    async def _bundle(self, asked: ApplyInput) -> tuple[RunRow, PlanRow, bytes | None]:
        async with self.store.read() as conn:
            run = await runs.get_run(conn, asked.org, asked.run_id)
            plan = await plans.plan_by_digest(conn, asked.org, asked.plan_digest)
            if plan is None or plan.run_id != run.id:
                raise FailedPrecondition("no such plan of this run; nothing is applied")
            if run.state is not RunState.APPROVED:
                return run, plan, None
            ref = next(a for a in plan.summary.artifacts if a.kind == "plan_bundle")
            return run, plan, await self.artifacts.read(conn, org=asked.org, artifact_id=ref.id)

    # Where another keeps the state

    async def _seen(self, run: RunRow, bundle: bytes) -> claim.At:
        """Where the state is now in the backend that the plan was made on; noted here as what was seen last."""
        async with self.store.read() as conn:
            stack = (await records.get_stack(conn, run.org, run.stack_id)).config
        if not isinstance(self.engine, Keeper):
            raise FailedPrecondition(f"the engine {self.engine.name} cannot work on a state that its own backend keeps")
        job = PlanJob(
            run_id=run.id,
            plan_number=run.plan_number,
            attempt_id=derive("att", run.org, run.id, "seen", random.token_hex(8)),
            stack=stack,
            mode=Mode.VALIDATE,
            vars={},
            targets=(),
            commit=None,
            state=self.access(stack, "nobody", random.token_hex(16), None, 0),
            reveal=self.reveal(run.org),
        )
        seen = await self.engine.seen(job, bundle, _no_progress)
        # One that has no history in common is not noted: the plan is stale then, and planning says why.
        with contextlib.suppress(FailedPrecondition):
            await saw(self.store, self.artifacts, stack, run.id, seen)
        header = header_of(seen.data) if seen.data is not None else None
        return claim.At(lineage=header.lineage if header else None, serial=header.serial if header else 0)

    async def _waits(self, run: RunRow, why: str) -> Standing:
        """Where the run stands, for what may pass while its approval lives; it is tried again, and told once."""
        async with self.store.begin() as tx:
            now, live = self.store.now(), await runs.get_run(tx, run.org, run.id)
            if live.state is RunState.APPROVED and live.expires_at is not None and now >= live.expires_at:
                over = f"the approval expired before the apply could start: {why}"
                live = await end_waiting(tx, live, RunState.EXPIRED, at=now, body={"message": over}, reason=over, code="approval_expired")
            elif live.state is RunState.APPROVED and live.reason != why:
                body = {"by": SYSTEM.id, "code": "unavailable", "message": why, "channel": "claim"}
                live = await runs.note(tx, live, at=now, kind="refused", body=body, reason=why, code="unavailable")
            return await standing_of(tx, live, trust=self.trust)

    async def see_after(self, run: RunRow, attempt: AttemptRow) -> None:
        """Note what an apply made of a state that another keeps. If that cannot be seen now, the next plan sees it."""
        try:
            async with asyncio.timeout(LOOK_AFTER), self.store.read() as conn:
                plan = await plans.plan_by_digest(conn, run.org, attempt.plan_digest)
                assert plan is not None  # an attempt is a claim of a recorded plan
                ref = next(a for a in plan.summary.artifacts if a.kind == "plan_bundle")
                bundle = await self.artifacts.read(conn, org=run.org, artifact_id=ref.id)
            async with asyncio.timeout(LOOK_AFTER):
                await self._seen(run, bundle)
        except (CountersignError, TimeoutError) as failed:
            activity.logger.warning("the state of %s was not seen after %s: %s", run.stack_path, attempt.id, failed)

    async def _launch(self, run: RunRow, taken: claim.Claimed, bundle: bytes) -> None:
        stack = taken.stack
        assert stack is not None  # a plan of this engine is of one
        job = ApplyJob(
            attempt_id=taken.attempt.id,
            epoch=taken.attempt.epoch,
            run_id=run.id,
            stack=stack,
            mode=run.mode,
            bundle=bundle,
            expected=run.total,
            state=self.access(stack, taken.attempt.id, taken.password, taken.lineage, taken.serial),
            reveal=self.reveal(run.org),
        )
        try:
            await self.engine.launch(job)
        except CountersignError as failed:
            # Nothing was started: `follow` proves it under the attempt's lock and says so.
            activity.logger.warning("launch of %s failed: %s", taken.attempt.id, failed.message)

    async def follow(self, asked: FollowInput) -> Standing:
        """Watch an open attempt of this machine to its end; an attempt that is closed answers what was recorded."""
        async with heartbeating():
            async with self.store.read() as conn:
                attempt = await plans.attempt_by_id(conn, asked.org, asked.attempt_id)
            if attempt is None or attempt.run_id != asked.run_id:
                raise FailedPrecondition("no such attempt of this run")
            if attempt.closed_at is not None:
                return await self.stand(RunRef(org=asked.org, run_id=asked.run_id))
            if attempt.host != self.here.host:  # without its folder it would look like one that never started
                raise FailedPrecondition(f"that attempt is one of {attempt.host}; only its own machine can follow it")
            return await self._follow(asked.org, asked.run_id, attempt, stop=asked.stop)

    async def _follow(self, org: str, run_id: str, attempt: AttemptRow, *, stop: bool = False) -> Standing:
        async with self.store.read() as conn:
            run = await runs.get_run(conn, org, run_id)
        watching = Watching(self, run, attempt)
        if stop and not watching.stopping:
            await watching.cancel()
        following = self.engine.follow(attempt.id, watching.tell, stop=watching.wanted)
        outcome = await until_done(following, on_cancel=watching.cancel)
        return await self._record_outcome(run, attempt, outcome, watching)

    async def _record_outcome(self, run: RunRow, attempt: AttemptRow, outcome: Outcome, watching: Watching) -> Standing:
        if outcome.own and outcome.state is not RunState.INTERRUPTED:
            await self.see_after(run, attempt)
        kinds = (("apply_log", outcome.log.encode()), ("journal", outcome.journal))
        contents = [Content(kind=kind, name=f"{kind}-{attempt.id}", data=data, readable=True) for kind, data in kinds if data]
        written = await self.artifacts.write_all(contents, org=run.org, stack_id=run.stack_id, run_id=run.id)
        freed, settled = None, False
        async with self.store.begin() as tx:
            now = self.store.now()
            live = await runs.get_run(tx, run.org, run.id)
            asking = live.state is RunState.NEEDS_OPERATOR
            known = await plans.attempt_by_id(tx, run.org, attempt.id)
            # What was given up meanwhile is testimony, and decides nothing any more.
            if known is not None and known.closed_at is None and known.ended_at is None and live.state in _MOVING:
                await self.artifacts.record(tx, *written)
                live = await self._settle(tx, live, outcome, now)
                if outcome.state is not RunState.INTERRUPTED:
                    freed = await claim.close(tx, attempt, live, outcome=live.state, evidence=outcome.evidence, at=now)
                    settled = True
                await audit.of_run(
                    tx,
                    run,
                    at=now,
                    action="run.apply",
                    by=SYSTEM,
                    outcome=str(live.state),
                    attempt=attempt.id,
                    plan_digest=attempt.plan_digest,
                )
            standing = await standing_of(tx, live, trust=self.trust)
            closed = (after := await plans.attempt_by_id(tx, run.org, attempt.id)) is not None and after.closed_at is not None
        if not settled:  # it may be accounted for elsewhere, or tells what it did after it was given up
            await watching.rest()
        if closed:  # what is left on this machine is evidence until then
            await self.engine.forget(attempt.id)
        await self.wake_up(freed)
        if asking and closed:
            await self.wake_up(run.id)  # nobody has to answer any more
        return standing

    async def _settle(self, tx: Any, run: RunRow, outcome: Outcome, now: datetime) -> RunRow:
        if outcome.code == "canceled" and run.alarms and self.policy.guard == "interrupt":
            outcome = replace(outcome, message=f"The live guard interrupted it: {run.alarms[0]['message']}. {outcome.message}")
        facts: dict[str, Any] = {
            "reason": outcome.message or None,
            "code": outcome.code,
            "done": outcome.done,
            "total": outcome.total or run.total,
            "outputs": json.dumps(dict(outcome.outputs)),
            "resources": json.dumps([dict(r) for r in outcome.resources[:RESOURCES_KEPT]]),
        }
        body = {"message": outcome.message, "evidence": list(outcome.evidence)}
        if outcome.state is RunState.INTERRUPTED and run.state is RunState.NEEDS_OPERATOR:
            return run
        if run.state in (RunState.INTERRUPTED, RunState.NEEDS_OPERATOR):
            run = await runs.move(tx, run, RunState.RECONCILING, at=now)
        if outcome.state is RunState.CANCELED and run.state is RunState.APPLYING:  # interrupted by hand, on this machine
            run = await runs.move(tx, run, RunState.CANCELING, at=now)
        if outcome.state is RunState.VERIFYING:
            if run.state is not RunState.VERIFYING:
                run = await runs.move(tx, run, RunState.VERIFYING, at=now, body=body)
            return await runs.move(tx, run, RunState.APPLIED, at=now, body=body, **facts)
        if outcome.state is RunState.INTERRUPTED:
            to = RunState.NEEDS_OPERATOR if run.state is RunState.RECONCILING else RunState.INTERRUPTED
            return await runs.move(tx, run, to, at=now, body=body, reason=outcome.message, code=outcome.code)
        if outcome.state is RunState.STALE and run.state is not RunState.APPLYING:
            return await runs.move(tx, run, RunState.ERRORED, at=now, body=body, **facts)
        if outcome.state is RunState.ERRORED and run.state is RunState.CANCELING:
            return await runs.move(tx, run, RunState.CANCELED, at=now, body=body, **facts)
        return await runs.move(tx, run, outcome.state, at=now, body=body, **facts)


async def _no_progress(progress: Progress) -> None:
    """A look tells no progress: a heartbeat runs beside it."""
