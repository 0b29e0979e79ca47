"""Which version of an engine a stack asks for, as the engines themselves write it: `1.11.4`, `~> 1.11`, `>= 1.9, < 2`."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from countersign.core.errors import InvalidArgument

_VERSION = re.compile(r"(\d{1,6})(?:\.(\d{1,6}))?(?:\.(\d{1,6}))?(?:-([0-9A-Za-z.-]{1,40}))?")
_PART = re.compile(r"(=|!=|>=|<=|>|<|~>)?\s*(\S+)")

Numbers = tuple[int, int, int]
_COMPARED: Mapping[str, Callable[[Numbers, Numbers], bool]] = {
    "=": lambda there, asked: there == asked,
    "!=": lambda there, asked: there != asked,
    ">": lambda there, asked: there > asked,
    ">=": lambda there, asked: there >= asked,
    "<": lambda there, asked: there < asked,
    "<=": lambda there, asked: there <= asked,
}


@dataclass(frozen=True, kw_only=True)
class Version:
    numbers: Numbers
    said: int  # how many of the numbers were written
    early: str = ""  # what comes behind a `-`: a version before the version


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One condition of several, all of which have to hold."""

    how: str
    version: Version

    def allows(self, there: Version) -> bool:
        asked = self.version
        if there.early or asked.early:  # nobody means a beta who does not name it
            same = (there.numbers, there.early) == (asked.numbers, asked.early)
            return same is (self.how != "!=") and self.how in ("=", "!=")
        if self.how == "~>":  # the last number that is written may grow
            kept = max(asked.said - 1, 1)
            return there.numbers >= asked.numbers and there.numbers[:kept] == asked.numbers[:kept]
        return _COMPARED[self.how](there.numbers, asked.numbers)


def asked(text: str) -> tuple[Asked, ...]:
    """The conditions in `text`. Raises InvalidArgument saying how they are written."""
    found = []
    for part in text.split(","):
        said = _PART.fullmatch(part.strip())
        version = version_of(said[2]) if said else None
        if said is None or version is None:
            raise InvalidArgument(
                f"{text[:40]!r} is no version of an engine; write it like 1.11.4, ~> 1.11 or >= 1.9, < 2", field="version"
            )
        found.append(Asked(how=said[1] or "=", version=version))
    return tuple(found)


def version_of(text: str) -> Version | None:
    """`1.11.4`, or less of it; None for what is none."""
    found = _VERSION.fullmatch(text)
    if found is None:
        return None
    major, minor, patch = (int(part or 0) for part in found.groups()[:3])
    return Version(numbers=(major, minor, patch), said=sum(part is not None for part in found.groups()[:3]), early=found[4] or "")


def allowed(text: str, version: str) -> bool:
    """Whether a stack that asks for `text` may be planned by `version`. What is no version is allowed nothing."""
    there = version_of(version)
    return there is not None and all(one.allows(there) for one in asked(text))


def best(text: str, versions: Iterable[str]) -> str | None:
    """The newest of these that `text` allows."""
    fitting = [(found.numbers, found.early, one) for one in versions if (found := version_of(one)) is not None and allowed(text, one)]
    return max(fitting)[2] if fitting else None
