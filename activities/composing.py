"""The steps of a composite: let its members plan, show all plans as one, and lead one member after the other to its end.

Members are runs with workflows of their own, so nothing is done here that changes the world: rows are looked at, and moved where the
composite was agreed to. Whoever looks next, after any crash, sees the same and goes on.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities import beating
from activities.beating import heartbeating, until_done
from activities.ledger import RESOURCES_KEPT
from activities.recording import Recording
from countersign.adapters.artifacts import Written
from countersign.adapters.store import audit, canceling, claim, composites, plans, runs
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.standing import standing_of
from countersign.core import composite
from countersign.core.approval import CancelInput
from countersign.core.composite import Do, Link, Member, Move, Part
from countersign.core.digests import canonical, sha256
from countersign.core.engine import Planned
from countersign.core.errors import BY_CODE, CountersignError, FailedPrecondition
from countersign.core.plan import ChangeClass
from countersign.core.principal import SYSTEM
from countersign.core.run import RunState
from countersign.core.steps import ApplyInput, FollowInput, RunRef, Standing, pause_before_look

LOOK, AT_MOST = 0.05, 0.5  # seconds between two looks at a handful of rows; the longer nothing moves, the longer
LOG = 200_000  # characters of each member's log of its plan
_LED = frozenset({RunState.APPLYING, RunState.CANCELING, RunState.RECONCILING})
VIEW = "countersign.view/1"


class Workflows(Protocol):
    """What is said to the workflows of members; `adapters.temporal.Runs` does it."""

    async def start(self, run: RunRow, *, again: bool = False) -> None: ...
    async def wake(self, run_id: str) -> None: ...
    async def cancel(self, run_id: str, given: CancelInput) -> None: ...


class Said:
    """What members were told by this step, so that none is told over and over."""

    def __init__(self, workflows: Workflows) -> None:
        self._workflows = workflows
        self._told: dict[tuple[str, str], tuple[int, float]] = {}  # how often, and when it is to be told once more

    def _is_due(self, run_id: str, what: str) -> bool:
        now, (times, due) = asyncio.get_running_loop().time(), self._told.get((run_id, what), (0, 0.0))
        if times and now < due:
            return False
        self._told[(run_id, what)] = (times + 1, now + pause_before_look(times).total_seconds())
        return True

    async def look(self, run_id: str) -> None:
        if self._is_due(run_id, "look"):
            await self._workflows.wake(run_id)

    async def stop(self, run_id: str, *, force: bool) -> None:
        if not self._is_due(run_id, "kill" if force else "stop"):
            return
        try:
            await self._workflows.cancel(run_id, CancelInput(reason="its composite was canceled", force=force))
        except CountersignError as failed:  # it ended meanwhile, or Temporal is away: the next look says
            activity.logger.warning("%s could not be told to stop: %s", run_id, failed.message)


@dataclass(frozen=True, kw_only=True)
class Composing(Recording):
    workflows: Workflows

    # Planning

    async def plan(self, ref: RunRef) -> Standing:
        """Have every step planned that can be, and show all plans as one. A run that is past planning answers where it stands."""
        async with heartbeating():
            async with self.store.begin() as tx:
                run = await self._turn_to_plan(tx, ref)
            if run.state is not RunState.PLANNING:
                return await self.stand(ref)
            members = await self._members(run)
            for member in members:
                if not member.ended:
                    await self.workflows.start(member)
                    await self.workflows.wake(member.id)  # it may have been started before this one had its turn
            try:
                failed = await self._all_planned(run)
            except asyncio.CancelledError:
                if beating.asked_to_cancel():
                    for member in await self._members(run):
                        if not member.ended:
                            await Said(self.workflows).stop(member.id, force=False)
                raise
            if failed is not None:
                return await self._cannot_be_planned(run, failed)
            return await self._record_plan(run, *await self._shown(run))

    async def _members(self, run: RunRow) -> list[RunRow]:
        async with self.store.read() as conn:
            return await runs.members_of(conn, run)

    async def _all_planned(self, run: RunRow) -> Move | None:
        """Wait until there is nothing left to plan now; the failure where one of them cannot be."""
        said, pause = Said(self.workflows), LOOK
        while True:
            async with self.store.read() as conn:
                live = await runs.get_run(conn, run.org, run.id)
                members = await composites.standing_members(conn, run)
            next_ = composite.planning(members, dry=not run.changes)
            if next_.do is Do.END:
                return next_
            if next_.do is Do.SHOW or live.state is not RunState.PLANNING:
                return None
            if next_.do is Do.LET_PLAN and next_.member is not None:
                await said.look(next_.member.run_id)
            _tell(next_, len(members), "is being planned")
            await asyncio.sleep(pause)
            pause = min(2 * pause, AT_MOST)

    async def _cannot_be_planned(self, run: RunRow, failed: Move) -> Standing:
        members = await self._members(run)
        code = next((one.code for one in members if failed.member is not None and one.id == failed.member.run_id), None)
        standing = await self._plan_failed(run, BY_CODE.get(code or "", FailedPrecondition)(failed.why))
        await self._wake_members(run.org, run.id)
        return standing

    async def _shown(self, run: RunRow) -> tuple[Planned, Mapping[str, Written]]:
        async with self.store.read() as conn:
            links, parts = await composites.links_of(conn, run), await composites.parts_of(conn, run)
            documents = {part.link.step: await self._documents(conn, run, part) for part in parts}
        planned = _planned(links, parts, documents)
        return planned, await self.seal_plan(run, planned)

    async def _documents(self, conn: AsyncConnection, run: RunRow, part: Part) -> dict[str, bytes]:
        """What people read of a member's plan."""
        refs = part.plan.artifacts if part.plan is not None else ()
        kinds = ("plan_view", "semantic_document", "log")
        return {ref.kind: await self.artifacts.read(conn, org=run.org, artifact_id=ref.id) for ref in refs if ref.kind in kinds}

    # Applying

    async def apply(self, asked: ApplyInput) -> Standing:
        """Claim the whole, once, and lead it to its end. What is lost on the way `follow` goes on with."""
        async with heartbeating():
            async with self.store.read() as conn:
                plan = await plans.plan_by_digest(conn, asked.org, asked.plan_digest)
                if plan is None or plan.run_id != asked.run_id:
                    raise FailedPrecondition("no such plan of this run; nothing is applied")
                bundle = next(ref for ref in plan.summary.artifacts if ref.kind == "plan_bundle")
                held = await self.artifacts.read(conn, org=asked.org, artifact_id=bundle.id)
            taken = await claim.claim(
                self.store,
                org=asked.org,
                run_id=asked.run_id,
                plan_digest=asked.plan_digest,
                bundle_sha256=sha256(held),
                policy=self.policy,
                host=self.here.host,
                boot_id=self.here.boot_id,
            )
            if not isinstance(taken, claim.Claimed):
                return await self.stand(RunRef(org=asked.org, run_id=asked.run_id))
            return await self._led(taken.attempt, RunRef(org=asked.org, run_id=asked.run_id))

    async def follow(self, asked: FollowInput) -> Standing:
        """Go on where whoever led it before was lost. One that is over answers what was recorded."""
        async with heartbeating():
            ref = RunRef(org=asked.org, run_id=asked.run_id)
            async with self.store.read() as conn:
                attempt = await plans.attempt_by_id(conn, asked.org, asked.attempt_id)
            if attempt is None or attempt.run_id != asked.run_id:
                raise FailedPrecondition("no such attempt of this run")
            if asked.stop:
                await self._cancel(ref)
            return await self._led(attempt, ref)

    async def _led(self, attempt: AttemptRow, ref: RunRef) -> Standing:
        return await until_done(self._lead(attempt, ref), on_cancel=lambda: self._cancel(ref))

    async def _cancel(self, ref: RunRef) -> None:
        """No further step begins; the one that runs is asked to stop."""
        async with self.store.begin() as tx:
            live = await runs.get_run(tx, ref.org, ref.run_id)
            if live.state is RunState.APPLYING:
                await runs.move(tx, live, RunState.CANCELING, at=self.store.now())

    async def _lead(self, attempt: AttemptRow, ref: RunRef) -> Standing:
        said, told, pause = Said(self.workflows), (-1, 0, ""), LOOK
        while True:
            async with self.store.read() as conn:
                run, next_, rows = await self._next(conn, ref)
                is_forced = run.state is RunState.CANCELING and await canceling.is_forced(conn, run)
            if run.state not in _LED:
                return await self.stand(ref)
            member = next_.member
            match next_.do:
                case Do.AGREE | Do.ASK | Do.END:
                    if (standing := await self._moved(attempt, ref, next_, said)) is not None:
                        return standing
                    pause = LOOK
                    continue
                case Do.LET_PLAN if member is not None:
                    await said.look(member.run_id)
                case Do.WAIT if member is not None and member.state is RunState.APPROVED:
                    await said.look(member.run_id)  # whoever passed it on may have died before it said so
                case Do.STOP if member is not None:
                    await said.stop(member.run_id, force=is_forced)
            progress = _progress(rows, next_)
            if progress != told:
                told = progress
                async with self.store.begin() as tx:
                    await runs.progress(tx, run, at=self.store.now(), done=progress[0], total=progress[1], current=progress[2])
                _tell(next_, len(rows), "is being applied")
            await asyncio.sleep(pause)
            pause = min(2 * pause, AT_MOST)

    async def _next(self, conn: AsyncConnection, ref: RunRef) -> tuple[RunRow, Move, list[RunRow]]:
        run = await runs.get_run(conn, ref.org, ref.run_id)
        members = await composites.standing_members(conn, run)
        return run, composite.applying(members, canceled=run.state is RunState.CANCELING), await runs.members_of(conn, run)

    async def _moved(self, attempt: AttemptRow, ref: RunRef, seen: Move, said: Said) -> Standing | None:
        """Do what was seen to come next, if it still does; where the composite stands if it is led no more."""
        standing, freed = None, None
        async with self.store.begin() as tx:
            now = self.store.now()
            run, next_, rows = await self._next(tx, ref)
            if run.state not in _LED or next_ != seen:
                return None
            if next_.do is Do.AGREE:
                told = [row for row in rows if next_.member is not None and row.id == next_.member.run_id]
                for member in told:
                    await composites.pass_on(tx, run, member, at=now)
            else:
                run, freed = await self._over(tx, run, attempt, next_, rows, now)
                told = [row for row in rows if run.ended and not row.ended]
                standing = await standing_of(tx, run, trust=self.trust)
        for member in told:
            await said.look(member.id)
        await self.wake_up(freed)
        return standing

    async def _over(
        self, tx: AsyncConnection, run: RunRow, attempt: AttemptRow, next_: Move, rows: Sequence[RunRow], now: datetime
    ) -> tuple[RunRow, str | None]:
        """Close the attempt: all steps are done, one failed, or one means what nobody agreed to."""
        to, why = (RunState.STALE, _asks(next_.member)) if next_.do is Do.ASK and next_.member is not None else (next_.state, next_.why)
        if to is RunState.STALE and run.state is not RunState.APPLYING:  # an operator had it look again: its row cannot go back
            to, why = RunState.PARTIALLY_APPLIED, f"{why}; `run_resume` plans what is left as a new run"
        freed = await claim.close(tx, attempt, run, outcome=to, evidence=[_line(row) for row in rows], at=now)
        body = {"message": why, "steps": [{"step": row.step, "run_id": row.id, "state": str(row.state)} for row in rows]}
        facts: dict[str, Any] = {"reason": why or None, "current": ""}
        if to is not RunState.STALE:
            facts |= _results(rows) | {"code": _code(to, next_, rows)}
        if to is RunState.APPLIED:
            run = await runs.move(tx, run, RunState.VERIFYING, at=now, body=body)
        run = await runs.move(tx, run, to, at=now, body=body, **facts)
        await audit.of_run(
            tx, run, at=now, action="run.apply", by=SYSTEM, outcome=str(run.state), attempt=attempt.id, plan_digest=attempt.plan_digest
        )
        return run, freed


