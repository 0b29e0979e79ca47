"""How `init` fetches modules by Git: in an environment of ours, with keys for the hosts that the configuration names, and no others.

The engines start git themselves. It would read this machine's configuration, ask at a terminal, and follow any module of a
module anywhere, with whatever key fits.
"""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from countersign.adapters.git import Keys, environment
from countersign.adapters.terraform.session import Session
from countersign.core.redaction import Redactor
from countersign.core.repository import addresses_of_modules, host_of, host_of_module, prefixes_of_modules, protocols_of_modules
from countersign.core.terraform.source import Declared

REFUSED = "refused-by-countersign"  # a protocol that nobody speaks


@asynccontextmanager
async def fetching_modules(session: Session, files: Mapping[str, Declared]) -> AsyncIterator[dict[str, str]]:
    """Variables for `init`, while this is open; from then on its keys are hidden in what is told. None where nothing is fetched."""
    sources = [module.name for file in files.values() for module in file.modules]
    if all(source.startswith(("./", "../")) for source in sources):
        yield {}
        return
    around, remotes = session.around, session.around.mirrors.remotes
    keys = Keys(session.place.side / "keys", remotes)
    hosts = {host_of_module(source) for source in sources}
    for pattern, slug in remotes.repositories.credentials.items():
        if host_of(pattern) in hosts:
            await keys.add(pattern, slug, session.job.reveal)
    session.keys = keys.secrets
    session.redactor = Redactor(session.redactor.secrets | keys.secrets)
    given = environment(
        remotes,
        home=session.place.home,
        search_path=around.search_path,
        attempt=session.job.attempt_id,
        keys=keys,
        configuration=_bounds(around.allow.modules),
        protocols=protocols_of_modules(around.allow.modules),
    )
    door = await asyncio.to_thread(_door, session.place.side / "keys" / "bin", around.allow.modules, around.search_path)
    try:
        yield {**{name: value for name, value in given.items() if name.startswith("GIT_")}, "PATH": f"{door}:{around.search_path}"}
    finally:
        await asyncio.to_thread(keys.forget)


# The engines start `git` by name, with the address of a module of a module as nobody has seen it yet.
_GIT = """#!/bin/sh
# Lets git be given only addresses that the operator allows. Nothing resolves `..` in them, on this machine or on the server.
for word; do
  case $word in
  *://*) ;;
  [a-z_]*@*:*) word=ssh://$(printf %s "$word" | sed "s,:,/,") ;;
  *) continue ;;
  esac
  case $word in
  *..*|*%2[eE]*) ;;
  {allowed}) continue ;;
  esac
  echo "fatal: {refused}: the address of a module" >&2
  exit 128
done
PATH={search_path}
exec git "$@"
"""


def _door(folder: Path, patterns: tuple[str, ...], search_path: str) -> Path:
    """A folder with a `git` that refuses other addresses than these module sources have."""
    addresses = addresses_of_modules(patterns)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    allowed = "*" if addresses is None else "|".join(_case(address) for address in addresses) or "''"
    script = folder / "git"
    script.write_text(_GIT.format(allowed=allowed, refused=REFUSED, search_path=shlex.quote(search_path)))
    script.chmod(0o700)
    return folder


def _case(glob: str) -> str:
    """A glob as a pattern of the shell: only `*` and `?` mean anything."""
    return "".join(part if part in ("*", "?") else shlex.quote(part) for part in re.split(r"([*?])", glob) if part)


def _bounds(patterns: tuple[str, ...]) -> dict[str, str]:
    """Addresses that are not allowed become ones that lead nowhere; of two rules the one with the longer beginning counts.

    It holds for whatever git itself starts, too. Submodules of modules are not fetched.
    """
    none = {"submodule.active": REFUSED}
    prefixes = prefixes_of_modules(patterns)
    if prefixes is None:
        return none
    # A key may stand there once, so each beginning has an address of its own; they differ in what nobody reads.
    refused = {f"url.{REFUSED}::{scheme}.insteadOf": f"{scheme}://" for scheme in ("https", "ssh")}
    return none | refused | {f"url.{prefix}.insteadOf": prefix for prefix in prefixes}
