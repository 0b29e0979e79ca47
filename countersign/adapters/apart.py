"""Folders that have nothing to do with each other lie apart on the disk.

An ext4 puts what is made below a folder near to it, and before it gives an inode away it looks at each one near by that was freed
within the last minutes, where it has no journal. Each run makes and removes some fifty of them: together in one place that soon took
as long as everything else a worker does for a run.
"""

import contextlib
import fcntl
import os
import struct
from pathlib import Path

# include/uapi/linux/fs.h, as most architectures number them; elsewhere, and on other systems, the call is refused.
GET_FLAGS, SET_FLAGS = 0x80086601, 0x40086602
TOP_OF_UNRELATED = 0x00020000  # `chattr +T`: folders in this one are spread over the disk


def apart(folder: Path) -> None:
    """Have what is made in `folder` from now on lie apart. It is advice: a file system that takes none does as it always did."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            (flags,) = struct.unpack("l", fcntl.ioctl(fd, GET_FLAGS, struct.pack("l", 0)))
            if not flags & TOP_OF_UNRELATED:
                fcntl.ioctl(fd, SET_FLAGS, struct.pack("l", flags | TOP_OF_UNRELATED))
    finally:
        os.close(fd)
