"""`countersign migrate`: the schema of the store, brought up to date by itself, before the parts that need it are rolled out.

With a Temporal of one's own also what runs need there, which `up` looks after for the embedded one.
"""

import asyncio

from countersign.adapters.settings import Settings
from countersign.adapters.store.database import SCHEMA_HEAD
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit, safe
from countersign.cli.store import opened
from countersign.core.errors import InvalidArgument, Unavailable

PATIENCE = 60.0  # seconds for a Temporal that starts at the same time
EVERY = 0.5


async def migrate(settings: Settings, *, temporal: bool = False, as_json: bool) -> Exit:
    """Bring the schema up to date, alone. What a newer version wrote is refused and left alone."""
    if temporal and settings.embedded_temporal:
        raise InvalidArgument(
            "--temporal is for a Temporal of your own, and none is set: set temporal_address (COUNTERSIGN_TEMPORAL_ADDRESS); "
            "`up` looks after the embedded one",
            field="temporal_address",
        )
    async with opened(settings) as store:
        place = store.shown
    if temporal:
        await _prepared(settings)
    there = {"temporal": settings.temporal_target, "namespace": settings.temporal_namespace} if temporal else {}
    if as_json:
        emit({"database": place, "schema": SCHEMA_HEAD, **there})
    else:
        console().print(safe(f"{place} has schema {SCHEMA_HEAD}"))
        if temporal:
            console().print(safe(f"Temporal at {settings.temporal_target} has what runs need in namespace {settings.temporal_namespace}"))
    return Exit.OK


async def _prepared(settings: Settings) -> None:
    """Raises Unavailable where the server does not answer in time, or refuses."""
    from temporalio.service import RPCError

    from countersign.cli.embedded_temporal import prepare

    why: Exception | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await prepare(settings)
                except (RuntimeError, RPCError) as away:
                    why = away
                    await asyncio.sleep(EVERY)
    except TimeoutError:
        raise Unavailable(
            f"Temporal at {settings.temporal_target} does not answer, or does not let its namespace {settings.temporal_namespace} be "
            f"prepared: {why}. `countersign doctor` says what is missing there"
        ) from None
    finally:
        await asyncio.sleep(0.1)  # a client that is torn down with its loop crashes the interpreter (sdk-python issue 300)
