"""The front over HTTP: `/mcp` for clients with a key, health for machines, and pages for people (`mcp_front/pages`).

Every request of `/mcp` carries its key; a cookie, a header or an address is never an identity there. The pages take a session of
a person in place of the key, and nothing else does.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from urllib.parse import urlsplit

from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from countersign.adapters.settings import Settings
from countersign.core.errors import CountersignError, FailedPrecondition
from mcp_front import pages
from mcp_front.auth import SCOPE, KeyVerifier
from mcp_front.call import Front
from mcp_front.door import Few, Shallow
from mcp_front.rates import AtOnce
from mcp_front.server import GovernedServer

log = logging.getLogger("countersign.front")
SESSION_IDLE = 900.0  # seconds after which a session nobody uses is forgotten; its client opens another
PROBE = 2.0  # seconds for one part to say that it is there
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
ANY_HOST = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound to


def app(front: Front) -> Starlette:
    """The ASGI application over an open front."""
    servers = {"/": _served(GovernedServer, front)}
    if front.settings.development_fixtures:
        servers = {"/fixtures": _fixtures(front), **servers}

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as running:
            for server, _mounted in servers.values():
                await running.enter_async_context(server.session_manager.run())  # a mounted application's own lifespan never runs
            yield

    async def ready(request: Request) -> Response:
        return await readiness(front, without=request.query_params.getlist("exclude"))

    routes = [
        Route("/healthz", _alive),
        Route("/readyz", ready),
        *pages.routes(front, security(front.settings)),
        *(Mount(path, app=mounted) for path, (_, mounted) in servers.items()),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _served(kind: type[GovernedServer], front: Front) -> tuple[GovernedServer, Starlette]:
    """A server, and its application, which wants a key with every request."""
    settings = front.settings
    server = kind(
        front,
        token_verifier=KeyVerifier(front.store),
        # No authorization server stands behind our keys, so none is announced; the SDK only wants the field filled.
        auth=AuthSettings(
            issuer_url=AnyHttpUrl(settings.front_url), resource_server_url=None, required_scopes=[SCOPE], validate_token_resource=False
        ),
    )
    mounted = server.streamable_http_app(
        transport_security=security(settings),
        host=settings.host,
        max_request_body_size=settings.limits.body_bytes,
        max_sessions=settings.limits.sessions,
        session_idle_timeout=SESSION_IDLE,
    )
    mounted.add_exception_handler(Exception, _broken)
    mounted.add_middleware(Unavailable)
    # Behind the check of the key: around the SDK's limit of bodies, and between it and what reads them.
    limited = server.session_manager.asgi_app
    limited.app = Shallow(limited.app)
    server.session_manager.asgi_app = Few(limited, AtOnce(settings.limits.requests_at_once))  # type: ignore[assignment]
    return server, mounted


def _fixtures(front: Front) -> tuple[GovernedServer, Starlette]:
    """What conformance tests look for, for people who work on this front. Raises FailedPrecondition where others could reach it."""
    from mcp_front.fixtures import FixtureServer

    if front.settings.host not in LOOPBACK:
        raise FailedPrecondition("development_fixtures is for this machine only; take it out of the settings, or listen on 127.0.0.1")
    log.warning("development_fixtures is on: /fixtures/mcp serves what conformance tests look for")
    return _served(FixtureServer, front)


def security(settings: Settings) -> TransportSecuritySettings:
    """Which names this front answers to: a page of another site, or a name that was bent to our address, gets nothing.

    Where it listens on every address its names are not known here; then the key alone protects it.
    """
    if settings.host in ANY_HOST:
        return TransportSecuritySettings(enable_dns_rebinding_protection=False)
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    names = dict.fromkeys((own, *LOOPBACK))
    hosts, origins = [f"{name}:*" for name in names], [f"http://{name}:*" for name in names]
    if settings.public_url:
        hosts.append(urlsplit(settings.public_url).netloc)
        origins.append(settings.public_url)
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


class Unavailable:
    """Answers 503 where the store cannot be asked whose key this is, and lets the connection go on.

    An exception that reaches the server ends the connection, and with it, where the request was not read yet, the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except CountersignError as error:
            if begun or scope["type"] != "http" or not error.retryable:
                raise
            log.warning("a request was not answered: %s", error.message)
            await (await _broken(Request(scope), error))(scope, receive, send)


async def _broken(_: Request, error: Exception) -> Response:
    """What happens before a tool is called: a store that cannot be asked whose key this is."""
    if isinstance(error, CountersignError) and error.retryable:
        return PlainTextResponse(f"{error.code}: {error.message}\n", status_code=503, headers={"Retry-After": "5"})
    return PlainTextResponse("internal: something went wrong on our side; the log of the front tells more\n", status_code=500)


async def _alive(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def readiness(front: Front, *, without: Collection[str] = ()) -> JSONResponse:
    """Whether a change asked for now would get anywhere: 200, or 503 and which part is missing.

    `without`: parts that do not count. The front answers without them, so whoever balances between fronts keeps it.
    """
    parts: dict[str, Callable[[], Awaitable[bool]]] = {
        "store": front.store.answers,
        "temporal": front.gateway.temporal_answers,
        "state": lambda: _state_answers(front.settings),
    }
    answers = await asyncio.gather(*(_within(probe) for probe in parts.values()))
    found = {name: "ok" if ok else "unavailable" for name, ok in zip(parts, answers, strict=True)}
    ok = all(answered == "ok" for name, answered in found.items() if name not in without)
    return JSONResponse({"ready": ok, **found}, status_code=200 if ok else 503, headers={"Cache-Control": "no-store"})


async def _within(probe: Callable[[], Awaitable[bool]]) -> bool:
    try:
        async with asyncio.timeout(PROBE):
            return await probe()
    except (TimeoutError, OSError, CountersignError):
        return False


async def _state_answers(settings: Settings) -> bool:
    """The state service's own readiness; an HTTP client for these few bytes would cost more than the rest of the probe."""
    at = urlsplit(settings.state_url)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(at.hostname or "", at.hostname)  # noqa: S104  nothing is bound here
    encrypted = at.scheme == "https"
    reader, writer = await asyncio.open_connection(host, at.port or (443 if encrypted else 80), ssl=encrypted or None)
    try:
        writer.write(f"GET /readyz HTTP/1.1\r\nHost: {at.netloc}\r\nConnection: close\r\n\r\n".encode())
        return (await reader.readline()).split(b" ")[1:2] == [b"200"]
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
