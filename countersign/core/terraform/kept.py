"""A state that stays in the backend its configuration declares: what is weaker then, and whose lock lies there.

Such a backend knows no epochs. Its lock says who took it and when, as the engine that wants it is told; that is all the evidence
there is, and a lock is taken for ours only where it proves it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from countersign.core.terraform.testimony import began, event_of, moment

# Those of both engines that keep a state for several writers. `local` is a file of one machine; `cloud` and `remote` run elsewhere.
BACKENDS = ("azurerm", "consul", "cos", "gcs", "http", "kubernetes", "oss", "pg", "s3")
_PROBE = "state-rm"  # the operation under which the engine asks, when all we want is to be told who has the lock


def locks(backend: str, config: Mapping[str, Any]) -> bool:
    """Whether the backend, as it is configured, keeps two writers apart at all."""
    if backend == "s3":
        return bool(config.get("use_lockfile") or config.get("dynamodb_table"))
    if backend == "http":
        return bool(config.get("lock_address"))
    return config.get("lock") is not False if backend == "consul" else True


def risks(backend: str, *, locking: bool, before: int, serial: int) -> tuple[str, ...]:
    """What whoever agrees to a plan has to know of a state that is not kept here. `before` is the serial that was seen last."""
    said = [
        f"The state stays in the backend {backend} that the configuration declares, where nothing is fenced: a process of a lost apply "
        "that still lives, or anybody with its credential, can write over it. Versioning there keeps what is lost by that.",
        f"Its lock is the one of {backend}, and no run frees one that it cannot prove to be its own; earlier states are kept here only as "
        "runs saw them.",
    ]
    if not locking:
        said.insert(0, f"The backend {backend} is declared without a lock: nothing keeps two writers apart. Declare one before you agree.")
    if serial < before:
        said.insert(0, f"The serial went back from {before} to {serial}: somebody put an earlier state there.")
    return tuple(said)


def unfit(path: str, declared: Iterable[str]) -> str | None:
    """Why a state cannot stay where the configuration declares it, or None."""
    kinds = sorted(set(declared))
    if len(kinds) == 1 and kinds[0] in BACKENDS:
        return None
    if kinds in ([], ["local"]):
        return (
            f"the record of {path} says that its state stays in the backend it declares, and it declares {'a file' if kinds else 'none'}; "
            f"declare one of {', '.join(BACKENDS)}, or let Countersign keep the state: countersign stack adopt"
        )
    return f"the configuration of {path} declares {' and '.join(kinds)}; a state can stay in one of {', '.join(BACKENDS)}"


@dataclass(frozen=True, kw_only=True)
class Held:
    """A lock as the engine tells it who wanted it. An http backend names only its id."""

    id: str
    who: str = ""
    operation: str = ""
    created: datetime | None = None

    @property
    def in_words(self) -> str:
        by = f"by {self.who} since {self.created:%Y-%m-%d %H:%M:%S} UTC ({self.operation})" if self.created else "by somebody"
        return f"{by}, lock {self.id}"


def held_in(text: str) -> Held | None:
    """The lock that an engine says it ran into, in what it wrote to a person; None where it ran into none."""
    if "acquiring the state lock" not in text:
        return None
    told = dict(re.findall(r"^[\s│]*(ID|Operation|Who|Created):[ \t]*(\S.*?)\s*$", text, re.MULTILINE))
    named = re.search(r"already\s+locked:\s*[│\s]*ID=(\S+)", text)
    if named is not None:
        return Held(id=named.group(1))
    if told.get("Operation") in (None, _PROBE):  # what it tells is its own question: pg for one knows nothing of the holder
        return Held(id="whose id is not told")
    return Held(id=told.get("ID", ""), who=told.get("Who", ""), operation=told["Operation"], created=_created(told.get("Created", "")))


def _created(text: str) -> datetime | None:
    """As Go writes a time: `2026-11-26 03:34:44.923026894 +0000 UTC`."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{1,9})? \+0000 UTC", text)
    if found is None:
        return None
    at = datetime.fromisoformat(found.group(1)).replace(tzinfo=UTC)
    return at.replace(microsecond=int((found.group(2) or ".0")[1:7].ljust(6, "0")))


def left_by(held: Held, testimony: bytes, *, host: str) -> bool:
    """Whether the attempt of this testimony, which ran on `host` and is dead, left the lock.

    Whoever changes something holds the lock from before its first change until it frees it. So a lock that was taken on this
    machine between the attempt's first word and its first change, and is there still, is the attempt's own.
    """
    first = next((moment(event) for line in testimony.splitlines() if (event := event_of(line) or {}).get("type") == "apply_start"), None)
    start = began(testimony)
    if held.created is None or first is None or start is None or held.operation != "OperationTypeApply":
        return False
    return held.who.rpartition("@")[2] == host and start <= held.created <= first
