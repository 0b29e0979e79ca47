"""Hearing an apply while it runs: how far it is, whether it does what was approved, and what of its journal leaves the machine."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from countersign.adapters.process import Lines
from countersign.adapters.terraform.bundle import OPERATIONS
from countersign.core.engine import Heard, Progress, Said
from countersign.core.model import Payload
from countersign.core.redaction import Redactor
from countersign.core.terraform.events import Journal, redacted_lines
from countersign.core.terraform.guard import Guard
from countersign.core.terraform.testimony import counts, kept

SECRETS = "secrets.json"  # of an attempt
ALARM = 1000  # characters
JOURNAL_MAX = 64 << 20  # bytes of the journal that is kept
TOO_LONG = b'{"@level":"warn","@message":"the rest of the journal was too long to keep","type":"log"}'


class Witness:
    """The journal of an attempt, heard as it grows, and whether it can be believed. `folder` is the attempt's.

    What is made of a line is made when it is heard: at the end of an apply that did much, somebody waits for it.
    """

    def __init__(self, folder: Path, journal: Path) -> None:
        self.journal = Journal()
        self.torn = 0  # lines that began as the engine's and are none: something of them was not written
        self._folder = folder
        self._lines = Lines(journal)
        self._number = 0
        self._unsaid: list[tuple[int, Mapping[str, Any]]] = []  # reduced when somebody asks: a short apply is over by then
        self._told: list[bytes] = []  # lines as they may be shown, in pieces
        self._room = JOURNAL_MAX
        self._redactor: Redactor | None = None

    def listen(self) -> bool:
        """Hear a piece of what is new, if there is any; whether there was."""
        return next(self._pieces(), False)

    def hear(self) -> Iterator[None]:
        """Feed what is new, in pieces; at least one, so that whoever watches tells that it does."""
        heard = False
        for _ in self._pieces():
            heard = True
            yield
        if not heard:
            yield

    def _pieces(self) -> Iterator[bool]:
        for batch in self._lines.batches():
            if not self._number:
                self.journal.guard = guard_of(self._folder)  # it was written before the journal was
            for line in batch:
                self._feed(line)
            self._keep(batch)
            yield True

    def _feed(self, line: bytes) -> None:
        event = self.journal.feed(line)
        if event is None and line.startswith(b"{"):
            self.torn += 1
        self._number += 1
        if event is not None and counts(event):
            self._unsaid.append((self._number, event))

    def _keep(self, lines: Sequence[bytes]) -> None:
        if self._room < 0:
            return
        told = b"".join([line + b"\n" for line in redacted_lines(lines, self.redactor)])
        self._room -= len(told)
        if self._room < 0:  # so many of its bytes too much
            told = told[: told.rfind(b"\n", 0, self._room) + 1] + TOO_LONG + b"\n"
        self._told.append(told)

    def told(self) -> bytes:
        """What was heard, with secrets hidden; bounded."""
        return b"".join(self._told)

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
        events, self._unsaid = self._unsaid, []
        reduced = ((number, kept(event, self.redactor)) for number, event in events)
        said = tuple(Said(number=number, line=line) for number, line in reduced if line is not None)
        return Heard(said=said, upto=self._number, process=process)

    def close(self) -> None:
        self._lines.close()


class Confided(Payload):
    """`secrets.json`: what a follower has to hide, and what the apply may begin."""

    secrets: tuple[str, ...] = Field(repr=False)
    operations: Mapping[str, Sequence[str]] | None = Field(default=None, repr=False)  # None in a bundle of an earlier version


def guard_of(folder: Path) -> Guard | None:
    """What the attempt may do, as its bundle says; None in one of an earlier version."""
    operations = _confided(folder).operations
    return Guard(operations) if operations is not None else None


def redactor_of(folder: Path) -> Redactor:
    return Redactor(_confided(folder).secrets)


def _confided(folder: Path) -> Confided:
    try:
        said = (folder / SECRETS).read_bytes()
        return Confided.model_validate_json(said) if said.startswith(b"{") else _of_an_earlier_version(folder, said)
    except (OSError, ValueError):
        return Confided(secrets=())


def _of_an_earlier_version(folder: Path, secrets: bytes) -> Confided:
    """It wrote the secrets alone, and left the operations where the bundle had them."""
    try:
        operations = json.loads((folder / "bundle" / OPERATIONS).read_bytes())
    except (OSError, ValueError):
        operations = None
    return Confided(secrets=tuple(json.loads(secrets)), operations=operations)
