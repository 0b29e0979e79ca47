"""Breaking a lock that a dead attempt left."""

from typing import Annotated, Any

from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Elicit, Resolve
from pydantic import Field

from countersign.adapters.store.unlocking import force_unlock
from countersign.core.errors import ConfirmationRequired
from mcp_front import asking, lookup, receipts
from mcp_front.asking import Given, Outcome, TypedName
from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer, clean
from mcp_front.tools.terraform.server import TERRAFORM, Env, Workspace

LockId = Annotated[str, Field(min_length=1, max_length=128)]


def _asked(call: Call, env: str, workspace: str, lock_id: str) -> dict[str, Any]:
    """What a key stands for that was used to break a lock."""
    return {"env": lookup.environment(call, env), "workspace": workspace, "lock_id": lock_id}


async def typed(call: Call, env: str, workspace: str, lock_id: str) -> Given | Elicit[TypedName]:
    """The name a person types, or the question for it. Nobody is asked about a lock that may not be broken."""
    given = Given(confirm_name=call.given.confirm_name)
    if not call.can_ask or call.given.dry_run or await receipts.replayed(call, _asked(call, env, workspace, lock_id)) is not None:
        return given
    async with call.front.store.read() as conn:
        stack = await lookup.workspace(call, conn, env, workspace)
    lock = await force_unlock(call.front.store, stack, lock_id, by=call.caller.principal, dry_run=True)
    what = f"Break the lock {clean(lock.id)} on the state of {stack.path}? Its holder, {clean(lock.who)}, is fenced and dead."
    return asking.removal(what, stack.path)


@TERRAFORM.tool("terraform_force_unlock", Access.DESTROY, title="Force unlock")
async def terraform_force_unlock(
    call: Call, env: Env, lock_id: LockId, said: Annotated[Outcome, Resolve(typed)], workspace: Workspace = "main"
) -> Answer:
    """Force-unlock a workspace: break the stuck lock that a dead attempt of ours left on its state. Any other lock stays, and its holder
    is named. `confirm_name` is the workspace's path, org/env/slug."""
    if not isinstance(said, AcceptedElicitation):
        raise asking.unanswered(said)
    arguments = _asked(call, env, workspace, lock_id)
    if (before := await receipts.replayed(call, arguments)) is not None:
        return before
    async with call.front.store.read() as conn:
        stack = await lookup.workspace(call, conn, env, workspace)
    dry = call.given.dry_run
    lock = await force_unlock(call.front.store, stack, lock_id, by=call.caller.principal, dry_run=True)
    name = asking.name_typed(said)
    if not dry and name != stack.path:
        given = "another name was given" if name else "no name was given"
        raise ConfirmationRequired(
            f"this breaks the lock of {stack.path}: give that as confirm_name, typed by a person ({given})", field="confirm_name"
        )
    if not dry:
        await force_unlock(call.front.store, stack, lock_id, by=call.caller.principal)
    told = "could be unlocked; nothing was written" if dry else "is unlocked"
    data = {"ref": stack.path, "lock": {"id": clean(lock.id), "who": clean(lock.who), "created": clean(lock.created)}, "dry_run": dry}
    answer = Answer(text=f"the state of {stack.path} {told}", data=data, next=("terraform_get_workspace", "apply_terraform"))
    return await receipts.kept(call, arguments, answer)
