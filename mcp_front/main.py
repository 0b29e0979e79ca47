"""Putting the front together and serving it, over HTTP or standard input and output.

The front reads and writes rows, signs what people decide, and starts workflows; it holds no cloud credentials and no secrets
of stacks.
"""

import asyncio
import contextlib
import errno
import getpass
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import uvicorn

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import place_of
from countersign.adapters.serving import Server
from countersign.adapters.settings import Settings
from countersign.adapters.store.database import Store
from countersign.adapters.store.watch import Watch
from countersign.core.errors import FailedPrecondition, InvalidArgument
from mcp_front.auth import local_agent
from mcp_front.call import Front
from mcp_front.domain import server_named
from mcp_front.door import Patience
from mcp_front.gateway import Gateway, RunsPort
from mcp_front.http import LOOPBACK, app
from mcp_front.link import TemporalLink
from mcp_front.server import GovernedServer
from mcp_front.tools import toolset

log = logging.getLogger("countersign.front")
GRACE = 3  # seconds for calls in progress; whoever waits is answered within one
STDIO_ROLE = "platform"
# Longer than clients keep a connection they do not use (httpx: 5 seconds). Whoever closes first must not be we: a request that is on
# its way then is lost, and a call of a tool is not sent twice.
KEEP_ALIVE = 75  # seconds
FILES = 256  # open beside connections: the store, logs, Temporal


@contextlib.asynccontextmanager
async def build_front(settings: Settings, *, runs: Callable[[], Awaitable[RunsPort]] | None = None) -> AsyncIterator[Front]:
    """The front over the store of `settings`. `runs` reaches Temporal; without it, the front does so by itself."""
    keyring = Keyring.open(settings.data, role="front")
    store = await Store.open(settings.database_url)
    watch, link = Watch(store), TemporalLink(settings)
    if runs is None:
        link.start()
    try:
        yield Front(
            settings=settings,
            store=store,
            artifacts=Artifacts(store, keyring, place_of(settings)),
            watch=watch,
            gateway=Gateway(settings=settings, store=store, watch=watch, runs=runs or link.runs, signer=keyring),
            toolset=toolset(),
            request_keys=keyring.request_keys,
        )
    finally:
        await link.close()
        await watch.close()
        await store.close()


async def serve(settings: Settings) -> None:
    """Serve HTTP until SIGTERM or SIGINT. Raises FailedPrecondition where the port cannot be had."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    with contextlib.closing(listening(settings)) as at:
        if settings.host not in LOOPBACK:
            log.warning("the front listens on %s, not only on this machine; put TLS before it", settings.host)
        async with build_front(settings) as front:
            _room_for(settings.limits.connections)
            server = Server(served(settings, app(front)))
            serving = asyncio.create_task(server.serve(sockets=[at]))
            stopping = asyncio.create_task(stop.wait())
            log.info("front ready at %s", settings.front_url)
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            front.gateway.close()
            server.stop()
            await serving


def _room_for(connections: int) -> None:
    """As many open files as that takes, where the system lets us: the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        top = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
        if top < wanted:
            log.warning(
                "only %d files may be open, too few for limits.connections = %d; raise the limit or lower the setting", top, connections
            )


def served(settings: Settings, application: Callable[..., Any]) -> uvicorn.Config:
    """How the application is served: by our protocol, which knows an end to its patience, and to so many at once."""
    return uvicorn.Config(
        application,
        http=Patience,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.limits.connections,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        lifespan="on",
    )


def listening(settings: Settings) -> socket.socket:
    """The front's socket, listening already, so that whoever comes early waits a moment. Raises FailedPrecondition."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named: asyncio turns Nagle off (40 ms an answer) only for sockets that say they are TCP.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A client whose machine is gone says nothing; what waits for it is found out in minutes, not hours.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.bind((settings.host, settings.front_port))
        made.listen(512)
        made.setblocking(False)
    except OSError as refused:
        made.close()
        raise FailedPrecondition(_no_port(settings, refused)) from None
    return made


def _no_port(settings: Settings, refused: OSError) -> str:
    port = settings.front_port
    if refused.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {settings.host} is taken, perhaps by another Countersign; end that, or set COUNTERSIGN_FRONT_PORT "
            "(front_port in countersign.toml) to a free one"
        )
    if refused.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has; set COUNTERSIGN_FRONT_PORT (front_port) to one above 1023"
    return (
        f"the front cannot listen on {settings.host}, port {port}: {os.strerror(refused.errno or 0)}; "
        "set COUNTERSIGN_HOST (host) and COUNTERSIGN_FRONT_PORT (front_port)"
    )


async def serve_stdio(
    settings: Settings, *, role: str | None = None, servers: Sequence[str] = (), org: str | None = None, user: str | None = None
) -> None:
    """Serve one client over standard input and output, until it closes them: an agent on behalf of the local user.

    Standard output belongs to the protocol, so logs have to go to standard error. Raises InvalidArgument for an unknown role or
    server: whoever configured it is to know before anything is served.
    """
    caller = local_agent(user or _local_user(), org=org or settings.organizations[0].slug, role=role or STDIO_ROLE)
    named = frozenset(map(server_named, servers))
    if unknown := sorted(named - toolset().servers):
        raise InvalidArgument(f"no server {unknown[0]!r}; there are {', '.join(sorted(toolset().servers))}", field="server")
    async with build_front(settings) as front:
        await GovernedServer(front, caller=caller, servers=named or None).run_stdio_async()


def _local_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return f"uid-{os.getuid()}"
