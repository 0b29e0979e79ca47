"""Sealed values that stacks name as `{secret: slug}`: kept in versions, read inside an attempt only, never listed or echoed."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, desc, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.keyring import Keyring
from countersign.adapters.store import audit
from countersign.adapters.store.database import Store, moment, stamp
from countersign.adapters.store.schema import secrets
from countersign.core import ids
from countersign.core.errors import FailedPrecondition, InvalidArgument, NotFound
from countersign.core.principal import Principal

LARGEST = 64 << 10  # bytes; more is a file, not a secret


@dataclass(frozen=True, kw_only=True)
class SecretRow:
    """What may be told of a secret."""

    slug: str
    version: int
    fingerprint: str  # keyed: equal values have equal ones, and nobody can guess a value from it
    created_at: datetime
    created_by: str


def check_slug(slug: str) -> str:
    if not ids.SLUG.match(slug):
        raise InvalidArgument(
            f"{slug[:64]!r} is no name of a secret: lower case letters, digits and -, beginning with a letter", field="secret"
        )
    return slug


async def put(store: Store, keyring: Keyring, *, org: str, slug: str, value: str, by: Principal) -> SecretRow:
    """Keep a new version of the secret. Raises InvalidArgument."""
    check_slug(slug)
    data = value.encode()
    if not data or len(data) > LARGEST:
        raise InvalidArgument(f"a secret has between 1 and {LARGEST} bytes; this one has {len(data)}", field="value")
    async with store.begin() as tx:
        number = 1 + await version(tx, org, slug)
        now = stamp(store.now())
        sealed, kid = keyring.seal("secrets", data, belongs_to=(org, slug, str(number)))
        row = {
            "version": number,
            "fingerprint": fingerprint(keyring, org, slug, data),
            "created_at": now,
            "created_by": by.id,
        }
        await tx.execute(secrets.insert().values(org_id=org, slug=slug, sealed=sealed, kid=kid, **row))
        await audit.append(tx, org=org, at=now, action="secret.set", by=by, target=f"secret/{slug}", version=number)
    return SecretRow(slug=slug, version=number, fingerprint=str(row["fingerprint"]), created_at=moment(now), created_by=by.id)


async def reveal(conn: AsyncConnection, keyring: Keyring, org: str, slug: str) -> str:
    """The newest value. Raises FailedPrecondition naming the command that sets it."""
    query = select(secrets).where(_mine(org, slug)).order_by(desc(secrets.c.version)).limit(1)
    row = (await conn.execute(query)).first()
    if row is None:
        raise FailedPrecondition(f"the secret {slug} is not set; set it with `countersign secret set {slug}` and plan again", field="vars")
    return keyring.unseal("secrets", row.sealed, belongs_to=(org, slug, str(row.version))).decode()


async def version(conn: AsyncConnection, org: str, slug: str) -> int:
    """The number of the newest version; 0 where it is not set."""
    return int((await conn.execute(select(func.coalesce(func.max(secrets.c.version), 0)).where(_mine(org, slug)))).scalar_one())


async def list_secrets(conn: AsyncConnection, org: str) -> Sequence[SecretRow]:
    """The newest version of each, by name; no values."""
    newest = select(secrets.c.slug, func.max(secrets.c.version).label("version")).where(secrets.c.org_id == org).group_by(secrets.c.slug)
    latest = newest.subquery()
    query = (
        select(secrets)
        .join(latest, (secrets.c.slug == latest.c.slug) & (secrets.c.version == latest.c.version))
        .where(secrets.c.org_id == org)
        .order_by(secrets.c.slug)
    )
    return [
        SecretRow(slug=r.slug, version=r.version, fingerprint=r.fingerprint, created_at=moment(r.created_at), created_by=r.created_by)
        for r in await conn.execute(query)
    ]


async def remove(store: Store, *, org: str, slug: str, by: Principal) -> int:
    """Remove every version for good; how many there were. Raises NotFound."""
    async with store.begin() as tx:
        removed = (await tx.execute(delete(secrets).where(_mine(org, slug)))).rowcount
        if not removed:
            raise NotFound(f"no secret {slug}; `countersign secret list` tells which there are", field="secret")
        await audit.append(tx, org=org, at=stamp(store.now()), action="secret.remove", by=by, target=f"secret/{slug}", versions=removed)
    return int(removed)


def fingerprint(keyring: Keyring, org: str, slug: str, data: bytes) -> str:
    message = b"\0".join((b"countersign.secret/1", org.encode(), slug.encode(), data))
    return hmac.digest(keyring.mac_key, message, "sha256").hex()[:16]


def _mine(org: str, slug: str) -> ColumnElement[bool]:
    return (secrets.c.org_id == org) & (secrets.c.slug == slug)
