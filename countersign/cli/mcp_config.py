"""`countersign mcp-config`, as the command line declares it."""

from pathlib import Path
from typing import Annotated

import typer

from countersign.cli.exits import HELP
from countersign.cli.record_commands import AsJson, Data
from countersign.cli.session import run, settings_of


def add_to(app: typer.Typer) -> None:
    app.command("mcp-config", rich_help_panel="Service", epilog=HELP)(mcp_config)


def mcp_config(
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="claude-code, claude-desktop, cursor, vscode, codex, gemini or generic.")],
    role: Annotated[str | None, typer.Option("--role", help="Role of the agent: dev, ops, platform, …", show_default=False)] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(
            "--server", help="One entry for this server's tools alone, in place of one for the role's. Repeat.", show_default=False
        ),
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="The address of the running front and a key, in place of a command to start.")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write it into this file beside what is there, in place of showing it.", show_default=False)
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Show what an MCP client's configuration file has to say to reach this service, or write it there. Never a secret."""
    from countersign.cli.client_files import Asked, configure

    asked = Asked(client=client, role=role, servers=tuple(server or ()), http=http)
    run(configure(settings_of(data, as_json=as_json), asked, to=to, as_json=as_json), as_json=as_json)
