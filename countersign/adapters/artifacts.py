"""Bytes too large or too secret for rows: plan bundles, plan documents, state, logs. Each sealed by itself.

Bytes first, row second: `write` makes them durable and returns, `record` puts the row into the transaction of what they tell.
Bytes without a row are litter that a later write of the same content uses again; a row without bytes cannot be.

An object says, sealed, what it is: a store that was restored from a backup finds by that what it does not know (`unknown`).
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.durable import is_quick
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import TROUBLE, Bucket, Folder, Place
from countersign.adapters.store import statements
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.dialects import insert_into
from countersign.adapters.store.schema import artifacts
from countersign.core.digests import canonical, sha256
from countersign.core.errors import FailedPrecondition, NotFound, Unavailable
from countersign.core.ids import derive
from countersign.core.plan import ArtifactRef

_LABELLED = b"CSA1"  # then the length of the label, the label and the content, both sealed
_LENGTH = 4  # bytes
GONE = ""  # in the place of a key's id: its time was over, and the bytes are not there any more
SMALL = 128 << 10  # bytes that are read and unsealed, or sealed and stored, before a thread would have begun
_LABEL_MAX = 4096  # bytes; a real one has some 500


@dataclass(frozen=True, kw_only=True)
class Written:
    """Bytes that are stored and have no row yet."""

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


@dataclass(frozen=True, kw_only=True)
class Content:
    """Bytes that are to be stored, and what they are."""

    kind: str
    name: str
    data: bytes = field(repr=False)
    readable: bool


class Artifacts:
    """`place` is where the objects lie; every object is sealed for its organization, stack and digest."""

    def __init__(self, store: Store, keyring: Keyring, place: Place | Path) -> None:
        self._store = store
        self._keyring = keyring
        self._place = Folder(place) if isinstance(place, Path) else place
        self._objects = self._place.store

    async def write(self, *, org: str, stack_id: str, run_id: str | None, kind: str, name: str, data: bytes, readable: bool) -> Written:
        """Seal and store `data`; it is durable when this returns. Raises Unavailable where disk or bucket do not take it."""
        content = Content(kind=kind, name=name, data=data, readable=readable)
        [written] = await self.write_all([content], org=org, stack_id=stack_id, run_id=run_id)
        return written

    async def write_all(self, contents: Sequence[Content], *, org: str, stack_id: str, run_id: str | None) -> tuple[Written, ...]:
        """The same for all that one step stores: a folder syncs them together, a bucket takes them beside each other."""

        def sealed(content: Content) -> tuple[Written, bytes]:
            return self._sealed(content, org=org, stack_id=stack_id, run_id=run_id)

        def kept_in(folder: Folder) -> tuple[Written, ...]:
            written: list[Written] = []

            def objects() -> Iterator[tuple[str, bytes]]:  # one after the other, so that one at a time is in memory
                for content in contents:
                    one, stored = sealed(content)
                    written.append(one)
                    yield _path(org, stack_id, one.id), stored

            if contents:
                folder.put(objects())
            return tuple(written)

        async def put(content: Content, bucket: Bucket) -> Written:
            # A bucket that hangs must hold no thread: there are few, and everybody's.
            one, stored = await asyncio.to_thread(sealed, content)
            await bucket.store.put_async(_path(org, stack_id, one.id), stored)
            return one

        place = self._place
        try:
            if isinstance(place, Folder):
                return kept_in(place) if self._at_once(contents) else await asyncio.to_thread(kept_in, place)
            return tuple(await asyncio.gather(*(put(content, place) for content in contents)))
        except TROUBLE as failed:
            kinds = ", ".join(content.kind for content in contents)
            raise Unavailable(f"the artifact store did not take {kinds}: {place.why(failed)} and ask again") from None

    def _at_once(self, contents: Sequence[Content]) -> bool:
        """Whether they are stored before a thread would have begun. Only beside a store on a disk of this machine, whose commits do not
        leave the event loop either while the disk is quick: should it stall, no more waits for it than did."""
        return self._store.is_sqlite and is_quick() and sum(len(content.data) for content in contents) <= SMALL

    def _sealed(self, content: Content, *, org: str, stack_id: str, run_id: str | None) -> tuple[Written, bytes]:
        """What is written, and the object's bytes."""
        kind, name, data, readable = content.kind, content.name, content.data, content.readable
        digest = sha256(data)
        artifact_id = _id(org, stack_id, run_id, kind, name, digest)
        sealed, kid = self._keyring.seal("artifacts", data, belongs_to=(org, stack_id, digest))
        told = {"run_id": run_id, "kind": kind, "name": name, "readable": readable, "sha256": digest, "size": len(data)}
        label, _ = self._keyring.seal("artifacts", canonical(told), belongs_to=(org, stack_id, artifact_id))
        written = Written(
            id=artifact_id,
            org=org,
            stack_id=stack_id,
            run_id=run_id,
            kind=kind,
            name=name,
            readable=readable,
            sha256=digest,
            size=len(data),
            kid=kid,
        )
        return written, b"".join((_LABELLED, len(label).to_bytes(_LENGTH, "big"), label, sealed))

    async def record(self, tx: AsyncConnection, *written: Written) -> tuple[ArtifactRef, ...]:
        """Put the rows into the transaction `tx`; content that was recorded before keeps its row."""
        at = stamp(self._store.now())
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
        await statements.put(tx, _inserted(tx.dialect.name), rows)
        return tuple(ArtifactRef(id=w.id, kind=w.kind, sha256=w.sha256, size=w.size) for w in written)

    async def read(self, conn: AsyncConnection, *, org: str, artifact_id: str) -> bytes:
        """The plaintext, its digest checked. Raises NotFound, FailedPrecondition where it was changed, Unavailable."""
        row = await statements.first(conn, artifacts, org_id=org, id=artifact_id)
        if row is None:
            raise NotFound(f"no artifact {artifact_id}", field="artifact_id")
        if row.expires_at is not None and row.expires_at <= stamp(self._store.now()):
            raise NotFound(
                f"{row.kind} {artifact_id} was kept until {row.expires_at}, as the operator's retention says", field="artifact_id"
            )
        return await self._get(org, row.stack_id, artifact_id, row.kind, row.sha256, row.size)

    async def _get(self, org: str, stack_id: str, artifact_id: str, kind: str, digest: str, size: int) -> bytes:
        path = _path(org, stack_id, artifact_id)
        try:
            if isinstance(self._place, Folder):

                def opened() -> bytes:
                    return self._opened(self._folder_bytes(path), org, stack_id, artifact_id, kind, digest)

                return opened() if size <= SMALL else await asyncio.to_thread(opened)
            sealed = bytes(await (await self._place.store.get_async(path)).bytes_async())
        except TROUBLE as failed:
            if self._place.is_gone(failed):
                why = f"the bytes of {kind} {artifact_id} are gone from the artifact store; restore them from a backup"
                raise FailedPrecondition(why) from None
            raise Unavailable(f"the artifact store does not give {kind}: {self._place.why(failed)} and ask again") from None
        return await asyncio.to_thread(self._opened, sealed, org, stack_id, artifact_id, kind, digest)

    def _folder_bytes(self, path: str) -> bytes:
        return bytes(self._place.store.get(path).bytes())

    def _opened(self, sealed: bytes, org: str, stack_id: str, artifact_id: str, kind: str, digest: str) -> bytes:
        data = self._keyring.unseal("artifacts", _parts(sealed)[1], belongs_to=(org, stack_id, digest))
        if sha256(data) != digest:
            raise FailedPrecondition(f"the bytes of {kind} {artifact_id} are not those that were stored; nothing is done with them")
        return data

    async def read_named(self, conn: AsyncConnection, *, org: str, run_id: str, name: str) -> bytes | None:
        """The newest artifact of a run with that name, or None."""
        query = select(artifacts.c.id).where(artifacts.c.org_id == org, artifacts.c.run_id == run_id, artifacts.c.name == name)
        found = (await conn.execute(query.order_by(artifacts.c.at.desc()).limit(1))).scalar_one_or_none()
        return await self.read(conn, org=org, artifact_id=found) if found is not None else None

    async def remove(self, org: str, found: Sequence[tuple[str, str]]) -> None:
        """Remove objects, each by stack and id, for good; one that is gone already is as well. Raises Unavailable."""
        for stack_id, artifact_id in found:
            try:
                await self._objects.delete_async(_path(org, stack_id, artifact_id))
            except TROUBLE as failed:
                if not self._place.is_gone(failed):
                    raise Unavailable(f"the artifact store lets nothing go: {self._place.why(failed)}") from None

    # What a store that was restored does not know

    async def ids(self, conn: AsyncConnection) -> list[tuple[str, str]]:
        """(organization, id) of everything the store knows, whether its time is over or not."""
        return [(row.org_id, row.id) for row in await conn.execute(select(artifacts.c.org_id, artifacts.c.id))]

    async def held(self, conn: AsyncConnection) -> list[tuple[str, str]]:
        """(organization, id) of everything that can be read: what has lapsed may be gone."""
        there = artifacts.c.expires_at.is_(None) | (artifacts.c.expires_at > stamp(self._store.now()))
        return [(row.org_id, row.id) for row in await conn.execute(select(artifacts.c.org_id, artifacts.c.id).where(there))]

    async def unknown(self, conn: AsyncConnection, *kinds: str) -> list[Written]:
        """Objects of these kinds (all, where none is named) without a row. What does not say what it is, is left out."""
        known = set(await self.ids(conn))
        return await asyncio.to_thread(lambda: [one for one in self._unknown(known) if not kinds or one.kind in kinds])

    async def content(self, found: Written) -> bytes:
        """The plaintext of an object without a row. Raises as `read`."""
        return await self._get(found.org, found.stack_id, found.id, found.kind, found.sha256, found.size)

    def _unknown(self, known: set[tuple[str, str]]) -> Iterator[Written]:
        try:
            paths = [str(entry["path"]) for page in self._objects.list() for entry in page if entry["size"]]
            for path in paths:
                parts = path.split("/")
                if len(parts) == 3 and (parts[0], parts[2]) not in known:
                    head = bytes(self._objects.get_range(path, start=0, end=_LABEL_MAX))
                    if (label := self._label(head, *parts)) is not None:
                        yield label
        except TROUBLE as failed:
            raise Unavailable(f"the artifact store cannot be looked through: {self._place.why(failed)} and ask again") from None

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


@cache
def _inserted(dialect: str) -> Any:
    """One statement for any number of rows: built for each number it would be compiled each time."""
    return insert_into(artifacts, dialect).on_conflict_do_nothing()
