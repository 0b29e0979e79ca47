"""One way to turn a document into bytes and bytes into a digest.

A digest is `sha256:` and 64 hex digits everywhere it is shown or stored.
"""

import hashlib
import json
import re

DIGEST = re.compile(r"^sha256:[0-9a-f]{64}\Z")


def canonical(document: object) -> bytes:
    """JSON with sorted keys and no spaces, UTF-8: equal documents give equal bytes. Floats are refused: they have no one spelling."""
    _refuse_floats(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(document: object) -> str:
    return sha256(canonical(document))


def _refuse_floats(document: object) -> None:
    """Level by level, and past the texts, which are nearly all there is: a plan of a thousand changes has twenty thousand."""
    level = [document]
    while level:
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                for key in value:
                    if not isinstance(key, str):
                        raise TypeError(f"the key {key!r} of a canonical document is no text")
                inner += value.values()
            elif isinstance(value, list | tuple):
                inner += value
            elif isinstance(value, float):
                raise TypeError(f"{value!r} is a float; write numbers of a canonical document as int or text")
        level = [value for value in inner if type(value) is not str]
