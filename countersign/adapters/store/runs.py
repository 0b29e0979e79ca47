"""Runs as rows, and the one way to move them.

`move` asks the transition table, compares and swaps the state, and writes the event: there is no other writer of a run's
state. What the front answers is read here; no workflow is ever queried for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, case, desc, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import outbox, statements, turns
from countersign.adapters.store.database import moment, stamp
from countersign.adapters.store.schema import events, runs
from countersign.core.composite import CHANGED, DONE
from countersign.core.errors import Conflict, NotFound
from countersign.core.notice import Facts, Moment, moment_of
from countersign.core.policy import Requirement
from countersign.core.principal import SYSTEM, Kind, Principal
from countersign.core.run import COMPOSITE, ENDS, Mode, RunState, may_follow
from countersign.core.steps import EndReason

ALARMS = 40  # kept with the run; the ledger and the audit chain have all


@dataclass(frozen=True, kw_only=True)
class RunRow:
    id: str
    org: str
    type: str
    engine: str
    mode: Mode
    stack_id: str
    stack_path: str  # "org/env/slug"
    env: str  # "org/env"
    state: RunState
    requester: Principal
    request: Mapping[str, Any]
    message: str | None
    reason: str | None
    code: str | None
    plan_number: int
    plan_digest: str | None
    change_class: str | None
    requirement: Requirement | None
    expires_at: datetime | None
    done: int
    total: int
    current: str
    outputs: Mapping[str, Any] | None
    resources: Sequence[Mapping[str, Any]]
    alarms: Sequence[Mapping[str, Any]] = ()  # {attempt, message, at}: what an apply did that nobody approved
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    cursor: int
    parent: str | None = None  # the composite that this run is a step of
    step: int | None = None  # of it, from 1
    late: str | None = None  # why it is planned only after the steps before it

    @property
    def ended(self) -> bool:
        return self.state in ENDS

    @property
    def changes(self) -> bool:
        return self.mode in (Mode.APPLY, Mode.DESTROY)


@dataclass(frozen=True, kw_only=True)
class Event:
    n: int
    at: datetime
    kind: str
    state: RunState
    body: Mapping[str, Any]


def run_of(row: Row[Any]) -> RunRow:
    return RunRow(
        id=row.id,
        org=row.org_id,
        type=row.type,
        engine=row.engine,
        mode=Mode(row.mode),
        stack_id=row.stack_id,
        stack_path=row.stack_path,
        env=row.env,
        state=RunState(row.state),
        requester=Principal(id=row.requester, kind=Kind(row.requester_kind), acts_for=row.acts_for),
        request=json.loads(row.request),
        message=row.message,
        reason=row.reason,
        code=row.code,
        plan_number=row.plan_number,
        plan_digest=row.plan_digest,
        change_class=row.change_class,
        requirement=Requirement.model_validate_json(row.requirement) if row.requirement else None,
        expires_at=moment(row.expires_at) if row.expires_at else None,
        done=row.done,
        total=row.total,
        current=row.current,
        outputs=json.loads(row.outputs) if row.outputs else None,
        resources=json.loads(row.resources) if row.resources else (),
        alarms=json.loads(row.alarms) if row.alarms else (),
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
        ended_at=moment(row.ended_at) if row.ended_at else None,
        cursor=row.cursor,
        parent=row.parent,
        step=row.step,
        late=row.late,
    )


async def get_run(conn: AsyncConnection, org: str, run_id: str) -> RunRow:
    """Raises NotFound."""
    row = await statements.first(conn, runs, org_id=org, id=run_id)
    if row is None:
        raise NotFound(f"no run {run_id}; `run_list` tells which there are", field="run_id", next=["run_list"])
    return run_of(row)


async def list_runs(
    conn: AsyncConnection,
    org: str,
    *,
    stack_id: str | None = None,
    states: Sequence[RunState] = (),
    types: Sequence[str] = (),
    requester: str | None = None,
    env: str | None = None,
    since: datetime | None = None,
    open_only: bool = False,
    members: bool = True,
    waiting_first: bool = True,
    offset: int = 0,
    limit: int = 20,
) -> tuple[list[RunRow], int]:
    """One page, those that wait for a decision first, then the newest; and how many there are in all.

    Without `members`, steps of a composite are left out: it stands for them, except where one needs an operator or raised an alarm itself.
    """
    query = select(runs).where(runs.c.org_id == org)
    if stack_id:
        query = query.where(runs.c.stack_id == stack_id)
    if states:
        query = query.where(runs.c.state.in_([str(s) for s in states]))
    if types:
        query = query.where(runs.c.type.in_(types))
    if requester:
        query = query.where((runs.c.requester == requester) | (runs.c.acts_for == requester))
    if env:
        query = query.where(runs.c.env == env)
    if since:
        query = query.where(runs.c.created_at >= stamp(since))
    if open_only:
        query = query.where(runs.c.ended_at.is_(None))
    if not members:
        query = query.where(runs.c.parent.is_(None) | (runs.c.state == str(RunState.NEEDS_OPERATOR)) | runs.c.alarms.is_not(None))
    total = (await conn.execute(select(func.count()).select_from(query.subquery()))).scalar_one()
    waiting = case((runs.c.state.in_(["awaiting_approval", "needs_operator"]), 0), else_=1)
    order = (waiting, desc(runs.c.created_at), runs.c.id) if waiting_first else (desc(runs.c.created_at), runs.c.id)
    rows = await conn.execute(query.order_by(*order).offset(offset).limit(limit))
    return [run_of(row) for row in rows], int(total)


async def members_of(conn: AsyncConnection, run: RunRow) -> list[RunRow]:
    """The steps of a composite, in their order."""
    return [run_of(row) for row in await statements.every(conn, runs, org_id=run.org, parent=run.id, order=("step",))]


async def states_of(conn: AsyncConnection, org: str, run_ids: Sequence[str]) -> dict[str, RunState]:
    """Of those of these runs that are this organization's."""
    found: dict[str, RunState] = {}
    for begin in range(0, len(run_ids), 500):  # a database takes only so many values in one statement
        some = run_ids[begin : begin + 500]
        rows = await conn.execute(select(runs.c.id, runs.c.state).where(runs.c.org_id == org, runs.c.id.in_(some)))
        found |= {row.id: RunState(row.state) for row in rows}
    return found


