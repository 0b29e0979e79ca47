"""What the journals of an attempt say was done to each object: the only witness where nothing was stored.

Events are folded into operations, in the order they were begun. An operation that was begun and never ended is in flight:
its object may exist. `events.Journal` reads the same stream for people and progress; this reads it for ids.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from countersign.core.terraform.document import ResourceChange, changes
from countersign.core.terraform.places import id_in


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
    half: bool = False  # known to be half made: a later plan was to replace it
    sole: bool = False  # an operator saw that nothing else of this address exists


@dataclass(frozen=True, kw_only=True)
class AttemptJournal:
    """What is left of one attempt on the state, whoever's run it was."""

    attempt_id: str
    journal: bytes = field(default=b"", repr=False)  # NDJSON as the engine wrote it: redaction may hide an id
    whole: bool = False  # read to its end after every process of the attempt was gone, on the boot it began
    creates: frozenset[str] = frozenset()  # what its plan creates or replaces: a gap may hide each of these
    # What reconciling knew when it made that plan: address → id of this run's object there, which the plan takes into the state
    # or, where it is half made (and so among `creates`), replaces; and addresses at which nothing came to be.
    found: Mapping[str, str] = field(default_factory=dict, repr=False)
    absent: frozenset[str] = frozenset()
    answers: Mapping[str, str] = field(default_factory=dict, repr=False)  # an operator: this id exists there, and nothing else


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
        """Ids whose deletion was completed and which no later object has: where ids are names, the next one has the same."""
        return self._deleted[0]

    @property
    def doomed(self) -> frozenset[str]:
        """Ids whose deletion was begun and not completed: they may exist or not."""
        return self._deleted[1]

    @property
    def _deleted(self) -> tuple[frozenset[str], frozenset[str]]:
        gone: set[str] = set()
        begun: set[str] = set()
        for one in self.operations:
            if one.id is not None and one.deed in (Deed.CREATE, Deed.DELETE):
                gone.discard(one.id)
                begun.discard(one.id)
                if one.deed is Deed.DELETE:
                    (gone if one.ended is Ended.WELL else begun).add(one.id)
        return frozenset(gone), frozenset(begun)

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
    agreed = {c.address: c for c in changes(approved) if c.deposed is None}
    planned = [c for c in changes(plan) if c.deposed is None and c.mode == "managed"]
    found = {c.address: id for c in planned if (id := _own(c, agreed.get(c.address))) is not None}
    return AttemptJournal(
        attempt_id=attempt_id,
        journal=journal,
        whole=whole,
        creates=frozenset(c.address for c in planned if "create" in c.actions),
        found=found,
        absent=frozenset(absent),
    )


def _own(change: ResourceChange, approved: ResourceChange | None) -> str | None:
    """The id of an object of this run that a plan of reconciling imports or replaces."""
    if change.importing is not None:
        return id_in(change.importing) if approved is None or approved.importing is None else None
    before = id_in(change.before.value)
    if len(change.actions) < 2 or (approved is not None and id_in(approved.before.value) == before):
        return None
    return before


def histories(attempts: Iterable[AttemptJournal]) -> tuple[dict[str, History], bool]:
    """Address → what was done to it, over all attempts, oldest first; and whether every journal is whole."""
    operations: dict[str, list[Operation]] = {}
    all_whole = True
    for attempt in attempts:
        done, readable = _operations(attempt.journal)
        gap = not (attempt.whole and readable)
        begun = {one.address for one in done if one.deed is Deed.CREATE}
        for one in (*_known(attempt), *done, *(_lost(attempt.creates - begun) if gap else ())):
            operations.setdefault(one.address, []).append(one)
        all_whole = all_whole and not gap
    return {address: History(address=address, operations=tuple(done)) for address, done in operations.items()}, all_whole


def _known(attempt: AttemptJournal) -> Iterator[Operation]:
    for address, id in attempt.found.items():
        yield Operation(address=address, deed=Deed.CREATE, id=id, ended=Ended.WELL, half=address in attempt.creates)
    for address, id in attempt.answers.items():
        yield Operation(address=address, deed=Deed.CREATE, id=id, ended=Ended.WELL, sole=True)
    for address in attempt.absent:
        yield Operation(address=address, deed=Deed.ABSENT)


def _lost(addresses: Iterable[str]) -> Iterator[Operation]:
    for address in addresses:
        yield Operation(address=address, deed=Deed.LOST)


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
