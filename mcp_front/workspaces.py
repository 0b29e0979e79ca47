"""Workspaces and their states as callers read them: bounded, labelled, sensitive values hidden."""

import json
from typing import Any

import anyio.to_thread
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import drift, plans, reads, runs, state
from countersign.adapters.store.database import stamp
from countersign.adapters.store.records import StackRow
from countersign.adapters.store.state import Snapshot
from countersign.core.errors import NotFound
from countersign.core.fencing import Head
from countersign.core.run import RunState
from countersign.core.terraform.state import StateDocument, read
from mcp_front import lookup, shown
from mcp_front.call import Call
from mcp_front.envelope import clean

LAST_RUNS = 5
ADDRESSES = 200  # in one answer; the rest is counted and found by the beginning of their address
SNAPSHOTS = 10


def record(stack: StackRow) -> dict[str, Any]:
    """What was registered."""
    body = stack.body
    data = {
        "ref": stack.path,
        "id": stack.id,
        "env": stack.env,
        "workspace": stack.slug,
        "version": stack.version,
        "source": {name: value for name, value in body["source"].items() if value is not None},
        "engine": body["engine"],
        "engine_version": body.get("version"),
        "reads": list(body.get("reads") or ()),
        "vars": shown.variables(body.get("vars") or {}),
        "plan_credential": body.get("plan_credential"),
        "apply_credential": body.get("apply_credential"),
        "drift_every": body.get("drift_every"),
        "custody": dict(stack.custody) or None,
        "updated_at": stamp(stack.updated_at),
    }
    return {name: value for name, value in data.items() if value is not None}


async def row(call: Call, conn: AsyncConnection, stack: StackRow) -> dict[str, Any]:
    """A workspace in a list."""
    head = await state.head(conn, call.org, stack.id)
    data: dict[str, Any] = {
        "ref": stack.path,
        "workspace": stack.slug,
        "engine": stack.body["engine"],
        "source": stack.body["source"].get("path"),
        **{name: value for name in ("repo", "git_ref") if (value := stack.body["source"].get(name))},
        "serial": head.serial,
        "locked": head.lock is not None,
    }
    if recent := await recent_runs(call, conn, stack, 1):
        data["last_run"] = recent[0]
    return data


async def recent_runs(call: Call, conn: AsyncConnection, stack: StackRow, limit: int) -> list[dict[str, Any]]:
    """The newest runs on the stack that the caller may see."""
    visible = lookup.visible_runs(call)
    if visible is None:
        return []
    found, _ = await runs.list_runs(conn, call.org, stack_id=stack.id, waiting_first=False, limit=limit, **visible)
    return [shown.row(run) for run in found]


async def whole(call: Call, conn: AsyncConnection, stack: StackRow) -> dict[str, Any]:
    """Everything about one workspace."""
    head = await state.head(conn, call.org, stack.id)
    data = record(stack) | {
        "state": {"serial": head.serial, "lineage": head.lineage, "size": head.size, "snapshots": head.seq, "epoch": head.epoch},
        "lock": await _lock(call, conn, head),
        "applied_commit": await plans.commit_applied(conn, call.org, stack.id, repo) if (repo := stack.config.source_repo) else None,
        "outputs": await _outputs(call, conn, stack),
        "engine_build": await _engine_build(call, conn, stack),
        "reads_moved": await _reads_moved(call, conn, stack),
        "drift": await drift_noted(call, conn, stack),
        "runs": await recent_runs(call, conn, stack, LAST_RUNS),
    }
    return {name: value for name, value in data.items() if value is not None}


async def _lock(call: Call, conn: AsyncConnection, head: Head) -> dict[str, Any] | None:
    """Who holds the state's lock, and whether they live: a dead holder's lock goes by evidence, never by age."""
    if head.lock is None:
        return None
    told = json.loads(head.lock.text)
    data: dict[str, Any] = {
        "id": clean(head.lock.id),
        "who": clean(head.lock.who),
        "operation": clean(str(told.get("Operation", ""))),
        "created": clean(head.lock.created),
        "locked_at": stamp(head.locked_at) if head.locked_at else None,
        "source": "the engine that holds it",
        "untrusted": True,
    }
    credential = await state.credential_of(conn, call.org, head.lock_credential) if head.lock_credential else None
    if credential is None:
        return data | {"lives": False, "why": "nobody knows its credential"}
    over = credential.over(head, call.front.store.now())
    return data | {"run_id": credential.run_id, "lives": over is None, **({"why": over} if over else {})}


async def _outputs(call: Call, conn: AsyncConnection, stack: StackRow) -> dict[str, Any] | None:
    """As the newest apply told them; the engine marked what is sensitive, and such values were never kept."""
    applied, _ = await runs.list_runs(conn, call.org, stack_id=stack.id, states=[RunState.APPLIED], waiting_first=False, limit=1)
    if not applied or applied[0].outputs is None:
        return None
    return {"untrusted": True, "source": f"outputs of {applied[0].id}", "values": clean(dict(applied[0].outputs))}


