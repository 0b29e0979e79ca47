"""Who may read, lock and write a state: the rules of the state service, decided on rows and a given time.

Every attempt holds a credential of one mode and one epoch. A claim raises the epoch, and whoever holds an older one is fenced:
it reads, locks, unlocks and writes nothing any more, whatever it still believes. A process of that kind keeps what it did in
`errored.tfstate`, and reconciling pushes it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from countersign.core.errors import InvalidArgument
from countersign.core.terraform.state import Header

LOCK_SIZE = 16 << 10  # bytes of a lock as the engine sends it; a real one has some 200


class Mode(StrEnum):
    READ = "read"  # a speculative plan: bound to no epoch, for a claim elsewhere must not end it
    PLAN = "plan"  # locks, and has no right to write
    APPLY = "apply"  # comes from a claim only


class Wish(StrEnum):
    READ = "read"
    LOCK = "lock"
    UNLOCK = "unlock"
    WRITE = "write"


_MAY: Mapping[Mode, frozenset[Wish]] = {
    Mode.READ: frozenset({Wish.READ}),
    Mode.PLAN: frozenset({Wish.READ, Wish.LOCK, Wish.UNLOCK}),
    Mode.APPLY: frozenset(Wish),
}


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lock as its holder described it. Our own record of it is found again by id, owner and time (I5)."""

    id: str
    who: str
    created: str
    text: str  # as the engine sent it: what a conflict answers with

    def is_recorded_as(self, other: "Lock") -> bool:
        return (self.id, self.who, self.created) == (other.id, other.who, other.created)


@dataclass(frozen=True, kw_only=True)
class Head:
    """What there is of one state; changed by compare-and-swap on `version` only. All zeros where there is nothing yet."""

    epoch: int = 0
    lock: Lock | None = None
    lock_credential: str | None = None
    locked_at: datetime | None = None
    lineage: str | None = None
    serial: int = 0
    sha256: str | None = None
    size: int = 0
    seq: int = 0  # of the newest snapshot
    version: int = 0  # every change of the head counts on

    @property
    def empty(self) -> bool:
        return self.seq == 0


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What one attempt may do at one address. The password is not here: only its hash is kept."""

    id: str
    org: str
    stack_id: str
    run_id: str
    mode: Mode
    epoch: int
    expires_at: datetime
    revoked: bool = False

    def over(self, head: Head, now: datetime) -> str | None:
        """Why nothing is done for this credential any more, or None while it is live."""
        if self.revoked:
            return "the credential was revoked"
        if now >= self.expires_at:
            return "the credential has expired"
        if self.mode is not Mode.READ and self.epoch != head.epoch:
            return f"the credential is of epoch {self.epoch}, and the state is at {head.epoch}: this attempt is fenced"
        return None


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What the engine is told. 4xx is final to it, so nothing that may pass by itself is refused with one."""

    status: int
    why: str
    holder: Lock | None = field(default=None)  # answered in place of a message: the protocol wants the holder's JSON


def admission(credential: Credential, head: Head, wish: Wish, *, now: datetime) -> Refusal | None:
    """Whether this credential may do that at all, now."""
    if (over := credential.over(head, now)) is not None:
        return Refusal(status=403, why=over)
    if wish not in _MAY[credential.mode]:
        return Refusal(status=403, why=f"a credential to {credential.mode} may not {wish}")
    return None


def locking(credential: Credential, head: Head, asked: Lock) -> Refusal | None:
    """Whether the lock may be taken; None also where it is held already by the same attempt under the same id."""
    if head.lock is None or (head.lock_credential == credential.id and head.lock.id == asked.id):
        return None
    return Refusal(status=423, why="the state is locked", holder=head.lock)


def unlocking(credential: Credential, head: Head, lock_id: str | None) -> Refusal | None:
    """Whether the lock may be freed. `lock_id` None is `force-unlock`: only the holder's own credential may do that."""
    if head.lock is None or (head.lock_credential == credential.id and lock_id in (None, head.lock.id)):
        return None
    return Refusal(status=409, why="another holds the lock", holder=head.lock)


