"""A backup: one file with the store, every artifact and the keys, made while the service runs, and able to prove itself.

The store is copied first and artifacts after it. An artifact is on the disk before its row is, so whatever the copied rows
name is there to be copied; what is newer comes along without a row, and is what a restore finds a lost apply by.

The file is a plain tar. Its last member, the manifest, has the digest of every other one, so that a file cut short is none.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import secrets as random
import sqlite3
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from countersign.adapters.durable import on_disk
from countersign.core.errors import FailedPrecondition, Unavailable
from countersign.core.model import Payload

VERSION = "countersign.backup/1"
KEYS_VERSION = "countersign.keys/1"
MANIFEST, STORE, SETTINGS = "manifest.json", "store.db", "countersign.toml"
KEYS, ARTIFACTS = "keys/", "artifacts/"
NAMED = "SELECT org_id, stack_id, id FROM artifacts WHERE expires_at IS NULL"  # what has lapsed may be gone already
LARGEST_TEXT = 64 << 20  # bytes of a manifest or of keys; a manifest has some 150 for an artifact
PIECE = 1 << 20


class Member(Payload):
    sha256: str  # hex
    size: int


class Head(Payload):
    """Where a state stood when the backup was made: for whoever compares it with what happened since."""

    org: str
    stack_id: str
    path: str | None = None
    lineage: str | None = None
    serial: int
    open_attempt: str | None = None


class Manifest(Payload):
    v: str = VERSION
    made_at: str
    made_by: str
    version: str  # of Countersign
    schema_revision: str
    keys: str  # "inside", "elsewhere" or "none"
    artifacts: str = "inside"  # or "elsewhere": in a bucket, which has versions of its own
    heads: tuple[Head, ...] = ()
    missing: tuple[str, ...] = ()  # artifacts that rows name and the data folder had no more
    files: Mapping[str, Member]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is backed up: a data folder with SQLite in it."""

    data: Path

    @property
    def store(self) -> Path:
        return self.data / "countersign.db"

    @property
    def keys(self) -> list[Path]:
        return sorted((self.data / "keys").glob("[!.]*.json"))


# -- making one -------------------------------------------------------------------------------------------------------


def make(
    source: Source, target: Path, *, keys: str, keys_file: Path | None, artifacts: str, by: str, version: str, now: datetime
) -> Manifest:
    """Write the backup to `target`, which must not exist; complete and on the disk, or not there at all.

    `keys` ("inside", "elsewhere": in `keys_file`, "none") and `artifacts` as the manifest has them. Raises FailedPrecondition, Unavailable.
    """
    if not source.store.is_file():
        raise FailedPrecondition(f"there is no store to back up: {source.store} does not exist")
    held = {path.name: path.read_bytes() for path in source.keys}
    if keys != "none" and not held:
        raise FailedPrecondition(f"there are no keys in {source.data / 'keys'}; without them no artifact of this backup could be opened")
    with _new(target) as file, _new(keys_file) if keys_file else contextlib.nullcontext() as kept:
        copy = target.with_name(f".{target.name}.{os.getpid()}.{random.token_hex(4)}.store")
        try:
            revision, heads, named = _copied(source.store, copy)
            packed = _Pack(file)
            packed.file(STORE, copy)
            found = set(packed.folder(ARTIFACTS, source.data / "artifacts")) if artifacts == "inside" else named
            if keys == "inside":
                for name, data in held.items():
                    packed.bytes(KEYS + name, data)
            if (settings := source.data / SETTINGS).is_file():
                packed.bytes(SETTINGS, settings.read_bytes())
            missing = tuple(sorted(ARTIFACTS + name for name in named - found))
            manifest = Manifest(
                made_at=now.isoformat(),
                made_by=by,
                version=version,
                schema_revision=revision,
                keys=keys,
                artifacts=artifacts,
                heads=heads,
                missing=missing,
                files=packed.members,
            )
            packed.close(manifest)
            if kept is not None:
                kept.write(_keys_document(held))
        except OSError as broken:
            raise Unavailable(f"the backup could not be written ({broken.strerror}); nothing was left of it") from None
        except sqlite3.Error as broken:
            raise FailedPrecondition(f"the store cannot be copied: {broken}") from None
        finally:
            copy.unlink(missing_ok=True)
    return manifest


