"""What the journals of an attempt say was done to each object: the only witness where nothing was stored.

Events are folded into operations, in the order they were begun. An operation that was begun and never ended is in flight:
its object may exist. `events.Journal` reads the same stream for people and progress; this reads it for ids.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from countersign.core.terraform.document import changes


class Ended(StrEnum):
    NOT = "not"  # begun only
    WELL = "well"
    BADLY = "badly"


class Deed(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    ABSENT = "absent"  # reconciling found that nothing of an earlier create exists
    LOST = "lost"  # the journal has a gap in which a create may have been begun


@dataclass(kw_only=True)
class Operation:
    address: str
    deed: Deed
    id: str | None = None  # of the object made, changed or destroyed
    ended: Ended = Ended.NOT
    provisioned: bool = False  # a provisioner was begun in it
    sole: bool = False  # an operator saw that nothing else of this address exists


@dataclass(frozen=True, kw_only=True)
class AttemptJournal:
    """What is left of one attempt on the state, whoever's run it was."""

    attempt_id: str
    journal: bytes = field(default=b"", repr=False)  # NDJSON as the engine wrote it: redaction may hide an id
    whole: bool = False  # read to its end after every process of the attempt was gone, on the boot it began
    creates: frozenset[str] = frozenset()  # what its plan creates or replaces: a gap may hide each of these
    # What reconciling knew when it made that plan: address → id that it imports, and what was looked up and never came to be.
    imports: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    answers: Mapping[str, str] = field(default_factory=dict)  # an operator: this id exists there, and nothing else


@dataclass(frozen=True, kw_only=True)
class History:
    """All operations on one address, oldest first."""

    address: str
    operations: Sequence[Operation] = ()

    @property
    def creation(self) -> Operation | None:
        """The last create, or the gap one may be hidden in; None where there is none, or it is known to have come to nothing."""
        last = next((o for o in reversed(self.operations) if o.deed in (Deed.CREATE, Deed.LOST, Deed.ABSENT)), None)
        return None if last is None or last.deed is Deed.ABSENT else last

    @property
    def destroyed(self) -> frozenset[str]:
        """Ids whose deletion was completed."""
        return frozenset(o.id for o in self.operations if o.deed is Deed.DELETE and o.ended is Ended.WELL and o.id is not None)

    @property
    def deleting(self) -> bool:
        """Whether a delete was begun, however it ended."""
        return any(o.deed is Deed.DELETE for o in self.operations)

    @property
    def known_ids(self) -> frozenset[str]:
        """Ids of every object this address ever had, as far as the journals tell."""
        return frozenset(o.id for o in self.operations if o.id is not None)


def attempt_of(
    plan: Mapping[str, Any], approved: Mapping[str, Any], *, attempt_id: str, journal: bytes, whole: bool, absent: Iterable[str] = ()
) -> AttemptJournal:
    """An attempt by the plan document it applied: the approved one, or one that reconciling made in its place.

    `absent` are addresses of which nothing existed when that plan was made (`Salvage.absent`).
    """
    wanted = {c.address for c in changes(approved) if c.importing is not None}
    planned = [c for c in changes(plan) if c.deposed is None]
    return AttemptJournal(
        attempt_id=attempt_id,
        journal=journal,
        whole=whole,
        creates=frozenset(c.address for c in planned if c.mode == "managed" and "create" in c.actions),
        imports={c.address: str(c.importing["id"]) for c in planned if c.importing and "id" in c.importing and c.address not in wanted},
        absent=frozenset(absent),
    )


def histories(attempts: Iterable[AttemptJournal]) -> tuple[dict[str, History], bool]:
    """Address → what was done to it, over all attempts, oldest first; and whether every journal is whole."""
    operations: dict[str, list[Operation]] = {}
    all_whole = True
    for attempt in attempts:
        for address, id in attempt.imports.items():
            operations.setdefault(address, []).append(Operation(address=address, deed=Deed.CREATE, id=id, ended=Ended.WELL))
        for address, id in attempt.answers.items():
            operations.setdefault(address, []).append(Operation(address=address, deed=Deed.CREATE, id=id, ended=Ended.WELL, sole=True))
        for address in attempt.absent:
            operations.setdefault(address, []).append(Operation(address=address, deed=Deed.ABSENT))
        done, readable = _operations(attempt.journal)
        for one in done:
            operations.setdefault(one.address, []).append(one)
        if attempt.whole and readable:
            continue
        all_whole = False
        begun = {one.address for one in done if one.deed is Deed.CREATE}
        for address in sorted(attempt.creates - begun):
            if address not in attempt.imports:
                operations.setdefault(address, []).append(Operation(address=address, deed=Deed.LOST))
    return {address: History(address=address, operations=tuple(done)) for address, done in operations.items()}, all_whole


def _operations(journal: bytes) -> tuple[list[Operation], bool]:
    """In the order they were begun, and whether every line that is an event could be read."""
    found: list[Operation] = []
    open_: dict[str, Operation] = {}
    readable = True
    for line in journal.split(b"\n"):
        if not line.startswith(b"{"):
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            readable = False
            continue
        hook = event.get("hook")
        if isinstance(hook, dict):
            _hear(str(event.get("type", "")), hook, found, open_)
    return found, readable


def _hear(kind: str, hook: Mapping[str, Any], found: list[Operation], open_: dict[str, Operation]) -> None:
    address = str((hook.get("resource") or {}).get("addr", ""))
    if kind == "apply_start" and hook.get("action") in (Deed.CREATE, Deed.UPDATE, Deed.DELETE):
        open_[address] = Operation(address=address, deed=Deed(hook["action"]), id=_id(hook))
        found.append(open_[address])
    elif address not in open_:
        return
    elif kind in ("apply_complete", "apply_errored"):
        one = open_.pop(address)
        one.ended = Ended.WELL if kind == "apply_complete" else Ended.BADLY
        one.id = _id(hook) or one.id
    elif kind.startswith("provision_"):
        open_[address].provisioned = True


def _id(hook: Mapping[str, Any]) -> str | None:
    return str(hook["id_value"]) if hook.get("id_key") == "id" and hook.get("id_value") else None
