"""Wiring: which adapter stands behind which step, on which queue, and how many at once."""

import asyncio
import contextlib
import os
import secrets as random
import signal
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.applying import Applying
from activities.composing import Composing
from activities.drifting import DriftSteps
from activities.engine import Here
from activities.ledger import LedgerSteps, Wake
from activities.planning import Planning
from activities.reading import Reading
from activities.reconciling import Reconciling
from countersign.adapters import temporal
from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.leaving import leaving
from countersign.adapters.logs import Log
from countersign.adapters.machine import engine_slots
from countersign.adapters.objects import place_of
from countersign.adapters.process import boot_id
from countersign.adapters.schedules import Schedules
from countersign.adapters.settings import Settings
from countersign.adapters.store.database import Store
from countersign.core.engine import Engine, Reconciler, Tidy
from countersign.core.errors import Unavailable
from countersign.core.reading import Reader, read_queue, read_step
from countersign.core.run import COMPOSITE
from countersign.core.step import RUNS_QUEUE, Step, engine_queue, host_queue
from countersign.core.steps import ENGINES
from countersign.worker.draining import drained
from countersign.worker.forgetting import keep_forgetting
from countersign.worker.health import Health, told
from countersign.worker.interceptors import CodedErrors
from countersign.worker.noticing import keep_noticing
from countersign.worker.schedules import keep_settling
from countersign.worker.strays import end_strays
from countersign.worker.succeeding import hand_back, identity
from countersign.worker.sweep import keep_sweeping, resume_own
from countersign.worker.telling import keep_telling
from workflows.drift import Drift
from workflows.read import Read
from workflows.run import Run

log = Log(__name__)

COMPOSITES_AT_ONCE = 500  # each is a look at some rows now and then
READS_AT_ONCE = 8  # each may start a process of 70 MiB
CONNECT_EVERY = 0.05  # seconds; connecting fails at once while there is no server


def host_id(data: Path) -> str:
    """What names this machine *and* its disk: attempts live in the data folder, so that is what a follower must share."""
    file = data / "host"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = file.with_suffix(f".{os.getpid()}")
        made.write_text(f"h{random.token_hex(6)}\n")
        try:
            os.link(made, file)  # whoever comes first names it
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return file.read_text().strip()


def registered(step: Step[Any, Any], method: Callable[[Any], Awaitable[Any]]) -> Callable[..., Any]:
    """The activity Temporal knows under the step's name."""

    async def run(request: Any) -> Any:
        return await method(request)

    run.__annotations__ = {"request": step.takes, "return": step.gives}
    return activity.defn(name=step.name)(run)


def marked_steps(steps: object) -> list[Callable[..., Any]]:
    """All methods that say which step they implement."""
    methods = (getattr(steps, name) for name in dir(type(steps)) if hasattr(getattr(type(steps), name), "__step__"))
    return [registered(method.__step__, method) for method in methods]


