"""Points of one victim together, each on a stack of its own: brought to their boundaries, held, the victim killed, let go."""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from countersign.adapters.store.runs import RunRow
from countersign.core.run import RunState
from countersign.core.steps import ApplyInput
from tests.acceptance.installed import eventually
from tests.chaos.judge import BY_HAND, NOT_TRIED, STUCK, Evidence, Found, judged, verdict_of
from tests.chaos.lane import ENV, ORG, PARTS, Lane
from tests.chaos.points import ALONE, WAITING, Boundary, Op, Point, Victim
from tests.chaos.walk import Walk, Wanted
from tests.fakecloud.client import Held

REACHED_WITHIN = 60.0  # seconds for a run to come to its boundary
PATIENCE = 45.0  # seconds beyond which what is stuck is not waited for any more


class NotReached(Exception):
    """The run never came to its boundary, so nothing was tried there."""


@dataclass
class Life:
    """One stack, through the points that are tried on it."""

    points: list[Point]
    slug: str = ""
    exists: bool = False
    wanted: Wanted = field(default_factory=Wanted)
    broken: bool = False  # a point failed here: the next one gets another stack


@dataclass
class Trial:
    """One point on its way."""

    lane: Lane
    life: Life
    point: Point
    seed: int
    walk: Walk
    gates: list[Held] = field(default_factory=list)
    walking: "asyncio.Task[Any] | None" = None
    restart: float = 0.0

    def __post_init__(self) -> None:
        self.found = Found(point=self.point, seed=self.seed)

    # Holding

    def hook(self, at: Boundary, **more: Any) -> Held:
        if at.in_cloud:
            return self.lane.cloud.hook(op=at.op, type="fake_*", name=at.name, project=self.life.slug, when=at.when, times=at.times, **more)
        name = f"{ORG}/{ENV}/{self.life.slug}" if at.op == "ask" else self.walk.run_id
        return self.lane.cloud.hook(op=at.op, type="gate", name=name, when=at.when, times=at.times, **more)

    async def brought(self) -> None:
        """Bring the run to its boundary. Raises NotReached."""
        point = self.point
        if point.first is not None:
            await self._lost_first(point.first)
        if point.at.op == WAITING:
            self.walk.may_approve.clear()
            self.walking = asyncio.create_task(self.walk.done())
            await self._until(self._waits)
            return
        if point.first is None:
            self.gates.append(self.hook(point.at))
            self.walking = asyncio.create_task(self.walk.done())
        await self._reached(self.gates[-1])

    async def _lost_first(self, first: Boundary) -> None:
        """Lose the apply there, so that it is being accounted for when the victim dies."""
        held = self.hook(first)
        self.walking = asyncio.create_task(self.walk.done())
        await self._reached(held)
        self.gates.append(self.hook(self.point.at))
        await self.kill_engine()
        held.release("drop")

    async def _reached(self, held: Held) -> None:
        try:
            async with asyncio.timeout(REACHED_WITHIN):
                while not (await asyncio.to_thread(held.connection.call, "GET", f"/hooks/{held.id}?wait=5"))[1]["reached"]:
                    if self.walking is not None and self.walking.done():
                        row = self.walking.result()
                        raise NotReached(f"the run was {row.state} before it came to {self.point.at.id}: {row.reason}")
        except TimeoutError:
            row = await self.lane.run(self.walk.run_id)
            raise NotReached(f"it did not come to {self.point.at.id} in time: {row.state if row else 'no run'}") from None

    async def _until(self, probe: Any) -> None:
        try:
            await eventually(probe, self.point.id, REACHED_WITHIN)
        except AssertionError as late:
            raise NotReached(str(late)) from None

    async def _waits(self) -> bool:
        row = await self.lane.run(self.walk.run_id)
        return row is not None and row.state is RunState.AWAITING_APPROVAL

    # Killing

    async def kill(self) -> None:
        """Kill what is this run's own."""
        if self.point.also == "late":
            await self._kill_late()
        elif self.point.victim is Victim.TERRAFORM:
            await self._kill_frozen(await self.lane.engines(self.walk.run_id), group=self.point.in_apply and self.seed % 2 == 0)
        else:
            await self._kill_frozen(await self.lane.plugins(self.walk.run_id), group=False)
        self.restart = self.restart or time.time()  # nobody starts these again but the run itself

    async def kill_engine(self) -> None:
        for pid in await self.lane.engines(self.walk.run_id):
            os.killpg(os.getpgid(pid), signal.SIGKILL)

    async def _kill_frozen(self, pids: Sequence[int], *, group: bool) -> None:
        """Kill -9. What the cloud was asked for it finishes, or never heard of: the seed says which."""
        assert pids, f"nothing to kill at {self.point.id}"
        at = self.point.at
        drops = at.in_cloud and self.seed % 4 >= 2
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # it hears nothing of what the cloud still does
        if self.point.also == "meddle":
            await self._destroyed_by_hand("three")
        if at.in_cloud and not drops:
            await self._let_go("go")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(pid), signal.SIGKILL) if group else os.kill(pid, signal.SIGKILL)
        if drops:
            await self._let_go("drop")

    async def _kill_late(self) -> None:
        """What the dead process asked for arrives when its attempt is fenced, and proven dead."""
        held, reconciling = self.gates[-1], self.hook(Boundary(op="job", when="before"))
        passed = self.hook(Boundary(op=self.point.at.op, when="after"), do="delay")
        await self.kill_engine()
        self.restart = time.time()
        await self._reached(reconciling)
        held.release("go")
        await self._reached(passed)
        reconciling.release("go")

    async def _let_go(self, then: str) -> None:
        held = self.gates[-1]
        held.release(then)

        async def gone() -> bool:
            return (await asyncio.to_thread(held.connection.call, "GET", f"/hooks/{held.id}"))[1]["waiting"] == 0

        await eventually(gone, "the cloud to go on")

    async def _destroyed_by_hand(self, name: str) -> None:
        [one] = [o for o in self._objects() if o["name"] == name]
        await asyncio.to_thread(self.lane.cloud.connection.delete, one["id"])

    def _objects(self) -> list[dict[str, Any]]:
        from tests.fakecloud.world import live

        return [o for o in live(self.lane.cloud.record).values() if o["project"] == self.life.slug]

    # Afterwards

    async def let_go(self, restart: float) -> None:
        self.restart = self.restart or restart
        if self.point.victim is Victim.WORKER and self.point.in_apply and self.point.first is None:
            self.found.reattach = await self._reattached()
        if self.point.also == "apply":
            await self._delivered_again()
        self.release()

    def release(self) -> None:
        for held in self.gates:
            held.release("go")
        self.walk.may_approve.set()

    async def _reattached(self) -> float | None:
        """Seconds from the restart until the next worker follows the apply, which is still held."""
        client = await self.lane.temporal()

        async def followed() -> bool:
            try:
                described = await client.get_workflow_handle(self.walk.run_id).describe()
            except Exception:  # a server under load answers late
                return False
            return any(p.activity_type.name == "terraform.follow" and p.state == 2 for p in described.raw_description.pending_activities)

        try:
            await eventually(followed, "the apply to be followed again", STUCK)
        except AssertionError:
            return None
        return time.time() - self.restart

    async def _delivered_again(self) -> None:
        """The apply once more, as a Temporal does that was restored from an older copy."""
        from tests.chaos.redelivery import delivered

        row = await self.lane.run(self.walk.run_id)
        assert row is not None and row.plan_digest is not None
        await delivered(self.lane, ApplyInput(org=ORG, run_id=row.id, plan_digest=row.plan_digest))

    async def judged(self) -> Found:
        assert self.walking is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self.restart + STUCK + PATIENCE - time.time())):
                await asyncio.shield(self.walking)
        self.walking.cancel()
        await asyncio.wait({self.walking})
        if not self.walking.cancelled() and (broken := self.walking.exception()) is not None:
            self.found.wrong.append(f"{type(broken).__name__}: {broken}"[:500])
        row = await self.lane.run(self.walk.run_id)
        final = await self._finished(row)
        mine = [line for line in self.lane.cloud.record if line["object"]["project"] == self.life.slug]
        since = [line for line in mine if line["n"] > self.walk.begun_at]
        agreed_at = self.walk.agreed_at if self.walk.agreed_at is not None else len(self.lane.cloud.record)
        agreed = {d.plan_digest for d in await self.lane.decisions(self.walk.run_id) if d.accepted and d.decision == "approve"}
        attempts = await self.lane.attempts(self.walk.run_id)
        judged(
            self.found,
            Evidence(
                row=row,
                final=final,
                events=await self.lane.events(self.walk.run_id),
                record=since,
                all_record=mine,
                before_agreement=sum(line["n"] <= agreed_at and line["by"] != BY_HAND for line in since),
                state=await self.lane.document(self.life.slug),
                locked=await self.lane.locked(self.life.slug),
                unapproved_attempts=sum(a.plan_digest not in agreed for a in attempts),
                restart=self.restart,
                size=self.walk.wanted.size,
                kind=self.walk.wanted.kind,
            ),
        )
        return self.found

    async def _finished(self, row: RunRow | None) -> RunRow | None:
        """Where people are asked as they have to be, they answer, and the run goes on to its end."""
        if row is None or verdict_of(row) != self.point.expected.verdict or row.ended:
            return row
        if row.state is RunState.NEEDS_OPERATOR:
            told = await asyncio.to_thread(self._seen_by_an_operator, row.reason or "")
            await asyncio.to_thread(self.lane.it.cli, "resume", row.id, *told, code=None)
        else:
            await self.walk.approve(row)

        async def ended() -> RunRow | None:
            now = await self.lane.run(self.walk.run_id)
            return now if now is not None and now.ended else None

        with contextlib.suppress(AssertionError):
            await eventually(ended, "the run to end after it was answered", STUCK)
        return await self.lane.run(self.walk.run_id)

    def _seen_by_an_operator(self, reason: str) -> list[str]:
        """What the run asks an operator to look for, looked for in the cloud."""
        words: list[str] = []
        for address in re.findall(r"--exists (\S+)=ID", reason):
            there = [o["id"] for o in self._objects() if o["name"] == address.rpartition(".")[2]]
            words += ["--exists", f"{address}={there[0]}"] if there else ["--absent", address]
        return words


