"""A plan as a reviewer reads it: what is risky first, the worst changes before the others, and no more than fits.

A plan of a thousand changes is answered in the same few kilobytes as one of ten: what is left out is counted, and can be had
by filter or as an artifact.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import reads
from countersign.adapters.store.database import stamp
from countersign.adapters.store.drift import last_applied
from countersign.adapters.store.plans import PlanRow, get_plan
from countersign.adapters.store.runs import RunRow
from countersign.core.details import who_must_agree
from countersign.core.errors import FailedPrecondition, InvalidArgument
from countersign.core.plan import SHOWN
from countersign.core.run import Mode
from countersign.core.terraform.semantic import difference
from mcp_front.call import Call
from mcp_front.documents import Document, content, documents_of
from mcp_front.envelope import clean

BUDGET = 11_000  # bytes of the data of one answer, below 4,000 tokens
RISKS = 12
OUTPUTS = 10
FINDINGS = 20
ATTRIBUTES = 12  # of one change
NAMED = 20  # addresses with who applied them last
VALUE = 120  # characters of one attribute, before and after together
ACTIONS = ("create", "update", "replace", "delete", "read", "import", "move", "forget")
_VIEW = "countersign.view/1"


async def plan_of(conn: AsyncConnection, run: RunRow) -> PlanRow:
    """The run's newest plan. Raises FailedPrecondition saying why there is none."""
    plan = await get_plan(conn, run.org, run.id)
    if plan is not None:
        return plan
    if run.ended:
        raise FailedPrecondition(
            f"{run.id} ended {run.state} before it had a plan", next=["run_logs", "run_get"], details={"run_id": run.id}
        )
    raise FailedPrecondition(f"{run.id} has no plan yet: it is {run.state}", next=["run_wait"], details={"run_id": run.id})


async def plan_data(
    call: Call, conn: AsyncConnection, run: RunRow, plan: PlanRow, *, action: str | None, address: str | None
) -> dict[str, Any]:
    """The whole answer about one plan, within the budget."""
    documents = await _documents(call, conn, run, plan)
    view = await _view(call, conn, documents.get("plan_view"), plan)
    data = _head(run, plan)
    data["artifacts"] = [{"artifact_id": d.id, "kind": d.kind, "size": d.size} for d in documents.values() if d.size]
    if plan.findings:
        data["findings"] = [_finding(f) for f in plan.findings[:FINDINGS]]
    if view["outputs"]:
        data["outputs"] = [_attribute(o) for o in view["outputs"][:OUTPUTS]]
    matching = [c for c in view["changes"] if _matches(c, action, address)]
    total = int(view.get("total", plan.summary.counts.total))
    items = fitted(matching, BUDGET - _size(data))
    data["changes"] = {
        "total": total,
        "matching": len(matching),
        "shown": len(items),
        "truncated": len(items) < (len(matching) if action or address else total),
        "items": items,
    }
    if read := plan.inputs.get("reads"):
        data["reads"] = [{"ref": r["stack"], "serial": r["serial"]} for r in read]
        if since := await reads.moved(conn, run.org, plan.inputs):
            data["reads_moved"] = list(since)
    if steps := plan.inputs.get("steps"):
        data["steps"] = [_step(step) for step in steps]
    if run.mode is Mode.DRIFT and (who := await last_applied(conn, run.org, run.stack_id, {item["address"] for item in items})):
        data["last_applied"] = {address: who[address] for address in sorted(who)[:NAMED]}
    return data


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    """One step of a composite, as its plan names it."""
    data = {
        "step": step["step"],
        "run_id": step["run_id"],
        "type": step["type"],
        "workspace": step["stack"],
        "plan_digest": step.get("plan_digest"),
        "planned_later": clean(step["late"])[:300] if step.get("late") else None,
        "was": step.get("state"),
    }
    return {name: value for name, value in data.items() if value is not None}


