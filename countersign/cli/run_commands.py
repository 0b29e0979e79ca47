"""Runs from the command line: every one of these is a call of the same tools an agent has, with the key of a person."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from countersign.cli.exits import HELP
from countersign.cli.record_commands import AsJson, Data, KeyFile, Url
from countersign.cli.session import run, settings_of

if TYPE_CHECKING:
    from countersign.cli.door import Door

PANEL = "Runs"
Stack = Annotated[str, typer.Argument(metavar="STACK", help="env/slug, org/env/slug, or slug where there is one environment.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]
Var = Annotated[list[str] | None, typer.Option("--var", help="name=value; JSON, else text. Repeat.", show_default=False)]
SecretVar = Annotated[list[str] | None, typer.Option("--secret-var", help="name=slug of a sealed secret. Repeat.", show_default=False)]
VarFile = Annotated[list[Path] | None, typer.Option("--var-file", help="JSON object of values. Repeat.", show_default=False)]
Commit = Annotated[str | None, typer.Option("--commit", help="Commit to plan; else the registered ref.", show_default=False)]
Message = Annotated[str | None, typer.Option("--message", "-m", help="Why; goes to history and audit.", show_default=False)]
Idempotency = Annotated[str | None, typer.Option("--idempotency-key", help="The same on every retry of one intent.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it, or leave as soon as it is started.")]


def _door(data: Path | None, url: str | None, key_file: Path | None, as_json: bool) -> "Door":
    from countersign.cli.door import Door

    return Door(settings=settings_of(data, as_json=as_json), url=url, key_file=key_file, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    for function in (plan, apply, destroy, drift, import_, compose, approve, reject, cancel, resume, runs, show, watch, logs):
        app.command(function.__name__.rstrip("_"), rich_help_panel=PANEL, epilog=HELP)(function)
    app.command("open", rich_help_panel=PANEL, epilog=HELP)(open_page)


def plan(
    stack: Stack,
    var: Var = None,
    secret_var: SecretVar = None,
    var_file: VarFile = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="Only this address. Repeat.", show_default=False)] = None,
    destroy: Annotated[bool, typer.Option("--destroy", help="Plan the destruction of everything.")] = False,
    commit: Commit = None,
    message: Message = None,
    key: Idempotency = None,
    wait: Wait = True,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Plan a stack and show it. Changes nothing and asks nobody."""
    from countersign.cli import runs as doing

    arguments = {"targets": target or None, "destroy": destroy or None, "commit": commit}
    asked = doing.Start(
        tool="terraform_plan",
        stack=stack,
        message=message,
        key=key,
        wait=wait,
        arguments=arguments,
        vars=tuple(var or ()),
        secret_vars=tuple(secret_var or ()),
        var_files=tuple(var_file or ()),
    )
    run(doing.start(_door(data, url, key_file, as_json), asked), as_json=as_json)


