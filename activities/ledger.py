"""The steps of the run itself, the same for every engine: decide, move, and tell where it stands."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from countersign.adapters.store import audit, runs, turns
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.decide import Verify, decide
from countersign.adapters.store.ending import end_waiting
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.core.policy import Policy, Trust
from countersign.core.principal import SYSTEM, Kind, Principal
from countersign.core.run import ENDS, RunState, may_follow
from countersign.core.steps import DECIDE, MOVE, STAND, Decided, DecideInput, EndInput, EndReason, RunRef, Standing

Wake = Callable[[str], Awaitable[None]]  # tells the workflow of this run to look at its row again

_PATHS = {
    EndReason.EXPIRED: (RunState.EXPIRED,),
    EndReason.CANCELED: (RunState.CANCELED,),
    EndReason.LOST: (RunState.INTERRUPTED, RunState.NEEDS_OPERATOR),
    EndReason.RESUME: (RunState.RECONCILING,),
    EndReason.FAILED: (RunState.ERRORED,),
}
_CODES = {EndReason.EXPIRED: "approval_expired", EndReason.CANCELED: "canceled", EndReason.FAILED: "internal"}

NEEDS_OPERATOR = (
    "The apply of this run was interrupted and nothing on this machine can tell how it ended; some of its changes may exist.\n"
    "The stack's state stays blocked, so that nobody applies on top of that.\n"
    "1. Bring the machine {host} back, if it is down: its worker finds the attempt by itself.\n"
    "2. `run_resume` looks again: it ends the run when the attempt's journal and exit code are there.\n"
    "3. Compare `terraform_get_state` with what exists in the cloud before anything else is done by hand."
)


@dataclass(frozen=True, kw_only=True)
class LedgerSteps:
    store: Store
    policy: Policy
    trust: Trust
    verify: Verify
    wake: Wake

    @DECIDE.implemented_by
    async def decide(self, asked: DecideInput) -> Decided:
        return await decide(self.store, asked, policy=self.policy, trust=self.trust, verify=self.verify)

    @STAND.implemented_by
    async def stand(self, ref: RunRef) -> Standing:
        async with self.store.read() as conn:
            return await standing_of(conn, await runs.get_run(conn, ref.org, ref.run_id), trust=self.trust)

    @MOVE.implemented_by
    async def move(self, asked: EndInput) -> Standing:
        """Move the run where the reason says, if it can go there from where it is; answer where it stands either way."""
        freed = None
        async with self.store.begin() as tx:
            now = self.store.now()
            run = await runs.get_run(tx, asked.org, asked.run_id)
            by = _principal(asked.by)
            body = {"by": by.id, "reason": asked.reason, "message": asked.message}
            before = run.state
            for to in _PATHS[asked.reason]:
                if run.state is to or not may_follow(run.state, to) or not self._allowed(run, asked.reason):
                    continue
                reason = asked.message or None
                if to is RunState.NEEDS_OPERATOR:
                    reason = NEEDS_OPERATOR.format(host=(await standing_of(tx, run, trust=self.trust)).host or "of the attempt")
                code = _CODES.get(asked.reason)
                if run.state in (RunState.AWAITING_APPROVAL, RunState.APPROVED) and to in ENDS:
                    run = await end_waiting(tx, run, to, at=now, body=body, reason=reason or "", code=code)
                    break
                run = await runs.move(tx, run, to, at=now, body=body, reason=reason, code=code)
            if run.state is not before:
                await audit.append(
                    tx, org=run.org, at=stamp(now), action=f"run.{asked.reason}", by=by, target=run.stack_path, run_id=run.id
                )
            if run.ended:
                freed = await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)
            standing = await standing_of(tx, run, trust=self.trust)
        if freed is not None:
            await self.wake(freed)
        return standing

    def _allowed(self, run: RunRow, reason: EndReason) -> bool:
        """Time ends only what its time is over for, by the row, whatever a timer says."""
        return reason is not EndReason.EXPIRED or (run.expires_at is not None and self.store.now() >= run.expires_at)


def _principal(by: str | None) -> Principal:
    if by is None:
        return SYSTEM
    kind = by.partition(":")[0]
    return Principal(id=by, kind=Kind(kind) if kind in set(Kind) else Kind.MACHINE)
