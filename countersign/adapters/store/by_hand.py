"""A state by hand, for the day on which nothing else answers: an attributed claim of one transaction.

It needs neither Temporal nor the state service. It fences whoever could write, keeps what was there as a snapshot, and says in
the audit chain who did it and why. It is no way past an apply that lives, and an attempt that was lost stays open: its run
reconciles from the state that was pushed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.store import audit, plans, state
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.records import StackRow
from countersign.core import fencing
from countersign.core.digests import sha256
from countersign.core.errors import Conflict, FailedPrecondition, Locked
from countersign.core.fencing import Head
from countersign.core.ids import derive
from countersign.core.principal import Principal
from countersign.core.terraform.state import header_of, with_serial


@dataclass(frozen=True, kw_only=True)
class Pushed:
    before: Head
    after: Head
    changed: bool  # the same bytes again change nothing


@dataclass(frozen=True, kw_only=True)
class Push:
    store: Store
    artifacts: Artifacts
    stack: StackRow
    by: Principal
    reason: str
    force: bool
    check: Callable[[AttemptRow], None]  # raises FailedPrecondition where the attempt may live

    async def __call__(self, data: bytes) -> Pushed:
        """Make `data` the state. Raises InvalidArgument for what is no state, FailedPrecondition, Locked, Conflict."""
        header, org, stack_id = header_of(data), self.stack.org, self.stack.id
        if self.stack.config.own:
            raise FailedPrecondition(
                f"the state of {self.stack.path} stays in its own backend; push it there, with the engine itself", field="stack"
            )
        async with self.store.read() as conn:
            before = await self._standing(conn)
        if fencing.repeats(before, header, sha256(data)):
            return Pushed(before=before, after=before, changed=False)
        if (why := fencing.pushing(before, header, force=self.force)) is not None:
            raise FailedPrecondition(
                f"{why}. Compare the two first (countersign state pull {self.stack.path}); with --force this one replaces it, "
                f"as serial {before.serial + 1}",
                field="force",
            )
        if header.serial <= before.serial:
            data = with_serial(data, before.serial + 1)
            header = header_of(data)
        hand = derive("hand", org, stack_id, str(before.version), sha256(data))
        facts = {"org": org, "stack_id": stack_id, "run_id": hand, "kind": "state", "name": f"state-{header.serial}"}
        written = await self.artifacts.write(**facts, data=data, readable=False)
        async with self.store.begin() as tx:
            now = self.store.now()
            await state.hold(tx, org, stack_id)  # a state service does not wait for us to be done
            if (await self._standing(tx)).version != before.version:
                raise Conflict("the state changed in this very moment; look at it again")
            lost = await plans.open_attempt(tx, org, stack_id)
            epoch = await state.raise_epoch(tx, org, stack_id)
            if lost is not None:
                await state.release_lock_of(tx, org, stack_id, lost.id)
            held = await state.head(tx, org, stack_id)
            if held.lock is not None:
                raise Locked(f"the state is locked by {held.lock.who} since {held.lock.created}, and that is not ours to break")
            await self.artifacts.record(tx, written)
            after = await state.install(
                tx, org=org, stack_id=stack_id, header=header, written=written, credential_id=self.by.id[:40], run_id=hand, now=now
            )
            await audit.append(
                tx,
                org=org,
                at=stamp(now),
                action="state.push",
                by=self.by,
                target=self.stack.path,
                reason=self.reason,
                forced=self.force,
                epoch=epoch,
                serial_before=before.serial,
                serial=after.serial,
                lineage=header.lineage,
                sha256=written.sha256,
                attempt=lost.id if lost else None,
            )
        return Pushed(before=before, after=after, changed=True)

    async def _standing(self, conn: AsyncConnection) -> Head:
        """The head, where no attempt that lives is open on it."""
        lost = await plans.open_attempt(conn, self.stack.org, self.stack.id)
        if lost is not None:
            self.check(lost)
        return await state.head(conn, self.stack.org, self.stack.id)
