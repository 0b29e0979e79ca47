"""What each address needs after a lost apply, decided from journals, state and the approved plan alone.

A journal that names an id is believed; an operation that was begun and never ended is looked up, made again where making it
twice costs nothing, or left to an operator. Nothing here guesses: what no row of the table covers is an operator's.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from countersign.core.terraform import document as doc
from countersign.core.terraform.agreement import same_value
from countersign.core.terraform.document import ResourceChange, Side, marked
from countersign.core.terraform.imports import is_importable
from countersign.core.terraform.operations import AttemptJournal, Ended, History, Operation, histories
from countersign.core.terraform.places import Place, id_in, places_in
from countersign.core.terraform.plan import provisioners_in, unindexed
from countersign.core.terraform.state import StateDocument

INERT: tuple[str, ...] = ("terraform_data", "null_resource", "time_*")  # made twice, nothing is: they live in the state alone
BOTH = "the new object was created, and the old one still lives, or may: only one of them can be kept"
REPLACES = (("delete", "create"), ("create", "delete"))


class Remedy(StrEnum):
    NOTHING = "nothing"  # it is as it should be, or was never begun: the plan tells
    IMPORT = "import"  # after `state rm` of `remove`, where that is set; also to be replaced where it is `half` made
    REPLACE = "replace"  # it is half made
    CREATE = "create"  # nothing of it exists
    LOOK_UP = "look up"
    OPERATOR = "operator"


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """A question to the cloud: is there an object of this type that has these values?"""

    type: str
    unique: Mapping[str, Any] = field(repr=False)  # attribute → value, as approved
    not_ids: frozenset[str] = field(repr=False)  # objects that are known already
    old: frozenset[str] = field(repr=False)  # objects of which nobody knows whether they still live; they have these values too
    may: str | None = field(repr=False)  # this run's object, if it still lives
    hit: "Need"  # what one object means; its id is still to be filled in where the journal does not tell it
    none: "Need"


@dataclass(frozen=True, kw_only=True)
class Need:
    address: str
    remedy: Remedy
    id: str | None = field(default=None, repr=False)  # of the object that is this run's own
    ours: bool = False  # what is at the address, or will be imported to it, was made by this run
    half: bool = False  # its provisioners did not finish, or nobody knows: it is to be replaced
    remove: str | None = None  # address to be removed from the state before the import
    reason: str = ""  # for people; without a value
    look_up: LookUp | None = None


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One object that a look-up found."""

    id: str = field(repr=False)
    made_at: datetime | None = None  # by the cloud's clock
    label: str | None = None  # which run made it, where it carries that


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What this deployment knows about types; patterns over their names."""

    unique: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # types that can be looked up → by which attributes
    inert: tuple[str, ...] = INERT

    def looked_up_by(self, type: str) -> tuple[str, ...]:
        return next((names for pattern, names in self.unique.items() if fnmatchcase(type, pattern)), ())


@dataclass(frozen=True, kw_only=True)
class Salvage:
    """What all addresses need. `needs` has every address the journals or a gap in them mention."""

    needs: Mapping[str, Need]
    whole: bool  # every journal was read to its end
    replaced: frozenset[str] = frozenset()  # as approved
    deleting: frozenset[str] = frozenset()  # a delete was begun
    held: frozenset[tuple[str, str | None]] = frozenset()  # (address, deposed key) of all that the state has

    def _with(self, *remedies: Remedy) -> list[Need]:
        return [need for _, need in sorted(self.needs.items()) if need.remedy in remedies]

    @property
    def imports(self) -> dict[str, str]:
        return {need.address: str(need.id) for need in self._with(Remedy.IMPORT)}

    @property
    def removals(self) -> tuple[str, ...]:
        """Addresses for `state rm`, before the plan."""
        return tuple(need.remove for need in self._with(Remedy.IMPORT) if need.remove is not None)

    @property
    def replaces(self) -> tuple[str, ...]:
        """Addresses for `-replace`: what is half made, and approved replaces that have made nothing yet."""
        begun = {address for address, need in self.needs.items() if need.remedy is not Remedy.CREATE}
        return tuple(sorted((self.replaced - begun) | {address for address, need in self.needs.items() if need.half}))

    @property
    def look_ups(self) -> tuple[Need, ...]:
        return tuple(self._with(Remedy.LOOK_UP))

    @property
    def stops(self) -> tuple[Need, ...]:
        """What only an operator can tell."""
        return tuple(self._with(Remedy.OPERATOR))

    @property
    def absent(self) -> frozenset[str]:
        """Nothing of these exists: to be remembered with the attempt that now makes them (`AttemptJournal.absent`)."""
        return frozenset(need.address for need in self._with(Remedy.CREATE))

    def settled(self, address: str, hits: Iterable[Hit], *, since: datetime, label: str | None) -> "Salvage":
        """With the answer to a look-up. `since`: when the attempt began; `label`: what its objects carry."""
        return dataclasses.replace(self, needs={**self.needs, address: _settled(self.needs[address], hits, since, label)})


def fold(
    attempts: Iterable[AttemptJournal], approved: Mapping[str, Any], state: StateDocument | None, *, rules: Rules = Rules()
) -> Salvage:
    """What each address needs, by all journals of the open attempts (oldest first) against the state as it is now.

    `approved` is the plan document people agreed to. A state that does not exist yet is None.
    """
    told, whole = histories(attempts)
    places = places_in(state)
    root = (approved.get("configuration") or {}).get("root_module") or {}
    commanded = {address for address, _ in provisioners_in(root)}
    planned = {c.address: c for c in doc.changes(approved) if c.deposed is None and c.mode == "managed"}
    needs: dict[str, Need] = {}
    for address in sorted({*told, *planned}):
        change, history = planned.get(address), told.get(address, History(address=address))
        place = places.get(address) or places.get((change and change.previous_address) or "") or Place()
        if (need := Case(address, change, history, place, unindexed(address) in commanded, rules).need()) is not None:
            needs[address] = need
    return Salvage(
        needs=needs,
        whole=whole,
        replaced=frozenset(address for address, change in planned.items() if change.actions in REPLACES),
        deleting=frozenset(address for address, history in told.items() if history.deleting),
        held=frozenset((i.address, i.deposed) for i in (state.instances if state else ())),
    )


@dataclass(frozen=True)
class Case:
    """One address: a row of the table is chosen by `need`."""

    address: str
    change: ResourceChange | None  # as approved
    history: History
    place: Place
    commanded: bool  # its configuration has provisioners
    rules: Rules

    @property
    def replaces(self) -> bool:
        return self.change is not None and self.change.actions in REPLACES

    def need(self) -> Need | None:
        """None: nothing was made here."""
        creation = self.history.creation
        if creation is None or creation.id in self.history.destroyed:
            return None
        if creation.ended is Ended.WELL and creation.id is not None and creation.id == self.place.id:
            return self._ours(Remedy.REPLACE if creation.half else Remedy.NOTHING, creation.id, half=creation.half)
        if self.change is None or "create" not in self.change.actions or self.change.importing is not None:
            return self._stop("something was created here, and the approved plan does not simply create it")
        return self._complete(creation) if creation.ended is Ended.WELL else self._under_way(creation)

    def _complete(self, creation: Operation) -> Need:
        if creation.id is None:
            if self.place.current and not self.replaces:
                return self._ours(Remedy.NOTHING, self.place.id)
            return self._stop("it was created, and the journal does not tell the id")
        if creation.id in self.place.deposed:
            return self._stop("the object this run made is deposed in the state")
        if self._inert and (self._others or not self._importable):
            return self._nothing_exists()
        if not is_importable(self.address):
            return self._stop("it was created, and an address like this cannot be imported")
        taken = self._ours(Remedy.IMPORT, creation.id, half=creation.half, remove=self.place.at)
        if creation.id in self.history.doomed and self.rules.looked_up_by(self.type):
            hit = dataclasses.replace(taken, id=None)
            return self._asked("its deletion may have been under way", hit=hit, old=self._others, may=creation.id)
        if not self._others or creation.sole:
            return taken
        return self._asked_of_the_old(taken) or self._stop(BOTH)

    def _under_way(self, creation: Operation) -> Need:
        """Begun and not ended, ended in an error, or hidden in a gap of the journal."""
        old = self._known_ids
        if self.place.current and self.place.id not in old and not (self.replaces and self.place.id is None):
            half = (creation.provisioned or self.commanded) and not self.place.tainted  # tainted: the plan replaces it by itself
            return self._ours(Remedy.REPLACE if half else Remedy.NOTHING, self.place.id, half=half)
        if self._inert:
            return self._nothing_exists()
        unsure = "its creation may have been under way"
        names = self.rules.looked_up_by(self.type)
        if not names:
            return self._stop(f"{unsure}, and there is no look-up for {self.type}")
        if late := [name for name in names if marked(self.after.child(name).unknown)]:
            return self._stop(f"{unsure}, and {', '.join(late)}, by which it would be looked up, was not known before the apply")
        if not is_importable(self.address):
            return self._stop(f"{unsure}, and an address like this cannot be imported")
        hit = self._ours(Remedy.IMPORT, None, half=self.commanded, remove=self.place.at)
        # A new one is begun after the old one is gone, unless the plan says the other way round.
        gone = {self.place.id or ""} if self.change is not None and self.change.actions == REPLACES[0] else set()
        if not self._others - gone:
            return self._asked(unsure, hit=hit)
        return self._asked_of_the_old(hit) or self._asked(unsure, hit=self._stop(BOTH))

    def _asked_of_the_old(self, hit: Need) -> Need | None:
        """A look-up that also shows whether the old object lives; None where it would not be seen."""
        names = self.rules.looked_up_by(self.type)
        before = self.change.before if self.change is not None else Side()
        if not names or any(not same_value(before.child(n).value, self.after.child(n).value) for n in names):
            return None
        if self._others != {id_in(before.value)}:
            return None
        return self._asked("nobody knows whether its old object still lives", hit=hit, old=self._others)

    def _asked(self, reason: str, *, hit: Need, old: frozenset[str] = frozenset(), may: str | None = None) -> Need:
        unique = {name: self.after.child(name).value for name in self.rules.looked_up_by(self.type)}
        none = self._nothing_exists()
        # Where ids are names, a new object has the id of the one that was destroyed.
        not_ids = self._known_ids - self.history.destroyed
        question = LookUp(type=self.type, unique=unique, not_ids=not_ids, old=old, may=may, hit=hit, none=none)
        return Need(address=self.address, remedy=Remedy.LOOK_UP, look_up=question, reason=reason)

    @property
    def type(self) -> str:
        return self.change.type if self.change is not None else ""

    @property
    def after(self) -> Side:
        return self.change.after if self.change is not None else Side()

    @property
    def _known_ids(self) -> frozenset[str]:
        """Of every object that is not the one a create of now would have made."""
        before = id_in(self.change.before.value) if self.change is not None else None
        return self.history.known_ids | self.place.deposed | ({before} if before is not None else set())

    @property
    def _others(self) -> frozenset[str]:
        """What the state has here and is not known to be destroyed; "" for what has no id."""
        current = {self.place.id or ""} if self.place.current else set()
        return (self.place.deposed | current) - self.history.destroyed

    @property
    def _inert(self) -> bool:
        return not self.commanded and any(fnmatchcase(self.type, pattern) for pattern in self.rules.inert)

    @property
    def _importable(self) -> bool:
        """Whether an import keeps an inert one as it was; making it again costs nothing, but changes its id."""
        return self.type == "terraform_data" and self.after.child("triggers_replace").absent

    def _ours(self, remedy: Remedy, id: str | None, *, half: bool = False, remove: str | None = None) -> Need:
        return Need(address=self.address, remedy=remedy, id=id, ours=True, half=half, remove=remove)

    def _nothing_exists(self) -> Need:
        return Need(address=self.address, remedy=Remedy.CREATE)

    def _stop(self, reason: str) -> Need:
        return Need(address=self.address, remedy=Remedy.OPERATOR, reason=reason)


def _settled(need: Need, hits: Iterable[Hit], since: datetime, label: str | None) -> Need:
    question = need.look_up
    assert question is not None
    found = {hit.id: hit for hit in hits}
    own, unclear = set(), 0
    for hit in found.values():
        if hit.id in question.not_ids and hit.id != question.may:
            continue
        if hit.id == question.may or (label is not None and hit.label == label) or (hit.made_at is not None and hit.made_at >= since):
            own.add(hit.id)
        elif hit.made_at is None:
            unclear += 1
    own = own or ({question.hit.id} if question.hit.id is not None else set())  # the journal tells it
    if len(own) > 1 or unclear:
        reason = "more than one object may be the one that was created, or one of which nobody knows when it was made"
        return Need(address=need.address, remedy=Remedy.OPERATOR, reason=reason)
    if not own:
        return question.none
    if question.old & set(found):
        return Need(address=need.address, remedy=Remedy.OPERATOR, reason=BOTH)
    return dataclasses.replace(question.hit, id=own.pop())
