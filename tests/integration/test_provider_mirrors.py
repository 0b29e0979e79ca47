"""Where provider packages come from: a folder, a mirror over the network, and what is said where one does not come."""

import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from countersign.adapters.settings import load
from countersign.core.errors import InvalidArgument, ProviderError
from countersign.core.run import RunState
from tests.fakecloud.client import Cloud, cloud
from tests.fakecloud.mirror import ENVIRONMENT, write_mirror, write_network_mirror
from tests.fakecloud.provider import VERSION
from tests.integration.processes import leaves_no_process
from tests.integration.terraform_bench import Bench, bench
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio

ONE = """
terraform {
  required_providers {
    fake = {
      source  = "fake.test/countersign/fake"
      version = "%s"
    }
  }
}
resource "fake_thing" "one" {
  name = "one"
}
"""
PROVIDER = "fake.test/countersign/fake"


@pytest.fixture
async def world(tmp_path: Path, bench: Bench) -> AsyncIterator[Cloud]:
    async with cloud(tmp_path) as running:
        bench.use(allowed_providers=("fake.test/countersign/*",), environment={"FAKE_CLOUD": running.address, **ENVIRONMENT})
        yield running


def stack(bench: Bench, lock: str, version: str = VERSION) -> str:
    bench.write("one", main_tf=ONE % version)
    (bench.stacks / "one" / ".terraform.lock.hcl").write_text(lock)
    return "one"


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def over_https(folder: Path, certificate: Path) -> Iterator[str]:
    """The files of a folder, served with a certificate that is written to `certificate`; the address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a mirror of this test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = certificate.with_suffix(".key")
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    serving.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@requirement("providers:mirror")
async def test_a_provider_comes_from_a_mirror_over_the_network_and_the_plan_says_so(bench: Bench, world: Cloud, tmp_path: Path) -> None:
    lock = write_mirror(tmp_path / "packages")
    write_network_mirror(tmp_path / "served", tmp_path / "packages")
    with over_https(tmp_path / "served", tmp_path / "ca.pem") as address:
        bench.use(network_mirror=address, environment={**bench.options["environment"], "SSL_CERT_FILE": str(tmp_path / "ca.pem")})
        planned = await bench.plan(stack(bench, lock))
        outcome = await bench.apply(planned, "one")

    assert outcome.state is RunState.VERIFYING, outcome.message
    assert world.changes() == ["create one"]
    assert planned.inputs["providers_from"] == f"the mirror {address}"
    assert f"provider packages come from the mirror {address}" in planned.log


@requirement("bad:provider-not-there")
async def test_a_provider_that_the_mirror_lacks_is_named_with_what_to_do(bench: Bench, world: Cloud, tmp_path: Path) -> None:
    write_mirror(tmp_path / "packages")
    bench.use(mirror=tmp_path / "packages")
    bench.write("one", main_tf=ONE % "9.9.9")
    with pytest.raises(ProviderError) as refused:
        await bench.plan("one")

    assert f"the operator's folder of providers has no such package of {PROVIDER}" in refused.value.message
    assert f"`{bench.engine_name} providers mirror`" in refused.value.message


@requirement("bad:provider-not-there")
@pytest.mark.parametrize(
    ("lock", "version", "says"),
    [
        (lambda text: text, "9.9.9", f"the lock file pins {PROVIDER}"),
        (
            lambda text: text.replace("h1:", "h1:Z"),
            VERSION,
            f"the package of {PROVIDER} {VERSION} from the operator's folder",
        ),
        (lambda text: "", VERSION, "init` in the folder and commit .terraform.lock.hcl"),
    ],
    ids=["another version", "another package", "no lock"],
)
async def test_a_lock_file_that_does_not_match_is_told_with_what_to_do(
    bench: Bench, world: Cloud, tmp_path: Path, lock: Any, version: str, says: str
) -> None:
    text = write_mirror(tmp_path / "packages")
    bench.use(mirror=tmp_path / "packages")
    with pytest.raises(ProviderError) as refused:
        await bench.plan(stack(bench, lock(text), version))

    assert says in refused.value.message


@pytest.mark.parametrize("address", ["http://mirror.test/", "mirror.test", "https://user:pw@mirror.test/", "https://mirror.test/?a=b"])
async def test_a_mirror_is_an_https_address_without_a_user(tmp_path: Path, address: str) -> None:
    (tmp_path / "countersign.toml").write_text(f'[terraform]\nnetwork_mirror = "{address}"\n')
    with pytest.raises(InvalidArgument, match="https://host/path/"):
        load(tmp_path)
    (tmp_path / "countersign.toml").write_text('[terraform]\nnetwork_mirror = "https://mirror.test/providers"\n')
    assert load(tmp_path).terraform.network_mirror == "https://mirror.test/providers/"
