"""Terraform's HTTP backend, fenced: one address per state, a credential per attempt, an answer in bounded time.

What the engines do with an answer decides which one they get: 4xx is final to them, 5xx is tried again for a quarter of a
minute, and they wait for an answer without any limit of their own. So a rule refuses with 4xx, trouble of ours is a 503, and
no request outlives `answer_within`.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.logs import Log
from countersign.adapters.store import state
from countersign.adapters.store.database import Store
from countersign.adapters.store.schema import states
from countersign.core import fencing
from countersign.core.digests import sha256
from countersign.core.errors import CountersignError, InvalidArgument, PermanentError, Unavailable
from countersign.core.fencing import LOCK_SIZE, Credential, Head, Refusal, Wish
from countersign.core.terraform.state import Header, header_of

log = Log(__name__)

STATE_SIZE = 64 << 20  # bytes; 1000 small resources have half a MiB
LARGE = 1 << 18  # bytes; what is smaller is digested faster than a thread takes it over
ANSWER_WITHIN = 25.0  # seconds; the engines wait for ever, so we do not
READY_WITHIN = 2.0
KNOWN = 1000  # credentials whose password was compared already
_WISHES = {"GET": Wish.READ, "HEAD": Wish.READ, "POST": Wish.WRITE, "LOCK": Wish.LOCK, "UNLOCK": Wish.UNLOCK}
_ALLOWED = {"Allow": ", ".join(_WISHES)}


class TooLarge(Exception):
    """A body is larger than what is taken."""


@dataclass(frozen=True, kw_only=True)
class StateService:
    """An ASGI application."""

    store: Store
    artifacts: Artifacts
    answer_within: float = ANSWER_WITHIN
    _known: dict[str, Credential] = field(
        default_factory=dict
    )  # by digest of address, name and password; whether it counts is not known here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        match scope["path"].split("/"):
            case ["", "v1", "state", org, stack_id] if org and stack_id:
                if request.method in _WISHES:
                    await self._within(self.answer_within, self._answered(request, org, stack_id), request, send)
                else:
                    await PlainTextResponse("a state is read, written, locked and unlocked", 405, _ALLOWED)(scope, receive, send)
            case ["", "readyz"]:
                await self._within(READY_WITHIN, self._ready(), request, send)
            case ["", "healthz"]:
                await PlainTextResponse("ok\n")(scope, receive, send)
            case _:
                await PlainTextResponse("nothing is here; states are at /v1/state/ORGANIZATION/STACK", 404)(scope, receive, send)

    # -- one request --------------------------------------------------------------------------------------------------

    async def _state(self, request: Request, org: str, stack_id: str) -> Response:
        shown = _basic(request.headers.get("authorization"))
        if shown is None:
            return PlainTextResponse("show a credential", 401, headers={"WWW-Authenticate": 'Basic realm="countersign"'})
        wish = _WISHES[request.method]
        # Who it is needs no look when it was here before. What it may do is asked in the transaction that acts, whatever was known.
        known = sha256("\0".join((org, stack_id, *shown)).encode())
        credential = self._known.get(known) if wish in (Wish.LOCK, Wish.UNLOCK) else None
        held, stored = Head(), None
        if credential is None:
            async with self.store.read() as conn:
                found = await state.authenticate(conn, org=org, stack_id=stack_id, credential_id=shown[0], password=shown[1])
                if found is None:
                    _tell(log.warning, "state: a credential nobody gave out", org=org, stack=stack_id, method=request.method)
                    return PlainTextResponse("this credential is not one of this state", 403)
                credential, held = found
                # Asked here as well so that whoever is fenced need not send its state first.
                refusal = fencing.admission(credential, held, wish, now=self.store.now())
                if refusal is None and wish is Wish.READ and not held.empty:
                    stored = await self._stored(conn, org, stack_id)
            if refusal is not None:
                return await self._refuse(credential, wish, refusal)
            self._remember(known, credential)
        try:
            match wish:
                case Wish.READ:
                    return await _read(stored)
                case Wish.LOCK:
                    return await self._lock(credential, request)
                case Wish.UNLOCK:
                    return await self._unlock(credential, request)
                case Wish.WRITE:
                    return await self._write(credential, held, request)
        except TooLarge as large:
            return await self._refuse(credential, wish, Refusal(status=413, why=str(large)))
        except InvalidArgument as wrong:
            return await self._refuse(credential, wish, Refusal(status=400, why=wrong.message))

    def _remember(self, known: str, credential: Credential) -> None:
        self._known[known] = credential
        while len(self._known) > KNOWN:
            self._known.pop(next(iter(self._known)))

    async def _stored(self, conn: AsyncConnection, org: str, stack_id: str) -> tuple[bytes, str] | None:
        """The newest snapshot, and its digest."""
        newest = await state.snapshot(conn, org, stack_id)
        return (await self.artifacts.read(conn, org=org, artifact_id=newest.artifact_id), newest.sha256) if newest else None

    async def _lock(self, credential: Credential, request: Request) -> Response:
        asked = fencing.lock_of(await _body(request, LOCK_SIZE))
        async with self.store.begin_state() as tx:
            refusal = await state.lock(tx, credential, asked, now=self.store.now())
        return _answer(credential, Wish.LOCK, refusal)

    async def _unlock(self, credential: Credential, request: Request) -> Response:
        lock_id = fencing.lock_id_of(await _body(request, LOCK_SIZE))
        async with self.store.begin_state() as tx:
            refusal = await state.unlock(tx, credential, lock_id, now=self.store.now())
        return _answer(credential, Wish.UNLOCK, refusal)

    async def _write(self, credential: Credential, held: Head, request: Request) -> Response:
        """Bytes first, then head, snapshot and artifact in one transaction; what loses the swap leaves bytes nobody names."""
        data, lock_id = await _body(request, STATE_SIZE), request.query_params.get("ID")
        md5 = request.headers.get("content-md5")
        if len(data) < LARGE:
            header, digest = _checked(data, md5)
        else:
            header, digest = await asyncio.to_thread(_checked, data, md5)
            async with self.store.read() as conn:  # it took its time to arrive
                held = await state.head(conn, credential.org, credential.stack_id)
        refusal = fencing.writing(credential, held, lock_id, header, digest)
        if refusal is not None:
            return await self._refuse(credential, Wish.WRITE, refusal, named=lock_id)
        if fencing.repeats(held, header, digest):
            return Response(status_code=200)
        written = await self.artifacts.write(
            org=credential.org,
            stack_id=credential.stack_id,
            run_id=credential.run_id,
            kind="state",
            name=f"state-{header.serial}",
            data=data,
            readable=False,
        )
        async with self.store.begin_state() as tx:
            refusal = await state.put(tx, credential, lock_id, header, written, now=self.store.now())
            if refusal is None:
                await self.artifacts.record(tx, written)
        return _answer(credential, Wish.WRITE, refusal)

    async def _refuse(self, credential: Credential, wish: Wish, refusal: Refusal, *, named: str | None = None) -> Response:
        async with self.store.begin_state() as tx:
            await state.journal_refusal(tx, credential, wish, refusal, now=self.store.now(), named=named)
        return _answer(credential, wish, refusal)

    # -- bounded time -------------------------------------------------------------------------------------------------

    async def _answered(self, request: Request, org: str, stack_id: str) -> Response:
        try:
            return await self._state(request, org, stack_id)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody hears it
        except (OSError, SQLAlchemyError, CountersignError) as trouble:
            return _in_trouble(request, trouble)

    async def _ready(self) -> Response:
        """200 where the store answers; a service that is up and not ready is left running and not asked."""
        try:
            async with self.store.read() as conn:
                await conn.execute(select(states.c.version).limit(1))
        except (SQLAlchemyError, Unavailable):
            return PlainTextResponse("the store does not answer\n", 503)
        return PlainTextResponse("ready\n")

    async def _within(self, seconds: float, work: Coroutine[Any, Any, Response], request: Request, send: Send) -> None:
        """Give its answer, or that there is none in time. A database that hangs lets nobody out of its cleanup either, so the answer
        does not wait for that."""
        loop, working = asyncio.get_running_loop(), asyncio.current_task()
        late: list[asyncio.Task[None]] = []

        def give_up() -> None:
            late.append(loop.create_task(_in_trouble(request, TimeoutError())(request.scope, request.receive, send)))
            assert working is not None
            working.cancel()

        timer, response = loop.call_later(seconds, give_up), None
        try:
            response = await work
        except (asyncio.CancelledError, Exception) as ended:
            if not late:
                raise
            if not isinstance(ended, asyncio.CancelledError):
                _tell(log.warning, "state: late failure", trouble=type(ended).__name__)
        finally:
            timer.cancel()
        if late:
            await late[0]
        elif response is not None:
            await response(request.scope, request.receive, send)


def _in_trouble(request: Request, trouble: Exception) -> Response:
    said = trouble.message if isinstance(trouble, CountersignError) else type(trouble).__name__
    _tell(log.error, "state: no answer", method=request.method, path=request.url.path, trouble=said)
    if isinstance(trouble, PermanentError):
        return PlainTextResponse("what is stored cannot be read; the log of the state service says why", 500)
    return PlainTextResponse("the state service has trouble of its own; ask again in a moment", 503, headers={"Retry-After": "1"})


def _tell(say: Callable[..., Any], what: str, **facts: object) -> None:
    """A log that cannot be written, because its disk is full as well, changes no answer."""
    with contextlib.suppress(OSError):
        say(what, **facts)


async def _read(stored: tuple[bytes, str] | None) -> Response:
    if stored is None:
        return Response(status_code=204)
    data, digest = stored
    md5 = _md5(data) if len(data) < LARGE else await asyncio.to_thread(_md5, data)
    return Response(data, media_type="application/json", headers={"Content-MD5": md5, "ETag": f'"{digest}"'})


def _answer(credential: Credential, wish: Wish, refusal: Refusal | None) -> Response:
    if refusal is None:
        return Response(status_code=200)
    _tell(
        log.info,
        "state: refused",
        wish=str(wish),
        status=refusal.status,
        why=refusal.why,
        credential=credential.id,
        run_id=credential.run_id,
    )
    if refusal.holder is not None:
        return Response(refusal.holder.text, refusal.status, media_type="application/json")
    return JSONResponse({"message": refusal.why}, refusal.status)


async def _body(request: Request, limit: int) -> bytes:
    """The whole body. Raises TooLarge as soon as that is known; the rest of it is read by the server and thrown away."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"{declared} bytes, and at most {limit} are taken")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"more than {limit} bytes")
    return bytes(body)


def _checked(data: bytes, md5: str | None) -> tuple[Header, str]:
    """What the snapshot says it is, and its digest. Raises InvalidArgument."""
    if md5 is None:
        raise InvalidArgument("a state comes with Content-MD5, so that half of one is never taken for all of it")
    if md5.strip() != _md5(data):
        raise InvalidArgument("the state is not what Content-MD5 says; it was damaged on its way")
    return header_of(data), sha256(data)


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _basic(header: str | None) -> tuple[str, str] | None:
    """(user, password) of basic authentication, or None where nothing readable is shown."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon and user else None
