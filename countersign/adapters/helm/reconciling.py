"""After a lost operation on a release: what it did, undo what was cut off, and plan what is left.

Whoever asks has fenced the attempt and proved it dead; a rollback beside a living helm leaves two deployed revisions. Then the history
says what happened (`core/helm/recovery.py`), a revision that was cut off is rolled back to the newest that was deployed, or uninstalled
where none was, and what people agreed to is planned once more, from the same archive and values. All of it may be repeated.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from countersign.adapters import private
from countersign.adapters.helm import bundle
from countersign.adapters.helm.applying import Attempts, named_of, remove_left_behind
from countersign.adapters.helm.archive import Archive
from countersign.adapters.helm.bundle import Meta, Unpacked
from countersign.adapters.helm.planning import planned
from countersign.adapters.helm.session import Session, at_work
from countersign.adapters.helm.wanted import Wanted
from countersign.core import reconcile as core
from countersign.core.digests import sha256
from countersign.core.engine import Beat, Planned, Progress, Reconciled, ReconcileJob
from countersign.core.errors import CountersignError, Unavailable
from countersign.core.helm.digest import GONE, marked
from countersign.core.helm.recovery import Finding, Then, found, newest, proved
from countersign.core.plan import Plan
from countersign.core.reconcile import CRASHES, Commands, Decision, Next, Proof, Stop

RECOVERING = "recovering.json"  # in the attempt's folder: numbers of revisions that undoing it was about to make, or to remove


async def reconcile(job: ReconcileJob, beat: Beat, *, attempts: Attempts) -> Reconciled:
    """Raises what is worth asking again; whatever else goes wrong is an operator's."""
    crashes = 0 if job.canceled else job.crashes
    if job.stops or crashes >= CRASHES:
        return Reconciled(decision=_decided(job, None, job.stops))
    log: list[str] = []
    try:
        approved = bundle.read(job.approved)
        async with at_work(attempts.around, env=approved.meta.env, attempt_id=job.attempt_id, reveal=job.reveal) as session:
            session.hide(approved.secrets)
            return await Recovery(job=job, session=session, approved=approved, attempts=attempts, log=log).done(beat)
    except CountersignError as failed:
        if failed.retryable:
            raise
        return Reconciled(decision=_decided(job, None, (core.failed_plan(_commands(job), failed.message),)), log="\n".join(log))


def _commands(job: ReconcileJob) -> Commands:
    return Commands(run_id=job.run_id)


def _decided(job: ReconcileJob, proof: Proof | None, stops: Any) -> Decision:
    crashes = 0 if job.canceled else job.crashes
    return core.decide(_commands(job), proof, stops, crashes=crashes, approval_live=job.approval_live)


