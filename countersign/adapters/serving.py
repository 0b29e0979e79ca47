"""Serving HTTP with uvicorn, as the front and the state service do: a server that is told when it ends, and a parser with bounds."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_SIZE = 64 << 10  # bytes of a request's head beyond the first that are read at once; a real one has some 500
CHUNKS = 64  # bytes of a body for each that says how large its chunks are; what is sent in smaller ones is not worth it


class Server(uvicorn.Server):
    """Leaves signals to whoever owns the process: uvicorn would raise SIGTERM again after it ended in order."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """uvicorn looks ten times a second whether it should end. Here it is told, and makes out the date once a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), 1.0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Plain(httptools.HttpRequestParser):
    """The parser for a server that speaks nothing else: who asks for another protocol is heard again without the question.

    Clients ask in passing (h2c of Java and curl) and send the body they announced; the parser takes such a request to have none,
    and what follows for the next request.
    """

    def __init__(self, to: "Bounded") -> None:
        super().__init__(to)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._to = to

    def feed_data(self, data: Any) -> None:
        while True:
            try:
                return super().feed_data(data)
            except httptools.HttpParserUpgrade as asked:
                data = memoryview(data)[asked.args[0] :]  # no copy: there may be thousands in what was read at once
                head = [b"%s %s HTTP/%s" % (self.get_method(), self._to.url, self.get_http_version().encode())]
                head += [b"%s: %s" % header for header in self._to.headers if header[0] != b"upgrade"]
                Plain.__init__(self, self._to)
                super().feed_data(b"\r\n".join([*head, b"", b""]))


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol, in which what a request says beside its body is bounded, and what is said of one is no answer to another."""

    _beside = 0  # bytes of the request so far that are not of its body
    _body = 0  # bytes of its body so far
    _headed = False  # whether the head of the request is whole
    _running: RequestResponseCycle | None = None  # the request that is answered, or was last; `cycle` is the newest, which may wait for it

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.parser = Plain(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None:  # uvicorn tells only the newest
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        request, before = self.scope, self._body
        super().data_received(data)
        if self.scope is not request:  # another began somewhere in these
            self._beside = self._body = 0
            return
        self._beside += len(data) - (self._body - before)
        if self._beside > HEAD_SIZE + self._body // CHUNKS and not self.transport.is_closing():
            self.send_400_response("This request says too much beside its body; send fewer or shorter headers, and larger chunks.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._headed = False
        self._unset_keepalive_if_required()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headed:  # else it comes after a body in chunks, where nobody looks for a key or a host
            super().on_header(name, value.strip(b" \t"))  # what is around a value is no part of it; the parser leaves what comes after

    def on_headers_complete(self) -> None:
        parser: Any = self.parser
        if parser.get_method() == b"CONNECT":
            raise ValueError("this is no proxy")  # the parser tells uvicorn, which answers 400
        if not parser.should_upgrade():
            super().on_headers_complete()
            self._headed = True

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        parser: Any = self.parser
        if parser.should_upgrade():
            return
        super().on_message_complete()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:  # answered before, and these bytes ended uvicorn's timer
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def send_400_response(self, msg: str) -> None:
        if self._unanswered:
            super().send_400_response(msg)
        else:
            self.transport.close()

    @property
    def _unanswered(self) -> bool:
        """Whether what is said now is the answer to the request that is heard: nothing was said to it yet, nor is one before it due."""
        if self._headed:
            return self._running is self.cycle and self.cycle.more_body and not self.cycle.response_started
        return self._running is None or self._running.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
