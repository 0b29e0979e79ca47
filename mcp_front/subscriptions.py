"""Telling clients that a run moved: one follower of the ledger per front serves everybody who subscribed.

Both eras hear the same: a stateless client keeps a `subscriptions/listen` stream, an older one subscribes on its session. What is
told is an address and nothing else; reading it is a request of its own, with its own key. Nothing is kept for who was away.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mcp import types
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import ListenHandler, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from sqlalchemy import func, select

from countersign.adapters.store.schema import events, runs
from countersign.core.errors import CountersignError
from mcp_front import resources
from mcp_front.auth import live_keys
from mcp_front.call import Front

log = logging.getLogger("countersign.front")
Context = ServerRequestContext[Any, Any]
STREAMS = 1024  # of one front
ADDRESSES = 200  # of one subscription
BATCH = 500  # rows of the ledger at once
LOOK = 1.0  # seconds after which the follower looks whether this process is ending
_PLAN = frozenset({"checking", "awaiting_approval", "planned_and_finished", "errored"})  # states in which there may be another plan


@dataclass(eq=False)
class _Listener:
    key: str | None  # the id of the key it came with
    hear: Callable[[ServerEvent], None]
    end: Callable[[], None]


class RunEvents:
    """A bus of the SDK whose publisher is the ledger: it is read only while somebody listens."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._listeners: dict[object, _Listener] = {}
        self._following: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._last = 0

    @property
    def listening(self) -> int:
        return len(self._listeners)

    async def listen(self, key: str | None, hear: Callable[[ServerEvent], None], end: Callable[[], None]) -> Callable[[], None]:
        """Hear everything from now on, until the function given back is called, the key is revoked, or this process ends.

        Raises an error of the protocol where too many listen.
        """
        if len(self._listeners) >= STREAMS:
            raise MCPError(types.INTERNAL_ERROR, "Subscription limit reached")
        token = object()
        self._listeners[token] = _Listener(key, hear, end)
        if self._following is None or self._following.done():
            self._ready = asyncio.Event()
            self._following = asyncio.create_task(self._follow())
        await self._ready.wait()
        return lambda: self._drop(token)

    def _drop(self, token: object) -> None:
        self._listeners.pop(token, None)
        if not self._listeners and self._following is not None:
            self._following.cancel()
            self._following = None

    async def _follow(self) -> None:
        self._last = await self._newest()
        self._ready.set()
        watch, gateway = self._front.watch, self._front.gateway
        while not gateway.closing:
            seen = watch.seen
            try:
                news = await self._news()
                if news:
                    await self._end_revoked()
                    for event in news:
                        self.tell(event)
                    continue
            except CountersignError as away:  # the ledger is read again in a moment; what happened meanwhile is told then
                log.warning("subscribers hear nothing for a moment: %s", away.message)
            await watch.changed(after=seen, timeout=LOOK)
        for listener in [*self._listeners.values()]:
            listener.end()

    def tell(self, event: ServerEvent) -> None:
        for listener in [*self._listeners.values()]:
            try:
                listener.hear(event)
            except Exception:  # whoever it is, the others hear it
                log.exception("a subscriber could not be told of %s", event)

    async def _newest(self) -> int:
        with suppress(CountersignError):
            async with self._front.store.read() as conn:
                return int((await conn.execute(select(func.max(events.c.n)))).scalar() or 0)
        return self._last

    async def _news(self) -> list[ResourceUpdated]:
        """What changed since the last look, each address once."""
        query = (
            select(events.c.n, events.c.run_id, events.c.kind, events.c.state, runs.c.env)
            .join(runs, (runs.c.org_id == events.c.org_id) & (runs.c.id == events.c.run_id))
            .where(events.c.n > self._last)
            .order_by(events.c.n)
            .limit(BATCH)
        )
        async with self._front.store.read() as conn:
            rows = (await conn.execute(query)).all()
        if rows:
            self._last = rows[-1].n
        addresses = dict.fromkeys(uri for row in rows for uri in _addresses(row.run_id, row.kind, row.state, row.env))
        return [ResourceUpdated(uri=uri) for uri in addresses]

    async def _end_revoked(self) -> None:
        """A key that was revoked ends at once: whoever listens with it hears no more."""
        keys = {listener.key for listener in self._listeners.values() if listener.key is not None}
        async with self._front.store.read() as conn:
            live = await live_keys(conn, keys, now=self._front.store.now())
        for token, listener in [*self._listeners.items()]:
            if listener.key is not None and listener.key not in live:
                self._drop(token)
                listener.end()


