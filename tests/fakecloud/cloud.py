"""The fake cloud as a process: `python -m tests.fakecloud.cloud --record FILE [--port N] [--unique] [--ready FILE]`.

Objects: `POST /objects`, `GET|PUT|DELETE /objects/<id>`, look-up `GET /objects?type=&project=&name=`; header `X-Marker` says
on whose behalf. The truth: `GET /record`. Hooks: `POST /hooks`, `GET /hooks/<id>?wait=<seconds>` (answers when reached),
`POST /hooks/<id>/release` with {"then": "go" | "drop"}, `DELETE /hooks`. `POST /gates` with {"op", "when", "name"}: whoever asks
is held up by a hook that fits, as a request for an object is. Only on the loopback.
"""

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.fakecloud.hooks import Dropped, Failed, Hook, Hooks
from tests.fakecloud.world import NameTaken, World


class Cloud:
    """Answers one request: (status, JSON)."""

    def __init__(self, world: World) -> None:
        self.world, self.hooks = world, Hooks()

    def answer(self, method: str, path: list[str], query: dict[str, str], body: Any, marker: str) -> tuple[int, Any]:
        match method, path:
            case "POST", ["objects"]:
                return 201, self._create(body, marker)
            case "GET", ["objects"]:
                self.hooks.pass_by("lookup", "before", query["type"], query["name"], query["project"])
                return 200, self.world.named(query["type"], query["project"], query["name"])
            case "GET" | "PUT" | "DELETE", ["objects", id]:
                one = self.world.objects.get(id)
                if one is None:
                    return 404, {"error": f"no object {id}"}
                return 200, self._of_one(method, one, body, marker)
            case "GET", ["record"]:
                return 200, self.world.record
            case "POST", ["gates"]:
                self.hooks.pass_by(body["op"], body["when"], "gate", body["name"])
                return 200, None
            case "POST", ["hooks"]:
                return 201, self.hooks.add(Hook(**body)).told()
            case "DELETE", ["hooks"]:
                self.hooks.clear()
                return 200, None
            case "GET", ["hooks", id]:
                return 200, self.hooks.await_reached(self.hooks.get(int(id)), float(query.get("wait", "0")))
            case "POST", ["hooks", id, "release"]:
                self.hooks.release(self.hooks.get(int(id)), body["then"])
                return 200, None
            case _:
                return 404, {"error": f"no {method} {'/'.join(path)}"}

    def _create(self, body: Any, marker: str) -> Any:
        self.hooks.pass_by("create", "before", body["type"], body["name"], body["project"])
        time.sleep(float(body["attributes"].get("delay") or 0))
        one = self.world.create(**body, marker=marker)
        self.hooks.pass_by("create", "after", body["type"], body["name"], body["project"])
        return one

    def _of_one(self, method: str, one: Any, body: Any, marker: str) -> Any:
        op = {"GET": "read", "PUT": "update", "DELETE": "delete"}[method]
        self.hooks.pass_by(op, "before", one["type"], one["name"], one["project"])
        if method == "PUT":
            one = self.world.update(one["id"], body["attributes"], marker)
        elif method == "DELETE":
            self.world.delete(one["id"], marker)
        self.hooks.pass_by(op, "after", one["type"], one["name"], one["project"])
        return one


def server(cloud: Cloud, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one segment: unbuffered writes cost 40 ms each

        def _answer(self) -> None:
            split = urlsplit(self.path)
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, query = split.path.strip("/").split("/"), dict(parse_qsl(split.query))
            try:
                status, told = cloud.answer(self.command, path, query, json.loads(text or b"null"), self.headers.get("X-Marker") or "")
            except Dropped:
                self.close_connection = True
                return
            except Failed as told_to:
                status, told = told_to.status, {"error": str(told_to)}
            except NameTaken as taken:
                status, told = 409, {"error": str(taken)}
            except KeyError as missing:
                status, told = 404, {"error": f"no {missing}"}
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # whoever asked was killed: that is what this cloud is for

    return Server(("127.0.0.1", port), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description="a cloud that counts the truth")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, written to --ready")
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--ready", type=Path, help="a file that holds the address as soon as it answers")
    parser.add_argument("--unique", action="store_true", help="refuse a second object of one name")
    args = parser.parse_args()
    serving = server(Cloud(World(args.record, unique=args.unique)), args.port)
    if args.ready:
        temporary = args.ready.with_name(args.ready.name + ".new")
        temporary.write_text(f"http://127.0.0.1:{serving.server_address[1]}")
        temporary.rename(args.ready)
    serving.serve_forever(poll_interval=0.5)


if __name__ == "__main__":
    main()
