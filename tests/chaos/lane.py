"""One running service with gates in its parts, a cloud and a provider: what is killed, and where the truth is read.

Everything is a process of its own and as users have it: `countersign up` on a data folder, Terraform, a provider that
Terraform starts (or reattaches to, where it is no victim and its start would only cost time).
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.client import Client as Temporal

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import place_of
from countersign.adapters.process import MARKER
from countersign.adapters.settings import load
from countersign.adapters.store import plans, records, runs, state
from countersign.adapters.store.database import Store
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.runs import Event, RunRow
from countersign.adapters.store.schema import credentials
from countersign.adapters.temporal import DATA_CONVERTER
from countersign.core.errors import CountersignError, Unavailable
from tests.acceptance.installed import REPOSITORY, Installed, eventually, processes
from tests.acceptance.plain_http import MODERN, Plain, plain
from tests.chaos.part import GATES, MUTATE
from tests.chaos.points import DATABASE, SERVER, THING, Kind, Victim
from tests.fakecloud.client import Cloud, FakeProvider, cloud, provider
from tests.fakecloud.mirror import ENVIRONMENT, write_mirror
from tests.fakecloud.provider import ADDRESS
from tests.fakecloud.raw import REQUIRED
from tests.postgres import Cluster
from tests.postgres import running as postgres

ORG, ENV = "local", "dev"
AGENT, PERSON = "agent:claude", "person:bo"
CANARY = "c4naryChaos77"  # the value of a secret variable; found where it must not be it is a leak
RESTARTS_WITHIN = 60.0
PATIENCE = 200  # looks at a store that does not answer, a tenth of a second each
T = TypeVar("T")
PARTS = {Victim.WORKER: "worker", Victim.FRONT: "front", Victim.STATE: "state", Victim.TEMPORAL: "temporal"}
_STACK = """
variable "project" {
  type = string
}
variable "size" {
  type    = number
  default = 1
}
variable "kind" {
  type    = string
  default = "a"
}
variable "canary" {
  type      = string
  sensitive = true
}
resource "TYPE" "one" {
  name   = "one"
  project = var.project
  size   = var.size
  secret = var.canary
}
resource "TYPE" "two" {
  name   = "two"
  project = var.project
  size   = var.size
  kind   = var.kind
  labels = { after = TYPE.one.id }
}
resource "TYPE" "three" {
  name   = "three"
  project = var.project
  size   = var.size
  labels = { after = TYPE.two.id }
}
"""
SOURCES = {SERVER: "servers", THING: "things", DATABASE: "databases"}


def stack_of(type: str) -> str:
    """Three objects, one after the other."""
    return _STACK.replace("TYPE", type)


class Away(Exception):
    """Nobody answered, or not yet: ask again."""


class Gated(Installed):
    """The service, whose parts have gates."""

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data.parent / f"{self.data.name}.up.log").open("ab") as log:
            self._up = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.chaos.up", "up"],
                env={**self.environment, "PYTHONPATH": str(REPOSITORY)},
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def pid_of(self, part: str) -> int | None:
        for pid, argv in processes():
            if part == "temporal":
                if "start-dev" in argv and str(self.temporal_port) in argv:
                    return pid
            elif "tests.chaos.part" in argv and part in argv and "setpriv" not in argv[0]:
                with contextlib.suppress(OSError):
                    if f"COUNTERSIGN_DATA={self.data}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                        return pid
        return None


@dataclass
class Lane:
    folder: Path
    it: Gated
    cloud: Cloud
    store: Store
    artifacts: Artifacts
    keys: dict[str, str]
    provider: FakeProvider | None
    cluster: Cluster | None
    said: list[bytes] = field(default_factory=list)  # everything anybody was told
    _stacks: int = 0

    # Kills

    async def kill(self, victim: Victim) -> float:
        """kill -9 a part, and wait until its supervisor has started another; the moment of that, by the clock on the wall."""
        if victim is Victim.DATABASE:
            assert self.cluster is not None
            await asyncio.to_thread(self.cluster.kill)
            restart = time.time()
            await asyncio.to_thread(self.cluster.start)
            return restart
        return await self.kill_part(PARTS[victim])

    async def kill_part(self, part: str) -> float:
        pid = await eventually(self._running(part), f"{part} to run", RESTARTS_WITHIN)
        os.kill(pid, signal.SIGKILL)

        async def replaced() -> bool:
            now = self.it.pid_of(part)
            return now is not None and now != pid

        await eventually(replaced, f"another {part} after kill -9", RESTARTS_WITHIN)
        return time.time()

    def _running(self, part: str) -> Any:
        async def running() -> int | None:
            return self.it.pid_of(part)

        return running

    async def engines(self, run_id: str) -> list[int]:
        """Processes of Terraform that work for a run now, without those that wait for them and those they have started."""
        marks = await self._marks(run_id)
        return [pid for pid, argv in marked(marks) if _is_engine(argv)]

    async def plugins(self, run_id: str) -> list[int]:
        marks = await self._marks(run_id)
        return [pid for pid, argv in marked(marks) if "tests.fakecloud.provider" in argv]

    async def _marks(self, run_id: str) -> set[str]:
        """Ids under which anything worked for the run."""

        async def look(conn: AsyncConnection) -> set[str]:
            found = await conn.execute(select(credentials.c.id).where(credentials.c.run_id == run_id))
            return set(found.scalars())

        return await self.read(look)

    # What the store says

    async def read(self, look: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What a look at the store gives; a database that is just away is asked again."""
        for _ in range(PATIENCE):
            try:
                async with self.store.read() as conn:
                    return await look(conn)
            except (Unavailable, SQLAlchemyError):
                await asyncio.sleep(0.1)
        raise AssertionError("the store does not answer")

    async def run(self, run_id: str) -> RunRow | None:
        """None: it was not asked for yet, or nobody can tell now."""
        try:
            async with self.store.read() as conn:
                return await runs.get_run(conn, ORG, run_id)
        except (CountersignError, SQLAlchemyError):
            return None

    async def events(self, run_id: str) -> list[Event]:
        return await self.read(lambda conn: runs.run_events(conn, ORG, run_id, limit=1000))

    async def attempts(self, run_id: str) -> list[AttemptRow]:
        return await self.read(lambda conn: plans.attempts_of(conn, ORG, run_id))

    async def decisions(self, run_id: str) -> list[plans.DecisionRow]:
        return await self.read(lambda conn: plans.decisions_of(conn, ORG, run_id))

    async def document(self, slug: str) -> dict[str, Any]:
        """The state of a stack."""

        async def look(conn: AsyncConnection) -> dict[str, Any]:
            stack = await records.get_stack(conn, ORG, f"{ORG}/{ENV}/{slug}")
            found = await state.snapshot(conn, ORG, stack.config.stack_id)
            return json.loads(await self.artifacts.read(conn, org=ORG, artifact_id=found.artifact_id)) if found else {}

        return await self.read(look)

    async def locked(self, slug: str) -> bool:
        async def look(conn: AsyncConnection) -> bool:
            stack = await records.get_stack(conn, ORG, f"{ORG}/{ENV}/{slug}")
            return (await state.head(conn, ORG, stack.config.stack_id)).lock is not None

        return await self.read(look)

    # Its users

    @contextlib.asynccontextmanager
    async def door(self, who: str) -> AsyncIterator[Plain]:
        async with plain(self.it.front_port, self.keys[who], MODERN) as client:
            yield client

    async def call(self, who: str, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured result, or error, of a tool. Raises Away where there is no answer."""
        try:
            async with self.door(who) as client:
                result = await client.call_tool(tool, arguments)
        except (httpx2.HTTPError, AssertionError) as gone:
            raise Away(str(gone)) from None
        self.said.append(json.dumps(result, ensure_ascii=False).encode())
        content: dict[str, Any] = result.get("structuredContent") or {}
        if result.get("isError") and "error" not in content:
            raise Away(str(content))
        if content.get("error", {}).get("retryable"):
            raise Away(str(content["error"]))
        return content

    async def stack(self, type: str) -> str:
        """A stack of its own, and its name."""
        self._stacks += 1
        slug = f"{SOURCES[type]}-{self._stacks}"
        given = {"project": slug, "canary": {"secret": "canary"}}

        async def registered() -> dict[str, Any] | None:
            with contextlib.suppress(Away):  # the front may be on its way back from the point before
                return await self.call(
                    PERSON, "terraform_register_workspace", env=ENV, workspace=slug, source={"path": SOURCES[type]}, vars=given
                )
            return None

        told = await eventually(registered, "the stack to be registered", RESTARTS_WITHIN)
        assert "error" not in told, told
        return slug

    async def temporal(self) -> Temporal:
        """A client, as soon as the server answers."""

        async def connected() -> Temporal | None:
            with contextlib.suppress(RuntimeError):
                return await Temporal.connect(f"127.0.0.1:{self.it.temporal_port}", data_converter=DATA_CONVERTER)
            return None

        found: Temporal = await eventually(connected, "Temporal to answer", RESTARTS_WITHIN)
        return found

    async def open_workflows(self) -> list[str]:
        """Workflows that go on although their runs have ended, a minute after the last point: nobody would ever look at them."""
        client = await self.temporal()
        left: list[str] = []

        async def closed() -> bool:
            left[:] = []
            async for workflow in client.list_workflows('WorkflowType = "Run" AND ExecutionStatus = "Running"'):
                row = await self.run(workflow.id)
                if row is not None and row.ended:
                    left.append(workflow.id)
            return not left

        with contextlib.suppress(AssertionError):
            await eventually(closed, "workflows to close", 60.0)
        return left


def marked(marks: set[str]) -> Iterator[tuple[int, list[str]]]:
    """Processes of these attempts."""
    wanted = {f"{MARKER}={mark}".encode() for mark in marks}
    for pid, argv in processes():
        with contextlib.suppress(OSError):
            if wanted & set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                yield pid, argv


def _is_engine(argv: list[str]) -> bool:
    return not argv[0].endswith("/sh") and "tests.fakecloud.provider" not in argv and any(word in argv for word in ("plan", "apply"))


def prepared(folder: Path, cloud_address: str, reattach: str | None) -> None:
    """Stacks and settings. Without `reattach` Terraform installs the provider from a mirror and starts it itself."""
    lock = None
    if reattach is None:
        lock = write_mirror(folder / "mirror")
    for type, name in SOURCES.items():
        source = folder / "stacks" / name
        source.mkdir(parents=True)
        (source / "main.tf").write_text(REQUIRED + stack_of(type))
        if lock is not None:
            (source / ".terraform.lock.hcl").write_text(lock)
    environment = {"TF_REATTACH_PROVIDERS": reattach} if reattach else {"FAKE_CLOUD": cloud_address, **ENVIRONMENT}
    data = folder / "data"
    data.mkdir(mode=0o700)
    settings = [
        "[policy]",
        'auto_approve = ["create", "update"]',
        "[terraform]",
        f"allowed_providers = [{json.dumps(ADDRESS)}]",
        'unique = {"fake_server" = {id = "{project}/{name}", made = "created_at"}}',
        "environment = {" + ", ".join(f"{name} = {json.dumps(value)}" for name, value in environment.items()) + "}",
    ]
    if reattach is None:
        settings.append(f"mirror = {json.dumps(str(folder / 'mirror'))}")
    (data / "countersign.toml").write_text("plan_slots = 16\n" + "\n".join(settings) + "\n")


@contextlib.asynccontextmanager
async def lane(folder: Path, kind: Kind, *, mutate: str | None = None) -> AsyncIterator[Lane]:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "cloud").mkdir(parents=True)
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(cloud(folder / "cloud"))
        fake = None if kind is Kind.PLUGIN else await stack.enter_async_context(provider(world))
        cluster = stack.enter_context(postgres()) if kind is Kind.POSTGRES else None
        prepared(folder, world.address, fake.reattach if fake else None)
        more = {GATES: world.address, **({MUTATE: mutate} if mutate else {})}
        if cluster is not None:
            more["COUNTERSIGN_DATABASE"] = cluster.url(cluster.create())
        it = Gated(data=folder / "data", stacks=folder / "stacks", settings=more)
        it.start()
        try:
            await it.ready()
            keys = {AGENT: it.key(AGENT, acts_for="person:ana"), PERSON: it.key(PERSON, kind="person", role="admin")}
            it.cli("secret", "set", "canary", stdin=CANARY)
            store = await Store.open(more.get("COUNTERSIGN_DATABASE") or load(it.data).database_url)
            stack.push_async_callback(store.close)
            kept = Artifacts(store, Keyring.open(it.data, role="all"), place_of(load(it.data)))
            yield Lane(folder=folder, it=it, cloud=world, store=store, artifacts=kept, keys=keys, provider=fake, cluster=cluster)
        finally:
            await asyncio.to_thread(it.stop)
