"""Initialised work directories, kept warm: the second plan of a configuration needs no `init`.

With the backend's address and credential in the environment `.terraform` holds neither, so one serves every attempt of its
configuration. The key names all that init reads: source, lock file, backend and executable.
"""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from countersign.core.digests import digest_of
from countersign.core.errors import FailedPrecondition

ENTRIES = 64
UNUSED = 7 * 86_400  # seconds; an attempt in progress uses the packages of its entry
_DOT = ".terraform"


class WarmPool:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, *, tree: str, lock: str | None, backend: str, executable: str) -> str:
        return digest_of([tree, lock, backend, executable]).removeprefix("sha256:")

    def install(self, key: str, work: Path) -> bool:
        """Give `work` the `.terraform` of this key; False where it is cold. Provider packages are linked, the rest is copied."""
        kept = self._folder / key / _DOT
        if not kept.is_dir():
            return False
        target = work / _DOT
        shutil.copytree(kept, target, symlinks=True, ignore=shutil.ignore_patterns("providers"), dirs_exist_ok=True)
        if (kept / "providers").is_dir() and not (target / "providers").exists():
            (target / "providers").symlink_to(kept / "providers", target_is_directory=True)
        os.utime(self._folder / key)
        return True

    def keep(self, key: str, work: Path) -> None:
        """Keep the `.terraform` that init made in `work`, and use it there from now on. Somebody else's equal one is as good."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry = self._folder / key
        made = work / _DOT
        made.mkdir(exist_ok=True)  # init makes none where there is nothing to keep
        if not entry.exists():
            temporary = Path(tempfile.mkdtemp(dir=self._folder, prefix="new-"))
            made.rename(temporary / _DOT)
            try:
                temporary.rename(entry)
            except OSError:  # another process was faster
                shutil.rmtree(temporary, ignore_errors=True)
        else:
            shutil.rmtree(made)
        self.install(key, work)
        self._prune()

    def _prune(self) -> None:
        entries = sorted((e for e in self._folder.iterdir() if e.is_dir()), key=lambda e: e.stat().st_mtime, reverse=True)
        for entry in entries[ENTRIES:]:
            if time.time() - entry.stat().st_mtime > UNUSED:
                shutil.rmtree(entry, ignore_errors=True)


def check_backend(work: Path) -> None:
    """Raise FailedPrecondition unless init chose our backend, without an address of its own.

    The last override file by name wins silently, and one of the source may sort behind ours.
    """
    try:
        chosen = json.loads((work / _DOT / "terraform.tfstate").read_bytes()).get("backend") or {}
    except (OSError, ValueError):
        chosen = {}
    settings = chosen.get("config") or {}
    if chosen.get("type") != "http" or any(value is not None for value in settings.values()):
        raise FailedPrecondition(
            "a file of the source overrides where the state is kept; remove backend and cloud blocks from its *override.tf files",
            field="source",
        )
