"""The tasks extension of the protocol (`io.modelcontextprotocol/tasks`): its messages, and who understands them.

What a task is, `backend` knows: runs in the product, clocks and questions among the fixtures of conformance tests. Here a message
is gated, found, and answered in the shape of the extension; nothing is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mcp import types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

TASKS = "io.modelcontextprotocol/tasks"
MODERN = frozenset(MODERN_PROTOCOL_VERSIONS)
Request = ServerRequestContext[Any, Any]


class TaskBackend(Protocol):
    """Each of these raises INVALID_PARAMS, in the same words, for what is not there and for what is not the caller's."""

    def started(self, tool: str, result: types.CallToolResult) -> str | None:
        """The id of the task that a call of a tool started or continued."""
        ...

    async def look(self, ctx: Request, task_id: str) -> Mapping[str, Any]:
        """The task as it is on the wire: taskId, status, createdAt, lastUpdatedAt, ttlMs, and what belongs to its status."""
        ...

    async def answer(self, ctx: Request, task_id: str, responses: Mapping[str, Any]) -> None: ...
    async def cancel(self, ctx: Request, task_id: str) -> None: ...


class TaskId(types.RequestParams):
    task_id: str


class TaskUpdate(TaskId):
    input_responses: dict[str, Any] = Field(default_factory=dict)


def understands_tasks(ctx: Request) -> bool:
    declared = ctx.session.client_capabilities
    return ctx.protocol_version in MODERN and TASKS in ((declared.extensions if declared else None) or {})


class Tasks(Extension):
    identifier = TASKS

    def __init__(self, backend: TaskBackend, *, required: frozenset[str] = frozenset()) -> None:
        """`required` are tools that exist only for clients that understand tasks."""
        self._backend, self._required = backend, required

    def methods(self) -> Sequence[MethodBinding]:
        table = {"get": (TaskId, self._get), "update": (TaskUpdate, self._update), "cancel": (TaskId, self._cancel)}
        return [MethodBinding(f"tasks/{verb}", params, handler, MODERN) for verb, (params, handler) in table.items()]

    async def intercept_tool_call(self, params: types.CallToolRequestParams, ctx: Request, call_next: CallNext) -> HandlerResult:
        """What a tool started is answered as a task to who understands tasks; what has ended already as it is."""
        if params.name in self._required:
            require_client_extension(ctx, TASKS)
        answer = await call_next(ctx)
        if not isinstance(answer, types.CallToolResult) or answer.is_error or not understands_tasks(ctx):
            return answer
        task_id = self._backend.started(params.name, answer)
        task = await self._backend.look(ctx, task_id) if task_id is not None else None
        if task is None or task["status"] not in ("working", "input_required"):
            return answer
        return {"resultType": "task", **{name: value for name, value in task.items() if name != "inputRequests"}}

    async def _get(self, ctx: Request, params: TaskId) -> HandlerResult:
        self._gate(ctx, params)
        return {"resultType": "complete", **await self._backend.look(ctx, params.task_id)}

    async def _update(self, ctx: Request, params: TaskUpdate) -> HandlerResult:
        """Answers to what the task asked; whether they count shows when it is looked at again."""
        self._gate(ctx, params)
        await self._backend.answer(ctx, params.task_id, params.input_responses)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: Request, params: TaskId) -> HandlerResult:
        """A wish; a task that has ended is left as it is."""
        self._gate(ctx, params)
        await self._backend.cancel(ctx, params.task_id)
        return {"resultType": "complete"}

    def _gate(self, ctx: Request, params: TaskId) -> None:
        require_client_extension(ctx, TASKS)
        name = ctx.request.headers.get("mcp-name") if ctx.request is not None else None
        if name not in (None, params.task_id):  # the SDK compares this header for methods of the core protocol only
            raise MCPError(types.HEADER_MISMATCH, "mcp-name header does not match params.taskId")
