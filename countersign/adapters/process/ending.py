"""Hearing from the kernel that a process ended: nobody polls for it, and no thread waits."""

import asyncio
import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def ending(pid: int) -> Iterator[asyncio.Event | None]:
    """An event that is set when the process ends; None where it is gone already, or on a system that cannot tell."""
    try:
        fd = os.pidfd_open(pid)
    except (OSError, AttributeError):
        yield None
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, ended.set)
    try:
        yield ended
    finally:
        loop.remove_reader(fd)
        os.close(fd)
