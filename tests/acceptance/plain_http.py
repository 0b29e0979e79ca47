"""The protocol by plain HTTP requests, without any SDK: what somebody writes who has only the specification and an HTTP client."""

import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

MODERN, LEGACY = "2026-07-28", "2025-11-25"
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
Types = Callable[[str], Mapping[str, Any]]  # a question, and what the person types


@dataclass
class Plain:
    """One client. `types` answers its questions; without it, it declares that it cannot ask."""

    http: httpx2.AsyncClient
    url: str
    version: str
    types: Types | None = None
    session: str | None = None
    ids: Any = field(default_factory=lambda: itertools.count(1))

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a request. Raises what the protocol answered instead."""
        while True:
            result = await (self._stateless if self.version == MODERN else self._in_session)(method, params)
            if result.get("resultType") != "input_required":
                return result
            answered = {key: self._answer(asked["params"]) for key, asked in result["inputRequests"].items()}
            params = {**params, "inputResponses": answered, "requestState": result["requestState"]}

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return await self.request("tools/call", name=name, arguments=arguments)

    async def _stateless(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """One request carries everything that has to be known."""
        told = {
            "io.modelcontextprotocol/protocolVersion": self.version,
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}} if self.types else {},
        }
        headers = {"MCP-Protocol-Version": self.version, "Mcp-Method": method}
        if method in _NAMED:
            headers["Mcp-Name"] = params[_NAMED[method]]
        return await self._post({"method": method, "params": {**params, "_meta": told}}, headers)

    async def _in_session(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if self.session is None:
            await self._initialize()
        return await self._post({"method": method, "params": params}, self._session_headers)

    async def _initialize(self) -> None:
        client = {"name": "plain", "version": "1"}
        capabilities = {"elicitation": {}} if self.types else {}
        asked = {"method": "initialize", "params": {"protocolVersion": self.version, "capabilities": capabilities, "clientInfo": client}}
        await self._post(asked, {})
        await self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    @property
    def _session_headers(self) -> dict[str, str]:
        return {"MCP-Protocol-Version": self.version, **({"Mcp-Session-Id": self.session} if self.session else {})}

    async def _post(self, message: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        number = next(self.ids)
        body = {"jsonrpc": "2.0", "id": number, **message}
        async with self.http.stream("POST", self.url, json=body, headers=headers) as response:
            assert response.status_code == 200, (response.status_code, await response.aread())
            self.session = response.headers.get("mcp-session-id", self.session)
            async for said in _messages(response):
                if "method" in said and "id" in said:  # the server asks while it answers: only in the era of sessions
                    await self._send({"jsonrpc": "2.0", "id": said["id"], "result": self._answer(said["params"])})
                elif said.get("id") == number:
                    assert "error" not in said, said
                    result: dict[str, Any] = said["result"]
                    return result
        raise AssertionError("the stream ended without an answer")

    async def _send(self, message: dict[str, Any]) -> None:
        response = await self.http.post(self.url, json=message, headers=self._session_headers)
        assert response.status_code == 202, response.text

    def _answer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        assert self.types is not None, "asked without having said that one can be"
        return {"action": "accept", "content": dict(self.types(params["message"]))}


async def _messages(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """What a response says: one JSON document, or the events of a stream."""
    if response.headers["content-type"].startswith("application/json"):
        yield json.loads(await response.aread())
        return
    data: list[str] = []
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").lstrip())
        elif not line and data:
            if text := "\n".join(data):
                yield json.loads(text)
            data = []


@asynccontextmanager
async def plain(port: int, key: str, version: str, types: Types | None = None) -> AsyncIterator[Plain]:
    headers = {"Authorization": f"Bearer {key}", "Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(40, read=60)) as http:
        yield Plain(http, f"http://127.0.0.1:{port}/mcp", version, types)
