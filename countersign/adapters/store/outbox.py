"""What has to be told outside, and how far that is.

A notice is written by the transaction that moves the run, so that none is lost and none is told of what did not happen. Whoever
delivers turns it into one delivery for each webhook that wants it, also in one transaction, and takes deliveries by
compare-and-swap, with a time after which another may take them: at least once, under one id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import statements
from countersign.adapters.store.database import Store, moment, stamp
from countersign.adapters.store.schema import deliveries, outbox
from countersign.core.errors import NotFound
from countersign.core.notice import Facts, Moment, event_id

BATCH = 100  # notices in one transaction
PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
KEPT = timedelta(days=30)  # what was delivered
DEAD_KEPT = timedelta(days=90)
UNADDRESSED_KEPT = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Notice:
    org: str
    id: str
    moment: Moment
    facts: Facts


@dataclass(frozen=True, kw_only=True)
class Delivery:
    org: str
    event_id: str
    webhook: str
    run_id: str
    moment: Moment
    state: str
    attempts: int
    next_at: datetime
    at: datetime  # of the newest thing known about it
    status: int | None
    said: str | None
    document: str | None = None


async def put(tx: AsyncConnection, facts: Facts, moment: Moment, *, number: int) -> None:
    """Write down that there is something to tell. `number` is that of the ledger's event."""
    row = {"org_id": facts.org, "id": event_id(facts.org, facts.run_id, number), "run_id": facts.run_id, "moment": str(moment)}
    await statements.add(tx, outbox, **row, at=facts.at, facts=facts.model_dump_json())


async def waiting(tx: AsyncConnection, *, limit: int = BATCH) -> list[Notice]:
    """Notices nobody has addressed yet, the oldest first, for this transaction alone."""
    query = select(outbox).where(outbox.c.document.is_(None)).order_by(outbox.c.at, outbox.c.id).limit(limit)
    rows = await tx.execute(query.with_for_update(skip_locked=True))
    return [Notice(org=row.org_id, id=row.id, moment=Moment(row.moment), facts=Facts.model_validate_json(row.facts)) for row in rows.all()]


async def address(tx: AsyncConnection, notice: Notice, *, document: str, to: Sequence[str], at: datetime) -> None:
    """Fix what is sent, and to whom; a notice nobody wants is gone."""
    mine = and_(outbox.c.org_id == notice.org, outbox.c.id == notice.id)
    if not to:
        await tx.execute(delete(outbox).where(mine))
        return
    await tx.execute(update(outbox).where(mine).values(document=document))
    await tx.execute(
        deliveries.insert(),
        [
            {
                "org_id": notice.org,
                "event_id": notice.id,
                "webhook": name,
                "state": PENDING,
                "attempts": 0,
                "next_at": stamp(at),
                "at": stamp(at),
            }
            for name in to
        ],
    )


async def is_anything_waiting(conn: AsyncConnection) -> bool:
    return (await conn.execute(select(outbox.c.id).where(outbox.c.document.is_(None)).limit(1))).first() is not None


async def forget_unaddressed(store: Store) -> None:
    """Where no webhook is set, only the last day is kept: another worker may have one, and one that is set later hears of no more."""
    old = outbox.c.document.is_(None) & (outbox.c.at < stamp(store.now() - UNADDRESSED_KEPT))
    async with store.read() as conn:
        if (await conn.execute(select(outbox.c.id).where(old).limit(1))).first() is None:
            return
    async with store.begin() as tx:
        await tx.execute(delete(outbox).where(old))


async def due(conn: AsyncConnection, webhook: str, *, now: datetime, limit: int) -> list[Delivery]:
    """Deliveries whose time has come, the oldest first."""
    query = _both().where(deliveries.c.webhook == webhook, deliveries.c.state == PENDING, deliveries.c.next_at <= stamp(now))
    rows = await conn.execute(query.order_by(deliveries.c.next_at, deliveries.c.event_id).limit(limit))
    return [_delivery(row) for row in rows]


async def take(store: Store, one: Delivery, *, until: datetime) -> bool:
    """Take a delivery for one attempt; False where somebody else has it. After `until` it is anybody's again."""
    async with store.begin() as tx:
        taken = await tx.execute(
            update(deliveries)
            .where(
                _is(one), deliveries.c.state == PENDING, deliveries.c.attempts == one.attempts, deliveries.c.next_at == stamp(one.next_at)
            )
            .values(attempts=one.attempts + 1, next_at=stamp(until), at=stamp(store.now()))
        )
    return bool(taken.rowcount)


