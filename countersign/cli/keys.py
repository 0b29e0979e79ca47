"""`countersign key …`: made, listed and ended in the store."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.text import Text

from countersign.adapters.settings import Settings
from countersign.adapters.store.keys import KeyRow, create_key, list_keys, revoke_key
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit, rows, safe
from countersign.cli.session import local_person
from countersign.cli.store import opened, organization, write_secret
from countersign.core.errors import InvalidArgument
from countersign.core.principal import Kind, Principal

_SPAN = re.compile(r"^([1-9][0-9]{0,5})([mhd])\Z")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    name: str
    kind: str
    role: str
    acts_for: str | None
    expires: str | None
    org: str | None


def principal_of(name: str, kind: str, acts_for: str | None) -> Principal:
    """`claude` of kind agent is agent:claude, and `--for ana` is person:ana. Raises InvalidArgument."""
    if kind not in set(Kind):
        raise InvalidArgument(f"no kind {kind!r}; there are {', '.join(Kind)}", field="kind")
    person = acts_for if acts_for is None or ":" in acts_for else f"person:{acts_for}"
    return Principal(id=name if ":" in name else f"{kind}:{name}", kind=Kind(kind), acts_for=person)


def ends_at(text: str | None, now: datetime) -> datetime | None:
    """When `90d`, or a time, is. Raises InvalidArgument for what is neither or is over."""
    if text is None:
        return None
    if span := _SPAN.match(text):
        return now + timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"{text!r} is neither a time (2026-01-31T12:00:00Z) nor a span (90d, 12h)", field="expires") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise InvalidArgument(f"{text} is over; such a key would open nothing", field="expires")
    return moment


async def create(settings: Settings, asked: Asked, *, to: Path | None, as_json: bool) -> Exit:
    from mcp_front.rights import checked_role

    principal = principal_of(asked.name, asked.kind, asked.acts_for)
    if principal.kind is Kind.AGENT and principal.acts_for is None:
        # Somebody answers for an agent: for approvals that person counts as the requester.
        principal = principal.model_copy(update={"acts_for": local_person().id})
    role = checked_role(asked.role, principal.kind)
    if to is not None and to.exists():  # noqa: ASYNC240  before a key is made that nobody would hold
        raise InvalidArgument(f"{to} exists; name another file", field="to")
    async with opened(settings) as store:
        org = organization(settings, asked.org)
        expires = ends_at(asked.expires, store.now())
        row, token = await create_key(store, org=org, principal=principal, role=role, by=local_person(), expires_at=expires)
    if to is not None:
        write_secret(to, token, new=True)
    if as_json:
        emit(_document(row) | ({"file": str(to)} if to else {"key": token}))
        return Exit.OK
    out = console()
    for_whom = f" for {principal.acts_for}" if principal.acts_for else ""
    until = f" until {row.expires_at:%Y-%m-%d %H:%M} UTC" if row.expires_at else ""
    out.print(safe(f"key {row.id} of {principal.id}{for_whom}, {role} in {row.org}{until}"))
    if to is not None:
        out.print(safe(f"written to {to}"))
    else:
        out.print(Text("It is shown only now:", style="dim"))
        out.print(Text(token), soft_wrap=True)
    out.print(safe(f"An MCP client sends it to {settings.front_url}/mcp as `Authorization: Bearer …`", "dim"))
    return Exit.OK


async def show(settings: Settings, *, org: str | None, as_json: bool) -> Exit:
    async with opened(settings) as store:
        now = store.now()
        async with store.read() as conn:
            found = await list_keys(conn, organization(settings, org))
    if as_json:
        emit({"keys": [_document(row) | {"live": row.live(now)} for row in found]})
        return Exit.OK
    lines = [
        (row.id, row.principal.id, row.principal.acts_for, row.role, f"{row.created_at:%Y-%m-%d %H:%M}", _standing(row, now))
        for row in found
    ]
    console().print(rows("keys", ("id", "whose", "for", "role", "made (UTC)", "now"), lines))
    return Exit.OK


async def revoke(settings: Settings, key_id: str, *, org: str | None, as_json: bool) -> Exit:
    async with opened(settings) as store:
        row = await revoke_key(store, org=organization(settings, org), key_id=key_id, by=local_person())
    if as_json:
        emit(_document(row))
    else:
        console().print(safe(f"the key {row.id} of {row.principal.id} opens nothing any more"))
    return Exit.OK


def _standing(row: KeyRow, now: datetime) -> Text:
    if row.revoked_at:
        return Text("revoked", style="red")
    if not row.live(now):
        return Text("expired", style="yellow")
    return Text(f"live until {row.expires_at:%Y-%m-%d}" if row.expires_at else "live", style="green")


def _document(row: KeyRow) -> dict[str, object]:
    return {
        "key_id": row.id,
        "org": row.org,
        "principal": row.principal.id,
        "kind": str(row.principal.kind),
        "acts_for": row.principal.acts_for,
        "role": row.role,
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "revoked_at": row.revoked_at.isoformat() if row.revoked_at else None,
    }