def _asks(member: Member) -> str:
    return f"{member.name} means something that was not shown before: what is left is shown, and asked for, again"


def _code(to: RunState, next_: Move, rows: Sequence[RunRow]) -> str | None:
    if to is RunState.APPLIED:
        return None
    failed = next((row for row in rows if next_.member is not None and row.id == next_.member.run_id), None)
    return (failed.code if failed is not None else None) or ("canceled" if to is RunState.CANCELED else None)


def _line(row: RunRow) -> str:
    return f"step {row.step} ({row.stack_path}): {row.id} {row.state}" + (f", {row.reason}" if row.reason else "")


def _progress(rows: Sequence[RunRow], next_: Move) -> tuple[int, int, str]:
    """Changes made, of how many that are known, and what is waited for, in words."""
    done, total = sum(row.done for row in rows), sum(row.total for row in rows)
    if next_.member is None:
        return done, total, ""
    row = next(row for row in rows if row.id == next_.member.run_id)
    where = f": {row.current}" if row.current else ""
    wants = f"; it needs an operator: run_resume {row.id}" if row.state is RunState.NEEDS_OPERATOR else ""
    return done, total, f"{next_.member.name} is {row.state}{where}{wants}"


def _tell(next_: Move, count: int, what: str) -> None:
    if next_.member is not None:
        beating.tell(f"{next_.member.name} of {count} {what}: {next_.member.run_id} is {next_.member.state}")


