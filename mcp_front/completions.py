"""Completing what somebody types for a prompt or an address: only what they may see, and at most a hundred of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from mcp import types
from mcp.shared.exceptions import MCPError

from countersign.adapters.store import records, runs
from countersign.core.errors import CountersignError
from countersign.core.run import RunState
from mcp_front import lookup, resources
from mcp_front.call import Call
from mcp_front.dispatch import Dispatch, protocol_error
from mcp_front.prompts import prompts_for
from mcp_front.rights import ROLES, Caller

MOST = 100
_FAILED = (RunState.ERRORED, RunState.PARTIALLY_APPLIED, RunState.INTERRUPTED, RunState.NEEDS_OPERATOR)
Chosen = Mapping[str, str]  # the other arguments, as far as they are filled in
Reference = types.PromptReference | types.ResourceTemplateReference


async def _organizations(call: Call, chosen: Chosen) -> Sequence[str]:
    return [call.org]


async def _environments(call: Call, chosen: Chosen) -> Sequence[str]:
    if chosen.get("org", call.org) != call.org:
        return []
    return [path.split("/", 1)[1] for path in lookup.environments(call)]


async def _workspaces(call: Call, chosen: Chosen) -> Sequence[str]:
    return sorted({path.rsplit("/", 1)[1] for path in await _targets(call, chosen)})


async def _targets(call: Call, chosen: Chosen) -> Sequence[str]:
    env = chosen.get("env")
    async with call.front.store.read() as conn:
        path = None if env is None else env if "/" in env else f"{call.org}/{env}"
        found, _ = await records.list_stacks(conn, call.org, env=path, limit=500)
    return [stack.path for stack in found]


async def _runs(call: Call, chosen: Chosen) -> Sequence[str]:
    return await _visible(call, ())


async def _failed_runs(call: Call, chosen: Chosen) -> Sequence[str]:
    return await _visible(call, _FAILED)


async def _visible(call: Call, states: Sequence[RunState]) -> Sequence[str]:
    narrowed = lookup.visible_runs(call)
    if narrowed is None:
        return []
    async with call.front.store.read() as conn:
        found, _ = await runs.list_runs(conn, call.org, states=states, limit=500, **narrowed)
    return [run.id for run in found]


async def _roles(call: Call, chosen: Chosen) -> Sequence[str]:
    return list(ROLES)


# Argument: the tool whose right shows these values, and what finds them.
SOURCES: Mapping[str, tuple[str, Callable[[Call, Chosen], Awaitable[Sequence[str]]]]] = {
    "org": ("list_organizations", _organizations),
    "env": ("list_environments", _environments),
    "environment": ("list_environments", _environments),
    "workspace": ("terraform_list_workspaces", _workspaces),
    "target": ("terraform_list_workspaces", _targets),
    "run_id": ("run_get", _runs),
    "stack_job_id": ("run_get", _failed_runs),
    "role": ("whoami", _roles),
}


async def complete(
    dispatch: Dispatch, ref: Reference, argument: types.CompletionArgument, context: types.CompletionContext | None
) -> types.Completion:
    """Raises INVALID_PARAMS for a prompt or a template that is not there for the caller. What has no completions has none."""
    caller = dispatch.who()
    _known(dispatch, caller, ref)
    if argument.name not in SOURCES:
        return types.Completion(values=[], total=0, has_more=False)
    tool, source = SOURCES[argument.name]
    if not dispatch.may(caller, tool):
        return types.Completion(values=[], total=0, has_more=False)
    try:
        every = await source(dispatch.call(caller, tool), (context.arguments if context else None) or {})
    except CountersignError as away:
        raise protocol_error(away) from None
    typed = argument.value.lower()
    first = [value for value in every if value.lower().startswith(typed)]
    hits = first or [value for value in every if typed in value.lower()]
    return types.Completion(values=hits[:MOST], total=len(hits), has_more=len(hits) > MOST)


def _known(dispatch: Dispatch, caller: Caller, ref: Reference) -> None:
    if isinstance(ref, types.PromptReference):
        if ref.name not in {prompt.name for prompt in prompts_for(dispatch, caller)}:
            raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {ref.name[:80]}")
    elif ref.uri not in {template.uri_template for template in resources.templates_for(dispatch, caller)}:
        raise MCPError(types.INVALID_PARAMS, f"Unknown resource template: {ref.uri[:200]}")
