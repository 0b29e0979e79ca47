"""`countersign new-keys`: the key files of a new service whose parts run apart.

On one machine each part makes what it needs in the data folder they share. Apart, somebody has to make all of them once and give
each part those of its role.
"""

from pathlib import Path

from countersign.adapters.keyring import Keyring, Role, held_by
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit, safe
from countersign.core.errors import FailedPrecondition

PARTS: tuple[Role, ...] = ("front", "worker", "state")


async def new_keys(folder: Path, *, as_json: bool) -> Exit:
    """Raises FailedPrecondition where something lies there already: keys are never replaced by others."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):  # noqa: ASYNC240  once
        raise FailedPrecondition(f"{folder} is not empty; name a folder that is not there yet")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240
        folder.chmod(0o700)  # noqa: ASYNC240
    except OSError as refused:
        raise FailedPrecondition(f"{folder} cannot be made ({refused.strerror}); name another folder") from None
    Keyring.make(folder)
    files = {part: [f"{name}.json" for name in held_by(part)] for part in PARTS}
    if as_json:
        emit({"folder": str(folder), "files": files})
        return Exit.OK
    out = console()
    out.print(safe(f"new keys are in {folder}; keep a copy in a safe place: what they sealed opens with nothing else"))
    for part, names in files.items():
        out.print(safe(f"  {part}: {', '.join(names)}", "dim"))
    return Exit.OK
