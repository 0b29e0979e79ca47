"""The command line over a fake front: a data folder of its own, the environment of nobody."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from countersign.cli import front
from countersign.cli.main import app
from tests.unit.cli.fronts import FakeFront

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("COUNTERSIGN_KEY", "COUNTERSIGN_URL", "COUNTERSIGN_KEY_FILE", "DEMO_YES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COUNTERSIGN_DATA", str(tmp_path / "data"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "local.key").write_text("cs_0123456789abcdef_" + "0" * 64 + "\n")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, data: Path) -> FakeFront:
    made = FakeFront()
    monkeypatch.setattr(front, "connected", made.connected)
    return made


@pytest.fixture
def invoke() -> Invoke:
    def run(*words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(words), input=stdin)

    return run


def document(result: Result) -> dict[str, Any]:
    """The one JSON document a command wrote."""
    (line,) = result.stdout.splitlines()
    told: dict[str, Any] = json.loads(line)
    return told
