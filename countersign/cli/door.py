"""What a command that asks the front needs: an address, a key, and how to answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from countersign.adapters.settings import Settings
from countersign.cli import front
from countersign.cli.front import Front
from countersign.cli.output import console, emit
from countersign.cli.session import token
from countersign.core.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class Door:
    settings: Settings
    url: str | None = None
    key_file: Path | None = None
    as_json: bool = False
    out: Console = field(default_factory=console)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Front]:
        """The front, with the caller's key. Raises Unavailable or Unauthenticated."""
        async with front.connected(self.address, token(key_file=self.key_file, data=self.settings.data)) as connected:
            yield connected

    @property
    def address(self) -> str:
        url = (self.url or self.settings.front_url).rstrip("/")
        return url if url.endswith("/mcp") or "/mcp/" in url else f"{url}/mcp"

    def show(self, *parts: RenderableType) -> None:
        """For people only; a program gets one document at the end."""
        if not self.as_json:
            for part in parts:
                self.out.print(part)

    def answer(self, document: dict[str, Any]) -> None:
        """For programs only."""
        if self.as_json:
            emit(document)


async def place_of(connected: Front, stack: str) -> tuple[str, str]:
    """(environment, slug) of `org/env/slug`, `env/slug`, or `slug` where there is one environment. Raises InvalidArgument."""
    env, _, slug = stack.rpartition("/")
    if not slug or env.count("/") > 1:
        raise InvalidArgument(f"{stack!r} is no stack; write env/slug or org/env/slug", field="stack")
    if env:
        return env, slug
    answer = await connected.call("list_environments")
    known = [str(e.get("ref")) for e in (answer.get("data") or {}).get("environments", ())]
    if len(known) != 1:
        raise InvalidArgument(f"which environment? Write one of {', '.join(f'{env}/{slug}' for env in known)}", field="stack")
    return known[0], slug
