"""From a name and arguments to an answer: known tool, right to it, known arguments, and one envelope for whatever comes of it.

Everything that reads or acts for a caller comes through here, a resource or a task as much as a tool, so that rights, refusals in
the audit chain and what is said about a mistake of ours are the same everywhere.
"""

import logging
import secrets as random
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import anyio
from mcp import types
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import resolve_arguments
from mcp.shared.exceptions import MCPError

from countersign.adapters.store import audit
from countersign.adapters.store.database import stamp
from countersign.core.errors import CountersignError, Internal, NotFound, PermissionDenied, Unauthenticated
from countersign.core.redaction import Redactor
from mcp_front import asking
from mcp_front.auth import caller_now
from mcp_front.call import Call, Front
from mcp_front.domain import Common, ToolSpec
from mcp_front.envelope import Answer, Result, failure, structured, told
from mcp_front.rights import Caller, allowed

log = logging.getLogger("countersign.front")
_REFUSALS = frozenset({"permission_denied", "policy_denied", "confirmation_required", "taint_blocked", "freeze_window"})
_SHAPES = Redactor()
Asked = Context[Any, Any] | None  # the request a call came in, where there is one
Reply = types.CallToolResult | types.InputRequiredResult  # or the question that has to be answered first
REFUSED = -32010  # of ours, for requests that are no tool's: `data.code` is one of the catalogue's


def protocol_error(error: CountersignError, **data: Any) -> MCPError:
    """An error of ours for a request that has no envelope of its own."""
    said = {"code": error.code, "retryable": error.retryable, "retry_after_seconds": error.retry_after_seconds, **data}
    code = types.INTERNAL_ERROR if error.code == "internal" else REFUSED if error.retryable else types.INVALID_PARAMS
    return MCPError(code, told(error.message), {name: value for name, value in said.items() if value is not None})


class Dispatch:
    """`caller` is who the connection belongs to where requests carry no key (stdio); None over HTTP."""

    def __init__(self, front: Front, caller: Caller | None) -> None:
        self.front = front
        self._caller = caller

    def who(self) -> Caller:
        """Who makes this request. Raises what the protocol answers to nobody."""
        try:
            return caller_now(self._caller)
        except Unauthenticated as nobody:
            raise MCPError(types.INVALID_REQUEST, nobody.message) from None

    def may(self, caller: Caller, name: str) -> bool:
        """Whether a tool exists for the caller."""
        spec = self.front.toolset.tools.get(name)
        return spec is not None and allowed(caller, spec)

    def call(self, caller: Caller, name: str, *, given: Common | None = None, context: Asked = None) -> Call:
        """A call of a tool, for what is done with its right and is no call of it."""
        return self.made(caller, self.front.toolset.tools[name], given or Common(), context)

    async def tool(self, name: str, arguments: Mapping[str, Any], context: Asked) -> Reply:
        """Call a tool. Raises an error of the protocol only for what the caller cannot know: no such tool, nobody."""
        caller = self.who()
        spec = self.front.toolset.get(name)
        if spec is None or not allowed(caller, spec):
            if spec is not None:
                await self.refused(caller, spec.name, PermissionDenied("no right to the tool"))
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {name[:80]}")  # the same text for hidden and unknown
        request_id = _request_id()
        try:
            own, given = spec.validated(arguments)
            call = self.made(caller, spec, given, context, request_id=request_id)
            said = await self._said(call, own, context)
            if isinstance(said, types.InputRequiredResult):
                return said  # the client asks, and calls again with the answer
            answer = await spec.function(call, **own, **said)
            return self.shaped(caller, answer)
        except MCPError:
            raise
        except CountersignError as error:
            await self.refused(caller, spec.name, error, run_id=arguments.get("run_id"))
            return self.failed(caller, error, request_id)
        except Exception as crash:
            return self.failed(caller, self.ours(crash, spec.name, request_id), request_id)

    def ours(self, crash: Exception, what: str, request_id: str) -> Internal:
        """A mistake of ours: its text stays in the local log, the caller gets a reference into it."""
        log.error("%s %s failed\n%s", request_id, what, _SHAPES.lines("".join(traceback.format_exception(crash))))
        return Internal(f"something went wrong on our side; the local log of the front tells more under {request_id}")

    def shaped(self, caller: Caller, answer: Answer) -> Reply:
        result: Result = answer.result(offered=self._offered(caller, answer.next))
        text = types.TextContent(type="text", text=told(answer.text))
        return types.CallToolResult(content=[text], structured_content=structured(result), is_error=False)

    def failed(self, caller: Caller, error: CountersignError, request_id: str | None = None, **more: Any) -> types.CallToolResult:
        result = failure(error, request_id=request_id or _request_id(), offered=self._offered(caller, error.next)).model_copy(update=more)
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=f"{error.code}: {told(error.message)}")],
            structured_content=structured(result),
            is_error=True,
        )

    async def refused(self, caller: Caller, action: str, error: CountersignError, *, run_id: object = None) -> None:
        """Write a refusal to the audit chain; those of `decide` are there already."""
        hidden = isinstance(error, NotFound) and error.details.get("hidden")
        if error.details.get("recorded") or not (error.code in _REFUSALS or hidden):
            return
        store = self.front.store
        try:
            with anyio.CancelScope(shield=True):
                async with store.begin() as tx:
                    await audit.append(
                        tx,
                        org=caller.org,
                        at=stamp(store.now()),
                        action=action,
                        by=caller.principal,
                        outcome="permission_denied" if hidden else error.code,
                        run_id=run_id[:40] if isinstance(run_id, str) else None,
                        role=caller.role,
                    )
        except CountersignError as away:  # the refusal stands, whatever becomes of its row
            log.error("the refusal of %s to %s could not be written down: %s", action, caller.principal.id, away.message)

    def made(self, caller: Caller, spec: ToolSpec, given: Common, context: Asked, *, request_id: str | None = None) -> Call:
        """A call as its function gets it."""
        return Call(
            front=self.front,
            caller=caller,
            tool=spec,
            given=given,
            request_id=request_id or _request_id(),
            report=_reporting(context),
            can_ask=asking.can_ask(context),
        )

    async def _said(self, call: Call, own: dict[str, Any], context: Asked) -> dict[str, Any] | types.InputRequiredResult:
        """What people answered to the questions of the tool, or the questions. Raises ConfirmationRequired where there was no answer."""
        if not call.tool.questions:
            return {}
        run_id = own.get("run_id")
        with anyio.move_on_after(asking.WITHIN):
            try:
                return await resolve_arguments(call.tool.questions, call.tool.plans, {"call": call, **own}, context or Context())
            except (ToolError, MCPError):  # the SDK's own: an answer that does not fit, or a client that could not ask after all
                raise asking.unasked(run_id or call.asked.get("run_id")) from None
        raise asking.unasked(run_id or call.asked.get("run_id"))

    def _offered(self, caller: Caller, names: Iterable[str]) -> list[str]:
        return [name for name in dict.fromkeys(names) if self.may(caller, name)]


def _request_id() -> str:
    return f"req_{random.token_hex(8)}"


def _reporting(context: Asked) -> Any:
    async def report(done: float, total: float | None, message: str) -> None:
        if context is not None:
            await context.report_progress(done, total, told(message))

    return report
