"""A worker's own word on whether it lives and whether it works, for whoever restarts it: `worker_port`.

`/healthz`: its process answers. `/readyz`: it takes work, and the parts that it needs answer; whoever rolls out a new version
waits for that. Without a port nothing listens: `countersign up` looks at a file.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from countersign.adapters.settings import Settings
from countersign.core.errors import CountersignError, FailedPrecondition

if TYPE_CHECKING:
    import uvicorn  # who starts a worker without a port does not wait for it

PROBE = 2.0  # seconds for one part to say that it is there
Probe = Callable[[], Awaitable[bool]]


@dataclass
class Health:
    """What is known so far: parts are added as they come, and `working` only while work is taken."""

    parts: dict[str, Probe] = field(default_factory=dict)
    working: bool = False

    async def look(self) -> tuple[bool, dict[str, str]]:
        answers = await asyncio.gather(*(_within(probe) for probe in self.parts.values()))
        found = {name: "ok" if answered else "unavailable" for name, answered in zip(self.parts, answers, strict=True)}
        return self.working and all(answers), {**found, "work": "ok" if self.working else "not taken"}


async def _within(probe: Probe) -> bool:
    try:
        async with asyncio.timeout(PROBE):
            return await probe()
    except (TimeoutError, OSError, CountersignError):
        return False


@contextlib.asynccontextmanager
async def told(settings: Settings, health: Health) -> AsyncIterator[None]:
    """Answer while the block runs. Raises FailedPrecondition where the port cannot be had."""
    if settings.worker_port is None:
        yield
        return
    with contextlib.closing(_listening(settings.host, settings.worker_port)) as at:
        server = _server(health)
        serving = asyncio.create_task(server.serve(sockets=[at]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as refused:
        raise FailedPrecondition(
            f"the worker cannot listen on {host}, port {port} ({refused.strerror}): set worker_port (COUNTERSIGN_WORKER_PORT) to a free "
            "one, or leave it out",
            field="worker_port",
        ) from None


def _server(health: Health) -> "uvicorn.Server":
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    async def alive(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        ok, found = await health.look()
        return JSONResponse({"ready": ok, **found}, status_code=200 if ok else 503, headers={"Cache-Control": "no-store"})

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are the worker's."""
            yield

    app = Starlette(routes=[Route("/healthz", alive), Route("/readyz", ready)])
    return Server(uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False))
