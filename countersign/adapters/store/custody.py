"""Who keeps the state of a stack: taken over from elsewhere or given back, with both serials on the record.

A state that comes here keeps its lineage and serial, so that what is stored is what was there and can be compared with it for
ever. Taking it over is an attributed claim of one transaction, like a push by hand: it fences whoever could write, and waits
for no apply that is open.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.store import audit, plans, records, state
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.records import AWAY, HERE, StackRow
from countersign.core import fencing
from countersign.core.errors import Conflict, FailedPrecondition, Locked
from countersign.core.fencing import Head
from countersign.core.ids import derive
from countersign.core.principal import Principal
from countersign.core.terraform.state import header_of, with_serial


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
            newer = self.newer or self.stack.custody.get("kept") == AWAY
            if (why := fencing.adopting(before, header, same=same, newer=newer)) is not None:
                later = header.lineage == before.lineage and header.serial > before.serial
                hint = "with --newer it is taken over" if later else f"look at both first (countersign state pull {self.stack.path})"
                raise FailedPrecondition(f"{why}. Nothing was taken over; {hint}", field="newer" if later else "stack")
        elif self.stack.custody.get("kept") == AWAY:
            raise FailedPrecondition(
                f"nothing is there, and the state of {self.stack.path} was given back; say where it is now with --from", field="from"
            )
        written = None
        if data is not None and header is not None and not same:
            run_id = derive("hand", org, stack_id, str(before.version), header.lineage, str(header.serial))
            facts = {"org": org, "stack_id": stack_id, "run_id": run_id, "kind": "state", "name": f"state-{header.serial}"}
            written = await self.artifacts.write(**facts, data=data, readable=False)
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
