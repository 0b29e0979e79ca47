"""Holding a stack's applies until a person has looked at its state: a switch that every claim weighs.

Whoever reads the data folder may lift it, with a reason; plans are made meanwhile as ever.
"""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit
from countersign.adapters.store.database import stamp
from countersign.adapters.store.schema import switches
from countersign.core.principal import Principal


def _switch(path: str) -> str:
    return f"stack:{path}"


async def hold(tx: AsyncConnection, *, org: str, path: str, reason: str, by: Principal, now: datetime) -> None:
    """Hold the stack, or say anew why it is held."""
    await tx.execute(delete(switches).where(switches.c.org_id == org, switches.c.id == _switch(path)))
    at = stamp(now)
    await tx.execute(switches.insert().values(org_id=org, id=_switch(path), is_on=True, reason=reason, by=by.id, until=None, at=at))
    await audit.append(tx, org=org, at=at, action="state.hold", by=by, target=path)


async def held(conn: AsyncConnection, org: str, path: str) -> str | None:
    """Why the stack is held, or None."""
    query = select(switches.c.reason).where(switches.c.org_id == org, switches.c.id == _switch(path), switches.c.is_on.is_(True))
    return (await conn.execute(query)).scalar_one_or_none()


async def lift(tx: AsyncConnection, *, org: str, path: str, reason: str, by: Principal, now: datetime) -> bool:
    """Let the stack go; whether it was held. The reason is on the record."""
    if await held(tx, org, path) is None:
        return False
    await tx.execute(delete(switches).where(switches.c.org_id == org, switches.c.id == _switch(path)))
    await audit.append(tx, org=org, at=stamp(now), action="state.accept", by=by, target=path, reason=reason)
    return True
