"""Signing in and out: with a person's key, or with the one-time code that `countersign open` gets for one.

A link never signs anybody in. The page behind a code says whose it is and waits for a click: so nothing that only looks at links
uses it up, and nobody is signed in as somebody else without seeing it. Keys of agents and machines are refused here: what this
page sends counts as a person's word.
"""

import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from countersign.adapters.store import audit, page_sessions
from countersign.adapters.store.database import stamp
from countersign.adapters.store.keys import KeyRow, find_key
from countersign.core.errors import CountersignError, InvalidArgument, PermissionDenied, Unauthenticated
from countersign.core.principal import Kind
from mcp_front.pages.guard import HEADERS
from mcp_front.pages.visit import Pages, Visit, away_to, status_of
from mcp_front.rights import checked_role

_INSIDE = re.compile(r"^/runs(?:/run_[0-9a-z]{26})?\Z")
_CODE = re.compile(r"^[A-Za-z0-9_-]{20,100}\Z")


def inside(path: str | None) -> str:
    """The page to go on to: one of ours, whatever was asked for."""
    return path if path is not None and _INSIDE.match(path) else "/runs"


def address(to: str, **more: str) -> str:
    return f"/signin?{urlencode({'to': to, **more})}"


def cookie(visit: Visit) -> str:
    """Its name. Over TLS a browser takes such a name only with everything that makes it safe, and nobody can plant one."""
    port = "" if _secure(visit) else f"-{visit.request.url.port or 80}"  # cookies are not kept apart by port, services are
    return f"__Host-countersign{port}" if _secure(visit) else f"countersign{port}"


def _secure(visit: Visit) -> bool:
    """Whether the browser speaks TLS, to us or to what stands before us."""
    public = urlsplit(visit.pages.settings.public_url or "")
    return visit.request.url.scheme == "https" or (public.scheme == "https" and public.netloc == visit.request.headers.get("host"))


async def ask(visit: Visit) -> Response:
    """The form for a key, or the question whether the person of a code is to be signed in."""
    to, code = inside(visit.query("to")), visit.query("code")
    if code is None:
        return away_to(to) if visit.session else await visit.draw("signin.html", to=to, problem=None)
    async with visit.front.store.read() as conn:
        key = await page_sessions.key_of_code(conn, code, now=visit.front.store.now()) if _CODE.match(code) else None
    if key is None:
        return await visit.draw("signin.html", status=410, to=to, problem=_LATE)
    if visit.session is not None and visit.session.key.id == key.id:
        return away_to(to)
    return await visit.draw("code.html", to=to, code=code, whose=key.principal.id, as_role=key.role, key_id=key.id)


_LATE = "That code was used already, or is more than a minute old. Run `countersign open` again, or sign in with a key."


async def sign_in(visit: Visit) -> Response:
    to = inside(visit.form.get("to"))
    try:
        key = await _key(visit)
    except CountersignError as refused:
        drawn = await visit.draw("signin.html", status=status_of(refused), to=to, problem=refused.message)
        if refused.retry_after_seconds:
            drawn.headers["Retry-After"] = str(int(refused.retry_after_seconds) + 1)
        return drawn
    if visit.session is not None:
        await page_sessions.close_session(visit.front.store, visit.session)
    token = await page_sessions.open_session(visit.front.store, key, how="code" if visit.form.get("code") else "key")
    answer = away_to(to)
    answer.set_cookie(
        cookie(visit),
        token,
        max_age=int(page_sessions.LONGEST.total_seconds()),
        path="/",
        secure=_secure(visit),
        httponly=True,
        samesite="strict",
    )
    return answer


async def _key(visit: Visit) -> KeyRow:
    """The key that signs in. Raises what is wrong with it."""
    attempts, address, store = visit.pages.attempts, _address(visit.request), visit.front.store
    attempts.check(address)
    if code := visit.form.get("code"):
        key = await page_sessions.use_code(store, code) if _CODE.match(code) else None
        problem = _LATE
    else:
        async with store.read() as conn:
            key = await find_key(conn, visit.form.get("key", "").strip(), now=store.now())
        problem = "That key opens nothing: it is mistyped, revoked, expired, or of another service."
    if key is None:
        attempts.failed(address)
        raise Unauthenticated(problem)
    return await _persons(visit.pages, key)


async def _persons(pages: Pages, key: KeyRow) -> KeyRow:
    """The key, if it is one a person decides with. Raises PermissionDenied."""
    why: str | None = None
    if key.principal.kind is not Kind.PERSON:
        why = f"{key.principal.id} is an {key.principal.kind}, and this page is for people: a machine's or an agent's word is no approval. "
        why += "It can ask for changes over MCP; sign in with a key of your own (`countersign key create --kind person`)."
        why = why.replace("an machine,", "a machine,")
    else:
        try:
            checked_role(key.role, key.principal.kind)
        except InvalidArgument as unknown:
            why = unknown.message
    if why is None:
        return key
    async with pages.front.store.begin() as tx:
        at = stamp(pages.front.store.now())
        await audit.append(tx, org=key.org, at=at, action="page.sign_in", by=key.principal, outcome="permission_denied", role=key.role)
    raise PermissionDenied(why)


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def code_for(pages: Pages) -> Callable[[Request], Awaitable[Response]]:
    """A one-time code for the person whose key is shown: what `countersign open` asks for."""

    async def code(request: Request) -> Response:
        try:
            pages.attempts.check(_address(request))
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            store = pages.front.store
            async with store.read() as conn:
                key = await find_key(conn, token.strip(), now=store.now()) if scheme.lower() == "bearer" else None
            if key is None:
                pages.attempts.failed(_address(request))
                raise Unauthenticated("this takes a key of yours, sent as `Authorization: Bearer …`")
            made, ends = await page_sessions.make_code(store, await _persons(pages, key))
        except CountersignError as refused:
            body = {"error": {"code": refused.code, "message": refused.message}}
            return JSONResponse(body, status_code=status_of(refused), headers=HEADERS)
        to = inside(request.query_params.get("to"))
        url = f"{pages.settings.links_url}{address(to, code=made)}"
        return JSONResponse({"url": url, "expires_at": stamp(ends)}, headers=HEADERS)

    return code


async def sign_out(visit: Visit) -> Response:
    assert visit.session is not None  # else nobody comes here
    await page_sessions.close_session(visit.front.store, visit.session)
    answer = away_to("/signin")
    answer.delete_cookie(cookie(visit), path="/", secure=_secure(visit), httponly=True, samesite="strict")
    return answer
