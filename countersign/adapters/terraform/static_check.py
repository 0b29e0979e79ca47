"""Reading configuration without running it, for `core.terraform.source` to judge.

What a file declares depends on its bytes alone, so it is kept by content, in memory and on disk. What cannot be read for
certain is left to the caller: either the engine says what is wrong with it, or it is refused.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from countersign.adapters.terraform.hcl import UNSETTLED, structure
from countersign.core.terraform.source import Declared, declared

_VERSION = 3  # of what is kept; count up when `declared` or its reader finds more
_SUFFIXES = (".tf", ".tofu")
# Blocks an engine may have at the top of a file. Another one may be a way to run something that nobody judges here.
_KNOWN = frozenset(
    {
        "terraform", "provider", "variable", "locals", "output", "module", "resource", "data", "ephemeral", "action", "check", "moved",
        "removed", "import",
    }
)  # fmt: skip


class Reader:
    """`folder` keeps what files declare, by the sha256 of their content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Declared | None] = {}

    def read(self, files: Mapping[str, bytes]) -> tuple[dict[str, Declared], list[str]]:
        """What each configuration file declares, and the paths that could not be read. Reads and writes files: call it in a thread."""
        found: dict[str, Declared] = {}
        unreadable: list[str] = []
        for path, data in files.items():
            if not is_configuration(path):
                continue
            one = self._one(path, data)
            if one is None:
                unreadable.append(path)
            else:
                found[path] = one
        return found, unreadable

    def _one(self, path: str, data: bytes) -> Declared | None:
        kind = "json" if path.endswith(".json") else "hcl"
        key = hashlib.sha256(f"{_VERSION} {kind} ".encode() + data).hexdigest()
        if key in self._known:
            return self._known[key]
        kept = self._folder / f"{key}.json"
        try:
            self._known[key] = Declared.model_validate_json(kept.read_bytes())
            return self._known[key]
        except (OSError, ValidationError):
            pass
        one = _parse(data, kind)
        if len(self._known) > 5000:
            self._known.clear()
        self._known[key] = one
        if one is not None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = kept.with_suffix(".new")
            temporary.write_text(one.model_dump_json())
            temporary.replace(kept)
        return one


def is_configuration(path: str) -> bool:
    return path.endswith((*_SUFFIXES, *(s + ".json" for s in _SUFFIXES)))


def _parse(data: bytes, kind: str) -> Declared | None:
    try:
        text = data.decode("utf-8-sig")
        parsed: Any = json.loads(text, object_pairs_hook=_all_of) if kind == "json" else structure(text)
    except (ValueError, RecursionError):  # Unreadable is a ValueError
        return None
    if not isinstance(parsed, Mapping) or not {*parsed} <= {*_KNOWN, "//"} or not _settled(parsed):
        return None
    # An action brings its provider like a resource does.
    return _placed(declared({**parsed, "resource": [parsed.get("resource", []), parsed.get("action", [])]}, text), text)


def _placed(found: Declared, text: str) -> Declared:
    """`found` with the lines of expressions, which are not spelled in the file as they are named here."""

    def line(name: str, known: int | None) -> int | None:
        at = text.find(name.removeprefix(UNSETTLED).removesuffix("}")) if name.startswith(UNSETTLED) else -1
        return known if known is not None or at < 0 else text.count("\n", 0, at) + 1

    modules = tuple(place.model_copy(update={"line": line(place.name, place.line)}) for place in found.modules)
    sources = {name: line(source, found.source_lines.get(name)) for name, source in found.sources.items()}
    return found.model_copy(update={"modules": modules, "source_lines": sources})


def _settled(parsed: Mapping[str, Any]) -> bool:
    """Whether every required provider says in plain text where it comes from; else its name alone would be judged."""

    def bodies(value: object) -> Iterator[Mapping[str, Any]]:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield one
            elif isinstance(one, list):
                yield from bodies(one)

    required = [wanted for body in bodies(parsed.get("terraform")) for wanted in bodies(body.get("required_providers"))]
    return not any(isinstance(value, str) and value.startswith(UNSETTLED) for wanted in required for value in wanted.values())


def _all_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose repeated keys all count, as they do for the engines; Python alone would keep the last.

    Keys that could be taken for remarks of a parser are written as labels, in quotes: to an engine they are names like any other.
    """
    merged: dict[str, Any] = {}
    for name, value in pairs:
        key = f'"{name}"' if name.startswith("__") else name
        if key in merged:
            before = merged[key]
            merged[key] = [*(before if isinstance(before, list) else [before]), *(value if isinstance(value, list) else [value])]
        else:
            merged[key] = value
    return merged
