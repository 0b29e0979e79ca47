"""Journals of applies in the store, chunk by chunk while they run: sealed, chained, and on the disk when `append` is committed.

Whoever follows an attempt on its machine ships what it told; several may, and each line counts once, by its number. A chunk that
comes after the attempt was proven dead, or closed, is late: it is kept as testimony of something nobody knew of, apart.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import GONE
from countersign.adapters.keyring import Keyring
from countersign.adapters.store import plans, state
from countersign.adapters.store.database import moment, stamp
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.schema import journals
from countersign.core.digests import sha256
from countersign.core.engine import Said
from countersign.core.errors import FailedPrecondition


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """What the store has of one attempt's journal."""

    testimony: bytes = field(default=b"", repr=False)  # told while the attempt was open
    late: bytes = field(default=b"", repr=False)  # told when it should have been dead
    upto: int = 0  # lines of the journal accounted for
    facts: Mapping[str, Any] = field(default_factory=dict)
    at: datetime | None = None  # of the newest chunk
    broken: bool = False  # a chunk is missing, or is not the one that was written


async def append(
    tx: AsyncConnection,
    keyring: Keyring,
    *,
    org: str,
    attempt_id: str,
    host: str,
    said: Sequence[Said],
    upto: int,
    at: datetime,
    process: int | None = None,
) -> bool:
    """Keep what the attempt told up to line `upto` of its journal; whether it was late. What is kept already is not kept twice.

    Raises FailedPrecondition where the attempt is not one of `host`: only its own machine has heard it.
    """
    attempt = await plans.attempt_by_id(tx, org, attempt_id)
    if attempt is None or attempt.host != host:
        raise FailedPrecondition("that attempt is not one of this machine; its journal is told by its own")
    late = attempt.ended_at is not None or attempt.closed_at is not None
    last = (await tx.execute(_chunks(org, attempt_id).order_by(journals.c.seq.desc()).limit(1))).first()
    known = last.upto if last else 0
    text = b"".join(one.line + b"\n" for one in said if one.number > known)
    facts = json.dumps(await _facts(tx, org, attempt, process), sort_keys=True)
    if not text and last is not None and (last.facts == facts or late):
        return late
    seq = (last.seq if last else 0) + 1
    digest = _link(last.sha256 if last else "", text)
    sealed, kid = keyring.seal("artifacts", text, belongs_to=(org, attempt.stack_id, attempt_id, str(seq)))
    values: dict[str, Any] = {"org_id": org, "attempt_id": attempt_id, "seq": seq, "upto": max(known, upto), "late": late}
    values |= {"facts": facts, "sealed": sealed, "kid": kid, "sha256": digest, "at": stamp(at)}
    await tx.execute(journals.insert().values(values))
    return late


@dataclass(frozen=True, kw_only=True)
class Received:
    """What may be told of an attempt's journal without opening it."""

    chunks: int
    lines: int  # of the journal on its machine that they account for
    late: bool  # some of it came after the attempt was given up
    at: datetime
    digest: str  # of the newest chunk, and through it of all before
    facts: Mapping[str, Any]  # host, boot, process, lock and epoch


async def received(conn: AsyncConnection, org: str, attempt_id: str) -> Received | None:
    last = (await conn.execute(_chunks(org, attempt_id).order_by(journals.c.seq.desc()).limit(1))).first()
    if last is None:
        return None
    return Received(chunks=last.seq, lines=last.upto, late=last.late, at=moment(last.at), digest=last.sha256, facts=json.loads(last.facts))


async def shipped(conn: AsyncConnection, keyring: Keyring, *, org: str, attempt: AttemptRow) -> Shipped:
    """Raises FailedPrecondition where a chunk cannot be opened."""
    rows = (await conn.execute(_chunks(org, attempt.id).order_by(journals.c.seq))).all()
    told: dict[bool, list[bytes]] = {False: [], True: []}
    digest, broken = "", False
    for n, row in enumerate(rows, rows[0].seq if rows and rows[0].kid == GONE else 1):
        let_go = row.kid == GONE  # its time was over: what it said is not there, and its link proves that it was
        text = b"" if let_go else _opened(keyring, org, attempt, row)
        digest = row.sha256 if let_go else _link(digest, text)
        broken = broken or row.seq != n or row.sha256 != digest
        told[row.late].append(text)
    last = rows[-1] if rows else None
    return Shipped(
        testimony=b"".join(told[False]),
        late=b"".join(told[True]),
        upto=last.upto if last else 0,
        facts=json.loads(last.facts) if last else {},
        at=moment(last.at) if last else None,
        broken=broken,
    )


def _chunks(org: str, attempt_id: str) -> Any:
    return select(journals).where(journals.c.org_id == org, journals.c.attempt_id == attempt_id)


def _opened(keyring: Keyring, org: str, attempt: AttemptRow, row: Row[Any]) -> bytes:
    return keyring.unseal("artifacts", row.sealed, belongs_to=(org, attempt.stack_id, attempt.id, str(row.seq)))


def _link(before: str, text: bytes) -> str:
    return sha256(before.encode() + b"\n" + text)


async def _facts(tx: AsyncConnection, org: str, attempt: AttemptRow, process: int | None) -> dict[str, Any]:
    head = await state.head(tx, org, attempt.stack_id)
    lock = head.lock.id if head.lock is not None and head.lock_credential == attempt.id else None
    facts = {"host": attempt.host, "boot_id": attempt.boot_id, "epoch": attempt.epoch, "process": process, "lock": lock}
    return {name: value for name, value in facts.items() if value is not None}
