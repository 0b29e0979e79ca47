"""A client that understands tasks: a tool's task is followed to its end, and its user is asked what the task asks."""

from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
from mcp import types
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from pydantic import ConfigDict

from tests.integration.front import User

TASKS = "io.modelcontextprotocol/tasks"
LOOKS = 400  # at one task, at most


class CreatedTask(types.Result):
    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    created_at: str
    last_updated_at: str
    ttl_ms: int | None
    poll_interval_ms: int | None = None
    status_message: str | None = None


class TaskParams(types.RequestParams):
    task_id: str
    input_responses: dict[str, Any] | None = None


class GetTask(types.Request[TaskParams, Literal["tasks/get"]]):
    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams


class UpdateTask(types.Request[TaskParams, Literal["tasks/update"]]):
    name_param = "taskId"
    method: Literal["tasks/update"] = "tasks/update"
    params: TaskParams


class CancelTask(types.Request[TaskParams, Literal["tasks/cancel"]]):
    name_param = "taskId"
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams


async def get(session: Any, task_id: str) -> dict[str, Any]:
    found = await session.send_request(GetTask(params=TaskParams(task_id=task_id)), _Raw)
    return dict(found.model_dump(by_alias=True, exclude_none=True))


async def cancel(session: Any, task_id: str) -> dict[str, Any]:
    done = await session.send_request(CancelTask(params=TaskParams(task_id=task_id)), _Raw)
    return dict(done.model_dump(by_alias=True, exclude_none=True))


async def update(session: Any, task_id: str, responses: dict[str, Any]) -> dict[str, Any]:
    done = await session.send_request(UpdateTask(params=TaskParams(task_id=task_id, input_responses=responses)), _Raw)
    return dict(done.model_dump(by_alias=True, exclude_none=True))


class _Raw(types.Result):
    """Whatever the server answered."""

    model_config = ConfigDict(**{**types.Result.model_config, "extra": "allow"})


@dataclass
class TaskClient(ClientExtension):
    """`user` is asked what a task asks; without one, the task is only followed."""

    user: User | None = None
    created: list[CreatedTask] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)  # every status, once in a row
    identifier = TASKS

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=self._follow)]

    async def _follow(self, task: CreatedTask, ctx: ClaimContext) -> types.CallToolResult:
        self.created.append(task)
        answered: set[str] = set()
        for _ in range(LOOKS):
            now = await get(ctx.session, task.task_id)
            if not self.seen or self.seen[-1] != now["status"]:
                self.seen.append(now["status"])
            if now["status"] in ("completed", "cancelled", "failed"):
                assert now["status"] != "failed", now
                ended: dict[str, Any] = now.get("result") or {"content": [], "structuredContent": {"data": {"cancelled": True}}}
                return types.CallToolResult.model_validate(ended)
            for key, request in (now.get("inputRequests") or {}).items():
                if self.user is None or key in answered:
                    continue
                answered.add(key)  # a key is answered once
                params = types.ElicitRequestFormParams.model_validate(request["params"])
                said = await self.user.asked(None, params)
                assert isinstance(said, types.ElicitResult)
                response = said.model_dump(by_alias=True, mode="json", exclude_none=True)
                await update(ctx.session, task.task_id, {key: response})
            with anyio.move_on_after(0.05):  # a task has no other news than the next look
                await anyio.sleep_forever()
        raise AssertionError(f"the task {task.task_id} did not end: {self.seen}")
