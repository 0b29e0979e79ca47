"""The audit chain: one row per thing somebody did or was refused, each hashed over the one before it.

Rows are appended in the transaction of what they tell, so that there is neither a deed without a row nor a row without a deed.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, desc, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import statements
from countersign.adapters.store.database import stamp
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import audit
from countersign.core.digests import canonical, sha256
from countersign.core.principal import Principal

GENESIS = "sha256:" + "0" * 64
_LAST = select(audit.c.seq, audit.c.hash).where(audit.c.org_id == bindparam("org")).order_by(desc(audit.c.seq)).limit(1)


async def append(
    tx: AsyncConnection,
    *,
    org: str,
    at: str,
    action: str,
    by: Principal,
    outcome: str = "ok",
    target: str | None = None,
    run_id: str | None = None,
    **facts: str | int | bool | None,
) -> int:
    """Append one row and return its seq. `facts` are digests and codes, never values."""
    last = await statements.one(tx, _LAST, org=org)
    seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
    body = canonical(
        {
            "v": "countersign.audit/1",
            "org": org,
            "seq": seq,
            "at": at,
            "action": action,
            "by": by.id,
            "kind": str(by.kind),
            "acts_for": by.acts_for,
            "outcome": outcome,
            "target": target,
            "run_id": run_id,
            "facts": {name: value for name, value in facts.items() if value is not None},
        }
    )
    digest = sha256(previous.encode() + b"\n" + body)
    await statements.add(tx, audit, org_id=org, seq=seq, prev_hash=previous, hash=digest, body=body.decode())
    return seq


async def of_run(
    tx: AsyncConnection, run: RunRow, *, at: datetime, action: str, by: Principal, outcome: str = "ok", **facts: str | int | bool | None
) -> int:
    """The same, about a run and what it runs on."""
    return await append(tx, org=run.org, at=stamp(at), action=action, by=by, outcome=outcome, target=run.stack_path, run_id=run.id, **facts)


async def first_broken(conn: AsyncConnection, org: str) -> int | None:
    """The seq of the first row that does not follow from the one before it, or None where the chain holds."""
    previous, expected = GENESIS, 1
    rows = await conn.stream(
        select(audit.c.seq, audit.c.prev_hash, audit.c.hash, audit.c.body).where(audit.c.org_id == org).order_by(audit.c.seq)
    )
    async for row in rows:
        if row.seq != expected or row.prev_hash != previous or sha256(previous.encode() + b"\n" + row.body.encode()) != row.hash:
            return int(row.seq)
        previous, expected = row.hash, expected + 1
    return None


async def newest(conn: AsyncConnection, org: str, *, action: str, target: str) -> Mapping[str, Any] | None:
    """The facts of the newest row of that action on that target, or None."""
    rows = select(audit.c.body).where(audit.c.org_id == org, audit.c.body.contains(f'"action":"{action}"', autoescape=True))
    for (body,) in await conn.execute(rows.order_by(desc(audit.c.seq))):
        row = json.loads(body)
        if (row["action"], row["target"]) == (action, target):
            return dict(row["facts"])
    return None


async def organizations(conn: AsyncConnection) -> list[str]:
    """Those that have a chain."""
    return list((await conn.execute(select(audit.c.org_id).distinct().order_by(audit.c.org_id))).scalars())
