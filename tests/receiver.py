"""A webhook's receiver on a port of its own: it keeps what it was sent, and answers, or fails to, as the test says."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

OK = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def answering(status: int, body: str = "", *headers: str) -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status} As the test says", f"Content-Length: {len(body.encode())}", "Connection: close", *headers))
    return f"{head}\r\n\r\n{body}".encode()


@dataclass(frozen=True)
class Sent:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def kind(self) -> str:
        return str(self.event["type"])

    def signed_with(self, secret: str) -> bool:
        """As a receiver checks it that has read the Standard Webhooks specification and nothing of ours."""
        key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
        content = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return any(given == f"v1,{expected}" for given in self.headers["webhook-signature"].split(" "))


@dataclass
class Receiver:
    """`answers` are given in turn, the last one for ever. None: the connection is kept and nothing is said."""

    answers: list[bytes | None] = field(default_factory=lambda: [OK])
    got: list[Sent] = field(default_factory=list)
    url: str = ""
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].split("/")[0])

    async def count(self, number: int, *, within: float = 20.0) -> list[Sent]:
        """What has arrived, once it is at least so much."""
        async with asyncio.timeout(within):
            while len(self.got) < number:
                self._arrived.clear()
                await self._arrived.wait()
        return list(self.got)

    async def of(self, kind: str, *, within: float = 20.0) -> Sent:
        """The first event of a kind."""
        seen = 0
        async with asyncio.timeout(within):
            while True:
                for sent in self.got[seen:]:
                    if sent.kind == kind:
                        return sent
                seen = len(self.got)
                self._arrived.clear()
                await self._arrived.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.got.append(Sent(path=head[0].split(" ")[1], headers=headers, body=body))
            self._arrived.set()
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer is None:
                await asyncio.Event().wait()
            else:
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(task)
            writer.close()


@contextlib.asynccontextmanager
async def receiver(*answers: bytes | None) -> AsyncIterator[Receiver]:
    it = Receiver(answers=list(answers) or [OK])
    server = await asyncio.start_server(it._serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hooks/countersign"
    try:
        yield it
    finally:
        server.close()
        for task in list(it._open):
            task.cancel()
        await asyncio.gather(*it._open, return_exceptions=True)
