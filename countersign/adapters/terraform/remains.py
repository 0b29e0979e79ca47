"""What a lost attempt left on this machine: nothing that lives, its testimony, and perhaps a state it could not store.

The testimony is the journal without a word of what was printed: addresses, operations, ids, and when. It goes into the store,
sealed, because the next crash may take this machine with it.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from countersign.adapters.process import Detached, Lines, end_marked, marked_processes
from countersign.core.engine import Remains

DEATH = 10.0  # seconds: SIGKILL takes effect at once, but for a process that waits for a disk
_OPERATIONS = frozenset({"apply_start", "apply_complete", "apply_errored"})
_PROVISIONERS = frozenset({"provision_start", "provision_complete", "provision_errored"})


async def end(folder: Path, detached: Detached, *, same_boot: bool, left_over: Path, patience: float = DEATH) -> Remains:
    """Kill what is left of the attempt, wait for its death, and read what it left. `left_over` is where a state would lie.

    A folder that is gone tells nothing, and proves nothing either.
    """
    known = await asyncio.to_thread(folder.is_dir)
    never = known and not detached.begun and (detached.abandoned or await detached.abandon())
    survivors = await _dead(detached if known else None, detached.marker, patience)
    if not known:
        return Remains(survivors=survivors)
    told = await asyncio.to_thread(_testimony, detached.folder / "journal")
    dead = not survivors and not detached.is_alive()
    return Remains(
        survivors=survivors,
        testimony=told.data,
        whole=dead and same_boot and (never or (told.whole and detached.output_kept)),
        state=await asyncio.to_thread(_bytes, left_over),
        last_word=told.last_word,
    )


async def _dead(detached: Detached | None, marker: str, patience: float) -> int:
    """Kill until nothing is left or `patience` is over; how many live on."""
    until = time.monotonic() + patience
    while True:
        if detached is not None:
            detached.kill()
        end_marked(marker)
        alive = len(marked_processes(marker)) or int(detached is not None and detached.is_alive())
        if not alive or time.monotonic() > until:
            return alive
        await asyncio.sleep(0.05)


@dataclass(kw_only=True)
class _Told:
    lines: list[bytes] = field(default_factory=list)
    whole: bool = False
    last_word: datetime | None = None

    @property
    def data(self) -> bytes:
        return b"".join(line + b"\n" for line in self.lines)


def _testimony(journal: Path) -> _Told:
    told, lines, torn = _Told(), Lines(journal), False
    try:
        for line in (line for batch in lines.batches() for line in batch):
            event = _event(line)
            torn = torn or (event is None and line.startswith(b"{"))
            for kept in _kept(event or {}):
                told.lines.append(json.dumps(kept, separators=(",", ":")).encode())
            told.last_word = moment(event or {}) or told.last_word
        # It is made before the engine is executed: where there is none, the engine never ran.
        told.whole = not journal.exists() or (lines.whole and not lines.dropped and not torn)
    finally:
        lines.close()
    return told


def _event(line: bytes) -> Mapping[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _kept(event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of one event what an operation is known by, as the engine spells it."""
    kind, hook = event.get("type"), event.get("hook")
    base = {"type": kind, **({"@timestamp": event["@timestamp"]} if "@timestamp" in event else {})}
    if kind == "version":
        yield base  # it says when the attempt began
    elif kind in _OPERATIONS | _PROVISIONERS and isinstance(hook, dict):
        resource = hook.get("resource")
        address = resource.get("addr") if isinstance(resource, dict) else None
        names = ("action", "id_key", "id_value") if kind in _OPERATIONS else ()
        yield {**base, "hook": {"resource": {"addr": address}, **{name: hook[name] for name in names if name in hook}}}
    elif kind == "diagnostic":
        said = event.get("diagnostic")
        if isinstance(said, dict) and said.get("severity") == "error" and isinstance(said.get("address"), str):
            yield {**base, "diagnostic": {"severity": "error", "address": said["address"]}}


def moment(event: Mapping[str, Any]) -> datetime | None:
    """When the engine said it; None where it does not say so, or not in a way that has a time zone."""
    try:
        at = datetime.fromisoformat(str(event.get("@timestamp")))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def began(testimony: bytes) -> datetime | None:
    """When the attempt that gave this testimony began."""
    for line in testimony.splitlines():
        if (at := moment(_event(line) or {})) is not None:
            return at
    return None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
