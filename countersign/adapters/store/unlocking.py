"""Breaking a lock by hand: only our own, only of an attempt that is fenced and dead (I5), and on the record."""

from sqlalchemy import desc, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, plans, state
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.records import StackRow
from countersign.adapters.store.schema import lock_events
from countersign.core import fencing
from countersign.core.errors import FailedPrecondition, Locked
from countersign.core.fencing import Head, Lock, stored_lock
from countersign.core.principal import Principal


async def force_unlock(store: Store, stack: StackRow, lock_id: str, *, by: Principal, dry_run: bool = False) -> Lock:
    """Free the lock, or with `dry_run` only tell whether that may be done; the lock it is about.

    Raises FailedPrecondition where the state is not locked, Locked naming the holder where the lock may not be broken.
    """
    if stack.config.own:
        raise FailedPrecondition(
            f"the lock of {stack.path} is the one of its own backend, {stack.custody.get('backend')}, and is not seen from here; whoever "
            "has the credential of that frees it with the engine's force-unlock, once its holder is known to be dead",
            field="lock_id",
            next=["terraform_get_workspace"],
        )
    async with store.begin() as tx:
        now = store.now()
        head = await state.head(tx, stack.org, stack.id)
        if head.lock is None:
            raise FailedPrecondition(f"the state of {stack.path} is not locked", next=["terraform_get_workspace"])
        holder = await state.credential_of(tx, stack.org, head.lock_credential) if head.lock_credential else None
        attempt = await plans.attempt_by_id(tx, stack.org, holder.id) if holder is not None else None
        dead = attempt is not None and (attempt.ended_at is not None or attempt.closed_at is not None)
        recorded = await _recorded(tx, stack, head)
        why = fencing.breaking(head, lock_id, holder, recorded, dead=dead, now=now)
        if why is not None:
            run_id = holder.run_id if holder is not None else None
            raise Locked(why, field="lock_id", next=["terraform_get_workspace", "run_get"], details={"run_id": run_id})
        if not dry_run:
            assert holder is not None  # breaking saw to it
            if not await state.release_lock_of(tx, stack.org, stack.id, holder.id, now=now):
                raise Locked("the lock changed in this very moment; look again", field="lock_id", next=["terraform_get_workspace"])
            at = stamp(now)
            facts = {"lock": head.lock.id, "who": head.lock.who, "credential": holder.id}
            await audit.append(
                tx, org=stack.org, at=at, action="terraform_force_unlock", by=by, target=stack.path, run_id=holder.run_id, **facts
            )
        return head.lock


async def _recorded(tx: AsyncConnection, stack: StackRow, head: Head) -> Lock | None:
    """What we wrote down when the lock's credential took it last."""
    query = (
        select(lock_events.c.lock)
        .where(lock_events.c.org_id == stack.org, lock_events.c.stack_id == stack.id)
        .where(lock_events.c.credential_id == (head.lock_credential or ""), lock_events.c.action == "lock")
        .order_by(desc(lock_events.c.n))
        .limit(1)
    )
    text = (await tx.execute(query)).scalar_one_or_none()
    return stored_lock(text) if text is not None else None