def _addresses(run_id: str, kind: str, state: str, env: str) -> Iterable[str]:
    run = f"run://{run_id}"
    yield run
    yield f"{run}/logs"
    if kind == "state":
        if state in _PLAN:
            yield f"{run}/plan"
        yield f"environment://{env}"
    if kind != "progress":
        yield f"{run}/evidence"


class Subscriptions:
    """The two ways to subscribe, over one bus. What the caller may not read is not among what is honored."""

    def __init__(self, events: RunEvents, *, may_watch: Callable[[str], Awaitable[bool]]) -> None:
        self._events, self._may_watch = events, may_watch

    async def listen(self, ctx: Context, params: types.SubscriptionsListenRequestParams) -> types.SubscriptionsListenResult:
        """One stream of a stateless client, until it closes it."""
        wanted = params.notifications.resource_subscriptions or []
        honored = await self._readable(wanted)
        if wanted and not honored:
            raise resources.missing(wanted[0])
        stream = _Stream(self._events, _key())
        narrowed = params.notifications.model_copy(update={"resource_subscriptions": honored})
        async with stream:
            return await stream.handler(ctx, params.model_copy(update={"notifications": narrowed}))

    async def subscribe(self, ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        """One address for the session of an older client, until it unsubscribes or goes."""
        if not await self._readable([params.uri]):
            raise resources.missing(params.uri)
        session = _Session.of(ctx, self._events)
        if len(session.uris) >= ADDRESSES:
            raise MCPError(types.INVALID_PARAMS, f"a session subscribes to {ADDRESSES} addresses at most")
        session.uris.add(params.uri)
        await session.begin(_key())
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        _Session.of(ctx, self._events).uris.discard(params.uri)
        return types.EmptyResult()

    async def _readable(self, wanted: Sequence[str]) -> list[str]:
        if len(wanted) > ADDRESSES:
            raise MCPError(types.INVALID_PARAMS, f"{len(wanted)} addresses at once; {ADDRESSES} are the most")
        return [uri for uri in dict.fromkeys(wanted) if await self._may_watch(uri)]


def _key() -> str | None:
    token = get_access_token()
    return token.token if token is not None else None  # the id of the key, see KeyVerifier


class _Stream:
    """The SDK's handler of one stream, on our bus."""

    def __init__(self, events: RunEvents, key: str | None) -> None:
        self._events, self._key = events, key
        self._hear: list[Callable[[ServerEvent], None]] = []
        self._leave: Callable[[], None] | None = None
        self.handler = ListenHandler(self)

    async def __aenter__(self) -> "_Stream":
        self._leave = await self._events.listen(self._key, self._heard, self.handler.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._leave is not None:
            self._leave()

    def _heard(self, event: ServerEvent) -> None:
        for hear in self._hear:
            hear(event)

    async def publish(self, event: ServerEvent) -> None:
        """Part of the SDK's protocol of a bus; the ledger alone publishes here."""

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        self._hear.append(listener)
        return self._hear.clear


class _Session:
    """What one session of the handshake era subscribed to. It lives as long as its connection."""

    def __init__(self, tell: Callable[[str], Coroutine[Any, Any, None]], events: RunEvents) -> None:
        self.uris: set[str] = set()
        self._tell, self._events = tell, events
        self._leave: Callable[[], None] | None = None
        self._telling: set[asyncio.Task[None]] = set()

    @staticmethod
    def of(ctx: Context, events: RunEvents) -> "_Session":
        # The SDK gives a handler no other way to the connection that its request came on.
        connection = ctx.session._connection
        known: _Session | None = connection.state.get("countersign.subscriptions")
        if known is None:
            known = _Session(connection.send_resource_updated, events)
            connection.state["countersign.subscriptions"] = known
            connection.exit_stack.callback(known.end)
        return known

    async def begin(self, key: str | None) -> None:
        if self._leave is None:
            self._leave = await self._events.listen(key, self._heard, self.end)

    def end(self) -> None:
        self.uris.clear()
        if self._leave is not None:
            self._leave()
            self._leave = None

    def _heard(self, event: ServerEvent) -> None:
        if isinstance(event, ResourceUpdated) and event.uri in self.uris and len(self._telling) < ADDRESSES:
            task = asyncio.create_task(self._tell(event.uri))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
