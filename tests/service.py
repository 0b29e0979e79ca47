"""The service assembled in one test process: a real Temporal, a real store, the real steps; the engine is the test's choice."""

import asyncio
import contextlib
import sysconfig
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.applying import Applying
from activities.engine import Here
from countersign.adapters import temporal
from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import place_of
from countersign.adapters.settings import Settings
from countersign.adapters.store import plans, records, requests, runs
from countersign.adapters.store.database import Store
from countersign.adapters.store.runs import RunRow
from countersign.core import attributes
from countersign.core.approval import ApproveInput, DecisionClaims, RejectInput, SignedDecision
from countersign.core.digests import canonical
from countersign.core.engine import Engine
from countersign.core.principal import Kind, Principal
from countersign.core.run import ENDS, RUN_TYPES, RunState
from countersign.core.steps import Decided
from countersign.worker.main import build_workers

ANA = Principal(id="person:ana", kind=Kind.PERSON)
BO = Principal(id="person:bo", kind=Kind.PERSON)
CY = Principal(id="person:cy", kind=Kind.PERSON)
AGENT = Principal(id="agent:claude", kind=Kind.AGENT, acts_for="person:ana")

PATIENCE = 30.0  # seconds; every wait is bounded


async def eventually(probe: Callable[[], Awaitable[Any]], what: str, patience: float = PATIENCE, *, seen: Callable[[], str] = str) -> Any:
    """The first true answer of `probe`; fails by saying `what` it waited for, and what was `seen` in its place."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if answer := await probe():
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"waited {patience} s for {what} {seen()}")


@contextlib.asynccontextmanager
async def temporal_server(database: Path | None = None) -> AsyncIterator[Client]:
    """With a `database` it keeps what it knows there."""
    executable = str(Path(sysconfig.get_path("scripts")) / "temporal")
    keys = [SearchAttributeKey.for_keyword(name) for name in attributes.SEARCH_ATTRIBUTES]
    extra = ["--dynamic-config-value", "history.transferProcessorMaxPollRPS=2000"]
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=executable,
        data_converter=temporal.DATA_CONVERTER,
        search_attributes=keys,
        dev_server_extra_args=extra,
        dev_server_log_level="error",
        dev_server_database_filename=str(database) if database else None,
    ) as environment:
        yield environment.client


@dataclass
class Service:
    """What a test says and sees: the front's words without the front."""

    client: Client
    settings: Settings
    store: Store
    artifacts: Artifacts
    keyring: Keyring
    engine: Engine
    here: Here
    org: str = "local"
    _working: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def runs(self) -> temporal.Runs:
        return temporal.Runs(self.client)

    def workers(self) -> list[Worker]:
        return build_workers(
            self.client,
            store=self.store,
            artifacts=self.artifacts,
            keyring=self.keyring,
            settings=self.settings,
            engines=[self.engine],
            here=self.here,
            wake=self.runs.wake,
            alarm=self.runs.alarm,
            show=self.runs.show,
            wanted=self.runs.wanted,
        )

    async def start_workers(self) -> None:
        self._working = contextlib.AsyncExitStack()
        for worker in self.workers():
            await self._working.enter_async_context(worker)

    async def stop_workers(self) -> None:
        await self._working.aclose()

    async def stack(self, slug: str = "demo") -> records.StackRow:
        registered = await records.register_stack(
            self.store, org=self.org, env="dev", slug=slug, source={"repo": None, "path": slug, "git_ref": None}, by=ANA
        )
        return registered.row

    async def start(
        self,
        stack: records.StackRow,
        *,
        tool: str = "apply_toy",
        by: Principal = AGENT,
        key: str | None = None,
        **arguments: Any,
    ) -> RunRow:
        asked = await requests.request_run(
            self.store,
            requests.Draft(run_type=RUN_TYPES[tool], stack=stack.config, arguments=arguments),
            org=self.org,
            principal=by,
            key=key,
            message=None,
        )
        run = await self.run(asked.run_id)
        await self.runs.start(run)
        return run

    async def run(self, run_id: str) -> RunRow:
        async with self.store.read() as conn:
            return await runs.get_run(conn, self.org, run_id)

    async def reaches(self, run_id: str, *states: RunState, patience: float = PATIENCE) -> RunRow:
        async def there() -> RunRow | None:
            run = await self.run(run_id)
            if run.state in states:
                return run
            if run.state in ENDS:
                raise AssertionError(f"the run ended {run.state} ({run.code}: {run.reason}) instead of {', '.join(states)}")
            return None

        found: RunRow = await eventually(there, f"{run_id} to reach {', '.join(states)}", patience)
        return found

    async def decisions(self, run_id: str) -> list[plans.DecisionRow]:
        async with self.store.read() as conn:
            return await plans.decisions_of(conn, self.org, run_id)

    def signed(self, run_id: str, by: Principal, decision: str = "approve", nonce: str = "", **facts: Any) -> SignedDecision:
        claims = DecisionClaims.model_validate(
            {
                "org": self.org,
                "run_id": run_id,
                "decision": decision,
                "principal": by,
                "nonce": nonce or f"n-{time.monotonic_ns()}",
                "expires_at": self.store.now().timestamp() + 60,
                **facts,
            }
        )
        payload = canonical(claims.model_dump(mode="json"))
        signature, key_id = self.keyring.sign(payload)
        return SignedDecision(payload=payload.decode(), signature=signature, key_id=key_id)

    async def approve(self, run: RunRow, by: Principal = ANA, *, digest: str | None = None, confirm_name: str | None = None) -> Decided:
        digest = digest or run.plan_digest or ""
        signed = self.signed(run.id, by, plan_digest=digest, confirm_name=confirm_name)
        given = ApproveInput(plan_digest=digest, confirm_name=confirm_name, signed=signed)
        return await self.runs.approve(run.id, given, update_id=f"u-{time.monotonic_ns()}")

    def steps(self) -> Applying:
        """The engine's steps, to be called by hand: what anybody with Temporal access could do."""
        return Applying(
            engine=self.engine,
            store=self.store,
            artifacts=self.artifacts,
            keyring=self.keyring,
            policy=self.settings.effective_policy,
            here=self.here,
            wake=self.runs.wake,
        )

    async def reject(self, run: RunRow, by: Principal = ANA, reason: str = "no") -> Decided:
        given = RejectInput(reason=reason, signed=self.signed(run.id, by, "reject", comment=reason))
        return await self.runs.reject(run.id, given, update_id=f"u-{time.monotonic_ns()}")


@contextlib.asynccontextmanager
async def service(client: Client, data: Path, engine: Engine, **settings: Any) -> AsyncIterator[Service]:
    configured = Settings(data=data, temporal_address=client.config()["service_client"].config.target_host, **settings)
    keyring = Keyring.open(data, role="all")
    store = await Store.open(configured.database_url)
    made = Service(
        client=client,
        settings=configured,
        store=store,
        artifacts=Artifacts(store, keyring, place_of(configured)),
        keyring=keyring,
        engine=engine,
        here=Here(host=f"h-{data.name}", boot_id="boot", state_url="http://127.0.0.1:1"),
    )
    await made.start_workers()
    try:
        yield made
    finally:
        await made.stop_workers()
        await store.close()
