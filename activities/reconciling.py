"""The step `reconcile` of any engine: what became of a lost apply, and what is left of what was approved.

Every part of it may be repeated: fencing again fences again, ending what is dead ends nothing, and a plan made twice is two
plans of which one is recorded.
"""

import json
import secrets as random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.applying import Applying
from activities.beating import heartbeating, until_done
from activities.planning import DEATHS
from activities.watching import Watching
from countersign.adapters.artifacts import Written
from countersign.adapters.store import journals, plans, records, runs, state
from countersign.adapters.store.plans import AttemptRow, PlanRow
from countersign.adapters.store.reconciled import conclude, fence, found_after, is_gone, proven_dead, wishes_of, works_of
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.core.approval import Channel
from countersign.core.engine import Outcome, Progress, Reconciled, ReconcileJob, Reconciler, Remains, Witness
from countersign.core.errors import CountersignError, EngineDied, FailedPrecondition
from countersign.core.ids import derive
from countersign.core.reconcile import Commands, Next, Stop, failed_plan, foreign_lock, survivors
from countersign.core.run import RunState
from countersign.core.steps import FollowInput, RunRef, Standing

CREDENTIAL_LIVES = timedelta(hours=2)
_LOST = frozenset({RunState.INTERRUPTED, RunState.RECONCILING})