def apply(
    stack: Stack,
    var: Var = None,
    secret_var: SecretVar = None,
    var_file: VarFile = None,
    plan_digest: Annotated[str | None, typer.Option("--plan", help="Digest of an earlier plan to adopt.", show_default=False)] = None,
    auto_approve: Annotated[bool, typer.Option("--auto-approve", help="Agree at once, where policy lets the asker.")] = False,
    commit: Commit = None,
    message: Message = None,
    key: Idempotency = None,
    wait: Wait = True,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Plan a stack, have the plan countersigned, apply it.

    At a terminal it shows the plan and asks whether you agree; elsewhere it leaves with 3 and tells what to run.
    """
    from countersign.cli import runs as doing

    arguments = {"plan_digest": plan_digest, "auto_approve": auto_approve or None, "commit": commit}
    asked = doing.Start(
        tool="apply_terraform",
        stack=stack,
        message=message,
        key=key,
        wait=wait,
        arguments=arguments,
        vars=tuple(var or ()),
        secret_vars=tuple(secret_var or ()),
        var_files=tuple(var_file or ()),
    )
    run(doing.start(_door(data, url, key_file, as_json), asked), as_json=as_json)


def destroy(
    stack: Stack,
    message: Message = None,
    key: Idempotency = None,
    wait: Wait = True,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Plan the destruction of a stack, have it countersigned with the name typed out, destroy it."""
    from countersign.cli import runs as doing

    asked = doing.Start(tool="destroy_terraform", stack=stack, message=message, key=key, wait=wait, arguments={})
    run(doing.start(_door(data, url, key_file, as_json), asked), as_json=as_json)


def drift(
    stack: Stack,
    message: Message = None,
    key: Idempotency = None,
    wait: Wait = True,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Look for what was changed outside of a stack since its last apply. Changes nothing and asks nobody.

    How often that is done by itself: stack register --drift-every.
    """
    from countersign.cli import runs as doing

    asked = doing.Start(tool="terraform_detect_drift", stack=stack, message=message, key=key, wait=wait, arguments={})
    run(doing.start(_door(data, url, key_file, as_json), asked), as_json=as_json)


def import_(
    stack: Stack,
    address: Annotated[str, typer.Argument(help="Of the resource in the configuration, such as type.name.")],
    external_id: Annotated[str, typer.Argument(metavar="ID", help="Of the object that exists, as the type's import takes it.")],
    message: Message = None,
    key: Idempotency = None,
    wait: Wait = True,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Plan the import of an object that exists, have the plan countersigned, take the object into the state."""
    from countersign.cli import runs as doing

    arguments = {"address": address, "external_id": external_id}
    asked = doing.Start(tool="terraform_import", stack=stack, message=message, key=key, wait=wait, arguments=arguments)
    run(doing.start(_door(data, url, key_file, as_json), asked), as_json=as_json)


def compose(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON: the steps in their order, each {type, input, late}.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only plan, and show it.")] = False,
    message: Message = None,
    key: Idempotency = None,
    wait: Wait = True,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Plan several runs as one, have that countersigned once, apply them in order."""
    from countersign.cli import runs as doing

    asked = doing.Compose(file=file, dry_run=dry_run, message=message, key=key, wait=wait)
    run(doing.compose(_door(data, url, key_file, as_json), asked), as_json=as_json)


def approve(
    run_id: RunId,
    digest: Annotated[str | None, typer.Option("--digest", help="Of the plan you read; else shown and asked.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of what is destroyed, typed out.", show_default=False)] = None,
    comment: Annotated[str | None, typer.Option("--comment", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the apply, or leave.")] = True,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Countersign the plan of a run, named by its digest, so that exactly this plan is applied."""
    from countersign.cli import deciding

    given = deciding.Approval(run_id=run_id, digest=digest, name=name, comment=comment, wait=wait)
    run(deciding.approve(_door(data, url, key_file, as_json), given), as_json=as_json)


def reject(
    run_id: RunId,
    reason: Annotated[str, typer.Option("--reason", help="Recorded, and shown to whoever asked.")],
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Reject a run before anything changed."""
    from countersign.cli import deciding

    run(
        deciding.reject(_door(data, url, key_file, as_json), run_id, reason),
        as_json=as_json,
    )


def cancel(
    run_id: RunId,
    reason: Annotated[str | None, typer.Option("--reason", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Only after a first cancel and its grace period.")] = False,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a run: before apply nothing is changed, an apply is interrupted once and tells what it did."""
    from countersign.cli import deciding

    door = _door(data, url, key_file, as_json)
    run(deciding.cancel(door, run_id, reason, force=force), as_json=as_json)


def resume(
    run_id: RunId,
    exists: Annotated[list[str] | None, typer.Option("--exists", help="ADDRESS=ID of what is there.", show_default=False)] = None,
    absent: Annotated[list[str] | None, typer.Option("--absent", help="ADDRESS of which nothing is there.", show_default=False)] = None,
    machine_gone: Annotated[str | None, typer.Option(help="HOST of the lost apply, if it is gone for good.", show_default=False)] = None,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Let a run that needs an operator look again, with what was found in the cloud where it asked for that."""
    from countersign.cli import deciding

    door = _door(data, url, key_file, as_json)
    run(deciding.resume(door, run_id, exists=exists or (), absent=absent or (), gone=machine_gone), as_json=as_json)


def runs(
    stack: Annotated[str | None, typer.Option("--stack", help="Only of this stack.", show_default=False)] = None,
    state: Annotated[str | None, typer.Option("--state", help="Only these; open: all not ended.", show_default=False)] = None,
    env: Annotated[str | None, typer.Option("--env", show_default=False)] = None,
    requester: Annotated[str | None, typer.Option("--by", help="Only asked for by this principal.", show_default=False)] = None,
    since: Annotated[str | None, typer.Option("--since", help="-2h, or a time.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100)] = 20,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List runs: those that wait for a person first, then the newest."""
    from countersign.cli import runs as doing

    door = _door(data, url, key_file, as_json)
    filters = {"target": stack, "state": state, "env": env, "requester": requester, "since": since, "limit": limit}
    run(doing.listed(door, filters), as_json=as_json)


def show(run_id: RunId, url: Url = None, key_file: KeyFile = None, data: Data = None, as_json: AsJson = False) -> None:
    """Show a run: where it stands, its plan with all attributes, who decided, what it did."""
    from countersign.cli import runs as doing

    run(doing.show(_door(data, url, key_file, as_json), run_id), as_json=as_json)


def open_page(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="Id of the run; else the list of runs.", show_default=False)] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Start a browser, or only tell the address.")] = True,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Open the page of a run in a browser, signed in as the person whose key this machine has.

    The address works once, within a minute, and only for a person's key.
    """
    from countersign.cli import opening

    run(opening.open_page(_door(data, url, key_file, as_json), run_id, browser=browser), as_json=as_json)


def watch(
    run_id: RunId,
    through: Annotated[bool, typer.Option("--through", help="Go on watching while it waits for a person.")] = False,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Watch a run until it ends or waits for a person; the exit code tells which."""
    from countersign.cli import runs as doing

    run(
        doing.watch(_door(data, url, key_file, as_json), run_id, through=through),
        as_json=as_json,
    )


def logs(
    run_id: RunId,
    step: Annotated[str | None, typer.Option("--step", show_default=False)] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=1000)] = 100,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show the log of a run: what the engine said, redacted, the end of it."""
    from countersign.cli import runs as doing

    run(
        doing.logs(_door(data, url, key_file, as_json), run_id, step=step, lines=lines),
        as_json=as_json,
    )
