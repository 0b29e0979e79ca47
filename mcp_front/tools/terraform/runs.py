"""The runs of Terraform: validate, plan, apply, destroy. Each answers with the run at once."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import state
from countersign.adapters.store.adopt import Adoptable, plan_to_adopt
from countersign.adapters.store.records import StackRow
from countersign.adapters.store.requests import Admit, Draft
from countersign.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, PlanStale
from countersign.core.run import RUN_TYPES, Mode
from countersign.core.terraform.imports import is_importable
from mcp_front import lookup, workspaces
from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer
from mcp_front.starting import Digest, started
from mcp_front.tools.terraform.server import TERRAFORM, Env, Vars, Workspace
from mcp_front.variables import checked_vars, unset_secrets

Commit = Annotated[str | None, Field(pattern=r"^[0-9a-f]{7,64}$")]
Address = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\s\-\x00-\x1f][^\x00-\x1f]*$")]


async def stack_of(call: Call, env: str, workspace: str, commit: str | None) -> StackRow:
    async with call.front.store.read() as conn:
        stack = await lookup.workspace(call, conn, env, workspace)
    if commit is not None and stack.config.source_repo is None:
        raise FailedPrecondition(
            f"{stack.path} is a folder, which has no commits; leave commit out, and it is planned as it is then", field="commit"
        )
    return stack


async def begin(
    call: Call,
    name: str,
    stack: StackRow,
    asked: Mapping[str, Any],
    *,
    mode: Mode | None = None,
    warnings: Sequence[str] = (),
    admit: Admit | None = None,
) -> Answer:
    """Start the run of the type `name`, or join it. What was left out is left out of the request, so that it may be joined."""
    arguments = {"env": stack.env, "workspace": stack.slug, **{k: v for k, v in asked.items() if v not in (None, False, [], {})}}
    begun = await call.front.gateway.start(
        call.caller,
        Draft(run_type=RUN_TYPES[name], stack=stack.config, arguments=arguments, mode=mode, admit=admit),
        key=call.given.idempotency_key,
        message=call.given.message,
    )
    notes = (*warnings, *await unset_secrets(call, asked.get("vars")))
    return await started(call, begun.run, replayed=begun.replayed, warnings=notes)


@TERRAFORM.tool("terraform_validate", Access.WRITE, title="Validate configuration", run=True, dry=False)
async def terraform_validate(call: Call, env: Env, workspace: Workspace = "main", commit: Commit = None) -> Answer:
    """Validate a workspace's configuration: check its syntax, lint its format, init, and what the operator allows. Takes no lock and
    writes no state; the run's plan lists the errors and other findings with file and line."""
    stack = await stack_of(call, env, workspace, commit)
    return await begin(call, "terraform_validate", stack, {"commit": commit})


@TERRAFORM.tool("terraform_plan", Access.WRITE, title="Plan", run=True, dry=False)
async def terraform_plan(
    call: Call,
    env: Env,
    workspace: Workspace = "main",
    vars: Vars = None,
    targets: Annotated[Sequence[Address], Field(max_length=50)] = (),
    commit: Commit = None,
    destroy: bool = False,
) -> Answer:
    """Plan a workspace to look at what would change, or be destroyed, without applying it: a speculative plan, a dry run or preview.
    Takes no lock and changes nothing. Unless it has targets or destroys, apply_terraform can adopt it by its plan_digest."""
    stack = await stack_of(call, env, workspace, commit)
    asked = {"vars": checked_vars(vars or {}), "targets": list(targets), "commit": commit, "destroy": destroy}
    warnings = ["a plan with targets is only to look at: nothing can adopt it"] if targets else []
    return await begin(call, "terraform_plan", stack, asked, warnings=warnings)