def _results(rows: Sequence[RunRow]) -> dict[str, Any]:
    """What all steps did, each under its number."""
    outputs = {composite.numbered(row.step or 0, name): value for row in rows for name, value in (row.outputs or {}).items()}
    resources = [
        {**one, "address": composite.numbered(row.step or 0, str(one.get("address", "")))} for row in rows for one in row.resources
    ]
    return {
        "done": sum(row.done for row in rows),
        "total": sum(row.total for row in rows),
        "outputs": json.dumps(outputs),
        "resources": json.dumps(resources[:RESOURCES_KEPT]),
    }


# The plan of plans


def _planned(links: Sequence[Link], parts: Sequence[Part], documents: Mapping[int, Mapping[str, bytes]]) -> Planned:
    steps = [link.model_dump(mode="json", exclude_none=True) for link in links]
    saved = canonical({"v": "countersign.composite/1", "steps": steps})
    return Planned(
        plan=composite.composed(parts),
        plan_sha256=sha256(saved),
        bundle=saved,
        plan_json=saved,
        view=json.dumps(_view(parts, documents), ensure_ascii=False).encode(),
        semantic_document=json.dumps({str(n): _object(found.get("semantic_document")) for n, found in documents.items()}).encode(),
        inputs={"steps": steps},
        log="".join(_log(part, documents[part.link.step].get("log", b"")) for part in parts),
        expires_at=min((part.expires_at for part in parts if part.expires_at is not None), default=None),
    )


