"""The step `plan` of any engine: turn, work, seal, check and record. What it did is found again, so it may be tried again.

Where policy alone agrees to what it recorded, nobody has a word to say before the apply, and it goes on with that.
"""

import asyncio
import secrets as random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.beating import heartbeating
from activities.engine import EngineStep
from activities.recording import Recording
from countersign.adapters.artifacts import Written
from countersign.adapters.store import plans, records, state
from countersign.adapters.store.adopt import inputs_of, plan_to_adopt
from countersign.adapters.store.custody import saw
from countersign.adapters.store.plans import PlanRow
from countersign.adapters.store.reads import reads_of
from countersign.adapters.store.runs import RunRow
from countersign.core.engine import Finding, PlanJob, Planned, Progress, Read, StackConfig
from countersign.core.errors import CountersignError, EngineDied, FailedPrecondition, NotFound, PlanStale, ProviderError
from countersign.core.fencing import Head
from countersign.core.ids import derive
from countersign.core.run import Mode, RunState
from countersign.core.steps import ApplyInput, RunRef, Standing

LEAVES_AT = 0.95  # of the time a plan has: an apply that is longer is followed by a step of its own
SHOWN_AFTER = 2.0  # seconds of an apply that nobody was asked about, before the run's page in the Temporal UI is to say so
DEATHS = 3  # of an engine that only looks, before what kills it counts as its answer
PLAN_CREDENTIAL_LIVES = timedelta(hours=2)
RESTORE = "terraform_restore_state"  # type of the run that makes an earlier state the newest one


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """What one try to plan begins with, as the transaction found it that gave it access to the state."""

    attempt_id: str
    password: str = field(repr=False)
    request: Mapping[str, Any]
    stack: StackConfig
    head: Head
    before: PlanRow | None
    applied: str | None


