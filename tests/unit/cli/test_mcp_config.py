"""Entries for MCP clients, letter for letter as each client reads them. Sources stand in `countersign.cli.client_files`."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from countersign.adapters.settings import Settings
from countersign.cli.client_files import CLIENTS, Asked, entries_of
from countersign.cli.main import app
from countersign.core.errors import InvalidArgument
from tests.requirements import requirement

COMMAND = str(Path(sys.executable).with_name("countersign"))
SETTINGS = Settings(data=Path("/data"))
SHELL = {"COUNTERSIGN_STACKS": "/stacks", "COUNTERSIGN_KEY": "cs_secret", "COUNTERSIGN_DATA": "/other", "HOME": "/nowhere"}

STDIO = {
    "claude-code": """\
{
  "mcpServers": {
    "countersign": {
      "type": "stdio",
      "command": "COMMAND",
      "args": [
        "front",
        "--stdio",
        "--data",
        "/data",
        "--role",
        "dev"
      ],
      "env": {
        "COUNTERSIGN_STACKS": "/stacks"
      }
    }
  }
}
""",
    "claude-desktop": """\
{
  "mcpServers": {
    "countersign": {
      "command": "COMMAND",
      "args": [
        "front",
        "--stdio",
        "--data",
        "/data",
        "--role",
        "dev"
      ],
      "env": {
        "COUNTERSIGN_STACKS": "/stacks"
      }
    }
  }
}
""",
    "vscode": """\
{
  "servers": {
    "countersign": {
      "type": "stdio",
      "command": "COMMAND",
      "args": [
        "front",
        "--stdio",
        "--data",
        "/data",
        "--role",
        "dev"
      ],
      "env": {
        "COUNTERSIGN_STACKS": "/stacks"
      }
    }
  }
}
""",
    "codex": """\
[mcp_servers.countersign]
command = "COMMAND"
args = ["front", "--stdio", "--data", "/data", "--role", "dev"]

[mcp_servers.countersign.env]
COUNTERSIGN_STACKS = "/stacks"
""",
}
STDIO["cursor"] = STDIO["claude-code"]  # the same words, in another file
STDIO["gemini"] = STDIO["generic"] = STDIO["claude-desktop"]

HTTP = {
    "claude-code": """\
{
  "mcpServers": {
    "countersign": {
      "type": "http",
      "url": "http://127.0.0.1:8700/mcp",
      "headers": {
        "Authorization": "Bearer ${COUNTERSIGN_KEY}"
      }
    }
  }
}
""",
    "cursor": """\
{
  "mcpServers": {
    "countersign": {
      "url": "http://127.0.0.1:8700/mcp",
      "headers": {
        "Authorization": "Bearer ${env:COUNTERSIGN_KEY}"
      }
    }
  }
}
""",
    "vscode": """\
{
  "inputs": [
    {
      "type": "promptString",
      "id": "countersign-key",
      "description": "Countersign key",
      "password": true
    }
  ],
  "servers": {
    "countersign": {
      "type": "http",
      "url": "http://127.0.0.1:8700/mcp",
      "headers": {
        "Authorization": "Bearer ${input:countersign-key}"
      }
    }
  }
}
""",
    "codex": """\
