"""Who is signed in to the page for people.

A session begins with a person's key, or with a one-time code that was made with one, and lives in a row beside it: its key is
looked up again at every request, so that a revoked or expired key ends every session at once. Rows hold hashes only; what a
browser shows is in its cookie and nowhere else.
"""

import secrets as random
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit
from countersign.adapters.store.database import Store, moment, stamp
from countersign.adapters.store.keys import KeyRow, key_by_id
from countersign.adapters.store.schema import page_codes, page_sessions
from countersign.core.digests import sha256

IDLE = timedelta(hours=1)  # without anything done by hand; a page that only follows a run does not count
LONGEST = timedelta(hours=12)  # whatever is done
CODE_LIVES = timedelta(seconds=60)
_SEEN_EVERY = timedelta(minutes=1)  # a row is not written at every click
_KEPT = timedelta(days=1)  # rows that are over


@dataclass(frozen=True, kw_only=True)
class PageSession:
    hash: str
    key: KeyRow
    seen_at: datetime


def _hash(token: str) -> str:
    return sha256(token.encode())


async def open_session(store: Store, key: KeyRow, *, how: str) -> str:
    """Begin a session of the key's person and return what the cookie holds. `how` goes to the audit chain: "key" or "code"."""
    token = random.token_hex(32)
    async with store.begin() as tx:
        now = store.now()
        await tx.execute(delete(page_sessions).where(page_sessions.c.expires_at < stamp(now - _KEPT)))
        await tx.execute(
            page_sessions.insert().values(
                org_id=key.org,
                hash=_hash(token),
                key_id=key.id,
                created_at=stamp(now),
                seen_at=stamp(now),
                expires_at=stamp(now + LONGEST),
            )
        )
        await audit.append(tx, org=key.org, at=stamp(now), action="page.sign_in", by=key.principal, target=f"key/{key.id}", how=how)
    return token


async def session_of(conn: AsyncConnection, token: str, *, now: datetime) -> PageSession | None:
    """The live session of this token, whose key is live too."""
    query = select(page_sessions).where(page_sessions.c.hash == _hash(token), page_sessions.c.ended_at.is_(None))
    row = (await conn.execute(query.where(page_sessions.c.expires_at > stamp(now), page_sessions.c.seen_at > stamp(now - IDLE)))).first()
    if row is None:
        return None
    key = await key_by_id(conn, row.org_id, row.key_id)
    if key is None or not key.live(now):
        return None
    return PageSession(hash=row.hash, key=key, seen_at=moment(row.seen_at))


async def seen(store: Store, session: PageSession) -> None:
    """Somebody did something: the time of idleness begins again."""
    now = store.now()
    if now - session.seen_at < _SEEN_EVERY:
        return
    async with store.begin() as tx:
        await tx.execute(update(page_sessions).where(_mine(session)).values(seen_at=stamp(now)))


async def close_session(store: Store, session: PageSession) -> None:
    async with store.begin() as tx:
        now = stamp(store.now())
        await tx.execute(update(page_sessions).where(_mine(session), page_sessions.c.ended_at.is_(None)).values(ended_at=now))
        await audit.append(tx, org=session.key.org, at=now, action="page.sign_out", by=session.key.principal)


async def end_all(tx: AsyncConnection, *, at: datetime) -> None:
    """Sign everybody out, of every organization, and let no code sign anybody in: after a restore nobody knows who had signed out since."""
    await tx.execute(update(page_sessions).where(page_sessions.c.ended_at.is_(None)).values(ended_at=stamp(at)))
    await tx.execute(delete(page_codes))


def _mine(session: PageSession) -> ColumnElement[bool]:
    return (page_sessions.c.org_id == session.key.org) & (page_sessions.c.hash == session.hash)


async def make_code(store: Store, key: KeyRow) -> tuple[str, datetime]:
    """(a code that signs the key's person in once, when it ends)."""
    code = random.token_urlsafe(32)
    async with store.begin() as tx:
        now = store.now()
        ends = now + CODE_LIVES
        await tx.execute(delete(page_codes).where(page_codes.c.expires_at < stamp(now - _KEPT)))
        await tx.execute(page_codes.insert().values(org_id=key.org, hash=_hash(code), key_id=key.id, expires_at=stamp(ends)))
        await audit.append(tx, org=key.org, at=stamp(now), action="page.code", by=key.principal, target=f"key/{key.id}")
    return code, ends


async def key_of_code(conn: AsyncConnection, code: str, *, now: datetime) -> KeyRow | None:
    """Whom a code would sign in; it stays unused."""
    row = (await conn.execute(select(page_codes).where(*_usable(code, now)))).first()
    key = await key_by_id(conn, row.org_id, row.key_id) if row is not None else None
    return key if key is not None and key.live(now) else None


async def use_code(store: Store, code: str) -> KeyRow | None:
    """The key of a code, which is used up by this, also where several try at once; None where it signs nobody in (any more)."""
    async with store.begin() as tx:
        now = store.now()
        used = update(page_codes).where(*_usable(code, now)).values(used_at=stamp(now))
        row = (await tx.execute(used.returning(page_codes.c.org_id, page_codes.c.key_id))).first()
        key = await key_by_id(tx, row.org_id, row.key_id) if row is not None else None
    return key if key is not None and key.live(now) else None


def _usable(code: str, now: datetime) -> tuple[ColumnElement[bool], ...]:
    return page_codes.c.hash == _hash(code), page_codes.c.used_at.is_(None), page_codes.c.expires_at > stamp(now)
