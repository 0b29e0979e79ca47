"""The heads of states, the credentials of attempts, and snapshots: rows of the state service and of the claim.

Every change takes the head's row first and swaps it by its version, so that several replicas are safe and what was checked
before a fence fails after it. The rules are in `core.fencing`; here they are asked inside the transaction that acts on them.
A refusal is returned, not raised: it is journalled in the same transaction, and that has to commit.
"""

import hmac
import json
import secrets as random
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Row, bindparam, desc, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import Written
from countersign.adapters.store import statements
from countersign.adapters.store.database import moment, stamp, utc_now
from countersign.adapters.store.dialects import insert_into
from countersign.adapters.store.schema import attempts, credentials, lock_events, states
from countersign.adapters.store.schema import snapshots as snapshots_table
from countersign.core import fencing
from countersign.core.digests import sha256
from countersign.core.errors import Unavailable
from countersign.core.fencing import Credential, Head, Lock, Mode, Refusal, Wish, stored_lock
from countersign.core.terraform.state import Header


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One stored state; its bytes are the artifact."""

    seq: int
    serial: int
    lineage: str
    sha256: str
    size: int
    artifact_id: str
    credential_id: str
    run_id: str
    at: datetime


# -- the head ---------------------------------------------------------------------------------------------------------


async def head(conn: AsyncConnection, org: str, stack_id: str) -> Head:
    """The head as it is; zeros where there is no state yet."""
    row = await statements.first(conn, states, org_id=org, stack_id=stack_id)
    return _head(row) if row is not None else Head()


async def raise_epoch(tx: AsyncConnection, org: str, stack_id: str, *, by: int = 1) -> int:
    """Fence the state: whoever could lock or write it cannot any more. Returns the new epoch.

    A lock stays unless its holder is known to be dead: a planner, or an attempt that evidence closed.
    """
    held = await hold(tx, org, stack_id)
    await statements.run(tx, _FENCED, org=org, stack=stack_id, now=stamp(utc_now()))
    epoch = held.epoch + by
    version = await _swap(tx, org, stack_id, held, epoch=epoch)
    await _free_if_abandoned(tx, org, stack_id, replace(held, epoch=epoch, version=version))
    return epoch


_FENCED = (
    update(credentials)
    .where(credentials.c.org_id == bindparam("org"), credentials.c.stack_id == bindparam("stack"), credentials.c.mode != str(Mode.READ))
    .where(credentials.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("now"))
)


def _head(row: Row[Any]) -> Head:
    return Head(
        epoch=row.epoch,
        lock=stored_lock(row.lock) if row.lock else None,
        lock_credential=row.lock_credential,
        locked_at=moment(row.locked_at) if row.locked_at else None,
        lineage=row.lineage,
        serial=row.serial,
        sha256=row.sha256,
        size=row.size,
        seq=row.seq,
        version=row.version,
    )


async def hold(tx: AsyncConnection, org: str, stack_id: str) -> Head:
    """The head, its row held until the transaction ends: nobody else writes the state. Made where there is none."""
    mine = {"org_id": org, "stack_id": stack_id}
    row = await statements.first(tx, states, hold=True, **mine)
    row = row or await statements.one(tx, _made(tx.dialect.name), org=org, stack=stack_id)
    row = row or await statements.first(tx, states, hold=True, **mine)  # somebody else made it in this very moment
    assert row is not None
    return _head(row)


@cache
def _made(dialect: str) -> Any:
    mine: dict[str, Any] = {"org_id": bindparam("org"), "stack_id": bindparam("stack")}
    return insert_into(states, dialect).values(mine).on_conflict_do_nothing().returning(*states.c)


async def _swap(tx: AsyncConnection, org: str, stack_id: str, seen: Head, **columns: Any) -> int:
    """The version of the head as it is then."""
    mine = {"org_id": org, "stack_id": stack_id, "version": seen.version}
    if not await statements.change(tx, states, mine, **columns, version=seen.version + 1):
        raise Unavailable("the state changed in this very moment; ask again")
    return seen.version + 1


# -- credentials ------------------------------------------------------------------------------------------------------


async def grant(
    tx: AsyncConnection, *, org: str, stack_id: str, run_id: str, credential_id: str, mode: str, epoch: int, expires_at: datetime
) -> str:
    """Make the credential of one attempt and return its password, which is kept nowhere.

    One planner is at work on a state, as turns have it: granting `plan` ends earlier planners, and frees what they left locked.
    """
    password = random.token_hex(32)
    if Mode(mode) is Mode.PLAN:
        planners = {"org_id": org, "stack_id": stack_id, "mode": str(Mode.PLAN), "revoked_at": None}
        for planner in await statements.every(tx, credentials, order=(), **planners):
            await revoke(tx, org, planner.id)
    await statements.add(
        tx,
        credentials,
        org_id=org,
        id=credential_id,
        stack_id=stack_id,
        run_id=run_id,
        mode=str(Mode(mode)),
        epoch=epoch,
        hash=sha256(password.encode()),
        expires_at=stamp(expires_at),
    )
    return password


async def revoke(tx: AsyncConnection, org: str, credential_id: str) -> None:
    """End a credential for good. Its lock goes with it, unless it is that of an attempt nobody has closed yet."""
    credential = await credential_of(tx, org, credential_id)
    if credential is None:
        return
    held = await hold(tx, org, credential.stack_id)
    await statements.change(tx, credentials, {"org_id": org, "id": credential_id, "revoked_at": None}, revoked_at=stamp(utc_now()))
    if held.lock_credential == credential_id:
        await _free_if_abandoned(tx, org, credential.stack_id, held)


_CREDENTIAL_AND_HEAD = (
    select(credentials, states.c.epoch.label("raised_to"), *(column for name, column in states.c.items() if name not in credentials.c))
    .join_from(credentials, states, (states.c.org_id == credentials.c.org_id) & (states.c.stack_id == credentials.c.stack_id), isouter=True)
    .where(credentials.c.org_id == bindparam("org"), credentials.c.id == bindparam("credential"))
)


async def authenticate(
    conn: AsyncConnection, *, org: str, stack_id: str, credential_id: str, password: str
) -> tuple[Credential, Head] | None:
    """Whose password this is, and the head; None where it is nobody's at this address. Whether it still counts, `core.fencing` says."""
    row = await statements.one(conn, _CREDENTIAL_AND_HEAD, org=org, credential=credential_id)
    if row is None or row.stack_id != stack_id or not hmac.compare_digest(row.hash, sha256(password.encode())):
        return None
    return _as_credential(row), replace(_head(row), epoch=row.raised_to) if row.version is not None else Head()


