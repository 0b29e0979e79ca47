"""A worker that is told to end, and the applies it started.

By itself it ends at once, and they go on without it. In a container nothing goes on without its first process, so there it stays
with them for `drain_seconds`: it takes nothing new, and follows what runs here to its end.
"""

import asyncio
import time
from pathlib import Path

from countersign.adapters.logs import Log
from countersign.adapters.process import living_attempts

log = Log(__name__)
LOOK = 0.2  # seconds between two looks at other processes, which tell no event


async def drained(attempts_root: Path, *, within: float) -> bool:
    """Whether no engine of an attempt below `attempts_root` is left, after `within` seconds at most."""
    until = time.monotonic() + within
    told = 0
    while left := len(living_attempts(attempts_root)):
        if left != told:
            log.info("stays with applies that run here", applies=left, seconds=round(max(until - time.monotonic(), 0)))
            told = left
        if time.monotonic() >= until:
            log.warning("leaves applies that run here; they are followed or reconciled when a worker is back", applies=left)
            return False
        await asyncio.sleep(LOOK)
    return True
