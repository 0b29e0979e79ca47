"""Requests nobody would send on purpose, and those somebody might: made by hypothesis from the tools' own schemas."""

import json
import string
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from mcp_front.tools import toolset

VERSIONS = ("2026-07-28", "2025-11-25", "2025-06-18", "2024-11-05", "1999-01-01", "")
TOOLS = toolset().tools
META = "io.modelcontextprotocol/"
NASTY = (
    *("", " ", "\0", "\n", "\u202e\u2066abc", "\ud7ff", "💥" * 40, "%00", "a" * 5000, "null", "NaN", "1e999", "0x10", "-rf", "--help"),
    *("../../etc/passwd", "file:///etc/passwd", "${jndi:ldap://x}", "'; DROP TABLE runs; --", "<script>alert(1)</script>", "{{7*7}}"),
    *("st_0", "run_" + "0" * 26),
)
METHODS = (
    *("tools/list", "tools/call", "resources/list", "resources/read", "resources/templates/list", "resources/subscribe", "ping"),
    *("prompts/list", "prompts/get", "completion/complete", "server/discover", "initialize", "logging/setLevel", "no/such", ""),
    *("tasks/get", "tasks/cancel", "tasks/update", "sampling/createMessage", "notifications/cancelled", "tools/call\0"),
)
URIS = ("run://", "run://x/plan", "tools://manifest", "file:///etc/passwd", "policy://a/b", "environment://local/dev")
PARAMETERS = ("name", "uri", "arguments", "taskId", "ref", "argument", "cursor", "level")
HEADERS = ("Accept", "Content-Type", "Authorization", "Origin", "Host", "MCP-Protocol-Version", "Mcp-Session-Id", "Mcp-Method", "Mcp-Name")
VERBS = ("POST", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD", "BREW")
PATHS = ("/mcp", "/mcp", "/mcp/", "/mcp?servers=x", "/mcp?servers=runs,%00", "/mcp/../mcp", "/nothing", "/runs/x", "//", "/%2e%2e/")
SLOW = {"wait_seconds", "timeout_seconds"}  # waiting is not what is looked for


@dataclass(frozen=True)
class Request:
    """What goes over the wire; `tool` where it is a call that should get as far as its arguments."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = "/mcp"
    tool: str | None = None


texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=40), st.text(string.ascii_lowercase + "-_/.", max_size=30))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)), max_leaves=12
)


class Wire:
    """Requests of one key, about what there is in the store."""

    def __init__(self, key: str, runs: list[str], *, session: str, digest: str = "sha256:" + "0" * 64) -> None:
        self._key = key
        self._session = session  # of the era that has them
        self._known: dict[str, list[Any]] = {
            "env": ["dev", "local/dev", "prod"],
            "workspace": ["main", "shop"],
            "ref": ["dev", "local", "local/prod"],
            "run_id": runs,
            "compare_to": runs,
            "plan_digest": [digest],
            "target": ["main", "dev/shop"],
            "type": ["apply_terraform", "terraform_plan"],
            "source": [{"path": "main"}],
            "input": [{"env": "dev"}],
            "cursor": ["o0", "o5"],
            "artifact_id": ["art_0"],
            "lock_id": ["x"],
            "since": ["-2h", "2026-01-01T00:00:00Z"],
        }

    def any(self) -> st.SearchStrategy[Request]:
        """Four of five are calls, so that most requests get past the protocol."""
        calls = self.calls()
        return st.one_of(calls, calls, calls, calls, self.other_methods(), self.no_messages(), self.no_http())

    def calls(self) -> st.SearchStrategy[Request]:
        return st.sampled_from(sorted(TOOLS)).flatmap(
            lambda name: st.builds(
                lambda arguments, version: self._request("tools/call", {"name": name, "arguments": arguments}, version, tool=name),
                self._arguments(name),
                st.sampled_from(VERSIONS[:2]),
            )
        )

    def other_methods(self) -> st.SearchStrategy[Request]:
        parameters = st.one_of(
            st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=4),
            st.fixed_dictionaries({"uri": st.sampled_from(URIS)}),
            values,
        )
        return st.builds(self._request, st.sampled_from(METHODS), parameters, st.sampled_from(VERSIONS))

    def no_messages(self) -> st.SearchStrategy[Request]:
        """Bodies that are no request, or no JSON."""
        depth = st.integers(1, 3000)
        bodies = st.one_of(
            st.binary(max_size=200),
            values.map(lambda value: json.dumps(value).encode()),
            st.lists(values, max_size=3).map(lambda value: json.dumps(value).encode()),
            depth.map(lambda n: b"[" * n),
            depth.map(lambda n: b'{"a":' * n + b"1" + b"}" * n),
            st.integers(1, 6000).map(lambda n: b'{"jsonrpc":"2.0","id":' + b"9" * n + b',"method":"ping"}'),
            st.sampled_from([b'{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping"}', b"\xff\xfe{}", b"{}", b"", b'"\\ud800"']),
        )
        return st.builds(lambda body, version: Request(body=body, headers=self._headers(version)), bodies, st.sampled_from(VERSIONS))

    def no_http(self) -> st.SearchStrategy[Request]:
        """Requests that say other things than they should."""
        latin = st.text([chr(c) for c in range(33, 127)], max_size=30)
        wrong = st.dictionaries(st.sampled_from(HEADERS), latin, max_size=3)
        body = json.dumps(self._message("tools/list", {}, VERSIONS[0])).encode()
        return st.builds(
            lambda method, path, more: Request(body=body, headers=self._headers(VERSIONS[0]) | more, method=method, path=path),
            st.sampled_from(VERBS),
            st.sampled_from(PATHS),
            wrong,
        )

    def _arguments(self, tool: str) -> st.SearchStrategy[Any]:
        schema = TOOLS[tool].input_schema
        properties: dict[str, Any] = schema["properties"]
        required = schema.get("required", [])
        fitting = st.fixed_dictionaries(
            {name: self._value(name, properties[name]) for name in required},
            optional={name: self._value(name, own) for name, own in properties.items() if name not in required},
        )
        astray = st.dictionaries(st.one_of(st.sampled_from([*properties, "no_such"]), texts), values, max_size=3)
        every = st.one_of(fitting, st.builds(lambda one, other: {**one, **other}, fitting, astray), astray)
        return every.map(lambda given: _hurried(given, properties))

    def _value(self, name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
        if name in SLOW:
            return st.sampled_from([0, 0.0, -1, 1e9, "0", None, True])
        kinds: dict[str, st.SearchStrategy[Any]] = {
            "string": texts,
            "integer": st.integers(-5, 500),
            "number": st.floats(allow_nan=False),
            "boolean": st.booleans(),
            "array": st.lists(st.one_of(texts, values), max_size=4),
            "object": st.dictionaries(texts, values, max_size=4),
        }
        likely = [st.sampled_from(self._known[name])] * 3 if name in self._known else []
        if "enum" in schema:
            likely.append(st.sampled_from(schema["enum"]))
        return st.one_of(
            *likely, kinds.get(schema.get("type", ""), values), values if not likely else kinds.get(schema.get("type", ""), values)
        )

    def _message(self, method: str, parameters: Any, version: str) -> dict[str, Any]:
        if isinstance(parameters, dict) and version == VERSIONS[0]:
            told = {f"{META}protocolVersion": version, f"{META}clientCapabilities": {}}
            parameters = {**parameters, "_meta": told}
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}

    def _headers(self, version: str) -> dict[str, str]:
        return {
            **({"Mcp-Session-Id": self._session} if version.startswith("2025") else {}),
            "Authorization": f"Bearer {self._key}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            "MCP-Protocol-Version": version,
        }

    def _request(self, method: str, parameters: Any, version: str, *, tool: str | None = None) -> Request:
        headers = self._headers(version)
        if version == VERSIONS[0]:
            named = parameters.get("name", parameters.get("uri")) if isinstance(parameters, dict) else None
            said = {"Mcp-Method": method, **({"Mcp-Name": named} if isinstance(named, str) else {})}
            headers |= {name: value for name, value in said.items() if value.isascii() and value.isprintable()}
        return Request(body=json.dumps(self._message(method, parameters, version)).encode(), headers=headers, tool=tool)


def _hurried(arguments: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    """The same, without anything that makes the front wait, by default either."""
    quick = {name: 0 for name in SLOW if name in properties}
    return quick | {
        name: value for name, value in arguments.items() if name not in SLOW or not isinstance(value, int | float) or value <= 0
    }