async def credential_of(conn: AsyncConnection, org: str, credential_id: str) -> Credential | None:
    """What is known of a credential, without its password: of a lock's holder, for one."""
    row = await statements.first(conn, credentials, org_id=org, id=credential_id)
    return _as_credential(row) if row is not None else None


def _as_credential(row: Row[Any]) -> Credential:
    return Credential(
        id=row.id,
        org=row.org_id,
        stack_id=row.stack_id,
        run_id=row.run_id,
        mode=Mode(row.mode),
        epoch=row.epoch,
        expires_at=moment(row.expires_at),
        revoked=row.revoked_at is not None,
    )


# -- the lock ---------------------------------------------------------------------------------------------------------


async def lock(tx: AsyncConnection, credential: Credential, asked: Lock, *, now: datetime) -> Refusal | None:
    """Take the lock, or say who has it."""
    held, refusal = await _admitted(tx, credential, Wish.LOCK, now)
    refusal = refusal or fencing.locking(credential, held, asked)
    if refusal is not None:
        await journal_refusal(tx, credential, Wish.LOCK, refusal, now=now, named=asked.id)
    elif held.lock is None:
        columns = {"lock": asked.text, "lock_credential": credential.id, "locked_at": stamp(now)}
        await _swap(tx, credential.org, credential.stack_id, held, **columns)
        await _journal(tx, credential, "lock", asked.text, now)
    return refusal


