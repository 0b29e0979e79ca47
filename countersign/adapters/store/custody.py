"""Who keeps the state of a stack: taken over from elsewhere, given back, or left where it is, with both serials on the record.

A state that comes here keeps its lineage and serial, so that what is stored is what was there and can be compared with it for
ever. Taking it over is an attributed claim of one transaction, like a push by hand: it fences whoever could write, and waits
for no apply that is open.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import Artifacts, Written
from countersign.adapters.store import audit, plans, records, state
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.records import AWAY, HERE, OWN, StackRow
from countersign.core import fencing
from countersign.core.digests import sha256
from countersign.core.engine import Seen, StackConfig
from countersign.core.errors import Conflict, FailedPrecondition, Locked
from countersign.core.fencing import Head
from countersign.core.ids import derive
from countersign.core.principal import Principal
from countersign.core.terraform.state import Header, header_of, with_serial

SEEN = "seen"  # in the place of a credential, with a state that a run saw where another keeps it


@dataclass(frozen=True, kw_only=True)
class Adopted:
    before: Head
    after: Head
    there: int | None  # the serial it had; None where nothing was there
    stored: bool  # whether a new snapshot was


@dataclass(frozen=True, kw_only=True)
class Adoption:
    store: Store
    artifacts: Artifacts
    stack: StackRow
    by: Principal
    origin: str  # "file", or the type of a backend
    reason: str
    newer: bool = False  # somebody asked for what goes on from the state that is here

    async def __call__(self, data: bytes | None) -> Adopted:
        """Keep `data`, or nothing where there was nothing, from now on. Raises InvalidArgument, FailedPrecondition, Locked, Conflict."""
        header, org, stack_id = header_of(data) if data is not None else None, self.stack.org, self.stack.id
        async with self.store.read() as conn:
            before = await free(conn, self.stack)
            same = data is not None and await self._is_kept(conn, data)
        if header is not None:
            newer = self.newer or self.stack.custody.get("kept") in (AWAY, OWN)
            if (why := fencing.adopting(before, header, same=same, newer=newer)) is not None:
                later = header.lineage == before.lineage and header.serial > before.serial
                hint = "with --newer it is taken over" if later else f"look at both first (countersign state pull {self.stack.path})"
                raise FailedPrecondition(f"{why}. Nothing was taken over; {hint}", field="newer" if later else "stack")
        elif self.stack.custody.get("kept") in (AWAY, OWN) and not before.empty:
            raise FailedPrecondition(
                f"nothing is there, and there was a state of {self.stack.path}; say where it is now with --from", field="from"
            )
        written = None
        if data is not None and header is not None and not same:
            written = await _written(self.artifacts, self.stack, before, data, header)
        async with self.store.begin() as tx:
            now = self.store.now()
            epoch = await fenced(tx, self.stack, before)
            after = await state.head(tx, org, stack_id)
            if written is not None and header is not None:
                await self.artifacts.record(tx, written)
                hand: dict[str, Any] = {"credential_id": self.by.id[:40], "run_id": written.run_id, "now": now}
                after = await state.install(tx, org=org, stack_id=stack_id, header=header, written=written, **hand)
            there = header.serial if header is not None else None
            noted = {"kept": HERE, "from": self.origin, "serial_there": there, "serial": after.serial, "lineage": after.lineage}
            await records.note_custody(tx, await records.get_stack(tx, org, stack_id), noted, now=now)
            told = _told(before, after, there) | {"epoch": epoch, "origin": self.origin, "reason": self.reason}
            await audit.append(tx, org=org, at=stamp(now), action="state.adopt", by=self.by, target=self.stack.path, **told)
        return Adopted(before=before, after=after, there=there, stored=written is not None)

    async def _is_kept(self, conn: AsyncConnection, data: bytes) -> bool:
        """Whether it is the newest one here, however it is laid out."""
        kept, header = await state.snapshot(conn, self.stack.org, self.stack.id), header_of(data)
        if kept is None or (kept.lineage, kept.serial) != (header.lineage, header.serial):
            return False
        ours = await self.artifacts.read(conn, org=self.stack.org, artifact_id=kept.artifact_id)
        return with_serial(ours, header.serial) == with_serial(data, header.serial)


@dataclass(frozen=True, kw_only=True)
class Release:
    """Giving a state back. What was stored here stays, and is planned against no more."""

    store: Store
    stack: StackRow
    by: Principal
    to: str  # "file", or the type of a backend
    reason: str

    async def __call__(self, seen: Head, there: int | None) -> None:
        """From now on the state `seen` is kept elsewhere, where the serial was `there` before. Raises Conflict where it moved."""
        org, stack_id = self.stack.org, self.stack.id
        async with self.store.begin() as tx:
            now = self.store.now()
            epoch = await fenced(tx, self.stack, seen)
            noted = {"kept": AWAY, "to": self.to, "serial_there": there, "serial": seen.serial, "lineage": seen.lineage}
            await records.note_custody(tx, await records.get_stack(tx, org, stack_id), noted, now=now)
            told = _told(seen, seen, there) | {"epoch": epoch, "to": self.to, "reason": self.reason}
            await audit.append(tx, org=org, at=stamp(now), action="state.release", by=self.by, target=self.stack.path, **told)

    async def arrived(self, serial: int) -> None:
        """It is there now, under that serial, which the engine may have counted up."""
        org, stack_id = self.stack.org, self.stack.id
        async with self.store.begin() as tx:
            now = self.store.now()
            stack = await records.get_stack(tx, org, stack_id)
            await records.note_custody(tx, stack, {**stack.custody, "serial_given": serial}, now=now)
            facts: dict[str, Any] = {"to": self.to, "serial_given": serial}
            await audit.append(tx, org=org, at=stamp(now), action="state.given", by=self.by, target=self.stack.path, **facts)

    async def undone(self, why: str) -> None:
        """It could not be given: it is kept here as it was before."""
        org, stack_id = self.stack.org, self.stack.id
        async with self.store.begin() as tx:
            now = self.store.now()
            await records.note_custody(tx, await records.get_stack(tx, org, stack_id), self.stack.custody, now=now)
            facts = {"to": self.to, "why": why}
            await audit.append(
                tx, org=org, at=stamp(now), action="state.release", by=self.by, outcome="failed", target=self.stack.path, **facts
            )


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Leaving a state in the backend its configuration declares: runs work on it there, and what is here is what they saw of it."""

    store: Store
    artifacts: Artifacts
    stack: StackRow
    by: Principal
    reason: str
    another: bool = False  # somebody asked for one that has no history in common with what was seen before

    async def __call__(self, seen: Seen) -> Adopted:
        """Raises InvalidArgument, FailedPrecondition, Conflict."""
        header, org, stack_id = header_of(seen.data) if seen.data is not None else None, self.stack.org, self.stack.id
        async with self.store.read() as conn:
            before = await free(conn, self.stack)
        self._refuse(before, header)
        written = await _written(self.artifacts, self.stack, before, seen.data, header) if header is not None else None
        async with self.store.begin() as tx:
            now = self.store.now()
            epoch = await fenced(tx, self.stack, before)
            after = await state.head(tx, org, stack_id)
            if written is not None and header is not None and not fencing.repeats(before, header, written.sha256):
                await self.artifacts.record(tx, written)
                hand: dict[str, Any] = {"credential_id": self.by.id[:40], "run_id": written.run_id, "now": now}
                after = await state.install(tx, org=org, stack_id=stack_id, header=header, written=written, **hand)
            there = header.serial if header is not None else None
            noted = {"kept": OWN, "backend": seen.backend, "serial_there": there, "lineage": header.lineage if header else None}
            await records.note_custody(tx, await records.get_stack(tx, org, stack_id), noted, now=now)
            told = _told(before, after, there) | {"epoch": epoch, "backend": seen.backend, "reason": self.reason}
            await audit.append(tx, org=org, at=stamp(now), action="state.keep", by=self.by, target=self.stack.path, **told)
        return Adopted(before=before, after=after, there=there, stored=after.seq != before.seq)

    def _refuse(self, before: Head, header: Header | None) -> None:
        path = self.stack.path
        if before.empty:
            return
        if self.stack.custody.get("kept") not in (AWAY, OWN):
            short = path.partition("/")[2]
            raise FailedPrecondition(
                f"the state of {path} is kept here; give it back first: countersign stack release {short}", field="stack"
            )
        if self.another:
            return
        if header is None or header.lineage != before.lineage:
            there = "nothing is" if header is None else f"a state of the lineage {header.lineage} is"
            raise FailedPrecondition(
                f"{there} there, and that of {path} has the lineage {before.lineage}: they have no common history. Where that is meant, "
                "say --another",
                field="another",
            )
        if header.serial < before.serial:
            raise FailedPrecondition(
                f"the serial there is {header.serial}, and {before.serial} was seen before: what is there is an earlier one. Where that is "
                "meant, say --another",
                field="another",
            )


