"""Keys, secrets and stacks. Keys and secrets act on the store itself: whoever can read the data folder is the operator of it."""

from pathlib import Path
from typing import Annotated

import typer

from countersign.cli.exits import HELP
from countersign.cli.session import fail, run, settings_of
from countersign.core.errors import CountersignError

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data folder; else $COUNTERSIGN_DATA, else the user's data folder.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of text.")]
Org = Annotated[str | None, typer.Option("--org", help="Organization; else the first one of the settings.", show_default=False)]
Url = Annotated[str | None, typer.Option("--url", envvar="COUNTERSIGN_URL", help="Address of the front; else the local one.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", envvar="COUNTERSIGN_KEY_FILE", help="File with the key to show; else $COUNTERSIGN_KEY, else the local one."),
]

key = typer.Typer(name="key", help="Keys of people, agents and machines.", no_args_is_help=True, epilog=HELP, rich_markup_mode="rich")
secret = typer.Typer(
    name="secret", help="Sealed values that stacks name as {secret: slug}.", no_args_is_help=True, epilog=HELP, rich_markup_mode="rich"
)
stack = typer.Typer(
    name="stack", help="What one state belongs to: org/env/slug.", no_args_is_help=True, epilog=HELP, rich_markup_mode="rich"
)


def add_to(app: typer.Typer) -> None:
    for group in (stack, key, secret):
        app.add_typer(group, rich_help_panel="Records")


@key.command("create")
def key_create(
    name: Annotated[str, typer.Option("--as", help="Whose it is: claude, or agent:claude.")],
    kind: Annotated[str, typer.Option("--kind", help="person, agent or machine.")],
    role: Annotated[str, typer.Option("--role", help="What it may do: dev, ops, admin, viewer, approver, platform, sre, security, ci, …")],
    acts_for: Annotated[str | None, typer.Option("--for", help="The person an agent or a machine acts for.", show_default=False)] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="90d, 12h, or a time as RFC 3339.", show_default=False)] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write the token to this new file (0600) instead of showing it.")] = None,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its token is shown once and kept nowhere."""
    from countersign.cli import keys

    asked = keys.Asked(name=name, kind=kind, role=role, acts_for=acts_for, expires=expires, org=org)
    run(keys.create(settings_of(data, as_json=as_json), asked, to=to, as_json=as_json), as_json=as_json)


@key.command("list")
def key_list(org: Org = None, data: Data = None, as_json: AsJson = False) -> None:
    """List the keys, the newest first, the ended ones too. No tokens: they are kept nowhere."""
    from countersign.cli import keys

    run(keys.show(settings_of(data, as_json=as_json), org=org, as_json=as_json), as_json=as_json)


@key.command("revoke")
def key_revoke(
    key_id: Annotated[str, typer.Argument(help="Id as `key list` tells it.")], org: Org = None, data: Data = None, as_json: AsJson = False
) -> None:
    """End a key at once; again is success."""
    from countersign.cli import keys

    run(keys.revoke(settings_of(data, as_json=as_json), key_id, org=org, as_json=as_json), as_json=as_json)


Slug = Annotated[str, typer.Argument(help="Its name: lower case letters, digits and -.")]


@secret.command("set")
def secret_set(slug: Slug, org: Org = None, data: Data = None, as_json: AsJson = False) -> None:
    """Keep a new version of a secret. The value is typed unseen, or read from standard input; it is never an argument."""
    from countersign.cli import sealed

    settings = settings_of(data, as_json=as_json)
    try:
        value = sealed.read(slug)
    except CountersignError as wrong:
        fail(wrong, as_json=as_json)
    run(sealed.put(settings, slug, value, org=org, as_json=as_json), as_json=as_json)


@secret.command("list")
def secret_list(org: Org = None, data: Data = None, as_json: AsJson = False) -> None:
    """List the secrets: names, versions and keyed fingerprints, never values."""
    from countersign.cli import sealed

    run(sealed.show(settings_of(data, as_json=as_json), org=org, as_json=as_json), as_json=as_json)


