"""One attempt at a release: launched once, followed by anybody, told on evidence.

helm runs detached, on exactly the archive and the values that were approved. What it did is not taken from its exit code alone: the
release's own history says which revision is there, and whose it is.
"""

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from countersign.adapters import private
from countersign.adapters.attempts import AttemptFolders, never_started, obey, usable
from countersign.adapters.helm import bundle
from countersign.adapters.helm.bundle import Meta, Object
from countersign.adapters.helm.session import Session, Surroundings, at_work
from countersign.adapters.kubernetes.cluster import Named
from countersign.adapters.process import Detached, Hold, end_marked, marked_processes, tail_of
from countersign.core.engine import ApplyJob, Beat, Heard, Outcome, Progress, Remains, Wanted
from countersign.core.errors import CountersignError, PlanStale, Unavailable
from countersign.core.helm import digest, failures
from countersign.core.helm.recovery import Action, Revision, Then, found, newest
from countersign.core.model import Payload
from countersign.core.redaction import Redactor
from countersign.core.run import RunState

LOOK = 0.5  # seconds between two looks at a running apply; its end is noticed at once
DEATH = 10.0  # seconds: SIGKILL takes effect at once, but for a process that waits for a disk
GONE_WITHIN = 60.0  # seconds for what was uninstalled to be gone; claims that somebody holds are not
LOG_MAX = 1 << 20


class Noted(Payload):
    """`attempt.json`: what a follower needs. No secret."""

    attempt_id: str
    run_id: str
    env: str
    org: str
    path: str
    expected: int


@dataclass(frozen=True, kw_only=True)
class Attempts(AttemptFolders):
    around: Surroundings

    @property
    def grace(self) -> float:
        """Between the one interrupt and the kill: helm that rolls back takes as long as it may to apply."""
        return 2.0 * self.around.timeout + 30

    # Launching

    async def launch(self, job: ApplyJob) -> None:
        """Start helm unless this attempt was started already. Whatever it raises, nothing was started, and `follow` says why."""
        async with self.launching(job.attempt_id) as hold:
            if hold is not None:
                await self._launch(job, self.where(job.attempt_id), hold)

    async def _launch(self, job: ApplyJob, folder: Path, hold: Hold) -> None:
        meta = bundle.unpack(job.bundle, folder)
        noted = Noted(
            attempt_id=job.attempt_id,
            run_id=job.run_id,
            env=meta.env,
            org=job.stack.org,
            path=job.stack.path,
            expected=job.expected,
        )
        private.write(folder / "attempt.json", noted.model_dump_json().encode())
        async with at_work(self.around, env=meta.env, attempt_id=_checks(job.attempt_id), reveal=job.reveal, folder=folder) as session:
            await refuse_stale(session, meta)
        await hold.launch(meta.argv(self.around.helm(), folder), cwd=folder, env=session.environment)

    # Following

    async def follow(self, attempt_id: str, beat: Beat, *, stop: Wanted) -> Outcome:
        """Watch to the end. Being cancelled leaves helm as it is: unwatched it finishes, and the next follower tells it."""
        detached, folder = self.detached(attempt_id), self.where(attempt_id)
        noted: Noted | None = None
        with usable():
            while True:
                if not detached.begun and (detached.abandoned or await detached.abandon()):
                    return never_started(folder)
                obey(detached, stop())
                if (since := detached.interrupted_at) is not None and time.time() - since > self.grace:
                    detached.kill()
                over = await detached.ended(LOOK)
                noted = noted or noted_in(folder)
                total = noted.expected if noted else 0
                hear = partial(Heard, process=detached.process())
                await beat(Progress(total=total, current=_current(folder), over=over, hear=hear))
                if over and detached.begun:
                    return await self._told(detached, folder, total, beat)

    async def _told(self, detached: Detached, folder: Path, total: int, beat: Beat) -> Outcome:
        left_over = detached.sweep()
        meta, redactor = meta_in(folder), redactor_in(folder)
        code, errors = detached.exit_code(), tail_of(detached.folder / "errors")
        said = [f"helm's exit code {code}" if code is not None else "helm left no exit code"]
        if detached.interrupted_at is not None:
            said.append("it was interrupted on request")
        if detached.killed:
            said.append("it was asked to stop, did not, and was killed")
        if left_over:
            said.append(f"{left_over} processes it left behind were ended")
        log = log_of(detached.folder, redactor)
        if code is None or detached.killed or code > 1 or not detached.output_kept:
            why = "helm was ended before it could say what it did; its release tells."
            return Outcome(state=RunState.INTERRUPTED, code="interrupted", message=why, total=total, log=log, evidence=tuple(said))
        async with at_work(self.around, env=meta.env, attempt_id=_checks(detached.marker), folder=folder) as session:
            session.hide(redactor.secrets)
            return await Ended(
                session=session,
                meta=meta,
                code=code,
                errors=errors,
                canceled=detached.interrupted_at is not None,
                total=total,
                log=log,
                said=tuple(said),
                beat=beat,
            ).outcome()

    # Ending

    async def end(self, attempt_id: str) -> Remains:
        """Kill what is left of a fenced attempt and wait for its death. A folder that is gone tells nothing."""
        folder, detached = self.where(attempt_id), self.detached(attempt_id)
        known = await asyncio.to_thread(folder.is_dir)
        never = known and not detached.begun and (detached.abandoned or await detached.abandon())
        until = time.monotonic() + DEATH
        while True:
            if known and not never:
                detached.kill()
            for marker in (attempt_id, _checks(attempt_id)):
                await asyncio.to_thread(end_marked, marker)
            alive = len(marked_processes(attempt_id)) or int(known and detached.is_alive())
            if not alive or time.monotonic() > until:
                return Remains(survivors=alive, whole=known and not alive)
            await asyncio.sleep(0.05)

    async def forget(self, attempt_id: str) -> None:
        self.refuse_living(attempt_id)
        await asyncio.to_thread(shutil.rmtree, self.where(attempt_id), ignore_errors=True)


