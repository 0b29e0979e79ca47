"""The process of the state service: listens, answers, and ends on SIGTERM after what it began.

It is no part of a worker: a worker that dies must not take the state with it.
"""

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
from typing import Any

import uvicorn

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.logs import Log
from countersign.adapters.objects import place_of
from countersign.adapters.serving import Bounded, Server
from countersign.adapters.settings import Settings
from countersign.adapters.store.database import Store
from countersign.core.errors import FailedPrecondition
from countersign.state_api.app import StateService

log = Log(__name__)

GRACE = 8.0  # seconds for requests in the works; whoever stops us waits 10
ANSWER, GO_ON = b"HTTP/1.1 ", b"HTTP/1.1 100 "  # how heads begin, and how the one begins that an engine waits for before it sends a body
KEEP_ALIVE = 75  # seconds; an engine asks every few seconds, and a connection closed under it costs it a try


async def serve(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT. Raises FailedPrecondition, before anything is opened, where the port cannot be had."""
    with contextlib.closing(listen(settings.host, settings.state_port)) as listening:
        store = await Store.open(settings.database_url)
        try:
            artifacts = Artifacts(store, Keyring.open(settings.data, role="state"), place_of(settings))
            server = server_of(StateService(store=store, artifacts=artifacts))
            for name in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(name, server.stop)
            log.info("state service ready", address=settings.state_url)
            await server.serve(sockets=[listening])
        finally:
            await store.close()


def listen(host: str, port: int) -> socket.socket:
    """The listening socket. Raises FailedPrecondition naming the setting to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=128)
    except OSError as refused:
        if refused.errno == errno.EADDRINUSE:
            raise FailedPrecondition(
                f"port {port} on {host} is taken: stop what listens there, or set state_port (COUNTERSIGN_STATE_PORT) to another",
                field="state_port",
            ) from None
        if refused.errno in (errno.EACCES, errno.EPERM):
            raise FailedPrecondition(
                f"this user may not listen on port {port}: set state_port (COUNTERSIGN_STATE_PORT) to one above 1023", field="state_port"
            ) from None
        raise FailedPrecondition(
            f"this machine has no address {host} to listen on: correct host (COUNTERSIGN_HOST)", field="host"
        ) from None
    if not _is_loopback(host):
        log.warning("state service listens beyond this machine: credentials travel in clear unless TLS is put before it", host=host)
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_of(service: StateService) -> Server:
    return Server(
        uvicorn.Config(
            service,
            http=Http,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(GRACE),
        )
    )


class Http(Bounded):
    """HTTP for an engine on a connection of its own: head and body of an answer leave together. Apart, they may cost it 40 ms each."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(Joining(transport))  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()


class Joining:
    """A transport that keeps the head of an answer until its body follows, or there is none."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        if data.startswith(ANSWER) and not data.startswith(GO_ON):
            self.flush()
            self._head = data
            return
        data, self._head = self._head + data, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def flush(self) -> None:
        self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
