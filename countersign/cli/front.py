"""The command line as an MCP client of the front: the same tools, rights and answers an agent gets, with the key of a person."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from countersign.core.errors import BY_CODE, CountersignError, Internal, PermissionDenied, Unauthenticated, Unavailable

SLACK = 15.0  # seconds an answer may take beyond what the call itself waits
Answer = dict[str, Any]  # data?, page?, run?, warnings?, next?, replayed?


class Front(Protocol):
    async def call(self, tool: str, /, **arguments: Any) -> Answer:
        """What the tool answered. Arguments that are None are left out. Raises the error it answered."""
        ...


class McpFront:
    """The front behind a connected client of the SDK."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    async def call(self, tool: str, /, **arguments: Any) -> Answer:
        import httpx2
        from mcp import MCPError

        given = {name: value for name, value in arguments.items() if value is not None}
        waits = float(given.get("timeout_seconds") or given.get("wait_seconds") or 0)
        try:
            result = await self._client.call_tool(tool, given, read_timeout_seconds=waits + SLACK)
        except MCPError as refused:
            raise _protocol_error(tool, refused, self._url) from None
        except (httpx2.HTTPError, OSError, EOFError):
            raise away(self._url) from None
        content: Answer = result.structured_content or {}
        if (error := content.get("error")) is not None:
            raise error_of(error)
        if result.is_error:
            raise Internal(_text(result)[:500] or f"{tool} failed without a word")
        return content


@asynccontextmanager
async def connected(url: str, token: str) -> AsyncIterator[Front]:
    """A connection to the front at `url` (with its `/mcp`). Raises Unavailable or Unauthenticated."""
    import httpx2
    from mcp import Client, MCPError
    from mcp.client.streamable_http import streamable_http_client

    # A role lists only some of the tools it may call; the client warns about each that it cannot look up.
    for name in ("mcp", "client"):
        logging.getLogger(name).setLevel(logging.ERROR)
    statuses: list[int] = []

    async def noted(response: Any) -> None:
        statuses.append(response.status_code)

    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(10, read=60), event_hooks={"response": [noted]}) as http:
        client = Client(streamable_http_client(url, http_client=http))
        try:
            await client.__aenter__()
        except BaseException as failed:
            if 401 in statuses:
                raise Unauthenticated(
                    f"the front at {url} does not know this key; it was revoked, has expired, or is of another service"
                ) from None
            if _only(failed, (httpx2.HTTPError, OSError, MCPError)):
                raise away(url) from None
            raise
        try:
            yield McpFront(client, url)
        finally:
            # Without the error: the client's task group would wrap it in a group, and its kind is what callers look at.
            try:
                await client.__aexit__(None, None, None)
            except Exception as late:
                if not _only(late, (httpx2.HTTPError, OSError, MCPError)):
                    raise


def away(url: str) -> Unavailable:
    return Unavailable(f"the front does not answer at {url}; start it with `countersign up`, or name another with --url")


def error_of(error: dict[str, Any]) -> CountersignError:
    """The error a tool answered with, as one of ours."""
    code = str(error.get("code"))
    kind: type[CountersignError] | None = BY_CODE.get(code)
    if kind is None:  # a code of a newer front
        kind = type("Refused", (CountersignError,), {"code": code, "retryable": bool(error.get("retryable"))})
    details = {"run_id": error["run_id"]} if error.get("run_id") else {}
    message = str(error.get("message", ""))
    if code == "internal" and error.get("request_id"):
        message += f" ({error['request_id']})"
    return kind(message, field=error.get("field"), next=error.get("next") or (), details=details)


def _protocol_error(tool: str, refused: Any, url: str) -> CountersignError:
    import mcp.types as types

    if refused.error.code == types.INVALID_PARAMS:
        # Hidden and unknown tools are told in the same words.
        return PermissionDenied(f"this key has no right to {tool}, or the front does not have it ({refused.error.message})")
    if refused.error.code in (types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT):
        return away(url)
    return Unavailable(f"the front at {url} did not answer {tool}: {refused.error.message}")


def _only(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether an error, or everything in a group of them, is of these kinds."""
    if isinstance(error, BaseExceptionGroup):
        return all(_only(inner, kinds) for inner in error.exceptions)
    return isinstance(error, kinds)


def _text(result: Any) -> str:
    return "\n".join(part.text for part in result.content if getattr(part, "type", None) == "text")
