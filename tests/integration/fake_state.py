"""A state service for the engine's tests: one state in memory, the HTTP protocol as the engines speak it, no rules of ours."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from countersign.core.engine import StateAccess


class FakeState:
    def __init__(self) -> None:
        self.state: bytes | None = None
        self.lock: dict[str, Any] | None = None
        self.requests: list[str] = []
        self.refuse_writes = False
        self.before: Callable[[str], int | None] | None = None  # hears each request's method first; a number is the answer
        self.password = "state-password-of-this-attempt"
        self.address = ""

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.state) if self.state else {}

    @property
    def resources(self) -> list[str]:
        """What has an object: an apply that is stopped before its first create stores the resource without one."""
        return sorted(r.get("module", "") + r["type"] + "." + r["name"] for r in self.document.get("resources", ()) if r["instances"])

    def access(self) -> StateAccess:
        head = self.document
        return StateAccess(
            address=self.address, username="att", password=self.password, lineage=head.get("lineage"), serial=head.get("serial", 0)
        )

    def answer(self, method: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        self.requests.append(method)
        if self.before is not None and (code := self.before(method)) is not None:
            return code, b""
        wanted = "Basic " + base64.b64encode(f"att:{self.password}".encode()).decode()
        if headers.get("Authorization") != wanted:
            return 403, b""
        if method == "GET":
            return (200, self.state) if self.state else (204, b"")
        if method == "LOCK":
            if self.lock is not None:
                return 423, json.dumps(self.lock).encode()
            self.lock = json.loads(body)
            return 200, b""
        if method == "UNLOCK":
            self.lock = None
            return 200, b""
        if self.refuse_writes:
            return 403, b""
        self.state = body
        return 200, b""


@contextmanager
def fake_state() -> Iterator[FakeState]:
    fake = FakeState()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, data = fake.answer(self.command, body, self.headers)
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_LOCK = do_UNLOCK = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_address[1]}/v1/state/local/st_test"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
