"""Finding what a call names, as far as its caller may see it. What they may not see is `not_found`, in the same words."""

import difflib
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.settings import EnvironmentSettings
from countersign.adapters.store import records, runs
from countersign.adapters.store.records import StackRow
from countersign.adapters.store.runs import RunRow
from countersign.core.errors import InvalidArgument, NotFound, PermissionDenied, PolicyDenied
from mcp_front.call import Call
from mcp_front.rights import Reach, allowed, reach

AGO = re.compile(r"^-([1-9][0-9]{0,5})([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean …?` or what there is, for the end of a message."""
    known = sorted(names)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(known[:10])}" if known else "; there are none yet"


def environments(call: Call) -> dict[str, EnvironmentSettings]:
    """Those of the caller's organization, by "org/env", in order of rank."""
    found = [
        (f"{org.slug}/{env.slug}", env) for org in call.front.settings.organizations if org.slug == call.org for env in org.environments
    ]
    return dict(sorted(found, key=lambda item: (item[1].rank, item[0])))


def environment(call: Call, ref: str, *, field: str = "env") -> str:
    """The "org/env" that `ref` names: "org/env", or "env" within the caller's organization. Raises NotFound."""
    known = environments(call)
    path = ref if "/" in ref else f"{call.org}/{ref}"
    if path not in known:
        raise NotFound(f"no environment {ref[:80]}{nearest(path, known)}", field=field, next=["list_environments"])
    return path


async def workspace(call: Call, conn: AsyncConnection, env: str, slug: str) -> StackRow:
    """The stack `slug` of the environment `env`. Raises NotFound, naming those that come near."""
    path = environment(call, env)
    try:
        return await records.get_stack(conn, call.org, f"{path}/{slug}")
    except NotFound:
        there, _ = await records.list_stacks(conn, call.org, env=path, limit=100)
        raise NotFound(
            f"no workspace {slug[:80]!r} in {path}{nearest(slug, [s.slug for s in there])}",
            field="workspace",
            next=["terraform_list_workspaces", "terraform_register_workspace"],
        ) from None


async def run_for(call: Call, conn: AsyncConnection, run_id: str, *, field: str = "run_id") -> RunRow:
    """The run, for this tool. Raises NotFound where the caller may not see it, PermissionDenied where they may see it only."""
    tool = call.tool
    missing = NotFound(f"no run {run_id}; `run_list` tells which there are", field=field, next=["run_list"])
    try:
        run = await runs.get_run(conn, call.org, run_id)
    except NotFound:
        raise missing from None
    protected = call.front.policy.is_protected(run.env)
    if allowed(call.caller, tool, run=run, protected=protected):
        return run
    if not allowed(call.caller, call.front.toolset.tools["run_get"], run=run):
        missing.details["hidden"] = True
        raise missing
    if protected and allowed(call.caller, tool, run=run):
        raise PolicyDenied(
            f"{run.env} is protected, so a person has to decide, and {call.caller.principal.id} is none", details={"run_id": run.id}
        )
    raise PermissionDenied(
        f"{run.requester.id} asked for this run; acting on it needs {tool.permission}, which the role {call.caller.role} does not hold",
        details={"run_id": run.id},
    )


def visible_runs(call: Call) -> dict[str, Any] | None:
    """How `list_runs` is narrowed to the runs the caller may see; None where they may see none."""
    far = reach(call.caller, call.front.toolset.tools["run_get"])
    return None if far is Reach.NONE else {} if far is Reach.ALL else {"requester": call.caller.principal.id}


def point_in_time(text: str | None, now: datetime, *, field: str) -> datetime | None:
    """RFC 3339, or "-2h" from now. Raises InvalidArgument."""
    if text is None:
        return None
    if ago := AGO.match(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument("a time is RFC 3339, such as 2026-01-31T12:00:00Z, or -2h", field=field) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
