"""Hearing that another process of this machine committed something, without asking all the time.

Whoever commits to the ledger of a SQLite file opens and closes an empty file beside it; the kernel tells whoever watches that file.
A look every few milliseconds took half of what the front did while a run went on.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from countersign.adapters.closing import Closing


class Bell(Closing):
    """Calls `heard` whenever somebody rang. Raises OSError where the kernel cannot tell."""

    def __init__(self, path: Path, heard: Callable[[], None]) -> None:
        path.touch(mode=0o600)
        super().__init__(path, heard)


def ring(path: Path) -> None:
    with contextlib.suppress(OSError):  # whoever waits looks by itself, a little later
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def bell_of(database: Path) -> Path:
    return database.with_name(f".{database.name}.bell")
