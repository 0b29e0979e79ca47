"""Keys and certificates of a control plane on the loopback: one authority, good for days, made anew with every cluster."""

import base64
import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIVES = timedelta(days=30)
BEFORE = timedelta(hours=1)  # clocks of one machine may be set back
SERVICE_ADDRESS = "10.96.0.1"  # of the API server inside the cluster: the first of its range
NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    def written(self, folder: Path, name: str) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.touch(mode=0o600)
        key.write_bytes(self.key)
        return certificate, key


class Authority:
    """Signs for servers and for people: what a client certificate says (`CN` user, `O` groups) is who it is."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "countersign-dev-cluster")])
        made = _builder(name, name, self._key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = made.sign(self._key, hashes.SHA256())

    @property
    def certificate(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def server(self) -> Pair:
        addresses = [ipaddress.ip_address(address) for address in ("127.0.0.1", SERVICE_ADDRESS)]
        names = x509.SubjectAlternativeName([*(x509.DNSName(n) for n in NAMES), *(x509.IPAddress(a) for a in addresses)])
        return self._signed("kube-apiserver", (), ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, user: str, *groups: str) -> Pair:
        return self._signed(user, groups, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _signed(
        self, user: str, groups: tuple[str, ...], usage: x509.ObjectIdentifier, names: x509.SubjectAlternativeName | None = None
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, user), *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, g) for g in groups)]
        made = _builder(x509.Name(parts), self._certificate.subject, key.public_key())
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        made = made.add_extension(names, critical=False) if names is not None else made
        return Pair(certificate=made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), key=_pem(key))


def signing_key() -> bytes:
    """What signs service accounts. The API server takes elliptic keys in the traditional form only."""
    return _pem(ec.generate_private_key(ec.SECP256R1()))


def kubeconfig(*, server: str, authority: bytes, client: Pair, namespace: str = "default") -> str:
    """As JSON, which is YAML: whoever reads one reads the other."""

    def data(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "dev",
            "clusters": [{"name": "dev", "cluster": {"server": server, "certificate-authority-data": data(authority)}}],
            "users": [{"name": "dev", "user": {"client-certificate-data": data(client.certificate), "client-key-data": data(client.key)}}],
            "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "dev", "namespace": namespace}}],
        },
        indent=1,
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + LIVES)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
