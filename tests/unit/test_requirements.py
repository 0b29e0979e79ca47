"""Promises and tests know each other: none is listed without a test, and no test claims what nobody promised."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.requirements import REQUIREMENTS

TESTS = Path(__file__).parents[1]


def claimed(source: str) -> Iterator[str]:
    """Ids in decorators and marks `requirement("…")`, read without running anything."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "requirement":
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def claims() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        if path.name not in ("requirements.py", "conftest.py") and path != Path(__file__):
            for name in claimed(path.read_text()):
                found.setdefault(name, []).append(path.relative_to(TESTS).as_posix())
    return found


def test_every_promise_has_a_test() -> None:
    found = claims()
    missing = [name for name in REQUIREMENTS if name not in found]

    assert not missing, f"no test claims {len(missing)} of {len(REQUIREMENTS)}: {', '.join(missing)}"


def test_no_test_claims_what_nobody_promised() -> None:
    unknown = {name: files for name, files in claims().items() if name not in REQUIREMENTS}

    assert not unknown, f"not listed in tests/requirements.py: {unknown}"


def test_a_promise_is_a_sentence_with_a_source() -> None:
    for name, said in REQUIREMENTS.items():
        assert said.sentence.endswith("."), name
        assert said.source, name


def test_claims_are_read_from_any_kind_of_mark() -> None:
    source = '@requirement("a:one", "a:two")\nasync def test(): ...\npytestmark = [pytest.mark.requirement("a:three")]\n'

    assert sorted(claimed(source)) == ["a:one", "a:three", "a:two"]
