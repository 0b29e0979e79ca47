"""A front in the test's own process: a real store, the real steps and a tiny engine, and in place of Temporal an object that does
at once what the run workflow does through it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
from mcp import Client, types
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from temporalio.testing import ActivityEnvironment

from activities.applying import Applying
from activities.composing import Composing
from activities.engine import Here
from activities.ledger import LedgerSteps
from activities.planning import Planning
from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import EnvironmentSettings, OrganizationSettings, Settings
from countersign.adapters.store import audit, keys, plans, records, runs
from countersign.adapters.store.database import Store
from countersign.adapters.store.decide import decide
from countersign.adapters.store.runs import RunRow
from countersign.core.approval import ApproveInput, CancelInput, DecisionClaims, RejectInput
from countersign.core.errors import BY_CODE, FailedPrecondition, NotFound, Unavailable
from countersign.core.principal import SYSTEM, Kind, Principal
from countersign.core.run import COMPOSITE, ENDS, RunState
from countersign.core.steps import ApplyInput, Decided, DecideInput, EndInput, EndReason, RunRef, Standing
from mcp_front.auth import KeyVerifier, local_agent
from mcp_front.call import Front
from mcp_front.envelope import OUTPUT_SCHEMA
from mcp_front.main import build_front
from mcp_front.server import GovernedServer
from tests.service import eventually
from tests.toy.engine import ToyEngine

PATIENCE = 20.0  # seconds; every wait is bounded

ANA = Principal(id="person:ana", kind=Kind.PERSON)
BO = Principal(id="person:bo", kind=Kind.PERSON)
CLAUDE = Principal(id="agent:claude", kind=Kind.AGENT, acts_for="person:ana")
OTTO = Principal(id="agent:otto", kind=Kind.AGENT, acts_for="person:bo")
CI = Principal(id="machine:ci", kind=Kind.MACHINE)

ORGANIZATION = OrganizationSettings(
    slug="acme", environments=(EnvironmentSettings(slug="dev"), EnvironmentSettings(slug="prod", protected=True, rank=1))
)


class InProcess:
    """What the front says to run workflows, done here and now by the same steps. `away`: nobody answers."""

    def __init__(self, planning: Planning, applying: Applying, leading: Callable[["InProcess"], Composing]) -> None:
        self._planning, self._applying, self._leading = planning, applying, leading(self)
        self._store, self._keyring, self._policy = planning.store, planning.keyring, planning.policy
        self.away = False
        self.knows: set[str] = set()  # runs it was told of
        self.starts: list[str] = []
        self.resumed: list[tuple[str, str]] = []
        self.go_on = asyncio.Event()  # planning waits for it
        self.go_on.set()
        self._working: set[asyncio.Task[Any]] = set()

    async def runs(self) -> "InProcess":
        return self

    def _reach(self, run_id: str | None = None) -> None:
        if self.away:
            raise Unavailable("Temporal does not answer; what was asked is on record, ask again with the same idempotency key")
        if run_id is not None and run_id not in self.knows:
            raise NotFound("Temporal has no running workflow of that run; `run_get` tells how it ended")

    def _later(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _run(self, run_id: str) -> RunRow:
        async with self._store.read() as conn:
            return await runs.get_run(conn, ORGANIZATION.slug, run_id)

    async def start(self, run: RunRow, *, again: bool = False) -> None:
        self._reach()
        if run.id not in self.knows:
            self.knows.add(run.id)
            self.starts.append(run.id)
            self._later(self._plan(run))

    async def _plan(self, run: RunRow) -> None:
        await self.go_on.wait()
        plan = self._leading.plan if run.engine == COMPOSITE else self._planning.plan
        here = ActivityEnvironment()
        here.info = replace(here.info, start_to_close_timeout=timedelta(hours=1))
        standing = await here.run(plan, RunRef(org=run.org, run_id=run.id))
        await self._go(run, standing)

    async def _go(self, run: RunRow, standing: Standing) -> None:
        if standing.state is RunState.APPROVED and standing.plan_digest:
            asked = ApplyInput(org=run.org, run_id=run.id, plan_digest=standing.plan_digest)
            apply = self._leading.apply if run.engine == COMPOSITE else self._applying.apply
            after = await ActivityEnvironment().run(apply, asked)
            if after.state is RunState.STALE:
                await self._plan(run)

    async def wake(self, run_id: str) -> None:
        self._later(self._look(run_id))

    async def _look(self, run_id: str) -> None:
        run = await self._run(run_id)
        if run.state is RunState.PENDING:
            await self._plan(run)
        elif run.state is RunState.APPROVED:
            await self._go(run, Standing(state=run.state, plan_digest=run.plan_digest))

    async def approve(self, run_id: str, given: ApproveInput, *, update_id: str) -> Decided:
        return await self._decide(run_id, update_id, approve=given)

    async def reject(self, run_id: str, given: RejectInput, *, update_id: str) -> Decided:
        return await self._decide(run_id, update_id, reject=given)

    async def _decide(self, run_id: str, nonce: str, **said: Any) -> Decided:
        self._reach(run_id)
        run = await self._run(run_id)
        asked = DecideInput(org=run.org, run_id=run_id, nonce=nonce, **said)
        recorded = await decide(self._store, asked, policy=self._policy, trust="off", verify=self._keyring.verify)
        if not recorded.accepted:
            raise BY_CODE.get(recorded.code or "", FailedPrecondition)(recorded.message)
        run = await self._run(run_id)
        standing = Standing(state=run.state, plan_digest=run.plan_digest)
        self._later(self._go(run, standing))
        return Decided(accepted=True, standing=standing, by=recorded.by)

    async def cancel(self, run_id: str, given: CancelInput) -> None:
        self._reach(run_id)
        run = await self._run(run_id)
        by = DecisionClaims.model_validate_json(given.signed.payload).principal.id if given.signed else None
        ledger = LedgerSteps(store=self._store, policy=self._policy, trust="off", verify=self._keyring.verify, wake=_nobody)
        if given.force:
            await ledger.force(EndInput(org=run.org, run_id=run_id, reason=EndReason.CANCELED, by=by, message=given.reason))
            return
        await ledger.move(EndInput(org=run.org, run_id=run_id, reason=EndReason.CANCELED, by=by, message=given.reason))

    async def resume(self, run_id: str, by: str) -> None:
        self._reach(run_id)
        self.resumed.append((run_id, by))

    async def reachable(self) -> bool:
        return not self.away

    async def close(self) -> None:
        self.go_on.set()
        for task in [*self._working]:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)


async def _nobody(run_id: str) -> None:
    """There is no other workflow to wake."""


@dataclass
class FrontService:
    front: Front
    temporal: InProcess
    engine: ToyEngine
    org: str = "acme"
    tokens: dict[str, str] = field(default_factory=dict)

    async def key(self, principal: Principal, role: str) -> str:
        _, token = await keys.create_key(self.front.store, org=self.org, principal=principal, role=role, by=SYSTEM)
        return token

    async def stack(self, slug: str = "main", env: str = "dev", **body: Any) -> records.StackRow:
        source = {"repo": None, "path": slug, "git_ref": None}
        return (await records.register_stack(self.front.store, org=self.org, env=env, slug=slug, source=source, by=ANA, **body)).row

    @contextlib.asynccontextmanager
    async def as_(
        self, principal: Principal, role: str, *, mode: Any = "auto", user: "User | None" = None, **options: Any
    ) -> AsyncIterator["Caller"]:
        """A client of one principal, in memory, with a key that is looked up as over HTTP. `user` sits before it and can be asked."""
        token = await KeyVerifier(self.front.store).verify_token(await self.key(principal, role))
        assert token is not None, "the key opens nothing"
        reset = auth_context_var.set(AuthenticatedUser(token))
        try:
            asked = user.asked if user else None
            async with Client(
                GovernedServer(self.front), mode=mode, raise_exceptions=False, elicitation_callback=asked, **options
            ) as client:
                yield Caller(client)
        finally:
            auth_context_var.reset(reset)

    @contextlib.asynccontextmanager
    async def stdio(self, *, role: str = "platform", user: "User | None" = None) -> AsyncIterator["Caller"]:
        """As over standard input and output: nobody shows a key, the connection is the local user's agent."""
        caller = local_agent("ana", org=self.org, role=role)
        async with Client(GovernedServer(self.front, caller=caller), elicitation_callback=user.asked if user else None) as client:
            yield Caller(client)

    async def run(self, run_id: str) -> RunRow:
        async with self.front.store.read() as conn:
            return await runs.get_run(conn, self.org, run_id)

    async def reaches(self, run_id: str, *states: RunState) -> RunRow:
        found = await self.front.gateway.wait(self.org, run_id, lambda run: run.state in states or run.state in ENDS, seconds=PATIENCE)
        assert found.state in states, f"{run_id} is {found.state} ({found.code}: {found.reason}) and not {', '.join(states)}"
        return found

    async def launched(self) -> Path:
        """The folder of the first apply, as soon as its process would run."""

        async def there() -> list[str]:
            return self.engine.launched

        return self.engine.where((await eventually(there, "an apply to be launched", PATIENCE))[0])

    async def audited(self) -> list[dict[str, Any]]:
        async with self.front.store.read() as conn:
            assert await audit.first_broken(conn, self.org) is None
            return [json.loads(row.body) for row in await conn.execute(audit.audit.select().order_by(audit.audit.c.seq))]

    async def decisions(self, run_id: str) -> list[plans.DecisionRow]:
        async with self.front.store.read() as conn:
            return await plans.decisions_of(conn, self.org, run_id)


