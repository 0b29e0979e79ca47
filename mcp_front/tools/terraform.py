"""`terraform`: workspaces as records, their states, and the runs that plan, apply and destroy them.

At the door only shapes and names are checked. What a configuration declares is known to the plan alone, and so a variable that
nobody declared is refused there.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Elicit, Resolve
from pydantic import BaseModel, ConfigDict, Field

from countersign.adapters.store import records
from countersign.adapters.store.records import KEEP, StackRow
from countersign.core.errors import ConfirmationRequired, FailedPrecondition, PlanStale
from countersign.core.run import RUN_TYPES, Mode
from mcp_front import asking, lookup, receipts, workspaces
from mcp_front.asking import Given, Outcome, TypedName
from mcp_front.call import Call
from mcp_front.domain import Access, Domain
from mcp_front.envelope import Answer, clean
from mcp_front.shown import variables
from mcp_front.starting import Digest, started
from mcp_front.variables import checked_vars, unset_secrets

TERRAFORM = Domain("terraform")

Env = Annotated[str, Field(min_length=1, max_length=130, description="org/env, or env")]
Workspace = Annotated[str, Field(min_length=1, max_length=63)]
Vars = Annotated[dict[str, Any] | None, Field(description="secrets only as {secret: slug}")]
Commit = Annotated[str | None, Field(pattern=r"^[0-9a-f]{7,64}$")]
Address = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\s\-\x00-\x1f][^\x00-\x1f]*$")]
CredentialRef = Annotated[str | None, Field(max_length=63)]


class Source(BaseModel):
    """Where a workspace's configuration lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: Annotated[str | None, Field(max_length=300, description="later; leave out")] = None
    path: Annotated[str, Field(max_length=200, description="folder below the configured stacks")]
    git_ref: Annotated[str | None, Field(max_length=200)] = None


@TERRAFORM.tool("terraform_list_workspaces", Access.READ, title="List workspaces", paged=True)
async def terraform_list_workspaces(
    call: Call, env: Annotated[str | None, Field(max_length=130)] = None, text: Annotated[str | None, Field(max_length=100)] = None
) -> Answer:
    """List Terraform and OpenTofu workspaces: source, engine, serial of the state, whether it is locked, and the last run."""
    path = lookup.environment(call, env) if env else None
    async with call.front.store.read() as conn:
        found, total = await records.list_stacks(conn, call.org, env=path, text=text, offset=call.offset, limit=call.given.limit)
        rows = [await workspaces.row(call, conn, stack) for stack in found]
    return Answer(
        text=f"{total} workspace(s)",
        data={"workspaces": rows},
        page=call.page(returned=len(rows), total=total),
        next=("terraform_get_workspace",) if total else ("terraform_register_workspace",),
    )


@TERRAFORM.tool("terraform_get_workspace", Access.READ, title="Get workspace")
async def terraform_get_workspace(call: Call, env: Env, workspace: Workspace = "main") -> Answer:
    """Get a workspace: its source and engine, the state's serial, who holds its lock and whether they live, outputs, last runs."""
    async with call.front.store.read() as conn:
        stack = await lookup.workspace(call, conn, env, workspace)
        data = await workspaces.whole(call, conn, stack)
    lock = data.get("lock")
    held = f", locked by {lock['run_id']}" if lock and lock.get("run_id") else ", locked" if lock else ""
    return Answer(
        text=f"{stack.path}: {stack.body['engine']}, serial {data['state']['serial']}{held}",
        data=data,
        next=("terraform_plan", "apply_terraform", "terraform_get_state"),
    )


@TERRAFORM.tool("terraform_register_workspace", Access.WRITE, title="Register workspace", record=True)
async def terraform_register_workspace(
    call: Call,
    env: Env,
    source: Source,
    workspace: Workspace = "main",
    reads: Annotated[Sequence[str] | None, Field(max_length=20)] = None,
    engine: Annotated[Literal["terraform", "tofu"] | None, Field(json_schema_extra={"default": "terraform"})] = None,
    version: Annotated[str | None, Field(max_length=40)] = None,
    plan_credential: CredentialRef = None,
    apply_credential: CredentialRef = None,
    vars: Vars = None,
    drift_every: Annotated[str | None, Field(max_length=10, description="90s, 2h, 7d")] = None,
) -> Answer:
    """Register a workspace, or change it: what is left out stays as it is. Its state and its first plan come later, with a run."""
    path = lookup.environment(call, env)
    if source.repo is not None:
        raise FailedPrecondition(
            "Git sources come later; leave repo out and name a folder below the configured stacks as path", field="source.repo"
        )
    given: dict[str, Any] = {
        "source": source.model_dump(),
        "reads": list(reads) if reads is not None else None,
        "engine": engine,
        "version": version,
        "plan_credential": plan_credential,
        "apply_credential": apply_credential,
        "vars": checked_vars(vars) if vars is not None else None,
        "drift_every": drift_every,
    }
    arguments = {"env": path, "workspace": workspace, **given, "expected_version": call.given.expected_version}
    if (before := await receipts.replayed(call, arguments)) is not None:
        return before
    done = await records.register_stack(
        call.front.store,
        org=call.org,
        env=path.split("/", 1)[1],
        slug=workspace,
        by=call.caller.principal,
        expected_version=call.given.expected_version,
        dry_run=call.given.dry_run,
        **{name: KEEP if value is None else value for name, value in given.items()},
    )
    what = "is registered" if done.created else "is changed" if done.changed else "stays as it is"
    data = {"workspace": workspaces.record(done.row), "created": done.created, "changed": {} if done.created else _changes(done.changed)}
    if call.given.dry_run:
        what, data["dry_run"] = f"{what}, in a dry run: nothing was written", True
    answer = Answer(
        text=f"{done.row.path} {what}",
        data=data,
        warnings=(*_not_yet(given), *await unset_secrets(call, vars, plan_credential, apply_credential)),
        next=("terraform_plan", "apply_terraform"),
    )
    return await receipts.kept(call, arguments, answer)


