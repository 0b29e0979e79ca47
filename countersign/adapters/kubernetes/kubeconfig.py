"""One cluster of an operator's kubeconfig, reduced to what reaches it, with everything it points to taken in.

Helm and the Python client both get this and nothing else: no other context they could end up in, no path to a file that may be
another one tomorrow, and no plugin that runs a command of its own.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from countersign.core.errors import FailedPrecondition, Unavailable

CONTEXT = "countersign"
LARGEST = 1 << 20  # bytes
_CLUSTER = ("server", "certificate-authority-data", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")
_USER = ("client-certificate-data", "client-key-data", "token", "as", "as-groups")
_FILES = {
    "certificate-authority": "certificate-authority-data",
    "client-certificate": "client-certificate-data",
    "client-key": "client-key-data",
}
_RUNS = ("exec", "auth-provider")
_HIDDEN = ("client-key-data", "token", "password")


@dataclass(frozen=True, kw_only=True)
class Kubeconfig:
    server: str
    document: Mapping[str, Any] = field(repr=False)
    secrets: frozenset[str] = field(repr=False)  # what must not be told

    @property
    def authority(self) -> str:
        """Fingerprint of the authority that its certificates are of."""
        (cluster,) = self.document["clusters"]
        return hashlib.sha256(str(cluster["cluster"].get("certificate-authority-data", "")).encode()).hexdigest()[:16]

    def written(self, path: Path) -> Path:
        """As a file that only this user reads."""
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(dict(self.document)), encoding="utf-8")
        return path


def of_file(path: Path, *, context: str | None) -> Kubeconfig:
    """Raises Unavailable where it cannot be read, FailedPrecondition where it cannot be used."""
    try:
        text = path.read_bytes()
    except OSError as broken:
        raise Unavailable(
            f"the kubeconfig of this cluster cannot be read ({broken.strerror}); see `clusters` in countersign.toml"
        ) from None
    return of_text(text, context=context, beside=path.parent)


def of_text(text: bytes | str, *, context: str | None, beside: Path | None = None) -> Kubeconfig:
    """`beside` is the folder that paths in it start from; without one, as in a sealed secret, it may point to no file."""
    if len(text) > LARGEST:
        raise _unusable("it is too large")
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError:
        raise _unusable("it is no YAML") from None
    if not isinstance(document, dict):
        raise _unusable("it is no kubeconfig")
    name = context or document.get("current-context")
    chosen = _named(document, "contexts", "context", name)
    cluster = _taken_in(_named(document, "clusters", "cluster", chosen.get("cluster")), beside)
    user = _taken_in(_named(document, "users", "user", chosen.get("user")), beside)
    if runs := next((word for word in _RUNS if word in user), None):
        raise _unusable(
            f"its user is of a plugin ({runs}), and plugins are not run here; give it a client certificate or a service account's token"
        )
    if not str(cluster.get("server", "")).startswith("https://"):
        raise _unusable("its server has to begin with https://")
    user = {key: user[key] for key in _USER if key in user}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": CONTEXT,
        "clusters": [{"name": CONTEXT, "cluster": {key: cluster[key] for key in _CLUSTER if key in cluster}}],
        "users": [{"name": CONTEXT, "user": user}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
    }
    secrets = frozenset(str(user[key]) for key in _HIDDEN if user.get(key))
    return Kubeconfig(server=str(cluster["server"]), document=document, secrets=secrets)


def _named(document: Mapping[str, Any], kind: str, inner: str, name: object) -> dict[str, Any]:
    for one in document.get(kind) or ():
        if isinstance(one, dict) and one.get("name") == name and isinstance(one.get(inner), dict):
            return dict(one[inner])
    raise _unusable(f"it has no {inner} {str(name)[:80]!r}")


def _taken_in(part: dict[str, Any], beside: Path | None) -> dict[str, Any]:
    """`part` with the contents of the files it names."""
    for name, data in _FILES.items():
        if part.get(name) and not part.get(data):
            part[data] = base64.b64encode(_read(str(part[name]), beside)).decode()
    if part.get("tokenFile") and not part.get("token"):
        part["token"] = _read(str(part["tokenFile"]), beside).decode().strip()
    return part


def _read(name: str, beside: Path | None) -> bytes:
    if beside is None:
        raise _unusable("it points to a file, and a sealed one has to hold everything (`kubectl config view --flatten --minify --raw`)")
    try:
        return (beside / name).read_bytes()
    except OSError as broken:
        raise _unusable(f"a file that it points to cannot be read ({broken.strerror})") from None


def _unusable(why: str) -> FailedPrecondition:
    return FailedPrecondition(f"the kubeconfig of this cluster cannot be used: {why}; see `clusters` in countersign.toml")