@secret.command("remove")
def secret_remove(
    slug: Slug,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Remove every version of a secret for good."""
    from countersign.cli import sealed

    run(sealed.remove(settings_of(data, as_json=as_json), slug, yes=yes, org=org, as_json=as_json), as_json=as_json)


@stack.command("list")
def stack_list(
    env: Annotated[str | None, typer.Option("--env", help="Only of this environment.", show_default=False)] = None,
    text: Annotated[str | None, typer.Option("--text", help="Found in the path.", show_default=False)] = None,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List the registered stacks."""
    from countersign.cli import stacks

    run(stacks.show(settings_of(data, as_json=as_json), url=url, key_file=key_file, env=env, text=text, as_json=as_json), as_json=as_json)


Stack = Annotated[str, typer.Argument(metavar="STACK", help="env/slug, org/env/slug, or slug where there is one environment.")]
Name = Annotated[str | None, typer.Option("--name", help="Its path, org/env/slug, typed out; else asked.", show_default=False)]


@stack.command("forget")
def stack_forget(
    path: Stack, name: Name = None, url: Url = None, key_file: KeyFile = None, data: Data = None, as_json: AsJson = False
) -> None:
    """Remove the record of a stack, where its state holds nothing any more. Its runs stay."""
    from countersign.cli import stacks

    run(stacks.forget(settings_of(data, as_json=as_json), path, name, url=url, key_file=key_file, as_json=as_json), as_json=as_json)


@stack.command("unlock")
def stack_unlock(
    path: Stack,
    lock_id: Annotated[str, typer.Argument(metavar="LOCK", help="Id of the lock, as the refusal of a run names it.")],
    name: Name = None,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Break the lock of a stack's state that a dead attempt left. Any other lock stays, and its holder is named."""
    from countersign.cli import stacks

    settings = settings_of(data, as_json=as_json)
    run(stacks.unlock(settings, path, lock_id, name, url=url, key_file=key_file, as_json=as_json), as_json=as_json)


@stack.command("register")
def stack_register(
    path: Annotated[str, typer.Argument(metavar="STACK", help="env/slug or org/env/slug.")],
    source: Annotated[str, typer.Option("--source", "--path", help="Its folder below the folder of stacks, or in --repo.")],
    repo: Annotated[str | None, typer.Option("--repo", help="Git repository it is in: https://… or ssh://…", show_default=False)] = None,
    git_ref: Annotated[str | None, typer.Option("--ref", help="Branch or tag plans are made of.", show_default=False)] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="terraform or tofu.", show_default=False)] = None,
    version: Annotated[
        str | None, typer.Option("--engine-version", help="What the engine has to be: 1.11.4, '~> 1.11'; any.", show_default=False)
    ] = None,
    var: Annotated[list[str] | None, typer.Option("--var", help="name=value; JSON, else text. Repeat.", show_default=False)] = None,
    secret_var: Annotated[
        list[str] | None, typer.Option("--secret-var", help="name=slug of a sealed secret. Repeat.", show_default=False)
    ] = None,
    plan_credential: Annotated[str | None, typer.Option("--plan-credential", help="Slug of a sealed secret.", show_default=False)] = None,
    apply_credential: Annotated[str | None, typer.Option("--apply-credential", help="Slug of a sealed secret.", show_default=False)] = None,
    reads: Annotated[list[str] | None, typer.Option("--reads", help="Stack whose outputs it gets. Repeat.", show_default=False)] = None,
    drift_every: Annotated[str | None, typer.Option("--drift-every", help="90s, 2h, 7d; or off.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Create or change a stack. What is not given stays as it is."""
    from countersign.cli import stacks

    asked = stacks.Registration(
        path=path,
        source=source,
        repo=repo,
        git_ref=git_ref,
        engine=engine,
        version=version,
        vars=tuple(var or ()),
        secret_vars=tuple(secret_var or ()),
        plan_credential=plan_credential,
        apply_credential=apply_credential,
        reads=tuple(reads or ()),
        drift_every=drift_every,
        dry_run=dry_run,
    )
    run(stacks.register(settings_of(data, as_json=as_json), asked, url=url, key_file=key_file, as_json=as_json), as_json=as_json)


@stack.command("restore")
def stack_restore(
    path: Stack,
    serial: Annotated[int, typer.Option("--serial", help="Of an earlier state, as `state list` tells them.")],
    message: Annotated[str | None, typer.Option("--message", "-m", help="Why; approvers read it.", show_default=False)] = None,
    url: Url = None,
    key_file: KeyFile = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Plan that an earlier state becomes the newest one, have the difference countersigned, store it under a new serial.

    Only the record changes, nothing in the cloud.
    """
    from countersign.cli import runs
    from countersign.cli.door import Door

    door = Door(settings=settings_of(data, as_json=as_json), url=url, key_file=key_file, as_json=as_json)
    given = {"serial": serial}
    asked = runs.Start(tool="terraform_restore_state", stack=path, message=message, key=None, wait=True, arguments=given, listed=False)
    run(runs.start(door, asked), as_json=as_json)


Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the audit chain.")]


@stack.command("adopt")
def stack_adopt(
    path: Annotated[str, typer.Argument(metavar="STACK", help="env/slug or org/env/slug.")],
    file: Annotated[
        Path | None, typer.Option("--from", help="File with the state; else the backend its configuration declares.", show_default=False)
    ] = None,
    newer: Annotated[
        bool, typer.Option("--newer", help="Also where it goes on from a state that is here: same lineage, higher serial.")
    ] = False,
    reason: Reason = "",
    key_file: KeyFile = None,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Take over a state that exists: from now on it is kept here, fenced, whatever backend the configuration declares.

    Works on this data folder, with the key of an administrator. What lies there stays as it is.
    """
    from countersign.cli import custody

    asked = custody.Asked(stack=path, file=file, reason=reason, key_file=key_file, org=org)
    run(custody.adopt(settings_of(data, as_json=as_json), asked, newer=newer, as_json=as_json), as_json=as_json)


@stack.command("release")
def stack_release(
    path: Annotated[str, typer.Argument(metavar="STACK", help="env/slug or org/env/slug.")],
    file: Annotated[
        Path | None,
        typer.Option("--to", help="New file for it (0600); else the backend its configuration declares.", show_default=False),
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", help="The stack's whole path, org/env/slug, typed out; else it is asked for.", show_default=False),
    ] = None,
    reason: Reason = "",
    key_file: KeyFile = None,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Give a state back: it is kept elsewhere from then on, and runs on the stack are refused until it is adopted again.

    Its history stays here. Works on this data folder, with the key of an administrator.
    """
    from countersign.cli import custody

    asked = custody.Asked(stack=path, file=file, reason=reason, key_file=key_file, org=org)
    run(custody.release(settings_of(data, as_json=as_json), asked, confirm=confirm, as_json=as_json), as_json=as_json)


@stack.command("keep")
def stack_keep(
    path: Annotated[str, typer.Argument(metavar="STACK", help="env/slug or org/env/slug.")],
    another: Annotated[
        bool, typer.Option("--another", help="Also where what is there has no history in common with what was seen before.")
    ] = False,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", help="The stack's whole path, org/env/slug, typed out; else it is asked for.", show_default=False),
    ] = None,
    reason: Reason = "",
    key_file: KeyFile = None,
    org: Org = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Leave a state in the backend its configuration declares: runs plan and apply there, under the backend's own lock and unfenced.

    `stack adopt` takes it over instead. Works on this data folder, with the key of an administrator.
    """
    from countersign.cli import custody

    asked = custody.Asked(stack=path, file=None, reason=reason, key_file=key_file, org=org)
    run(custody.keep(settings_of(data, as_json=as_json), asked, another=another, confirm=confirm, as_json=as_json), as_json=as_json)