def _view(parts: Sequence[Part], documents: Mapping[int, Mapping[str, bytes]]) -> dict[str, Any]:
    """The views of all steps as one; of an engine that writes another one, what its summary has."""
    changes: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    total = 0
    for part in parts:
        if part.plan is None:
            continue
        number = part.link.step
        view = _object(documents[number].get("plan_view"))
        if view.get("v") != VIEW:
            view = {"changes": [one.model_dump(mode="json") for one in part.plan.changes], "total": part.plan.counts.total}
        for one in view["changes"]:
            before = one.get("previous_address")
            again = {"previous_address": composite.numbered(number, before)} if before else {}
            changes.append({**one, "address": composite.numbered(number, one["address"]), **again})
        outputs += [{**one, "name": composite.numbered(number, str(one.get("name", "")))} for one in view.get("outputs", ())]
        total += int(view.get("total", len(view["changes"])))
    changes.sort(key=lambda one: (-ChangeClass(one["change_class"]).rank, one["address"]))
    return {"v": VIEW, "changes": changes, "outputs": outputs, "total": total}


def _object(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _log(part: Part, text: bytes) -> str:
    head = f"--- step {part.link.step}: {part.link.type} on {part.link.stack} ({part.link.run_id})\n"
    said = text.decode(errors="replace")[-LOG:]
    return (
        head
        + (said if said.endswith("\n") or not said else f"{said}\n")
        + (f"not planned yet: {part.link.late}\n" if part.link.late else "")
    )