async def saw(store: Store, artifacts: Artifacts, stack: StackConfig, run_id: str, seen: Seen) -> None:
    """Note what a run saw of a state that is kept elsewhere, as the newest one. Raises FailedPrecondition where it is another one.

    Where it was taken over or given back while the run looked, nothing is noted: what is here counts for itself then.
    """
    header = header_of(seen.data) if seen.data is not None else None
    async with store.read() as conn:
        if not await _is_own(conn, stack):
            return
        before = await state.head(conn, stack.org, stack.stack_id)
    if not before.empty and (header is None or header.lineage != before.lineage):
        there = "nothing is" if header is None else f"a state of the lineage {header.lineage} is"
        path = stack.path.partition("/")[2]
        raise FailedPrecondition(
            f"{there} in the backend {seen.backend} that the configuration declares, and the state of {stack.path} has the lineage "
            f"{before.lineage}: whoever planned on that would make everything again. Where it was moved on purpose, an administrator "
            f"says so: countersign stack keep {path} --another",
            field="source",
        )
    if seen.data is None or header is None or fencing.repeats(before, header, sha256(seen.data)):
        return
    facts = {"org": stack.org, "stack_id": stack.stack_id, "run_id": run_id, "kind": "state", "name": f"state-{header.serial}"}
    written = await artifacts.write(**facts, data=seen.data, readable=False)
    async with store.begin() as tx:
        if not await _is_own(tx, stack):
            return
        await artifacts.record(tx, written)
        where: dict[str, Any] = {"org": stack.org, "stack_id": stack.stack_id, "run_id": run_id, "credential_id": SEEN}
        await state.install(tx, header=header, written=written, now=store.now(), **where)


