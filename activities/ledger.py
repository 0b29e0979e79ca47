"""The steps of the run itself, the same for every engine: decide, move, and tell where it stands."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.keyring import Keyring
from countersign.adapters.store import audit, canceling, journals, plans, runs, turns
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.decide import Verify, decide
from countersign.adapters.store.ending import end_waiting
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.core.engine import Told
from countersign.core.policy import Policy, Trust
from countersign.core.principal import SYSTEM, Kind, Principal
from countersign.core.run import COMPOSITE, ENDS, RunState, may_follow
from countersign.core.steps import DECIDE, FORCE, MOVE, STAND, Decided, DecideInput, EndInput, EndReason, RunRef, Standing

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
    "{known}"
    "1. Bring the machine {host} back, if it is down: its worker finds the attempt by itself.\n"
    "2. `run_resume` looks again: it ends the run when the attempt's journal and exit code are there.\n"
    "3. Compare `terraform_get_state` with what exists in the cloud before anything else is done by hand."
)
GONE = (
    "\n4. Only where that machine is gone for good, switched off or destroyed, so that nothing of the apply runs on: say so, and another "
    "worker goes on from what the journal told.\n"
    "    countersign resume {run} --machine-gone {host}"
)
RESOURCES_KEPT = 500  # rows of what an apply did, in the ledger
TOLD = 40  # objects named to an operator


@dataclass(frozen=True, kw_only=True)
class LedgerSteps:
    store: Store
    policy: Policy
    trust: Trust
    verify: Verify
    wake: Wake
    keyring: Keyring | None = None  # opens journals of lost applies
    tells: Mapping[str, Callable[[bytes], Sequence[Told]]] = field(default_factory=dict)  # by engine that can account for them
    force_after: timedelta = timedelta(seconds=120)  # for an apply that was asked to stop, before it may be ended by force

    @DECIDE.implemented_by
    async def decide(self, asked: DecideInput) -> Decided:
        decided = await decide(self.store, asked, policy=self.policy, trust=self.trust, verify=self.verify)
        if decided.standing.state in ENDS:
            await self._tell_members(asked.org, asked.run_id)
        return decided

    async def _tell_members(self, org: str, run_id: str) -> None:
        """What ended a composite ended its steps; their workflows are told."""
        async with self.store.read() as conn:
            members = await runs.members_of(conn, await runs.get_run(conn, org, run_id))
        for member in members:
            await self.wake(member.id)

    @STAND.implemented_by
    async def stand(self, ref: RunRef) -> Standing:
        async with self.store.read() as conn:
            return await standing_of(conn, await runs.get_run(conn, ref.org, ref.run_id), trust=self.trust)

    @FORCE.implemented_by
    async def force(self, asked: EndInput) -> Decided:
        """Record that the apply is to be ended by force, if it had its time to stop. Asking twice is asking once."""
        async with self.store.begin() as tx:
            run = await runs.get_run(tx, asked.org, asked.run_id)
            now, by = self.store.now(), _principal(asked.by)
            refusal = await canceling.refused(tx, run, after=self.force_after, now=now)
            if refusal is None and not await canceling.is_forced(tx, run):
                await canceling.force(tx, run, by=by, reason=asked.message, at=now)
            standing = await standing_of(tx, run, trust=self.trust)
        code, message = ("failed_precondition", refusal.message) if refusal else (None, "")
        return Decided(accepted=refusal is None, standing=standing, by=by.id, code=code, message=message)

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
                columns: dict[str, Any] = {}
                if to is RunState.NEEDS_OPERATOR:
                    reason, columns = await self._lost(tx, run)
                code = _CODES.get(asked.reason)
                if run.state in (RunState.AWAITING_APPROVAL, RunState.APPROVED) and to in ENDS:
                    run = await end_waiting(tx, run, to, at=now, body=body, reason=reason or "", code=code)
                    break
                if to in ENDS and await turns.open_attempt_of(tx, org=run.org, stack_id=run.stack_id) == run.id:
                    break  # only evidence ends it (I4): whoever asked follows it
                run = await runs.move(tx, run, to, at=now, body=body, reason=reason, code=code, **columns)
            if run.state is not before:
                await audit.of_run(tx, run, at=now, action=f"run.{asked.reason}", by=by)
            if run.ended:
                freed = await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)
            standing = await standing_of(tx, run, trust=self.trust)
        if freed is not None:
            await self.wake(freed)
        if run.ended and run.engine == COMPOSITE:
            await self._tell_members(run.org, run.id)
        return standing

    async def _lost(self, conn: AsyncConnection, run: RunRow) -> tuple[str, dict[str, Any]]:
        """What an operator is told of an apply whose machine does not answer: with what its journal told while it did."""
        attempt = await plans.open_attempt(conn, run.org, run.stack_id)
        tell = self.tells.get(run.engine)
        if attempt is None or attempt.run_id != run.id or tell is None or self.keyring is None:
            host = attempt.host if attempt is not None else "of the attempt"
            return NEEDS_OPERATOR.format(host=host, known=""), {}
        known, columns = "", {}
        found = await journals.shipped(conn, self.keyring, org=run.org, attempt=attempt)
        if found.at is not None:
            told = tell(found.testimony)
            lines = [f"    {one.line}" for one in told[:TOLD]]
            lines += [f"    and {len(told) - TOLD} more: `run_get` with resources"] if len(told) > TOLD else []
            ran = f", process {found.facts['process']}" if "process" in found.facts else ""
            known = f"What it had told by {stamp(found.at)} ({attempt.id}{ran}); what it did after that nobody knows:\n"
            known += "\n".join(lines or ["    nothing was begun"]) + "\n"
            columns["resources"] = json.dumps([one.row for one in told[:RESOURCES_KEPT]])
        text = NEEDS_OPERATOR.format(host=attempt.host, known=known) + GONE.format(run=run.id, host=attempt.host)
        return text, columns

    def _allowed(self, run: RunRow, reason: EndReason) -> bool:
        """Time ends only what its time is over for, by the row, whatever a timer says."""
        return reason is not EndReason.EXPIRED or (run.expires_at is not None and self.store.now() >= run.expires_at)


def _principal(by: str | None) -> Principal:
    if by is None:
        return SYSTEM
    kind = by.partition(":")[0]
    return Principal(id=by, kind=Kind(kind) if kind in set(Kind) else Kind.MACHINE)