[mcp_servers.countersign]
url = "http://127.0.0.1:8700/mcp"
bearer_token_env_var = "COUNTERSIGN_KEY"
""",
    "gemini": """\
{
  "mcpServers": {
    "countersign": {
      "httpUrl": "http://127.0.0.1:8700/mcp",
      "headers": {
        "Authorization": "Bearer $COUNTERSIGN_KEY"
      }
    }
  }
}
""",
}
HTTP["generic"] = HTTP["claude-code"]


def text(client: str, **asked: Any) -> str:
    found, entries = entries_of(SETTINGS, Asked(client=client, **asked), SHELL)
    return found.text(found.document(entries, http=bool(asked.get("http"))))


@requirement("clients:config")
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_told_what_to_start(client: str) -> None:
    assert text(client, role="dev").replace(COMMAND, "COMMAND") == STDIO[client]


@requirement("clients:config")
@pytest.mark.parametrize("client", [name for name, client in CLIENTS.items() if client.http])
def test_a_client_is_told_where_to_call_and_where_the_key_is(client: str) -> None:
    assert text(client, http=True) == HTTP[client]


def test_the_client_without_an_address_in_its_file_is_told_so() -> None:
    with pytest.raises(InvalidArgument, match="leave out --http"):
        text("claude-desktop", http=True)


@requirement("clients:config")
@pytest.mark.parametrize("client", CLIENTS)
def test_no_secret_of_the_shell_is_written_down(client: str) -> None:
    assert "cs_secret" not in text(client)
    assert "/other" not in text(client)


def test_servers_have_entries_of_their_own() -> None:
    document = json.loads(text("generic", servers=("runs", "terraform")))
    over_http = json.loads(text("generic", servers=("runs",), http=True))

    assert list(document["mcpServers"]) == ["countersign-runs", "countersign-terraform"]
    assert document["mcpServers"]["countersign-terraform"]["args"][-2:] == ["--server", "terraform"]
    assert over_http["mcpServers"]["countersign-runs"]["url"] == "http://127.0.0.1:8700/mcp?servers=runs"


@pytest.mark.parametrize("spelled", ["runs", "countersign-runs", "platform-runs"])
def test_a_server_is_known_by_the_name_of_its_entry_too(spelled: str) -> None:
    document = json.loads(text("generic", servers=(spelled,)))

    assert list(document["mcpServers"]) == ["countersign-runs"]
    assert document["mcpServers"]["countersign-runs"]["args"][-2:] == ["--server", "runs"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"client": "emacs"}, "no client 'emacs'; there are claude-code"),
        ({"client": "codex", "role": "nobody"}, "no role 'nobody'"),
        ({"client": "codex", "role": "approver"}, "for people"),  # what a client starts is an agent
        ({"client": "codex", "servers": ("platform-pipeline",)}, "no server 'pipeline'; there are core, helm, runs, terraform"),
        ({"client": "codex", "servers": ("argocd",)}, "no server 'argocd'; there are core, helm, runs, terraform"),
    ],
)
def test_what_there_is_not_is_written_nowhere(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        entries_of(SETTINGS, Asked(**asked), {})


@pytest.mark.parametrize("client", CLIENTS.values(), ids=lambda client: client.name)
def test_each_format_says_where_it_comes_from_and_where_it_goes(client: Any) -> None:
    assert client.source
    assert client.file
    assert client.name == "generic" or client.source.startswith("https://")


# -- into a file ----------------------------------------------------------------------------------------------------------


def written(file: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["mcp-config", *arguments, "--to", str(file), "--data", str(file.parent / "data")])


def test_what_is_in_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text('{"theme": "dark", "mcpServers": {"other": {"command": "other"}, "countersign": {"command": "old"}}}')

    assert written(file, "gemini").exit_code == 0
    document = json.loads(file.read_text())
    assert (document["theme"], document["mcpServers"]["other"]) == ("dark", {"command": "other"})
    assert document["mcpServers"]["countersign"]["command"] == COMMAND


def test_a_table_is_added_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "config.toml"
    assert written(file, "codex").exit_code == 0
    file.write_text(f"model = 'o'\n{file.read_text()}")
    again = written(file, "codex")

    assert tomllib.loads(file.read_text())["mcp_servers"]["countersign"]["command"] == COMMAND
    assert tomllib.loads(file.read_text())["model"] == "o"
    assert again.exit_code == 1


def test_a_file_with_comments_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text('{"servers": {} // mine\n}')

    assert written(file, "vscode").exit_code == 1
    assert file.read_text() == '{"servers": {} // mine\n}'


def test_a_program_reads_one_document(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["mcp-config", "cursor", "--json", "--data", str(tmp_path)])
    told = json.loads(done.stdout)

    assert (told["client"], list(told["configuration"])) == ("cursor", ["mcpServers"])