async def run(lane: Lane, lives: Sequence[Life], points: Sequence[Point], seed: int, *, attempt: str) -> list[Found]:
    """One point on each of these stacks, all of the same victim."""
    pairs = list(zip(lives, points, strict=True))
    founded = await asyncio.gather(*(_founded(lane, life, point, attempt) for life, point in pairs), return_exceptions=True)
    trials = [_trial(lane, life, point, seed, attempt) for life, point in pairs]
    started = [problem or trial.brought() for trial, problem in zip(trials, founded, strict=True)]
    brought = await asyncio.gather(*(one if asyncio.iscoroutine(one) else _raised(one) for one in started), return_exceptions=True)
    results: list[Found] = []
    held: list[Trial] = []
    for trial, problem in zip(trials, brought, strict=True):
        if problem is None:
            held.append(trial)
        else:
            results.append(await _given_up(trial, f"{type(problem).__name__}: {problem}"[:500]))
    if held:
        results += await _killed(lane, held)
    for trial in trials:
        _remember(trial, next(r for r in results if r.point is trial.point))
    return results


async def _raised(problem: object) -> None:
    assert isinstance(problem, BaseException)
    raise problem


async def _killed(lane: Lane, held: Sequence[Trial]) -> list[Found]:
    """What became of runs that are all held at their boundaries."""
    victim, restart = held[0].point.victim, 0.0
    if victim in PARTS or victim is Victim.DATABASE:
        restart = await lane.kill(victim)
    else:
        _noted(held, await asyncio.gather(*(trial.kill() for trial in held), return_exceptions=True))
    _noted(held, await asyncio.gather(*(trial.let_go(restart or time.time()) for trial in held), return_exceptions=True))
    return list(await asyncio.gather(*(trial.judged() for trial in held)))


