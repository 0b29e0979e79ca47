"""`countersign state`: the state service itself, and states by hand for the day on which nothing else answers."""

from pathlib import Path
from typing import Annotated

import typer

from countersign.cli.exits import HELP
from countersign.cli.session import run, settings_of

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data folder; else $COUNTERSIGN_DATA, else the user's data folder.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of text.")]
Org = Annotated[str | None, typer.Option("--org", help="Organization; else the first one of the settings.", show_default=False)]
Stack = Annotated[str, typer.Argument(metavar="STACK", help="env/slug or org/env/slug.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit chain.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", envvar="COUNTERSIGN_KEY_FILE", help="File with an administrator's key; else the local one.", show_default=False
    ),
]

state = typer.Typer(
    name="state",
    help="Run the state API; or look at a state, and in an emergency replace it, by hand.",
    epilog=HELP,
    rich_markup_mode="rich",
    invoke_without_command=True,
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(state, rich_help_panel="Service")


@state.callback()
def serve(context: typer.Context, data: Data = None) -> None:
    """Run the state API, in which engines keep their state.

    With a command: states by hand. These need neither Temporal nor any part of the service, only this data folder and the key of an
    administrator.
    """
    if context.invoked_subcommand is not None:
        if data is not None:
            raise typer.BadParameter(f"write it behind the command: countersign state {context.invoked_subcommand} --data …")
        return
    from countersign.cli.serving import state as serving

    run(serving(settings_of(data)))


@state.command("list")
def list_(stack: Stack, org: Org = None, data: Data = None, as_json: AsJson = False) -> None:
    """The history of a state, the newest first: serial, when, by which run, size. Also what lies here that the store does not know."""
    from countersign.cli import states

    run(states.show(settings_of(data, as_json=as_json), stack, org=org, as_json=as_json), as_json=as_json)


@state.command()
def pull(
    stack: Stack,
    serial: Annotated[int | None, typer.Option("--serial", help="An earlier one; else the newest.", show_default=False)] = None,
    found: Annotated[
        str | None, typer.Option("--found", help="One the store does not know, by the id `state list` tells.", show_default=False)
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write it to this new file (0600), else to standard output.", show_default=False)
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the audit chain.")] = "",
    key_file: KeyFile = None,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Give the whole state out, as it is stored: it holds secrets in clear. Who did stands in the audit chain."""
    from countersign.cli import states

    asked = states.Pull(stack=stack, serial=serial, found=found, to=to, reason=reason, key_file=key_file, org=org)
    run(states.pull(settings_of(data, as_json=as_json), asked, as_json=as_json), as_json=as_json)


@state.command()
def push(
    stack: Stack,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The state; - for standard input.")],
    reason: Reason,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", help="The stack's whole path, org/env/slug, typed out; else it is asked for.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also one of another lineage or with a serial that is not newer, which gets the next serial.")
    ] = False,
    lost: Annotated[
        bool, typer.Option("--lost", help="Nothing lives of the apply that is open, though this machine cannot tell: you made sure.")
    ] = False,
    key_file: KeyFile = None,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Replace a state by hand: for the day on which Temporal is down, or a restore left doubts. The one before is kept.

    Refused while an apply of the stack may live. Whoever could write the state is fenced, and plans that wait become stale.
    """
    from countersign.cli import states

    asked = states.PushAsked(stack=stack, file=file, reason=reason, confirm=confirm, force=force, lost=lost, key_file=key_file, org=org)
    run(states.push(settings_of(data, as_json=as_json), asked, as_json=as_json), as_json=as_json)


@state.command()
def accept(
    reason: Reason,
    stacks: Annotated[list[str] | None, typer.Argument(metavar="STACK...", help="Which; or --all.", show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every stack of the organization that is held.")] = False,
    key_file: KeyFile = None,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Let applies of a stack go on that were held after a restore: you looked, and its state is what exists."""
    from countersign.cli import states

    asked = states.Accept(stacks=tuple(stacks or ()), all=all_, reason=reason, key_file=key_file, org=org)
    run(states.accept(settings_of(data, as_json=as_json), asked, as_json=as_json), as_json=as_json)
