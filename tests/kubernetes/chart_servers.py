"""Where charts come from in tests: a folder served with its index, as misbehaved as a test wants it, and a real registry."""

import base64
import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.tools import built

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class ChartServer:
    """Serves `folder`; `answers` come first: path → what it says instead. `asked` has (path, Authorization) of every request."""

    folder: Path
    answers: dict[str, Answer | Callable[[str], Answer]] = field(default_factory=dict)
    key: str | None = None  # "user:password" that it wants
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def index(self, url: str | None = None) -> None:
        """Have helm write index.yaml over the archives of the folder."""
        subprocess.run(
            [built("kube", "helm"), "repo", "index", str(self.folder), *(["--url", url] if url else [])], check=True, capture_output=True
        )


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[ChartServer]:
    made = ChartServer(folder)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, given = self.path.partition("?")[0], self.headers.get("Authorization", "")
            made.asked.append((path, given))
            code, headers, body = self._answer(path, given)
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def _answer(self, path: str, given: str) -> Answer:
            if (said := made.answers.get(path)) is not None:
                return said(given) if callable(said) else said
            if made.key and given != "Basic " + base64.b64encode(made.key.encode()).decode():
                return 401, {"WWW-Authenticate": 'Basic realm="charts"'}, b""
            file = made.folder / path.lstrip("/")
            return (200, {}, file.read_bytes()) if file.is_file() else (404, {}, b"not there")

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def registry(folder: Path, *, realm: str | None = None) -> Iterator[str]:
    """Debian's docker-registry on a free port; with `realm` it wants a token from there. Its "host:port"."""
    found = shutil.which("docker-registry")
    assert found is not None, "docker-registry is not installed: run `make packages`"
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        **({"auth": {"silly": {"realm": realm, "service": "registry"}}} if realm else {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([found, "serve", str(folder / "config.yml")], stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
                break
            except OSError:
                assert time.monotonic() < until and process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def chart(folder: Path, name: str = "shop", version: str = "1.0.0", **more: str) -> Path:
    """A small chart in `folder`/`name`: one ConfigMap."""
    place = folder / name
    (place / "templates").mkdir(parents=True, exist_ok=True)
    (place / "Chart.yaml").write_text(
        f"apiVersion: v2\nname: {name.rpartition('/')[2]}\nversion: {version}\ndescription: A {name} for tests\n"
    )
    (place / "values.yaml").write_text("greeting: hello\n")
    (place / "templates" / "config.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {greeting: {{ .Values.greeting | quote }}}\n"
    )
    for path, text in more.items():
        (place / path.replace("__", "/").replace("_yaml", ".yaml").replace("_lock", ".lock")).write_text(text)
    return place


def packed(place: Path, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([built("kube", "helm"), "package", str(place), "-d", str(out)], check=True, capture_output=True, text=True)
    return Path(done.stdout.strip().rpartition(": ")[2])


def pushed(archive: Path, address: str) -> None:
    subprocess.run([built("kube", "helm"), "push", str(archive), address, "--plain-http"], check=True, capture_output=True)
