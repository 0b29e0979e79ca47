"""The deployment's keys: who may hold which, sealing, fingerprints, and the front's signature.

Each key is a file in `keys/` of the data folder (0600), made by whoever needs it first. A part of the service opens only the
files of its role: the front cannot unseal a stack's secret, and nobody but the front can sign a decision.

Sealed bytes are `CSE1`, the id of the key that wraps, the wrapped data key, and the content, both AES-256-GCM; what they
belong to is authenticated with them, so that a sealed object cannot be moved to another place.
"""

import base64
import binascii
import json
import os
import secrets as random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from countersign.core.digests import canonical
from countersign.core.errors import FailedPrecondition

Role = Literal["worker", "front", "state", "operator", "all"]
Purpose = Literal["artifacts", "secrets"]

_MAGIC = b"CSE1"
_NONCE = 12
_WRAPPED = _NONCE + 32 + 16  # nonce, data key, tag

# Least privilege: what each part of the service may open.
_HOLDS: Mapping[Role, frozenset[str]] = {
    "worker": frozenset({"artifacts", "secrets", "mac", "front.pub"}),
    "front": frozenset({"artifacts", "front", "requests"}),
    "state": frozenset({"artifacts"}),
    "operator": frozenset({"secrets", "mac"}),
    "all": frozenset({"artifacts", "secrets", "mac", "front", "front.pub", "requests"}),
}


