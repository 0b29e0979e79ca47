"""Hearing from the kernel that a file was written and closed (inotify), without looking all the time.

Libraries for it start a process to find the C library.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from countersign.adapters.libc import checked, libc

_IN_CLOSE_WRITE = 0x8  # <sys/inotify.h>


class Closing:
    """Calls `heard` whenever the file at `path`, or one in the folder there, was closed after it was open for writing.

    Raises OSError where the kernel has no such thing, or no more of it.
    """

    def __init__(self, path: Path, heard: Callable[[], None]) -> None:
        self._told = heard
        self._loop = asyncio.get_running_loop()
        if not hasattr(libc(), "inotify_init1"):
            raise OSError("no inotify here")
        self._fd = checked(libc().inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        try:
            checked(libc().inotify_add_watch(self._fd, os.fsencode(path), _IN_CLOSE_WRITE))
        except OSError:
            os.close(self._fd)
            raise
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)  # what was closed how often does not matter
        self._told()

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
