"""A store may have come back from a backup by hands that told nobody: what lies in the artifact store is newer than its heads then.

`countersign restore` settles that before anything starts. Where a database was put back under a running service, or by its own
tools, this notices it, takes the newer state over, opens the lost attempt again and holds the stack until a person has looked.
"""

import asyncio
import contextlib
from datetime import timedelta
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.logs import Log
from countersign.adapters.restored import Restored, Told
from countersign.adapters.store import runs
from countersign.adapters.store.database import Store
from countersign.adapters.store.schema import attempts, credentials
from countersign.adapters.temporal import Runs
from countersign.adapters.terraform.left import left_behind
from countersign.core.errors import CountersignError
from countersign.core.fencing import Mode
from countersign.core.principal import SYSTEM
from countersign.core.run import RunState

log = Log(__name__)

EVERY = timedelta(minutes=15)
MOST = 200


async def notice(store: Store, artifacts: Artifacts, workflows: Runs, *, host: str, attempts_root: Path, orgs: list[str]) -> list[Told]:
    """One look; what was taken over. The workflows of runs that account for a lost apply are told to look at their rows."""
    left = await asyncio.to_thread(left_behind, attempts_root)
    restored = Restored(store=store, artifacts=artifacts, host=host, left=left, by=SYSTEM, since="an unknown time")
    told = await restored.notice(busy=_busy)
    for one in told:
        log.warning("the store does not know a newer state", stack=one.path, before=one.before, serial=one.serial, run=one.reconciling)
    for org in orgs:
        async with store.read() as conn:
            lost, _ = await runs.list_runs(conn, org, states=[RunState.INTERRUPTED, RunState.RECONCILING], limit=MOST)
        for run in lost:
            await workflows.wake(run.id)
    return told


async def _busy(conn: AsyncConnection) -> set[tuple[str, str]]:
    """States that somebody may write now."""
    writes = (credentials.c.mode == str(Mode.APPLY)) & credentials.c.revoked_at.is_(None)
    working = await conn.execute(select(credentials.c.org_id, credentials.c.stack_id).where(writes))
    open_ones = await conn.execute(select(attempts.c.org_id, attempts.c.stack_id).where(attempts.c.closed_at.is_(None)))
    return {(row.org_id, row.stack_id) for row in (*working, *open_ones)}


async def keep_noticing(
    store: Store, artifacts: Artifacts, workflows: Runs, *, host: str, attempts_root: Path, orgs: list[str], stop: asyncio.Event
) -> None:
    while not stop.is_set():
        try:
            await notice(store, artifacts, workflows, host=host, attempts_root=attempts_root, orgs=orgs)
        except CountersignError as failed:
            log.warning("looking for what the store does not know is put off", reason=failed.message)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY.total_seconds())
