"""What must not stand in a committed file is found, and what may stand there is left alone."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check_texts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_texts", ROOT / "tools" / "check_texts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INDEX = "py" + "pi"  # this file is checked too


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("requirements/base.txt", f"--index-url https://{INDEX}.example/simple"),
        ("requirements/base.txt", "--extra-index-url=packages"),
        ("requirements/dev.txt", "-i packages"),
        ("requirements/dev.txt", "hatchling @ file:///tmp/hatchling.whl"),
        ("docs/setup.md", f"Packages come from {INDEX}.org."),
        ("countersign/core/run.py", f"# see {INDEX}.org"),
        ("README.md", "See https://docs.somewhere.net/page."),
        ("README.md", "cd /home/ana/countersign"),
        ("README.md", "cd /root/"),
        ("Makefile", "ROOT := /checkouts/one/"),
    ],
)
def test_it_is_found(check_texts: ModuleType, name: str, line: str) -> None:
    assert [number for number, _ in check_texts.problems(name, f"fine\n{line}\n", root="/checkouts/one")][:1] == [2]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("requirements/base.txt", "alembic==1.20.1 \\"),
        ("requirements/base.txt", "    --hash=sha256:e5c1a5d7f4 \\"),
        ("README.md", "Open http://127.0.0.1:8700/runs, or https://gate.example.com/mcp."),
        ("README.md", "Data lives in ~/.local/share/countersign or $HOME/data; the wheel is in dist/root/."),
        ("LICENSE", "       http://www.apache.org/licenses/LICENSE-2.0"),
        ("countersign/core/redaction.py", 'SCHEME = "https://user:password@host"'),
        ("tests/unit/test_paths.py", 'HOME = "/home/ana"'),
    ],
)
def test_it_is_left_alone(check_texts: ModuleType, name: str, line: str) -> None:
    assert list(check_texts.problems(name, line, root="/checkouts/one")) == []