def build_workers(
    client: Client,
    *,
    store: Store,
    artifacts: Artifacts,
    keyring: Keyring,
    settings: Settings,
    engines: Sequence[Engine],
    here: Here,
    wake: Wake,
    alarm: Wake | None = None,
    show: Wake | None = None,
    wanted: Callable[[], Awaitable[bool]] | None = None,
) -> list[Worker]:
    """A worker for what is of no engine, one per engine for its runs and their steps, and one for what only this machine can do."""
    policy = settings.effective_policy
    ledger = LedgerSteps(
        store=store,
        policy=policy,
        trust=settings.ui_trust,
        verify=keyring.verify,
        wake=wake,
        force_after=settings.force_after,
        keyring=keyring,
        tells={e.name: cast(Reconciler, e).told for e in engines if ENGINES[e.name].reconcile is not None},
    )
    drifting = DriftSteps(store=store, start=temporal.Runs(client).start, releases_every=settings.releases_every)
    local: list[Callable[..., Any]] = []
    starting: dict[str, list[Callable[..., Any]]] = {}
    for engine in engines:
        steps = ENGINES[engine.name]
        given: dict[str, Any] = {
            "engine": engine,
            "store": store,
            "artifacts": artifacts,
            "keyring": keyring,
            "policy": policy,
            "here": here,
            "wake": wake,
            "alarm": alarm,
            "show": show,
            "wanted": wanted,
            "trust": settings.ui_trust,
        }
        applying = Applying(**given)
        planning = Planning(apply=applying.apply, **given)
        starting[engine.name] = [registered(steps.plan, planning.plan), registered(steps.apply, applying.apply)]
        local += [registered(steps.follow, applying.follow)]
        if steps.reconcile is not None:
            reconcile = registered(steps.reconcile, Reconciling(**given).reconcile)
            local += [reconcile]
            starting[engine.name] += [reconcile]  # of attempts whose machine is gone for good
    reading: dict[str, Callable[..., Any]] = {
        one.name: registered(read_step(one.name), Reading(store=store, keyring=keyring, engine=one).read)
        for one in engines
        if isinstance(one, Reader)
    }
    leading = Composing(
        store=store,
        artifacts=artifacts,
        keyring=keyring,
        policy=policy,
        here=here,
        wake=wake,
        trust=settings.ui_trust,
        workflows=temporal.Runs(client),
    )
    composites = ENGINES[COMPOSITE]
    slots = settings.plan_slots or engine_slots()
    common: dict[str, Any] = {
        "interceptors": [CodedErrors(now=store.now)],
        "max_heartbeat_throttle_interval": timedelta(seconds=1),
        "default_heartbeat_throttle_interval": timedelta(seconds=1),
        "graceful_shutdown_timeout": timedelta(seconds=2),
    }
    # Each poll of a worker that is frozen swallows one task until that times out, and these queues never need many at once.
    few: dict[str, Any] = {"max_concurrent_activity_task_polls": 2}
    # A poll holds a slot while it waits, and the next one holds another; what is handed over eagerly needs one that nobody holds.
    one_poll: dict[str, Any] = {"max_concurrent_activity_task_polls": 1}
    telling: dict[str, Any] = {
        "sticky_queue_schedule_to_start_timeout": timedelta(seconds=2),
        # Replays are run in the sandbox, which would look at each run for what it can find in the code (docs/decisions/0024).
        "workflow_runner": UnsandboxedWorkflowRunner(),
    }
    return [
        Worker(
            client,
            task_queue=RUNS_QUEUE,
            **few,
            workflows=[Run, Drift, Read],
            activities=[*marked_steps(ledger), *marked_steps(drifting)],
            **telling,
            **common,
        ),
        *(
            Worker(
                client,
                task_queue=engine_queue(name),
                workflows=[Run],
                activities=[*steps, *marked_steps(ledger)],
                max_concurrent_activities=slots,
                **one_poll,
                **telling,
                **common,
            )
            for name, steps in starting.items()
        ),
        *(
            Worker(client, task_queue=read_queue(name), activities=[step], max_concurrent_activities=READS_AT_ONCE, **few, **common)
            for name, step in reading.items()
        ),
        Worker(
            client,
            task_queue=engine_queue(COMPOSITE),
            activities=[
                registered(composites.plan, leading.plan),
                registered(composites.apply, leading.apply),
                registered(composites.follow, leading.follow),
            ],
            max_concurrent_activities=COMPOSITES_AT_ONCE,
            **few,
            **common,
        ),
        Worker(client, task_queue=host_queue(here.host), activities=local, max_concurrent_activities=100, **few, **common),
    ]


async def connected(settings: Settings, *, identity: str, stop: asyncio.Event) -> Client | None:
    """A client, as soon as Temporal answers; None where we are told to stop before that."""
    while not stop.is_set():
        try:
            return await temporal.connect(settings, identity=identity)
        except Unavailable:
            await asyncio.sleep(CONNECT_EVERY)
    return None


