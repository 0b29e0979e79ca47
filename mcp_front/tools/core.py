"""`core`: who one is, where one may act, and how to find and read what is not listed."""

import json
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import select

from countersign.adapters.store import records, retention, runs
from countersign.adapters.store.database import stamp
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import artifacts
from countersign.core.errors import InvalidArgument, NotFound
from countersign.core.principal import Kind
from countersign.core.retention import rule_of
from mcp_front import lookup, policies
from mcp_front.call import Call
from mcp_front.domain import Access, Domain, ToolSpec
from mcp_front.envelope import Answer, untrusted
from mcp_front.ranking import Ranker
from mcp_front.rights import allowed, listed, permissions

CORE = Domain("core")
_READ = Access.READ

IN_FULL = 5  # tools that a search shows with their whole schema
CHARACTERS = 40_000  # of an artifact in one answer

Ref = Annotated[str, Field(min_length=1, max_length=200)]


@CORE.tool("whoami", _READ, title="Who am I")
async def whoami(call: Call) -> Answer:
    """Show who the caller is: whose key this is, on whose behalf it acts, organization, role, effective permissions (what it is allowed
    to apply, destroy or approve) and limits. Never a token."""
    caller, principal = call.caller, call.caller.principal
    data: dict[str, Any] = {
        "principal": principal.id,
        "kind": str(principal.kind),
        "acts_for": principal.acts_for,
        "organization": caller.org,
        "organizations": [caller.org],
        "role": caller.role,
        "permissions": permissions(caller, call.front.toolset.servers),
        "may_decide": principal.kind is Kind.PERSON and Access.DECIDE not in caller.withheld,
        "environments": list(lookup.environments(call)),
        "limits": {},
        "via": caller.via,
    }
    for_whom = f" for {principal.acts_for}" if principal.acts_for else ""
    return Answer(text=f"{principal.id}{for_whom}, {caller.role} in {caller.org}", data=data, next=("list_environments", "search_tools"))


def _organization(call: Call) -> dict[str, Any]:
    org = next((o for o in call.front.settings.organizations if o.slug == call.org), None)
    if org is None:
        return {"id": call.org, "slug": call.org, "name": call.org, "environments": [], "version": 1}
    return {
        "id": org.slug,
        "slug": org.slug,
        "name": org.name or org.slug,
        "environments": [e.slug for e in org.environments],
        "version": 1,
    }


@CORE.tool("list_organizations", _READ, title="List organizations", paged=True)
async def list_organizations(call: Call, text: str | None = None) -> Answer:
    """List what organizations there are for the caller, or find one by text in its name."""
    found = [row for row in [_organization(call)] if not text or text.lower() in f"{row['slug']} {row['name']}".lower()]
    rows = found[call.offset : call.offset + call.given.limit]
    return Answer(
        text=f"{len(found)} organization(s)",
        data={"organizations": rows},
        page=call.page(returned=len(rows), total=len(found)),
        next=("get_organization",),
    )


@CORE.tool("get_organization", _READ, title="Get organization")
async def get_organization(call: Call, ref: Ref) -> Answer:
    """Get an organization's record by id or slug: its settings, environments, and the policy rules that say what needs approval."""
    if ref != call.org:
        raise NotFound(f"no organization {ref[:80]}", field="ref", next=["list_organizations"])
    policy = call.front.policy
    rules = [{"env": r.env, "classes": [str(c) for c in r.classes] or ["every"], "need": str(r.need)} for r in policy.rules]
    data = _organization(call) | {
        "settings": {"policy": {"rules": rules, "version": policy.version, "approval_hours": policy.approval_hours}}
    }
    return Answer(text=f"organization {ref}", data=data, next=("list_environments",))


async def _environment(call: Call, conn: Any, path: str) -> dict[str, Any]:
    env = lookup.environments(call)[path]
    _, workspaces = await records.list_stacks(conn, call.org, env=path, limit=1)
    visible = lookup.visible_runs(call)
    data = {
        "ref": path,
        "slug": env.slug,
        "name": env.name or env.slug,
        "rank": env.rank,
        "protected": call.front.policy.is_protected(path),
        "preview": False,
        "workspaces": workspaces,
    }
    if visible is not None:
        _, data["open_runs"] = await runs.list_runs(conn, call.org, env=path, open_only=True, members=False, limit=1, **visible)
    return data


@CORE.tool("list_environments", _READ, title="List environments", paged=True)
async def list_environments(call: Call, org: str | None = None) -> Answer:
    """List the environments by rank, which of them are protected, their workspaces and open runs."""
    if org is not None and org != call.org:
        raise NotFound(f"no organization {org[:80]}", field="org", next=["list_organizations"])
    paths = list(lookup.environments(call))
    shown = paths[call.offset : call.offset + call.given.limit]
    async with call.front.store.read() as conn:
        rows = [await _environment(call, conn, path) for path in shown]
    return Answer(
        text=f"{len(paths)} environment(s): {', '.join(shown)}",
        data={"environments": rows},
        page=call.page(returned=len(rows), total=len(paths)),
        next=("terraform_list_workspaces",),
    )


