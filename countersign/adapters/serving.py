"""Serving HTTP with uvicorn, as the front and the state service do: a server that is told when it ends, and a parser with bounds."""

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol, in which what a request says beside its body is bounded: the parser leaves that to whoever uses it."""

    _beside = 0  # bytes of the request so far that are not of its body
    _body = 0  # bytes of its body so far

    def data_received(self, data: bytes) -> None:
        request, before = self.scope, self._body
        super().data_received(data)
        if self.scope is not request:  # another began somewhere in these
            self._beside = self._body = 0
            return
        self._beside += len(data) - (self._body - before)
        if self._beside > HEAD_SIZE + self._body // CHUNKS and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:  # it is still the head, and nothing of an answer has left
                self.send_400_response("The head of this request is too large; send fewer or shorter headers.")
            else:
                self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.strip(b" \t"))  # what is around a value is no part of it; the parser leaves what comes after

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)
