"""What protects the door from whoever stands in it: slow clients, deep documents, and too many requests at once.

uvicorn waits for ever for the rest of a request and for a reader that does not read. Here each phase has its time, so that nobody
holds a connection who does not use it. Bodies are bounded by the SDK, which reads them only after it knew the key.
"""

import asyncio
import json
import re
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from countersign.adapters.serving import Bounded
from mcp_front.rates import AtOnce

HEAD_WITHIN = 10.0  # seconds for a request's head, from the connection or its first byte
BODY_WITHIN = 30.0  # seconds from the head to the end of the body
READ_WITHIN = 30.0  # seconds a reader may leave our answer where it is
HOSTS = {"1.1": (1,), "1.0": (0, 1)}  # how many a request names, in the versions that are spoken here
DEPTH = 64  # of nested objects and lists in a request
# One that is not ended goes to the end, and nothing is tried twice: else each of its quotes would begin a search of its own.
_TEXTS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Patience(Bounded):
    """uvicorn's protocol with an end to its patience."""

    _awaited: str | None = None  # which part of a request the parser waits for
    _phase: str | None = None  # the one that has its time now
    _until: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await("head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter(None)
        self._read_again()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._awaited is None and self._idle and self.timeout_keep_alive_task is None:
            self._awaited = "head"  # something came between two requests that is none yet, and uvicorn keeps no time any more
        self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await("head")

    def on_headers_complete(self) -> None:
        parser: Any = self.parser
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts not in HOSTS.get(parser.get_http_version(), ()):
            raise ValueError("a version that is not spoken here, or not one host")  # the parser tells uvicorn, which answers 400
        super().on_headers_complete()
        self._await("body")

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._await(None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reading is None:
            self._reading = self.loop.call_later(READ_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_again()

    def _read_again(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await(self, part: str | None) -> None:
        self._awaited = part
        self._watch()

    def _watch(self) -> None:
        """Give the part that is awaited its time: not while we answer what came before it, and between requests others keep it."""
        ours = bool(self.pipeline) or (self._awaited == "head" and not self._idle)
        self._enter(None if ours or self.transport.is_closing() else self._awaited)

    def _enter(self, phase: str | None) -> None:
        if phase == self._phase:
            return
        self._phase = phase
        if self._until is not None:
            self._until.cancel()
            self._until = None
        if phase is not None:
            self._until = self.loop.call_later(HEAD_WITHIN if phase == "head" else BODY_WITHIN, self._over)

    def _over(self) -> None:
        if self.transport.is_closing():
            return
        if self._unanswered:
            self.transport.write(_TIMEOUT)
        self.transport.close()


class Few:
    """So many requests of one principal at once; one more is answered 429. Stands behind the check of the key."""

    def __init__(self, app: ASGIApp, at_once: AtOnce) -> None:
        self._app = app
        self._at_once = at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._at_once.one(_who(scope)) as allowed:
            if allowed:
                await self._app(scope, receive, send)
            else:
                await _refuse(send, 429, "rate_limited: too many requests of this principal are under way; end some, then ask again", 1)


class Shallow:
    """Refuses documents that nest deeper than any request has to. Gets each body whole, as the SDK's limit hands it on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive() if scope["method"] == "POST" else None
        if first is not None and first["type"] == "http.request" and deeper(first.get("body", b""), DEPTH):
            return await _refuse(send, 400, f"invalid_argument: objects and lists nest deeper than {DEPTH}; send less at once")

        async def replay() -> Any:
            nonlocal first
            if first is None:
                return await receive()
            message, first = first, None
            return message

        await self._app(scope, replay, send)


def deeper(body: bytes, depth: int) -> bool:
    """Whether a JSON text nests deeper. Of what is no JSON at all, whoever parses it tells."""
    if body.count(b"[") + body.count(b"{") <= depth:
        return False
    level = 0
    for bracket in _BRACKETS.finditer(_TEXTS.sub(b"", body)):
        level += 1 if bracket[0] in b"[{" else -1
        if level > depth:
            return True
    return False


def _who(scope: Scope) -> str:
    user = scope.get("user")
    token = getattr(user, "access_token", None)
    return f"{(token.claims or {}).get('org')}|{token.subject}" if token is not None else ""


async def _refuse(send: Send, status: int, message: str, retry_after: int | None = None) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
