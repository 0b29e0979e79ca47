"""What can be read by address: runs, environments, policies, and what there is to know about this front.

An address is another spelling of a tool that reads: it is answered by that tool, with its rights, its budget and its refusals. So
nothing can be read here that could not be asked for there. Static resources know no caller (catalogue §3).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from mcp import types
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.shared.exceptions import MCPError

from countersign.core.digests import sha256
from countersign.core.errors import CountersignError
from countersign.core.run import RUN_TYPES
from mcp_front import lookup, policies
from mcp_front.call import Front
from mcp_front.dispatch import REFUSED, Asked, Dispatch, protocol_error
from mcp_front.rights import Caller

JSON = "application/json"
VERSION = "countersign/version"  # in `_meta`: the same for the same content


@dataclass(frozen=True, kw_only=True)
class Template:
    uri: str
    title: str
    description: str
    tool: str  # answers it, and gives the right to it
    arguments: Mapping[str, Any] = field(default_factory=dict)
    watched: bool = False  # changes of it can be subscribed to

    @property
    def name(self) -> str:
        return re.sub(r"[^a-z]+", "-", re.sub(r"\{[^}]*\}", "", self.uri)).strip("-")

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{([a-z_]+)\}", self.uri))

    def matched(self, uri: str) -> dict[str, str] | None:
        """The variables of an address, or None where it is another one's."""
        pattern = re.sub(r"\\\{([a-z_]+)\\\}", r"(?P<\1>[^/?#\\s]{1,200})", re.escape(self.uri))
        found = re.fullmatch(pattern, uri)
        return {name: unquote(value) for name, value in found.groupdict().items()} if found else None


TEMPLATES: tuple[Template, ...] = (
    Template(
        uri="run://{run_id}",
        title="Run",
        description="Where a run stands, what it waits for and from whom, and who agreed.",
        tool="run_get",
        arguments={"include": ["approvals"]},
        watched=True,
    ),
    Template(
        uri="run://{run_id}/plan",
        title="Plan of a run",
        description="Digest, counts, change class, risks, and the changes, the worst first.",
        tool="run_plan",
        watched=True,
    ),
    Template(
        uri="run://{run_id}/logs",
        title="Logs of a run",
        description="The end of the step that failed, or of the last one; untrusted.",
        tool="run_logs",
        watched=True,
    ),
    Template(
        uri="run://{run_id}/evidence",
        title="Evidence of a run",
        description="What proves how a run went: inputs, plans, decisions, attempts, artifacts.",
        tool="run_evidence",
        watched=True,
    ),
    Template(
        uri="environment://{org}/{env}",
        title="Environment",
        description="Protection, who must agree to which change, workspaces and open runs.",
        tool="get_environment",
        watched=True,
    ),
    Template(
        uri="policy://{org}/{env}",
        title="Policy in force",
        description="The rules that hold in an environment: who must agree to which class of change.",
        tool="get_environment",
    ),
)

STATIC: tuple[types.Resource, ...] = (
    types.Resource(
        uri="run-types://catalog",
        name="run-types",
        title="Types of runs",
        description="What can be run: the tool that starts it, its engine, and whether it may change anything.",
        mime_type=JSON,
    ),
    types.Resource(
        uri="tools://manifest",
        name="tools-manifest",
        title="Manifest of tools",
        description="Every tool of this front: its class and the digest of its definition.",
        mime_type=JSON,
    ),
)


def static(front: Front, uri: str) -> dict[str, Any] | None:
    if uri == "run-types://catalog":
        types_ = [
            {"type": t.name, "tool": t.name, "engine": t.engine, "mode": str(t.mode), "changes": t.changes} for t in RUN_TYPES.values()
        ]
        return {"run_types": types_}
    if uri == "tools://manifest":
        rows = [
            {"name": s.name, "server": s.server, "access": str(s.access), "run": s.run, "digest": _digest(s.wire)}
            for s in front.toolset.tools.values()
        ]
        return {"tools": rows, "digest": _digest(rows)}
    return None


def found(uri: str) -> tuple[Template, dict[str, str]] | None:
    """The template of an address, and its variables."""
    for template in TEMPLATES:
        if (variables := template.matched(uri)) is not None:
            return template, variables
    return None


def templates_for(dispatch: Dispatch, caller: Caller) -> list[types.ResourceTemplate]:
    return [
        types.ResourceTemplate(uri_template=t.uri, name=t.name, title=t.title, description=t.description, mime_type=JSON)
        for t in TEMPLATES
        if dispatch.may(caller, t.tool)
    ]


async def read(dispatch: Dispatch, uri: str, context: Asked) -> Sequence[ReadResourceContents]:
    """Raises INVALID_PARAMS for what is not there or may not be seen, in the same words."""
    caller = dispatch.who()
    body = static(dispatch.front, uri)
    if body is None:
        template, variables = _readable(dispatch, caller, uri)
        body = await (_policy if template.uri.startswith("policy:") else _answered)(dispatch, template, variables, uri, context)
    text = json.dumps(body, ensure_ascii=False)
    return [ReadResourceContents(content=text, mime_type=JSON, meta={VERSION: sha256(text.encode())})]


def missing(uri: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri[:300]})


def _readable(dispatch: Dispatch, caller: Caller, uri: str) -> tuple[Template, dict[str, str]]:
    matched = found(uri)
    if matched is None or not dispatch.may(caller, matched[0].tool):
        raise missing(uri)
    return matched


async def _answered(dispatch: Dispatch, template: Template, variables: Mapping[str, str], uri: str, context: Asked) -> dict[str, Any]:
    named = {"ref": f"{variables['org']}/{variables['env']}"} if "env" in variables else dict(variables)
    result = await dispatch.tool(template.tool, {**named, **template.arguments}, context)
    content = (result.structured_content if isinstance(result, types.CallToolResult) else None) or {}
    if (error := content.get("error")) is None:
        return content
    if error["code"] in ("not_found", "invalid_argument"):
        raise missing(uri)
    told = {name: error[name] for name in ("code", "retryable", "retry_after_seconds", "request_id") if name in error}
    raise MCPError(types.INTERNAL_ERROR if error["code"] == "internal" else REFUSED, error["message"], {"uri": uri[:300], **told})


async def _policy(dispatch: Dispatch, template: Template, variables: Mapping[str, str], uri: str, context: Asked) -> dict[str, Any]:
    call = dispatch.call(dispatch.who(), template.tool)
    try:
        env = lookup.environment(call, f"{variables['org']}/{variables['env']}")
    except CountersignError:
        raise missing(uri) from None
    return {"data": policies.in_force(call.front.policy, env)}


async def may_watch(dispatch: Dispatch, uri: str) -> bool:
    """Whether changes of an address may be told to the caller: it can change, it is there, and they may read it."""
    caller, matched = dispatch.who(), found(uri)
    if matched is None or not matched[0].watched or not dispatch.may(caller, matched[0].tool):
        return False
    template, variables = matched
    call = dispatch.call(caller, template.tool)
    try:
        if "run_id" not in variables:
            lookup.environment(call, f"{variables['org']}/{variables['env']}")
            return True
        async with dispatch.front.store.read() as conn:
            await lookup.run_for(call, conn, variables["run_id"])
    except CountersignError as refused:
        if refused.retryable:
            raise protocol_error(refused, uri=uri[:300]) from None
        await dispatch.refused(caller, "subscribe", refused, run_id=variables.get("run_id"))
        return False
    return True


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())
