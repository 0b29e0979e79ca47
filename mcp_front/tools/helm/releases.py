"""Releases as the cluster has them, read by a worker; what runs did to them stands in rows here."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from countersign.adapters.store import records, runs
from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer
from mcp_front.tools.helm.server import HELM, Env, Namespace, ReleaseName, environment, named
from mcp_front.workspaces import drift_noted

Part = Literal["values", "manifest", "history", "drift", "notes"]
RUNS = 5  # the newest ones of a release


@HELM.tool("helm_list_releases", Access.READ, title="List releases", paged=True)
async def helm_list_releases(
    call: Call, env: Env = None, namespace: Namespace | None = None, status: Annotated[str | None, Field(max_length=30)] = None
) -> Answer:
    """List Helm releases in a cluster: chart, revision, status; failed and locked first."""
    path = environment(call, env)
    found = await call.front.gateway.read(call.org, "helm", "list_releases", {"namespace": namespace, "status": status}, env=path)
    rows = found["releases"]
    page = rows[call.offset : call.offset + call.given.limit]
    waiting = sum(1 for row in rows if row.get("lock") or row["status"] == "failed")
    unwell = sum(1 for row in rows if row.get("health", "healthy") != "healthy")
    more = ("the cluster has more releases than are listed: name a namespace",) if found["more"] else ()
    return Answer(
        text=f"{len(rows)} release(s) in {path}"
        + (f", {waiting} failed or locked" if waiting else "")
        + (f", {unwell} not healthy" if unwell else ""),
        data={"releases": page, "cluster": found["cluster"]},
        page=call.page(returned=len(page), total=len(rows)),
        warnings=more,
        next=("helm_get_release",) if rows else ("helm_search_charts", "helm_deploy"),
    )


@HELM.tool("helm_get_release", Access.READ, title="Get release")
async def helm_get_release(
    call: Call,
    release_name: ReleaseName,
    namespace: Namespace | None = None,
    env: Env = None,
    revision: Annotated[int | None, Field(ge=1)] = None,
    include: Annotated[Sequence[Part] | None, Field(max_length=5)] = None,
) -> Answer:
    """Get a Helm release: health, pending lock, chart, revision, what is not ready; drift is what was changed outside."""
    path = environment(call, env)
    named(namespace or "default", release_name)  # refuses what is no name
    asked: dict[str, Any] = {"release_name": release_name, "namespace": namespace, "revision": revision, "include": list(include or ())}
    found = await call.front.gateway.read(call.org, "helm", "get_release", asked, env=path)
    data: dict[str, Any] = {"health": found.pop("health"), "lock": found.pop("lock"), **found, **await _recorded(call, path, found)}
    return Answer(text=_summary(data), data=data, next=_next(data))


async def _recorded(call: Call, env: str, found: dict[str, Any]) -> dict[str, Any]:
    """What is on record here: the newest runs on it, and what the newest drift check found."""
    async with call.front.store.read() as conn:
        known = await records.releases_of(conn, call.org, env, name=found["release_name"])
        mine = next((one for one in known if one.release is not None and one.release.namespace == found["namespace"]), None)
        if mine is None:
            return {"runs": []}
        newest, _ = await runs.list_runs(conn, call.org, stack_id=mine.id, waiting_first=True, limit=RUNS)
        checked = await drift_noted(call, conn, mine)
    rows = [{"run_id": run.id, "type": run.type, "state": str(run.state)} for run in newest]
    return {"runs": rows, **({"drift_checked": checked} if checked is not None else {})}


def _summary(data: dict[str, Any]) -> str:
    where = f"{data['namespace']}/{data['release_name']}"
    lock = data["lock"]
    held = f", locked: {lock['status']} at revision {lock['revision']}" + (f" by {lock['run']}" if lock["run"] else "") if lock else ""
    drift = data.get("drift")
    moved = "" if drift is None else f"; drift: {drift['summary']}" if not drift["in_sync"] else "; no drift"
    if drift is not None and drift["unchecked"]:
        moved += f", {len(drift['unchecked'])} object(s) not compared"
    return f"{where}: {data['health']}, revision {data['revision']} {data['status']}{held}, {data['chart']} {data['chart_version']}{moved}"


def _next(data: dict[str, Any]) -> tuple[str, ...]:
    if data["lock"]:
        return ("run_get",) if data["lock"]["run"] else ("helm_get_release",)
    return ("helm_deploy", "helm_rollback") if data["health"] != "healthy" else ("helm_deploy",)
