"""The front's way to Temporal: there as soon as Temporal is, and not needed before.

The client connects when it is first used and again after it was lost, so that the front starts, reads and takes requests
without a Temporal. Loading the client library takes longer than everything else here, so a thread does it.
"""

import asyncio
import contextlib
import importlib
import logging
import os
from typing import TYPE_CHECKING

from countersign.adapters.settings import Settings
from mcp_front.gateway import RunsPort

if TYPE_CHECKING:
    from countersign.adapters.temporal import Runs

log = logging.getLogger("countersign.front")
EVERY = 0.2  # seconds between two tries to reach a Temporal that was never reached
LAST_WORDS = 0.1  # a client that is torn down with its loop crashes the interpreter (temporalio/sdk-python issue 300)


class TemporalLink:
    """`runs` is what the gateway asks for; whether Temporal answers shows when something is said to it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: asyncio.Task[Runs] | None = None
        self._warming: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._warming = asyncio.create_task(self._warm())

    async def runs(self) -> RunsPort:
        if self._made is None:
            self._made = asyncio.create_task(self._make())
        try:
            return await asyncio.shield(self._made)
        except Exception:
            self._made = None  # what went wrong once may go right the next time
            raise

    async def close(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._warming
        if self._made is not None:
            await asyncio.sleep(LAST_WORDS)

    async def _make(self) -> "Runs":
        temporal = await asyncio.to_thread(importlib.import_module, "countersign.adapters.temporal")
        client = await temporal.connect(self._settings, identity=f"front@{os.getpid()}", lazy=True)
        made: Runs = temporal.Runs(client)
        return made

    async def _warm(self) -> None:
        """The first connection costs a call its time, so it is made before there is one."""
        told = False
        while not await self._reached():
            if not told:
                log.info("Temporal does not answer at %s yet; the front goes on without it", self._settings.temporal_target)
            told = True
            await asyncio.sleep(EVERY)

    async def _reached(self) -> bool:
        try:
            return await (await self.runs()).reachable()
        except Exception as failed:  # whatever it is, a call will tell it to whoever made it
            log.warning("Temporal cannot be reached: %s", type(failed).__name__)
            return False
