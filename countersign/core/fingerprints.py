"""Keyed fingerprints: whoever reads two of them sees whether a value is the same, and nothing about what it is."""

import hashlib
import hmac
import json
from dataclasses import dataclass, field

_PURPOSE = "countersign.plan/1"  # part of every fingerprint: another purpose would take another word


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """The domain holds purpose, address and attribute: equal secrets in two places look different."""

    key: bytes = field(repr=False)
    kid: str

    def of(self, tree: object, *domain: str) -> str:
        """16 bytes in hex. `tree` is JSON without floats."""
        # In ASCII, so that lone surrogates survive and nothing in a domain or a tree is a separator.
        spelled = (json.dumps(part, sort_keys=True, separators=(",", ":"), ensure_ascii=True) for part in (domain, tree))
        return hmac.new(self.key, b"\0".join((_PURPOSE.encode(), *map(str.encode, spelled))), hashlib.sha256).digest()[:16].hex()