async def unlock(tx: AsyncConnection, credential: Credential, lock_id: str | None, *, now: datetime) -> Refusal | None:
    """Free the lock, or say why not. `lock_id` None is a forced one."""
    held, refusal = await _admitted(tx, credential, Wish.UNLOCK, now)
    refusal = refusal or fencing.unlocking(credential, held, lock_id)
    if refusal is not None:
        await journal_refusal(tx, credential, Wish.UNLOCK, refusal, now=now, named=lock_id)
    elif held.lock is not None:
        await _free(tx, credential, held, "unlock", now)
    return refusal


async def release_lock_of(tx: AsyncConnection, org: str, stack_id: str, credential_id: str, *, now: datetime | None = None) -> bool:
    """Free the lock a dead attempt left (I5); whether it did.

    Only a lock whose id, owner and time are those this credential's own record has, and only where the credential is over. That
    the attempt's processes are dead is the caller's to prove before.
    """
    now = now or utc_now()
    held = await hold(tx, org, stack_id)
    credential = await credential_of(tx, org, credential_id)
    if held.lock is None or held.lock_credential != credential_id or credential is None or credential.over(held, now) is None:
        return False
    recorded = (
        select(lock_events.c.lock)
        .where(lock_events.c.org_id == org, lock_events.c.stack_id == stack_id)
        .where(lock_events.c.credential_id == credential_id, lock_events.c.action == "lock")
        .order_by(desc(lock_events.c.n))
        .limit(1)
    )
    record = (await tx.execute(recorded)).scalar_one_or_none()
    if record is None or not held.lock.is_recorded_as(stored_lock(record)):
        return False
    await _free(tx, credential, held, "released", now)
    return True


async def _free_if_abandoned(tx: AsyncConnection, org: str, stack_id: str, held: Head) -> None:
    """Free a lock whose holder is over and known to be dead without anybody looking: a planner, who can change nothing, or an
    attempt that evidence closed."""
    holder = await credential_of(tx, org, held.lock_credential) if held.lock_credential else None
    if holder is None:
        return
    if holder.mode is Mode.APPLY:
        closed = select(attempts.c.closed_at).where(attempts.c.org_id == org, attempts.c.id == holder.id)
        if (await tx.execute(closed)).scalar_one_or_none() is None:
            return
    await release_lock_of(tx, org, stack_id, holder.id)


_HEAD_AND_CREDENTIAL = (
    select(states, credentials.c.revoked_at, credentials.c.expires_at)
    .join_from(states, credentials, (credentials.c.org_id == states.c.org_id) & (credentials.c.id == bindparam("credential")), isouter=True)
    .where(states.c.org_id == bindparam("org"), states.c.stack_id == bindparam("stack"))
    .with_for_update(of=states)
)


async def _admitted(tx: AsyncConnection, credential: Credential, wish: Wish, now: datetime) -> tuple[Head, Refusal | None]:
    """The head, held, and whether the credential, as it is now, may do that at all."""
    asked = {"credential": credential.id, "org": credential.org, "stack": credential.stack_id}
    row = await statements.one(tx, _HEAD_AND_CREDENTIAL, **asked)
    if row is None:
        await hold(tx, credential.org, credential.stack_id)
        return await _admitted(tx, credential, wish, now)
    held = _head(row)
    if row.expires_at is None:
        return held, Refusal(status=403, why="the credential is gone")
    credential = replace(credential, revoked=row.revoked_at is not None, expires_at=moment(row.expires_at))
    return held, fencing.admission(credential, held, wish, now=now)


async def _free(tx: AsyncConnection, credential: Credential, held: Head, action: str, now: datetime) -> None:
    assert held.lock is not None  # the callers saw to it
    await _swap(tx, credential.org, credential.stack_id, held, lock=None, lock_credential=None, locked_at=None)
    await _journal(tx, credential, action, held.lock.text, now)


