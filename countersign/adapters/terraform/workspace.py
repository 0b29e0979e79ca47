"""One canonical folder per stack in which it is planned, by one process at a time.

`path.cwd` and `abspath()` end up in plans, so equal configuration must be planned under an equal path. The folder is emptied
before and after: it holds secrets while a plan is made, and nothing in it may be run later than it was approved.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from countersign.adapters import private
from countersign.adapters.locks import taken

GONE = ".gone"  # beside the folders of stacks: what is on its way out
_LEAVING: set["asyncio.Future[None]"] = set()  # what is being removed, so that nobody collects its task


@dataclass(frozen=True, kw_only=True)
class Workspace:
    base: Path
    tree: Path  # the working folder of the engine; of a source in a repository, below what it shares with others
    side: Path  # plan file, variables, output of commands: outside of the tree
    home: Path
    temporary: Path  # short: plugins open sockets in it
    lock: int  # descriptor, inherited by the children: the folder stays taken as long as one of them lives


@asynccontextmanager
async def workspace(root: Path, stack_id: str, waiting: Callable[[], Awaitable[None]], *, below: str = "") -> AsyncIterator[Workspace]:
    """The stack's folder, empty; `waiting` is called about once a second while another plan of the stack uses it.

    `below` is the path of the working folder below the root of its source.
    """
    fd = await taken(root / f"{stack_id}.lock", waiting)
    base = root / stack_id
    try:
        made = _emptied(base, fd, below)
        try:
            yield made
        finally:
            _moved_away(base)
    finally:
        os.close(fd)


def _moved_away(base: Path) -> None:
    """Out of everybody's way at once, and removed beside what comes next: a plan of many files is not waited for."""
    gone = base.parent / GONE / f"{base.name}-{token_hex(8)}"
    try:
        gone.parent.mkdir(mode=0o700, exist_ok=True)
        base.rename(gone)
    except OSError:  # a full disk, say
        return _remove(base)
    _LEAVING.add(task := asyncio.ensure_future(asyncio.to_thread(_remove, gone)))
    task.add_done_callback(_LEAVING.discard)


def _emptied(base: Path, fd: int, below: str) -> Workspace:
    for gone in (base.parent / GONE).glob(f"{base.name}-*"):  # of somebody who was killed before it was removed
        _remove(gone)
    try:
        base.mkdir(mode=0o700)
    except FileExistsError:
        _remove(base)
        base.mkdir(mode=0o700)  # fails where something could not be removed: it would become part of the plan
    temporary = short_folder()
    private.write(base / "temporary", str(temporary).encode())
    made = Workspace(base=base, tree=base / "tree" / below, side=base / "side", home=base / "home", temporary=temporary, lock=fd)
    for folder in (made.tree, made.side, made.home):
        folder.mkdir(mode=0o700, parents=True)
    return made


def _remove(base: Path) -> None:
    """The folder and what belongs to it elsewhere, also where whoever made it was killed."""
    with suppress(OSError, ValueError):
        remove_short(Path((base / "temporary").read_text()))
    shutil.rmtree(base, ignore_errors=True)


SHORT = "cs-"
LONGEST = 40  # characters of the folder short ones are made in; plugins add about as many


def short_folder() -> Path:
    """A private temporary folder whose path leaves room for a socket's name (about 80 bytes in all)."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix=SHORT, dir=usual if len(usual) <= LONGEST else "/tmp"))  # noqa: S108 - mkdtemp makes it private


def remove_short(folder: Path) -> None:
    """Remove what `short_folder` made, and nothing else."""
    if folder.name.startswith(SHORT):
        shutil.rmtree(folder, ignore_errors=True)