async def view_of(call: Call, conn: AsyncConnection, run: RunRow, plan: PlanRow) -> dict[str, Any]:
    """The changes of a plan with what is known of their attributes, unbounded but for the view's own bounds."""
    return await _view(call, conn, (await _documents(call, conn, run, plan)).get("plan_view"), plan)


async def _view(call: Call, conn: AsyncConnection, document: Document | None, plan: PlanRow) -> dict[str, Any]:
    view = await _json(call, conn, document)
    if view.get("v") == _VIEW:
        return view
    # Of an engine that writes another one, or of a validation.
    return {
        "changes": [change.model_dump(mode="json") for change in plan.summary.changes],
        "outputs": [],
        "total": plan.summary.counts.total,
    }


def _head(run: RunRow, plan: PlanRow) -> dict[str, Any]:
    summary, need = plan.summary, run.requirement if run.plan_digest == plan.plan_digest else None
    data = {
        "plan_digest": plan.plan_digest,
        "number": plan.number,
        "mode": str(run.mode) if run.mode is Mode.DRIFT else None,
        "engine": summary.engine_build or summary.engine,
        "counts": summary.counts.model_dump(exclude_defaults=True),
        "summary": summary.in_words,
        "change_class": str(summary.change_class),
        "needs": f"{who_must_agree(need)} ({need.rule})" if need and not need.automatic else None,
        "confirm_name": need.confirm_name if need else None,
        "state": {"lineage": plan.lineage, "serial": plan.serial},
        "commit": plan.inputs.get("commit"),
        "providers_from": plan.inputs.get("providers_from"),
        "from": clean({n: plan.inputs[n] for n in ("repository", "ref", "path")}) if plan.inputs.get("repository") else None,
        "created_at": stamp(plan.created_at),
        "expires_at": plan.document.expires_at if plan.document else None,
        "source": f"plan {plan.number} of {run.id}",
        "untrusted": True,  # addresses, values and what they are called come from whoever wrote the configuration
        "risks": [clean(risk)[:300] for risk in summary.risks[:RISKS]],
    }
    if len(summary.risks) > RISKS:
        data["risks_left_out"] = len(summary.risks) - RISKS
    return {name: value for name, value in data.items() if value is not None}


async def _documents(call: Call, conn: AsyncConnection, run: RunRow, plan: PlanRow) -> dict[str, Document]:
    """By kind, of this plan of the run."""
    return {d.kind: d for d in await documents_of(call, conn, run) if d.name == f"{d.kind}-{plan.number}"}


async def _json(call: Call, conn: AsyncConnection, document: Document | None) -> dict[str, Any]:
    """An object, empty where there is none."""
    if document is None:
        return {}
    try:
        parsed = json.loads(await content(call, conn, document))
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _matches(change: Mapping[str, Any], action: str | None, address: str | None) -> bool:
    if action is not None and change.get("action") != action:
        return False
    return address is None or _like(str(change.get("address", "")), address)


def _like(where: str, wanted: str) -> bool:
    """Whether an address holds `wanted`, or looks like it where that has a `*`. Brackets are part of addresses, and mean nothing else."""
    first, *parts = wanted.split("*")
    if not parts:
        return first in where
    *middle, last = parts
    if not where.startswith(first) or not where.endswith(last):
        return False
    at, end = len(first), len(where) - len(last)
    for part in middle:
        if (found := where.find(part, at, end)) < 0:
            return False
        at = found + len(part)
    return at <= end