@contextlib.contextmanager
def _new(target: Path) -> Iterator[IO[bytes]]:
    """A new file of that name, ours alone; it appears whole, at the end, and never in the place of another."""
    if target.exists() or target.is_symlink():
        raise FailedPrecondition(f"{target} exists; a backup never overwrites anything, name another file", field="file")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        fd = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as broken:
        raise FailedPrecondition(f"{target.parent} takes no new file ({broken.strerror}); name another place", field="file") from None
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, target)
        except FileExistsError:
            raise FailedPrecondition(f"{target} was made meanwhile; name another file", field="file") from None
        on_disk(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _copied(store: Path, copy: Path) -> tuple[str, tuple[Head, ...], set[str]]:
    """Copy a SQLite that others may be writing to, in one look at it: (revision, heads, artifacts its rows name)."""
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(store, timeout=30)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)  # all pages in one step: readers of a WAL neither wait for writers nor hold them up
        target.execute("PRAGMA journal_mode=DELETE")
        return inspected(target)


def inspected(connection: sqlite3.Connection) -> tuple[str, tuple[Head, ...], set[str]]:
    """(revision, heads, artifacts its rows name). Raises FailedPrecondition for a damaged file."""
    verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
    if verdict != "ok":
        raise FailedPrecondition(f"the store is damaged ({str(verdict)[:200]}); restore an earlier backup")
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError:
        row = None
    if row is None:
        raise FailedPrecondition("the store has no schema yet; start the service once, or name another data folder")
    query = (
        "SELECT s.org_id, s.stack_id, s.lineage, s.serial, r.path, a.id FROM states s "
        "LEFT JOIN records r ON r.org_id = s.org_id AND r.kind = 'stack' AND r.id = s.stack_id "
        "LEFT JOIN attempts a ON a.org_id = s.org_id AND a.stack_id = s.stack_id AND a.closed_at IS NULL ORDER BY 1, 5, 2"
    )
    heads = tuple(
        Head(org=org, stack_id=stack, lineage=lineage, serial=serial, path=path, open_attempt=attempt)
        for org, stack, lineage, serial, path, attempt in connection.execute(query)
    )
    named = {f"{org}/{stack}/{id}" for org, stack, id in connection.execute(NAMED)}
    return str(row[0]), heads, named


