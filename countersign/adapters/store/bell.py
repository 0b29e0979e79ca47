"""Hearing that another process of this machine committed something, without asking all the time.

Whoever commits to the ledger of a SQLite file opens and closes an empty file beside it; the kernel tells whoever watches that file
(inotify). A look every few milliseconds took half of what the front did while a run went on. Libraries for it start a process to
find the C library.
"""

import asyncio
import contextlib
import ctypes
import os
from functools import cache
from pathlib import Path

_IN_CLOSE_WRITE = 0x8  # <sys/inotify.h>


class Bell:
    """`rung` is set whenever somebody rang. Raises OSError where the kernel has no such thing, or no more of it."""

    def __init__(self, path: Path) -> None:
        self.rung = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        path.touch(mode=0o600)
        libc = _libc()
        if not hasattr(libc, "inotify_init1"):
            raise OSError("no inotify here")
        self._fd = _checked(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        try:
            _checked(libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_CLOSE_WRITE))
        except OSError:
            os.close(self._fd)
            raise
        self._loop.add_reader(self._fd, self._heard)

    def _heard(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)  # who rang how often does not matter
        self.rung.set()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def ring(path: Path) -> None:
    with contextlib.suppress(OSError):  # whoever waits looks by itself, a little later
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def bell_of(database: Path) -> Path:
    return database.with_name(f".{database.name}.bell")


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