async def settle(store: Store, one: Delivery, *, state: str, status: int | None, said: str, next_at: datetime) -> None:
    """Record how an attempt ended. One that was given up and taken by another meanwhile is left to that one, unless it got through."""
    async with store.begin() as tx:
        still = [] if state == DELIVERED else [deliveries.c.state == PENDING, deliveries.c.attempts == one.attempts + 1]
        await tx.execute(
            update(deliveries)
            .where(_is(one), *still)
            .values(state=state, status=status, said=said[:300], next_at=stamp(next_at), at=stamp(store.now()))
        )


async def listed(
    conn: AsyncConnection, org: str, *, states: Sequence[str] = (), webhook: str | None = None, limit: int = 50
) -> list[Delivery]:
    """The newest first."""
    query = _both().where(deliveries.c.org_id == org)
    if states:
        query = query.where(deliveries.c.state.in_(states))
    if webhook:
        query = query.where(deliveries.c.webhook == webhook)
    rows = await conn.execute(query.order_by(deliveries.c.at.desc(), deliveries.c.event_id).limit(limit))
    return [_delivery(row) for row in rows]


async def counted(conn: AsyncConnection) -> dict[str, dict[str, int]]:
    """{webhook: {state: how many}}; `late` counts those that failed at least once and are tried again."""
    late = func.sum(case((and_(deliveries.c.state == PENDING, deliveries.c.attempts > 0), 1), else_=0))
    query = select(deliveries.c.webhook, deliveries.c.state, func.count(), late).group_by(deliveries.c.webhook, deliveries.c.state)
    found: dict[str, dict[str, int]] = {}
    for webhook, state, count, tried in await conn.execute(query):
        counts = found.setdefault(webhook, {})
        counts[state] = count
        counts["late"] = counts.get("late", 0) + int(tried or 0)
    return found


async def again(store: Store, *, org: str, event: str | None = None, webhook: str | None = None) -> int:
    """Let dead deliveries be tried again, from the first attempt; how many. Raises NotFound for an event without one."""
    now = stamp(store.now())
    chosen = [deliveries.c.org_id == org, deliveries.c.state == DEAD]
    chosen += [deliveries.c.event_id == event] if event else []
    chosen += [deliveries.c.webhook == webhook] if webhook else []
    async with store.begin() as tx:
        revived = await tx.execute(update(deliveries).where(*chosen).values(state=PENDING, attempts=0, next_at=now, at=now))
    if event and not revived.rowcount:
        raise NotFound(f"no dead delivery of {event[:80]}; `countersign webhook deliveries` tells which there are", field="event")
    return int(revived.rowcount)


async def prune(store: Store) -> None:
    """Remove what was delivered a month ago, and dead letters of a quarter; then what nothing is left to deliver of."""
    now = store.now()
    old = (deliveries.c.state == DELIVERED) & (deliveries.c.at < stamp(now - KEPT))
    dead = (deliveries.c.state != DELIVERED) & (deliveries.c.at < stamp(now - DEAD_KEPT))
    left = select(deliveries.c.event_id).where(deliveries.c.org_id == outbox.c.org_id, deliveries.c.event_id == outbox.c.id)
    async with store.begin() as tx:
        await tx.execute(delete(deliveries).where(old | dead))
        await tx.execute(delete(outbox).where(outbox.c.document.is_not(None), ~left.exists()))


def _is(one: Delivery) -> ColumnElement[bool]:
    return (deliveries.c.org_id == one.org) & (deliveries.c.event_id == one.event_id) & (deliveries.c.webhook == one.webhook)


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        org=row.org_id,
        event_id=row.event_id,
        webhook=row.webhook,
        run_id=row.run_id,
        moment=Moment(row.moment),
        state=row.state,
        attempts=row.attempts,
        next_at=moment(row.next_at),
        at=moment(row.at),
        status=row.status,
        said=row.said,
        document=row.document,
    )


def _both() -> Select[Any]:
    joined = (deliveries.c.org_id == outbox.c.org_id) & (deliveries.c.event_id == outbox.c.id)
    return select(deliveries, outbox.c.run_id, outbox.c.moment, outbox.c.document).join(outbox, joined)
