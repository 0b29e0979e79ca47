"""One part of the service in this process: `countersign worker`, `front`, `state`.

What a part imports is most of its cold start, so each is imported here and nowhere before.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from countersign.cli.exits import Exit
from countersign.core.errors import Unavailable
from countersign.core.redaction import Redactor

if TYPE_CHECKING:
    from countersign.adapters.settings import Settings

EVERY = 0.02  # seconds between two tries to reach a Temporal that starts
PATIENCE = 1000  # tries


async def worker(settings: "Settings", *, prepare_temporal: bool = False) -> Exit:
    from countersign.worker import main

    _logged()
    await _migrated(settings)
    if prepare_temporal:
        await _prepared(settings)
    await main.serve(settings)
    return Exit.OK


async def state(settings: "Settings", *, local_key: bool = False) -> Exit:
    """`local_key`: also write the key of whoever runs this. It is the part that has the store loaded soonest."""
    from countersign.state_api import main

    _logged()
    await _migrated(settings)
    if local_key:
        from countersign.cli import store

        async with store.opened(settings) as opened:
            await store.local_key(settings, opened)
    await main.serve(settings)
    return Exit.OK


async def front(
    settings: "Settings", *, stdio: bool = False, role: str | None = None, servers: Sequence[str] = (), project: str | None = None
) -> Exit:
    """`role` and `servers` are those of the one client over stdio; over HTTP a key says the role, and an address the servers."""
    from mcp_front import main

    _logged()
    if project:  # some hosts set it for every server they start
        logging.getLogger("countersign.front").warning("PROJECT_ID selects nothing: this version has stacks, and no projects yet")
    await _migrated(settings)
    await (main.serve_stdio(settings, role=role, servers=servers) if stdio else main.serve(settings))
    return Exit.OK


async def _migrated(settings: "Settings") -> None:
    from countersign.cli import schema

    async with schema.locked(settings.data):
        if schema.standing(settings) is schema.Standing.CURRENT:
            return
        from countersign.adapters.store.database import Store

        await (await Store.open(settings.database_url)).close()


async def _prepared(settings: "Settings") -> None:
    """The namespace of a Temporal that may still be starting; a failure ends the worker, and its supervisor starts it again."""
    from temporalio.service import RPCError

    from countersign.cli.embedded_temporal import prepare

    why: Exception | None = None
    for _ in range(PATIENCE):
        try:
            return await prepare(settings)
        except (RuntimeError, RPCError) as away:
            why = away
            await asyncio.sleep(EVERY)
    raise Unavailable(f"Temporal does not answer at {settings.temporal_target}: {why}")


class Redacted(logging.Formatter):
    """What looks like a credential stays out of log files too."""

    _redactor = Redactor()

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.lines(super().format(record))


def _logged() -> None:
    """Logs go to standard error: over stdio, standard output belongs to the protocol."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Redacted("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for noisy in ("alembic", "httpx2", "uvicorn", "mcp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