@dataclass(frozen=True, kw_only=True)
class Planning(Recording, EngineStep):
    apply: Callable[[ApplyInput], Awaitable[Standing]]  # the step of that name

    async def plan(self, ref: RunRef) -> Standing:
        """Plan, check, record what it needs, and apply what needs nobody's word.

        A run that is past planning answers where it stands, so this may repeat: what is lost after the plan is not tried again here.
        """
        until = time.monotonic() + LEAVES_AT * _time_of_this_try()
        standing, made = await self._plan(ref)
        goes_on = made and standing.state is RunState.APPROVED and await self._is_still_wanted()
        return await self._applied(ref, standing, until) if goes_on else standing

    async def _is_still_wanted(self) -> bool:
        """Whether this try may begin an apply. A heartbeat tells of a wish to cancel up to two seconds late, and before an apply that
        is too late; a try that is not, or may not be, the run's own any more leaves it to the step `apply`, as a worker that ends does."""
        if activity.is_cancelled() or activity.is_worker_shutdown():
            return False
        try:
            return self.wanted is None or await self.wanted()
        except CountersignError:  # Temporal is away, and with it whoever would say so
            return False

    async def _applied(self, ref: RunRef, agreed: Standing, until: float) -> Standing:
        """Where the run stands after its apply, which claims as after people's approval.

        If that fails, or this worker has to leave it, or the time of a plan is over, the plan was made all the same. There is nothing to
        try again here: a try would wait for a place behind all that is to be planned, and meanwhile nobody would follow what lives.
        """
        assert agreed.plan_digest is not None  # it was agreed to
        showing = asyncio.create_task(self._shown(ref.run_id))
        try:
            async with asyncio.timeout(until - time.monotonic()):
                return await self.apply(ApplyInput(org=ref.org, run_id=ref.run_id, plan_digest=agreed.plan_digest))
        except TimeoutError:
            activity.logger.info("the apply of %s outlives the step that planned it", ref.run_id)
        except Exception as failed:
            activity.logger.warning("the apply of %s went no further: %s", ref.run_id, failed)
        except asyncio.CancelledError:
            activity.logger.info("the apply of %s is left to the next step", ref.run_id)
        finally:
            showing.cancel()
        return await self.stand(ref)

    async def _shown(self, run_id: str) -> None:
        """The workflow hears of the plan when this step ends; what takes longer than a moment is shown before."""
        await asyncio.sleep(SHOWN_AFTER)
        if self.show is not None:
            try:
                await self.show(run_id)
            except CountersignError as away:
                activity.logger.warning("Temporal is not told of the apply: %s", away.message)

    async def _plan(self, ref: RunRef) -> tuple[Standing, bool]:
        """Where the run stands after planning, and whether this try made its plan."""
        async with heartbeating():
            run, begun = await self._begun(ref)
            if begun is None:
                return await self.stand(ref), False
            try:
                planned, written, attempt_id = await self._made(run, begun)
            except CountersignError as failed:
                if failed.retryable:
                    raise
                return await self._plan_failed(run, failed), False
            try:
                return await self._record_plan(run, planned, written, attempt_id), True
            except BaseException:
                await self._end_access(run, attempt_id)
                raise

    async def _begun(self, ref: RunRef) -> tuple[RunRow, _Begun | CountersignError | None]:
        """The turn, and with it access to the state for the first try, or why it gets none; None where there is nothing to plan."""
        async with self.store.begin() as tx:
            run = await self._turn_to_plan(tx, ref)
            if run.state is not RunState.PLANNING:
                return run, None
            try:
                return run, await self._access_for(tx, run)
            except CountersignError as refused:
                if refused.retryable:
                    raise  # with all of this try taken back
                return run, refused  # the run has its turn all the same, and ends from there

    async def _made(self, run: RunRow, first: _Begun | CountersignError) -> tuple[Planned, Mapping[str, Written], str]:
        """The plan, sealed, and the attempt whose access ends with its record.

        One whose engine is killed has changed nothing, so it is made again: with another id, and not for ever.
        """
        if isinstance(first, CountersignError):
            raise first
        died: EngineDied | None = None
        begun: _Begun | None = first
        for _ in range(DEATHS):
            job = await self._plan_job(run, begun or await self._begun_again(run))
            begun = None  # each try has an access of its own
            try:
                planned = await self._planned(run, job)
                written = await self.seal_plan(run, planned)
                if planned.seen is not None:
                    await saw(self.store, self.artifacts, await self._stack(run), run.id, planned.seen)
            except EngineDied as once_more:
                died = once_more
                await self._end_access(run, job.attempt_id)
            except BaseException:
                await self._end_access(run, job.attempt_id)
                raise
            else:
                return planned, written, job.attempt_id
        assert died is not None
        raise ProviderError(f"the engine was ended {DEATHS} times; the last time: {died.message}", details=died.details)

    async def _stack(self, run: RunRow) -> StackConfig:
        async with self.store.read() as conn:
            return (await records.get_stack(conn, run.org, run.stack_id)).config

    async def _planned(self, run: RunRow, job: PlanJob) -> Planned:
        """The plan a run was asked to adopt, as its first one; else a new one."""
        digest = run.request.get("plan_digest")
        if digest is None or run.plan_number:
            return await self.engine.plan(job, _no_progress)
        async with self.store.read() as conn:
            plan = (await plan_to_adopt(conn, org=run.org, stack=job.stack, plan_digest=digest, now=self.store.now())).plan
            parts = {ref.kind: await self.artifacts.read(conn, org=run.org, artifact_id=ref.id) for ref in plan.summary.artifacts}
        if (why := await self.engine.moved(job, plan.inputs, _no_progress)) is not None:
            raise PlanStale(f"the plan {digest} cannot be adopted: {why}; ask again without plan_digest, which plans anew")
        return adopted(plan, parts)

    async def _end_access(self, run: RunRow, attempt_id: str) -> None:
        """What configuration read in its environment opens nothing any more."""
        async with self.store.begin() as tx:
            await state.revoke(tx, run.org, attempt_id)

    async def _begun_again(self, run: RunRow) -> _Begun:
        async with self.store.begin() as tx:
            return await self._access_for(tx, run)

    async def _access_for(self, tx: AsyncConnection, run: RunRow) -> _Begun:
        # A new id for every try: an older one that still runs cannot be taken for it.
        attempt_id = derive("att", run.org, run.id, str(run.plan_number + 1), random.token_hex(8))
        request = await inputs_of(tx, run)
        stack = (await records.get_stack(tx, run.org, run.stack_id)).config
        if stack.released and run.mode is not Mode.VALIDATE:
            raise FailedPrecondition(records.why_released(stack), field="workspace")
        before = await plans.get_plan(tx, run.org, run.id) if run.plan_number else None
        applied = await plans.commit_applied(tx, run.org, run.stack_id, stack.source_repo) if stack.source_repo else None
        head = await state.head(tx, run.org, run.stack_id)
        password = await state.grant(
            tx,
            org=run.org,
            stack_id=run.stack_id,
            run_id=run.id,
            credential_id=attempt_id,
            mode="plan" if run.changes else "read",
            epoch=head.epoch,
            expires_at=self.store.now() + PLAN_CREDENTIAL_LIVES,
        )
        return _Begun(attempt_id=attempt_id, password=password, request=request, stack=stack, head=head, before=before, applied=applied)

    async def _plan_job(self, run: RunRow, begun: _Begun) -> PlanJob:
        request, stack, before, head = begun.request, begun.stack, begun.before, begun.head
        destroy = run.mode is Mode.DESTROY or bool(request.get("destroy"))
        reads: tuple[Read, ...] = ()
        if stack.reads and run.mode is not Mode.VALIDATE:
            async with self.store.read() as conn:
                reads = await reads_of(conn, self.artifacts, stack, destroying=destroy)
        return PlanJob(
            run_id=run.id,
            plan_number=run.plan_number + 1,
            attempt_id=begun.attempt_id,
            stack=stack,
            mode=run.mode,
            destroy=destroy,
            type=run.type,
            request=request,
            vars=request.get("vars") or {},
            targets=tuple(request.get("targets") or ()),
            reads=reads,
            imports={request["address"]: request["external_id"]} if "external_id" in request else {},
            restore=await self._earlier(stack, request["serial"]) if run.type == RESTORE else None,
            # A run that plans again stays at its commit: that is what was asked for, and what people looked at.
            commit=request.get("commit") or (before.inputs.get("commit") if before and stack.source_repo else None),
            applied_commit=begun.applied,
            state=self.access(stack, begun.attempt_id, begun.password, head.lineage, head.serial),
            reveal=self.reveal(run.org),
        )

    async def _earlier(self, stack: StackConfig, serial: int) -> bytes:
        """The content of an earlier state."""
        async with self.store.read() as conn:
            found = await state.snapshot(conn, stack.org, stack.stack_id, serial)
            if found is None:
                raise NotFound(f"{stack.path} has no state of serial {serial}", field="serial", next=["terraform_get_state"])
            return await self.artifacts.read(conn, org=stack.org, artifact_id=found.artifact_id)


