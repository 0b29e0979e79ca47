"""One run as its people see it: the agent asks until it is answered, the person agrees to what it waits for, once each plan.

Nothing here knows that anything is killed: where nobody answers, the same is said again, with the same key.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from countersign.adapters.store.runs import RunRow
from countersign.core import ids
from countersign.core.run import ENDS, RunState
from tests.chaos.lane import AGENT, ENV, ORG, PERSON, Away, Lane
from tests.chaos.points import ASKED, Op

EVERY = 0.05  # seconds between two looks at a row
AGAIN = 0.2  # seconds before whoever was not answered asks again
# What a run asks for; the variables of an operation are those the stack has afterwards.
TOOL = {Op.CREATE: "apply_terraform", Op.UPDATE: "apply_terraform", Op.REPLACE: "apply_terraform", Op.DESTROY: "destroy_terraform"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the stack is to be after an operation."""

    size: int = 1
    kind: str = "a"

    def after(self, op: Op) -> "Wanted":
        match op:
            case Op.UPDATE:
                return Wanted(size=self.size + 1, kind=self.kind)
            case Op.REPLACE:
                return Wanted(size=self.size, kind=self.kind + "a")
            case _:
                return self


@dataclass(kw_only=True)
class Asked:
    """One run that an agent asks for and a person agrees to."""

    lane: Lane
    key: str
    tool: str
    arguments: dict[str, Any]
    may_approve: asyncio.Event = field(default_factory=asyncio.Event)
    asks_people: bool = True  # whether people agree to what is asked a second time as well
    approved: list[str] = field(default_factory=list)  # digests
    begun_at: int = 0  # changes the cloud had recorded before
    agreed_at: int | None = None  # and when somebody first agreed

    def __post_init__(self) -> None:
        self.run_id = ids.run_id(org=ORG, principal=AGENT, tool=self.tool, key=self.key)
        self.begun_at = len(self.lane.cloud.record)
        self.may_approve.set()

    async def done(self) -> RunRow:
        """The run, when it has ended or waits for somebody a second time."""
        await self._ask()
        while True:
            row = await self.lane.run(self.run_id)
            if row is not None:
                if row.state in ENDS or row.state is RunState.NEEDS_OPERATOR:
                    return row
                if row.state is RunState.AWAITING_APPROVAL and row.plan_digest not in self.approved:
                    if self.approved:
                        return row
                    await self.may_approve.wait()
                    await self.approve(row)
            await asyncio.sleep(EVERY)

    async def _ask(self) -> None:
        while True:
            try:
                told = await self.lane.call(AGENT, self.tool, env=ENV, idempotency_key=self.key, **self.arguments)
            except Away:
                await asyncio.sleep(AGAIN)
                continue
            assert "error" not in told, told
            assert told["run"]["run_id"] == self.run_id, told
            return

    async def approve(self, row: RunRow) -> None:
        """Agree to the plan the run has, until that is taken. That it was decided already is as good."""
        assert row.plan_digest is not None and row.requirement is not None
        self.approved.append(row.plan_digest)
        if self.agreed_at is None:
            self.agreed_at = len(self.lane.cloud.record)
        arguments = {"run_id": row.id, "plan_digest": row.plan_digest}
        if row.requirement.confirm_name:
            arguments["confirm_name"] = row.requirement.confirm_name
        while True:
            try:
                told = await self.lane.call(PERSON, "run_approve", **arguments)
            except Away:
                await asyncio.sleep(AGAIN)
                continue
            if "error" in told:
                assert told["error"]["code"] == "failed_precondition", told
            return


@dataclass(kw_only=True)
class Walk(Asked):
    """An operation on a stack."""

    tool: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    slug: str
    op: Op
    wanted: Wanted
    alone: bool = False  # the agent agrees by itself, which policy lets it

    def __post_init__(self) -> None:
        self.tool, self.arguments = TOOL[self.op], {"workspace": self.slug}
        if self.alone:
            self.arguments["auto_approve"] = True
        if self.op is not Op.DESTROY:
            self.arguments["vars"] = {"size": self.wanted.size, "kind": self.wanted.kind}
        super().__post_init__()
        if self.alone:
            self.agreed_at = self.begun_at


def expected_changes(op: Op) -> tuple[str, ...]:
    return ASKED[op]
