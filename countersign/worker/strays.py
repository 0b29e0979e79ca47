"""A machine that was given up and comes back: what it did meanwhile is told, and what is left of it ended.

Somebody said that it was gone for good, and another worker accounted for its apply. If that went on here after all, its journal is
the only witness of what it made.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.engine import Here
from countersign.adapters.keyring import Keyring
from countersign.adapters.logs import Log
from countersign.adapters.store import journals, late, plans, runs
from countersign.adapters.store.database import Store
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.reconciled import is_gone
from countersign.core.engine import Engine, Reconciler, Remains, Said
from countersign.core.errors import CountersignError
from countersign.core.steps import ENGINES

log = Log(__name__)


async def end_strays(store: Store, keyring: Keyring, engines: Sequence[Engine], orgs: Sequence[str], here: Here) -> int:
    """End what is left here of attempts that are closed; returns how many lay about."""
    found = 0
    for org in orgs:
        async with store.read() as conn:
            over = [
                (attempt, (await runs.get_run(conn, org, attempt.run_id)).engine) for attempt in await plans.closed_on(conn, org, here.host)
            ]
        for attempt, whose in over:
            for engine in engines:  # their folders lie side by side
                if engine.name == whose and ENGINES[whose].reconcile is not None and engine.where(attempt.id).exists():
                    found += 1
                    await _ended(store, keyring, engine, org, attempt, here)  # type: ignore[arg-type]  # it reconciles
    return found


async def _ended(store: Store, keyring: Keyring, engine: Reconciler, org: str, attempt: AttemptRow, here: Here) -> None:
    try:
        remains = await engine.end(attempt.id, same_boot=attempt.boot_id == here.boot_id)
        async with store.begin() as tx:
            if await is_gone(tx, await runs.get_run(tx, org, attempt.run_id), attempt.id):
                await _told(tx, store, keyring, engine, org, attempt, remains)
        if not remains.survivors:
            await engine.forget(attempt.id)
        log.warning("an apply that is over lay about", attempt=attempt.id, run=attempt.run_id, survivors=remains.survivors)
    except CountersignError as failed:
        log.warning("what is left of an apply could not be ended", attempt=attempt.id, reason=failed.message)


async def _told(
    tx: AsyncConnection, store: Store, keyring: Keyring, engine: Reconciler, org: str, attempt: AttemptRow, remains: Remains
) -> None:
    """Keep what it told beyond what was shipped, apart, and tell people."""
    shipped = await journals.shipped(tx, keyring, org=org, attempt=attempt)
    known = shipped.testimony + shipped.late
    new, at = engine.joined(known, remains.testimony)[len(known) :], store.now()
    said = [Said(number=shipped.upto + n, line=line) for n, line in enumerate(new.splitlines(), 1)]
    if said:
        await journals.append(tx, keyring, org=org, attempt_id=attempt.id, host=attempt.host, said=said, upto=said[-1].number, at=at)
        await late.tell(tx, org, attempt, engine.told(new), at=at)
