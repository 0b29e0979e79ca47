"""A front that behaves: runs move when they are approved, and what is asked is remembered."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from countersign.core.errors import CountersignError, FailedPrecondition, PlanStale

RUN_ID = "run_" + "a" * 26
DIGEST = "sha256:" + "ab" * 32
NAME = "local/dev/shop"


def change(address: str, action: str = "create", **more: Any) -> dict[str, Any]:
    return {"address": address, "action": action, "class": action, **more}


def plan(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "plan_digest": DIGEST,
        "number": 1,
        "engine": "terraform 1.11.4",
        "summary": f"{len(changes)} to add",
        "change_class": "create",
        "needs": "a person (policy: any change in * needs person)",
        "risks": [],
        "changes": {"total": len(changes), "matching": len(changes), "shown": len(changes), "truncated": False, "items": list(changes)},
        **more,
    }


@dataclass
class FakeFront:
    """One run. `states` are what it goes through before anybody decides; approving takes it to `ends`."""

    states: list[str] = field(default_factory=lambda: ["planning", "awaiting_approval"])
    ends: str = "applied"
    shown_plan: dict[str, Any] | None = field(default_factory=lambda: plan(change("terraform_data.a")))
    confirm_name: str | None = None
    kind: str = "person"
    refuses: dict[str, CountersignError] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)  # of run_get
    environments: tuple[str, ...] = ("local/dev",)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    approved: bool = False

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        given = {name: value for name, value in arguments.items() if value is not None}
        self.calls.append((tool, given))
        if tool in self.refuses:
            raise self.refuses[tool]
        answer: Callable[[dict[str, Any]], dict[str, Any]] = getattr(self, f"_{tool}")
        return answer(given)

    def asked(self, tool: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.calls if name == tool]

    # What it is

    @property
    def state(self) -> str:
        return self.ends if self.approved else self.states[-1]

    @property
    def run(self) -> dict[str, Any]:
        run: dict[str, Any] = {"run_id": RUN_ID, "state": self.state, "plan_digest": DIGEST, "progress": {"done": 1, "total": 1}}
        if self.state == "awaiting_approval":
            run["approval"] = {"needed": 1, "by": ["a person"], "url": "http://127.0.0.1/runs/x", "expires_at": "2026-01-31T12:00:00.0Z"}
            if self.confirm_name:
                run["approval"]["confirm_name"] = self.confirm_name
        return run

    # Its tools

    def _list_environments(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"environments": [{"ref": ref} for ref in self.environments]}}

    def _whoami(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"principal": f"{self.kind}:ana", "kind": self.kind, "may_decide": self.kind == "person"}}

    def _started(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"run": {"run_id": RUN_ID, "state": "pending"}}

    _run_start = _apply_terraform = _destroy_terraform = _terraform_plan = _terraform_detect_drift = _terraform_import = _started

    def _run_wait(self, given: dict[str, Any]) -> dict[str, Any]:
        began = int(given.get("from", "0"))
        states = [*self.states, *(["applying", self.ends] if self.approved else [])]
        changes = [{"n": n, "kind": "state", "state": state} for n, state in enumerate(states, 1) if n > began]
        return {"run": self.run, "data": {"changes": changes, "cursor": str(len(states)), "reached": True}}

    def _run_get(self, _: dict[str, Any]) -> dict[str, Any]:
        facts = {"type": "apply_terraform", "workspace": NAME, "requester": "agent:claude", "created_at": "2026-01-31T12:00:00.0Z"}
        return {"run": self.run, "data": {**facts, "cursor": str(len(self.states)), **self.extra}}

    def _run_plan(self, _: dict[str, Any]) -> dict[str, Any]:
        if self.shown_plan is None:
            raise FailedPrecondition("no plan yet")
        return {"run": self.run, "data": self.shown_plan}

    def _run_approve(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["plan_digest"] != DIGEST:
            raise PlanStale(f"that is another plan; the current one is {DIGEST}")
        self.approved = True
        return {"run": {**self.run, "state": "approved"}}

    def _run_reject(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"run": {**self.run, "state": "rejected"}}

    def _run_cancel(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"run": {**self.run, "state": "canceled"}}

    def _run_list(self, _: dict[str, Any]) -> dict[str, Any]:
        row = {"run_id": RUN_ID, "type": "apply_terraform", "workspace": NAME, "state": self.state, "requester": "agent:claude"}
        return {"data": {"runs": [row]}, "page": {"returned": 1, "total": 1}}

    def _run_logs(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"step": "apply-1", "content": {"text": "line one\n\x1b[2Jline two", "source": "log", "untrusted": True}}}

    def _terraform_list_workspaces(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"workspaces": [{"ref": NAME, "engine": "terraform", "source": "shop", "serial": 3, "locked": True}]}}

    def _terraform_register_workspace(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"workspace": {"ref": NAME}, "created": True}}

    def _terraform_forget_workspace(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"forgotten": NAME, "dry_run": bool(given.get("dry_run"))}}

    def _terraform_force_unlock(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"data": {"ref": NAME, "dry_run": bool(given.get("dry_run"))}}

    @asynccontextmanager
    async def connected(self, url: str, token: str) -> AsyncIterator["FakeFront"]:
        self.calls.append(("connect", {"url": url, "token": token}))
        if "connect" in self.refuses:
            raise self.refuses["connect"]
        yield self