def held_by(role: Role) -> list[str]:
    """The names of the key files that a part needs, without their ending."""
    needed = _HOLDS[role] | ({"front.pub"} if "front" in _HOLDS[role] else set())  # whoever signs puts its public half there
    return sorted(needed)


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Keys of one purpose: all of them open, the active one seals. Rotation adds one and keeps the others."""

    active: str
    keys: Mapping[str, bytes] = field(repr=False)


class Keyring:
    def __init__(
        self,
        *,
        rings: Mapping[str, Ring],
        signer: Ed25519PrivateKey | None,
        verifiers: Mapping[str, Ed25519PublicKey],
    ) -> None:
        self._rings = rings
        self._signer = signer
        self._verifiers = verifiers

    @classmethod
    def open(cls, data: Path, *, role: Role) -> "Keyring":
        """Open the keys `role` may hold, making those that are missing. Raises FailedPrecondition for a file nobody can read."""
        folder = data / "keys"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls._of(folder, role)

    @classmethod
    def make(cls, folder: Path) -> None:
        """All keys of a new service, as files in `folder`."""
        cls._of(folder, "all")

    @classmethod
    def _of(cls, folder: Path, role: Role) -> "Keyring":
        holds = _HOLDS[role]
        named: tuple[str, ...] = ("artifacts", "secrets", "mac", "requests")
        rings = {name: _ring(folder / f"{name}.json") for name in named if name in holds}
        signer: Ed25519PrivateKey | None = None
        verifiers: dict[str, Ed25519PublicKey] = {}
        if "front" in holds:
            signer = _private(folder)
        if "front.pub" in holds:
            public = _public(folder)
            verifiers[_key_id(public)] = public
        return cls(rings=rings, signer=signer, verifiers=verifiers)

    # Signing what the front forwards

    def sign(self, payload: bytes) -> tuple[str, str]:
        """(signature as base64, id of the key)."""
        if self._signer is None:
            raise FailedPrecondition("this part of the service does not hold the front's key")
        return base64.b64encode(self._signer.sign(payload)).decode(), _key_id(self._signer.public_key())

    def verify(self, payload: bytes, signature: str, key_id: str) -> bool:
        known = self._verifiers.get(key_id)
        if known is None:
            return False
        try:
            known.verify(base64.b64decode(signature, validate=True), payload)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True

    # Fingerprints

    @property
    def mac_key(self) -> bytes:
        ring = self._ring("mac")
        return ring.keys[ring.active]

    @property
    def mac_kid(self) -> str:
        return self._ring("mac").active

    @property
    def request_keys(self) -> tuple[bytes, ...]:
        """What fronts seal the state of an unfinished request with; any of them goes on with it. The active one comes first."""
        ring = self._ring("requests")
        return (ring.keys[ring.active], *(key for kid, key in ring.keys.items() if kid != ring.active))

    # Sealing

    def seal(self, purpose: Purpose, data: bytes, *, belongs_to: Sequence[str]) -> tuple[bytes, str]:
        """(sealed bytes, id of the key). `belongs_to` (organization, stack, digest …) must be given again to unseal."""
        ring = self._ring(purpose)
        bound = canonical([purpose, *belongs_to])
        key, wrap, nonce = AESGCM.generate_key(256), os.urandom(_NONCE), os.urandom(_NONCE)
        kid = ring.active.encode()
        wrapped = wrap + AESGCM(ring.keys[ring.active]).encrypt(wrap, key, bound)
        return b"".join((_MAGIC, bytes([len(kid)]), kid, wrapped, nonce, AESGCM(key).encrypt(nonce, data, bound))), ring.active

    def unseal(self, purpose: Purpose, sealed: bytes, *, belongs_to: Sequence[str]) -> bytes:
        """Raises FailedPrecondition for what was changed, moved, or sealed with a key that is not here."""
        ring = self._ring(purpose)
        bound = canonical([purpose, *belongs_to])
        if sealed[:4] != _MAGIC or len(sealed) < 5:
            raise FailedPrecondition("stored bytes are not in a format this version can open; restore them from a backup")
        begin = 5 + sealed[4]
        kid = sealed[5:begin].decode(errors="replace")
        if kid not in ring.keys:
            raise FailedPrecondition(f"stored bytes need the key {kid!r}, which is not in the data folder; restore keys/{purpose}.json")
        wrapped, content = sealed[begin : begin + _WRAPPED], sealed[begin + _WRAPPED :]
        try:
            key = AESGCM(ring.keys[kid]).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], bound)
            return AESGCM(key).decrypt(content[:_NONCE], content[_NONCE:], bound)
        except (InvalidTag, ValueError):
            raise FailedPrecondition("stored bytes were changed or belong elsewhere; nothing is done with them") from None

    def _ring(self, name: str) -> Ring:
        if name not in self._rings:
            raise FailedPrecondition(f"this part of the service does not hold the keys for {name}")
        return self._rings[name]


def _key_id(public: Ed25519PublicKey) -> str:
    return "ed_" + public.public_bytes_raw().hex()[:16]


def _ring(path: Path) -> Ring:
    _made(path, lambda: {"active": "k1", "keys": {"k1": base64.b64encode(random.token_bytes(32)).decode()}})
    document = _read(path)
    try:
        ring = Ring(active=document["active"], keys={kid: base64.b64decode(key) for kid, key in document["keys"].items()})
    except (KeyError, AttributeError, TypeError, binascii.Error):
        raise _unreadable(path) from None
    if ring.active not in ring.keys or any(len(key) != 32 for key in ring.keys.values()):
        raise _unreadable(path)
    return ring


def _private(folder: Path) -> Ed25519PrivateKey:
    """The front's own key; its public half is put beside it for those who verify."""
    path = folder / "front.json"
    _made(path, lambda: {"private": base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode()})
    try:
        private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(_read(path)["private"]))
    except (KeyError, TypeError, ValueError):
        raise _unreadable(path) from None
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    _made(folder / "front.pub.json", lambda: {"public": public})
    return private


def _public(folder: Path) -> Ed25519PublicKey:
    """What verifies the front's signatures. Only where there is no front yet, its pair is made here."""
    path = folder / "front.pub.json"
    if not path.exists():
        _private(folder)
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(_read(path)["public"]))
    except (KeyError, TypeError, ValueError):
        raise _unreadable(path) from None


def _made(path: Path, new: Callable[[], Mapping[str, Any]]) -> None:
    """Make the file unless it is there; of several processes that try at once, one succeeds and all read the same."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{random.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as refused:
        raise FailedPrecondition(
            f"the key file {path} is not there and cannot be made ({refused.strerror}); put it there. `countersign new-keys FOLDER` "
            "makes a new set"
        ) from None
    try:
        os.write(fd, json.dumps(new()).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise _unreadable(path) from None
    if not isinstance(document, dict):
        raise _unreadable(path)
    return document


def _unreadable(path: Path) -> FailedPrecondition:
    return FailedPrecondition(f"the key file {path} cannot be read; restore it from a backup: without it what it sealed is lost")
