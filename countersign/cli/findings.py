"""What `countersign doctor` finds, one thing at a time."""

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ok", "note", "missing"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    what: str
    grade: Grade
    told: str  # what there is
    fix: str = ""  # what to do about it


def ok(what: str, told: str) -> Finding:
    return Finding(what=what, grade="ok", told=told)


def note(what: str, told: str, fix: str = "") -> Finding:
    return Finding(what=what, grade="note", told=told, fix=fix)


def missing(what: str, told: str, fix: str) -> Finding:
    return Finding(what=what, grade="missing", told=told, fix=fix)