class Silence(Exception):
    """What a person says who has gone for lunch."""


@dataclass
class User:
    """Who sits before a client that can ask. `says` is what they type, or how they get rid of the question."""

    says: dict[str, Any] | str | Exception
    questions: list[str] = field(default_factory=list)

    async def asked(self, _: Any, params: types.ElicitRequestParams) -> types.ElicitResult | types.ErrorData:
        assert isinstance(params, types.ElicitRequestFormParams)
        self.questions.append(params.message)
        if isinstance(self.says, Silence):
            await asyncio.Event().wait()
        if isinstance(self.says, Exception):
            raise self.says
        if isinstance(self.says, dict):
            return types.ElicitResult(action="accept", content=self.says)
        return types.ElicitResult(action=self.says)  # type: ignore[arg-type]


@dataclass
class Caller:
    client: Client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured result of a call that succeeds."""
        content = await self._call(tool, arguments)
        assert "error" not in content, content
        return content

    async def refused(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The error of a call that is refused."""
        content = await self._call(tool, arguments)
        assert "error" in content, content
        error: dict[str, Any] = content["error"]
        return error

    async def _call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if "from_" in arguments:
            arguments["from"] = arguments.pop("from_")
        result = await self.client.call_tool(tool, arguments)
        content: dict[str, Any] = result.structured_content or {}
        jsonschema.validate(content, OUTPUT_SCHEMA)
        assert result.is_error == ("error" in content)
        assert len(json.dumps(content, ensure_ascii=False).encode()) <= 62_000
        return content

    async def listed(self) -> list[str]:
        return [tool.name for tool in (await self.client.list_tools()).tools]


