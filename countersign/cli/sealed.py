"""`countersign secret …`: values go in and never come out again; no argument, no echo, no log line holds one."""

import getpass
import sys

from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import Settings
from countersign.adapters.store import secrets
from countersign.adapters.store.secrets import SecretRow
from countersign.cli.exits import Exit
from countersign.cli.output import asked, console, emit, rows, safe
from countersign.cli.session import local_person
from countersign.cli.store import opened, organization
from countersign.core.errors import InvalidArgument

LARGEST = 1 << 20  # characters read from standard input; the store says what it takes


async def put(settings: Settings, slug: str, value: str, *, org: str | None, as_json: bool) -> Exit:
    keyring = Keyring.open(settings.data, role="operator")
    async with opened(settings) as store:
        row = await secrets.put(store, keyring, org=organization(settings, org), slug=slug, value=value, by=local_person())
    if as_json:
        emit(_document(row))
    else:
        console().print(safe(f'the secret {row.slug} is at version {row.version}; a stack names it as {{"secret": "{row.slug}"}}'))
    return Exit.OK


def read(slug: str) -> str:
    """A value typed twice, unseen; or standard input as it is, but for one line end. Raises InvalidArgument."""
    secrets.check_slug(slug)  # before anybody types one
    if not sys.stdin.isatty():
        try:
            given = sys.stdin.read(LARGEST)
        except UnicodeDecodeError:
            raise InvalidArgument("a secret is text (UTF-8); encode bytes as base64", field="value") from None
        return given.removesuffix("\n").removesuffix("\r")
    first = getpass.getpass(f"value of {slug} (unseen): ")
    if first != getpass.getpass("once more: "):
        raise InvalidArgument("these were two different values; nothing was kept", field="value")
    return first


async def show(settings: Settings, *, org: str | None, as_json: bool) -> Exit:
    async with opened(settings) as store, store.read() as conn:
        found = await secrets.list_secrets(conn, organization(settings, org))
    if as_json:
        emit({"secrets": [_document(row) for row in found]})
        return Exit.OK
    lines = [(row.slug, row.version, row.fingerprint, f"{row.created_at:%Y-%m-%d %H:%M}", row.created_by) for row in found]
    console().print(rows("secrets", ("secret", "version", "fingerprint", "set (UTC)", "by"), lines))
    return Exit.OK


async def remove(settings: Settings, slug: str, *, yes: bool, org: str | None, as_json: bool) -> Exit:
    if not yes:
        answer = await asked(f"Remove every version of {secrets.check_slug(slug)}? Stacks that name it can no longer be planned. [y/N]")
        if answer is None:
            raise InvalidArgument("nobody can be asked here; say --yes", field="yes")
        if answer.lower() not in ("y", "yes"):
            console().print("nothing was removed")
            return Exit.FAILED
    async with opened(settings) as store:
        removed = await secrets.remove(store, org=organization(settings, org), slug=slug, by=local_person())
    if as_json:
        emit({"slug": slug, "versions_removed": removed})
    else:
        console().print(safe(f"removed {removed} version(s) of {slug}"))
    return Exit.OK


def _document(row: SecretRow) -> dict[str, object]:
    return {
        "slug": row.slug,
        "version": row.version,
        "fingerprint": row.fingerprint,
        "set_at": row.created_at.isoformat(),
        "set_by": row.created_by,
    }