async def refuse_stale(session: Session, meta: Meta) -> None:
    """What moved since the plan was made is told before anything is changed. Raises PlanStale."""
    if session.identity.uid != meta.cluster:
        raise PlanStale(f"{meta.env} leads to another cluster than the one this was planned with")
    last = newest(await session.history(meta.release))
    now = (last.number, last.status) if last else (0, "")
    if now != (meta.base, meta.base_status):
        there = str(last) if last else "no release"
        raise PlanStale(f"{meta.release} moved after this plan was made: there is {there}, and it was made at revision {meta.base}")
    live = await session.cluster.get_all(named_of(one) for one in meta.objects)
    marks = {one.address: digest.marked(one.address, live[named_of(one)], session.around.fingerprints) for one in meta.objects}
    if moved := digest.moved(meta.live, marks):
        more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
        raise PlanStale(f"{', '.join(moved[:3])}{more} changed after this plan was made")


async def remove_left_behind(session: Session, meta: Meta) -> list[str]:
    """What was to be deleted and helm did not: it forgets what a failed revision made. Only what still is as it was planned."""
    going = {one.address: named_of(one) for one in meta.objects if one.action == "delete"}
    live = await session.cluster.get_all(going.values())
    removed: list[str] = []
    for address, one in going.items():
        metadata = (live[one] or {}).get("metadata") or {}
        uid, planned = str(metadata.get("uid", "")), meta.live.get(address, digest.GONE).split(" ")[0]
        owner = (metadata.get("annotations") or {}).get("meta.helm.sh/release-name")
        if not uid or uid != planned or metadata.get("deletionTimestamp") or owner != meta.name:
            continue
        if await session.cluster.delete(one, uid=uid):
            removed.append(address)
    return removed


