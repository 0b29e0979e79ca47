"""Processes that carry an attempt's marker in their environment: they are found, and ended, wherever they went."""

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path

from countersign.adapters.process.files import content

PROC = Path("/proc")  # elsewhere than on Linux there is none, and what leaves its group is not found
MARKER = "COUNTERSIGN_ATTEMPT"  # in the environment of every process of an attempt, so that what escapes its group is found
children: "list[subprocess.Popen[bytes]]" = []  # wrappers this process started: nobody else can reap them
MANY = 500  # processes, of which a look takes some 5 ms
Present = frozenset[tuple[int, int]]  # processes: each one's id, and the inode of its folder, which nobody has who gets that id later
NOBODY: Present = frozenset()
ROUNDS = 20  # looks for processes of an attempt, as long as each finds new ones


def reap() -> None:
    """Let wrappers of ours that ended go: a process that is never waited for stays in the table."""
    children[:] = [child for child in children if child.poll() is None]


def end_marked(marker: str, *, before: Present = NOBODY) -> set[int]:
    """SIGKILL everything that carries the attempt's marker; which processes that were. Those of `before` it began need no look."""
    ended: set[int] = set()
    for _ in range(ROUNDS):
        new = set(marked_processes(marker, before=before)) - ended
        if not new:
            break
        for pid in new:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= new
    reap()
    return ended


async def all_ended(marker: str, *, before: Present) -> set[int]:
    """`end_marked` beside other work, where there are many to be looked at: a look at a few is over before a thread has begun."""
    return await asyncio.to_thread(end_marked, marker, before=before) if _many() else end_marked(marker, before=before)


def _many() -> bool:
    return can_be_seen() and PROC.stat().st_nlink > MANY  # each process is a folder in it


def marked_processes(marker: str, *, before: Present = NOBODY) -> list[int]:
    """Every process of this machine that carries the attempt's marker, ourselves and those of `before` left out."""
    return carriers(MARKER, marker, before=before)


def carriers(name: str, value: str, *, before: Present = NOBODY) -> list[int]:
    """Every process of this machine with this in its environment, ourselves and those of `before` left out."""
    own = os.getpid()
    return [pid for pid, _ in present() - before if pid != own and carries(pid, value, name=name)]


def present() -> Present:
    """All processes there are."""
    if not can_be_seen():
        return NOBODY
    with os.scandir(PROC) as entries:
        return frozenset((int(entry.name), entry.inode()) for entry in entries if entry.name.isdigit())


def can_be_seen() -> bool:
    """Whether this machine shows the environment of its processes at all."""
    return PROC.is_dir()


def carries(pid: int, marker: str, *, name: str = MARKER) -> bool:
    try:
        said = content(f"{PROC}/{pid}/environ")
    except OSError:  # gone, another user's, or no /proc here
        return False
    mark = f"{name}={marker}".encode()
    return mark in said and mark in said.split(b"\0")


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
