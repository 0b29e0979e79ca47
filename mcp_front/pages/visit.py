"""One request of a page: who makes it, what they sent, and what everybody's pages share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp import types
from mcp.shared.exceptions import MCPError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from countersign.adapters.settings import Settings
from countersign.adapters.store.page_sessions import PageSession
from countersign.core.errors import BY_CODE, CountersignError, FailedPrecondition, InvalidArgument, PermissionDenied, Unauthenticated
from countersign.core.principal import Kind
from mcp_front.call import Call, Front
from mcp_front.dispatch import Dispatch
from mcp_front.pages.drawing import Drawing
from mcp_front.pages.guard import HEADERS, Attempts, form_token
from mcp_front.rates import AtOnce
from mcp_front.rights import Caller, checked_role

FOLLOWED = 20  # pages of one person that wait for news at once; a browser opens six


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What all pages of a front share."""

    front: Front
    drawing: Drawing = field(default_factory=Drawing)
    attempts: Attempts = field(default_factory=Attempts)
    followed: AtOnce = field(default_factory=lambda: AtOnce(FOLLOWED))

    @property
    def settings(self) -> Settings:
        return self.front.settings


@dataclass(frozen=True, kw_only=True)
class Visit:
    request: Request
    pages: Pages
    token: str | None = None  # what the cookie holds, of a live session
    session: PageSession | None = None
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def front(self) -> Front:
        return self.pages.front

    @property
    def caller(self) -> Caller:
        """Who is signed in. Raises Unauthenticated."""
        if self.session is None:
            raise Unauthenticated("nobody is signed in; sign in with a person's key, or with `countersign open`")
        key = self.session.key
        return Caller(principal=key.principal, org=key.org, role=checked_role(key.role, key.principal.kind), via="page")

    @property
    def dispatch(self) -> Dispatch:
        return Dispatch(self.front, self.caller)

    def call(self, tool: str = "run_get") -> Call:
        """What is read here is read with the right to that tool. Raises PermissionDenied."""
        dispatch = self.dispatch
        if not dispatch.may(self.caller, tool):
            raise PermissionDenied(f"the role {self.caller.role} may not use {tool}")
        return dispatch.call(self.caller, tool)

    async def use(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool as this person, as over MCP: the same rights, checks, audit and refusals. Raises what it answered."""
        given = {name: value for name, value in arguments.items() if value not in (None, "")}
        try:
            reply = await self.dispatch.tool(tool, given, None)
        except MCPError:
            raise PermissionDenied(f"the role {self.caller.role} has no right to that") from None
        assert isinstance(reply, types.CallToolResult)  # nobody is asked by form here, the page is the form
        answer: dict[str, Any] = reply.structured_content or {}
        if (error := answer.get("error")) is None:
            return answer
        raise BY_CODE.get(error["code"], FailedPrecondition)(error["message"], field=error.get("field"), details={"code": error["code"]})

    async def draw(self, template: str, *, status: int = 200, **known: Any) -> Response:
        session = self.session
        shared = {
            "me": session.key.principal.id if session else None,
            "org": session.key.org if session else None,
            "role": session.key.role if session else None,
            "token": form_token(self.token) if self.token else "",
        }
        return await self.pages.drawing.page(template, status=status, **shared, **known)

    def number(self, name: str) -> int:
        """A number of the address, 1 where there is none. Raises InvalidArgument."""
        text = self.request.query_params.get(name, "1")
        if not (text.isdecimal() and text.isascii() and len(text) < 8):
            raise InvalidArgument(f"{name} is a number", field=name)
        return max(1, int(text))

    def query(self, name: str, *, longest: int = 200) -> str | None:
        """A text of the address, None where it is empty. Raises InvalidArgument."""
        text = self.request.query_params.get(name, "").strip()
        if len(text) > longest:
            raise InvalidArgument(f"{name} is longer than {longest} characters", field=name)
        return text or None


def usable(session: PageSession) -> bool:
    """Whether a session is one of a person whose role exists."""
    try:
        checked_role(session.key.role, session.key.principal.kind)
    except InvalidArgument:
        return False
    return session.key.principal.kind is Kind.PERSON


def away_to(path: str) -> Response:
    """Look there next, whatever the method was."""
    return RedirectResponse(path, status_code=303, headers=HEADERS)


def status_of(error: CountersignError) -> int:
    return _STATUS.get(error.code, 503 if error.retryable else 400)


_STATUS = {
    "unauthenticated": 401,
    "permission_denied": 403,
    "policy_denied": 403,
    "confirmation_required": 422,
    "not_found": 404,
    "conflict": 409,
    "failed_precondition": 409,
    "plan_stale": 409,
    "approval_expired": 409,
    "rate_limited": 429,
    "internal": 500,
}
