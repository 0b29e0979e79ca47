"""The list of runs: what waits for the reader first, then what is open, then what has ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from countersign.adapters.store import plans, runs
from countersign.adapters.store.database import stamp
from countersign.adapters.store.runs import RunRow
from countersign.core.errors import InvalidArgument, NotFound
from countersign.core.plan import ChangeClass
from countersign.core.run import ENDS, RunState
from mcp_front import lookup
from mcp_front.call import Call
from mcp_front.gateway import WAITS, decisions_in_force
from mcp_front.pages.consent import objection
from mcp_front.pages.presenting import STANDINGS, Standing
from mcp_front.pages.visit import Visit, away_to

WAITING = 100  # runs that wait for a person, looked through for those that wait for the reader
OPEN = 100
PAGE = 25  # of those that ended, or match a filter
_ENDED = tuple(sorted(ENDS))
_GOING = tuple(s for s in RunState if s not in ENDS and s not in WAITS)
_COUNTED = frozenset({RunState.APPLYING, RunState.VERIFYING, RunState.CANCELING})


@dataclass(frozen=True, kw_only=True)
class Row:
    run_id: str
    stack: str
    type: str
    standing: Standing
    who: str
    message: str | None
    change_class: str | None
    destroys: bool
    at: str
    progress: str | None
    alarm: bool  # it did what nobody approved


@dataclass(frozen=True, kw_only=True)
class Section:
    id: str
    title: str
    empty: str | None  # said where there is nothing; a section without that is left out then
    rows: Sequence[Row]
    total: int
    pages: tuple[tuple[int, str, bool], ...] = field(default=())  # (number, address, whether it is this one)


async def home(visit: Visit) -> Response:
    return away_to("/runs")


async def show(visit: Visit) -> Response:
    return await _list(visit, "list.html")


async def live(visit: Visit) -> Response:
    """The list without what stands around it."""
    return await _list(visit, "_list.html")


async def _list(visit: Visit, template: str) -> Response:
    call, state, env, page = visit.call("run_list"), visit.query("state"), visit.query("env"), visit.number("page")
    if state is not None and state not in {"open", "waiting", *RunState}:
        raise InvalidArgument(f"no state {state[:40]!r}", field="state")
    path = lookup.environment(call, env) if env else None
    if (visible := lookup.visible_runs(call)) is None:
        raise NotFound("there is nothing here that this key may see")
    narrowed: dict[str, Any] = {"env": path, **visible}
    async with visit.front.store.read() as conn:
        if state is None:
            sections = await _sections(call, conn, narrowed, page)
        else:
            sections = [await _matching(call, conn, state, narrowed, page)]
    return await visit.draw(
        template,
        sections=sections,
        env=path,
        environments=list(lookup.environments(call)),
        state=state,
        states=[(str(s), STANDINGS[s].label) for s in RunState],
        filtered=bool(state or path),
    )


async def _sections(call: Call, conn: AsyncConnection, narrowed: dict[str, Any], page: int) -> list[Section]:
    waiting, many = await runs.list_runs(conn, call.org, states=tuple(WAITS), members=False, limit=WAITING, **narrowed)
    mine = [run for run in waiting if await _waits_for_reader(call, conn, run)]
    others = [run for run in waiting if run not in mine]
    going, moving = await runs.list_runs(conn, call.org, states=_GOING, members=False, limit=OPEN, **narrowed)
    ended, total = await runs.list_runs(conn, call.org, states=_ENDED, members=False, limit=PAGE, offset=(page - 1) * PAGE, **narrowed)
    return [
        Section(id="mine", title="Waiting for you", empty="Nothing waits for you.", rows=_rows(mine), total=len(mine)),
        Section(
            id="open",
            title="Open",
            empty="Nothing is under way.",
            rows=_rows([*others, *going]),
            total=many - len(mine) + moving,
        ),
        Section(
            id="recent", title="Ended", empty="Nothing has ended yet.", rows=_rows(ended), total=total, pages=_pages(total, page, narrowed)
        ),
    ]


async def _matching(call: Call, conn: AsyncConnection, state: str, narrowed: dict[str, Any], page: int) -> Section:
    states = tuple(WAITS) if state == "waiting" else () if state == "open" else (RunState(state),)
    found, total = await runs.list_runs(
        conn, call.org, states=states, open_only=state == "open", members=False, limit=PAGE, offset=(page - 1) * PAGE, **narrowed
    )
    title = {"open": "Open", "waiting": "Waiting for a person"}.get(state) or STANDINGS[RunState(state)].label
    pages = _pages(total, page, {**narrowed, "state": state})
    return Section(id="found", title=title, empty="No run matches.", rows=_rows(found), total=total, pages=pages)


async def _waits_for_reader(call: Call, conn: AsyncConnection, run: RunRow) -> bool:
    """Whether this person's word would count and is not given yet."""
    if run.state is not RunState.AWAITING_APPROVAL or objection(call, run) is not None:
        return False
    agreed = decisions_in_force(await plans.decisions_of(conn, run.org, run.id), run.plan_digest)
    return call.caller.principal.id not in {d.by.id for d in agreed}


def _pages(total: int, page: int, narrowed: dict[str, Any]) -> tuple[tuple[int, str, bool], ...]:
    """The first, the last, and those around this one."""
    last = max(1, -(-total // PAGE))
    if last == 1 and page == 1:
        return ()
    kept = {name: narrowed[name] for name in ("state", "env") if narrowed.get(name)}
    numbers = sorted({1, last, *range(max(1, page - 2), min(last, page + 2) + 1)})
    return tuple((number, f"/runs?{urlencode({**kept, 'page': number})}#recent", number == page) for number in numbers)


def _rows(found: Sequence[RunRow]) -> list[Row]:
    return [
        Row(
            run_id=run.id,
            stack=run.stack_path,
            type=run.type,
            standing=STANDINGS[run.state],
            who=run.requester.id + (f" for {run.requester.acts_for}" if run.requester.acts_for else ""),
            message=run.message,
            change_class=run.change_class.replace("_", " ") if run.change_class else None,
            destroys=run.change_class in set(ChangeClass) and ChangeClass(run.change_class).destroys,
            at=stamp(run.ended_at or run.created_at),
            progress=f"{run.done} of {run.total}" if run.total and run.state in _COUNTED else None,
            alarm=bool(run.alarms),
        )
        for run in found
    ]
