"""What the steps of any engine work with: the engine on one side, the ledger on the other.

The engine knows its tool, the steps know turn, claim, sealed artifacts, policy and records; adding an engine touches neither
them nor the run workflow.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from activities.ledger import Wake
from countersign.adapters.artifacts import Artifacts, Content, Written
from countersign.adapters.keyring import Keyring
from countersign.adapters.store import runs, secrets
from countersign.adapters.store.database import Store
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.core.engine import Engine, Planned, Reveal, StackConfig, StateAccess
from countersign.core.policy import Policy, Trust
from countersign.core.steps import RunRef, Standing


@dataclass(frozen=True, kw_only=True)
class Here:
    """This machine, as attempts record it."""

    host: str
    boot_id: str
    state_url: str


@dataclass(frozen=True, kw_only=True)
class RunStep:
    """What every step that moves a run has; a composite, which is made of other runs, has no more."""

    store: Store
    artifacts: Artifacts
    keyring: Keyring
    policy: Policy
    here: Here
    wake: Wake
    alarm: Wake | None = None  # tells the workflow of this run to show what it is doing that nobody approved
    show: Wake | None = None  # tells the workflow of this run to show where its row stands
    wanted: Callable[[], Awaitable[bool]] | None = None  # whether Temporal still wants the step that asks, with no wish to end it
    trust: Trust = "trusted"  # in the Temporal UI: only for what the run's page says there

    async def seal_plan(self, run: RunRow, planned: Planned) -> dict[str, Written]:
        kinds: dict[str, tuple[bytes, bool]] = {
            "plan_view": (planned.view, True),
            "semantic_document": (planned.semantic_document, True),
            "log": (planned.log.encode(), True),
        }
        if run.changes or planned.adoptable:
            kinds |= {"plan_bundle": (planned.bundle, False), "plan_json": (planned.plan_json, False)}
        number = run.plan_number + 1
        contents = [Content(kind=kind, name=f"{kind}-{number}", data=data, readable=readable) for kind, (data, readable) in kinds.items()]
        written = await self.artifacts.write_all(contents, org=run.org, stack_id=run.stack_id, run_id=run.id)
        return dict(zip(kinds, written, strict=True))

    async def stand(self, ref: RunRef) -> Standing:
        async with self.store.read() as conn:
            return await standing_of(conn, await runs.get_run(conn, ref.org, ref.run_id), trust=self.trust)

    async def wake_up(self, run_id: str | None) -> None:
        if run_id is not None:
            await self.wake(run_id)


@dataclass(frozen=True, kw_only=True)
class EngineStep(RunStep):
    engine: Engine

    def access(self, stack: StackConfig, user: str, password: str, lineage: str | None, serial: int) -> StateAccess:
        address = f"{self.here.state_url}/v1/state/{stack.org}/{stack.stack_id}"
        return StateAccess(address=address, username=user, password=password, lineage=lineage, serial=serial)

    def reveal(self, org: str) -> Reveal:
        async def reveal(slug: str) -> str:
            async with self.store.read() as conn:
                return await secrets.reveal(conn, self.keyring, org, slug)

        return reveal
