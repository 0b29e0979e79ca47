"""From a command line to settings, an organization and a person; and from whatever happens to an exit code.

This is an entry point: it alone reads the environment, and hands on what it found.
"""

import asyncio
import gc
import getpass
import os
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from countersign.cli.exits import Exit
from countersign.core.errors import CountersignError, Unauthenticated

if TYPE_CHECKING:
    from countersign.adapters.settings import Settings  # its import costs more than some commands
    from countersign.core.principal import Principal

KEY_FILE = "local.key"  # in the data folder, 0600: the key of whoever runs `countersign up`
KEY_VARIABLE = "COUNTERSIGN_KEY"  # holds a token itself
LOOPBACK = "127.0.0.1"
SETTLED = 15.0  # seconds after which, also on a busy machine, whatever is needed has been loaded


async def _settling(work: Coroutine[Any, Any, Exit]) -> Exit:
    """Entry points load their modules without collecting garbage; what goes on for long collects it again."""

    def settled() -> None:
        gc.freeze()
        gc.enable()

    asyncio.get_running_loop().call_later(SETTLED, settled)
    return await work


def run(work: Coroutine[Any, Any, Exit], *, as_json: bool = False) -> NoReturn:
    """Do it and leave with its exit code; errors of ours become a message and their code."""
    try:
        code = asyncio.run(_settling(work))
    except CountersignError as error:
        fail(error, as_json=as_json)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    gc.freeze()  # nobody waits for a last collection
    raise SystemExit(int(code))


def fail(error: CountersignError, *, as_json: bool = False) -> NoReturn:
    from countersign.cli.output import fail  # what draws is not loaded where nothing is drawn

    fail(error, as_json=as_json)


def named(data: Path | None) -> Path:
    """The data folder: what was named, else what the environment says."""
    from countersign.adapters.folder import data_folder

    return data.expanduser().absolute() if data else data_folder(os.environ)  # noqa: TID251  an entry point


def settings_of(data: Path | None, *, as_json: bool = False, **overrides: Any) -> "Settings":
    """The settings of a data folder. One that was named counts more than `$COUNTERSIGN_DATA`, an override more than anything.

    Exits with a message where they are wrong.
    """
    from countersign.adapters.settings import database_argument, load

    try:
        settings = load(named(data))
        if overrides.get("database") is not None:
            database_argument(overrides["database"])
    except CountersignError as error:
        fail(error, as_json=as_json)
    given = {name: value for name, value in overrides.items() if value is not None}
    if data is not None:
        given["data"] = named(data)
    return settings.model_copy(update=given) if given else settings


def local_person() -> "Principal":
    """Whoever has the shell: the operator of a data folder."""
    from countersign.core.principal import Kind, Principal

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        user = f"uid-{os.getuid()}"
    name = re.sub(r"[^A-Za-z0-9._@+-]", "-", user).lstrip("-._@+")[:90] or "local"  # as the front names the same person
    return Principal(id=f"person:{name}", kind=Kind.PERSON)


def token(*, key_file: Path | None, data: Path) -> str:
    """The key to send: the named file, else `$COUNTERSIGN_KEY`, else that of the data folder. Raises Unauthenticated."""
    if key_file is None and (given := os.environ.get(KEY_VARIABLE)):  # noqa: TID251  an entry point
        return given.strip()
    path = key_file or data / KEY_FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as broken:
        why = getattr(broken, "strerror", None) or "it is no text"
        raise Unauthenticated(
            f"no key to show: {path} cannot be read ({why}). `countersign up` writes it; or name another with --key-file or ${KEY_VARIABLE}"
        ) from None


def cache_folder() -> Path:
    """What can be made again, and is kept for all checkouts and data folders of a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "countersign"  # noqa: TID251  an entry point


def stacks_folder(settings: "Settings") -> Path:
    """Where stacks are looked for; by default below the folder `up` was called in."""
    return settings.stacks or Path("infra/stacks").absolute()


# What the parts of the service inherit. Credentials of the shell that starts them are none of their business: the front holds
# none at all, and a stack's come from sealed secrets.
_INHERITED = re.compile(
    r"^(?:PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|TZ|TMPDIR|LC_[A-Z]+|XDG_[A-Z_]+|SSL_CERT_(?:FILE|DIR)|PYTHON[A-Z]+|VIRTUAL_ENV"
    r"|COVERAGE_PROCESS_START|TERM|NO_COLOR|PG[A-Z]+|COUNTERSIGN_[A-Z0-9_]+)$"
)
_KEPT_BACK = frozenset({KEY_VARIABLE, "COUNTERSIGN_URL", "COUNTERSIGN_KEY_FILE"})


def inherited() -> dict[str, str]:
    """What of our environment any part may have: an allow-list."""
    return {name: value for name, value in os.environ.items() if _INHERITED.match(name) and name not in _KEPT_BACK}  # noqa: TID251


def child_environment(settings: "Settings") -> dict[str, str]:
    """The environment of the parts of the service: an allow-list, and the settings as they were when it was started."""
    env = inherited() | {
        "COUNTERSIGN_DATA": str(settings.data),
        "COUNTERSIGN_HOST": settings.host,
        "COUNTERSIGN_FRONT_PORT": str(settings.front_port),
        "COUNTERSIGN_STATE_PORT": str(settings.state_port),
        "COUNTERSIGN_TEMPORAL_PORT": str(settings.temporal_port),
        "COUNTERSIGN_TEMPORAL_UI_PORT": str(settings.temporal_ui_port),
        "COUNTERSIGN_STACKS": str(stacks_folder(settings)),
    }
    if settings.database is not None:
        env["COUNTERSIGN_DATABASE"] = settings.database
    if settings.artifacts is not None:
        ours = "GOOGLE_" if settings.artifacts.startswith("gs:") else "AWS_"
        env |= {name: value for name, value in os.environ.items() if name.startswith(ours)}  # noqa: TID251
    if settings.embedded_temporal and settings.host != LOOPBACK:
        # The embedded Temporal has no authentication, so it stays on the loopback whatever the others listen on.
        env["COUNTERSIGN_TEMPORAL_ADDRESS"] = f"{LOOPBACK}:{settings.temporal_port}"
    return env
