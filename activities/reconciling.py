"""The step `reconcile` of any engine: what became of a lost apply, and what is left of what was approved.

Every part of it may be repeated: fencing again fences again, ending what is dead ends nothing, and a plan made twice is two
plans of which one is recorded.
"""

import json
import secrets as random
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.applying import Applying
from activities.beating import heartbeating
from countersign.adapters.artifacts import Written
from countersign.adapters.store import plans, records, runs, state
from countersign.adapters.store.plans import AttemptRow, PlanRow
from countersign.adapters.store.reconciled import conclude, fence, proven_dead
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.core.approval import Channel
from countersign.core.engine import Progress, Reconciled, ReconcileJob, Reconciler, Remains, Witness
from countersign.core.errors import FailedPrecondition
from countersign.core.ids import derive
from countersign.core.reconcile import Stop, foreign_lock, survivors
from countersign.core.run import RunState
from countersign.core.steps import FollowInput, RunRef, Standing

CREDENTIAL_LIVES = timedelta(hours=2)
_LOST = frozenset({RunState.INTERRUPTED, RunState.RECONCILING})


@dataclass(frozen=True, kw_only=True)
class Reconciling(Applying):
    engine: Reconciler

    async def reconcile(self, asked: FollowInput) -> Standing:
        """Follow the attempt where it lives or told its end; else fence it, end it, and account for what it did."""
        async with heartbeating():
            async with self.store.read() as conn:
                run = await runs.get_run(conn, asked.org, asked.run_id)
                attempt = await plans.attempt_by_id(conn, asked.org, asked.attempt_id)
            if attempt is None or attempt.run_id != asked.run_id:
                raise FailedPrecondition("no such attempt of this run")
            if attempt.closed_at is not None or run.state not in _LOST:
                return await self.stand(RunRef(org=asked.org, run_id=asked.run_id))
            if attempt.ended_at is None and attempt.boot_id == self.here.boot_id:
                outcome = await self.engine.follow(attempt.id, self._progress(run), stop=lambda: False)
                if outcome.state is not RunState.INTERRUPTED:
                    return await self._record_outcome(run, attempt, outcome)
            return await self._account_for(run, attempt)

    async def _account_for(self, run: RunRow, attempt: AttemptRow) -> Standing:
        async with self.store.begin() as tx:
            run = await runs.get_run(tx, run.org, run.id)
            await fence(tx, run, attempt, at=self.store.now())
        remains = await self.engine.end(attempt.id, same_boot=attempt.boot_id == self.here.boot_id)
        stops: list[Stop] = []
        if remains.survivors:
            stops.append(survivors(remains.survivors, attempt.host))
        else:
            async with self.store.begin() as tx:
                await proven_dead(tx, run, attempt, at=self.store.now())
        testimony = await self._kept(run, attempt, remains)
        job = await self._job(run, attempt, remains, stops)
        try:
            found = await self.engine.reconcile(job, _no_progress)
        finally:
            async with self.store.begin() as tx:
                await state.revoke(tx, run.org, job.attempt_id)
        return await self._concluded(run, attempt, found, testimony)

    async def _kept(self, run: RunRow, attempt: AttemptRow, remains: Remains) -> Written:
        """The testimony in the store: the next crash may take this machine with it."""
        data = json.dumps({"whole": remains.whole, "testimony": remains.testimony.decode(errors="replace")}).encode()
        written = await self.artifacts.write(
            org=run.org, stack_id=run.stack_id, run_id=run.id, kind="testimony", name=f"testimony-{attempt.id}", data=data, readable=False
        )
        async with self.store.begin() as tx:
            await self.artifacts.record(tx, written)
        return written

    async def _job(self, run: RunRow, attempt: AttemptRow, remains: Remains, stops: list[Stop]) -> ReconcileJob:
        work_id = derive("att", run.org, run.id, str(run.plan_number + 1), random.token_hex(8))
        async with self.store.begin() as tx:
            now = self.store.now()
            stack = (await records.get_stack(tx, run.org, run.stack_id)).config
            head = await state.head(tx, run.org, run.stack_id)
            if head.lock is not None and not stops:
                stops.append(foreign_lock(lock_id=head.lock.id, who=head.lock.who, since=head.lock.created))
            password = await state.grant(
                tx,
                org=run.org,
                stack_id=run.stack_id,
                run_id=run.id,
                credential_id=work_id,
                mode="apply",
                epoch=head.epoch,
                expires_at=now + CREDENTIAL_LIVES,
            )
            lost = await self._lost(tx, run, attempt)
            first = await plans.plan_by_digest(tx, run.org, lost[0].plan_digest)
            assert first is not None  # an attempt is a claim of a recorded plan
            approved, approved_json = await self._bytes_of(tx, first, "plan_bundle"), await self._bytes_of(tx, first, "plan_json")
            witnesses = tuple([await self._witness(tx, run, a) for a in lost])
        return ReconcileJob(
            run_id=run.id,
            plan_number=run.plan_number + 1,
            attempt_id=work_id,
            stack=stack,
            mode=run.mode,
            approved=approved,
            approved_json=approved_json,
            witnesses=witnesses,
            left_over_state=remains.state,
            state=self.access(stack, work_id, password, head.lineage, head.serial),
            age=now - (remains.last_word or attempt.opened_at),
            crashes=len(lost),
            approval_live=run.expires_at is not None and now < run.expires_at,
            stops=tuple(stops),
            reveal=self.reveal(run.org),
        )

    async def _lost(self, conn: AsyncConnection, run: RunRow, attempt: AttemptRow) -> list[AttemptRow]:
        """Lost attempts since people, or policy, last agreed to a plan: what was asked again stands on its own."""
        lost = [a for a in await plans.attempts_of(conn, run.org, run.id) if a.ended_at is not None or a.id == attempt.id]
        agreed = {
            d.plan_digest
            for d in await plans.decisions_of(conn, run.org, run.id)
            if d.accepted and d.decision == "approve" and d.channel is not Channel.CARRIED
        }
        begins = max((i for i, a in enumerate(lost) if a.plan_digest in agreed), default=0)
        return lost[begins:]

    async def _witness(self, conn: AsyncConnection, run: RunRow, attempt: AttemptRow) -> Witness:
        plan = await plans.plan_by_digest(conn, run.org, attempt.plan_digest)
        assert plan is not None
        kept = json.loads(await self.artifacts.read_named(conn, org=run.org, run_id=run.id, name=f"testimony-{attempt.id}") or b"{}")
        known = await self.artifacts.read_named(conn, org=run.org, run_id=run.id, name=f"known-{plan.number}")
        return Witness(
            attempt_id=attempt.id,
            testimony=str(kept.get("testimony", "")).encode(),
            whole=bool(kept.get("whole")),
            plan_json=await self._bytes_of(conn, plan, "plan_json"),
            known=known or b"{}",
        )

    async def _bytes_of(self, conn: AsyncConnection, plan: PlanRow, kind: str) -> bytes:
        ref = next(a for a in plan.summary.artifacts if a.kind == kind)
        assert plan.document is not None
        return await self.artifacts.read(conn, org=plan.document.org, artifact_id=ref.id)

    async def _concluded(self, run: RunRow, attempt: AttemptRow, found: Reconciled, testimony: Written) -> Standing:
        written = await self.seal_plan(run, found.planned) if found.planned is not None else {}
        lines = "\n".join((found.decision.why, *found.decision.lines, *found.decision.difference, *found.decision.instructions))
        extra = {"proof": (lines.encode(), True), "known": (found.known, False), "reconcile_log": (found.log.encode(), True)}
        for kind, (data, readable) in extra.items():
            written[kind] = await self.artifacts.write(
                org=run.org,
                stack_id=run.stack_id,
                run_id=run.id,
                kind=kind,
                name=f"{kind}-{run.plan_number + 1}",
                data=data,
                readable=readable,
            )
        freed = None
        async with self.store.begin() as tx:
            live = await runs.get_run(tx, run.org, run.id)
            known = await plans.attempt_by_id(tx, run.org, attempt.id)
            if live.state is RunState.RECONCILING and known is not None and known.closed_at is None:
                refs = tuple([await self.artifacts.record(tx, w) for w in written.values()])
                live, freed = await conclude(
                    tx, live, attempt, found.decision, found.planned, refs, policy=self.policy, now=self.store.now()
                )
            standing = await standing_of(tx, live, trust=self.trust)
        await self.wake_up(freed)
        return standing


async def _no_progress(progress: Progress) -> None:
    """Reconciling tells no progress: a heartbeat runs beside it."""
