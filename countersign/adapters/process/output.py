"""What a command says, in memory: no name, no place on a disk, and gone with the descriptor.

What `show` says may hold secrets, and a file that nobody needs by name is an inode to be made and removed. It is a file all the
same, for a pipe whose reader dies would end the writer. Several may write to it, and all append.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def output(folder: Path) -> Iterator[int]:
    """A descriptor to write to and read from, which is closed with this. Where the system has no such files, or refuses one, it is a
    file of `folder` that has no name any more. Raises OSError."""
    fd = _in_memory()
    fd = _in(folder) if fd is None else fd
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        yield fd
    finally:
        os.close(fd)


def _in_memory() -> int | None:
    try:
        return os.memfd_create("output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # not Linux, or whoever runs us does not want it
        return None


def _in(folder: Path) -> int:
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


def take_no_more(fd: int) -> None:
    """Refuse whoever writes to it from now on; a file of a folder takes what its disk has room for."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
