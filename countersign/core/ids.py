"""Ids are made from what they stand for, so that asking twice gives the same one.

`run_` ids are the Temporal workflow ids as well; `st_` is a stack, `att_` an attempt, `pln_` a plan, `art_` an artifact.
"""

import hashlib
import re

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford: no i, l, o, u to misread
RUN_ID = re.compile(r"^run_[0-9a-z]{26}\Z")  # \Z, for $ lets a line end pass
SLUG = re.compile(r"^[a-z][a-z0-9-]{0,61}[a-z0-9]\Z|^[a-z]\Z")


def derive(prefix: str, *parts: str) -> str:
    """A 130-bit id of these parts, in this order; no two lists of parts share their bytes."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hashed.update(len(data).to_bytes(8, "big") + data)
    number = int.from_bytes(hashed.digest()[:17], "big") >> 6
    letters = []
    for _ in range(26):
        number, index = divmod(number, 32)
        letters.append(_ALPHABET[index])
    return f"{prefix}_{''.join(reversed(letters))}"


def run_id(*, org: str, principal: str, tool: str, key: str) -> str:
    """`key` is the caller's idempotency key, or the digest of the request and a nonce where none was given."""
    return derive("run", org, principal, tool, key)
