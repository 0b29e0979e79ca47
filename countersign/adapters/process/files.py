"""Small files that say what happened to a process: whole or not at all, and on the disk before anybody goes on."""

import os
from pathlib import Path

from countersign.adapters.durable import on_disk

PIECE = 1 << 16  # bytes


def content(path: str | Path) -> bytes:
    """All that a small file says, with no more calls than that takes: every process of the machine is asked."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        said = os.read(fd, PIECE)
        while said and len(said) % PIECE == 0 and (more := os.read(fd, PIECE)):
            said += more
        return said
    finally:
        os.close(fd)


def write(path: Path, text: str) -> None:
    """Whole or not at all, and on the disk before we go on."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    on_disk(path.parent)


def write_once(path: Path, text: str) -> bool:
    """The same, unless somebody did before; whether it was us."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    write(temporary, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    on_disk(path.parent)
    return True
