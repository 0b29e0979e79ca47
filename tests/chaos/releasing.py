"""Points of the releases on one service and one control plane: brought to their boundaries, held, the victim killed, let go.

Each point has a namespace of its own. Where helm itself is to be held it is stopped with SIGSTOP, so that several points wait for
one kill; it goes on as soon as the victim is dead, before that is started again where it is the cluster.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import place_of
from countersign.adapters.settings import load
from countersign.adapters.store.database import Store
from countersign.adapters.store.runs import RunRow
from countersign.core.approval import Channel
from countersign.core.run import RunState
from tests.acceptance.installed import eventually, processes
from tests.chaos.batch import PATIENCE, NotReached
from tests.chaos.judge import NOT_TRIED, STUCK
from tests.chaos.lane import AGENT, CANARY, PERSON, Away, Gated, Lane
from tests.chaos.leaks import leaks_of
from tests.chaos.part import GATES as GATES_ADDRESS
from tests.chaos.release_judge import ReleaseFound, Seen, Shape, judged, shape_of
from tests.chaos.releases import AGAIN, CLUSTER, GATES, IN_HELM, LONG, At, Op, ReleasePoint, Victim
from tests.chaos.walk import Asked
from tests.fakecloud.client import Held, cloud
from tests.kubernetes.plane import Plane, started
from tests.kubernetes.releasing import CHARTS, settings_of

TOGETHER = 4  # namespaces that one kill is tried on
REACHED_WITHIN = 120.0  # seconds for a run to come to its boundary
NAME = "web"
WORKS = ("install", "upgrade", "rollback", "uninstall")  # what helm does that changes anything
PARTS = {Victim.WORKER: "worker", Victim.BOTH: "worker", Victim.FRONT: "front", Victim.TEMPORAL: "temporal"}
SMALL, LARGE = Shape(replicas=1), Shape(replicas=2, extra=True)
_EXTRA = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web-extra"}, "data": {"of": "one revision"}}
Told = Callable[[ReleaseFound], None]


def values_of(shape: Shape, **more: Any) -> dict[str, Any]:
    return {"replicas": shape.replicas, "extra": [_EXTRA] if shape.extra else [], "token": {"secret": "canary"}, **more}


@dataclass(frozen=True, kw_only=True)
class Story:
    """What an operation goes from and to, and what it asks for."""

    before: tuple[dict[str, Any], ...]  # values of the revisions there are
    was: Shape | None
    becomes: Shape | None
    tool: str
    asked: dict[str, Any]


def story_of(op: Op, at: At) -> Story:
    slow = {"fake": "slow"} if at is At.NOT_READY else {}
    hook = {"hook": "slow"} if at is At.HOOK or at in AGAIN else {}
    chart = {"chart": "web"}
    match op:
        case Op.INSTALL:
            return Story(
                before=(), was=None, becomes=LARGE, tool="helm_deploy", asked={**chart, "values": values_of(LARGE, **slow, **hook)}
            )
        case Op.UPGRADE:
            # Where the undoing is held, going back has a hook of its own.
            first = values_of(SMALL, **({"hook": "slow", "hookEvents": "pre-rollback"} if at is At.UNDOING else {}))
            return Story(
                before=(first,), was=SMALL, becomes=LARGE, tool="helm_deploy", asked={**chart, "values": values_of(LARGE, **slow, **hook)}
            )
        case Op.ROLLBACK:
            first = values_of(SMALL, **slow, **hook, hookEvents="pre-rollback")
            return Story(before=(first, values_of(LARGE)), was=LARGE, becomes=SMALL, tool="helm_rollback", asked={"revision": 1})
        case Op.UNINSTALL:
            first = values_of(LARGE, **hook, hookEvents="pre-delete")
            return Story(before=(first,), was=LARGE, becomes=None, tool="helm_uninstall", asked={})


@dataclass
class Harbour:
    """A service, and the control plane that its environment leads to."""

    lane: Lane
    plane: Plane

    def helms(self, namespace: str) -> Iterator[tuple[int, str]]:
        """Processes of helm that change something there, and what each does."""
        for pid, argv in processes():
            ours = argv and Path(argv[0]).name == "helm" and any(word.startswith(str(self.lane.it.data)) for word in argv)
            if ours and namespace in argv and argv[1] in WORKS and not any(word.startswith("--dry-run") for word in argv):
                yield pid, argv[1]

    # What the cluster says

    def history(self, namespace: str) -> list[tuple[int, str]]:
        said = self.plane.helm("history", NAME, "-n", namespace, "-o", "json", code=None)
        if "not found" in said:
            return []
        return [(int(one["revision"]), str(one["status"])) for one in json.loads(said)]

    def deployed(self, namespace: str, history: Sequence[tuple[int, str]]) -> Shape | None:
        numbers = [number for number, status in history if status == "deployed"]
        if not numbers:
            return None
        return shape_of(json.loads(self.plane.helm("get", "values", NAME, "-n", namespace, "--revision", str(max(numbers)), "-o", "json")))

    def objects(self, namespace: str) -> frozenset[str]:
        """What carries Helm's label, and is not on its way out."""
        found: set[str] = set()
        paths = {"ConfigMap": "api/v1", "Secret": "api/v1", "Pod": "api/v1", "Deployment": "apis/apps/v1"}
        for kind, path in paths.items():
            listed = self.plane.get(f"/{path}/namespaces/{namespace}/{kind.lower()}s", labelSelector="app.kubernetes.io/managed-by=Helm")
            for one in (listed or {"items": []})["items"]:
                if "deletionTimestamp" not in one["metadata"]:
                    found.add(f"{kind} {one['metadata']['name']}")
        return frozenset(found)

    def deployment(self, namespace: str) -> dict[str, Any]:
        return self.plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{NAME}") or {}

    def live(self, namespace: str) -> tuple[int | None, str | None]:
        settings = self.plane.get(f"/api/v1/namespaces/{namespace}/configmaps/{NAME}-settings") or {}
        return self.deployment(namespace).get("spec", {}).get("replicas"), settings.get("data", {}).get("replicas")

    def hooks(self, namespace: str) -> dict[str, bool]:
        """Jobs by their uid, and whether they still run."""
        found = self.plane.get(f"/apis/batch/v1/namespaces/{namespace}/jobs") or {"items": []}
        return {one["metadata"]["uid"]: _runs(one) for one in found["items"]}


