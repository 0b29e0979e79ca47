"""What a lost attempt left on this machine: nothing that lives, its testimony, and perhaps a state it could not store.

The testimony is the journal without a word of what was printed: addresses, operations, ids, and when. It goes into the store,
sealed, because the next crash may take this machine with it.
"""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from countersign.adapters.process import Detached, Lines, end_marked, marked_processes
from countersign.core.engine import Remains
from countersign.core.terraform.testimony import event_of, kept, moment

DEATH = 10.0  # seconds: SIGKILL takes effect at once, but for a process that waits for a disk


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
            event = event_of(line)
            torn = torn or (event is None and line.startswith(b"{"))
            if (said := kept(event or {})) is not None:
                told.lines.append(said)
            told.last_word = moment(event or {}) or told.last_word
        # It is made before the engine is executed: where there is none, the engine never ran.
        told.whole = not journal.exists() or (lines.whole and not lines.dropped and not torn)
    finally:
        lines.close()
    return told


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
