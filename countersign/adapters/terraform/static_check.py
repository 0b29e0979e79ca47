"""Reading configuration without running it, for `core.terraform.source` to judge.

Parsing is slow and what a file declares depends on its bytes alone, so it is kept by content, in memory and on disk. What
python-hcl2 cannot read is left to the caller: either the engine says what is wrong with it, or it is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hcl2
from hcl2 import SerializationOptions
from lark.exceptions import LarkError
from pydantic import ValidationError

from countersign.core.terraform.source import Declared, declared

_VERSION = 1  # of what is kept; count up when `declared` finds more
_SUFFIXES = (".tf", ".tofu")


class Reader:
    """`folder` keeps what files declare, by the sha256 of their content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Declared | None] = {}

    def read(self, files: Mapping[str, bytes]) -> tuple[dict[str, Declared], list[str]]:
        """What each configuration file declares, and the paths that could not be read. May take seconds: call it in a thread."""
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
        if kind == "json":
            parsed: Any = json.loads(text, object_pairs_hook=_all_of)
        else:
            options = SerializationOptions(with_comments=False, strip_string_quotes=False)
            parsed = hcl2.loads(text if text.endswith("\n") else text + "\n", serialization_options=options)
        return declared(parsed, text) if isinstance(parsed, Mapping) else None
    except (ValueError, LarkError, RecursionError):
        return None
    except Exception:
        # python-hcl2 raises whatever its transformer meets in a file it half understands; not read is not allowed, never passed.
        return None


def _all_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose repeated keys all count, as they do for the engines; Python alone would keep the last."""
    merged: dict[str, Any] = {}
    for key, value in pairs:
        if key in merged:
            before = merged[key]
            merged[key] = [*(before if isinstance(before, list) else [before]), *(value if isinstance(value, list) else [value])]
        else:
            merged[key] = value
    return merged
