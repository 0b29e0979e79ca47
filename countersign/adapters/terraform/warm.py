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
from typing import Any

from countersign.core.digests import digest_of
from countersign.core.errors import FailedPrecondition

ENTRIES = 64
UNUSED = 7 * 86_400  # seconds; an attempt in progress uses the packages of its entry
_DOT = ".terraform"
_MOVING = "modules-may-move"  # a file of an entry: its configuration uses modules from elsewhere


class WarmPool:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, *, tree: str, lock: str | None, backend: str, executable: str) -> str:
        return digest_of([tree, lock, backend, executable]).removeprefix("sha256:")

    def install(self, key: str, work: Path) -> bool:
        """Give `work` the `.terraform` of this key; False where init is needed. Provider packages are linked, the rest is copied."""
        entry = self._folder / key
        if not (entry / _DOT).is_dir():
            return False
        left_out = shutil.ignore_patterns("providers")
        # Their times are of no use to anybody, so they are not copied.
        shutil.copytree(entry / _DOT, work / _DOT, symlinks=True, ignore=left_out, copy_function=shutil.copy, dirs_exist_ok=True)
        self.link_providers(key, work)
        return not (entry / _MOVING).exists()

    def link_providers(self, key: str, work: Path) -> bool:
        """Give `work` the provider packages of this key and nothing else; False where nobody here initialised it."""
        entry = self._folder / key
        if not (entry / _DOT).is_dir():
            return False
        kept, wanted = entry / _DOT / "providers", work / _DOT / "providers"
        if kept.is_dir() and not wanted.exists():
            wanted.parent.mkdir(exist_ok=True)
            wanted.symlink_to(kept, target_is_directory=True)
        os.utime(entry)
        return True

    def keep(self, key: str, work: Path) -> None:
        """Keep the `.terraform` that init made in `work`. Somebody else's equal one is as good.

        Modules that were fetched are not kept: their source may name a branch, and a plan has to see where it is now.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry, made = self._folder / key, work / _DOT
        made.mkdir(exist_ok=True)  # init makes none where there is nothing to keep
        providers = made / "providers"
        if not entry.exists():
            moving = _fetched(made)
            temporary = Path(tempfile.mkdtemp(dir=self._folder, prefix="new-"))
            left_out = shutil.ignore_patterns("providers", *(["modules"] if moving else []))
            shutil.copytree(made, temporary / _DOT, symlinks=True, ignore=left_out)
            if providers.is_dir():
                providers.rename(temporary / _DOT / "providers")
            if moving:
                (temporary / _MOVING).touch()
            try:
                temporary.rename(entry)
            except OSError:  # another process was faster
                shutil.rmtree(temporary, ignore_errors=True)
        elif providers.is_dir() and not providers.is_symlink():
            shutil.rmtree(providers)
        self.link_providers(key, work)
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
    chosen = backend_of(work)
    settings = chosen.get("config") or {}
    if chosen.get("type") != "http" or any(value is not None for value in settings.values()):
        raise FailedPrecondition(
            "a file of the source overrides where the state is kept; remove backend and cloud blocks from its *override.tf files",
            field="source",
        )


def backend_of(work: Path) -> dict[str, Any]:
    """What init chose: `type` and `config`; nothing where it chose none."""
    try:
        chosen = json.loads((work / _DOT / "terraform.tfstate").read_bytes()).get("backend") or {}
    except (OSError, ValueError):
        return {}
    return dict(chosen)


def _fetched(made: Path) -> bool:
    """Whether init fetched modules, or cannot be understood about them."""
    try:
        modules = json.loads((made / "modules" / "modules.json").read_bytes())["Modules"]
        return any(str(module["Dir"]).startswith(_DOT) for module in modules)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True
