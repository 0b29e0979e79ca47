"""Ending a run before its apply: rejected, expired, canceled, denied. One place, because one thing forbids it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import plans, runs, turns
from countersign.adapters.store.runs import RunRow
from countersign.core.run import ENDS, RunState

NOT_ACCOUNTED = (
    "{why}. What a lost apply of this run did is not accounted for, so the state stays blocked: "
    "`run_resume` plans what is left again and asks again."
)


async def end_waiting(
    tx: AsyncConnection, run: RunRow, to: RunState, *, at: datetime, body: Mapping[str, Any], reason: str, code: str | None = None
) -> RunRow:
    """End a run that waits for people or for its claim; where it waits after a lost apply, that is accounted for first.

    A stale plan of what is left is made again by reconciling. Who cancels has said all there is to say: reconciling records what
    was done and ends the run. Else an operator is asked. What has ended leaves the queue of its state, or nobody behind it would have
    a turn; the sweep wakes who is next.
    """
    lost = await plans.open_attempt(tx, run.org, run.stack_id)
    if lost is not None and lost.run_id == run.id:
        why = NOT_ACCOUNTED.format(why=f"{str(to).capitalize()}: {reason}" if reason else str(to).capitalize())
        goes_on = to in (RunState.CANCELED, RunState.STALE)
        record = runs.pass_through if goes_on else runs.move
        run = await record(tx, run, RunState.NEEDS_OPERATOR, at=at, body=body, reason=why, code=code)
        return await runs.move(tx, run, RunState.RECONCILING, at=at) if goes_on else run
    run = await runs.move(tx, run, to, at=at, body=body, reason=reason or None, code=code)
    if run.state in ENDS:
        await turns.release(tx, org=run.org, stack_id=run.stack_id, run_id=run.id)
    return run
