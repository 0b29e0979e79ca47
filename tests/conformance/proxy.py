"""Between a client that cannot show a key and the front, which wants one: adds the key to every request, and nothing else.

The official suites have no way to send a header of ours. Putting the key in here keeps the front as it is for everybody: no mount
without a key, no flag that turns authentication off.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

LARGEST = 64 << 10  # bytes of one request's head


@contextlib.asynccontextmanager
async def with_key(port: int, key: str, path: str = "/mcp") -> AsyncIterator[str]:
    """The address at which `path` of the front on `port` is served to whoever has no key."""
    at: list[int] = []
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request per connection: then only heads have to be understood, and bodies are passed on as they are."""
        upstream: asyncio.StreamWriter | None = None
        this = asyncio.current_task()
        assert this is not None
        serving.add(this)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            answers, upstream = await asyncio.open_connection("127.0.0.1", port)
            upstream.write(_with_key(head, key, path, port, at[0]))
            await upstream.drain()
            there = asyncio.create_task(_pass_on(reader, upstream))
            await _pass_on(answers, writer)
            there.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await there
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # one of the two is gone, or the tests are over
        finally:
            serving.discard(this)
            for end in (writer, upstream):
                if end is not None:
                    end.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, limit=LARGEST) as server:
        at.append(server.sockets[0].getsockname()[1])
        try:
            yield f"http://127.0.0.1:{at[0]}/mcp"
        finally:
            for task in [*serving]:  # clients that went without saying so
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


def _with_key(head: bytes, key: str, path: str, port: int, here: int) -> bytes:
    """The head of a request for the front: its own path and port, the key, and no second request on the connection.

    A host or origin that names this proxy means the front; any other one is passed on, because what becomes of it is tested.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    kept = [line for line in lines if line.split(b":", 1)[0].strip().lower() not in (b"connection", b"authorization")]
    ours = [line.replace(b":%d" % here, b":%d" % port) if line.lower().startswith((b"host:", b"origin:")) else line for line in kept]
    method, _, version = first.split(b" ", 2)
    return b"\r\n".join(
        [b" ".join((method, path.encode(), version)), *ours, b"Authorization: Bearer " + key.encode(), b"Connection: close", b"", b""]
    )