def breaking(head: Head, lock_id: str, holder: Credential | None, recorded: Lock | None, *, dead: bool, now: datetime) -> str | None:
    """Why a lock may not be broken, or None (I5).

    `holder` is whose credential took it and `recorded` what we wrote down then; `dead` says that nothing of an apply lives. Who could
    only plan changes nothing, dead or alive.
    """
    if head.lock is None:
        return "the state is not locked"
    who = f"lock {head.lock.id} of {head.lock.who or 'nobody named'}"
    if head.lock.id != lock_id:
        return f"the state is locked under another id: {who}"
    if holder is None or recorded is None or not head.lock.is_recorded_as(recorded):
        return f"{who} is not one that an attempt of ours recorded, so nobody here can tell whether its holder lives"
    if holder.over(head, now) is None:
        return f"{who} is held by {holder.run_id}, whose attempt is not fenced: it may be at work"
    if holder.mode is Mode.APPLY and not dead:
        return f"{who} is held by the apply of {holder.run_id}, and nothing proves yet that it is dead"
    return None


def writing(credential: Credential, head: Head, lock_id: str | None, header: Header, sha256: str) -> Refusal | None:
    """Whether this snapshot may become the head; also None for the one that is the head already (`repeats` tells them apart)."""
    if head.lock is None:
        return Refusal(status=409, why="the state is not locked, and nothing is written without its lock")
    if head.lock_credential != credential.id or head.lock.id != lock_id:
        return Refusal(status=409, why="another holds the lock, or the write does not name it", holder=head.lock)
    if head.empty or repeats(head, header, sha256):
        return None
    if header.lineage != head.lineage:
        return Refusal(status=409, why=f"the lineage is {header.lineage}, and that of the stored state {head.lineage}")
    if header.serial <= head.serial:
        return Refusal(status=409, why=f"the serial is {header.serial}, and the stored state has {head.serial} already")
    return None


def pushing(head: Head, header: Header, *, force: bool) -> str | None:
    """Why a state that somebody pushes by hand may not become the head, or None. `force` does as Terraform's: it overrides both."""
    if head.empty or force:
        return None
    if header.lineage != head.lineage:
        return f"its lineage is {header.lineage}, and that of the stored state {head.lineage}: they have no common history"
    if header.serial <= head.serial:
        return f"its serial is {header.serial}, and the stored state has {head.serial}: somebody may have changed it since"
    return None


def adopting(head: Head, header: Header, *, same: bool, newer: bool) -> str | None:
    """Why a state from elsewhere may not be taken over, or None. `same` says that it is what is stored, `newer` that somebody asked
    for a later one of the same history."""
    if head.empty:
        return None
    if header.lineage != head.lineage:
        return f"the lineage there is {header.lineage}, and that of the state kept here {head.lineage}: they have no common history"
    if header.serial > head.serial:
        return None if newer else f"the serial there is {header.serial}, and the state kept here has {head.serial}"
    if header.serial == head.serial and same:
        return None
    return f"the serial there is {header.serial}, and the state kept here has {head.serial} with other content: it is the newer one"


def repeats(head: Head, header: Header, sha256: str) -> bool:
    """A client whose answer got lost sends the same bytes again."""
    return not head.empty and header.serial == head.serial and sha256 == head.sha256


def lock_of(data: bytes) -> Lock:
    """The lock an engine asks for. Raises InvalidArgument."""
    if len(data) > LOCK_SIZE:
        raise InvalidArgument(f"a lock has at most {LOCK_SIZE} bytes")
    text = data.decode(errors="replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("ID"), str) or not 0 < len(document["ID"]) <= 128:
        raise InvalidArgument("a lock is a JSON object with the text ID, and this is none")
    return stored_lock(text)


def lock_id_of(data: bytes) -> str | None:
    """The id an unlock names; None for an empty body, which is how Terraform forces one. Raises InvalidArgument."""
    return lock_of(data).id if data.strip() else None


def stored_lock(text: str) -> Lock:
    """A lock as it was kept."""
    document = json.loads(text)
    return Lock(id=document["ID"], who=str(document.get("Who") or ""), created=str(document.get("Created") or ""), text=text)
