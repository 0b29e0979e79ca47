"""`countersign webhook …`: what is told outside, whether it arrived, and a test of it. Acts on the store itself, as keys and secrets do."""

from typing import Annotated

import typer

from countersign.cli.exits import HELP
from countersign.cli.record_commands import AsJson, Data, Org
from countersign.cli.session import run, settings_of

webhook = typer.Typer(
    name="webhook",
    help="Who is told when a run waits, needs an operator, or ended.",
    no_args_is_help=True,
    epilog=HELP,
    rich_markup_mode="rich",
)
Name = Annotated[str, typer.Argument(help="Its name in countersign.toml.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(webhook, rich_help_panel="Records")


@webhook.command("list")
def webhook_list(data: Data = None, as_json: AsJson = False) -> None:
    """List the webhooks of countersign.toml, with what is pending, late and dead."""
    from countersign.cli import webhooks

    run(webhooks.show(settings_of(data, as_json=as_json), as_json=as_json), as_json=as_json)


@webhook.command("test")
def webhook_test(name: Name, org: Org = None, data: Data = None, as_json: AsJson = False) -> None:
    """Send a signed test event now and say what the receiver answered. Ends with 1 where it did not take it."""
    from countersign.cli import webhooks

    run(webhooks.test(settings_of(data, as_json=as_json), name, org=org, as_json=as_json), as_json=as_json)


@webhook.command("deliveries")
def webhook_deliveries(
    name: Annotated[str | None, typer.Argument(help="Only of this webhook.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only those that were given up.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 50,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List deliveries, the newest first: about which run, how often it was tried, and why it failed."""
    from countersign.cli import webhooks

    run(webhooks.deliveries(settings_of(data, as_json=as_json), name, dead=dead, limit=limit, org=org, as_json=as_json), as_json=as_json)


@webhook.command("retry")
def webhook_retry(
    event: Annotated[str | None, typer.Argument(help="Id of an event (evt_…), as `deliveries` tells it.")] = None,
    webhook: Annotated[str | None, typer.Option("--webhook", help="Only of this webhook.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="All that were given up.")] = False,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Let deliveries that were given up be tried again, under the same ids."""
    from countersign.cli import webhooks

    run(
        webhooks.retry(settings_of(data, as_json=as_json), event, webhook=webhook, every=every, org=org, as_json=as_json),
        as_json=as_json,
    )
