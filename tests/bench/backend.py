"""The baseline's state backend: one state per path, in memory, no rules, in a process of its own: `python -m tests.bench.backend PORT`."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STATES: dict[str, bytes] = {}
LOCKS: dict[str, bytes] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one segment: unbuffered writes cost 40 ms each on loopback

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code, data = 200, b""
        if self.command == "GET":
            code, data = (200, STATES[path]) if path in STATES else (204, b"")
        elif self.command == "POST":
            STATES[path] = body
        elif self.command == "LOCK":
            if path in LOCKS:
                code, data = 423, LOCKS[path]
            else:
                LOCKS[path] = body
        elif self.command == "UNLOCK":
            LOCKS.pop(path, None)
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_LOCK = do_UNLOCK = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()
