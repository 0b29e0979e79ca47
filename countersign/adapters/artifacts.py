"""Bytes too large or too secret for rows: plan bundles, plan documents, state, logs. Each sealed by itself.

Bytes first, row second: `write` makes them durable and returns, `record` puts the row into the transaction of what they tell.
Bytes without a row are litter that a later write of the same content uses again; a row without bytes cannot be.

An object says, sealed, what it is: a store that was restored from a backup finds by that what it does not know (`unknown`).
"""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.keyring import Keyring
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.schema import artifacts
from countersign.core.digests import canonical, sha256
from countersign.core.errors import FailedPrecondition, NotFound, Unavailable
from countersign.core.ids import derive
from countersign.core.plan import ArtifactRef

_LABELLED = b"CSA1"  # then the length of the label, the label and the content, both sealed
_LENGTH = 4  # bytes
_LABEL_MAX = 4096  # bytes; a real one has some 500


@dataclass(frozen=True, kw_only=True)
class Written:
    """Bytes that are on the disk and have no row yet."""

    id: str
    org: str
    stack_id: str
    run_id: str | None
    kind: str
    name: str
    readable: bool  # redacted already, so that people and models may read it
    sha256: str  # of the plaintext
    size: int
    kid: str


class Artifacts:
    """`folder` is where the objects lie (0700); every object is sealed for its organization, stack and digest."""

    def __init__(self, store: Store, keyring: Keyring, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._store = store
        self._keyring = keyring
        self._folder = folder
        self._objects = LocalStore(prefix=folder)
        self._synced: set[Path] = set()  # folders whose own names are on the disk

    async def write(self, *, org: str, stack_id: str, run_id: str | None, kind: str, name: str, data: bytes, readable: bool) -> Written:
        """Seal and store `data`; it is durable when this returns. Raises Unavailable where the disk does not take it."""
        digest, sealed_by = await asyncio.to_thread(self._put, org, stack_id, run_id, kind, name, data, readable)
        artifact_id = _id(org, stack_id, run_id, kind, name, digest)
        return Written(
            id=artifact_id,
            org=org,
            stack_id=stack_id,
            run_id=run_id,
            kind=kind,
            name=name,
            readable=readable,
            sha256=digest,
            size=len(data),
            kid=sealed_by,
        )

    def _put(self, org: str, stack_id: str, run_id: str | None, kind: str, name: str, data: bytes, readable: bool) -> tuple[str, str]:
        """Digest, seal, store and sync, in one thread: (digest, id of the key)."""
        digest = sha256(data)
        artifact_id = _id(org, stack_id, run_id, kind, name, digest)
        sealed, kid = self._keyring.seal("artifacts", data, belongs_to=(org, stack_id, digest))
        told = {"run_id": run_id, "kind": kind, "name": name, "readable": readable, "sha256": digest, "size": len(data)}
        label, _ = self._keyring.seal("artifacts", canonical(told), belongs_to=(org, stack_id, artifact_id))
        sealed = b"".join((_LABELLED, len(label).to_bytes(_LENGTH, "big"), label, sealed))
        path = _path(org, stack_id, artifact_id)
        try:
            self._objects.put(path, sealed)
            self._sync(path)
        except (BaseError, OSError) as failed:
            raise Unavailable(
                f"the artifact store did not take {kind} ({_short(failed)}); free some space on the disk of the data folder and ask again"
            ) from None
        return digest, kid

    def _sync(self, path: str) -> None:
        """The object and its folder on the disk; and once, every folder on the way that names it."""
        target = self._folder / path
        _on_disk(target)
        _on_disk(target.parent)
        if target.parent not in self._synced:
            for folder in target.parent.parents:
                _on_disk(folder)
                if folder == self._folder:
                    break
            self._synced.add(target.parent)

    async def record(self, tx: AsyncConnection, *written: Written) -> tuple[ArtifactRef, ...]:
        """Put the rows into the transaction `tx`; content that was recorded before keeps its row."""
        at = stamp(self._store.now())
        insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
        rows = [
            {
                "org_id": w.org,
                "id": w.id,
                "run_id": w.run_id,
                "stack_id": w.stack_id,
                "kind": w.kind,
                "name": w.name,
                "readable": w.readable,
                "sha256": w.sha256,
                "size": w.size,
                "kid": w.kid,
                "at": at,
            }
            for w in written
        ]
        if rows:
            await tx.execute(insert(artifacts).values(rows).on_conflict_do_nothing())
        return tuple(ArtifactRef(id=w.id, kind=w.kind, sha256=w.sha256, size=w.size) for w in written)

    async def read(self, conn: AsyncConnection, *, org: str, artifact_id: str) -> bytes:
        """The plaintext, its digest checked. Raises NotFound, FailedPrecondition where it was changed, Unavailable."""
        query = select(artifacts).where(artifacts.c.org_id == org, artifacts.c.id == artifact_id)
        row = (await conn.execute(query)).first()
        if row is None:
            raise NotFound(f"no artifact {artifact_id}", field="artifact_id")
        return await asyncio.to_thread(self._get, org, row.stack_id, artifact_id, row.kind, row.sha256)

    def _get(self, org: str, stack_id: str, artifact_id: str, kind: str, digest: str) -> bytes:
        try:
            sealed = bytes(self._objects.get(_path(org, stack_id, artifact_id)).bytes())
        except (NotFoundError, FileNotFoundError):
            raise FailedPrecondition(
                f"the bytes of {kind} {artifact_id} are gone from the artifact store; restore them from a backup"
            ) from None
        except (BaseError, OSError) as failed:
            raise Unavailable(f"the artifact store does not give {kind} ({_short(failed)}); ask again in a moment") from None
        data = self._keyring.unseal("artifacts", _parts(sealed)[1], belongs_to=(org, stack_id, digest))
        if sha256(data) != digest:
            raise FailedPrecondition(f"the bytes of {kind} {artifact_id} are not those that were stored; nothing is done with them")
        return data

    async def read_named(self, conn: AsyncConnection, *, org: str, run_id: str, name: str) -> bytes | None:
        """The newest artifact of a run with that name, or None."""
        query = select(artifacts.c.id).where(artifacts.c.org_id == org, artifacts.c.run_id == run_id, artifacts.c.name == name)
        found = (await conn.execute(query.order_by(artifacts.c.at.desc()).limit(1))).scalar_one_or_none()
        return await self.read(conn, org=org, artifact_id=found) if found is not None else None

    # What a store that was restored does not know

    async def unknown(self, conn: AsyncConnection, *kinds: str) -> list[Written]:
        """Objects of these kinds (all, where none is named) without a row. What does not say what it is, is left out."""
        known = {(row.org_id, row.id) for row in await conn.execute(select(artifacts.c.org_id, artifacts.c.id))}
        return await asyncio.to_thread(lambda: [one for one in self._unknown(known) if not kinds or one.kind in kinds])

    async def content(self, found: Written) -> bytes:
        """The plaintext of an object without a row. Raises as `read`."""
        return await asyncio.to_thread(self._get, found.org, found.stack_id, found.id, found.kind, found.sha256)

    def _unknown(self, known: set[tuple[str, str]]) -> Iterator[Written]:
        try:
            paths = [str(entry["path"]) for page in self._objects.list() for entry in page if entry["size"]]
            for path in paths:
                parts = path.split("/")
                if len(parts) == 3 and (parts[0], parts[2]) not in known:
                    head = bytes(self._objects.get_range(path, start=0, end=_LABEL_MAX))
                    if (label := self._label(head, *parts)) is not None:
                        yield label
        except (BaseError, OSError) as failed:
            raise Unavailable(f"the artifact store cannot be looked through ({_short(failed)}); ask again in a moment") from None

    def _label(self, head: bytes, org: str, stack_id: str, artifact_id: str) -> Written | None:
        label = _parts(head)[0]
        if not label:
            return None
        try:
            told = json.loads(self._keyring.unseal("artifacts", label, belongs_to=(org, stack_id, artifact_id)))
        except FailedPrecondition:  # of another key, or damaged: it proves nothing
            return None
        return Written(id=artifact_id, org=org, stack_id=stack_id, kid=label[5 : 5 + label[4]].decode(), **told)


def _parts(stored: bytes) -> tuple[bytes, bytes]:
    """(label, content) of an object, both sealed. One of before there were labels is all content."""
    if not stored.startswith(_LABELLED):
        return b"", stored
    begin = len(_LABELLED) + _LENGTH
    end = begin + int.from_bytes(stored[len(_LABELLED) : begin], "big")
    return stored[begin:end], stored[end:]


def _id(org: str, stack_id: str, run_id: str | None, kind: str, name: str, digest: str) -> str:
    return derive("art", org, stack_id, run_id or "", kind, name, digest)


def _path(org: str, stack_id: str, artifact_id: str) -> str:
    return f"{org}/{stack_id}/{artifact_id}"


def _on_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _short(failed: Exception) -> str:
    text = str(failed).lower()
    return (
        "no space left"
        if "no space" in text or "os error 28" in text
        else "too large"
        if "os error 27" in text
        else "an input or output error"
    )