def _runs(job: dict[str, Any]) -> bool:
    ended = any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in job["status"].get("conditions", []))
    return not ended and "deletionTimestamp" not in job["metadata"]


@dataclass
class Trial:
    """One point on its way."""

    harbour: Harbour
    point: ReleasePoint
    namespace: str
    key: str
    group: bool  # whether helm is killed with the shell that waits for it, so that no exit code is left
    walk: Asked = field(init=False)
    gate: Held | None = None
    frozen: dict[int, str] = field(default_factory=dict)  # helms that were stopped, by process
    seen_jobs: set[str] = field(default_factory=set)
    walking: "asyncio.Task[RunRow] | None" = None
    restart: float = 0.0
    base: int = 0
    moved_before: bool = False

    def __post_init__(self) -> None:
        self.found = ReleaseFound(point=self.point)
        self.story = story_of(self.point.op, self.point.at)
        self.walk = self._asked(self.story.tool, self.story.asked, self.key)

    def _asked(self, tool: str, arguments: dict[str, Any], key: str) -> Asked:
        whose = {"release_name": NAME, "namespace": self.namespace}
        return Asked(lane=self.harbour.lane, key=key[:128], tool=tool, arguments={**whose, **arguments})

    # Holding

    async def founded(self) -> None:
        """A namespace with what the operation goes from."""
        await asyncio.to_thread(self.harbour.plane.namespace, self.namespace)
        for number, values in enumerate(self.story.before, 1):
            walk = self._asked("helm_deploy", {"chart": "web", "values": values}, f"{self.key}/before-{number}")
            async with asyncio.timeout(REACHED_WITHIN):
                row = await walk.done()
            assert row.state is RunState.APPLIED, (self.point.id, row.state, row.reason)
        self.base = len(self.story.before)
        self.seen_jobs = set(await asyncio.to_thread(self.harbour.hooks, self.namespace))

    async def brought(self) -> None:
        """Bring the run to its boundary, and hold it. Raises NotReached."""
        at = self.point.at
        if at in GATES and at not in AGAIN:
            self.gate = self._hook(at)
        self.walk.may_approve.clear()
        self.walking = asyncio.create_task(self.walk.done())
        await self._until(self._waits)
        self.moved_before = bool(await asyncio.to_thread(self._moved))
        if at is At.WAITING:
            return
        self.walk.may_approve.set()
        if at in IN_HELM or at in AGAIN:
            await self._until(self._helm_is_there)
        if at in AGAIN:
            self.gate = self._hook(at) if at in GATES else None
            await self.kill_helm()
            if self.gate is None:
                await self._until(self._helm_is_there)
        if self.gate is not None:
            await self._reached(self.gate)
        if at is At.STARTED:
            await self._until(self._helm_is_there)

    def _hook(self, at: At) -> Held:
        op, when = GATES[at]
        return self.harbour.lane.cloud.hook(op=op, type="gate", name=self.walk.run_id, when=when)

    def _moved(self) -> bool:
        history = self.harbour.history(self.namespace)
        return (history[-1][0] if history else 0) != self.base

    async def _reached(self, held: Held) -> None:
        async def reached() -> bool:
            self._still_going()
            return bool((await asyncio.to_thread(held.connection.call, "GET", f"/hooks/{held.id}?wait=2"))[1]["reached"])

        await self._until(reached)

    async def _until(self, probe: Any) -> None:
        try:
            await eventually(probe, self.point.id, REACHED_WITHIN)
        except AssertionError as late:
            raise NotReached(str(late)) from None

    def _still_going(self) -> None:
        if self.walking is not None and self.walking.done():
            row = self.walking.result()
            raise NotReached(f"the run was {row.state} before it came to {self.point.at}: {row.reason}")

    async def _waits(self) -> bool:
        self._still_going()
        row = await self.harbour.lane.run(self.walk.run_id)
        return row is not None and row.state is RunState.AWAITING_APPROVAL

    async def _helm_is_there(self) -> bool:
        """Whether helm is at the boundary; it is stopped there, where others have to come to theirs first."""
        self._still_going()
        working = [one for one in self.harbour.helms(self.namespace) if one[0] not in self.frozen]
        if not working or not await asyncio.to_thread(self._at_boundary):
            return False
        self._stop(working)
        return True

    def _stop(self, working: Sequence[tuple[int, str]]) -> None:
        for pid, work in working:
            os.kill(pid, signal.SIGSTOP)
            self.frozen[pid] = work

    def _at_boundary(self) -> bool:
        if self.point.at is At.STARTED:
            return True
        if self.point.at is At.NOT_READY:
            spec = self.harbour.deployment(self.namespace).get("spec", {})
            slow = spec.get("template", {}).get("metadata", {}).get("labels", {}).get("countersign.local/fake") == "slow"
            assert self.story.becomes is not None
            return slow and spec["replicas"] == self.story.becomes.replicas
        jobs = self.harbour.hooks(self.namespace)
        new = {uid for uid, runs in jobs.items() if runs} - self.seen_jobs
        self.seen_jobs |= new
        return bool(new)

    # Killing

    async def kill_helm(self) -> None:
        """kill -9, stopped or not."""
        pids = list(self.frozen) or await eventually(self._working, "a helm to kill", REACHED_WITHIN)
        for pid in pids:
            os.killpg(os.getpgid(pid), signal.SIGKILL) if self.group else os.kill(pid, signal.SIGKILL)
        self.frozen.clear()
        self.restart = time.time()  # nobody starts it again but the run itself

    async def _working(self) -> list[int]:
        return [pid for pid, _ in self.harbour.helms(self.namespace)]

    def thaw(self) -> None:
        """helm goes on, as if it had never been held. One that is gone was not what it has to be: alive."""
        gone = [pid for pid in self.frozen if pid not in dict(self.harbour.helms(self.namespace))]
        if gone and self.point.victim not in (Victim.HELM, Victim.BOTH):
            self.found.wrong.append(f"the kill of {self.point.victim} took helm with it: {gone}")
        for pid in self.frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def let_go(self, restart: float) -> None:
        self.restart = max(self.restart, restart)
        if self.gate is not None:
            self.gate.release("go")
        self.walk.may_approve.set()

    # Afterwards

    async def judged(self) -> ReleaseFound:
        assert self.walking is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self.restart + STUCK + PATIENCE - time.time())):
                await asyncio.shield(self.walking)
        self.walking.cancel()
        await asyncio.wait({self.walking})
        if not self.walking.cancelled() and (broken := self.walking.exception()) is not None:
            self.found.wrong.append(f"{type(broken).__name__}: {broken}"[:500])
        await self._read_it_all()
        lane, run_id = self.harbour.lane, self.walk.run_id
        decisions = [d for d in await lane.decisions(run_id) if d.accepted and d.decision == "approve"]
        agreed, attempts = {d.plan_digest for d in decisions}, await lane.attempts(run_id)
        history = await asyncio.to_thread(self.harbour.history, self.namespace)
        look = asyncio.to_thread
        return judged(
            self.found,
            Seen(
                row=await lane.run(run_id),
                events=await lane.events(run_id),
                approvals=sum(d.channel is not Channel.CARRIED for d in decisions),
                unapproved_attempts=sum(a.plan_digest not in agreed for a in attempts),
                moved_before=self.moved_before,
                base=self.base,
                before=self.story.was,
                after=self.story.becomes,
                history=history,
                deployed=await look(self.harbour.deployed, self.namespace, history),
                objects=await look(self.harbour.objects, self.namespace),
                live=await look(self.harbour.live, self.namespace),
                hooks_running=sum((await look(self.harbour.hooks, self.namespace)).values()),
                restart=self.restart,
            ),
        )

    async def _read_it_all(self) -> None:
        """All that the front tells of a run is kept, and searched for the canary."""
        include = ["steps", "inputs", "outputs", "resources", "approvals", "timeline"]
        for tool, more in (("run_get", {"include": include}), ("run_plan", {}), ("run_logs", {"lines": 1000}), ("run_evidence", {})):
            with contextlib.suppress(Away):
                await self.harbour.lane.call(PERSON, tool, run_id=self.walk.run_id, **more)