@CORE.tool("get_environment", _READ, title="Get environment")
async def get_environment(call: Call, ref: Ref) -> Answer:
    """Get an environment by `org/slug`: whether it is protected, who may approve or must agree to which change there, what workspaces
    are deployed in it, and open runs."""
    path = lookup.environment(call, ref, field="ref")
    async with call.front.store.read() as conn:
        data = await _environment(call, conn, path)
        stacks, total = await records.list_stacks(conn, call.org, env=path, limit=50)
        visible = lookup.visible_runs(call)
        waiting: list[RunRow] = []
        if visible is not None:
            waiting, _ = await runs.list_runs(conn, call.org, env=path, open_only=True, members=False, limit=20, **visible)
    data["deployed"] = {"workspaces": [s.slug for s in stacks], "total": total}
    data["runs"] = [{"run_id": r.id, "type": r.type, "state": str(r.state), "workspace": r.stack_path} for r in waiting]
    data["approvals"] = policies.approvals(call.front.policy, path)
    data["floors"] = policies.floors(call.front.policy, path)
    return Answer(text=f"environment {path}, {total} workspace(s)", data=data, next=("terraform_list_workspaces", "run_list"))


@CORE.tool("search_tools", _READ, title="Search tools", paged=True)
async def search_tools(call: Call, text: Annotated[str, Field(min_length=1, max_length=200)], server: str | None = None) -> Answer:
    """Search for tools by what they are for: which tool exists for the caller, listed or not, with its arguments. Any tool found can be
    called by its name."""
    toolset = call.front.toolset
    if server is not None and server not in toolset.servers:
        raise InvalidArgument(f"no server {server[:40]!r}{lookup.nearest(server, toolset.servers)}", field="server")
    mine = [spec for spec in toolset.tools.values() if allowed(call.caller, spec) and server in (None, spec.server)]
    found = [spec for spec, _ in Ranker(mine).ranked(text)]
    page = found[call.offset : call.offset + call.given.limit]
    rows = [_tool(call, spec, in_full=place < IN_FULL) for place, spec in enumerate(page)]
    return Answer(
        text=f"{len(found)} tool(s): {', '.join(spec.name for spec in page) or 'none'}",
        data={"tools": rows},
        page=call.page(returned=len(rows), total=len(found)),
    )


def _tool(call: Call, spec: ToolSpec, *, in_full: bool) -> dict[str, Any]:
    """The best ones with their schema, so that they can be called; of the others the names of what they take."""
    return {
        "name": spec.name,
        "server": spec.server,
        "access": str(spec.access),
        "description": spec.description if in_full else spec.description.split(". ", 1)[0],
        "arguments": spec.input_schema if in_full else list(spec.input_schema["properties"]),
        "listed": listed(call.caller, spec),
    }


@CORE.tool("read_artifact", _READ, title="Read artifact")
async def read_artifact(
    call: Call,
    artifact_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,80}$")],
    from_: Annotated[int, Field(alias="from", ge=0)] = 0,
    lines: Annotated[int, Field(ge=1, le=1000)] = 200,
) -> Answer:
    """Read a range of lines of an artifact of a run by its id: a whole log, plan view or export. Redacted and untrusted; lapsed ones
    are gone."""
    front = call.front
    async with front.store.read() as conn:
        row = await _readable(call, conn, artifact_id)
        data = await front.artifacts.read(conn, org=call.org, artifact_id=artifact_id)
    every = _lines(data)
    part = _fitting(every[from_ : from_ + lines])
    end = from_ + len(part)
    body = {
        "artifact_id": artifact_id,
        "kind": row["kind"],
        "run_id": row["run_id"],
        "from": from_,
        "lines": len(part),
        "total_lines": len(every),
        "next_from": end if end < len(every) else None,
        "content": untrusted("\n".join(part), f"artifact {artifact_id}", limit=CHARACTERS),
    }
    return Answer(text=f"lines {from_} to {end} of {len(every)} of {row['kind']}", data=body)


def _fitting(lines: list[str]) -> list[str]:
    """As many whole lines as fit into an answer, and at least one, so that a reader always gets on."""
    size, fitting = 0, 0
    for line in lines:
        size += len(line) + 1
        if size > CHARACTERS and fitting:
            break
        fitting += 1
    return lines[:fitting]


def _lines(data: bytes) -> list[str]:
    """Lines of text; a JSON document is laid out, so that it has lines."""
    text = data.decode(errors="replace")
    if text.startswith("{") and text.count("\n") < 3:
        with suppress(ValueError):
            text = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    return text.splitlines()


async def _readable(call: Call, conn: Any, artifact_id: str) -> dict[str, Any]:
    """The artifact's row, if it may be read and belongs to a run the caller may see. Raises NotFound."""
    query = select(artifacts).where(artifacts.c.org_id == call.org, artifacts.c.id == artifact_id)
    row = (await conn.execute(query)).first()
    missing = NotFound(
        f"no readable artifact {artifact_id}; bundles and states are never read", field="artifact_id", next=["run_get", "run_logs"]
    )
    if row is None or not row.readable or row.run_id is None:
        raise missing
    run = await runs.get_run(conn, call.org, row.run_id)
    if not allowed(call.caller, call.front.toolset.tools["run_get"], run=run):
        missing.details["hidden"] = True
        raise missing
    if row.expires_at is not None and row.expires_at <= stamp(call.front.store.now()):
        came = await retention.applied(conn, call.org, run.id)
        rule = rule_of(call.front.settings.retention.rules, row.kind, run.mode, applied=came)
        why = rule.told if rule is not None else f"it was kept until {row.expires_at}"
        raise NotFound(
            f"the {row.kind} of {run.id} has lapsed: {why}; what it was asked, planned and came to is told for good",
            field="artifact_id",
            next=["run_get"],
        )
    return {"kind": row.kind, "run_id": row.run_id}