async def open_before(conn: AsyncConnection, org: str, moment_: datetime) -> list[str]:
    """All runs that have not ended and were not touched since then, the oldest first."""
    query = select(runs.c.id).where(runs.c.org_id == org, runs.c.ended_at.is_(None), runs.c.updated_at < stamp(moment_))
    return [str(row.id) for row in await conn.execute(query.order_by(runs.c.created_at, runs.c.id))]


async def run_events(conn: AsyncConnection, org: str, run_id: str, *, after: int = 0, limit: int = 200) -> list[Event]:
    query = select(events).where(events.c.org_id == org, events.c.run_id == run_id, events.c.n > after).order_by(events.c.n).limit(limit)
    return [
        Event(n=row.n, at=moment(row.at), kind=row.kind, state=RunState(row.state), body=json.loads(row.body))
        for row in await conn.execute(query)
    ]


async def note(tx: AsyncConnection, run: RunRow, *, at: datetime, kind: str, body: Mapping[str, Any], **columns: Any) -> RunRow:
    """Write an event and, with it, columns of the run, the state left as it is."""
    return await _write(tx, run, run.state, at=at, kind=kind, body=body, columns=columns)


async def move(
    tx: AsyncConnection, run: RunRow, to: RunState, *, at: datetime, body: Mapping[str, Any] | None = None, **columns: Any
) -> RunRow:
    """Record that the run is in `to` now, and that it is to be told. Where a composite ends, what is left of its steps ends with it,
    and if some of them were applied it ends partially applied.

    Raises Conflict where the table forbids it or somebody else moved it meanwhile.
    """
    if run.engine == COMPOSITE and to in ENDS:
        to = await _members_end(tx, run, to, at=at)
    before, run = run, await pass_through(tx, run, to, at=at, body=body, **columns)
    if run.state is not before.state and (what := moment_of(run.state)) is not None and _is_told(run, what):
        await outbox.put(tx, _facts(run, at), what, number=run.cursor)
    return run


def _is_told(run: RunRow, what: Moment) -> bool:
    """Of a step of a composite nobody hears outside that it waits or ended: the composite tells that."""
    return run.parent is None or what not in (Moment.WAITING, Moment.ENDED)


