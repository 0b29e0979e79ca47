"""Where sealed objects lie: a folder, or a bucket of an object store.

Both take an object whole or not at all, and have it on a disk when `put` returns. What a store says about a failure stays here: it
may quote addresses and headers, and readers are told what to do instead.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import GCSStore, LocalStore, S3Store

from countersign.adapters.apart import apart
from countersign.adapters.durable import on_disk_together
from countersign.adapters.private import fill
from countersign.adapters.settings import Settings
from countersign.core.errors import Unavailable

TROUBLE = (BaseError, OSError)
_NOT_FOUND = (NotFoundError, FileNotFoundError)
# An engine that stores its state waits for 25 seconds; a bucket that is away is told before that.
TRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=12)}
PATIENCE = {"connect_timeout": "3s", "read_timeout": "15s", "timeout": "120s"}


class Folder:
    """Objects below a folder of ours (0700)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.shown = str(folder)
        self.store = LocalStore(prefix=folder)
        self._folder = folder
        self._named: set[Path] = set()  # folders whose own names are on the disk
        self._apart: set[Path] = set()  # folders of organizations, whose stacks lie apart

    def put(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Store objects by their paths; all of them, and their names, are on the disk when this returns."""
        opened: list[int] = []
        folders: dict[Path, None] = {}
        try:
            for path, data in objects:
                target = self._folder / path
                if target.parent not in folders:
                    folders |= dict.fromkeys(self._made(target.parent))
                opened.append(_written(target, data))
            opened += [os.open(folder, os.O_RDONLY | os.O_CLOEXEC) for folder in folders]
            on_disk_together(opened)
        finally:
            for fd in opened:
                os.close(fd)
        self._named |= folders.keys()

    def _made(self, folder: Path) -> Iterator[Path]:
        """The folder, there, and those on the way whose names may not be on the disk yet."""
        yield folder
        if not folder.is_dir():
            self._named.discard(folder)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.parent not in self._apart:
                apart(folder.parent)
                self._apart.add(folder.parent)
        while folder != self._folder and folder not in self._named:
            folder = folder.parent
            yield folder

    def is_gone(self, failed: Exception) -> bool:
        """Whether the object is not there, though its place is."""
        return isinstance(failed, _NOT_FOUND)

    def why(self, failed: Exception) -> str:
        """What went wrong and what to do about it, in words of ours."""
        text = str(failed).lower()
        if "no space" in text or "os error 28" in text:
            return "no space left; free some space on the disk of the data folder"
        if "os error 27" in text or "file too large" in text:
            return "the file is too large; raise the limit, or free some space on the disk of the data folder"
        return "an input or output error; look at the disk of the data folder"


class Bucket:
    """Objects in a bucket. Credentials are those of the environment or the machine, as obstore finds them."""

    def __init__(self, url: str, *, endpoint: str | None = None) -> None:
        self.shown = url.rstrip("/")
        self.store = _opened(self.shown, endpoint)

    def is_gone(self, failed: Exception) -> bool:
        # A missing bucket, or a proxy that knows nothing, says "not found" too, and then the object may well be there.
        text = str(failed).lower()
        return isinstance(failed, _NOT_FOUND) and ("<code>nosuchkey</code>" in text or "no such object" in text)

    def why(self, failed: Exception) -> str:
        if isinstance(failed, (PermissionDeniedError, UnauthenticatedError)):
            return f"{self.shown} refuses our credentials; grant reading and writing"
        if isinstance(failed, _NOT_FOUND):
            return f"there is no bucket {self.shown}, or something else answers in its place; make it, or correct `artifacts`"
        return f"{self.shown} does not answer as it should; look at the bucket, its network and the credentials"


Place = Folder | Bucket


def _written(target: Path, data: bytes) -> int:
    """A descriptor of the whole file, which has its name and is not synced yet."""
    # A name that listings of the library leave out, as what it is writing itself.
    temporary = target.with_name(f"{target.name}#{os.getpid()}{threading.get_native_id()}")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        fill(fd, data)
        temporary.replace(target)
    except BaseException:
        os.close(fd)
        temporary.unlink(missing_ok=True)
        raise
    return fd


def _opened(url: str, endpoint: str | None) -> S3Store | GCSStore:
    plain: dict[str, Any] = {"allow_http": True} if endpoint is not None and endpoint.startswith("http://") else {}
    how: dict[str, Any] = {"client_options": {**PATIENCE, **plain}, "retry_config": TRIES}
    on_gcs = url.startswith("gs://")
    if endpoint is not None:
        how["base_url" if on_gcs else "endpoint"] = endpoint
    try:
        return GCSStore.from_url(url, **how) if on_gcs else S3Store.from_url(url, **how)
    except BaseError:  # its text may quote what it was given
        raise Unavailable(f"{url} cannot be opened; correct `artifacts`, and the credentials in the environment") from None


def place_of(settings: Settings) -> Place:
    """Where the artifacts of a service lie. Raises Unavailable."""
    if settings.artifacts is None:
        return Folder(settings.data / "artifacts")
    return Bucket(settings.artifacts, endpoint=settings.artifacts_endpoint)