def adopted(plan: PlanRow, parts: Mapping[str, bytes]) -> Planned:
    """A plan that was recorded, as if it had been made now. Nobody looked at the world since, and whoever agrees is told so."""
    assert plan.document is not None  # plan_to_adopt saw to it
    remark = f"Made at {plan.created_at:%Y-%m-%d %H:%M} UTC by {plan.run_id} and adopted: what changed outside since then is not in it."
    return Planned(
        plan=plan.summary.model_copy(update={"artifacts": (), "risks": (remark, *plan.summary.risks)}),
        plan_sha256=plan.document.plan_sha256,
        bundle=parts["plan_bundle"],
        plan_json=parts["plan_json"],
        view=parts["plan_view"],
        semantic_document=parts["semantic_document"],
        inputs=plan.inputs,
        log=f"{remark}\n{parts['log'].decode()}",
        warnings=(remark,),
        findings=tuple(Finding(**finding) for finding in plan.findings),
        account=plan.document.target.account,
        lineage=plan.lineage,
        serial=plan.serial,
        expires_at=datetime.fromisoformat(plan.document.expires_at),
    )


def _time_of_this_try() -> float:
    """Seconds, as its workflow gave them."""
    given = activity.info().start_to_close_timeout
    assert given is not None  # each step has one
    return given.total_seconds()


async def _no_progress(progress: Progress) -> None:
    """A plan tells no progress: it is short, and a heartbeat runs beside it."""
