"""Asking twice is asking once: the receipt, the run and its first event in one transaction.

The run id is made of organization, principal, tool and key; without a key the identical request of the same principal joins
its open run.
"""

import json
import secrets as random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, statements
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.records import why_released
from countersign.adapters.store.runs import RunRow, get_run, run_of
from countersign.adapters.store.schema import events, receipts, runs
from countersign.core import ids
from countersign.core.digests import sha256
from countersign.core.engine import StackConfig
from countersign.core.errors import FailedPrecondition, IdempotencyMismatch
from countersign.core.principal import Principal
from countersign.core.run import Mode, RunState, RunType

RECEIPTS_LIVE = timedelta(days=90)
Admit = Callable[[AsyncConnection], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Requested:
    run: RunRow
    replayed: bool = False  # the same key was used before
    joined: bool = False  # the same request is still open

    @property
    def run_id(self) -> str:
        return self.run.id


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What is asked for: a run, or a step of a composite as its own tool would have asked for it.

    `mode` narrows the type's own (a dry run is speculative). `admit` refuses, by raising, what may not be asked for as things are now.
    """

    run_type: RunType
    stack: StackConfig
    arguments: Mapping[str, Any]
    mode: Mode | None = None
    admit: Admit | None = None
    late: str | None = None  # why it is to be planned only after the steps before it


def fingerprints(arguments: Mapping[str, Any]) -> dict[str, str]:
    """A digest per argument: enough to name what differs, not to read it."""
    return {name: sha256(json.dumps(value, sort_keys=True).encode()) for name, value in sorted(arguments.items())}


async def receipt(tx: AsyncConnection, *, org: str, principal: str, tool: str, key: str, arguments: Mapping[str, Any]) -> str | None:
    """The run an earlier use of `key` started, or None. Raises IdempotencyMismatch naming the arguments that differ."""
    row = await statements.first(tx, receipts, org_id=org, principal=principal, tool=tool, key=key)
    if row is None:
        return None
    before, now = json.loads(row.arguments), fingerprints(arguments)
    if before != now:
        differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        raise IdempotencyMismatch(
            f"this idempotency key was used with other values of {', '.join(differing)}; use a new key for a new intent",
            field=differing[0],
            details={"fields": differing, "run_id": row.run_id},
        )
    return str(row.run_id) if row.run_id is not None else None


async def request_run(
    store: Store,
    asking: Draft,
    *,
    org: str,
    principal: Principal,
    key: str | None,
    message: str | None,
    steps: Sequence[Draft] = (),
) -> Requested:
    """Write receipt and run, or find those written before, whatever `asking.admit` says of them.

    With `steps` it is a composite, and they are written with it, or nothing is.
    """
    run_type, stack, mode = asking.run_type, asking.stack, asking.mode
    # A dry run of the same arguments is another intent: it neither joins the real run nor replays it.
    asked = {**asking.arguments, "dry_run": mode is not None and mode is not run_type.mode}
    request_digest = sha256(json.dumps([run_type.name, stack.stack_id, fingerprints(asked)]).encode())
    async with store.begin() as tx:
        if key is not None:
            known = await receipt(tx, org=org, principal=principal.id, tool=run_type.name, key=key, arguments=asked)
            if known is not None:
                return Requested(run=await get_run(tx, org, known), replayed=True)
        else:
            mine: dict[str, Any] = {"org_id": org, "requester": principal.id, "request_digest": request_digest}
            if (row := await statements.first(tx, runs, **mine, ended_at=None)) is not None:
                return Requested(run=run_of(row), joined=True)
        for one in (asking, *steps):
            await _admitted(tx, one)
        run_id = ids.run_id(org=org, principal=principal.id, tool=run_type.name, key=key or f"{request_digest} {random.token_hex(16)}")
        now = store.now()
        if key is not None:
            await statements.add(
                tx,
                receipts,
                org_id=org,
                principal=principal.id,
                tool=run_type.name,
                key=key,
                arguments=json.dumps(fingerprints(asked)),
                run_id=run_id,
                created_at=stamp(now),
                expires_at=stamp(now + RECEIPTS_LIVE),
            )
        await _write(tx, asking, org=org, run_id=run_id, by=principal, digest=request_digest, message=message, now=now)
        for number, one in enumerate(steps, 1):
            # Its own digest is of the whole, so that nobody who asks for the same thing alone joins it.
            of = {"parent": run_id, "step": number, "late": one.late}
            step_id, digest = ids.derive("run", org, run_id, str(number)), sha256(f"{request_digest} {number}".encode())
            await _write(tx, one, org=org, run_id=step_id, by=principal, digest=digest, message=message, now=now, **of)
        return Requested(run=await get_run(tx, org, run_id))


async def _admitted(tx: AsyncConnection, one: Draft) -> None:
    if one.stack.released and (one.mode or one.run_type.mode) is not Mode.VALIDATE:
        raise FailedPrecondition(why_released(one.stack), field="workspace", next=["terraform_get_workspace"])
    if one.admit is not None:
        await one.admit(tx)


async def _write(
    tx: AsyncConnection,
    one: Draft,
    *,
    org: str,
    run_id: str,
    by: Principal,
    digest: str,
    message: str | None,
    now: datetime,
    **columns: Any,
) -> None:
    """The run, its first event, and who asked."""
    state, body = str(RunState.PENDING), json.dumps({"by": by.id})
    cursor = await statements.add(tx, events, org_id=org, run_id=run_id, at=stamp(now), kind="state", state=state, body=body)
    await statements.add(
        tx,
        runs,
        org_id=org,
        id=run_id,
        type=one.run_type.name,
        engine=one.run_type.engine,
        mode=str(one.mode or one.run_type.mode),
        stack_id=one.stack.stack_id,
        stack_path=one.stack.path,
        env=one.stack.env,
        state=state,
        requester=by.id,
        requester_kind=str(by.kind),
        acts_for=by.acts_for,
        request=json.dumps(dict(one.arguments)),
        request_digest=digest,
        message=message,
        created_at=stamp(now),
        updated_at=stamp(now),
        cursor=cursor,
        **columns,
    )
    await audit.append(tx, org=org, at=stamp(now), action=one.run_type.name, by=by, target=one.stack.path, run_id=run_id, request=digest)
