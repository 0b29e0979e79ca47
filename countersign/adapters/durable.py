"""What was written is on the disk when this returns: a file's content, or the names in a folder."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

_SYNCERS = ThreadPoolExecutor(8, thread_name_prefix="sync")


def on_disk(path: Path) -> None:
    """Sync a file or a folder. A new name is durable when its folder was synced as well."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def on_disk_together(opened: Sequence[int]) -> None:
    """Sync files and folders by their descriptors, all at the same time: then a disk writes them in as many turns as one of them takes."""
    others = [_SYNCERS.submit(os.fsync, fd) for fd in opened[1:]]
    try:
        for fd in opened[:1]:
            os.fsync(fd)
    finally:
        wait(others)  # their descriptors are not to be closed before
    for other in others:
        other.result()
