"""Workspaces as records, and their states: list, read, register, forget."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal

from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Elicit, Resolve
from pydantic import BaseModel, ConfigDict, Field

from countersign.adapters.store import records
from countersign.adapters.store.records import KEEP, StackRow
from countersign.core.errors import ConfirmationRequired, NotFound, PolicyDenied
from countersign.core.repository import check_repository
from mcp_front import asking, lookup, receipts, workspaces
from mcp_front.asking import Given, Outcome, TypedName
from mcp_front.call import Call
from mcp_front.domain import Access
from mcp_front.envelope import Answer, clean
from mcp_front.shown import variables
from mcp_front.tools.terraform.server import TERRAFORM, Env, Vars, Workspace
from mcp_front.variables import checked_vars, unset_secrets

CredentialRef = Annotated[str | None, Field(max_length=63)]


class Source(BaseModel):
    """Where a workspace's configuration lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repo: Annotated[str | None, Field(max_length=300, description="https://… or ssh://…; without it a folder of stacks")] = None
    path: Annotated[str, Field(max_length=200, description="folder of the root module")]
    git_ref: Annotated[str | None, Field(max_length=200, description="branch or tag, with repo")] = None


@TERRAFORM.tool("terraform_list_workspaces", Access.READ, title="List workspaces", paged=True)
async def terraform_list_workspaces(
    call: Call, env: Annotated[str | None, Field(max_length=130)] = None, text: Annotated[str | None, Field(max_length=100)] = None
) -> Answer:
    """List or find Terraform and OpenTofu workspaces (stacks) by name or environment: which are registered, their source, engine,
    serial of the state, whether they are locked, and the last run."""
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
    """Get a workspace: from which source and commit it is made, its engine, outputs, the state's serial, whether it is locked and who
    holds the lock, drift, when it was last applied, last runs."""
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
    version: Annotated[str | None, Field(max_length=40, description="1.11.4, ~> 1.11; any")] = None,
    plan_credential: CredentialRef = None,
    apply_credential: CredentialRef = None,
    vars: Vars = None,
    drift_every: Annotated[str | None, Field(max_length=10, description="90s, 2h, 7d; off")] = None,
) -> Answer:
    """Register a new workspace (create its record), or change one: its source folder or repository, engine, variables, credentials, and
    drift checks every so often. What is left out stays as it is; its state and its first plan come later, with a run."""
    path = lookup.environment(call, env)
    if source.repo is not None:
        check_repository(source.repo, call.front.settings.git.rules)
    await _may_read(call, path, reads or ())
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
        **{name: KEEP if value is None else value for name, value in given.items() if name not in ("drift_every", "version")},
        version=KEEP if version is None else None if version == "any" else version,
        drift_every=KEEP if drift_every is None else None if drift_every == "off" else drift_every,
    )
    what = "is registered" if done.created else "is changed" if done.changed else "stays as it is"
    data = {"workspace": workspaces.record(done.row), "created": done.created, "changed": {} if done.created else _changes(done.changed)}
    if call.given.dry_run:
        what, data["dry_run"] = f"{what}, in a dry run: nothing was written", True
    answer = Answer(
        text=f"{done.row.path} {what}",
        data=data,
        warnings=(*_without_effect(given), *await unset_secrets(call, vars, plan_credential, apply_credential)),
        next=("terraform_plan", "apply_terraform"),
    )
    return await receipts.kept(call, arguments, answer)


async def _may_read(call: Call, path: str, reads: Sequence[str]) -> None:
    """Outputs go along with whoever reads them: those of a protected environment stay in protected ones. Raises PolicyDenied."""
    policy = call.front.policy
    if not reads or policy.is_protected(path):
        return
    async with call.front.store.read() as conn:
        for ref in reads:
            with suppress(NotFound):  # told with the others, by name
                other = (await records.get_stack(conn, call.org, ref)).config
                if policy.is_protected(other.env):
                    raise PolicyDenied(
                        f"{other.path} is of a protected environment, {path} is not: its outputs would be open to whoever plans there",
                        field="reads",
                    )


def _changes(changed: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    def side(name: str, value: Any) -> Any:
        return variables(value) if name == "vars" and value else clean(value)

    return {name: {"before": side(name, before), "after": side(name, after)} for name, (before, after) in changed.items()}


def _without_effect(given: Mapping[str, Any]) -> list[str]:
    """What is kept with the record and has no effect; who registers it should not believe otherwise."""
    said = []
    if given["source"].get("git_ref") and not given["source"].get("repo"):
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
    """Forget (unregister) a workspace: remove its record only, and only where its state is empty already. `confirm_name` is its path,
    org/env/slug."""
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
    """Get what a workspace's state holds: the addresses of its resources, or one resource and its attributes with sensitive values
    hidden; earlier snapshots by `serial`."""
    async with call.front.store.read() as conn:
        stack = await lookup.workspace(call, conn, env, workspace)
        data = await workspaces.state_data(call, conn, stack, address=address, serial=serial)
    what = "one resource" if "resource" in data else f"{data['total']} address(es)"
    return Answer(text=f"state of {stack.path}, serial {data['serial']}: {what}", data=data, next=("terraform_get_workspace",))
