"""Real Git over a real wire: bare repositories behind `git http-backend` with TLS and passwords, and what people do to them."""

import base64
import datetime as dt
import gzip
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SYSTEM = "/usr/local/bin:/usr/bin:/bin"


def git(*arguments: str, cwd: Path, **environment: str) -> str:
    """What a person's git would do here, whatever this machine configures."""
    given = {
        "PATH": SYSTEM,
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "Ana",
        "GIT_AUTHOR_EMAIL": "ana@example.com",
        "GIT_COMMITTER_NAME": "Ana",
        "GIT_COMMITTER_EMAIL": "ana@example.com",
        **environment,
    }
    done = subprocess.run(["git", *arguments], cwd=cwd, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@dataclass
class Repository:
    """A bare repository on a server, and a clone of it in which somebody works."""

    bare: Path
    work: Path

    @classmethod
    def made(cls, folder: Path, name: str) -> "Repository":
        bare, work = folder / "served" / name, folder / "people" / name.replace("/", "-")
        bare.mkdir(parents=True)
        git("init", "-q", "--bare", "-b", "main", cwd=bare)
        for setting in ("uploadpack.allowFilter", "http.receivepack"):
            git("config", setting, "true", cwd=bare)
        work.mkdir(parents=True)
        git("init", "-q", "-b", "main", cwd=work)
        git("remote", "add", "origin", str(bare), cwd=work)
        return cls(bare=bare, work=work)

    def write(self, files: dict[str, str | bytes]) -> None:
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def commit(self, files: dict[str, str | bytes] | None = None, *, branch: str = "main", push: bool = True) -> str:
        """Write, commit and push; the commit's id."""
        self.write(files or {})
        git("add", "-A", cwd=self.work)
        git("commit", "-q", "--allow-empty", "-m", "a change", cwd=self.work)
        if push:
            self.push(branch)
        return git("rev-parse", "HEAD", cwd=self.work)

    def push(self, branch: str = "main") -> None:
        git("push", "-q", "--force", "origin", f"HEAD:refs/heads/{branch}", cwd=self.work)

    def git(self, *arguments: str, **environment: str) -> str:
        return git(*arguments, cwd=self.work, **environment)


@dataclass
class GitServer:
    """`users` opens what begins with a path; what is in no entry is open to everybody."""

    folder: Path
    address: str  # https://127.0.0.1:port
    certificate: Path
    users: dict[str, tuple[str, str]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # (method, path with query) as they came
    fetches: int = 0  # how often somebody asked for objects
    shown: list[str] = field(default_factory=list)  # Authorization headers
    hold: threading.Event | None = None  # packs are held back half sent until it is set
    held: threading.Event = field(default_factory=threading.Event)

    def repository(self, name: str) -> Repository:
        return Repository.made(self.folder, name)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    it: GitServer

    def log_message(self, format: str, *args: object) -> None:
        """Tests read `asked`."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        it, url = self.it, urlsplit(self.path)
        body = self._body()
        it.asked.append((self.command, self.path))
        said = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        it.fetches += b"command=fetch" in said
        if given := self.headers.get("Authorization"):
            it.shown.append(given)
        for path, to in it.redirects.items():
            if url.path.startswith(path):
                return self._answer(301, [("Location", to + self.path.removeprefix(path))], b"")
        for path, (user, password) in it.users.items():
            expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
            if url.path.startswith(path) and self.headers.get("Authorization") != expected:
                return self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"who are you?")
        self._backend(url.path, url.query, body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _backend(self, path: str, query: str, body: bytes) -> None:
        environment = {
            "PATH": SYSTEM,
            "GIT_PROJECT_ROOT": str(self.it.folder / "served"),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_ADDR": "127.0.0.1",
        }
        for header, name in (("Content-Encoding", "HTTP_CONTENT_ENCODING"), ("Git-Protocol", "GIT_PROTOCOL")):
            if value := self.headers.get(header):
                environment[name] = value
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True, timeout=60)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n") if line]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        self._answer(status, [(name, value) for name, value in headers if name != "Status"], content)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        hold = self.it.hold
        try:
            if hold is not None and self.command == "POST" and len(content) > 4000:
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.it.held.set()
                hold.wait(60)
                content = content[len(content) // 2 :]
            self.wfile.write(content)
        except OSError:  # whoever asked was killed
            self.close_connection = True


@contextmanager
def git_server(folder: Path) -> Iterator[GitServer]:
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = _certificate(folder)
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made = GitServer(folder=folder, address=f"https://127.0.0.1:{server.server_address[1]}", certificate=certificate)
    handler.it = made  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        if made.hold is not None:
            made.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Of an authority that nobody knows but who is told of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "git of a test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return certificate, private


@dataclass(frozen=True)
class SshServer:
    address: str  # ssh://user@127.0.0.1:port
    known_hosts: Path
    key: str  # what opens it, in clear


@contextmanager
def ssh_server(folder: Path, user: str) -> Iterator[SshServer]:
    """sshd that lets one key in, and it only to repositories below `folder`/served."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert sshd, "sshd is not installed: apt-get install openssh-server"
    place = folder / "ssh"
    place.mkdir(mode=0o700)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True, timeout=60)
    shell = place / "shell"
    # Paths of repositories begin at the folder that is served.
    shell.write_text(f'#!/bin/sh\ncd {folder}/served && eval "set -- $SSH_ORIGINAL_COMMAND" && exec "$1" "./$2"\n')
    shell.chmod(0o755)
    (place / "authorized").write_text(f'restrict,command="{shell}" {(place / "client.pub").read_text()}')
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it drops its privileges
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (place / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {place / 'host'}\nAuthorizedKeysFile {place / 'authorized'}\nStrictModes no\n"
        f"PidFile none\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nAcceptEnv GIT_PROTOCOL\n"
    )
    log = (place / "log").open("wb")
    server = subprocess.Popen([sshd, "-D", "-e", "-f", str(place / "config")], stderr=log)
    known = place / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(place / 'host.pub').read_text()}")
    try:
        _listens(port, server)
        yield SshServer(address=f"ssh://{user}@127.0.0.1:{port}", known_hosts=known, key=(place / "client").read_text())
    finally:
        server.terminate()
        server.wait(10)
        log.close()


def _listens(port: int, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        assert server.poll() is None, "sshd ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            threading.Event().wait(0.05)
    raise AssertionError("sshd does not listen")
