"""What the steps of any engine work with: the engine on one side, the ledger on the other.

The engine knows its tool, the steps know turn, claim, sealed artifacts, policy and records; adding an engine touches neither
them nor the run workflow.
"""

from dataclasses import dataclass

from activities.ledger import Wake
from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.store import runs, secrets
from countersign.adapters.store.database import Store
from countersign.adapters.store.standing import standing_of
from countersign.core.engine import Engine, Reveal, StackConfig, StateAccess
from countersign.core.policy import Policy
from countersign.core.steps import RunRef, Standing


@dataclass(frozen=True, kw_only=True)
class Here:
    """This machine, as attempts record it."""

    host: str
    boot_id: str
    state_url: str


@dataclass(frozen=True, kw_only=True)
class EngineStep:
    engine: Engine
    store: Store
    artifacts: Artifacts
    keyring: Keyring
    policy: Policy
    here: Here
    wake: Wake

    def access(self, stack: StackConfig, user: str, password: str, lineage: str | None, serial: int) -> StateAccess:
        address = f"{self.here.state_url}/v1/state/{stack.org}/{stack.stack_id}"
        return StateAccess(address=address, username=user, password=password, lineage=lineage, serial=serial)

    def reveal(self, org: str) -> Reveal:
        async def reveal(slug: str) -> str:
            async with self.store.read() as conn:
                return await secrets.reveal(conn, self.keyring, org, slug)

        return reveal

    async def stand(self, ref: RunRef) -> Standing:
        async with self.store.read() as conn:
            return await standing_of(conn, await runs.get_run(conn, ref.org, ref.run_id))

    async def wake_up(self, run_id: str | None) -> None:
        if run_id is not None:
            await self.wake(run_id)