async def _members_end(tx: AsyncConnection, run: RunRow, to: RunState, *, at: datetime) -> RunState:
    """End the steps of a composite that have not begun; how the composite itself can only end then.

    One that is being planned ends when it comes to record its plan. A lost apply that waits for people is accounted for, and then ends.
    """
    changed = False
    why = f"{run.id}, which this is a step of, has ended"
    for member in await members_of(tx, run):
        lost = await turns.open_attempt_of(tx, org=run.org, stack_id=member.stack_id) == member.id
        changed = changed or member.state in CHANGED or lost
        if member.state not in _ENDED_WITH_IT:
            continue
        said = {"by": SYSTEM.id, "reason": EndReason.CANCELED, "message": why}  # as reconciling reads that no more is wanted
        if lost:
            member = await pass_through(tx, member, RunState.NEEDS_OPERATOR, at=at, body=said, reason=why, code="canceled")
            await move(tx, member, RunState.RECONCILING, at=at)
            continue
        await move(tx, member, RunState.CANCELED, at=at, body=said, reason=why, code="canceled")
        await turns.release(tx, org=run.org, stack_id=member.stack_id, run_id=member.id)
    return RunState.PARTIALLY_APPLIED if changed and to not in DONE else to


_ENDED_WITH_IT = frozenset({RunState.PENDING, RunState.AWAITING_APPROVAL, RunState.APPROVED, RunState.STALE})


async def pass_through(
    tx: AsyncConnection, run: RunRow, to: RunState, *, at: datetime, body: Mapping[str, Any] | None = None, **columns: Any
) -> RunRow:
    """The same for a state that the run leaves again in this transaction: nobody outside is told."""
    if not may_follow(run.state, to):
        raise Conflict(f"a run in {run.state} cannot become {to}", details={"state": run.state})
    if to in ENDS:
        columns.setdefault("ended_at", stamp(at))
        columns.setdefault("current", "")
    return await _write(tx, run, to, at=at, kind="state", body=body or {}, columns=columns)


async def tell(tx: AsyncConnection, run: RunRow, what: Moment, *, at: datetime) -> None:
    """Have something told outside that is no change of the run's state."""
    await outbox.put(tx, _facts(run, at), what, number=run.cursor)


def _facts(run: RunRow, at: datetime) -> Facts:
    return Facts(
        org=run.org,
        run_id=run.id,
        run_type=run.type,
        env=run.env,
        stack=run.stack_path,
        state=run.state,
        requester=run.requester.id,
        acts_for=run.requester.acts_for,
        change_class=run.change_class,
        plan_number=run.plan_number,
        code=run.code,
        requirement=run.requirement,
        expires_at=stamp(run.expires_at) if run.expires_at else None,
        at=stamp(at),
    )


async def _write(
    tx: AsyncConnection, run: RunRow, to: RunState, *, at: datetime, kind: str, body: Mapping[str, Any], columns: Mapping[str, Any]
) -> RunRow:
    text = json.dumps(body, ensure_ascii=False)
    n = await statements.add(tx, events, org_id=run.org, run_id=run.id, at=stamp(at), kind=kind, state=str(to), body=text)
    mine = {"org_id": run.org, "id": run.id, "state": str(run.state)}
    row = await statements.changed(tx, runs, mine, state=str(to), updated_at=stamp(at), cursor=n, **columns)
    if row is None:
        raise Conflict(f"run {run.id} is not in {run.state} any more; look again", next=["run_get"])
    return run_of(row)


async def progress(tx: AsyncConnection, run: RunRow, *, at: datetime, done: int, total: int, current: str) -> None:
    """Tell how far an apply is; a run that moved on meanwhile is left alone."""
    live = await get_run(tx, run.org, run.id)
    if not live.ended and (live.done, live.total, live.current) != (done, total, current):
        columns = {"done": done, "total": total, "current": current[:400]}
        await note(tx, live, at=at, kind="progress", body=columns, **columns)


async def alarm(tx: AsyncConnection, run: RunRow, *, at: datetime, attempt: str, message: str, guard: str) -> RunRow:
    """An apply does something that nobody approved. The first of an attempt is told outside; it is looked at then."""
    first = all(one["attempt"] != attempt for one in run.alarms)
    known = [*run.alarms, {"attempt": attempt, "message": message, "at": stamp(at)}]
    body = {"alarm": True, "attempt": attempt, "message": message, "guard": guard}
    run = await note(tx, run, at=at, kind="warning", body=body, alarms=json.dumps(known[:ALARMS], ensure_ascii=False))
    if first:
        await tell(tx, run, Moment.ALARM, at=at)
    return run
