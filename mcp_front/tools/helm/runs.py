"""The runs of Helm: deploy, roll back, uninstall. Each answers with the run at once; what the cluster says of it stands in the plan."""

from collections.abc import Mapping
from typing import Annotated, Any

from mcp.server.mcpserver import Elicit, Resolve
from pydantic import Field

from countersign.adapters.store.records import StackRow
from countersign.adapters.store.requests import Draft
from countersign.core.run import RUN_TYPES, Mode
from mcp_front import consenting
from mcp_front.asking import Given, Outcome
from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer
from mcp_front.starting import started
from mcp_front.tools.helm.server import HELM, Env, Namespace, ReleaseName, environment, named, release_of, taken_in
from mcp_front.variables import checked_values, unset_secrets

Chart = Annotated[str, Field(min_length=1, max_length=200)]
Repo = Annotated[str | None, Field(max_length=63)]
Version = Annotated[str | None, Field(max_length=100)]
Values = Annotated[dict[str, Any], Field(description="secrets only as {secret: slug}")]


async def begin(call: Call, name: str, release: StackRow, asked: Mapping[str, Any]) -> Answer:
    """Start the run of the type `name`, or join it. What was left out is left out of the request, so that it may be joined."""
    assert release.release is not None
    whose = {"env": release.env, "namespace": release.release.namespace, "release_name": release.release.name}
    arguments = {**whose, **{k: v for k, v in asked.items() if v not in (None, False)}}
    begun = await call.front.gateway.start(
        call.caller,
        Draft(
            run_type=RUN_TYPES[name],
            stack=release.config,
            arguments=arguments,
            mode=Mode.SPECULATIVE if call.given.dry_run else None,
        ),
        key=call.given.idempotency_key,
        message=call.given.message,
    )
    notes = await unset_secrets(call, asked.get("values"))
    return await started(call, begun.run, replayed=begun.replayed, warnings=tuple(notes))


@HELM.tool("helm_deploy", Access.WRITE, title="Deploy release", run=True)
async def helm_deploy(
    call: Call,
    chart: Chart,
    release_name: ReleaseName,
    namespace: Namespace,
    values: Values,
    repo: Repo = None,
    version: Version = None,
    env: Env = None,
    run_tests: bool = False,
) -> Answer:
    """Deploy a Helm chart as a release on Kubernetes: install it, or upgrade it to exactly these values. Plans against what is live,
    waits for agreement, applies that plan, waits until all is ready; what fails is rolled back. `run_tests` runs its tests."""
    given = checked_values(values)
    release = await taken_in(call, environment(call, env), named(namespace, release_name))
    asked = {"chart": chart, "values": given, "repo": repo, "version": version, "run_tests": run_tests}
    return await begin(call, "helm_deploy", release, asked)


@HELM.tool("helm_detect_drift", Access.WRITE, title="Detect drift", run=True, dry=False, listed=False)
async def helm_detect_drift(call: Call, release_name: ReleaseName, namespace: Namespace | None = None, env: Env = None) -> Answer:
    """Detect drift of a Helm release: what was changed outside of it since its last deploy. The run's plan lists it; nothing is changed."""
    release = await release_of(call, env, namespace, release_name)
    return await begin(call, "helm_detect_drift", release, {})


async def consent_to_rollback(call: Call, release_name: str, revision: int, namespace: str | None, env: str | None) -> Given | Elicit[Any]:
    async def asked_for() -> Answer:
        return await begin(call, "helm_rollback", await release_of(call, env, namespace, release_name), {"revision": revision})

    return await consenting.question(call, asked_for)


@HELM.tool("helm_rollback", Access.DESTROY, title="Roll back release", run=True)
async def helm_rollback(
    call: Call,
    release_name: ReleaseName,
    revision: Annotated[int, Field(ge=1)],
    namespace: Namespace | None = None,
    env: Env = None,
    said: Annotated[Outcome | None, Resolve(consent_to_rollback)] = None,
) -> Answer:
    """Roll back a Helm release to an earlier revision that was deployed once: planned and countersigned like any other change."""
    if consenting.was_asked(call, said):
        return await consenting.answered(call, said)
    release = await release_of(call, env, namespace, release_name)
    return await begin(call, "helm_rollback", release, {"revision": revision})


async def consent_to_uninstall(
    call: Call, release_name: str, namespace: str | None, env: str | None, keep_history: bool
) -> Given | Elicit[Any]:
    async def asked_for() -> Answer:
        return await begin(call, "helm_uninstall", await release_of(call, env, namespace, release_name), {"keep_history": keep_history})

    return await consenting.question(call, asked_for)


@HELM.tool("helm_uninstall", Access.DESTROY, title="Uninstall release", run=True)
async def helm_uninstall(
    call: Call,
    release_name: ReleaseName,
    namespace: Namespace | None = None,
    env: Env = None,
    keep_history: bool = False,
    said: Annotated[Outcome | None, Resolve(consent_to_uninstall)] = None,
) -> Answer:
    """Uninstall a Helm release: delete everything it holds but what its chart keeps. It plans, lists objects and volumes, then waits
    for a person who types the release's name; nothing skips that. One that is not there ends at once."""
    if consenting.was_asked(call, said):
        return await consenting.answered(call, said)
    release = await release_of(call, env, namespace, release_name)
    return await begin(call, "helm_uninstall", release, {"keep_history": keep_history})
