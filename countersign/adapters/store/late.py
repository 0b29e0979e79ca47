"""What an apply did after it was given up: nobody planned with it, so somebody has to be told."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, runs
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.reconciled import is_gone
from countersign.core.engine import Told
from countersign.core.principal import SYSTEM


async def tell(tx: AsyncConnection, org: str, attempt: AttemptRow, told: Sequence[Told], *, at: datetime) -> None:
    """Record it as alarms of its run, which may have ended, and in the audit chain; what is known is not told again.

    Only where somebody said that its machine was gone: else it is what the journal on that machine had told anyhow.
    """
    run = await runs.get_run(tx, org, attempt.run_id)
    if not await is_gone(tx, run, attempt.id):
        return
    known = {one["message"] for one in run.alarms}
    for one in told:
        message = f"{attempt.id} on {attempt.host} went on after it was given up: {one.line}"
        if message in known:
            continue
        run = await runs.alarm(tx, run, at=at, attempt=attempt.id, message=message, guard="late")
        await audit.of_run(tx, run, at=at, action="run.late", by=SYSTEM, attempt=attempt.id, told=one.line)