async def _is_own(conn: AsyncConnection, stack: StackConfig) -> bool:
    now = await records.config_of(conn, stack.org, stack.stack_id)
    return now is not None and now.own


async def _written(artifacts: Artifacts, stack: StackRow, before: Head, data: bytes | None, header: Header) -> Written:
    assert data is not None  # it has a header
    run_id = derive("hand", stack.org, stack.id, str(before.version), header.lineage, str(header.serial))
    facts = {"org": stack.org, "stack_id": stack.id, "run_id": run_id, "kind": "state", "name": f"state-{header.serial}"}
    return await artifacts.write(**facts, data=data, readable=False)


def _told(before: Head, after: Head, there: int | None) -> dict[str, Any]:
    return {"serial_there": there, "serial_before": before.serial, "serial": after.serial, "lineage": after.lineage}


async def free(conn: AsyncConnection, stack: StackRow) -> Head:
    """The head, where no apply is open on it. Raises FailedPrecondition."""
    if (lost := await plans.open_attempt(conn, stack.org, stack.id)) is not None:
        raise FailedPrecondition(
            f"an apply of run {lost.run_id} is open on the state of {stack.path}; wait for its end, or for what became of it", field="stack"
        )
    return await state.head(conn, stack.org, stack.id)


async def fenced(tx: AsyncConnection, stack: StackRow, seen: Head) -> int:
    """The epoch from which on nobody who was at work can write. Raises Conflict where the state moved, Locked where it is locked."""
    await state.hold(tx, stack.org, stack.id)  # a state service does not wait for us to be done
    if (await free(tx, stack)).version != seen.version:
        raise Conflict("the state changed in this very moment; look at it again")
    epoch = await state.raise_epoch(tx, stack.org, stack.id)
    held = (await state.head(tx, stack.org, stack.id)).lock
    if held is not None:
        raise Locked(f"the state is locked by {held.who} since {held.created}, and that is not ours to break")
    return epoch
