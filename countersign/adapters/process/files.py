"""Small files that say what happened to a process: whole or not at all, and on the disk before anybody goes on."""

import os
from pathlib import Path


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
    _sync_folder(path.parent)


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
    _sync_folder(path.parent)
    return True


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
