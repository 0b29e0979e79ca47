"""What was written is on the disk when this returns: a file's content, or the names in a folder."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

QUICK = 0.0005  # seconds


@dataclass
class Disk:
    quick: bool = False  # as it was the last time


_disk = Disk()
_SYNCERS = ThreadPoolExecutor(8, thread_name_prefix="sync")


def on_disk(path: Path) -> None:
    """Sync a file or a folder. A new name is durable when its folder was synced as well."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def on_disk_together(opened: Sequence[int]) -> None:
    """Sync files and folders by their descriptors.

    A disk that takes its time gets them all at once, and writes them in as many turns as one of them takes. Where it is quick, to wake
    threads would take longer, and they follow each other.
    """
    left = list(opened)
    while left and _disk.quick:
        _timed(left.pop(0))
    others = [_SYNCERS.submit(os.fsync, fd) for fd in left[1:]]
    try:
        for fd in left[:1]:
            _timed(fd)
    finally:
        wait(others)  # their descriptors are not to be closed before
    for other in others:
        other.result()


def is_quick() -> bool:
    """Whether the disk was, the last time: then what is small is on it before a thread would have begun."""
    return _disk.quick


def _timed(fd: int) -> None:
    begun = time.perf_counter()
    try:
        os.fsync(fd)
    finally:
        _disk.quick = time.perf_counter() - begun < QUICK