@contextlib.asynccontextmanager
async def front_service(data: Path, **settings: Any) -> AsyncIterator[FrontService]:
    configured = Settings(data=data, organizations=(ORGANIZATION,), stacks=data / "stacks", **settings)
    made: list[InProcess] = []

    async def runs() -> InProcess:
        return made[0]

    async with build_front(configured, runs=runs) as front:
        keyring = Keyring.open(data, role="all")
        engine = ToyEngine(data / "toy", name="terraform")
        parts: dict[str, Any] = {
            "engine": engine,
            "store": front.store,
            "artifacts": Artifacts(front.store, keyring, data / "artifacts"),
            "keyring": keyring,
            "policy": configured.effective_policy,
            "here": Here(host="h-test", boot_id="boot", state_url="http://127.0.0.1:1"),
            "wake": _nobody,
        }
        shared = {name: part for name, part in parts.items() if name not in ("engine", "wake")}
        applying = Applying(**parts)
        planning = Planning(apply=applying.apply, **parts)
        made.append(InProcess(planning, applying, lambda port: Composing(**shared, wake=port.wake, workflows=port)))
        try:
            yield FrontService(front=front, temporal=made[0], engine=engine)
        finally:
            await made[0].close()


@contextlib.contextmanager
def moved_clock(store: Store, **by: Any) -> Iterator[None]:
    """The store's clock is the one that decides."""
    from datetime import timedelta

    now: Callable[[], Any] = store._clock
    store._clock = lambda: now() + timedelta(**by)
    try:
        yield
    finally:
        store._clock = now