def _changes(changed: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    def side(name: str, value: Any) -> Any:
        return variables(value) if name == "vars" and value else clean(value)

    return {name: {"before": side(name, before), "after": side(name, after)} for name, (before, after) in changed.items()}


def _not_yet(given: Mapping[str, Any]) -> list[str]:
    """What is kept with the record and not acted on so far; who registers it should not believe otherwise."""
    said = []
    if given["version"]:
        said.append("version is kept, and not acted on yet: the engine found on the worker's machine is used")
    if given["reads"]:
        said.append("reads is kept, and not acted on yet: plans do not get the outputs of those stacks")
    if given["drift_every"]:
        said.append("drift_every is kept, and not acted on yet: no drift checks are scheduled")
    if given["source"].get("git_ref"):
        said.append("git_ref has no meaning without repo: the folder is planned as it is then")
    return said


def _forgetting(call: Call, env: str, workspace: str) -> dict[str, Any]:
    """What a key stands for that was used to forget a workspace."""
    return {"env": lookup.environment(call, env), "workspace": workspace, "expected_version": call.given.expected_version}


async def _forgettable(call: Call, env: str, workspace: str) -> tuple[StackRow, Callable[..., Awaitable[StackRow]]]:
    """The workspace, and what forgets it. Raises what refuses that: nobody is asked for the name of what cannot be forgotten."""
    async with call.front.store.read() as conn:
        stack = await lookup.workspace(call, conn, env, workspace)
        seen = await workspaces.empty(call, conn, stack)
    forget = partial(
        records.forget_stack,
        call.front.store,
        org=call.org,
        ref=stack.id,
        by=call.caller.principal,
        expected_version=call.given.expected_version,
        seen_seq=seen,
    )
    await forget(dry_run=True)
    return stack, forget


async def typed(call: Call, env: str, workspace: str) -> Given | Elicit[TypedName]:
    """The name a person types, or the question for it. Where the client can ask, a name in the arguments counts for nothing."""
    given = Given(confirm_name=call.given.confirm_name)
    if not call.can_ask or call.given.dry_run or await receipts.replayed(call, _forgetting(call, env, workspace)) is not None:
        return given
    stack, _ = await _forgettable(call, env, workspace)
    what = f"Forget the workspace {stack.path}? Its state holds nothing any more; its record goes, and its runs stay."
    return asking.removal(what, stack.path)


@TERRAFORM.tool("terraform_forget_workspace", Access.DESTROY, title="Forget workspace", record=True)
async def terraform_forget_workspace(
    call: Call, env: Env, said: Annotated[Outcome, Resolve(typed)], workspace: Workspace = "main"
) -> Answer:
    """Forget a workspace: only the record, and only where its state holds nothing any more. `confirm_name` is its path, org/env/slug."""
    if not isinstance(said, AcceptedElicitation):
        raise asking.unanswered(said)
    arguments = _forgetting(call, env, workspace)
    if (before := await receipts.replayed(call, arguments)) is not None:
        return before
    stack, forget = await _forgettable(call, env, workspace)
    name = asking.name_typed(said)
    if not call.given.dry_run and name != stack.path:
        given = "another name was given" if name else "no name was given"
        raise ConfirmationRequired(
            f"this removes the record of {stack.path}: give that as confirm_name, typed by a person ({given})", field="confirm_name"
        )
    if not call.given.dry_run:
        await forget()
    told = "would be forgotten; nothing was written" if call.given.dry_run else "is forgotten"
    answer = Answer(
        text=f"{stack.path} {told}", data={"forgotten": stack.path, "dry_run": call.given.dry_run}, next=("terraform_list_workspaces",)
    )
    return await receipts.kept(call, arguments, answer)


@TERRAFORM.tool("terraform_get_state", Access.READ, title="Get state")
async def terraform_get_state(
    call: Call,
    env: Env,
    workspace: Workspace = "main",
    address: Annotated[str | None, Field(max_length=500, description="a resource, or the beginning of addresses")] = None,
    serial: Annotated[int | None, Field(ge=0)] = None,
) -> Answer:
    """Get the addresses in a workspace's state, or one resource with sensitive values hidden; earlier snapshots by `serial`."""
    async with call.front.store.read() as conn:
        stack = await lookup.workspace(call, conn, env, workspace)
        data = await workspaces.state_data(call, conn, stack, address=address, serial=serial)
    what = "one resource" if "resource" in data else f"{data['total']} address(es)"
    return Answer(text=f"state of {stack.path}, serial {data['serial']}: {what}", data=data, next=("terraform_get_workspace",))


# -- runs -------------------------------------------------------------------------------------------------------------


async def _stack(call: Call, env: str, workspace: str, commit: str | None) -> StackRow:
    async with call.front.store.read() as conn:
        stack = await lookup.workspace(call, conn, env, workspace)
    if commit is not None and stack.config.source_repo is None:
        raise FailedPrecondition(
            f"{stack.path} is a folder, which has no commits; leave commit out, and it is planned as it is then", field="commit"
        )
    return stack


async def _start(
    call: Call, name: str, stack: StackRow, asked: Mapping[str, Any], *, mode: Mode | None = None, warnings: Sequence[str] = ()
) -> Answer:
    """Start the run of the type `name`, or join it. What was left out is left out of the request, so that it may be joined."""
    arguments = {"env": stack.env, "workspace": stack.slug, **{k: v for k, v in asked.items() if v not in (None, False, [], {})}}
    begun = await call.front.gateway.start(
        call.caller, RUN_TYPES[name], stack.config, arguments, key=call.given.idempotency_key, message=call.given.message, mode=mode
    )
    notes = (*warnings, *await unset_secrets(call, asked.get("vars")))
    return await started(call, begun.run, replayed=begun.replayed, warnings=notes)


@TERRAFORM.tool("terraform_validate", Access.WRITE, title="Validate configuration", run=True, dry=False)
async def terraform_validate(call: Call, env: Env, workspace: Workspace = "main", commit: Commit = None) -> Answer:
    """Validate a workspace's configuration: format, init, validate, and what the operator allows. Takes no lock and writes no state;
    the run's plan lists the findings with file and line."""
    stack = await _stack(call, env, workspace, commit)
    return await _start(call, "terraform_validate", stack, {"commit": commit})


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
    """Plan a workspace to look at what would change; this plan is never applied. Takes no lock and changes nothing. The same request
    joins the run that is open already."""
    stack = await _stack(call, env, workspace, commit)
    asked = {"vars": checked_vars(vars or {}), "targets": list(targets), "commit": commit, "destroy": destroy}
    return await _start(call, "terraform_plan", stack, asked)


@TERRAFORM.tool("apply_terraform", Access.WRITE, title="Apply", run=True)
async def apply_terraform(
    call: Call,
    env: Env,
    workspace: Workspace = "main",
    vars: Vars = None,
    commit: Commit = None,
    plan_digest: Annotated[Digest | None, Field(description="of a plan to adopt; later")] = None,
    auto_approve: bool = False,
) -> Answer:
    """Apply a workspace: plan it, weigh the plan by policy, wait for whoever has to agree, and apply exactly that plan. What it needs
    stands in the run; `auto_approve` counts only for changes policy lists, never for what destroys."""
    stack = await _stack(call, env, workspace, commit)
    if plan_digest is not None:
        raise PlanStale(
            "no plan can be adopted under this digest; call apply_terraform without plan_digest: it plans anew and asks for that plan",
            field="plan_digest",
            next=["apply_terraform"],
        )
    asked = {"vars": checked_vars(vars or {}), "commit": commit, "auto_approve": auto_approve}
    warnings = [_auto_approved(call)] if auto_approve else []
    return await _start(call, "apply_terraform", stack, asked, mode=Mode.SPECULATIVE if call.given.dry_run else None, warnings=warnings)


def _auto_approved(call: Call) -> str:
    listed = ", ".join(call.front.policy.auto_approve)
    if not listed:
        return "auto_approve changes nothing here: policy lists no class of change that callers may approve themselves"
    return f"auto_approve counts only where the plan's class is one of {listed}; it never counts for what destroys"


@TERRAFORM.tool("destroy_terraform", Access.DESTROY, title="Destroy", run=True)
async def destroy_terraform(call: Call, env: Env, workspace: Workspace = "main", auto_approve: bool = False) -> Answer:
    """Destroy everything a workspace's state holds. The run plans it and then waits for a person who types the workspace's path;
    nothing skips that. The record stays."""
    stack = await _stack(call, env, workspace, None)
    warnings = ["auto_approve never counts for destroying; a person has to type the name and approve the plan"] if auto_approve else []
    dry = call.given.dry_run
    return await _start(call, "destroy_terraform", stack, {"destroy": dry}, mode=Mode.SPECULATIVE if dry else None, warnings=warnings)
