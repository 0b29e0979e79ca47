"""Plan, apply and follow, for any engine: turn, claim, sealed artifacts, policy and records around the engine's own work.

The engine knows its tool, this knows the ledger; adding an engine touches neither this nor the run workflow.
"""

import json
import secrets as random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from countersign.adapters.artifacts import Artifacts, Written
from countersign.adapters.keyring import Keyring
from temporalio import activity

from activities.beating import heartbeating, until_done
from activities.ledger import Wake
from countersign.adapters.store import audit, claim, plans, records, runs, secrets, state, turns
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.plans import AttemptRow, PlanRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import decisions
from countersign.adapters.store.schema import plans as plans_table
from countersign.adapters.store.standing import standing_of
from countersign.core.approval import ApprovalDocument, Channel, Target
from countersign.core.digests import digest_of, sha256
from countersign.core.engine import ApplyJob, Engine, Outcome, PlanJob, Planned, Progress, Reveal, StackConfig, StateAccess
from countersign.core.errors import CountersignError, FailedPrecondition
from countersign.core.ids import derive
from countersign.core.policy import Need, Policy, required
from countersign.core.principal import SYSTEM
from countersign.core.run import Mode, RunState
from countersign.core.steps import ApplyInput, EngineSteps, FollowInput, RunRef, Standing

PLAN_CREDENTIAL_LIVES = timedelta(hours=2)
_PLANNABLE = frozenset({RunState.PENDING, RunState.PLANNING, RunState.STALE})
_MOVING = frozenset({RunState.APPLYING, RunState.RECONCILING, RunState.CANCELING, RunState.VERIFYING, RunState.INTERRUPTED})
RESOURCES_KEPT = 500  # rows of an apply's result in the ledger; the journal artifact has them all


@dataclass(frozen=True, kw_only=True)
class Here:
    """This machine, as attempts record it."""

    host: str
    boot_id: str
    state_url: str