@TERRAFORM.tool("apply_terraform", Access.WRITE, title="Apply", run=True)
async def apply_terraform(
    call: Call,
    env: Env,
    workspace: Workspace = "main",
    vars: Vars = None,
    commit: Commit = None,
    plan_digest: Annotated[Digest | None, Field(description="of a terraform_plan to adopt")] = None,
    auto_approve: bool = False,
) -> Answer:
    """Apply a workspace: deploy, create or change its infrastructure up to the merged configuration or a commit and `vars`. It plans,
    waits for whoever has to agree, and applies exactly that plan. `plan_digest` adopts an earlier terraform_plan that still holds;
    `auto_approve` counts only where policy says so, never for what destroys."""
    stack = await stack_of(call, env, workspace, commit)
    asked = {"vars": checked_vars(vars or {}), "commit": commit, "auto_approve": auto_approve}
    warnings = [_auto_approved(call)] if auto_approve else []
    mode = Mode.SPECULATIVE if call.given.dry_run else None
    if plan_digest is None:
        return await begin(call, "apply_terraform", stack, asked, mode=mode, warnings=warnings)

    async def adoptable(conn: AsyncConnection) -> None:
        now = call.front.store.now()
        found = await plan_to_adopt(conn, org=call.org, stack=stack.config, plan_digest=plan_digest, now=now)
        _refuse_other_inputs(asked, found)

    asked["plan_digest"] = plan_digest
    return await begin(call, "apply_terraform", stack, asked, mode=mode, warnings=warnings, admit=adoptable)


def _refuse_other_inputs(asked: Mapping[str, Any], adopted: Adoptable) -> None:
    """What is given beside the digest of a plan has to be what that plan was made with. Raises PlanStale."""
    for name, used in (("vars", adopted.vars), ("commit", adopted.commit)):
        if asked[name] and asked[name] != used:
            raise PlanStale(f"that plan was made with other {name}; leave {name} out to adopt it", field=name, next=["apply_terraform"])


@TERRAFORM.tool("terraform_detect_drift", Access.WRITE, title="Detect drift", run=True, dry=False)
async def terraform_detect_drift(call: Call, env: Env, workspace: Workspace = "main") -> Answer:
    """Detect drift: whether reality differs from a workspace's state because something was changed outside since its last apply, by
    address, and who applied that last. Refresh only: takes no lock and changes nothing, the state neither."""
    stack = await stack_of(call, env, workspace, None)
    return await begin(call, "terraform_detect_drift", stack, {})


@TERRAFORM.tool("terraform_import", Access.WRITE, title="Import", run=True)
async def terraform_import(
    call: Call,
    env: Env,
    address: Address,
    external_id: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f]+$")],
    workspace: Workspace = "main",
) -> Answer:
    """Import an existing object into a workspace's state, under an address its configuration declares: planned like an apply, with what
    else is due, and countersigned. `external_id` is what the type's import takes."""
    stack = await stack_of(call, env, workspace, None)
    if not is_importable(address):
        raise InvalidArgument(f'{address[:100]!r} is no address of one resource; write it as `type.name["key"]`', field="address")
    async with call.front.store.read() as conn:
        managed = await workspaces.manages(call, conn, stack, address)

    async def importable(_: AsyncConnection) -> None:
        if managed:
            raise AlreadyExists(f"{stack.path} manages {address} already", field="address", next=["terraform_get_state"])

    mode = Mode.SPECULATIVE if call.given.dry_run else None
    return await begin(call, "terraform_import", stack, {"address": address, "external_id": external_id}, mode=mode, admit=importable)


# The catalogue has no tool for it: people do this once in a while, and no agent should find it among the first. `run_start` does.
@TERRAFORM.tool("terraform_restore_state", Access.WRITE, title="Restore state", run=True, listed=False)
async def terraform_restore_state(
    call: Call,
    env: Env,
    serial: Annotated[int, Field(ge=0, description="of an earlier snapshot, as terraform_get_state lists them")],
    workspace: Workspace = "main",
) -> Answer:
    """Restore an earlier state of a workspace: its content becomes the newest state under a new serial, once people agreed to the
    difference. Only the record changes, nothing in the cloud; what is there now stays in the history."""
    stack = await stack_of(call, env, workspace, None)

    async def restorable(conn: AsyncConnection) -> None:
        if stack.config.own:
            raise FailedPrecondition(
                f"the state of {stack.path} stays in its own backend, and earlier ones are restored there", field="workspace"
            )
        found = await workspaces.snapshot_of(call, conn, stack, serial)
        if found is not None and found.seq == (await state.head(conn, call.org, stack.id)).seq:
            raise FailedPrecondition(f"serial {serial} is the newest state of {stack.path} already", field="serial")

    mode = Mode.SPECULATIVE if call.given.dry_run else None
    return await begin(call, "terraform_restore_state", stack, {"serial": serial}, mode=mode, admit=restorable)


def _auto_approved(call: Call) -> str:
    listed = ", ".join(call.front.policy.auto_approve)
    if not listed:
        return "auto_approve changes nothing here: policy lists no class of change that callers may approve themselves"
    return f"auto_approve counts only where the plan's class is one of {listed}; it never counts for what destroys"
