"""`countersign …`: one command for operators, people who agree, and scripts.

Declarations only: what a subcommand needs is imported when it runs, because the cold start of each part of the service is mostly
its imports (a test lists what each may load).
"""

import gc
from pathlib import Path
from typing import Annotated

import typer

from countersign.cli import backup_commands, dev_cluster, exits, mcp_config, record_commands, run_commands, state_commands, webhook_commands
from countersign.cli.session import run, settings_of

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data folder; else $COUNTERSIGN_DATA, else the user's data folder.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of text.")]

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="postgresql://USER@HOST/DATABASE in place of SQLite, its password in PGPASSWORD or PGPASSFILE; else $COUNTERSIGN_DATABASE.",
        show_default=False,
    ),
]

app = typer.Typer(
    name="countersign",
    help="Agents and people change infrastructure through one gate: plan, countersign that exact plan, apply it durably, prove it "
    "afterwards.",
    epilog=exits.HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local variables could show a secret
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
SERVICE = "Service"


def _version(asked: bool) -> None:
    if asked:
        from countersign import __version__

        typer.echo(f"countersign {__version__}")
        raise typer.Exit()


@app.callback()
def countersign(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    pass


@app.command(rich_help_panel=SERVICE)
def up(data: Data = None, database: Database = None, as_json: AsJson = False) -> None:
    """Run the whole service on this machine: Temporal, state API, worker and front, each restarted when it ends.

    Ready when it says so; Ctrl-C or SIGTERM ends it. A running apply is not ended and goes on by design. With --json: one document a
    line, `"event": "ready"` among them. Ports and more are settings: countersign.toml in the data folder, or COUNTERSIGN_FRONT_PORT,
    COUNTERSIGN_STATE_PORT, COUNTERSIGN_TEMPORAL_PORT, COUNTERSIGN_TEMPORAL_UI_PORT, COUNTERSIGN_TEMPORAL_ADDRESS for one of your own.
    """
    from countersign.cli.nursery import begun

    zygote = begun(data)  # it loads what the parts need while we load what `up` does
    from countersign.cli.up import up as serve

    run(serve(settings_of(data, as_json=as_json, database=database), as_json=as_json, zygote=zygote), as_json=as_json)


@app.command(rich_help_panel=SERVICE)
def migrate(
    data: Data = None,
    database: Database = None,
    temporal: Annotated[
        bool, typer.Option("--temporal", help="Also register in a Temporal of your own what runs need; wait for it, a minute at most.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the store's schema up to date and leave; again is no error. `up` and every part do the same when they start.

    For databases on which those may not make tables, and for doing it before new parts are rolled out.
    """
    from countersign.cli.migrating import migrate as bring

    run(bring(settings_of(data, as_json=as_json, database=database), temporal=temporal, as_json=as_json), as_json=as_json)


@app.command("new-keys", rich_help_panel=SERVICE)
def new_keys(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="To make, or empty.", show_default=False)], as_json: AsJson = False
) -> None:
    """Make the key files of a service whose parts run apart, each with those of its role. Keep a copy: without them nothing opens."""
    from countersign.cli.new_keys import new_keys as make

    run(make(folder.expanduser().absolute(), as_json=as_json), as_json=as_json)


@app.command(rich_help_panel=SERVICE)
def worker(data: Data = None, prepare_temporal: Annotated[bool, typer.Option("--prepare-temporal", hidden=True)] = False) -> None:
    """Run one worker: plans, applies and decisions. It waits for its Temporal."""
    from countersign.cli.serving import worker as serve

    run(serve(settings_of(data), prepare_temporal=prepare_temporal))


@app.command(rich_help_panel=SERVICE)
def front(
    data: Data = None,
    stdio: Annotated[
        bool, typer.Option("--stdio", help="Speak MCP over standard input and output, as an agent of the local user.")
    ] = False,
    role: Annotated[
        str | None, typer.Option("--role", envvar="AGENT_ROLE", help="With --stdio: the agent's role; else platform.", show_default=False)
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option("--server", help="With --stdio: list this server's tools in place of the role's. Repeat.", show_default=False),
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", envvar="PROJECT_ID", help="Understood, and selects nothing so far.", show_default=False)
    ] = None,
) -> None:
    """Run the MCP front: over HTTP, or for one client over stdio."""
    from countersign.cli.serving import front as serve

    run(serve(settings_of(data), stdio=stdio, role=role, servers=server or (), project=project))


@app.command(rich_help_panel=SERVICE)
def doctor(data: Data = None, as_json: AsJson = False) -> None:
    """Say what is missing on this machine and how to get it. Ends with 1 where something needed is missing."""
    from countersign.cli.doctor import doctor as look

    run(look(settings_of(data, as_json=as_json), as_json=as_json), as_json=as_json)


@app.command(rich_help_panel=SERVICE)
def demo(
    data: Annotated[Path | None, typer.Option("--data", help="Keep what it makes in this folder; else a temporary one.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", envvar="DEMO_YES", help="Countersign with the person's key without asking at the terminal.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the whole of it in a minute: an agent asks, a person reads the plan and countersigns it, it is applied, then destroyed.

    Free ports, a folder of its own, no cloud account, nothing left behind.
    """
    from countersign.cli.demo import demo as show

    run(show(data, yes=yes, as_json=as_json), as_json=as_json)


run_commands.add_to(app)
state_commands.add_to(app)
backup_commands.add_to(app)
record_commands.add_to(app)
webhook_commands.add_to(app)
mcp_config.add_to(app)
dev_cluster.add_to(app)


def main() -> None:
    gc.disable()  # while modules load; `run` allows it again
    app()


if __name__ == "__main__":
    main()