def fitted(changes: Sequence[Mapping[str, Any]], room: int) -> list[dict[str, Any]]:
    """As many changes as fit into `room` bytes, in their order; then attributes for as many of those as fit, the first first."""
    rows: list[dict[str, Any]] = []
    for change in changes[:SHOWN]:
        row = _row(change)
        room -= _size(row)
        if room < 0:
            break
        rows.append(row)
    for row, change in zip(rows, changes, strict=False):
        made = change["action"] == "create"
        told = {"attributes": [_attribute(a, made=made) for a in change.get("attributes", ())[:ATTRIBUTES]]}
        left_out = len(change.get("attributes", ())) - ATTRIBUTES + int(change.get("attributes_left_out") or 0)
        if left_out > 0:
            told["attributes_left_out"] = [str(left_out)]
        if told["attributes"] and (room := room - _size(told)) >= 0:
            row.update(attributes=told["attributes"], **({"attributes_left_out": left_out} if left_out > 0 else {}))
    return rows


def _row(change: Mapping[str, Any]) -> dict[str, Any]:
    why = change.get("reason") or ""
    row = {
        "address": clean(str(change["address"])),
        "action": change["action"],
        "class": change["change_class"],
        "moved_from": change.get("previous_address"),
        "replaced_because_of": list(change.get("replace_paths") or ()) or None,
        "reason": clean(str(why)) if why else None,
        "importing": change.get("importing"),
    }
    return {name: value for name, value in row.items() if value is not None}


def _attribute(attribute: Any, *, made: bool = False) -> str:
    """`size: small → large` on one line, `size = large` of what is made; of engines that name attributes only, the name."""
    if not isinstance(attribute, Mapping):
        return str(clean(str(attribute)))
    before, after = (_value(attribute.get(side)) for side in ("before", "after"))
    if made:
        return f"{clean(str(attribute['name']))} = {after}"
    forces = " (forces replacement)" if attribute.get("forces_replacement") else ""
    return f"{clean(str(attribute['name']))}: {before} → {after}{forces}"


def _value(text: Any) -> str:
    if text is None:
        return "(none)"
    value = str(clean(str(text)))
    return value if len(value) <= VALUE else f"{value[:VALUE]}… ({len(value)} characters)"


def _finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    shown = {
        "severity": finding.get("severity"),
        "summary": clean(str(finding.get("summary", ""))),
        "detail": clean(str(finding.get("detail") or ""))[:400] or None,
        "file": finding.get("file"),
        "line": finding.get("line"),
        "address": finding.get("address"),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode()) + 2


async def compared(call: Call, conn: AsyncConnection, run: RunRow, other: RunRow, *, address: str | None) -> dict[str, Any]:
    """What distinguishes the plan of `run` from that of `other`: addresses and names, no values. Raises InvalidArgument."""
    if run.stack_id != other.stack_id:
        raise InvalidArgument(f"{other.id} is about {other.stack_path}, and this run about {run.stack_path}", field="compare_to")
    plan, before = await plan_of(conn, run), await plan_of(conn, other)
    data: dict[str, Any] = {
        "plan_digest": plan.plan_digest,
        "compare_to": {"run_id": other.id, "plan_digest": before.plan_digest, "summary": str(before.summary.counts)},
        "summary": str(plan.summary.counts),
        "equal": plan.semantic_digest == before.semantic_digest,
        "source": f"plan {plan.number} of {run.id} and plan {before.number} of {other.id}",
        "untrusted": True,
    }
    if data["equal"]:
        return data | {"total": 0, "differences": []}
    old = await _json(call, conn, (await _documents(call, conn, other, before)).get("semantic_document"))
    new = await _json(call, conn, (await _documents(call, conn, run, plan)).get("semantic_document"))
    if not old or not new:
        raise FailedPrecondition("one of the two plans left nothing to compare it by; read both with run_plan", next=["run_plan"])
    lines = [line for line in difference(json.dumps(old).encode(), json.dumps(new).encode()) if address is None or address in line]
    shown: list[str] = []
    room = BUDGET - _size(data)
    for line in lines:
        short = str(clean(line))[:400]
        room -= _size(short)
        if room < 0:
            break
        shown.append(short)
    return data | {"total": len(lines), "shown": len(shown), "truncated": len(shown) < len(lines), "differences": shown}
