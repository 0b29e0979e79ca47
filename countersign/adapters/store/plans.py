"""Plans, decisions and attempts as facts: written once, read by everybody."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, desc, select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import statements
from countersign.adapters.store.database import moment, stamp
from countersign.adapters.store.schema import attempts, decisions, plans, runs
from countersign.core.approval import Approval, ApprovalDocument, Channel
from countersign.core.plan import Plan
from countersign.core.principal import Kind, Principal


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    run_id: str
    number: int
    plan_digest: str | None
    document: ApprovalDocument | None
    semantic_digest: str
    summary: Plan
    inputs: Mapping[str, Any]
    findings: Sequence[Mapping[str, Any]]
    lineage: str | None
    serial: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class DecisionRow:
    id: str
    run_id: str
    plan_digest: str | None
    decision: str
    accepted: bool
    channel: Channel
    by: Principal
    confirm_name: str | None
    comment: str | None
    code: str | None
    message: str | None
    nonce: str
    at: datetime

    @property
    def approval(self) -> Approval:
        return Approval(
            plan_digest=self.plan_digest or "",
            by=self.by,
            channel=self.channel,
            at=self.at,
            confirm_name=self.confirm_name,
            comment=self.comment,
        )


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    id: str
    run_id: str
    stack_id: str
    plan_digest: str
    epoch: int
    host: str
    boot_id: str
    opened_at: datetime
    ended_at: datetime | None  # fenced, and proven that nothing of it lives
    closed_at: datetime | None
    outcome: str | None
    evidence: Sequence[str]


_INPUTS = select(plans.c.inputs).where(
    plans.c.org_id == bindparam("org"), plans.c.run_id == bindparam("run"), plans.c.number == bindparam("number")
)


async def origin(conn: AsyncConnection, org: str, run_id: str, number: int) -> dict[str, str] | None:
    """The commit a plan was made of, and where it was found; None for a folder."""
    row = await statements.one(conn, _INPUTS, org=org, run=run_id, number=number)
    inputs = json.loads(row.inputs) if row is not None else {}
    return {name: inputs[name] for name in ("commit", "repository", "ref", "path")} if inputs.get("repository") else None


async def commit_applied(conn: AsyncConnection, org: str, stack_id: str, repository: str) -> str | None:
    """The commit of the newest apply of a stack, where it came from this repository."""
    query = (
        select(plans.c.inputs)
        .join(runs, (runs.c.org_id == plans.c.org_id) & (runs.c.id == plans.c.run_id) & (runs.c.plan_digest == plans.c.plan_digest))
        .where(runs.c.org_id == org, runs.c.stack_id == stack_id, runs.c.state.in_(("applied", "partially_applied")))
        .order_by(desc(runs.c.ended_at))
        .limit(1)
    )
    row = (await conn.execute(query)).first()
    inputs = json.loads(row.inputs) if row is not None else {}
    return inputs.get("commit") if inputs.get("repository") == repository else None


def _plan(row: Row[Any]) -> PlanRow:
    return PlanRow(
        run_id=row.run_id,
        number=row.number,
        plan_digest=row.plan_digest,
        document=ApprovalDocument.model_validate_json(row.document) if row.document else None,
        semantic_digest=row.semantic_digest,
        summary=Plan.model_validate_json(row.summary),
        inputs=json.loads(row.inputs),
        findings=json.loads(row.findings),
        lineage=row.lineage,
        serial=row.serial,
        created_at=moment(row.created_at),
    )


def _decision(row: Row[Any]) -> DecisionRow:
    return DecisionRow(
        id=row.id,
        run_id=row.run_id,
        plan_digest=row.plan_digest,
        decision=row.decision,
        accepted=row.accepted,
        channel=Channel(row.channel),
        by=Principal(id=row.principal, kind=Kind(row.principal_kind), acts_for=row.acts_for),
        confirm_name=row.confirm_name,
        comment=row.comment,
        code=row.code,
        message=row.message,
        nonce=row.nonce,
        at=moment(row.at),
    )


def _attempt(row: Row[Any]) -> AttemptRow:
    return AttemptRow(
        id=row.id,
        run_id=row.run_id,
        stack_id=row.stack_id,
        plan_digest=row.plan_digest,
        epoch=row.epoch,
        host=row.host,
        boot_id=row.boot_id,
        opened_at=moment(row.opened_at),
        ended_at=moment(row.ended_at) if row.ended_at else None,
        closed_at=moment(row.closed_at) if row.closed_at else None,
        outcome=row.outcome,
        evidence=json.loads(row.evidence) if row.evidence else (),
    )


async def get_plan(conn: AsyncConnection, org: str, run_id: str, number: int | None = None) -> PlanRow | None:
    """The plan with that number, or the newest."""
    mine: dict[str, Any] = {"org_id": org, "run_id": run_id}
    row = await (
        statements.first(conn, plans, **mine, newest="number") if number is None else statements.first(conn, plans, **mine, number=number)
    )
    return _plan(row) if row else None


async def plan_by_digest(conn: AsyncConnection, org: str, plan_digest: str) -> PlanRow | None:
    row = await statements.first(conn, plans, org_id=org, plan_digest=plan_digest)
    return _plan(row) if row else None


async def decisions_of(conn: AsyncConnection, org: str, run_id: str) -> list[DecisionRow]:
    """Oldest first, the refused ones too."""
    return [_decision(row) for row in await statements.every(conn, decisions, org_id=org, run_id=run_id, order=("at", "id"))]


async def decision_by_nonce(conn: AsyncConnection, org: str, nonce: str) -> DecisionRow | None:
    row = await statements.first(conn, decisions, org_id=org, nonce=nonce)
    return _decision(row) if row else None


async def insert_attempt(tx: AsyncConnection, org: str, attempt: AttemptRow) -> None:
    """Open an attempt; the database refuses a second one of its plan, ever, and a second open one on its state."""
    await statements.add(
        tx,
        attempts,
        org_id=org,
        id=attempt.id,
        run_id=attempt.run_id,
        stack_id=attempt.stack_id,
        plan_digest=attempt.plan_digest,
        epoch=attempt.epoch,
        host=attempt.host,
        boot_id=attempt.boot_id,
        opened_at=stamp(attempt.opened_at),
    )


async def attempts_of(conn: AsyncConnection, org: str, run_id: str) -> list[AttemptRow]:
    return [_attempt(row) for row in await statements.every(conn, attempts, org_id=org, run_id=run_id, order=("opened_at",))]


async def attempt_by_id(conn: AsyncConnection, org: str, attempt_id: str) -> AttemptRow | None:
    row = await statements.first(conn, attempts, org_id=org, id=attempt_id)
    return _attempt(row) if row else None


async def attempt_of_plan(conn: AsyncConnection, org: str, plan_digest: str) -> AttemptRow | None:
    row = await statements.first(conn, attempts, org_id=org, plan_digest=plan_digest)
    return _attempt(row) if row else None


async def closed_on(conn: AsyncConnection, org: str, host: str) -> list[AttemptRow]:
    """Attempts of that machine that are accounted for."""
    mine = (attempts.c.org_id == org) & (attempts.c.host == host) & attempts.c.closed_at.is_not(None)
    return [_attempt(row) for row in await conn.execute(select(attempts).where(mine))]


async def open_attempt(conn: AsyncConnection, org: str, stack_id: str) -> AttemptRow | None:
    """The attempt that is open on a state, of whatever run."""
    row = await statements.first(conn, attempts, org_id=org, stack_id=stack_id, closed_at=None)
    return _attempt(row) if row else None