def _noted(held: Sequence[Trial], problems: Sequence[object]) -> None:
    for trial, problem in zip(held, problems, strict=True):
        if problem is not None:
            trial.release()
            trial.found.wrong.append(f"{type(problem).__name__}: {problem}"[:500])


def _trial(lane: Lane, life: Life, point: Point, seed: int, attempt: str) -> Trial:
    wanted = life.wanted.after(point.op)
    key = f"{attempt}/{point.id}"[:128]
    walk = Walk(lane=lane, slug=life.slug, op=point.op, wanted=wanted, key=key, alone=point.also == ALONE)
    return Trial(lane=lane, life=life, point=point, seed=point.seed(seed), walk=walk)


async def _founded(lane: Lane, life: Life, point: Point, attempt: str) -> None:
    """A stack on which the operation can be done: new, or applied before without any trouble."""
    if not life.slug or life.broken:
        life.slug, life.exists, life.broken, life.wanted = await lane.stack(point.type), False, False, Wanted()
    if point.op is Op.CREATE and life.exists:
        life.slug, life.exists, life.wanted = await lane.stack(point.type), False, Wanted()
    if point.op is not Op.CREATE and not life.exists:
        walk = Walk(lane=lane, slug=life.slug, op=Op.CREATE, wanted=life.wanted, key=f"{attempt}/{point.id}/before"[:128])
        async with asyncio.timeout(STUCK):
            row = await walk.done()
        assert row.state is RunState.APPLIED, (point.id, row.state, row.reason)
        life.exists = True


async def _given_up(trial: Trial, why: str) -> Found:
    for held in trial.gates:
        held.release("go")
    if trial.walking is not None:
        trial.walking.cancel()
        await asyncio.wait({trial.walking})
    return Found(point=trial.point, seed=trial.seed, verdict=NOT_TRIED, wrong=[why])


def _remember(trial: Trial, found: Found) -> None:
    life = trial.life
    life.broken = found.failed or found.state != RunState.APPLIED
    life.wanted = trial.walk.wanted
    life.exists = trial.point.op is not Op.DESTROY