class _Pack:
    """A tar that remembers what it was given."""

    def __init__(self, file: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115  `close` ends it
        self.members: dict[str, Member] = {}

    def bytes(self, name: str, data: bytes) -> None:
        self._tar.addfile(_entry(name, len(data)), io.BytesIO(data))
        self.members[name] = Member(sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    def file(self, name: str, path: Path) -> None:
        with path.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            told = _Hashing(opened)
            self._tar.addfile(_entry(name, size), told)
            self.members[name] = Member(sha256=told.digest, size=size)

    def folder(self, name: str, folder: Path) -> Iterator[str]:
        """Every file below it, as it is called below it. Objects are never changed, and what vanishes was none."""
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).as_posix()
            if path.is_file() and not path.is_symlink() and "#" not in path.name:  # a put in progress
                with contextlib.suppress(FileNotFoundError):
                    self.file(name + inside, path)
                    yield inside

    def close(self, manifest: Manifest) -> None:
        data = manifest.model_dump_json(indent=1).encode()
        self._tar.addfile(_entry(MANIFEST, len(data)), io.BytesIO(data))
        self._tar.close()


class _Hashing:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._hash.update(data)
        return data

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


def _keys_document(held: Mapping[str, bytes]) -> bytes:
    return json.dumps({"v": KEYS_VERSION, "files": {name: base64.b64encode(data).decode() for name, data in held.items()}}).encode()


# -- looking at one ---------------------------------------------------------------------------------------------------


def verified(file: Path) -> Manifest:
    """The manifest, after every member was read and compared with it. Raises FailedPrecondition saying what is wrong."""
    found: dict[str, Member] = {}
    text: bytes | None = None
    with _members(file) as members:
        for name, size, content in members:
            if name == MANIFEST:
                text = content.read(LARGEST_TEXT)
                continue
            told = _Hashing(content)
            while told.read(PIECE):
                pass
            found[name] = Member(sha256=told.digest, size=size)
    if text is None:
        raise FailedPrecondition(f"{file} is no backup, or its end is missing: there is no manifest in it; use another backup")
    manifest = _manifest(text, file)
    wrong = sorted(name for name in {*found, *manifest.files} if found.get(name) != manifest.files.get(name))
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise FailedPrecondition(f"{file} is damaged: {', '.join(wrong[:5])}{more} are not what its manifest says; use another backup")
    return manifest


def extract(file: Path, manifest: Manifest, folder: Path) -> None:
    """Put every member below `folder`, which is empty, each compared again with what the manifest says of it."""
    with _members(file) as members:
        for name, _, content in members:
            if name == MANIFEST:
                continue
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            told = _Hashing(content)
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as out:
                while piece := told.read(PIECE):
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            if told.digest != manifest.files[name].sha256:
                raise FailedPrecondition(f"{file} changed while it was read; use a copy that nobody writes to")


def keys_in(file: Path) -> dict[str, bytes]:
    """What `backup --keys FILE` wrote: name of each key file → its bytes. Raises FailedPrecondition."""
    try:
        with file.open("rb") as opened:
            document = json.loads(opened.read(LARGEST_TEXT))
        if document["v"] != KEYS_VERSION:
            raise ValueError
        return {_plain_name(name): base64.b64decode(data, validate=True) for name, data in document["files"].items()}
    except OSError as broken:
        raise FailedPrecondition(f"the keys in {file} cannot be read ({broken.strerror})", field="keys") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FailedPrecondition(f"{file} holds no keys of `countersign backup --keys`", field="keys") from None


def _plain_name(name: str) -> str:
    if "/" in name or name.startswith(".") or not name.endswith(".json"):
        raise ValueError(name)
    return name


@contextlib.contextmanager
def _members(file: Path) -> Iterator[Iterable[tuple[str, int, IO[bytes]]]]:
    """(name, size, content) of each member in turn. Raises FailedPrecondition for what is no tar of ours."""
    try:
        with tarfile.open(file, mode="r|") as tar:
            yield _each(tar, file)
    except tarfile.TarError:
        raise FailedPrecondition(f"{file} is no backup, or is damaged; use another one") from None
    except OSError as broken:
        raise FailedPrecondition(f"{file} cannot be read ({broken.strerror})", field="file") from None


def _each(tar: tarfile.TarFile, file: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    seen: set[str] = set()
    for entry in tar:
        content = tar.extractfile(entry) if entry.isfile() else None
        known = entry.name in (MANIFEST, STORE, SETTINGS) or entry.name.startswith((KEYS, ARTIFACTS))
        if content is None or not known or entry.name in seen or any(part in ("", ".", "..") for part in entry.name.split("/")):
            raise FailedPrecondition(f"{file} holds something that no backup of ours has: {entry.name[:100]!r}; nothing is done with it")
        seen.add(entry.name)
        yield entry.name, entry.size, content


def _manifest(text: bytes, file: Path) -> Manifest:
    try:
        document: Any = json.loads(text)
        version = document.get("v")
    except (ValueError, AttributeError):
        raise FailedPrecondition(f"the manifest of {file} is damaged; use another backup") from None
    if version != VERSION:
        raise FailedPrecondition(f"{file} is a backup in the format {str(version)[:40]!r}; this version reads {VERSION}")
    try:
        return Manifest.model_validate(document)
    except ValidationError:
        raise FailedPrecondition(f"the manifest of {file} is damaged; use another backup") from None