async def _given_up(trial: Trial, why: str) -> ReleaseFound:
    trial.thaw()
    trial.let_go(time.time())
    if trial.walking is not None:
        trial.walking.cancel()
        await asyncio.wait({trial.walking})
    return ReleaseFound(point=trial.point, verdict=NOT_TRIED, wrong=[why])


async def batch(harbour: Harbour, points: Sequence[ReleasePoint], seed: int, key: str) -> list[ReleaseFound]:
    """Points of one victim: all brought to their boundaries, one kill, let go, judged."""
    trials = [
        Trial(
            harbour=harbour,
            point=point,
            namespace=re.sub(r"[^a-z0-9]+", "-", f"{point.id}-{key}"),
            key=f"{key}/{point.id}",
            group=point.seed(seed) % 2 == 0,
        )
        for point in points
    ]
    held, results = [], []

    async def reach(trial: Trial) -> None:
        await trial.founded()
        await trial.brought()

    brought = await asyncio.gather(*map(reach, trials), return_exceptions=True)
    for trial, problem in zip(trials, brought, strict=True):
        if problem is None:
            held.append(trial)
        else:
            results.append(await _given_up(trial, f"{type(problem).__name__}: {problem}"[:500]))
    if held:
        restart = await _killed(harbour, points[0].victim, held)
        for trial in held:
            trial.let_go(restart)
        results += await asyncio.gather(*(trial.judged() for trial in held))
    for trial in trials:  # pods of those that are done only cost time
        await asyncio.to_thread(harbour.plane.delete, f"/api/v1/namespaces/{trial.namespace}")
    return results


