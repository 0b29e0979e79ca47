"""A browser without JavaScript, as far as the pages of the front need one: cookies, forms, links, and what a browser says of itself."""

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx2

_VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"})


@dataclass
class Form:
    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.said: list[str] = []
        self.open: list[str] = []
        self._form: Form | None = None
        self._area: str | None = None
        self._link: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.elements.append((tag, given))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "form":
            self._form = Form(action=given["action"], method=given.get("method", "get"))
            self.forms.append(self._form)
        elif tag in ("input", "textarea") and self._form is not None and "name" in given:
            self._form.fields[given["name"]] = given.get("value", "")
            self._area = given["name"] if tag == "textarea" else None
        elif tag == "a":
            self._link = given.get("href")
        self.said.append(" ")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"
        if tag == "form":
            self._form = None
        elif tag == "textarea":
            self._area = None
        elif tag == "a":
            self._link = None

    def handle_data(self, data: str) -> None:
        if self._area is not None and self._form is not None:
            self._form.fields[self._area] += data
        if self.open and self.open[-1] == "button" and self._form is not None:
            self._form.buttons.append(data.strip())
        if self._link is not None and data.strip():
            self.links.setdefault(data.strip(), self._link)
        self.said.append(data)


@dataclass
class Page:
    answer: httpx2.Response

    def __post_init__(self) -> None:
        self._reader = _Reader()
        self._reader.feed(self.answer.text)
        self._reader.close()
        assert self._reader.open == [], f"never closed: {self._reader.open}"

    @property
    def status(self) -> int:
        return self.answer.status_code

    @property
    def path(self) -> str:
        return self.answer.url.path

    @property
    def text(self) -> str:
        """What is read, with one space between words."""
        return re.sub(r"\s+", " ", "".join(self._reader.said)).strip()

    @property
    def elements(self) -> list[tuple[str, dict[str, str]]]:
        return self._reader.elements

    @property
    def links(self) -> dict[str, str]:
        return self._reader.links

    @property
    def forms(self) -> list[str]:
        return [form.action.rsplit("/", 1)[-1] for form in self._reader.forms if form.method == "post"]

    def form(self, ends: str) -> Form:
        found = [form for form in self._reader.forms if form.action.endswith(ends)]
        assert found, f"no form {ends} in {[form.action for form in self._reader.forms]}: {self.text[:2000]}"
        return found[0]


@dataclass
class Browser:
    http: httpx2.AsyncClient
    address: str

    async def open(self, path: str, **headers: str) -> Page:
        """As typed into the address line, unless `headers` say something else; redirects are followed."""
        given = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return Page(await self.http.get(f"{self.address}{path}", headers=given))

    async def send(self, page: Page, ends: str, *, follow: bool = True, headers: dict[str, str | None] | None = None, **typed: str) -> Page:
        """Fill in a form of the page and send it. A header that is None is not sent."""
        form = page.form(ends)
        assert form.method == "post"
        fields = {**form.fields, **typed}
        # As Chromium does for a page that gives no referrer.
        said: dict[str, str | None] = {"Origin": "null", "Sec-Fetch-Site": "same-origin", **(headers or {})}
        given = {name: value for name, value in said.items() if value is not None}
        sent = await self.http.post(f"{self.address}{form.action}", data=fields, headers=given, follow_redirects=follow)
        return Page(sent)

    async def sign_in(self, key: str, to: str = "/runs") -> Page:
        """As somebody whom this browser does not know yet."""
        self.http.cookies.clear()
        return await self.send(await self.open(f"/signin?to={to}"), "/signin", key=key)

    @property
    def cookies(self) -> dict[str, str]:
        return dict(self.http.cookies)


@contextlib.asynccontextmanager
async def browser(address: str, **options: Any) -> AsyncIterator[Browser]:
    async with httpx2.AsyncClient(timeout=30, follow_redirects=True, **options) as http:
        yield Browser(http=http, address=address)
