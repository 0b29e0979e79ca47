"""Destroying: the run waits for a person who types the name, and where that person sits before this client they are asked in the call.

The question is the one `run_approve` asks, about exactly the plan that was made, and the answer is sent as an approval of that plan:
it has the authority of its connection, and `decide` says what that is worth. Whoever cannot be asked, or closes the question, gets the
run, which waits on.
"""

from typing import Annotated, Any

from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Elicit, Resolve

from countersign.adapters.store import plans
from countersign.adapters.store.runs import RunRow
from countersign.core.run import Mode
from mcp_front import asking, lookup, shown
from mcp_front.asking import Given, Outcome
from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer
from mcp_front.rights import allowed
from mcp_front.starting import settled
from mcp_front.tools.terraform.runs import begin, stack_of
from mcp_front.tools.terraform.server import TERRAFORM, Env, Workspace

PLANNED = 20.0  # seconds a person who can be asked waits for the plan; after that they get the run, as everybody does
_UNASKED = Given()


async def consent(call: Call, env: str, workspace: str, auto_approve: bool) -> Given | Elicit[Any]:
    """The question to the person, once there is a plan to ask about. It starts the run, or joins it: asked again, it is the same one."""
    if not (call.can_ask and call.caller.is_person) or call.given.dry_run:
        return _UNASKED
    run_id = await _begun(call, env, workspace)
    call.asked["run_id"] = run_id
    run = await call.front.gateway.wait(call.org, run_id, settled, seconds=PLANNED)
    async with call.front.store.read() as conn:
        plan = await plans.get_plan(conn, run.org, run.id)
    if plan is None or run.plan_digest is None or not _may_approve(call, run) or not asking.would_count(call, run, run.plan_digest):
        return _UNASKED
    # What is agreed to is what was asked: where the plan is another by then, the digest says so.
    call.asked["plan_digest"] = run.plan_digest
    return asking.agreement(run, plan)


def _may_approve(call: Call, run: RunRow) -> bool:
    tool = call.front.toolset.tools["run_approve"]
    return allowed(call.caller, tool, run=run, protected=call.front.policy.is_protected(run.env))


async def _begun(call: Call, env: str, workspace: str) -> str:
    answer = await begin(call, "destroy_terraform", await stack_of(call, env, workspace, None), {})
    assert answer.run is not None  # what starts a run answers with it
    return answer.run.run_id


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
    if "plan_digest" in call.asked and said is not None:
        return await _answered(call, said, warnings)
    stack = await stack_of(call, env, workspace, None)
    dry = call.given.dry_run
    return await begin(call, "destroy_terraform", stack, {"destroy": dry}, mode=Mode.SPECULATIVE if dry else None, warnings=warnings)


async def _answered(call: Call, said: Outcome, warnings: list[str]) -> Answer:
    """What the person said, forwarded; the run either way."""
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, call.asked["run_id"])
    if not isinstance(said, AcceptedElicitation):
        return await shown.answer(call, run, warnings=(*warnings, asking.unanswered(said, run.id).message))
    await call.front.gateway.approve(
        call.caller, run, digest=call.asked["plan_digest"], comment=said.data.comment, confirm_name=asking.name_typed(said)
    )
    if call.given.wait_seconds:
        run = await call.front.gateway.wait(call.org, run.id, lambda now: now.ended, seconds=call.given.wait_seconds)
    return await shown.answer(call, run, warnings=tuple(warnings))
