"""A worker that takes the place of one that died says so: what that one had in its hands is done by somebody else at once.

Otherwise Temporal waits: for heartbeats that do not come, and for a cache of runs that nobody has any more. Nothing depends on
this; a worker that is wrongly taken for dead finds that its steps are somebody else's, and leaves what it started alone.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from countersign.adapters.logs import Log
from countersign.adapters.store import runs
from countersign.adapters.store.database import Store
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.adapters.temporal import Runs
from countersign.core.errors import CountersignError
from countersign.core.run import RunState
from countersign.core.steps import Standing

log = Log(__name__)

_APPLIES = frozenset({RunState.APPLYING, RunState.CANCELING, RunState.VERIFYING})
MOST = 200  # open runs that are looked at
AT_ONCE = 16
WITHIN = 3.0  # seconds; whoever starts has more to do than this


def identity(host: str) -> str:
    """How this worker is called in Temporal: the machine and disk it works for, and its process."""
    return f"worker@{host}:{os.getpid()}"


def gone(host: str) -> Callable[[str], bool]:
    """Whether an identity is that of a worker of this machine which lives no more. To be asked before this one does anything."""
    prefix, own = f"worker@{host}:", str(os.getpid())

    def is_gone(who: str) -> bool:
        if not who.startswith(prefix):
            return False
        pid = who.removeprefix(prefix)
        return pid == own or not _lives(pid)  # in a container each has the same number

    return is_gone


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, ValueError, IndexError):
        return False


async def _begun(store: Store, run: RunRow) -> Standing | None:
    """Where the run stands, if its apply has begun."""
    if run.state not in _APPLIES:
        return None
    async with store.read() as conn:
        standing = await standing_of(conn, await runs.get_run(conn, run.org, run.id), trust="off")  # it asks nobody
    return standing if standing.attempt_id is not None and standing.state in _APPLIES else None


async def hand_back(store: Store, workflows: Runs, orgs: list[str], host: str) -> int:
    """Hand back what earlier workers of this machine had in their hands; how many steps that were."""
    is_gone, some = gone(host), asyncio.Semaphore(AT_ONCE)

    async def one(run: RunRow) -> int:
        async with some:
            return await workflows.hand_back(run.id, gone=is_gone, begun=await _begun(store, run))

    handed = 0
    try:
        async with asyncio.timeout(WITHIN):
            for org in orgs:
                async with store.read() as conn:
                    open_runs, _ = await runs.list_runs(conn, org, open_only=True, waiting_first=False, limit=MOST)
                handed += sum(await asyncio.gather(*(one(run) for run in open_runs)))
    except (CountersignError, TimeoutError) as failed:
        log.warning("what earlier workers did is left to time-outs", reason=str(failed) or "no answer in time")
    if handed:
        log.info("handed back what earlier workers had in their hands", steps=handed)
    return handed