@dataclass(frozen=True, kw_only=True)
class Ended:
    """helm ended and said how; the release's history says what that came to."""

    session: Session
    meta: Meta
    code: int
    errors: str
    canceled: bool
    total: int
    log: str
    said: tuple[str, ...]
    beat: Beat

    async def outcome(self) -> Outcome:
        history = await self.session.described(self.meta.release)
        last = newest(history)
        there = str(last) if last else "no release"
        if self.code == 0:
            return await self._done(history, there)
        failure = failures.classify(self.errors)
        words = self.session.redactor.line(failure.said[-2000:], 600)
        error_code: str = failure.error(self.session.redactor).code
        code = "canceled" if self.canceled else error_code
        untouched = (last.number, last.status) == (self.meta.base, self.meta.base_status) if last else self.meta.base == 0
        begun = self.meta.base_status == "uninstalling"  # by an attempt before, so that the status alone does not tell what this one did
        if untouched and not begun and self._changed_nothing(failure):
            state = RunState.CANCELED if self.canceled else RunState.ERRORED
            why = "Stopped on request before anything was changed." if self.canceled else f"Nothing was changed: {failure.advice}"
            return self._outcome(state, code, f"{why}. helm said: {words}", f"{there}, as before")
        # An uninstall whose cluster went away was not refused by anybody: it is accounted for, and a second one finishes it.
        cut_off = last is not None and last.status == "uninstalling" and failure.failed is failures.Failed.UNREACHABLE
        if last is not None and (last.pending or cut_off):
            return self._outcome(RunState.INTERRUPTED, "interrupted", f"helm left {there}. It said: {words}", there)
        undone = self._undone(history)
        message = f"{failure.advice}; {undone or f'{there} is what was left'}. helm said: {words}"
        return self._outcome(RunState.PARTIALLY_APPLIED, code, message, there)

    def _changed_nothing(self, failure: failures.Failure) -> bool:
        """An install that failed and was taken back leaves no revision either, and its hooks ran."""
        return self.meta.base > 0 or failure.stored is False or (self.canceled and failure.stored is None)

    def _undone(self, history: Sequence[Revision]) -> str | None:
        last = newest(history)
        if last is None:
            return "what it had made was removed again"
        back = last.rolled_back_to()
        if self.meta.action is Action.DEPLOY and last.number > self.meta.base + 1 and back is not None and last.status == "deployed":
            return f"it was rolled back to revision {back}"
        return None

    async def _done(self, history: Sequence[Revision], there: str) -> Outcome:
        finding = found(self.meta.expected(), history)
        if finding.then is not Then.DONE:
            return self._outcome(RunState.INTERRUPTED, "interrupted", f"helm said that it was done, and {finding.why}", there)
        try:
            removed = await remove_left_behind(self.session, self.meta)
        except CountersignError as refused:
            if refused.code == Unavailable.code:
                raise
            why = f"Done but for what a failed revision had left behind: {refused.message}"
            return self._outcome(RunState.PARTIALLY_APPLIED, refused.code, why, finding.why)
        said = [f"removed {address}, which helm had left behind" for address in removed]
        if self.meta.action is Action.UNINSTALL:
            if left := await self._left():
                why = f"The release was uninstalled, and these are still there: {', '.join(left[:10])}"
                return self._outcome(RunState.PARTIALLY_APPLIED, "timeout", why, *said, there)
            return self._outcome(RunState.VERIFYING, None, "", *said, finding.why)
        if self.meta.run_tests and (failed := await self._tested()) is not None:
            return self._outcome(
                RunState.PARTIALLY_APPLIED, "provider_error", f"Deployed as {there}, and its tests failed: {failed}", there
            )
        return self._outcome(RunState.VERIFYING, None, "", *said, finding.why)

    async def _left(self) -> list[str]:
        """Objects of an uninstalled release that do not go."""
        going = {one.address: named_of(one) for one in self.meta.objects if one.action == "delete"}
        until = time.monotonic() + GONE_WITHIN
        while True:
            live = await self.session.cluster.get_all(going.values())
            left = [address for address, one in going.items() if live[one] is not None]
            if not left or time.monotonic() > until:
                return left
            await self.beat(Progress(total=self.total, current=f"waiting for {left[0]} to be gone"))
            await asyncio.sleep(LOOK)

    async def _tested(self) -> str | None:
        """What failed of the chart's tests; they may run again if whoever watches them is lost."""
        release = self.meta.release
        self.session.helm.limit = 2.0 * self.meta.timeout + 30
        await self.beat(Progress(total=self.total, current="running the chart's tests"))
        try:
            await self.session.run(["test", release.name, "-n", release.namespace, "--timeout", f"{self.meta.timeout}s"])
        except CountersignError as failed:
            if failed.retryable and failed.code == "unavailable":
                raise
            return failed.message
        return None

    def _outcome(self, state: RunState, code: str | None, message: str, *evidence: str) -> Outcome:
        done = state is RunState.VERIFYING
        meta = self.meta
        resources = [{"address": one.address, "action": one.action, **({"ok": True} if done else {})} for one in meta.objects]
        outputs: dict[str, object] = {}
        if done and meta.action is not Action.UNINSTALL:
            told = {"revision": meta.base + 1, "chart": f"{meta.chart_name} {meta.chart_version}".strip() or f"of revision {meta.to}"}
            outputs = {name: {"value": value} for name, value in told.items()}
        return Outcome(
            state=state,
            code=code,
            message=self.session.redactor.line(message, 1500),
            done=self.total if done else 0,
            total=self.total,
            outputs=outputs,
            resources=tuple(row for row in resources if row["action"] != "no-op"),
            log=self.log,
            evidence=(*self.said, *evidence),
        )


def named_of(one: Object) -> Named:
    return Named(api_version=one.api_version, kind=one.kind, namespace=one.namespace, name=one.name)


def _checks(attempt_id: str) -> str:
    """What is asked beside helm is marked otherwise: ending it must not end the apply."""
    return f"{attempt_id}-checks"


def meta_in(folder: Path) -> Meta:
    return Meta.model_validate_json((folder / bundle.META).read_bytes())


def noted_in(folder: Path) -> Noted | None:
    try:
        return Noted.model_validate_json((folder / "attempt.json").read_bytes())
    except (OSError, ValueError):
        return None


def redactor_in(folder: Path) -> Redactor:
    return Redactor(bundle.secrets_in(folder))


def log_of(run: Path, redactor: Redactor) -> str:
    said = "\n".join(filter(None, (tail_of(run / "journal", LOG_MAX), tail_of(run / "errors", LOG_MAX))))
    return redactor.lines(said)


def _current(folder: Path) -> str:
    try:
        meta = meta_in(folder)
    except (OSError, ValueError):
        return ""
    return f"helm {meta.action} of {meta.release}"
