"""`countersign open`: the page for people, signed in with the key of this machine.

The front gives a code that signs in once, within a minute. It reaches the browser in a file only this user can read, because what
stands in the arguments of a process is read by everybody on the machine.
"""

import html
import os
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

from countersign.adapters.process.desktop import shown_in_browser
from countersign.cli.door import Door
from countersign.cli.exits import Exit
from countersign.cli.front import away, error_of
from countersign.cli.output import safe
from countersign.cli.session import token
from countersign.cli.store import write_secret
from countersign.core.errors import InvalidArgument, Unavailable
from countersign.core.ids import RUN_ID

FILE = "open.html"  # in the data folder; what is in it is good for a minute, once


async def open_page(door: Door, run_id: str | None, *, browser: bool) -> Exit:
    """Open the page of a run, or the list, in a browser; where there is none, only tell the address."""
    if run_id is not None and not RUN_ID.match(run_id):
        raise InvalidArgument(f"{run_id[:60]!r} is no id of a run; `countersign runs` tells them", field="run_id")
    url, ends = await _signed_in(door, f"/runs/{run_id}" if run_id else "/runs")
    door.answer({"url": url, "expires_at": ends})
    if door.as_json:
        return Exit.OK
    if browser and _somebody_looks() and shown_in_browser(_kept(door.settings.data, url)):
        door.show(safe("opened in your browser; if nothing shows, this address signs you in once, within a minute:"))
    else:
        door.show(safe("open this address, it signs you in once, within a minute:"))
    door.show(safe(url))
    return Exit.OK


async def _signed_in(door: Door, to: str) -> tuple[str, str]:
    """(an address that signs in, until when). Raises what the front says against it."""
    import httpx2

    base = door.address.split("/mcp", 1)[0]
    headers = {"Authorization": f"Bearer {token(key_file=door.key_file, data=door.settings.data)}"}
    try:
        async with httpx2.AsyncClient(headers=headers, timeout=10) as http:
            answer = await http.post(f"{base}/signin/code?to={quote(to)}")
        said = answer.json()
    except (httpx2.HTTPError, OSError):
        raise away(base) from None
    except ValueError:
        raise Unavailable(f"{base} does not answer as a front does; name another with --url") from None
    if "error" in said:
        raise error_of(said["error"])
    url = str(said["url"])
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unavailable(f"{base} does not answer as a front does; name another with --url")
    return url, str(said["expires_at"])


def _somebody_looks() -> bool:
    """Whether a browser would show up on a screen, and not in the terminal or nowhere."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))  # noqa: TID251  an entry point


def _kept(folder: Path, url: str) -> Path:
    """A page that goes on to the address, for this user's browser only."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / FILE
    to = html.escape(url, quote=True)
    write_secret(file, f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={to}"><a href="{to}">Go on</a>')
    return file
