"""`countersign backup` and `countersign restore`."""

from pathlib import Path
from typing import Annotated

import typer

from countersign.cli.session import run, settings_of

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data folder; else $COUNTERSIGN_DATA, else the user's data folder.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of text.")]
PANEL = "Service"


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL)(backup)
    app.command(rich_help_panel=PANEL)(restore)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; or a folder, in which one named by the time is made.")],
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help="Put the keys into this new file and not into the backup; with --verify: read them there."),
    ] = None,
    without_keys: Annotated[bool, typer.Option("--without-keys", help="Leave the keys out: you keep them elsewhere already.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Write nothing: read this backup and say whether it is whole.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Back up the store, the artifacts and the keys, also while the service runs. Never overwrites anything.

    Whoever has the keys can open every secret and state in the backup: keep them in another place (--keys). Temporal's database is
    not in it: open runs are taken up again from the store.
    """
    from countersign.cli import backing_up

    settings = settings_of(data, as_json=as_json)
    if verify:
        run(backing_up.verify(settings, file, keys=keys, as_json=as_json), as_json=as_json)
    run(backing_up.backup(settings, file, keys=keys, without_keys=without_keys, as_json=as_json), as_json=as_json)


def restore(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="What `countersign backup` wrote.", show_default=False)] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="The keys, where the backup has none.", show_default=False)] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also into a data folder that is in use. What is replaced is put aside, and evidence is kept.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="No FILE: the store came back by other means (pg_restore, a copy); only settle it.")
    ] = False,
    nothing_since: Annotated[
        str | None,
        typer.Option(
            "--nothing-since", help="Why you know that nothing was applied after the backup; then no apply is held.", show_default=False
        ),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Bring a data folder back from a backup. The service must not run.

    All that was granted is void, open applies reconcile on this machine, and what was applied after the backup is looked for. Applies are
    held until `countersign state accept`, for nobody can tell what a backup does not know.
    """
    from countersign.cli import restoring

    asked = restoring.Asked(file=file, keys=keys, replace=replace, in_place=in_place, nothing_since=nothing_since)
    run(restoring.restore(settings_of(data, as_json=as_json), asked, as_json=as_json), as_json=as_json)
