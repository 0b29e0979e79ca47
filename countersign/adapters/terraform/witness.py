"""Hearing an apply while it runs: how far it is, whether it does what was approved, and what of its journal leaves the machine."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from countersign.adapters.process import Lines
from countersign.adapters.terraform.bundle import OPERATIONS
from countersign.core.engine import Heard, Progress, Said
from countersign.core.redaction import Redactor
from countersign.core.terraform.events import Journal
from countersign.core.terraform.guard import Guard
from countersign.core.terraform.testimony import event_of, kept

# Most of a journal is progress and what commands print; of what is left, `kept` takes what counts.
_WORTH = re.compile(rb'"type" ?: ?"(?:version|diagnostic|(?:apply|provision)_(?:start|complete|errored))"')
ALARM = 1000  # characters


class Witness:
    """The journal of an attempt, heard as it grows, and whether it can be believed. `folder` is the attempt's."""

    def __init__(self, folder: Path, journal: Path) -> None:
        self.journal = Journal()
        self.torn = 0  # lines that began as the engine's and are none: something of them was not written
        self._folder = folder
        self._lines = Lines(journal)
        self._number = 0
        self._unsaid: list[tuple[int, bytes]] = []
        self._redactor: Redactor | None = None

    def hear(self) -> Iterator[None]:
        """Feed what is new, in pieces; at least one, so that whoever watches tells that it does."""
        heard = False
        for batch in self._lines.batches():
            if not self._number:
                self.journal.guard = guard_of(self._folder)  # it was written before the journal was
            for line in batch:
                self._feed(line)
            heard = True
            yield
        if not heard:
            yield

    def _feed(self, line: bytes) -> None:
        before = len(self.journal.text)
        self.journal.feed(line)
        if line.startswith(b"{") and len(self.journal.text) > before and self.journal.text[-1].startswith("{"):
            try:
                json.loads(line)
            except (ValueError, RecursionError):
                self.torn += 1
        self._number += 1
        if _WORTH.search(line):
            self._unsaid.append((self._number, line))

    @property
    def dropped(self) -> int:
        return self._lines.dropped

    @property
    def whole(self) -> bool:
        return self._lines.whole and not self.torn

    @property
    def redactor(self) -> Redactor:
        """It knows the attempt's secrets, as soon as there are any to be told."""
        if self._redactor is None or not self._number:
            self._redactor = redactor_of(self._folder)
        return self._redactor

    @property
    def alarms(self) -> tuple[str, ...]:
        guard = self.journal.guard
        return tuple(self.redactor.line(alarm, ALARM) for alarm in guard.alarms) if guard is not None else ()

    def progress(self, total: int, process: Callable[[], int | None]) -> Progress:
        return replace(self.journal.progress(total), alarms=self.alarms, hear=lambda: self._heard(process()))

    def _heard(self, process: int | None) -> Heard:
        """What was not told yet, reduced; it is told once."""
        found = [(number, kept(event_of(line) or {}, self.redactor)) for number, line in self._unsaid]
        self._unsaid = []
        said = tuple(Said(number=number, line=line) for number, line in found if line is not None)
        return Heard(said=said, upto=self._number, process=process)

    def close(self) -> None:
        self._lines.close()


def guard_of(folder: Path) -> Guard | None:
    """What the attempt may do, as its bundle says; None in one of an earlier version."""
    try:
        return Guard(json.loads((folder / "bundle" / OPERATIONS).read_bytes()))
    except (OSError, ValueError):
        return None


def redactor_of(folder: Path) -> Redactor:
    try:
        secrets: Sequence[str] = json.loads((folder / "secrets.json").read_bytes())
    except (OSError, ValueError):
        secrets = ()
    return Redactor(secrets)