@dataclass(frozen=True, kw_only=True)
class EngineActivities:
    """The three steps of one engine, ready to be registered under the names its EngineSteps declare."""

    engine: Engine
    steps: EngineSteps
    store: Store
    artifacts: Artifacts
    keyring: Keyring
    policy: Policy
    here: Here
    wake: Wake

    # -- plan ---------------------------------------------------------------------------------------------------------

    async def plan(self, ref: RunRef) -> Standing:
        """Plan, check, and record what it needs. A run that is past planning answers where it stands, so this may repeat."""
        async with heartbeating():
            run = await self._turn_to_plan(ref)
            if run.state is not RunState.PLANNING:
                return await self._stand(ref)
            try:
                job = await self._plan_job(run)
                planned = await self.engine.plan(job, _no_progress)
                written = await self._seal(run, planned)
            except CountersignError as failed:
                if failed.retryable:
                    raise
                return await self._plan_failed(run, failed)
            return await self._record_plan(run, planned, written)

    async def _turn_to_plan(self, ref: RunRef) -> RunRow:
        """The run in `planning`, holding the turn where it needs one; or as it is where there is nothing to plan yet."""
        async with self.store.begin() as tx:
            now = self.store.now()
            run = await runs.get_run(tx, ref.org, ref.run_id)
            if run.state not in _PLANNABLE:
                return run
            if run.changes:
                place = await turns.take(tx, org=run.org, stack_id=run.stack_id, run_id=run.id, at=stamp(now))
                if not place.held:
                    if run.state is not RunState.PENDING:
                        run = await runs.move(tx, run, RunState.PENDING, at=now)
                    return await runs.note(tx, run, at=now, kind="queued", body={"position": place.position, "ahead": list(place.ahead)})
            return run if run.state is RunState.PLANNING else await runs.move(tx, run, RunState.PLANNING, at=now)

    async def _plan_job(self, run: RunRow) -> PlanJob:
        request = run.request
        number = run.plan_number + 1
        # A new id for every try: an older one that still runs cannot be taken for it.
        attempt_id = derive("att", run.org, run.id, str(number), random.token_hex(8))
        async with self.store.begin() as tx:
            stack = (await records.get_stack(tx, run.org, run.stack_id)).config
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
        return PlanJob(
            run_id=run.id,
            plan_number=number,
            attempt_id=attempt_id,
            stack=stack,
            mode=run.mode,
            destroy=run.mode is Mode.DESTROY or bool(request.get("destroy")),
            vars=request.get("vars") or {},
            targets=tuple(request.get("targets") or ()),
            commit=request.get("commit"),
            state=self._access(stack, attempt_id, password, head.lineage, head.serial),
            reveal=self._reveal(run.org),
        )

    def _access(self, stack: StackConfig, user: str, password: str, lineage: str | None, serial: int) -> StateAccess:
        address = f"{self.here.state_url}/v1/state/{stack.org}/{stack.stack_id}"
        return StateAccess(address=address, username=user, password=password, lineage=lineage, serial=serial)

    def _reveal(self, org: str) -> Reveal:
        async def reveal(slug: str) -> str:
            async with self.store.read() as conn:
                return await secrets.reveal(conn, self.keyring, org, slug)

        return reveal

    async def _seal(self, run: RunRow, planned: Planned) -> dict[str, Written]:
        kinds: dict[str, tuple[bytes, bool]] = {
            "plan_view": (planned.view, True),
            "semantic_document": (planned.semantic_document, True),
            "log": (planned.log.encode(), True),
        }
        if run.changes:
            kinds |= {"plan_bundle": (planned.bundle, False), "plan_json": (planned.plan_json, False)}
        number = run.plan_number + 1
        return {
            kind: await self.artifacts.write(
                org=run.org, stack_id=run.stack_id, run_id=run.id, kind=kind, name=f"{kind}-{number}", data=data, readable=readable
            )
            for kind, (data, readable) in kinds.items()
        }

    async def _plan_failed(self, run: RunRow, failed: CountersignError) -> Standing:
        async with self.store.begin() as tx:
            now = self.store.now()
            live = await runs.get_run(tx, run.org, run.id)
            freed = None
            if live.state is RunState.PLANNING:
                body = {"code": failed.code, "message": failed.message, "findings": failed.details.get("findings", [])}
                live = await runs.move(
                    tx, live, RunState.ERRORED, at=now, body=json.loads(json.dumps(body)), reason=failed.message, code=failed.code
                )
                await audit.append(
                    tx, org=run.org, at=stamp(now), action="run.plan", by=SYSTEM, outcome=failed.code, target=run.stack_path, run_id=run.id
                )
                freed = await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)
            standing = await standing_of(tx, live)
        await self._wake(freed)
        return standing

    async def _record_plan(self, run: RunRow, planned: Planned, written: Mapping[str, Written]) -> Standing:
        """Plan, artifacts, verdict, states and audit in one transaction; a plan that came too late changes nothing."""
        woken: list[str | None] = []
        async with self.store.begin() as tx:
            now = self.store.now()
            live = await runs.get_run(tx, run.org, run.id)
            if live.state is RunState.PLANNING and live.plan_number == run.plan_number:
                refs = tuple([await self.artifacts.record(tx, w) for w in written.values()])
                if run.changes and planned.plan.changes_anything:
                    live = await self._to_check(tx, live, planned, written, refs, now)
                    woken += await self._supersede(tx, live, now)
                else:
                    live = await self._nothing_to_apply(tx, live, planned, refs, now)
                if live.state is not RunState.APPROVED:
                    woken.append(await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id))
            standing = await standing_of(tx, live)
        for run_id in woken:
            await self._wake(run_id)
        return standing

    async def _nothing_to_apply(self, tx: Any, run: RunRow, planned: Planned, refs: tuple[Any, ...], now: datetime) -> RunRow:
        await self._insert_plan(tx, run, planned, refs, now, document=None)
        findings = [asdict(finding) for finding in planned.findings]
        body = {"counts": str(planned.plan.counts), "findings": findings, "warnings": list(planned.warnings)}
        return await runs.move(
            tx,
            run,
            RunState.PLANNED_AND_FINISHED,
            at=now,
            body=body,
            plan_number=run.plan_number + 1,
            change_class=str(planned.plan.change_class),
            reason=None,
            code=None,
        )

    async def _to_check(
        self, tx: Any, run: RunRow, planned: Planned, written: Mapping[str, Written], refs: tuple[Any, ...], now: datetime
    ) -> RunRow:
        """Weigh the plan by policy: it waits, is approved by policy or by an approval carried over, or is denied."""
        number = run.plan_number + 1
        requirement = required(
            self.policy,
            env=run.env,
            change_class=planned.plan.change_class,
            name=run.stack_path,
            auto_approve=bool(run.request.get("auto_approve")),
            destroy=run.mode is Mode.DESTROY,
        )
        before = await plans.get_plan(tx, run.org, run.id)
        carried = await self._carried(tx, run, before, planned, now)
        expires_at = now + timedelta(hours=min(self.policy.approval_hours, 24))
        if carried and before and before.document:
            expires_at = datetime.fromisoformat(before.document.expires_at)
        stack = (await records.get_stack(tx, run.org, run.stack_id)).config
        document = ApprovalDocument(
            org=run.org,
            run_id=run.id,
            plan_number=number,
            mode=str(run.mode),
            plan_sha256=planned.plan_sha256,
            bundle_sha256=sha256(planned.bundle),
            semantic_digest=planned.plan.semantic_digest,
            inputs_digest=digest_of(dict(planned.inputs)),
            target=Target(
                stack_id=run.stack_id,
                stack_path=run.stack_path,
                lineage=planned.lineage,
                serial=planned.serial,
                account=planned.account,
                credential=stack.apply_credential,
            ),
            engine_build=planned.plan.engine_build,
            policy_version=self.policy.version,
            expires_at=stamp(expires_at),
        )
        await self._insert_plan(tx, run, planned, refs, now, document=document)
        facts = {
            "plan_number": number,
            "plan_digest": document.digest,
            "change_class": str(planned.plan.change_class),
            "requirement": requirement.model_dump_json(),
            "expires_at": stamp(expires_at),
            "total": planned.plan.counts.total,
            "done": 0,
            "reason": None,
            "code": None,
        }
        counts = {"counts": str(planned.plan.counts), "plan_digest": document.digest, "warnings": list(planned.warnings)}
        run = await runs.move(tx, run, RunState.CHECKING, at=now, body=counts, **facts)
        await audit.append(
            tx, org=run.org, at=stamp(now), action="run.plan", by=SYSTEM, target=run.stack_path, run_id=run.id, plan_digest=document.digest
        )
        if requirement.need is Need.DENY:
            why = f"policy denies this change: {requirement.rule}"
            return await runs.move(tx, run, RunState.ERRORED, at=now, body={"message": why}, reason=why, code="policy_denied")
        if carried:
            await self._agree_again(tx, run, carried, now)
            return await runs.move(tx, run, RunState.APPROVED, at=now, body={"carried_from": before.plan_digest if before else None})
        if requirement.automatic:
            await self._agree_by_policy(tx, run, requirement.rule, now)
            return await runs.move(tx, run, RunState.APPROVED, at=now, body={"by": SYSTEM.id, "rule": requirement.rule})
        body = {"needs": str(requirement.need), "people": requirement.people, "confirm_name": requirement.confirm_name}
        return await runs.move(tx, run, RunState.AWAITING_APPROVAL, at=now, body=body)

    async def _insert_plan(
        self, tx: Any, run: RunRow, planned: Planned, refs: tuple[Any, ...], now: datetime, *, document: ApprovalDocument | None
    ) -> None:
        await tx.execute(
            plans_table.insert().values(
                org_id=run.org,
                run_id=run.id,
                number=run.plan_number + 1,
                plan_digest=document.digest if document else None,
                document=document.model_dump_json() if document else None,
                semantic_digest=planned.plan.semantic_digest,
                summary=planned.plan.model_copy(update={"artifacts": refs}).model_dump_json(),
                inputs=json.dumps(dict(planned.inputs)),
                findings=json.dumps([asdict(finding) for finding in planned.findings]),
                lineage=planned.lineage,
                serial=planned.serial,
                created_at=stamp(now),
            )
        )

    async def _carried(self, tx: Any, run: RunRow, before: PlanRow | None, planned: Planned, now: datetime) -> list[plans.DecisionRow]:
        """Accepted approvals of the plan before, where the new one means exactly the same and their time is not over."""
        if before is None or before.document is None or before.semantic_digest != planned.plan.semantic_digest:
            return []
        if now >= datetime.fromisoformat(before.document.expires_at):
            return []
        return [
            d
            for d in await plans.decisions_of(tx, run.org, run.id)
            if d.accepted and d.decision == "approve" and d.plan_digest == before.plan_digest
        ]

    async def _agree_again(self, tx: Any, run: RunRow, carried: list[plans.DecisionRow], now: datetime) -> None:
        for d in carried:
            await self._insert_approval(tx, run, now, channel=Channel.CARRIED, source=d)

    async def _agree_by_policy(self, tx: Any, run: RunRow, rule: str, now: datetime) -> None:
        await self._insert_approval(tx, run, now, channel=Channel.POLICY, comment=rule)

    async def _insert_approval(
        self, tx: Any, run: RunRow, now: datetime, *, channel: Channel, source: plans.DecisionRow | None = None, comment: str = ""
    ) -> None:
        by = source.by if source else SYSTEM
        nonce = derive("carry", run.org, run.id, run.plan_digest or "", by.id)
        await tx.execute(
            decisions.insert().values(
                org_id=run.org,
                id=derive("dec", run.org, run.id, nonce),
                run_id=run.id,
                plan_digest=run.plan_digest,
                decision="approve",
                accepted=True,
                channel=str(channel),
                principal=by.id,
                principal_kind=str(by.kind),
                acts_for=by.acts_for,
                confirm_name=source.confirm_name if source else None,
                comment=f"carried over from {source.plan_digest}" if source else comment,
                nonce=nonce,
                at=stamp(now),
            )
        )
        await audit.append(
            tx,
            org=run.org,
            at=stamp(now),
            action=f"run.approve.{channel}",
            by=by,
            target=run.stack_path,
            run_id=run.id,
            plan_digest=run.plan_digest,
        )

    async def _supersede(self, tx: Any, run: RunRow, now: datetime) -> list[str | None]:
        """Older runs of the same requester and type that still wait on this stack make way; their workflows are told."""
        if run.state is not RunState.AWAITING_APPROVAL:
            return []
        waiting, _ = await runs.list_runs(
            tx, run.org, stack_id=run.stack_id, states=[RunState.AWAITING_APPROVAL], types=[run.type], requester=run.requester.id, limit=100
        )
        told: list[str | None] = []
        for older in waiting:
            if older.id != run.id and older.requester.id == run.requester.id and older.created_at <= run.created_at:
                why = f"superseded by {run.id}, a newer request of the same kind"
                await runs.move(tx, older, RunState.CANCELED, at=now, body={"by": SYSTEM.id, "message": why}, reason=why, code="canceled")
                told.append(older.id)
        return told

    # -- apply and follow ---------------------------------------------------------------------------------------------

    async def apply(self, asked: ApplyInput) -> Standing:
        """Claim the plan, launch, and follow to the end. Tried once; what is lost on the way is followed, never tried again."""
        async with heartbeating():
            run, bundle = await self._bundle(asked)
            if bundle is None:
                return await self._stand(RunRef(org=asked.org, run_id=asked.run_id))
            taken = await claim.claim(
                self.store,
                org=asked.org,
                run_id=asked.run_id,
                plan_digest=asked.plan_digest,
                bundle_sha256=sha256(bundle),
                policy=self.policy,
                host=self.here.host,
                boot_id=self.here.boot_id,
            )
            if not isinstance(taken, claim.Claimed):
                return await self._stand(RunRef(org=asked.org, run_id=asked.run_id))
            await self._launch(run, taken, bundle)
            return await self._follow(asked.org, asked.run_id, taken.attempt)

    async def _bundle(self, asked: ApplyInput) -> tuple[RunRow, bytes | None]:
        async with self.store.read() as conn:
            run = await runs.get_run(conn, asked.org, asked.run_id)
            plan = await plans.plan_by_digest(conn, asked.org, asked.plan_digest)
            if plan is None or plan.run_id != run.id:
                raise FailedPrecondition("no such plan of this run; nothing is applied")
            if run.state is not RunState.APPROVED:
                return run, None
            ref = next(a for a in plan.summary.artifacts if a.kind == "plan_bundle")
            return run, await self.artifacts.read(conn, org=asked.org, artifact_id=ref.id)

    async def _launch(self, run: RunRow, taken: claim.Claimed, bundle: bytes) -> None:
        async with self.store.read() as conn:
            stack = (await records.get_stack(conn, run.org, run.stack_id)).config
        job = ApplyJob(
            attempt_id=taken.attempt.id,
            epoch=taken.attempt.epoch,
            run_id=run.id,
            stack=stack,
            mode=run.mode,
            bundle=bundle,
            expected=run.total,
            state=self._access(stack, taken.attempt.id, taken.password, taken.lineage, taken.serial),
            reveal=self._reveal(run.org),
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
                return await self._stand(RunRef(org=asked.org, run_id=asked.run_id))
            return await self._follow(asked.org, asked.run_id, attempt, stop=asked.stop)

    async def _follow(self, org: str, run_id: str, attempt: AttemptRow, *, stop: bool = False) -> Standing:
        async with self.store.read() as conn:
            run = await runs.get_run(conn, org, run_id)
        stopping = run.state is RunState.CANCELING

        async def cancel() -> None:
            nonlocal stopping
            stopping = True
            async with self.store.begin() as tx:
                live = await runs.get_run(tx, org, run_id)
                if live.state is RunState.APPLYING:
                    await runs.move(tx, live, RunState.CANCELING, at=self.store.now())

        if stop and not stopping:
            await cancel()
        following = self.engine.follow(attempt.id, self._progress(run), stop=lambda: stopping)
        outcome = await until_done(following, on_cancel=cancel)
        return await self._record_outcome(run, attempt, outcome)

    def _progress(self, run: RunRow) -> Callable[[Progress], Any]:
        last: list[Progress] = []

        async def tell(progress: Progress) -> None:
            if not last or last[0] != progress:
                last[:] = [progress]
                await runs.progress(self.store, run, done=progress.done, total=progress.total or run.total, current=progress.current)

        return tell

    async def _record_outcome(self, run: RunRow, attempt: AttemptRow, outcome: Outcome) -> Standing:
        written = [
            await self.artifacts.write(
                org=run.org, stack_id=run.stack_id, run_id=run.id, kind=kind, name=f"{kind}-{attempt.id}", data=data, readable=True
            )
            for kind, data in (("apply_log", outcome.log.encode()), ("journal", outcome.journal))
            if data
        ]
        freed = None
        async with self.store.begin() as tx:
            now = self.store.now()
            live = await runs.get_run(tx, run.org, run.id)
            known = await plans.attempt_by_id(tx, run.org, attempt.id)
            if known is not None and known.closed_at is None and live.state in _MOVING:
                for w in written:
                    await self.artifacts.record(tx, w)
                live = await self._settle(tx, live, outcome, now)
                if outcome.state is not RunState.INTERRUPTED:
                    freed = await claim.close(tx, attempt, live, outcome=live.state, evidence=outcome.evidence, at=now)
                await audit.append(
                    tx,
                    org=run.org,
                    at=stamp(now),
                    action="run.apply",
                    by=SYSTEM,
                    outcome=str(live.state),
                    target=run.stack_path,
                    run_id=run.id,
                    attempt=attempt.id,
                    plan_digest=attempt.plan_digest,
                )
            standing = await standing_of(tx, live)
        if outcome.state is not RunState.INTERRUPTED:
            await self.engine.forget(attempt.id)
        await self._wake(freed)
        return standing

    async def _settle(self, tx: Any, run: RunRow, outcome: Outcome, now: datetime) -> RunRow:
        facts: dict[str, Any] = {
            "reason": outcome.message or None,
            "code": outcome.code,
            "done": outcome.done,
            "total": outcome.total or run.total,
            "outputs": json.dumps(dict(outcome.outputs)),
            "resources": json.dumps([dict(r) for r in outcome.resources[:RESOURCES_KEPT]]),
        }
        body = {"message": outcome.message, "evidence": list(outcome.evidence)}
        if run.state is RunState.INTERRUPTED:
            run = await runs.move(tx, run, RunState.RECONCILING, at=now)
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

    # -----------------------------------------------------------------------------------------------------------------

    async def _stand(self, ref: RunRef) -> Standing:
        async with self.store.read() as conn:
            return await standing_of(conn, await runs.get_run(conn, ref.org, ref.run_id))

    async def _wake(self, run_id: str | None) -> None:
        if run_id is not None:
            await self.wake(run_id)


async def _no_progress(progress: Progress) -> None:
    """A plan tells no progress: it is short, and a heartbeat runs beside it."""
