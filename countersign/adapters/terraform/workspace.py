"""One canonical folder per stack in which it is planned, by one process at a time.

`path.cwd` and `abspath()` end up in plans, so equal configuration must be planned under an equal path. The folder is emptied
before and after: it holds secrets while a plan is made, and nothing in it may be run later than it was approved.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from countersign.adapters.leaving import leaving
from countersign.adapters.locks import taken

GONE = ".gone"  # beside the folders of stacks: what is on its way out
PATH_MAX = 4096  # bytes
PATIENCE = 120  # seconds for what a worker that was killed had started, and which is told of its end


@dataclass(frozen=True, kw_only=True)
class Workspace:
    base: Path
    tree: Path  # the working folder of the engine; of a source in a repository, below what it shares with others
    side: Path  # plan file and variables: outside of the tree
    temporary: Path  # short: plugins open sockets in it
    lock: int  # descriptor, inherited by the children: the folder stays taken as long as one of them lives

    @property
    def home(self) -> Path:
        """`pathexpand` brings it into plans, so it is not the short one, which is another each time."""
        return self.base


@asynccontextmanager
async def workspace(root: Path, stack_id: str, waiting: Callable[[], Awaitable[None]], *, below: str = "") -> AsyncIterator[Workspace]:
    """The stack's folder, empty; `waiting` is called about once a second while another plan of the stack uses it.

    `below` is the path of the working folder below the root of its source.
    """
    base = root / stack_id
    fd = await taken(_lock_of(base), waiting)
    try:
        made = _emptied(base, fd, below)
        try:
            yield made
        finally:
            if not put_aside(base, root, made.temporary):
                shutil.rmtree(base, ignore_errors=True)
                remove_short(made.temporary)
    finally:
        os.close(fd)


def put_aside(folder: Path, root: Path, temporary: Path | None) -> bool:
    """Out of everybody's way at once, and removed with its short folder when nobody waits for it. `root` is that of workspaces.

    False where it could not be moved: on a full disk, say. Its new name tells of the short folder, should we be killed before that.
    """
    short = temporary.name if temporary is not None and _is_short(temporary) else ""
    gone = root / GONE / f"{folder.name}-{token_hex(8)}.{short}"
    try:
        _moved(folder, gone)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    leaving.leave(gone)
    if short and temporary is not None:
        leaving.leave(temporary)
    return True


def _moved(folder: Path, gone: Path) -> None:
    try:
        folder.rename(gone)
    except FileNotFoundError:  # the first one of all
        gone.parent.mkdir(mode=0o700, exist_ok=True)
        folder.rename(gone)


def _emptied(base: Path, fd: int, below: str) -> Workspace:
    try:
        base.mkdir(mode=0o700)
    except FileExistsError:
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(mode=0o700)  # fails where something could not be removed: it would become part of the plan
    made = Workspace(base=base, tree=base / "tree" / below, side=base / "side", temporary=_short_folder_of(fd), lock=fd)
    for folder in (made.tree, made.side):
        folder.mkdir(mode=0o700, parents=True)
    return made


def _short_folder_of(lock: int) -> Path:
    """A new one, and none any more of who had this lock before. Its path is in the file of the lock: that one is there anyway."""
    _remove_short_of(lock)
    made = short_folder()
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(made).encode(), 0)
    return made


def _remove_short_of(lock: int) -> None:
    if noted := os.pread(lock, PATH_MAX, 0).decode(errors="replace"):
        remove_short(Path(noted))


async def tidied(root: Path) -> None:
    """Remove what workers that were killed left below `root`, as soon as nothing of theirs lives there."""
    left = await asyncio.to_thread(_abandoned, root)
    for _ in range(PATIENCE):
        if not left:
            break
        await asyncio.sleep(1)
        left = await asyncio.to_thread(_still_taken, left)


def _abandoned(root: Path) -> list[Path]:
    """Remove what nobody uses, and tell which workspaces somebody does. What a worker that lives is about to remove is removed twice."""
    for gone in (root / GONE).glob("*"):
        if short := gone.name.partition(".")[2]:
            remove_short(short_root() / short)
        shutil.rmtree(gone, ignore_errors=True)
    return _still_taken([base for base in root.glob("*/") if base.name != GONE])


def _still_taken(bases: list[Path]) -> list[Path]:
    return [base for base in bases if base.exists() and not _removed_unless_taken(base)]


def _removed_unless_taken(base: Path) -> bool:
    fd = os.open(_lock_of(base), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_short_of(fd)
        shutil.rmtree(base, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _lock_of(base: Path) -> Path:
    return base.parent / f"{base.name}.lock"


SHORT = "cs-"
LONGEST = 40  # characters of the folder short ones are made in; plugins add about as many


def short_folder() -> Path:
    """A private temporary folder whose path leaves room for a socket's name (about 80 bytes in all)."""
    return Path(tempfile.mkdtemp(prefix=SHORT, dir=short_root()))


def short_root() -> Path:
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) <= LONGEST else "/tmp")  # noqa: S108 - mkdtemp makes private ones in it


def remove_short(folder: Path) -> None:
    """Remove what `short_folder` made, and nothing else."""
    if _is_short(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _is_short(folder: Path) -> bool:
    return folder.name.startswith(SHORT)
