"""How `init` fetches modules by Git: in an environment of ours, with keys for the hosts that the configuration names, and no others.

The engines start git themselves. It would read this machine's configuration, ask at a terminal, and follow any module of a
module anywhere, with whatever key fits.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from countersign.adapters.git import Keys, environment
from countersign.adapters.terraform.session import Session
from countersign.core.redaction import Redactor
from countersign.core.repository import host_of, host_of_module, prefixes_of_modules, protocols_of_modules
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
    try:
        yield {name: value for name, value in given.items() if name.startswith("GIT_")}
    finally:
        await asyncio.to_thread(keys.forget)


def _bounds(patterns: tuple[str, ...]) -> dict[str, str]:
    """Addresses that are not allowed become ones that lead nowhere; of two rules the one with the longer beginning counts."""
    prefixes = prefixes_of_modules(patterns)
    if prefixes is None:
        return {}
    # A key may stand there once, so each beginning has an address of its own; they differ in what nobody reads.
    refused = {f"url.{REFUSED}::{scheme}.insteadOf": f"{scheme}://" for scheme in ("https", "ssh")}
    return refused | {f"url.{prefix}.insteadOf": prefix for prefix in prefixes}
