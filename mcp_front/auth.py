"""Who is calling: a bearer key over HTTP, the local user's agent over stdio.

The key is looked up at every request, so that a revoked one ends at once. A header or an address is never an identity, and
may only narrow what the key gives.
"""

import logging
import re
from collections.abc import Iterable
from datetime import datetime

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.keys import find_key
from countersign.adapters.store.schema import keys
from countersign.core.errors import InvalidArgument, Unauthenticated
from countersign.core.principal import Kind, Principal
from mcp_front.domain import Access
from mcp_front.rights import Caller, checked_role

log = logging.getLogger("countersign.front")
SCOPE = "mcp"
ISSUER = "countersign:keys"


class KeyVerifier:
    """The SDK's TokenVerifier over the keys of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def verify_token(self, token: str) -> AccessToken | None:
        """None, and so a 401, for what is unknown, expired, revoked, or has a role that this kind of principal cannot have."""
        async with self._store.read() as conn:
            key = await find_key(conn, token, now=self._store.now())
        if key is None:
            return None
        try:
            checked_role(key.role, key.principal.kind)
        except InvalidArgument as impossible:
            log.warning("the key %s of %s opens nothing: %s", key.id, key.principal.id, impossible.message)
            return None
        return AccessToken(
            token=key.id,  # the secret itself goes no further than here
            client_id=key.id,
            subject=key.principal.id,
            scopes=[SCOPE],
            claims={
                "iss": ISSUER,
                "org": key.org,
                "role": key.role,
                "kind": str(key.principal.kind),
                "acts_for": key.principal.acts_for,
            },
        )


async def live_keys(conn: AsyncConnection, ids: Iterable[str], *, now: datetime) -> set[str]:
    """Those of the ids of keys that still open something: for connections that stay open longer than a request."""
    query = select(keys.c.id).where(keys.c.id.in_(list(ids)), keys.c.revoked_at.is_(None))
    unexpired = query.where(keys.c.expires_at.is_(None) | (keys.c.expires_at > stamp(now)))
    return {row.id for row in await conn.execute(unexpired)}


def caller_of(token: AccessToken) -> Caller:
    claims = token.claims or {}
    if claims.get("iss") != ISSUER or token.subject is None:
        raise Unauthenticated("this token is not one of our keys")
    return Caller(
        principal=Principal(id=token.subject, kind=Kind(claims["kind"]), acts_for=claims["acts_for"]),
        org=claims["org"],
        role=claims["role"],
    )


def caller_now(default: Caller | None) -> Caller:
    """Who makes this request: the bearer of its key, else the one the connection belongs to (stdio)."""
    token = get_access_token()
    if token is not None:
        return caller_of(token)
    if default is None:
        raise Unauthenticated("a key is needed: `countersign key create` makes one, sent as `Authorization: Bearer …`")
    return default


def local_agent(user: str, *, org: str, role: str) -> Caller:
    """Over stdio: an agent on behalf of the local user. It never decides for others, whatever the role says."""
    name = re.sub(r"[^A-Za-z0-9._@+-]", "-", user).lstrip("-._@+")[:90] or "local"  # as the CLI names the same person
    return Caller(
        principal=Principal(id=f"agent:stdio-{name}", kind=Kind.AGENT, acts_for=f"person:{name}"),
        org=org,
        role=checked_role(role, Kind.AGENT),
        withheld=frozenset({Access.DECIDE}),
        via="stdio",
    )