async def journal_refusal(
    tx: AsyncConnection, credential: Credential, wish: Wish, refusal: Refusal, *, now: datetime, named: str | None = None
) -> None:
    """Whoever proved to be somebody and was refused is on the record."""
    told = {"wish": str(wish), "status": refusal.status, "why": refusal.why, "named": named}
    told["holder"] = refusal.holder.id if refusal.holder else None
    await _journal(tx, credential, "refused", json.dumps(told), now)


async def _journal(tx: AsyncConnection, credential: Credential, action: str, text: str, now: datetime) -> None:
    await statements.add(
        tx,
        lock_events,
        org_id=credential.org,
        stack_id=credential.stack_id,
        credential_id=credential.id,
        run_id=credential.run_id,
        epoch=credential.epoch,
        action=action,
        lock=text,
        at=stamp(now),
    )


# -- snapshots --------------------------------------------------------------------------------------------------------


async def put(
    tx: AsyncConnection, credential: Credential, lock_id: str | None, header: Header, written: Written, *, now: datetime
) -> Refusal | None:
    """Make the written bytes the head, or say why not. The same bytes again are a success that changes nothing."""
    held, refusal = await _admitted(tx, credential, Wish.WRITE, now)
    refusal = refusal or fencing.writing(credential, held, lock_id, header, written.sha256)
    if refusal is not None:
        await journal_refusal(tx, credential, Wish.WRITE, refusal, now=now, named=lock_id)
    elif not fencing.repeats(held, header, written.sha256):
        stored = _stored(held, header, written)
        await _swap(tx, credential.org, credential.stack_id, held, **stored)
        by = {"org_id": credential.org, "stack_id": credential.stack_id, "credential_id": credential.id, "run_id": credential.run_id}
        await statements.add(tx, snapshots_table, **stored, **by, artifact_id=written.id, at=stamp(now))
    return refusal


def _stored(held: Head, header: Header, written: Written) -> dict[str, Any]:
    """What the head and its snapshot say of the bytes that become it."""
    return {"serial": header.serial, "lineage": header.lineage, "sha256": written.sha256, "size": written.size, "seq": held.seq + 1}


async def install(
    tx: AsyncConnection, *, org: str, stack_id: str, header: Header, written: Written, credential_id: str, run_id: str, now: datetime
) -> Head:
    """Make the written bytes the head, whatever it was: for an operator's hand, and for what a restored store did not know.

    The rules of writing do not hold here, so whoever calls this has raised the epoch in the same transaction.
    """
    held = await hold(tx, org, stack_id)
    stored = _stored(held, header, written)
    version = await _swap(tx, org, stack_id, held, **stored)
    by = {"org_id": org, "stack_id": stack_id, "credential_id": credential_id, "run_id": run_id}
    await statements.add(tx, snapshots_table, **stored, **by, artifact_id=written.id, at=stamp(now))
    return replace(held, **stored, version=version)


async def snapshot(conn: AsyncConnection, org: str, stack_id: str, serial: int | None = None) -> Snapshot | None:
    """The newest snapshot, or the one of that serial; None where there is none."""
    mine: dict[str, Any] = {"org_id": org, "stack_id": stack_id} | ({} if serial is None else {"serial": serial})
    row = await statements.first(conn, snapshots_table, newest="seq", **mine)
    return _snapshot(row) if row is not None else None


async def snapshots(conn: AsyncConnection, org: str, stack_id: str, limit: int = 50) -> list[Snapshot]:
    """The newest snapshots first; how many there are in all is `head().seq`."""
    table = snapshots_table
    query = select(table).where(table.c.org_id == org, table.c.stack_id == stack_id).order_by(desc(table.c.seq)).limit(limit)
    return [_snapshot(row) for row in await conn.execute(query)]


def _snapshot(row: Row[Any]) -> Snapshot:
    return Snapshot(
        seq=row.seq,
        serial=row.serial,
        lineage=row.lineage,
        sha256=row.sha256,
        size=row.size,
        artifact_id=row.artifact_id,
        credential_id=row.credential_id,
        run_id=row.run_id,
        at=moment(row.at),
    )