def engines_of(settings: Settings, keyring: Keyring) -> list[Engine]:
    from countersign.adapters.git import Remotes
    from countersign.adapters.helm.engine import HelmEngine
    from countersign.adapters.terraform.engine import TerraformEngine
    from countersign.adapters.terraform.looking import Unique

    terraform, git = settings.terraform, settings.git
    remotes = Remotes(
        repositories=git.rules,
        executable=git.executable,
        known_hosts=git.known_hosts,
        ca_bundle=git.ca_bundle,
        local=git.local,
        timeout=git.timeout_seconds,
        size=git.fetch_mib << 20,
        check_objects=git.check_objects,
        passed=terraform.environment,
    )
    return [
        TerraformEngine(
            stacks_root=settings.stacks or Path("infra/stacks").absolute(),
            work_root=settings.data / "work",
            attempts_root=settings.data / "attempts",
            mac_key=keyring.mac_key,
            mac_kid=keyring.mac_kid,
            search_path=settings.search_path,
            executable=terraform.executable,
            tofu_executable=terraform.tofu_executable,
            versions={"terraform": terraform.versions, "tofu": terraform.tofu_versions},
            mirror=terraform.mirror,
            network_mirror=terraform.network_mirror,
            allowed_providers=terraform.allowed_providers,
            allowed_modules=terraform.allowed_modules,
            denied_data_sources=terraform.denied_data_sources,
            environment=terraform.environment,
            go_settings=terraform.go_settings,
            grace_seconds=terraform.grace_seconds,
            unique={types: Unique(id=one.id, made=one.made) for types, one in terraform.unique.items()},
            remotes=remotes,
        ),
        HelmEngine(
            clusters=settings.clusters,
            helm=settings.helm,
            charts=tuple(one.source for one in settings.charts),
            remotes=remotes,
            stacks_root=settings.stacks or Path("infra/stacks").absolute(),
            work_root=settings.data / "work" / "helm",
            attempts_root=settings.data / "attempts",
            mac_key=keyring.mac_key,
            mac_kid=keyring.mac_kid,
            search_path=settings.search_path,
        ),
    ]


async def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT. Engine processes that change something go on without us and are found again.

    Where `drain_seconds` says so we stay with them that long.
    """
    stop, health = asyncio.Event(), Health()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with told(settings, health):
        await _serve(settings, stop, health)


async def _serve(settings: Settings, stop: asyncio.Event, health: Health) -> None:
    keyring = Keyring.open(settings.data, role="worker")
    store = await Store.open(settings.database_url)
    artifacts = Artifacts(store, keyring, place_of(settings))
    here = Here(host=host_id(settings.data), boot_id=boot_id(), state_url=settings.state_url)
    telling = asyncio.create_task(keep_telling(store, keyring, settings, stop))  # needs no Temporal, and says so when runs have none
    try:
        client = await connected(settings, identity=identity(here.host), stop=stop)
        if client is None:
            return
        workflows = temporal.Runs(client)
        health.parts |= {"store": store.answers, "temporal": workflows.reachable}
        engines = engines_of(settings, keyring)
        *workers, following = build_workers(
            client,
            store=store,
            artifacts=artifacts,
            keyring=keyring,
            settings=settings,
            engines=engines,
            here=here,
            wake=workflows.wake,
            alarm=workflows.alarm,
            show=workflows.show,
            wanted=workflows.wanted,
        )
        orgs = [o.slug for o in settings.organizations]
        await hand_back(store, workflows, orgs, here.host)
        sweeping = asyncio.create_task(keep_sweeping(store, workflows, orgs, stop))
        settling = asyncio.create_task(keep_settling(store, Schedules(client), orgs, stop, settings.releases_every))
        places: dict[str, Any] = {"host": here.host, "attempts_root": settings.data / "attempts"}
        noticing = asyncio.create_task(keep_noticing(store, artifacts, workflows, orgs=orgs, stop=stop, **places))
        forgetting = asyncio.create_task(keep_forgetting(store, artifacts, settings.retention.rules, orgs, stop))
        tidying = asyncio.gather(*(engine.tidy() for engine in engines if isinstance(engine, Tidy)), return_exceptions=True)
        async with following:
            async with contextlib.AsyncExitStack() as working:
                for worker in workers:
                    await working.enter_async_context(worker)
                log.info("worker ready", host=here.host, temporal=settings.temporal_target)
                (settings.data / "worker.ready").write_text(str(os.getpid()))
                health.working = True
                await resume_own(store, workflows, orgs, here.host)
                await end_strays(store, keyring, engines, orgs, here)
                await stop.wait()
                health.working = False
            if settings.drain_seconds:
                await drained(settings.data / "attempts", within=settings.drain_seconds)
        tidying.cancel()
        await asyncio.gather(tidying, return_exceptions=True)
        await sweeping
        await settling
        await noticing
        await forgetting
    finally:
        stop.set()
        await telling
        await leaving.gone()
        await store.close()
    await asyncio.sleep(0.1)  # a Temporal client that is torn down with its loop crashes the interpreter (sdk-python issue 300)
