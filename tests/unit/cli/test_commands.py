"""The command line as others speak of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from countersign.cli.main import app
from tests.unit.cli.conftest import Invoke

ROOT = Path(__file__).parents[3]
# As messages, pages and documents write a command to run.
NAMED = re.compile(r"(?:`|<pre>|\\n|^\s*\$ )countersign ([a-z-]+)(?: ([a-z-]+))?", re.MULTILINE)


def commands() -> dict[str, set[str]]:
    """Every command, with its subcommands."""
    group = typer.main.get_command(app)
    return {name: set(getattr(command, "commands", ())) for name, command in group.commands.items()}  # type: ignore[attr-defined]


def named() -> Iterator[tuple[Path, str, str]]:
    for folder in ("countersign", "mcp_front", "activities", "workflows", "docs", "infra"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".md", ".tf", ".toml") and file.name != "catalogue.md":  # which is ahead of what is built
                for found in NAMED.finditer(file.read_text(encoding="utf-8")):
                    yield file.relative_to(ROOT), found[1], found[2] or ""


def test_every_command_that_a_message_tells_people_to_run_exists() -> None:
    there = commands()

    missing = [
        f"{file}: countersign {command} {sub}"
        for file, command, sub in named()
        if command not in there or (there[command] and sub and sub not in there[command])
    ]

    assert missing == []


def test_messages_do_name_commands() -> None:
    assert {"up", "key", "secret"} <= {command for _, command, _ in named()}


def test_a_project_that_a_host_sets_is_understood_and_said_to_select_nothing(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def served(*_: object, **__: object) -> None: ...

    monkeypatch.setenv("PROJECT_ID", "acme-web")
    monkeypatch.setattr("mcp_front.main.serve_stdio", served)
    monkeypatch.setattr("countersign.cli.serving._logged", lambda: None)

    assert invoke("front", "--stdio").exit_code == 0
    assert "PROJECT_ID selects nothing" in caplog.text
