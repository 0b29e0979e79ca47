"""Charts: found and read by a worker, which has the keys of their sources."""

from typing import Annotated, Any

from pydantic import Field

from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer, clean
from mcp_front.tools.helm.runs import Chart, Repo, Version
from mcp_front.tools.helm.server import HELM
from mcp_front.variables import checked_values, unset_secrets


@HELM.tool("helm_search_charts", Access.READ, title="Search charts", paged=True, open_world=True)
async def helm_search_charts(call: Call, text: Annotated[str, Field(max_length=100)], repo: Repo = None) -> Answer:
    """Search Helm charts by words in the allowed sources."""
    found = await call.front.gateway.read(call.org, "helm", "search_charts", {"text": text, "repo": repo})
    rows = found["charts"]
    page = rows[call.offset : call.offset + call.given.limit]
    return Answer(
        text=f"{len(rows)} chart(s) in {', '.join([repo] if repo else found['repos'])}",
        data={"charts": clean(page), "repos": found["repos"]},
        page=call.page(returned=len(page), total=len(rows)),
        warnings=tuple(clean(found["remarks"])),
        next=("helm_get_chart",) if rows else (),
    )


@HELM.tool("helm_get_chart", Access.READ, title="Get chart", open_world=True)
async def helm_get_chart(
    call: Call,
    chart: Chart,
    repo: Repo = None,
    version: Version = None,
    values: dict[str, Any] | None = None,
) -> Answer:
    """Get a Helm chart: versions, values schema, defaults, images, CRDs. Given `values` are linted and rendered, problems by path."""
    asked = {"chart": chart, "repo": repo, "version": version, "values": checked_values(values) if values is not None else None}
    data = await call.front.gateway.read(call.org, "helm", "get_chart", asked)
    problems = data.get("problems")
    judged = "" if problems is None else f"; {len(problems)} problem(s) with these values" if problems else "; these values fit"
    return Answer(
        text=f"{data['chart']} {data['version']} from {data['repo']}{judged}",
        data={name: value for name, value in data.items() if value not in (None, "", False)},
        warnings=tuple(await unset_secrets(call, values)),
        next=("helm_get_chart",) if problems else ("helm_deploy",),
    )
