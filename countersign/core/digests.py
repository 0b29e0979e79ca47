"""One way to turn a document into bytes and bytes into a digest.

A digest is `sha256:` and 64 hex digits everywhere it is shown or stored.
"""

import hashlib
import json
import re
from itertools import chain

_LISTS = (list, tuple)
DIGEST = re.compile(r"^sha256:[0-9a-f]{64}\Z")

_written = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical(document: object) -> bytes:
    """JSON with sorted keys and no spaces, UTF-8: equal documents give equal bytes. Floats are refused: they have no one spelling."""
    return spelled(document).encode()


def spelled(document: object) -> str:
    """The same as text, which may hold what UTF-8 has no letter for."""
    _refuse_floats(document)
    return _written(document)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(document: object) -> str:
    return sha256(canonical(document))


def _refuse_floats(document: object) -> None:
    """Level by level, and by their kinds: a plan of a thousand changes has twenty thousand values, and a handful of kinds."""
    level = [document]
    while level:
        kinds = set(map(type, level))
        if any(issubclass(kind, float) for kind in kinds):
            value = next(value for value in level if isinstance(value, float))
            raise TypeError(f"{value!r} is a float; write numbers of a canonical document as int or text")
        objects = [value for value in level if isinstance(value, dict)] if any(issubclass(kind, dict) for kind in kinds) else []
        lists = [value for value in level if isinstance(value, _LISTS)] if any(issubclass(kind, _LISTS) for kind in kinds) else []
        if not all(issubclass(kind, str) for kind in set(map(type, chain.from_iterable(objects)))):
            key = next(key for key in chain.from_iterable(objects) if not isinstance(key, str))
            raise TypeError(f"the key {key!r} of a canonical document is no text")
        level = [*chain.from_iterable(map(dict.values, objects)), *chain.from_iterable(lists)]
