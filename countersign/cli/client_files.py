"""What an MCP client's own file has to say, so that it finds this service: `countersign mcp-config`.

No secret is ever written: over stdio the client starts `countersign front` as an agent of the local user, and over HTTP its entry
names a variable, or asks, in whatever way that client has for it. Where each format comes from stands beside it.
"""

import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from countersign.adapters.settings import Settings
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit
from countersign.cli.session import KEY_VARIABLE
from countersign.core.errors import FailedPrecondition, InvalidArgument
from countersign.core.principal import Kind

NAME = "countersign"
_KEPT_BACK = frozenset({KEY_VARIABLE, "COUNTERSIGN_KEY_FILE", "COUNTERSIGN_DATA", "COUNTERSIGN_URL"})  # never in an entry
Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stdio:
    """What a client has to start."""

    command: str
    args: Sequence[str]
    env: Mapping[str, str]

    def entry(self, **more: Any) -> Entry:
        return {**more, "command": self.command, "args": list(self.args), **({"env": dict(self.env)} if self.env else {})}


@dataclass(frozen=True, kw_only=True)
class Client:
    name: str
    file: str  # where its users keep it
    source: str  # of the format
    table: str  # of the file, in which servers stand
    stdio: Callable[[Stdio], Entry]
    http: Callable[[str], Entry] | None  # None: it takes no address in this file
    also: Mapping[str, Any] = field(default_factory=dict)  # beside the table, for an entry over HTTP
    toml: bool = False

    def document(self, servers: Mapping[str, Entry], *, http: bool) -> dict[str, Any]:
        return {**(self.also if http else {}), self.table: dict(servers)}

    def text(self, document: Mapping[str, Any]) -> str:
        return _toml(document) if self.toml else json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _bearer(how: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {how}"}


CLIENTS: Mapping[str, Client] = {
    client.name: client
    for client in (
        Client(
            name="claude-code",
            file=".mcp.json of the project",
            source="https://code.claude.com/docs/en/mcp, 'Environment variable expansion in .mcp.json'",
            table="mcpServers",
            stdio=lambda it: it.entry(type="stdio"),
            http=lambda url: {"type": "http", "url": url, "headers": _bearer("${" + KEY_VARIABLE + "}")},
        ),
        Client(
            name="claude-desktop",
            file="claude_desktop_config.json: Settings, Developer, Edit Config",
            source="https://modelcontextprotocol.io/docs/develop/connect-local-servers",
            table="mcpServers",
            stdio=lambda it: it.entry(),
            http=None,
        ),
        Client(
            name="cursor",
            file=".cursor/mcp.json of the project, or ~/.cursor/mcp.json",
            source="https://cursor.com/docs/mcp, 'Using mcp.json' and 'Config interpolation'",
            table="mcpServers",
            stdio=lambda it: it.entry(type="stdio"),
            http=lambda url: {"url": url, "headers": _bearer("${env:" + KEY_VARIABLE + "}")},
        ),
        Client(
            name="vscode",
            file=".vscode/mcp.json of the workspace",
            source="https://code.visualstudio.com/docs/copilot/reference/mcp-configuration",
            table="servers",
            stdio=lambda it: it.entry(type="stdio"),
            http=lambda url: {"type": "http", "url": url, "headers": _bearer("${input:countersign-key}")},
            also={"inputs": [{"type": "promptString", "id": "countersign-key", "description": "Countersign key", "password": True}]},
        ),
        Client(
            name="codex",
            file="~/.codex/config.toml",
            source="https://developers.openai.com/codex/mcp",
            table="mcp_servers",
            stdio=lambda it: it.entry(),
            http=lambda url: {"url": url, "bearer_token_env_var": KEY_VARIABLE},
            toml=True,
        ),
        Client(
            name="gemini",
            file=".gemini/settings.json of the project, or ~/.gemini/settings.json",
            source="https://geminicli.com/docs/tools/mcp-server, and docs/cli/configuration on variables in settings",
            table="mcpServers",
            stdio=lambda it: it.entry(),
            http=lambda url: {"httpUrl": url, "headers": _bearer("$" + KEY_VARIABLE)},
        ),
        Client(
            name="generic",
            file="the client's own file",
            source="what most clients read: mcpServers with command, args and env, or with type, url and headers",
            table="mcpServers",
            stdio=lambda it: it.entry(),
            http=lambda url: {"type": "http", "url": url, "headers": _bearer("${" + KEY_VARIABLE + "}")},
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    client: str
    role: str | None = None
    servers: Sequence[str] = ()
    http: bool = False


async def configure(settings: Settings, asked: Asked, *, to: Path | None, as_json: bool) -> Exit:
    client, entries = entries_of(settings, asked, os.environ)  # noqa: TID251  an entry point
    document = client.document(entries, http=asked.http)
    if to is not None:
        _merged(client, document, to)
    notes = _notes(client, asked, to=to)
    if as_json:
        emit({"client": client.name, "file": str(to or client.file), "source": client.source, "configuration": document, "notes": notes})
        return Exit.OK
    if to is None:
        sys.stdout.write(client.text(document))
    for note in notes:
        console(stderr=True).print(note)
    return Exit.OK


def entries_of(settings: Settings, asked: Asked, environ: Mapping[str, str]) -> tuple[Client, Mapping[str, Entry]]:
    """The client, and its entries by name. Raises InvalidArgument for what there is not, so that no such file is ever written."""
    from mcp_front.domain import server_named
    from mcp_front.rights import checked_role
    from mcp_front.tools import toolset

    if asked.client not in CLIENTS:
        raise InvalidArgument(f"no client {asked.client!r}; there are {', '.join(CLIENTS)}", field="client")
    client, there = CLIENTS[asked.client], toolset().servers
    servers = [server_named(name) for name in asked.servers]
    if unknown := sorted(set(servers) - there):
        raise InvalidArgument(f"no server {unknown[0]!r}; there are {', '.join(sorted(there))}", field="server")
    if asked.role is not None:
        checked_role(asked.role, Kind.AGENT)
    names: dict[str, str | None] = {f"{NAME}-{server}": server for server in servers} or {NAME: None}
    if not asked.http:
        return client, {name: client.stdio(_start(settings, asked.role, server, environ)) for name, server in names.items()}
    if client.http is None:
        raise InvalidArgument(f"{client.name} takes no address in its file; leave out --http", field="http")
    url = f"{settings.front_url}/mcp"
    return client, {name: client.http(f"{url}?servers={server}" if server else url) for name, server in names.items()}


def _start(settings: Settings, role: str | None, server: str | None, environ: Mapping[str, str]) -> Stdio:
    args = ["front", "--stdio", "--data", str(settings.data)]
    args += [*(["--role", role] if role else []), *(["--server", server] if server else [])]
    # A client starts it without the shell this was typed into, so what the shell says about the service is written down.
    env = {name: value for name, value in sorted(environ.items()) if name.startswith("COUNTERSIGN_") and name not in _KEPT_BACK}
    return Stdio(command=str(Path(sys.executable).with_name("countersign")), args=args, env=env)


def _notes(client: Client, asked: Asked, *, to: Path | None) -> list[str]:
    notes = [f"Written to {to}." if to else f"It belongs into {client.file}."]
    notes.append(f"The format is that of {client.source}.")
    if asked.http:
        how = f"--as agent:{client.name} --kind agent --role {asked.role or 'platform'} --for <you>"
        where = "the client asks for it" if client.also else f"put it into {KEY_VARIABLE}"
        notes.append(f"It needs a key, which says the role: `countersign key create {how}`; {where}.")
    return notes


def _merged(client: Client, document: Mapping[str, Any], file: Path) -> None:
    """Put the entries into a file beside what is there. Raises FailedPrecondition for a file that cannot be kept as it is."""
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    try:
        there = (tomllib.loads(before) if client.toml else json.loads(before)) if before.strip() else {}
    except ValueError:
        raise FailedPrecondition(f"{file} has comments or is broken; leave out --to and put it in by hand") from None
    if client.toml:
        if taken := sorted(set(there.get(client.table, {})) & set(document[client.table])):
            raise FailedPrecondition(f"{file} has [{client.table}.{taken[0]}] already; take it out first")
        text = f"{before.rstrip()}\n\n{client.text(document)}".lstrip()
    else:
        merged = {**there, **{key: value for key, value in document.items() if key != client.table and key not in there}}
        merged[client.table] = {**there.get(client.table, {}), **document[client.table]}
        text = client.text(merged)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.countersign")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def _toml(document: Mapping[str, Any]) -> str:
    """Tables of texts and lists of texts, and of one table more: all there is in these files."""
    lines: list[str] = []
    for table, servers in document.items():
        for name, entry in servers.items():
            plain = {key: value for key, value in entry.items() if not isinstance(value, dict)}
            lines += [f"[{table}.{name}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items())]
            for key, value in entry.items():
                if isinstance(value, dict):
                    lines += ["", f"[{table}.{name}.{key}]", *(f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())]
            lines.append("")
    return "\n".join(lines)