@dataclass(frozen=True, kw_only=True)
class Recovery:
    job: ReconcileJob
    session: Session
    approved: Unpacked
    attempts: Attempts
    log: list[str]

    @property
    def meta(self) -> Meta:
        """Of what the lost attempt was to do: the newest plan of this run that was claimed."""
        said = json.loads(self.job.witnesses[-1].plan_json)["facts"] if self.job.witnesses else {}
        return self.approved.meta.model_copy(update={name: said[name] for name in ("base", "base_status") if name in said})

    async def done(self, beat: Beat) -> Reconciled:
        meta, session = self.meta, self.session
        if session.identity.uid != meta.cluster:
            return self._operator(f"{meta.env} leads to another cluster than the one this release is in")
        for _ in range(3):  # undoing is looked at again: what was cut off once may be cut off once more
            finding = found(meta.expected(self._recovering()), await session.described(meta.release))
            self.log.append(finding.why)
            if self.job.canceled and finding.then in (Then.ASK, Then.OPERATOR):
                why = f"Stopped on request: {finding.why}, and nothing of this run works on it any more."
                return Reconciled(decision=Decision(next=Next.STOP, why=why, lines=(finding.why,)), log="\n".join(self.log))
            if finding.then is Then.OPERATOR:
                return self._operator(finding.why)
            if finding.then is Then.DONE:
                removed = await remove_left_behind(session, self.approved.meta)
                self.log.extend(f"removed {one}, which helm had left behind" for one in removed)
                return self._finished(finding)
            if finding.then in (Then.AGAIN, Then.ASK):
                return await self._again(finding, beat)
            await beat(Progress(current="undoing what was cut off"))
            try:
                await self._undone(finding)
            except CountersignError as failed:
                if failed.code == Unavailable.code:
                    raise
                return self._operator(f"{finding.why}, and undoing it failed: {failed.message}")  # again and again makes only revisions
        return self._operator("what was cut off could not be undone; see the log")

    # Undoing

    async def _undone(self, finding: Finding) -> None:
        meta, session = self.meta, self.session
        release = meta.release
        session.helm.limit = 2.0 * meta.timeout + 30
        waits = ["--wait", "--timeout", f"{meta.timeout}s", "-n", release.namespace]
        last = newest(await session.history(release))
        if finding.then is Then.UNINSTALL:
            self._note(last.number if last else 0)
            self.log.append(f"uninstalling {release}, of which nothing was there before")
            kept = ["--keep-history"] if meta.base else []  # of what was uninstalled before: somebody wanted it kept
            await session.run(["uninstall", release.name, *kept, *waits])
        else:
            self._note((last.number if last else 0) + 1)
            self.log.append(f"rolling {release} back to revision {finding.to}")
            forced = ["--force-conflicts"] if meta.force_conflicts else []
            await session.run(["rollback", release.name, str(finding.to), "--history-max", str(meta.history_max), *forced, *waits])
        await self._hooks_removed()

    async def _hooks_removed(self) -> None:
        """Jobs and pods of hooks that the attempt left: helm itself never deletes them, and some still run."""
        run = [one for one in self.meta.hooks if one.kind in ("Job", "Pod")]
        live = await self.session.cluster.get_all(map(named_of, run))
        for hook in run:
            there = live[named_of(hook)]
            before = self.meta.hook_marks.get(hook.address, GONE)
            if there is None or marked(hook.address, there, self.session.around.fingerprints).split(" ")[0] == before.split(" ")[0]:
                continue
            if await self.session.cluster.delete(named_of(hook), uid=str(there["metadata"]["uid"])):
                self.log.append(f"removed {hook.address}, which a hook of the lost apply had made")

    def _recovering(self) -> tuple[int, ...]:
        try:
            return tuple(json.loads(self._notes.read_bytes()))
        except (OSError, ValueError):
            return ()

    def _note(self, number: int) -> None:
        """Before it is begun: its description alone would not tell it from a rollback that somebody else began."""
        self._notes.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private.write(self._notes, json.dumps(sorted({*self._recovering(), number})).encode())

    @property
    def _notes(self) -> Any:
        return self.attempts.where(self.job.witnesses[-1].attempt_id) / RECOVERING

    # What follows

    async def _again(self, finding: Finding, beat: Beat) -> Reconciled:
        """What people agreed to, planned from what is there now."""
        await self._hooks_removed()
        approved_records = json.loads(self.job.approved_json)["objects"]
        wanted = self._wanted()
        plan = await planned(self.session, wanted, beat)
        left = json.loads(plan.plan_json)["objects"]
        proof = proved(approved_records, left)
        if finding.then is Then.ASK:
            proof = replace(proof, refused=(finding.why, *proof.refused))
        lines = (finding.why, *proof.lines)
        if self.job.canceled:
            why = f"Stopped on request: {finding.why}."
            return Reconciled(decision=Decision(next=Next.STOP, why=why, lines=()), log="\n".join(self.log))
        proof = replace(proof, lines=lines, left=max(proof.left, int(plan.plan.changes_anything)))
        return Reconciled(decision=_decided(self.job, proof, ()), planned=plan, log="\n".join(self.log))

    def _wanted(self) -> Wanted:
        meta, approved = self.approved.meta, self.approved
        archive = None
        if approved.chart is not None:
            archive = Archive(data=approved.chart, name=meta.chart_name, version=meta.chart_version, source=meta.chart_source)
        return Wanted(
            action=meta.action,
            release=meta.release,
            run=meta.run,
            archive=archive,
            values=approved.values,
            secrets=approved.secrets,
            to=meta.to,
            run_tests=meta.run_tests,
            keep_history=meta.keep_history,
        )

    def _finished(self, finding: Finding) -> Reconciled:
        """It had done all of it. Nothing is left to plan, and that is recorded like a plan of nothing."""
        nothing = Plan(engine="helm", engine_build=self.approved.meta.engine_build, semantic_digest=sha256(self.job.approved_json))
        document = json.dumps({"objects": [], "facts": {}}).encode()
        empty = Planned(
            plan=nothing,
            plan_sha256=sha256(document),
            bundle=self.job.approved,
            plan_json=document,
            view=json.dumps({"v": "countersign.view/1", "total": 0, "shown": 0, "changes": [], "counts": {}}).encode(),
            semantic_document=document,
            inputs={},
            log="\n".join(self.log),
            lineage=self.job.state.lineage,
            serial=self.job.state.serial,
        )
        decision = _decided(self.job, Proof(lines=(finding.why,)), ())
        return Reconciled(decision=decision, planned=empty, log="\n".join(self.log))

    def _operator(self, why: str) -> Reconciled:
        release, commands = self.meta.release, _commands(self.job)
        where = f"-n {release.namespace}"
        said = Stop(
            why=f"{why}. Make sure that no helm works on {release} any more, then bring it where it should be.",
            commands=(f"helm history {release.name} {where}", f"helm rollback {release.name} REVISION {where} --wait"),
        )
        return Reconciled(decision=_decided(self.job, None, (said,)), log="\n".join((*self.log, commands.resume)))
