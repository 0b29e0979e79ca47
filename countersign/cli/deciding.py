"""Agreeing and refusing from the terminal: a person reads the plan and its digest, and says so in their own name.

Nothing here fills in what a person has to type. Whether a decision counts is decided elsewhere; this only forwards it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from countersign.adapters.store.reconciled import Found, tell_found, tell_gone
from countersign.cli.door import Door
from countersign.cli.exits import Exit
from countersign.cli.front import Front
from countersign.cli.output import asked, safe
from countersign.cli.runs import Asks, plan_of, stay
from countersign.cli.session import local_person
from countersign.cli.store import opened, organization
from countersign.cli.views import plan_view
from countersign.core.errors import ApprovalRequired, CountersignError, FailedPrecondition, InvalidArgument
from countersign.core.run import RunState

YES = frozenset({"y", "yes"})


@dataclass(frozen=True, kw_only=True)
class Approval:
    run_id: str
    digest: str | None
    name: str | None
    comment: str | None
    wait: bool


class Asking(Asks):
    """Asks whoever sits at the terminal, if anybody does and their key is one of a person."""

    def __init__(self, door: Door, front: Front) -> None:
        self._door = door
        self._front = front

    async def agreed(self, run: dict[str, Any], plan: dict[str, Any]) -> bool:
        if self._door.as_json or not self._door.out.is_terminal or not await self._is_person():
            return False
        given = await confirmed(plan, run)
        if given is None:
            self._door.show(safe("nothing was decided; the run goes on waiting", "dim"))
            return False
        try:
            answer = await self._front.call("run_approve", run_id=run["run_id"], **given)
        except CountersignError as refused:
            self._door.show(safe(f"refused: {refused.message}", "red"))
            return False
        return (answer.get("run") or {}).get("state") != RunState.AWAITING_APPROVAL

    async def _is_person(self) -> bool:
        data = (await self._front.call("whoami")).get("data") or {}
        return data.get("kind") == "person" and bool(data.get("may_decide", True))


async def confirmed(plan: dict[str, Any], run: dict[str, Any]) -> dict[str, str] | None:
    """What a person at the terminal agreed to, after being shown the plan; None where they did not, or nobody is there."""
    digest = str(plan.get("plan_digest") or run.get("plan_digest") or "")
    given = {"plan_digest": digest}
    if name := (run.get("approval") or {}).get("confirm_name"):
        typed = await asked(f"This destroys something. Type {name} to agree to {digest}, or nothing to leave:")
        if not typed:
            return None
        return given | {"confirm_name": typed}
    answer = await asked(f"Countersign {digest}? [y/N]")
    return given if answer is not None and answer.lower() in YES else None


async def approve(door: Door, given: Approval) -> Exit:
    async with door.opened() as front:
        arguments = {"plan_digest": given.digest, "confirm_name": given.name}
        answer = await front.call("run_get", run_id=given.run_id)
        run, since = answer.get("run") or {}, str((answer.get("data") or {}).get("cursor", "0"))
        if given.digest is None:
            typed = await _read_and_agreed(door, front, run)
            if typed is None:
                door.show(safe("nothing was decided", "dim"))
                return Exit.WAITS
            arguments |= typed
        answer = await front.call("run_approve", run_id=given.run_id, comment=given.comment, **arguments)
        run = answer.get("run") or {}
        door.show(safe(f"countersigned {arguments['plan_digest']}", "green"))
        if not given.wait or run.get("state") == RunState.AWAITING_APPROVAL:
            door.answer(answer)
            if run.get("state") == RunState.AWAITING_APPROVAL:
                door.show(safe("it still waits: others have to agree as well", "yellow"))
                return Exit.WAITS
            return Exit.OK
        return await stay(door, front, given.run_id, asking=None, since=since)


async def _read_and_agreed(door: Door, front: Front, run: dict[str, Any]) -> dict[str, str] | None:
    run_id = str(run.get("run_id", ""))
    if run.get("state") != RunState.AWAITING_APPROVAL:
        raise FailedPrecondition(f"the run waits for no approval: it is {run.get('state')}", details={"run_id": run_id})
    plan = await plan_of(front, run_id)
    if plan is None or door.as_json or not door.out.is_terminal:
        raise ApprovalRequired(
            f"nobody can be asked here; read the plan with `countersign show {run_id}` and name its digest with --digest",
            details={"run_id": run_id},
        )
    door.show(plan_view(plan, run, how_to=False))
    return await confirmed(plan, run)


async def reject(door: Door, run_id: str, reason: str) -> Exit:
    async with door.opened() as front:
        answer = await front.call("run_reject", run_id=run_id, reason=reason)
    door.show(safe(f"rejected {run_id}; nothing was changed"))
    door.answer(answer)
    return Exit.OK


async def resume(door: Door, run_id: str, *, exists: Sequence[str], absent: Sequence[str], gone: str | None) -> Exit:
    """Let a run look again, after telling it what was found in the cloud, if anything: that takes this machine's own rights."""
    if exists or absent:
        found = Found(exists=dict(_found_one(text) for text in exists), missing=frozenset(absent))
        async with opened(door.settings) as store:
            await tell_found(store, org=organization(door.settings), run_id=run_id, found=found, by=local_person())
    if gone is not None:
        async with opened(door.settings) as store:
            await tell_gone(store, org=organization(door.settings), run_id=run_id, host=gone, by=local_person())
    async with door.opened() as front:
        answer = await front.call("run_resume", run_id=run_id)
        if door.as_json:
            door.answer(answer)
            return Exit.OK
        return await stay(door, front, run_id, asking=None, since=str((answer.get("data") or {}).get("cursor", "0")))


def _found_one(text: str) -> tuple[str, str]:
    """`ADDRESS=ID`; addresses may hold equal signs in quotes, ids may hold them anywhere."""
    at = text.find("]=") + 1 if text.find("]=") >= 0 else text.find("=")
    if at <= 0 or at == len(text) - 1:
        raise InvalidArgument("write what exists as ADDRESS=ID, the address as the plan writes it", field="exists")
    return text[:at], text[at + 1 :]


async def cancel(door: Door, run_id: str, reason: str | None, *, force: bool) -> Exit:
    async with door.opened() as front:
        answer = await front.call("run_cancel", run_id=run_id, reason=reason, force=force or None)
        run = answer.get("run") or {}
        door.show(safe(f"{run_id} is {run.get('state', 'canceling')}"))
        if run.get("state") == RunState.CANCELED:
            door.answer(answer)
            return Exit.OK
        if door.as_json:
            door.answer(answer)
            return Exit.OK
        await stay(door, front, run_id, asking=None, since=str((answer.get("data") or {}).get("cursor", "0")))
    return Exit.OK
