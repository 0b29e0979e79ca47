"""Small files that say what happened to a process: whole or not at all, and on the disk before anybody goes on."""

import os
from pathlib import Path

from countersign.adapters.durable import on_disk, on_disk_together

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
    """Whole or not at all for who reads it, and on the disk before we go on.

    Content and name are synced together, which takes a disk one turn. A power cut before that may leave the name without its
    content, and so without a boot's id or a time: then it was said, and nobody had gone on.
    """
    temporary = f"{path}.new"
    opened = [os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)]
    try:
        os.write(opened[0], text.encode())
        os.replace(temporary, path)  # noqa: PTH105 - a Path of it would be made for this alone
        opened.append(os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC))
        on_disk_together(opened)
    finally:
        for fd in opened:
            os.close(fd)


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
