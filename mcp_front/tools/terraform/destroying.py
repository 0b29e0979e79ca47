"""Destroying: the run waits for a person who types the name, and where that person sits before this client they are asked in the call."""

from typing import Annotated, Any

from mcp.server.mcpserver import Elicit, Resolve

from countersign.core.run import Mode
from mcp_front import consenting
from mcp_front.asking import Given, Outcome
from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer
from mcp_front.tools.terraform.runs import begin, stack_of
from mcp_front.tools.terraform.server import TERRAFORM, Env, Workspace


async def consent(call: Call, env: str, workspace: str, auto_approve: bool) -> Given | Elicit[Any]:
    async def asked_for() -> Answer:
        return await begin(call, "destroy_terraform", await stack_of(call, env, workspace, None), {})

    return await consenting.question(call, asked_for)


@TERRAFORM.tool("destroy_terraform", Access.DESTROY, title="Destroy", run=True)
async def destroy_terraform(
    call: Call,
    env: Env,
    workspace: Workspace = "main",
    auto_approve: bool = False,
    said: Annotated[Outcome | None, Resolve(consent)] = None,
) -> Answer:
    """Destroy a workspace's infrastructure: delete (tear down, remove) everything its state holds. It plans, then waits for a person
    who types the workspace's path, asked right here where the client can ask; nothing skips that."""
    warnings = ["auto_approve never counts for destroying; a person has to type the name and approve the plan"] if auto_approve else []
    if consenting.was_asked(call, said):
        return await consenting.answered(call, said, warnings)
    stack = await stack_of(call, env, workspace, None)
    dry = call.given.dry_run
    return await begin(call, "destroy_terraform", stack, {"destroy": dry}, mode=Mode.SPECULATIVE if dry else None, warnings=warnings)