async def _killed(harbour: Harbour, victim: Victim, held: Sequence[Trial]) -> float:
    """kill -9, and the moment at which the victim was there again."""
    if victim in CLUSTER:
        with contextlib.ExitStack() as away:
            await asyncio.to_thread(away.enter_context, harbour.plane.away(CLUSTER[victim]))
            for trial in held:
                trial.thaw()  # it goes on without its cluster
            await asyncio.sleep(held[0].point.away)
            await asyncio.to_thread(away.close)
        return time.time()
    if victim is Victim.HELM:
        await _helms_killed(held)
        return time.time()
    killing = asyncio.create_task(harbour.lane.kill_part(PARTS[victim]))
    if victim is Victim.BOTH:
        await _helms_killed(held)
    restart = await killing
    for trial in held:
        trial.thaw()
    return restart


async def _helms_killed(held: Sequence[Trial]) -> None:
    for trial, problem in zip(held, await asyncio.gather(*(t.kill_helm() for t in held), return_exceptions=True), strict=True):
        if problem is not None:
            trial.found.wrong.append(f"{type(problem).__name__}: {problem}"[:500])


# All of it


@dataclass(kw_only=True)
class Outcome:
    seed: int
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 1))
    rows: list[ReleaseFound] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)


def batches_of(points: Sequence[ReleasePoint], seed: int) -> list[list[ReleasePoint]]:
    """Which points share a kill is the seed's choice. Victims take turns: whoever watches a cluster waits longer each time it is away."""
    chance = random.Random(seed)
    by_victim: list[deque[list[ReleasePoint]]] = []
    for victim in Victim:
        waiting: deque[list[ReleasePoint]] = deque()
        for away in (LONG, 0.0):
            mine = [point for point in points if point.victim is victim and point.away == away]
            chance.shuffle(mine)
            waiting.extend(mine[i : i + TOGETHER] for i in range(0, len(mine), TOGETHER))
        by_victim.append(waiting)
    found = []
    while any(by_victim):
        found += [waiting.popleft() for waiting in by_victim if waiting]
    return found