@dataclass
class Wish:
    """Somebody's wish to cancel may come while this works."""

    canceled: bool = False

    async def heard(self) -> None:
        self.canceled = True


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
            wish = Wish()
            return await until_done(self._reconcile(run, attempt, wish), on_cancel=wish.heard)

    async def _reconcile(self, run: RunRow, attempt: AttemptRow, wish: Wish) -> Standing:
        told: Outcome | None = None
        # A folder that outlived a reboot may tell an end that was on the disk before.
        here = attempt.host == self.here.host
        if here and attempt.ended_at is None and (attempt.boot_id == self.here.boot_id or self.engine.where(attempt.id).exists()):
            watching = Watching(self, run, attempt)
            told = await self.engine.follow(attempt.id, watching.tell, stop=lambda: wish.canceled)
            if told.state is not RunState.INTERRUPTED:
                return await self._record_outcome(run, attempt, told, watching)
        async with self.store.begin() as tx:
            run = await runs.get_run(tx, run.org, run.id)
            await fence(tx, run, attempt, at=self.store.now())
        await self._end_earlier_work(run)
        remains = await self._remains(run, attempt, told)
        stops = [survivors(remains.survivors, attempt.host)] if remains.survivors else []
        deaths = 0
        while True:
            if deaths:
                await self._end_earlier_work(run)  # the lock it died with is freed
            job = await self._job(run, attempt, remains, stops, wish)
            try:
                found = await self.engine.reconcile(job, _no_progress)
            except EngineDied as died:
                deaths += 1
                if deaths >= DEATHS:
                    stops.append(failed_plan(Commands(run_id=run.id), died.message))
                continue
            finally:
                async with self.store.begin() as tx:
                    await state.revoke(tx, run.org, job.attempt_id)
            if job.canceled or not wish.canceled:
                if job.stack.own:
                    await self.see_after(run, attempt)
                return await self._concluded(run, attempt, found)

    async def _end_earlier_work(self, run: RunRow) -> None:
        """Reconciling that was lost itself: what it left behind is ended, and the lock it held is freed (I5)."""
        async with self.store.read() as conn:
            works = await works_of(conn, run)
        for work in works:
            if not (await self.engine.end(work, same_boot=True)).survivors:
                async with self.store.begin() as tx:
                    await state.release_lock_of(tx, run.org, run.stack_id, work)

    # What is left of the attempt

    async def _remains(self, run: RunRow, attempt: AttemptRow, told: Outcome | None) -> Remains:
        """End the attempt and keep what it tells, before anything is done about it: the next crash may take this machine."""
        found = await self._ended(run, attempt)
        if attempt.ended_at is not None and (kept := await self._kept(run, attempt)) is not None:
            return replace(kept, survivors=found.survivors, state=found.state)  # it was read when nothing lived any more
        said = {
            "whole": found.whole,
            "testimony": found.testimony.decode(errors="replace"),
            "last_word": found.last_word.isoformat() if found.last_word else None,
        }
        texts = {"testimony": (json.dumps(said).encode(), False)}
        if told is not None:
            texts |= {"apply_log": (told.log.encode(), True), "journal": (told.journal, True)}
        written = [await self._written(run, kind, f"{kind}-{attempt.id}", *text) for kind, text in texts.items() if text[0]]
        async with self.store.begin() as tx:
            for one in written:
                await self.artifacts.record(tx, one)
            if not found.survivors:
                await proven_dead(tx, run, attempt, at=self.store.now())
        return found

    async def _ended(self, run: RunRow, attempt: AttemptRow) -> Remains:
        """End what is left of it here, and what it told, here and while it ran. Another machine's attempt has nothing here."""
        here = attempt.host == self.here.host
        async with self.store.read() as conn:
            gone = here or await is_gone(conn, run, attempt.id)
            shipped = await journals.shipped(conn, self.keyring, org=run.org, attempt=attempt)
        found = await self.engine.end(attempt.id, same_boot=here and attempt.boot_id == self.here.boot_id)
        testimony = self.engine.joined(shipped.testimony + shipped.late, found.testimony)
        if not gone:
            found = replace(found, survivors=max(found.survivors, 1))  # its machine is another one, and nobody speaks for that
        return replace(found, testimony=testimony, whole=found.whole and here, last_word=found.last_word or shipped.at)

    async def _kept(self, run: RunRow, attempt: AttemptRow) -> Remains | None:
        async with self.store.read() as conn:
            data = await self.artifacts.read_named(conn, org=run.org, run_id=run.id, name=f"testimony-{attempt.id}")
        if data is None:
            return None
        said = json.loads(data)
        last = said.get("last_word")
        return Remains(
            testimony=str(said["testimony"]).encode(),
            whole=bool(said["whole"]),
            last_word=datetime.fromisoformat(last) if last else None,
        )

    async def _written(self, run: RunRow, kind: str, name: str, data: bytes, readable: bool) -> Written:
        return await self.artifacts.write(
            org=run.org, stack_id=run.stack_id, run_id=run.id, kind=kind, name=name, data=data, readable=readable
        )

    # What the engine is asked

    async def _job(self, run: RunRow, attempt: AttemptRow, remains: Remains, stops: list[Stop], wish: Wish) -> ReconcileJob:
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
        async with self.store.read() as conn:  # bytes take their time, and nobody may wait for them to write
            lost = await self._lost(conn, run, attempt)
            first = await plans.plan_by_digest(conn, run.org, lost[0].plan_digest)
            assert first is not None  # an attempt is a claim of a recorded plan
            approved, approved_json = await self._bytes_of(conn, first, "plan_bundle"), await self._bytes_of(conn, first, "plan_json")
            witnesses = tuple([await self._witness(conn, run, a) for a in lost])
            # A store that came back from a backup may have lost that somebody agreed.
            said = await plans.decisions_of(conn, run.org, run.id)
            agreed = any(d.accepted and d.decision == "approve" and d.plan_digest == run.plan_digest for d in said)
            wishes = await wishes_of(conn, run, attempt)
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
            # An operator who lets it go on has seen to those before.
            crashes=sum(wishes.resumed_at is None or a.opened_at > wishes.resumed_at for a in lost),
            here=attempt.host == self.here.host,
            approval_live=agreed and run.expires_at is not None and now < run.expires_at,
            stops=tuple(stops),
            canceled=wishes.canceled or wish.canceled,
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
        shipped = await journals.shipped(conn, self.keyring, org=run.org, attempt=attempt)
        said = await found_after(conn, run, attempt.id)
        return Witness(
            attempt_id=attempt.id,
            testimony=self.engine.joined(str(kept.get("testimony", "")).encode(), shipped.testimony + shipped.late),
            whole=bool(kept.get("whole")),
            plan_json=await self._bytes_of(conn, plan, "plan_json"),
            known=known or b"{}",
            exists=said.exists,
            missing=said.missing,
        )

    async def _bytes_of(self, conn: AsyncConnection, plan: PlanRow, kind: str) -> bytes:
        ref = next(a for a in plan.summary.artifacts if a.kind == kind)
        assert plan.document is not None
        return await self.artifacts.read(conn, org=plan.document.org, artifact_id=ref.id)

    # What follows

    async def _concluded(self, run: RunRow, attempt: AttemptRow, found: Reconciled) -> Standing:
        written = await self.seal_plan(run, found.planned) if found.planned is not None else {}
        said = found.decision
        lines = "\n".join((said.why, *said.lines, *said.difference, *said.instructions))
        extra = {"proof": (lines.encode(), True), "known": (found.known, False), "reconcile_log": (found.log.encode(), True)}
        for kind, (data, readable) in extra.items():
            written[kind] = await self._written(run, kind, f"{kind}-{run.plan_number + 1}", data, readable)
        freed = None
        async with self.store.begin() as tx:
            live = await runs.get_run(tx, run.org, run.id)
            known = await plans.attempt_by_id(tx, run.org, attempt.id)
            if live.state is RunState.RECONCILING and known is not None and known.closed_at is None:
                refs = await self.artifacts.record(tx, *written.values())
                live, freed = await conclude(tx, live, attempt, said, found.planned, refs, policy=self.policy, now=self.store.now())
            standing = await standing_of(tx, live, trust=self.trust)
        if said.next is not Next.OPERATOR:
            await self._forget(attempt)
        await self.wake_up(freed)
        return standing

    async def _forget(self, attempt: AttemptRow) -> None:
        """What it told is in the store, and its state in the state service; what is left here is secrets in clear."""
        try:
            await self.engine.forget(attempt.id)
        except CountersignError as failed:
            activity.logger.warning("%s is not forgotten: %s", attempt.id, failed.message)


async def _no_progress(progress: Progress) -> None:
    """Reconciling tells no progress: a heartbeat runs beside it."""
