"""One canonical folder per stack in which it is planned, by one process at a time.

`path.cwd` and `abspath()` end up in plans, so equal configuration must be planned under an equal path. The folder is emptied
before and after: it holds secrets while a plan is made, and nothing in it may be run later than it was approved.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Workspace:
    tree: Path  # the working folder of the engine
    side: Path  # plan file, variables, output of commands: outside of the tree
    home: Path
    temporary: Path  # short: plugins open sockets in it
    lock: int  # descriptor, inherited by the children: the folder stays taken as long as one of them lives


@asynccontextmanager
async def workspace(root: Path, stack_id: str, waiting: Callable[[], Awaitable[None]]) -> AsyncIterator[Workspace]:
    """The stack's folder, empty; `waiting` is called about once a second while another plan of the stack uses it."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(root / f"{stack_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    temporary: Path | None = None
    base = root / stack_id
    try:
        looks = 0
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if looks % 20 == 0:
                    await waiting()
                looks += 1
                await asyncio.sleep(0.05)
        shutil.rmtree(base, ignore_errors=True)
        temporary = short_folder()
        made = Workspace(tree=base / "tree", side=base / "side", home=base / "home", temporary=temporary, lock=fd)
        for folder in (made.tree, made.side, made.home):
            folder.mkdir(mode=0o700, parents=True)
        try:
            yield made
        finally:
            shutil.rmtree(base, ignore_errors=True)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(fd)


def short_folder() -> Path:
    """A private temporary folder whose path leaves room for a socket's name (about 80 bytes in all)."""
    return Path(tempfile.mkdtemp(prefix="cs-"))
