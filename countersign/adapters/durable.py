"""What was written is on the disk when this returns: a file's content, or the names in a folder."""

import os
from pathlib import Path


def on_disk(path: Path) -> None:
    """Sync a file or a folder. A new name is durable when its folder was synced as well."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
