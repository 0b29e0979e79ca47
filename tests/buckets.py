"""An object store of the tests' own: a process that can be killed, frozen and started again.

It is moto's S3, which keeps objects in memory: what a kill takes from it is gone, as with a bucket that somebody emptied; away for a
while, it is `leave` and `come_back`. The
client of GCS speaks GCS' XML interface, which is the same at what is used here, so it is tried on the same server; nobody checks
its tokens there.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PATIENCE = 30.0  # seconds; every wait is bounded
SECRET = "s3-canary-91be44d0a7"  # looked for where no credential may be
_S3 = """
import pathlib, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
moto, away = DomainDispatcherApplication(create_backend_app), pathlib.Path(sys.argv[2])
def app(environ, start_response):
    if away.exists():
        start_response("503 Slow Down", [("Content-Length", "0")])
        return [b""]
    return moto(environ, start_response)
run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
"""


@dataclass
class Buckets:
    """A server with one bucket, `artifacts`."""

    kind: Literal["s3", "gs"] = "s3"
    port: int = field(init=False)
    _away: Path = field(init=False)
    _server: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._away = Path(tempfile.gettempdir()) / f"countersign-bucket-{os.getpid()}-{self.port}.away"

    @property
    def url(self) -> str:
        return f"{self.kind}://artifacts/of/tests"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a service on it finds its credentials in."""
        if self.kind == "gs":
            return {"GOOGLE_BEARER_TOKEN": SECRET}
        return {"AWS_ACCESS_KEY_ID": "AKIATESTS", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}

    def start(self, *, bucket: bool = True) -> "Buckets":
        quiet = subprocess.DEVNULL
        self._server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", _S3, str(self.port), str(self._away)],
            stdout=quiet,
            stderr=quiet,
            stdin=quiet,
            start_new_session=True,
        )
        until = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._server.poll() is None and time.monotonic() < until, f"the {self.kind} server does not start"
            time.sleep(0.05)
        if bucket:
            self._ask("PUT", "/artifacts")
        return self

    def kill(self) -> None:
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait(PATIENCE)

    def leave(self) -> None:
        """Be away, and keep what there is: every request is told to come again."""
        self._away.touch()

    def come_back(self) -> None:
        self._away.unlink()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It accepts connections and says nothing."""
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._server.pid, signal.SIGCONT)

    def remove(self, path: str) -> None:
        self._ask("DELETE", f"/artifacts/of/tests/{path}")

    def bytes_of_all(self) -> bytes:
        """Everything that lies in the bucket."""
        listed = self._ask("GET", "/artifacts?list-type=2").decode()
        keys = [part.partition("</Key>")[0] for part in listed.split("<Key>")[1:]]
        return b"".join(self._ask("GET", f"/artifacts/{key}") for key in keys)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False

    def _ask(self, method: str, path: str) -> bytes:
        asked = urllib.request.Request(self.endpoint + path, method=method, headers={"Authorization": f"Bearer {SECRET}"})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return bytes(answer.read())


@contextlib.contextmanager
def running(kind: Literal["s3", "gs"] = "s3", *, bucket: bool = True) -> Iterator[Buckets]:
    made = Buckets(kind=kind).start(bucket=bucket)
    try:
        yield made
    finally:
        made.kill()
        made._away.unlink(missing_ok=True)