async def _engine_build(call: Call, conn: AsyncConnection, stack: StackRow) -> str | None:
    """What planned last, with its version."""
    planned, _ = await runs.list_runs(conn, call.org, stack_id=stack.id, waiting_first=False, limit=LAST_RUNS)
    for run in planned:
        if run.plan_number and (plan := await plans.get_plan(conn, call.org, run.id)) is not None:
            return plan.summary.engine_build
    return None


async def _reads_moved(call: Call, conn: AsyncConnection, stack: StackRow) -> list[str] | None:
    """Of the stacks this one reads, those that moved after its newest apply: what it got of them may be old."""
    applied, _ = await runs.list_runs(conn, call.org, stack_id=stack.id, states=[RunState.APPLIED], waiting_first=False, limit=1)
    plan = await plans.get_plan(conn, call.org, applied[0].id) if applied and stack.config.reads else None
    return list(await reads.moved(conn, call.org, plan.inputs)) or None if plan is not None else None


async def drift_noted(call: Call, conn: AsyncConnection, stack: StackRow) -> dict[str, Any] | None:
    """What the newest check found, and who applied it last."""
    checked = await drift.newest(conn, call.org, stack.id)
    if checked is None:
        return None
    plan = checked.plan.summary
    found = plan.changes[: drift.ADDRESSES]
    data: dict[str, Any] = {
        "run_id": checked.run.id,
        "checked_at": stamp(checked.plan.created_at),
        "found": plan.counts.total,
        "summary": plan.in_words,
    }
    if checked.plan.serial != (head := await state.head(conn, call.org, stack.id)).serial:
        data["outdated"] = f"looked at serial {checked.plan.serial}, and the state is at {head.serial} now"
    if not found:
        return data
    applied = await drift.last_applied(conn, call.org, stack.id, {change.address for change in found})
    data["items"] = [
        {
            "address": clean(change.address),
            "action": change.action,
            "class": str(change.change_class),
            "attributes": clean(list(change.attributes[:5])),
            **({"last_applied": applied[change.address]} if change.address in applied else {}),
        }
        for change in found
    ]
    return data | {"untrusted": True, "source": f"plan of {checked.run.id}"}


# -- the state --------------------------------------------------------------------------------------------------------


async def snapshot_of(call: Call, conn: AsyncConnection, stack: StackRow, serial: int | None) -> Snapshot | None:
    """The newest snapshot, or that of a serial. Raises NotFound naming the serials there are."""
    found = await state.snapshot(conn, call.org, stack.id, serial)
    if found is None and serial is not None:
        kept = ", ".join(str(s.serial) for s in await state.snapshots(conn, call.org, stack.id, limit=SNAPSHOTS))
        raise NotFound(f"{stack.path} has no snapshot of serial {serial}; the newest are {kept or 'none'}", field="serial")
    return found


async def document_of(call: Call, conn: AsyncConnection, snapshot: Snapshot) -> StateDocument:
    data = await call.front.artifacts.read(conn, org=call.org, artifact_id=snapshot.artifact_id)
    return await anyio.to_thread.run_sync(read, data)  # a large state takes a second


async def manages(call: Call, conn: AsyncConnection, stack: StackRow, address: str) -> bool:
    """Whether the newest state has an object under the address."""
    snapshot = await state.snapshot(conn, call.org, stack.id)
    return snapshot is not None and address in (await document_of(call, conn, snapshot)).addresses


async def empty(call: Call, conn: AsyncConnection, stack: StackRow) -> int | None:
    """The seq of the snapshot that holds nothing any more, to be given to `forget_stack`; None where nothing may be concluded."""
    snapshot = await state.snapshot(conn, call.org, stack.id)
    if snapshot is None:
        return None
    document = await document_of(call, conn, snapshot)
    managed = [i for i in document.instances if i.entry.get("mode") != "data"]
    return None if managed else snapshot.seq


async def state_data(call: Call, conn: AsyncConnection, stack: StackRow, *, address: str | None, serial: int | None) -> dict[str, Any]:
    """Addresses, those that begin like `address`, or the one resource that is called so."""
    snapshot = await snapshot_of(call, conn, stack, serial)
    if snapshot is None:
        return {"ref": stack.path, "serial": 0, "total": 0, "addresses": []}
    document = await document_of(call, conn, snapshot)
    data: dict[str, Any] = {
        "ref": stack.path,
        "serial": snapshot.serial,
        "lineage": snapshot.lineage,
        "written_at": stamp(snapshot.at),
        "run_id": snapshot.run_id,
        "engine_version": clean(document.engine_version),
        "source": f"state of {stack.path}, serial {snapshot.serial}",
        "untrusted": True,
    }
    every = document.addresses
    below = [a for a in every if address is None or a.startswith((f"{address}.", f"{address}["))]
    if address is not None and (address in every or not below):
        return data | {"resource": document.resource(address)}
    earlier = await state.snapshots(conn, call.org, stack.id, limit=SNAPSHOTS)
    return data | {
        "total": len(below),
        "shown": min(len(below), ADDRESSES),
        "truncated": len(below) > ADDRESSES,
        "addresses": below[:ADDRESSES],
        "snapshots": [{"serial": s.serial, "at": stamp(s.at), "run_id": s.run_id} for s in earlier],
    }
