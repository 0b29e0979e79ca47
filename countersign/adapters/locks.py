"""Waiting for a file's lock without a thread: one holder, or several that only read."""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

LOOK = 0.05  # seconds
LOOKS = 20  # of these between two words to whoever waits


async def taken(path: Path, waiting: Callable[[], Awaitable[None]], *, shared: bool = False) -> int:
    """The descriptor of the file's lock, once it is ours; who closes it gives it back. `waiting` is called about once a second."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    looks = 0
    try:
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if looks % LOOKS == 0:
                    await waiting()
                looks += 1
                await asyncio.sleep(LOOK)
    except BaseException:
        os.close(fd)
        raise


def share(fd: int) -> None:
    """From the only holder to one of several, without letting go of it."""
    fcntl.flock(fd, fcntl.LOCK_SH)
