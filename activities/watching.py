"""What whoever follows an apply passes on while it runs: how far it is, what it tells, and alarms; and what people want of it.

Several may follow one attempt, and any of them may be the last: what one of them passed on is not passed on again. Nothing here
ends the watching: a store that is busy or a full disk is tried again at the next look.
"""

import time
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities import beating
from activities.engine import EngineStep
from countersign.adapters.store import audit, canceling, journals, runs
from countersign.adapters.store import late as late_testimony
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.runs import RunRow
from countersign.core.engine import Accountable, Heard, Progress, Said, Wish
from countersign.core.errors import CountersignError
from countersign.core.principal import SYSTEM
from countersign.core.run import RunState

EVERY = timedelta(milliseconds=900)  # engines are looked at twice a second, so what one told is in the store within one

FACTS = 3  # chunks that are shipped whether or not something was said: by then the process is known, and the lock it took


class Watching:
    def __init__(self, step: EngineStep, run: RunRow, attempt: AttemptRow) -> None:
        self._step, self._run, self._attempt = step, run, attempt
        self._stopping = run.state is RunState.CANCELING
        self._forced = False
        self._told: Progress | None = None
        self._said: list[Said] = []
        self._upto = 0
        self._next = time.monotonic() + EVERY.total_seconds()  # what is over by then needs no journal but its own
        self._shipped = 0
        self._alarms = 0
        self._over: Progress | None = None  # with what it told last

    @property
    def stopping(self) -> bool:
        return self._stopping

    def wanted(self) -> Wish:
        if self._forced:
            return Wish.KILL
        return Wish.STOP if self._stopping else Wish.GO_ON

    async def cancel(self) -> None:
        """Somebody wants it to stop: it gets its one interrupt at the next look."""
        self._stopping = True
        async with self._step.store.begin() as tx:
            live = await runs.get_run(tx, self._run.org, self._run.id)
            if live.state is RunState.APPLYING:
                await runs.move(tx, live, RunState.CANCELING, at=self._step.store.now())

    async def tell(self, progress: Progress) -> None:
        try:
            if len(progress.alarms) > self._alarms:
                await self._alarm(progress.alarms)
            await self._pass_on(progress)
        except CountersignError as failed:
            activity.logger.warning("%s: not passed on yet: %s", self._attempt.id, failed.message)

    async def _pass_on(self, progress: Progress) -> None:
        due = time.monotonic() >= self._next
        if progress.over:  # how it ended says more, and is recorded in a moment
            self._over = progress
        elif due and progress.hear is not None:
            self._next = time.monotonic() + EVERY.total_seconds()
            heard = progress.hear()
            self._said += heard.said
            if self._said or progress != self._told or self._shipped < FACTS:
                await self._ship(progress, heard)
                self._shipped += 1
        elif progress != self._told:
            async with self._step.store.begin() as tx:
                await self._record(tx, progress)
        if progress != self._told:
            self._told = progress
            works = f", in the works: {progress.current}" if progress.current else ""
            alarm = f"; ALARM: {progress.alarms[0]}" if progress.alarms else ""
            beating.tell(f"{progress.done} of {progress.total or self._run.total} done{works}{alarm}")
        if due and self._stopping and not self._forced:
            async with self._step.store.read() as conn:
                self._forced = await canceling.is_forced(conn, self._run)

    async def rest(self) -> None:
        """Ship what it told last. Where its record closes the attempt there is no need: its whole journal is in that."""
        if self._over is not None and self._over.hear is not None:
            try:
                heard = self._over.hear()
                self._said += heard.said
                await self._ship(self._over, heard)
            except CountersignError as failed:
                activity.logger.warning("%s: its last words are not passed on: %s", self._attempt.id, failed.message)

    async def _ship(self, progress: Progress, heard: Heard) -> None:
        """Progress and journal in one small transaction a second."""
        step, run = self._step, self._run
        async with step.store.begin() as tx:
            if progress != self._told:
                await self._record(tx, progress)
            late = await journals.append(
                tx,
                step.keyring,
                org=run.org,
                attempt_id=self._attempt.id,
                host=step.here.host,
                said=self._said,
                upto=heard.upto,
                process=heard.process,
                at=step.store.now(),
            )
            if late and self._said and isinstance(step.engine, Accountable):
                told = step.engine.told(b"".join(one.line + b"\n" for one in self._said))
                await late_testimony.tell(tx, run.org, self._attempt, told, at=step.store.now())
        self._said = []

    async def _record(self, tx: AsyncConnection, progress: Progress) -> None:
        total = progress.total or self._run.total
        await runs.progress(tx, self._run, at=self._step.store.now(), done=progress.done, total=total, current=progress.current)

    # The live guard

    async def _alarm(self, alarms: Sequence[str]) -> None:
        """It does something that nobody approved: tell everybody at once, and interrupt it where policy says so."""
        step, run, interrupts = self._step, self._run, self._step.policy.guard == "interrupt"
        async with step.store.begin() as tx:
            now = step.store.now()
            live = await runs.get_run(tx, run.org, run.id)
            known = {one["message"] for one in live.alarms if one["attempt"] == self._attempt.id}
            for alarm in (one for one in alarms if one not in known):
                live = await runs.alarm(tx, live, at=now, attempt=self._attempt.id, message=alarm, guard=step.policy.guard)
                await audit.of_run(
                    tx, run, at=now, action="run.guard", by=SYSTEM, outcome=step.policy.guard, attempt=self._attempt.id, alarm=alarm
                )
            if interrupts and live.state is RunState.APPLYING:
                why = "interrupted by the live guard"
                await runs.move(tx, live, RunState.CANCELING, at=now, body={"by": SYSTEM.id, "message": why})
        self._stopping = self._stopping or interrupts
        self._alarms = len(alarms)
        if step.alarm is not None:
            try:
                await step.alarm(run.id)
            except CountersignError as away:
                activity.logger.warning("Temporal is not told of the alarm: %s", away.message)
