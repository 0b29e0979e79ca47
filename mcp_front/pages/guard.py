"""Which requests the pages take at all: the right host, sent by our own page, small enough, and not guessing.

A browser sends its cookie along whoever made the request. So whatever changes something has to come from one of our own pages, by
what the browser itself says (`Sec-Fetch-Site`, else `Origin`), and has to bring a token that only a page of this session holds.
"""

import hmac
import time
from collections import deque
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import parse_qsl

from starlette.requests import Request

from countersign.adapters.settings import Settings
from countersign.core.errors import InvalidArgument, RateLimited
from countersign.core.redaction import clean_text

FORM = 64 << 10  # bytes; the longest field holds 2,000 characters
FIELDS = 20
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def known_host(host: str, allowed: list[str] | None) -> bool:
    """Whether a request names this front; `allowed` are names, or names with `:*` for any port; None: they are not known here."""
    return allowed is None or any(
        host.startswith(name[:-1]) and host[len(name) - 1 :].isdecimal() if name.endswith(":*") else host == name for name in allowed
    )


def from_own_page(request: Request, settings: Settings) -> bool:
    """Whether one of our own pages sent this. Pages without a referrer send `Origin: null`, so both headers are looked at."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    if origin is not None and origin != "null":
        host = request.headers.get("host", "")
        return origin in {f"http://{host}", f"https://{host}", settings.public_url}
    return site == "same-origin"


def from_elsewhere(request: Request) -> bool:
    """Whether a link on another site led here: then a browser holds back the cookie of somebody who is signed in."""
    return request.headers.get("sec-fetch-site") == "cross-site"


def form_token(session: str) -> str:
    """What a form of this session carries."""
    return hmac.new(session.encode(), b"countersign form", sha256).hexdigest()


def holds_token(form: Mapping[str, str], session: str) -> bool:
    return hmac.compare_digest(form.get("token", "").encode(), form_token(session).encode())


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form, each once, without characters that lie. Raises InvalidArgument for what no form of ours sends."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise InvalidArgument("this takes a form")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > FORM:
            raise InvalidArgument(f"that is more than the {FORM >> 10} KiB a form may have; shorten it")
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=FIELDS, errors="strict", strict_parsing=bool(body))
    except ValueError:
        raise InvalidArgument("this form cannot be read") from None
    return {name: clean_text(value) for name, value in fields}


class Attempts:
    """Failed attempts to sign in, by address: a few a minute, for somebody who pastes the wrong thing; no more for who guesses."""

    PER_MINUTE = 10
    ADDRESSES = 10_000  # that are remembered at once

    def __init__(self) -> None:
        self._failed: dict[str, deque[float]] = {}

    def check(self, address: str) -> None:
        """Raises RateLimited."""
        failed = self._recent(address)
        if len(failed) >= self.PER_MINUTE:
            left = max(1.0, 60 - (time.monotonic() - failed[0]))
            raise RateLimited(
                f"too many failed attempts to sign in from {address}; try again in {left:.0f} seconds", retry_after_seconds=left
            )

    def failed(self, address: str) -> None:
        if len(self._failed) >= self.ADDRESSES:
            self._failed = {known: times for known in [*self._failed] if (times := self._recent(known))}
        if len(self._failed) < self.ADDRESSES:
            self._failed.setdefault(address, deque()).append(time.monotonic())

    def _recent(self, address: str) -> deque[float]:
        times = self._failed.get(address, deque())
        while times and time.monotonic() - times[0] >= 60:
            times.popleft()
        return times
