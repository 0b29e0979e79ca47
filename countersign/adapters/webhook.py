"""One POST to a webhook, bounded in every direction: connect, answer and size; no redirect, no proxy, no cookie.

The address is the operator's, and an address of this machine or a private network counts where the operator wrote it as such. A
public name that leads there is refused unless `allow_private` says so: whoever holds that name's DNS is not the operator. The name
is looked up once and the connection goes to exactly what was judged.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import httpx2

from countersign import __version__
from countersign.core.errors import CountersignError
from countersign.core.notice import CONTENT_TYPE, signatures
from countersign.core.redaction import Redactor

WITHIN = 10.0  # seconds for all of it: look-up, connection, answer
CONNECT = 5.0
READ = 4096  # bytes of an answer; more is never looked at
LONGEST_WAIT = 3600.0  # seconds a receiver may ask us to wait
SECRET = 12  # characters of a part of an address that may be one
_GONE = 410


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one attempt. Without a status there was no answer."""

    status: int | None
    said: str  # for people: why it failed, or how the answer begins
    retry_after: float | None = None
    took: float = 0.0

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """The receiver wants nothing any more."""
        return self.status == _GONE


class Sender:
    """Sends; one for a process, because loading the system's certificates takes longer than sending."""

    def __init__(self) -> None:
        self._client = httpx2.AsyncClient(
            verify=ssl.create_default_context(),
            follow_redirects=False,
            trust_env=False,
            timeout=httpx2.Timeout(WITHIN, connect=CONNECT),
            limits=httpx2.Limits(max_keepalive_connections=0),
            headers={"User-Agent": f"countersign/{__version__}"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, url: str, *, id: str, document: str, keys: Sequence[bytes], allow_private: bool = False) -> Answer:
        """Send a document, signed for this very moment. Never raises for what a receiver or a network does."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(WITHIN):
                status, said, retry_after = await self._post(httpx2.URL(url), id, document.encode(), keys, allow_private)
        except TimeoutError:
            status, said, retry_after = None, f"no whole answer within {WITHIN:g} s", None
        except CountersignError as refused:
            status, said, retry_after = None, refused.message, None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as failed:
            status, said, retry_after = None, _why(failed), None
        return Answer(status=status, said=_hiding(url).line(said, 300), retry_after=retry_after, took=time.monotonic() - begun)

    async def _post(
        self, url: httpx2.URL, id: str, body: bytes, keys: Sequence[bytes], allow_private: bool
    ) -> tuple[int | None, str, float | None]:
        address = await _address(url, allow_private=allow_private)
        if address is None:
            return None, f"{url.host} leads to an address of this machine or a private network; if that is meant, set allow_private", None
        now = int(time.time())
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Content-Type": CONTENT_TYPE,
            "webhook-id": id,
            "webhook-timestamp": str(now),
            "webhook-signature": signatures(keys, id=id, timestamp=now, body=body),
        }
        request = self._client.build_request(
            "POST", url.copy_with(host=address), content=body, headers=headers, extensions={"sni_hostname": url.host}
        )
        answer = await self._client.send(request, stream=True)
        try:
            return answer.status_code, await _beginning(answer), _retry_after(answer.headers.get("retry-after"))
        finally:
            await answer.aclose()


def _hiding(url: str) -> Redactor:
    """Some addresses have their secret in the path or the query, and pages that say what was not found quote it."""
    parts = urlsplit(url)
    found = re.split(r"[/?&=;]", f"{parts.path}?{parts.query}")
    return Redactor(text for part in found for text in (part, unquote(part)) if len(text) >= SECRET)


async def _address(url: httpx2.URL, *, allow_private: bool) -> str | None:
    """Where to connect; None where the name leads to a place its operator did not write."""
    written = _literal(url.host)
    if written is not None or url.host == "localhost":
        return url.host  # the operator wrote where it is
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    if not allow_private and not all(_is_public(address) for address in addresses):
        return None
    return addresses[0]


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_global and not (mapped or parsed).is_multicast


async def _beginning(answer: httpx2.Response) -> str:
    """How the answer begins, in words; 3xx says where it points, which is not followed."""
    if 300 <= answer.status_code < 400:
        return f"a redirect ({answer.status_code}), which is not followed; set the address it points to"
    data = b""
    async for chunk in answer.aiter_raw():
        data += chunk
        if len(data) >= READ:
            break
    text = data[:READ].decode(errors="replace").strip()
    return text if 200 <= answer.status_code < 300 else f"{answer.status_code} {answer.reason_phrase}: {text}".rstrip(": ")


def _retry_after(value: str | None) -> float | None:
    """Seconds; dates are not read, for our own waits are as good."""
    return min(float(value), LONGEST_WAIT) if value and value.isdecimal() else None


def _why(failed: Exception) -> str:
    if isinstance(failed, socket.gaierror):
        return "its name is not known"
    return str(failed) or type(failed).__name__
