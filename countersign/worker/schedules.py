"""Schedules follow records: a stack with `drift_every` has one of that interval, any other has none. A release that was deployed through
the gate has one where its cluster's setting says how often.

Looked at in rounds and not told by whoever changes a record: a record is changed also while Temporal is away, and a Temporal that
was emptied has to get all of them again. Several workers may do it at once, for each step may be repeated.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta

from countersign.adapters.logs import Log
from countersign.adapters.schedules import Schedules, Wanted
from countersign.adapters.store import drift, records
from countersign.adapters.store.database import Store
from countersign.core.durations import duration
from countersign.core.errors import CountersignError

log = Log(__name__)

EVERY = timedelta(seconds=10)


async def settle(store: Store, schedules: Schedules, orgs: list[str], releases_every: Mapping[str, str] | None = None) -> int:
    """One round; how many schedules were made, changed or removed. `releases_every`: "org/env" → how often releases are looked at."""
    wanted: dict[str, Wanted] = {}
    for org in orgs:
        async with store.read() as conn:
            for stack in await records.stacks_with_drift(conn, org):
                every = duration(str(stack.body["drift_every"]))
                one = Wanted(org=org, stack_id=stack.id, path=stack.path, every=every)
                wanted[one.id] = one
            for env, text in (releases_every or {}).items():
                if env.partition("/")[0] == org:
                    for stack in await drift.deployed_here(conn, org, env):
                        one = Wanted(org=org, stack_id=stack.id, path=stack.path, every=duration(text))
                        wanted[one.id] = one
    there = await schedules.there()
    changed = [one for id, one in wanted.items() if there.get(id) != one.every]
    gone = [id for id in there if id not in wanted]
    for one in changed:
        await schedules.put(one)
    for id in gone:
        await schedules.remove(id)
    return len(changed) + len(gone)


async def keep_settling(
    store: Store, schedules: Schedules, orgs: list[str], stop: asyncio.Event, releases_every: Mapping[str, str] | None = None
) -> None:
    while not stop.is_set():
        try:
            if settled := await settle(store, schedules, orgs, releases_every):
                log.info("brought schedules of drift checks up to date", schedules=settled)
        except CountersignError as failed:
            log.warning("schedules put off", reason=failed.message)
        except Exception:  # a schedule of somebody else's making, for one: the next round tries again, and nothing else waits for this
            log.exception("schedules put off")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY.total_seconds())
