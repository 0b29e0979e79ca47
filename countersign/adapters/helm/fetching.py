"""Indexes and archives over HTTP, from chart repositories and OCI registries, and from nowhere the operator did not list.

Helm follows a redirect wherever it leads, and hands out what it was given on the way. So what is fetched is fetched here: each address
is judged before it is asked, a key is shown to the source's own host alone, and everything is bounded.
"""

import asyncio
import base64
import hashlib
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urljoin, urlsplit

import httpx2

from countersign import __version__
from countersign.core.errors import FailedPrecondition, NotFound, PolicyDenied, ProviderError, Unavailable
from countersign.core.helm.charts import Entry, Kind, Source, allowed_url, check_version, is_loopback, is_stable, no_version, order
from countersign.core.redaction import clean_line, cut

WITHIN = 120.0  # seconds for one answer
CONNECT = 10.0
INDEX_MOST = 24 << 20  # bytes of an index.yaml: that of the largest public ones is about as large
ARCHIVE_MOST = 8 << 20  # bytes of an archive; what Helm stores of it has to fit into 1 MiB
MANIFEST_MOST = 4 << 20
REDIRECTS = 5
PAGES = 20  # of a registry's list of versions
LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PARAMETER = re.compile(r'([a-z]+)="([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Key:
    """What opens a source."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @classmethod
    def of(cls, secret: str, *, slug: str) -> "Key":
        """A token, or a JSON object of username and password. Raises FailedPrecondition without telling any of it."""
        try:
            given = json.loads(secret)
        except ValueError:
            given = None
        pair = (given.get("username"), given.get("password")) if isinstance(given, dict) else ("token", secret.strip())
        if not all(isinstance(part, str) and part and part.isprintable() for part in pair):
            raise FailedPrecondition(
                f"the secret {slug} is neither a token, which is one line, nor a JSON object of username and password; "
                f"set it again: `countersign secret set {slug}`"
            )
        return cls(username=str(pair[0]), password=str(pair[1]))


class Fetcher:
    """One for a process; `passed` is what the operator gives to helm: a proxy, a bundle of certificates."""

    def __init__(self, passed: Mapping[str, str]) -> None:
        self._passed = dict(passed)
        self._made: httpx2.AsyncClient | None = None

    async def archive(self, url: str, source: Source, key: Key | None, *, sha256: str = "") -> bytes:
        """Raises ProviderError where it is not what its source says it is."""
        data, _ = await self._get(url, source, key, most=ARCHIVE_MOST, what="the chart's archive")
        if sha256 and "sha256:" + hashlib.sha256(data).hexdigest() != sha256:
            raise ProviderError(
                f"the archive that {source.shown} gives is not the one its index names; have the repository's index made again",
                field="chart",
            )
        return data

    async def index(self, source: Source, key: Key | None) -> bytes:
        data, _ = await self._get(f"{source.address.rstrip('/')}/index.yaml", source, key, most=INDEX_MOST, what="the index")
        return data

    async def tags(self, source: Source, key: Key | None, chart: str) -> list[str]:
        """Versions of a chart in a registry, newest first. Raises NotFound."""
        found: list[str] = []
        url: str | None = f"{_registry(source)}/v2/{_name(source, chart)}/tags/list?n=1000"
        for _ in range(PAGES):
            assert url is not None
            data, headers = await self._get(url, source, key, most=MANIFEST_MOST, what=f"the list of versions of {chart}")
            page = _json(data, source)
            found += [str(tag).replace("_", "+") for tag in _list(page.get("tags"))]
            following = re.match(r"<([^>]+)>;\s*rel=\"?next\"?", headers.get("link", ""))
            if following is None:
                break
            url = urljoin(url, following[1])
        return sorted((one for one in found if order(one)[0] == 1), key=order, reverse=True)

    async def entry(self, source: Source, key: Key | None, chart: str, version: str | None) -> Entry:
        """The version of a chart in a registry that is meant. Raises NotFound with those that come near."""
        there = await self.tags(source, key, chart)
        wanted = version or next((one for one in there if is_stable(one)), there[0] if there else "0.0.0")
        wanted = next((one for one in there if one.lstrip("v") == check_version(wanted).lstrip("v")), "")
        if not wanted:
            raise no_version(chart, version or "at all", there)
        base = f"{_registry(source)}/v2/{_name(source, chart)}"
        url = f"{base}/manifests/{quote(wanted.replace('+', '_'))}"
        data, _ = await self._get(url, source, key, most=MANIFEST_MOST, what=f"{chart} {wanted}", accept=_MANIFEST)
        layers = _list(_json(data, source).get("layers"))
        digests = [one.get("digest") for one in layers if isinstance(one, dict) and one.get("mediaType") == LAYER]
        if len(digests) != 1 or not re.fullmatch(r"sha256:[0-9a-f]{64}", str(digests[0])):
            raise FailedPrecondition(f"{chart} {wanted} of {source.shown} is no Helm chart", field="chart")
        return Entry(name=chart, version=wanted, url=f"{base}/blobs/{digests[0]}", sha256=str(digests[0]))

    async def close(self) -> None:
        if self._made is not None:
            await self._made.aclose()
            self._made = None

    async def _get(
        self, url: str, source: Source, key: Key | None, *, most: int, what: str, accept: str = "*/*"
    ) -> tuple[bytes, Mapping[str, str]]:
        """An index gets its key at once; a registry says first what it wants to see."""
        shown = key.basic if key is not None and source.kind is Kind.INDEX else ""
        status, data, said = await self._followed(url, source, shown, most, what, accept)
        if status == 401 and not shown:
            shown = await self._wanted(said.get("www-authenticate", ""), source, key)
            if shown:
                status, data, said = await self._followed(url, source, shown, most, what, accept)
        self._refuse(status, source, what)
        return data, said

    async def _followed(
        self, url: str, source: Source, shown: str, most: int, what: str, accept: str
    ) -> tuple[int, bytes, Mapping[str, str]]:
        for _ in range(REDIRECTS + 1):
            self._judge(url, source, what)
            own = urlsplit(url).netloc.lower() == source.host
            headers = {"Accept": accept, **({"Authorization": shown} if shown and own else {})}
            status, data, said = await self._asked(url, source, headers, most, what)
            if status not in (301, 302, 303, 307, 308):
                return status, data, said
            url = urljoin(url, said.get("location", ""))
        raise ProviderError(f"{source.shown} redirects in circles when asked for {what}", field="repo")

    async def _wanted(self, challenge: str, source: Source, key: Key | None) -> str:
        """What a registry wants to see, or nothing where there is nothing to show."""
        if challenge.lower().startswith("bearer "):
            return f"Bearer {await self._token(challenge, source, key)}"
        return key.basic if key is not None else ""

    def _judge(self, url: str, source: Source, what: str) -> None:
        if not allowed_url(url, source):
            host = cut(clean_line(urlsplit(url).netloc.rpartition("@")[2]), 100)
            raise PolicyDenied(
                f"{source.shown} leads to {host or 'no host'} for {what}, which is not allowed; ask the operator (hosts of that source)",
                field="repo",
            )

    async def _asked(
        self, url: str, source: Source, headers: Mapping[str, str], most: int, what: str
    ) -> tuple[int, bytes, Mapping[str, str]]:
        try:
            async with asyncio.timeout(WITHIN), self._client.stream("GET", url, headers=headers) as answer:
                data = bytearray()
                async for chunk in answer.aiter_bytes():
                    data += chunk
                    if len(data) > most:
                        raise FailedPrecondition(f"{what} of {source.shown} is larger than {most >> 20} MiB", field="chart")
                return answer.status_code, bytes(data), dict(answer.headers)
        except TimeoutError:
            raise Unavailable(f"the chart source {source.shown} did not answer within {WITHIN:g} s; ask again", field="repo") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as failed:
            why = type(failed).__name__ if not str(failed) else cut(clean_line(str(failed)), 200)
            raise Unavailable(f"the chart source {source.shown} does not answer ({why}); ask again when it does", field="repo") from None

    def _refuse(self, status: int, source: Source, what: str) -> None:
        if status == 200:
            return
        if status in (401, 403):
            ask = f"the secret {source.credential} does not open it" if source.credential else "it asks for a key: the operator names one"
            raise FailedPrecondition(f"{what} of {source.shown} cannot be read: {ask} (charts in countersign.toml)", field="repo")
        if status == 404:
            raise NotFound(f"{source.shown} does not have {what}", field="chart", next=["helm_search_charts"])
        if status == 429 or status >= 500:
            raise Unavailable(f"the chart source {source.shown} does not answer for now ({status}); ask again later", field="repo")
        raise ProviderError(f"{source.shown} refuses {what} ({status})", field="repo")

    async def _token(self, challenge: str, source: Source, key: Key | None) -> str:
        """As registries hand them out: from the place that they name, if it is one the operator lists."""
        said = dict(_PARAMETER.findall(challenge))
        asked = urlencode({name: said[name] for name in ("service", "scope") if name in said})
        url = f"{said.get('realm', '')}?{asked}"
        self._judge(url, source, "a token")
        headers = {"Authorization": key.basic} if key is not None else {}
        status, data, _ = await self._asked(url, source, headers, MANIFEST_MOST, "a token")
        self._refuse(status, source, "a token")
        answer = _json(data, source)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            raise ProviderError(f"{source.shown} hands out no token", field="repo")
        return token

    @property
    def _client(self) -> httpx2.AsyncClient:
        if self._made is None:
            trusted = ssl.create_default_context()
            if bundle := self._passed.get("SSL_CERT_FILE"):
                trusted.load_verify_locations(bundle)
            self._made = httpx2.AsyncClient(
                verify=trusted,
                follow_redirects=False,
                trust_env=False,
                proxy=self._passed.get("HTTPS_PROXY") or self._passed.get("https_proxy"),
                timeout=httpx2.Timeout(WITHIN, connect=CONNECT),
                headers={"User-Agent": f"countersign/{__version__}"},
            )
        return self._made


def _registry(source: Source) -> str:
    host = source.host
    return f"{'http' if is_loopback(urlsplit(source.address).hostname or '') else 'https'}://{host}"


def _name(source: Source, chart: str) -> str:
    return "/".join(part for part in (urlsplit(source.address).path.strip("/"), chart) if part)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _json(data: bytes, source: Source) -> dict[str, object]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ProviderError(f"{source.shown} answers something that no registry would; see whether its address is right", field="repo")
    return found
