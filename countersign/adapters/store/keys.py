"""API keys: who a caller is, kept as a hash.

The token is `cs_<id>_<secret>`: the id finds the row, the secret (256 random bits, so a plain sha256 is enough) proves it. It
is shown once, when it is made.
"""

import hmac
import re
import secrets as random
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, statements
from countersign.adapters.store.database import Store, moment, stamp
from countersign.adapters.store.schema import keys
from countersign.core.digests import sha256
from countersign.core.errors import InvalidArgument, NotFound
from countersign.core.principal import Kind, Principal

TOKEN = re.compile(r"^cs_([0-9a-f]{16})_([0-9a-f]{64})\Z")
PRINCIPAL = re.compile(r"^(person|agent|machine):[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}\Z")
ROLE = re.compile(r"^[a-z][a-z0-9-]{0,39}\Z")


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    id: str
    org: str
    principal: Principal
    role: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None

    def live(self, now: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def _key(row: Row[Any]) -> KeyRow:
    return KeyRow(
        id=row.id,
        org=row.org_id,
        principal=Principal(id=row.principal, kind=Kind(row.kind), acts_for=row.acts_for),
        role=row.role,
        created_at=moment(row.created_at),
        created_by=row.created_by,
        expires_at=moment(row.expires_at) if row.expires_at else None,
        revoked_at=moment(row.revoked_at) if row.revoked_at else None,
    )


def _check(principal: Principal, role: str) -> None:
    for name, value in (("as", principal.id), ("for", principal.acts_for)):
        if value is not None and not PRINCIPAL.match(value):
            raise InvalidArgument(f"{value!r} is no principal; write kind:name, such as person:ana or agent:claude", field=name)
    if not principal.id.startswith(f"{principal.kind}:"):
        raise InvalidArgument(f"{principal.id} is not the id of a {principal.kind}; it has to start with {principal.kind}:", field="as")
    if principal.acts_for is not None and not principal.acts_for.startswith("person:"):
        raise InvalidArgument(f"one acts for a person, and {principal.acts_for} is none", field="for")
    if principal.kind is Kind.PERSON and principal.acts_for is not None:
        raise InvalidArgument("a person acts for nobody else; leave out --for, or make the key one of an agent or a machine", field="for")
    if not ROLE.match(role):
        raise InvalidArgument(f"{role!r} is no name of a role", field="role")


async def create_key(
    store: Store, *, org: str, principal: Principal, role: str, by: Principal, expires_at: datetime | None = None
) -> tuple[KeyRow, str]:
    """Make a key and return its row and the token, which is kept nowhere. Raises InvalidArgument.

    Which roles exist is the front's to know; this only checks how the name is written.
    """
    _check(principal, role)
    key_id, secret = random.token_hex(8), random.token_hex(32)
    async with store.begin() as tx:
        now = store.now()
        await tx.execute(
            keys.insert().values(
                org_id=org,
                id=key_id,
                principal=principal.id,
                kind=str(principal.kind),
                acts_for=principal.acts_for,
                role=role,
                hash=sha256(secret.encode()),
                created_at=stamp(now),
                created_by=by.id,
                expires_at=stamp(expires_at) if expires_at else None,
            )
        )
        await audit.append(
            tx, org=org, at=stamp(now), action="key.create", by=by, target=f"key/{key_id}", principal=principal.id, role=role
        )
        row = (await tx.execute(select(keys).where(keys.c.org_id == org, keys.c.id == key_id))).one()
    return _key(row), f"cs_{key_id}_{secret}"


async def find_key(conn: AsyncConnection, token: str, *, now: datetime) -> KeyRow | None:
    """The live key of this token; None where it is unknown, expired or revoked. Ids are unique over all organizations."""
    parts = TOKEN.match(token)
    if parts is None:
        return None
    shown = sha256(parts[2].encode())
    for row in await statements.every(conn, keys, id=parts[1], order=()):
        if hmac.compare_digest(row.hash, shown) and (key := _key(row)).live(now):
            return key
    return None


async def key_by_id(conn: AsyncConnection, org: str, key_id: str) -> KeyRow | None:
    """The key, whether it is live or not."""
    row = (await conn.execute(select(keys).where(keys.c.org_id == org, keys.c.id == key_id))).first()
    return _key(row) if row is not None else None


async def list_keys(conn: AsyncConnection, org: str) -> list[KeyRow]:
    """All keys, the newest first, the ended ones too."""
    query = select(keys).where(keys.c.org_id == org).order_by(keys.c.created_at.desc(), keys.c.id)
    return [_key(row) for row in await conn.execute(query)]


async def revoke_key(store: Store, *, org: str, key_id: str, by: Principal) -> KeyRow:
    """End a key at once; again is success. Raises NotFound."""
    async with store.begin() as tx:
        mine = (keys.c.org_id == org) & (keys.c.id == key_id)
        row = (await tx.execute(select(keys).where(mine))).first()
        if row is None:
            raise NotFound(f"no key {key_id}; `countersign key list` tells which there are", field="key_id")
        if row.revoked_at is None:
            now = stamp(store.now())
            await tx.execute(update(keys).where(mine).values(revoked_at=now))
            await audit.append(tx, org=org, at=now, action="key.revoke", by=by, target=f"key/{key_id}", principal=row.principal)
            row = (await tx.execute(select(keys).where(mine))).one()
    return _key(row)
