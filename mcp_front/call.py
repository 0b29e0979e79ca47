"""One call of a tool: who makes it, what it was given, and what the front can reach for it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from countersign.adapters.settings import Settings
from countersign.adapters.store.database import Store
from countersign.adapters.store.watch import Watch
from countersign.core.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from countersign.core.policy import Policy
from mcp_front.domain import Common, Toolset, ToolSpec
from mcp_front.envelope import Page
from mcp_front.gateway import Gateway
from mcp_front.rights import Caller, allowed

if TYPE_CHECKING:
    from countersign.adapters.artifacts import Artifacts  # heavy to import, and only its type is needed here

Report = Callable[[float, float | None, str], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Front:
    """What all calls share. No cloud credentials are among it."""

    settings: Settings
    store: Store
    artifacts: "Artifacts"
    watch: Watch
    gateway: Gateway
    toolset: Toolset
    request_keys: tuple[bytes, ...] = ()  # seal what a client brings back with an answer; the first one seals, all open

    @cached_property
    def policy(self) -> Policy:
        return self.settings.effective_policy


@dataclass(frozen=True, kw_only=True)
class Call:
    front: Front
    caller: Caller
    tool: ToolSpec
    given: Common
    request_id: str
    report: Report  # progress to the client: done, total, what; each `done` larger than the one before
    can_ask: bool = False  # the client shows forms to its user
    asked: dict[str, str] = field(default_factory=dict)  # what a question of this call was about, for the tool that gets its answer

    @property
    def org(self) -> str:
        return self.caller.org

    def tool_named(self, name: str) -> ToolSpec:
        """A tool the caller is about to use through this one. Raises PermissionDenied where they have no right to it."""
        spec = self.front.toolset.tools.get(name) or self.front.toolset.starts.get(name)
        if spec is None:
            raise FailedPrecondition(f"{name} is no tool of this front; ask where that run was started")
        if not allowed(self.caller, spec):
            raise PermissionDenied(f"this needs {spec.permission}, which {self.caller.principal.id} as {self.caller.role} does not hold")
        return spec

    @property
    def offset(self) -> int:
        """Where the page asked for begins. Raises InvalidArgument."""
        cursor = self.given.cursor
        if cursor is None:
            return 0
        if not (cursor.startswith("o") and cursor[1:].isdecimal() and len(cursor) < 12):
            raise InvalidArgument("this cursor is none of ours; leave it out to begin again", field="cursor")
        return int(cursor[1:])

    def page(self, *, returned: int, total: int) -> Page:
        end = self.offset + returned
        more = end < total
        return Page(next_cursor=f"o{end}" if more else None, returned=returned, total=total, truncated=more)