async def run(points: Sequence[ReleasePoint], *, seed: int, folder: Path, told: Told) -> Outcome:
    """Every point once; what was never brought to its boundary, or was only late, once more, alone."""
    outcome = Outcome(seed=seed)
    async with harbour_in(folder) as harbour:
        for some in batches_of(points, seed):
            for found in await batch(harbour, some, seed, "one"):
                again = found
                if found.verdict == NOT_TRIED or (found.stuck and len(found.wrong) == 1):
                    [again] = await batch(harbour, [found.point], seed, "two")
                    again.tries = 2
                outcome.rows.append(again)
                told(again)
        outcome.unclosed = await harbour.lane.open_workflows()
        outcome.leaks = await leaks_of(harbour.lane)
    order = {point.id: n for n, point in enumerate(points)}
    outcome.rows.sort(key=lambda row: order[row.point.id])
    return outcome


@contextlib.asynccontextmanager
async def harbour_in(folder: Path) -> AsyncIterator[Harbour]:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "cloud").mkdir(parents=True)
    async with contextlib.AsyncExitStack() as stack:
        gates = await stack.enter_async_context(cloud(folder / "cloud"))
        plane = await stack.enter_async_context(started(folder / "plane"))
        data = folder / "data"
        data.mkdir(mode=0o700)
        (data / "countersign.toml").write_text("plan_slots = 8\n" + settings_of(kubeconfig=plane.kubeconfig))
        it = Gated(data=data, stacks=CHARTS, settings={GATES_ADDRESS: gates.address})
        it.start()
        try:
            await it.ready()
            keys = {AGENT: it.key(AGENT, acts_for="person:ana"), PERSON: it.key(PERSON, kind="person", role="admin")}
            it.cli("secret", "set", "canary", stdin=CANARY)
            store = await Store.open(load(data).database_url)
            stack.push_async_callback(store.close)
            kept = Artifacts(store, Keyring.open(data, role="all"), place_of(load(data)))
            lane = Lane(folder=folder, it=it, cloud=gates, store=store, artifacts=kept, keys=keys, provider=None, cluster=None)
            yield Harbour(lane=lane, plane=plane)
        finally:
            await asyncio.to_thread(it.stop)
