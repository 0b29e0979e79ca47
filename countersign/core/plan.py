"""A plan as people and policy see it, whatever engine made it.

Changes of a plan are classed; the class of the whole is the worst of them and decides who must agree. The classes stand in
the order of design §2, harmless first.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

from countersign.core.model import Payload

SHOWN = 50  # changes in a stored summary, the worst first; the whole list is an artifact


class ChangeClass(StrEnum):
    NONE = "none"
    LABELS = "labels"
    UPDATE = "update"
    CREATE = "create"
    IMPORT = "import"
    MOVE = "move"
    FORGET = "forget"
    REPLACE = "replace"
    DELETE = "delete"
    STATEFUL_REPLACE = "stateful_replace"
    STATEFUL_DELETE = "stateful_delete"
    UNKNOWN = "unknown"

    @property
    def rank(self) -> int:
        return _RANK[self]

    @property
    def destroys(self) -> bool:
        """Something that exists will be gone: asks for the typed name."""
        return self.rank >= ChangeClass.REPLACE.rank


_RANK = {name: rank for rank, name in enumerate(ChangeClass)}


def worst(classes: Iterable[ChangeClass]) -> ChangeClass:
    return _worst(classes) if type(classes) is tuple else max(classes, key=lambda c: c.rank, default=ChangeClass.NONE)


@lru_cache(maxsize=1024)  # those of one change: a plan has thousands of changes and a handful of kinds
def _worst(classes: tuple[ChangeClass, ...]) -> ChangeClass:
    return max(classes, key=lambda c: c.rank, default=ChangeClass.NONE)


class Change(Payload):
    address: str  # as the engine writes it, control characters removed
    type: str
    action: str  # "create", "update", "delete", "replace", "read", "forget", "import", "move"
    change_class: ChangeClass
    previous_address: str | None = None
    replace_paths: tuple[str, ...] = ()  # why it must be replaced
    attributes: tuple[str, ...] = ()  # names of what changes, "+" known after apply; values are in the view artifact


class Counts(Payload):
    create: int = 0
    update: int = 0
    replace: int = 0
    delete: int = 0
    imported: int = 0
    moved: int = 0
    forgotten: int = 0

    @property
    def total(self) -> int:
        return self.create + self.update + self.replace + self.delete + self.imported + self.moved + self.forgotten

    def __str__(self) -> str:
        return self._in_words("to add", "to change", "to replace", "to destroy", "to import", "to move", "to forget")

    @property
    def happened(self) -> str:
        """The same of what others did already, as drift is told."""
        return self._in_words("added", "changed", "replaced", "gone", "imported", "moved", "forgotten")

    def _in_words(self, *words: str) -> str:
        numbers = (self.create, self.update, self.replace, self.delete, self.imported, self.moved, self.forgotten)
        return ", ".join(f"{n} {what}" for n, what in zip(numbers, words, strict=True) if n) or "no changes"


class ArtifactRef(Payload):
    """Where bytes lie in the artifact store; the bytes themselves never enter history."""

    id: str
    kind: str  # plan_bundle, plan_json, plan_view, semantic_document, log, journal, outputs
    sha256: str  # of the plaintext
    size: int  # bytes of the plaintext


class Plan(Payload):
    engine: str
    engine_build: str  # "terraform 1.11.4"
    source: str = ""  # where the configuration came from, for people; nothing for a folder of this machine
    counts: Counts = Counts()
    change_class: ChangeClass = ChangeClass.NONE  # the worst of them
    classes: tuple[ChangeClass, ...] = ()  # every one there is, mildest first: policy may ask more for a milder one
    changes: tuple[Change, ...] = ()  # at most SHOWN, worst first
    risks: tuple[str, ...] = ()  # sentences a reviewer reads first
    outputs_changed: tuple[str, ...] = ()  # names only
    drift: bool = False  # its changes are what others did, and nothing is going to be done
    semantic_digest: str = ""
    artifacts: tuple[ArtifactRef, ...] = ()

    @property
    def in_words(self) -> str:
        return self.counts.happened if self.drift else str(self.counts)

    @property
    def changes_anything(self) -> bool:
        return self.counts.total > 0 or bool(self.outputs_changed)


def shown(changes: Iterable[Change]) -> tuple[Change, ...]:
    """The worst first, then by address; at most SHOWN of them."""
    return tuple(sorted(changes, key=lambda c: (-c.change_class.rank, c.address))[:SHOWN])
