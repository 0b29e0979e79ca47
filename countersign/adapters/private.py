"""Files that nobody else may read: each has its mode from the call that makes it, so there is no moment in which it has another."""

import os
from collections.abc import Iterable
from pathlib import Path


def write(path: Path, data: bytes, *, executable: bool = False) -> None:
    """Make or overwrite the file `path`."""
    fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o700 if executable else 0o600)
    try:
        fill(fd, data)
    finally:
        os.close(fd)


def write_all(folder: Path, files: Iterable[tuple[str, bytes, bool]]) -> None:
    """Files below `folder`: path from there, content, and whether it may be executed. Each folder on the way is made once."""
    made: set[Path] = set()
    for path, data, executable in files:
        target = folder / path
        _make(target.parent, folder, made)
        write(target, data, executable=executable)


def _make(folder: Path, root: Path, made: set[Path]) -> None:
    """From the top: to try the deepest one first fails for each that is to be made above it."""
    if folder in made:
        return
    if folder != root:
        _make(folder.parent, root, made)
    folder.mkdir(mode=0o700, parents=folder == root, exist_ok=True)
    made.add(folder)


def fill(fd: int, data: bytes) -> None:
    """Write all of `data`, however little the disk takes at once."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
