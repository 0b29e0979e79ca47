"""From what is known to HTML: the templates, and the few files a page loads from us.

The template library is loaded with the first page, because a front that only serves agents never needs it. Templates escape
whatever they are given; none of them marks anything as safe.
"""

import asyncio
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, Response

from countersign import __version__
from countersign.core.redaction import clean_line, clean_text
from mcp_front.pages.guard import HEADERS

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent
_FILES = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8", "mark.svg": "image/svg+xml"}


class Drawing:
    async def page(self, template: str, *, status: int = 200, **known: Any) -> Response:
        """A whole page, or a part of one."""
        text = await asyncio.to_thread(self._drawn, template, known)
        return HTMLResponse(text, status_code=status, headers=HEADERS)

    def _drawn(self, template: str, known: dict[str, Any]) -> str:
        return self._environment.get_template(template).render(known)

    @cached_property
    def _environment(self) -> "Environment":
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        made = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        made.filters.update(line=_line, lines=_lines)
        made.globals.update(asset=self._asset, version=__version__)
        return made

    def _asset(self, name: str) -> str:
        """The address of a file of ours, which changes with what is in it, so that it may be kept for long."""
        return f"/static/{name}?{self._files[name][1]}"

    @cached_property
    def _files(self) -> dict[str, tuple[bytes, str]]:
        contents = {name: (FOLDER / "static" / name).read_bytes() for name in _FILES}
        return {name: (data, sha256(data).hexdigest()[:12]) for name, data in contents.items()}

    def file(self, name: str) -> Response | None:
        if name not in _FILES:
            return None
        headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(self._files[name][0], media_type=_FILES[name], headers=headers)


def _line(text: object) -> str:
    """One line of text from outside: nothing in it moves, hides or turns what stands beside it."""
    return clean_line(str(text))


def _lines(text: object) -> str:
    return clean_text(str(text))
