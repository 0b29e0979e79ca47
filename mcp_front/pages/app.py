"""Routes of the pages, and what all of them go through: host, origin, session, form token, and one way to say what went wrong."""

import secrets as random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from countersign.adapters.store import page_sessions
from countersign.core.errors import CountersignError, Internal, NotFound
from mcp_front.call import Front
from mcp_front.dispatch import Dispatch
from mcp_front.envelope import told
from mcp_front.pages import deciding, guard, listing, reading, run, signing
from mcp_front.pages.visit import Pages, Visit, away_to, status_of, usable

Handler = Callable[[Visit], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]
TITLES = {
    400: "That cannot be done",
    401: "You are not signed in",
    403: "Not permitted",
    404: "Nothing here",
    409: "That is not possible now",
    422: "Something is missing",
    429: "Too many attempts",
    500: "Something went wrong on our side",
    503: "Not available right now",
}

_ELSEWHERE = (403, "That did not come from a page of Countersign", "Nothing was done. Open the page again and send it from there.")
_SIGNED_OUT = (401, "You are signed out", "Nothing was done. Sign in again; what you typed is below, so that it is not lost.")
_OTHER_SESSION = (
    403,
    "This form is of another session",
    "Nothing was done. Open the page again and send it from there; what you typed is below.",
)


def routes(front: Front, security: TransportSecuritySettings) -> list[Route]:
    pages = Pages(front=front)
    hosts = security.allowed_hosts if security.enable_dns_rebinding_protection else None

    def page(handler: Handler, **how: bool) -> Endpoint:
        return _guarded(handler, pages, hosts, **how)

    async def file(request: Request) -> Response:
        found = pages.drawing.file(request.path_params["name"])
        return found or PlainTextResponse("no such file\n", status_code=404, headers=guard.HEADERS)

    one = "/runs/{run_id}"
    return [
        Route("/", page(listing.home), methods=["GET"]),
        Route("/runs", page(listing.show), methods=["GET"]),
        Route("/runs/live", page(listing.live, part=True), methods=["GET"]),
        Route("/signin", page(signing.ask, anybody=True), methods=["GET"]),
        Route("/signin", page(signing.sign_in, anybody=True), methods=["POST"]),
        Route("/signin/code", _hosted(signing.code_for(pages), hosts), methods=["POST"]),
        Route("/signout", page(signing.sign_out), methods=["POST"]),
        Route(one, page(run.show), methods=["GET"]),
        Route(f"{one}/live", page(run.live, part=True), methods=["GET"]),
        Route(f"{one}/artifacts/{{artifact_id}}", page(reading.artifact), methods=["GET"]),
        *(Route(f"{one}/{name}", page(handler), methods=["POST"]) for name, handler in deciding.FORMS.items()),
        Route("/static/{name}", file, methods=["GET"]),
    ]


def _hosted(endpoint: Endpoint, hosts: list[str] | None) -> Endpoint:
    async def answered(request: Request) -> Response:
        if not guard.known_host(request.headers.get("host", ""), hosts):
            return PlainTextResponse("this front does not go by that name; see the setting public_url\n", status_code=421)
        return await endpoint(request)

    return answered


def _guarded(handler: Handler, pages: Pages, hosts: list[str] | None, *, anybody: bool = False, part: bool = False) -> Endpoint:
    """`anybody` need not be signed in; a `part` is asked for by a script, which draws no page about what went wrong."""

    async def answered(request: Request) -> Response:
        visit = Visit(request=request, pages=pages)
        try:
            visit = await _visit(visit, follows=part)
            if (instead := await _instead(visit, anybody=anybody, part=part)) is not None:
                return instead
            return await handler(visit)
        except CountersignError as error:
            return await _told(visit, error, part=part)
        except Exception as crash:
            reference = f"req_{random.token_hex(8)}"
            dispatch = Dispatch(pages.front, None)
            return await _told(visit, dispatch.ours(crash, f"page {request.url.path[:80]}", reference), part=part)

    return _hosted(answered, hosts)


async def _visit(visit: Visit, *, follows: bool) -> Visit:
    """The visit with its form and its session. A page that follows a run by itself keeps no session alive."""
    if visit.request.method == "POST":
        visit = replace(visit, form=await guard.form_of(visit.request))
    token = visit.request.cookies.get(signing.cookie(visit))
    if not token:
        return visit
    store = visit.front.store
    async with store.read() as conn:
        session = await page_sessions.session_of(conn, token, now=store.now())
    if session is None or not usable(session):
        return visit
    if not follows:
        await page_sessions.seen(store, session)
    return replace(visit, token=token, session=session)


async def _instead(visit: Visit, *, anybody: bool, part: bool) -> Response | None:
    """What is answered in place of what was asked for; None where nothing stands against it."""
    request = visit.request
    posted = request.method == "POST"
    if posted and not guard.from_own_page(request, visit.pages.settings):
        return await _kept(visit, *_ELSEWHERE)
    if anybody:
        return None
    if visit.session is None:
        if part:
            return PlainTextResponse("signed out\n", status_code=401, headers=guard.HEADERS)
        if posted:
            return await _kept(visit, *_SIGNED_OUT)
        if guard.from_elsewhere(request):
            return await visit.draw("arriving.html", to=signing.inside(request.url.path))
        return away_to(signing.address(signing.inside(request.url.path)))
    if posted and not guard.holds_token(visit.form, visit.token or ""):
        return await _kept(visit, *_OTHER_SESSION)
    return None


async def _kept(visit: Visit, status: int, title: str, message: str) -> Response:
    """A refusal that gives back what was typed; never a key."""
    typed = {name: visit.form[name] for name in ("comment", "reason", "confirm_name") if visit.form.get(name)}
    return await visit.draw("message.html", status=status, title=title, message=message, typed=typed, to=_back(visit))


async def _told(visit: Visit, error: CountersignError, *, part: bool) -> Response:
    status = status_of(error)
    if isinstance(error, NotFound) and visit.session is not None:
        await visit.dispatch.refused(visit.caller, "page", error, run_id=visit.request.path_params.get("run_id"))
    if part:
        return PlainTextResponse(f"{error.code}\n", status_code=status, headers=guard.HEADERS)
    message = error.message if isinstance(error, Internal) else told(error.message)
    drawn = await visit.draw(
        "message.html", status=status, title=TITLES.get(status, TITLES[400]), message=message, typed={}, to=_back(visit)
    )
    if error.retry_after_seconds:
        drawn.headers["Retry-After"] = str(int(error.retry_after_seconds) + 1)
    return drawn


def _back(visit: Visit) -> str:
    """The run a form or a part is of, else the list."""
    return signing.inside("/".join(visit.request.url.path.split("/")[:3]))
