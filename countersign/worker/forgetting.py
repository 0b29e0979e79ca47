"""Once in a while, what nobody needs any more goes: bytes of runs whose time is over, by the operator's rules (`core.retention`).

Every worker does it, and none waits for another: what two of them let go is gone once.
"""

import asyncio
import contextlib
from collections import Counter
from datetime import timedelta
from typing import Any

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.logs import Log
from countersign.adapters.store import audit, retention
from countersign.adapters.store.database import Store, stamp
from countersign.core.errors import CountersignError
from countersign.core.principal import SYSTEM
from countersign.core.retention import Retention, rules

log = Log(__name__)

EVERY = timedelta(hours=1)
FIRST = timedelta(minutes=2)  # a worker that has just started has other things to do
MOST = 200  # at once: nobody waits for the store behind this


async def forget(store: Store, artifacts: Artifacts, kept: Retention, orgs: list[str]) -> Counter[str]:
    """One whole round; how many artifacts went by each setting, and how many journals were shortened. Raises Unavailable."""
    went: Counter[str] = Counter()
    for org in orgs:
        mine: Counter[str] = Counter()
        for rule in rules(kept):
            while True:
                async with store.begin() as tx:
                    found = await retention.lapse(tx, org, rule, now=store.now(), most=MOST)
                mine[rule.setting] += found
                if found < MOST:
                    break
        while True:
            before = store.now() - timedelta(days=kept.journal_days)
            async with store.begin() as tx:
                found = await retention.shorten_journals(tx, org, before=before, most=MOST)
            mine["journal_days"] += found
            if found < MOST:
                break
        if any(mine.values()):  # said before the bytes go: what is not there any more was let go, and not lost
            told: dict[str, Any] = {name: number for name, number in sorted(mine.items()) if number}
            async with store.begin() as tx:
                await audit.append(tx, org=org, at=stamp(store.now()), action="retention", by=SYSTEM, target=org, **told)
        await _remove(store, artifacts, org)
        went += mine
    return went


async def _remove(store: Store, artifacts: Artifacts, org: str) -> None:
    """The bytes of everything whose time is over, also of what an earlier round did not come to."""
    while True:
        async with store.read() as conn:
            found = await retention.lapsed(conn, org, now=store.now(), most=MOST)
        if not found:
            return
        await artifacts.remove(org, [(one.stack_id, one.id) for one in found])
        async with store.begin() as tx:
            await retention.gone(tx, org, found)


async def keep_forgetting(store: Store, artifacts: Artifacts, kept: Retention, orgs: list[str], stop: asyncio.Event) -> None:
    pause = FIRST
    while not stop.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), pause.total_seconds())
        if stop.is_set():
            return
        pause = EVERY
        try:
            if went := await forget(store, artifacts, kept, orgs):
                log.info("let go of what nobody needs any more", **went)
        except CountersignError as failed:
            log.warning("letting go was put off", reason=failed.message)
