"""Code and catalogue say the same, in both directions."""

import json
import re
from typing import Any

import pytest

from countersign.core.principal import Kind, Principal
from mcp_front.domain import ALIASES, ToolSpec
from mcp_front.rights import PEOPLE_ONLY, ROLES, Caller, listed
from mcp_front.tools import toolset
from tests.unit.front import catalogue

TEXT = catalogue.FILE.read_text()
TOOLS = toolset().tools
ROWS = {row.name: row for row in catalogue.rows(TEXT)}
SERVERS = {"core", "runs", "terraform", "helm"}

# Not built yet, and why.
LATER = {
    "list_projects": "projects come with the org and deploy servers",
    "get_project": "projects come with the org and deploy servers",
    "browse_repo": "needs projects",
    "search_repo": "needs projects",
    "explain_denial": "needs the audit trail of the gateway server",
    "run_heartbeat": "leases come with the agents that hold them",
}
CHANGES_NOTHING = {"terraform_validate", "terraform_plan", "terraform_detect_drift"}  # so there is nothing to try out
RECORDS = {"terraform_register_workspace", "terraform_forget_workspace"}
TOKEN = 3  # bytes of JSON; measured on English and schemas, a token is rarely shorter


def taken_by_class(row: catalogue.Row) -> dict[str, Any]:
    """What section 1 says is taken without being written in the tables, with its default."""
    takes: dict[str, Any] = {}
    if {"list", "search", "find"} & set(row.name.split("_")):
        takes |= {"cursor": None, "limit": 20}
    if row.access in "WD":
        takes |= {"idempotency_key": None, "message": None}
        if row.name not in CHANGES_NOTHING:
            takes["dry_run"] = False
    if row.name in RECORDS:
        takes["expected_version"] = None
    if row.access == "D" and not row.run:
        takes["confirm_name"] = None
    if row.run:
        takes["wait_seconds"] = 0
    return takes


def test_the_catalogue_here_is_the_one_everybody_works_from() -> None:
    shared = catalogue.ROOT.parent / "shared" / "catalogue.md"

    assert not shared.exists() or shared.read_text() == TEXT


def test_every_tool_stands_in_the_catalogue_once() -> None:
    names = [row.name for row in catalogue.rows(TEXT)]

    assert len(names) > 150
    assert {name for name in names if names.count(name) > 1} == set()
    assert set(TOOLS) <= set(names)


def test_every_tool_of_a_built_server_is_in_code_or_comes_later_for_a_reason() -> None:
    there = {name for name, row in ROWS.items() if row.server in SERVERS}

    assert there - set(TOOLS) == set(LATER)
    assert not set(LATER) & set(TOOLS)


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_is_what_its_row_says(name: str) -> None:
    spec, row = TOOLS[name], ROWS[name]

    assert (spec.server, str(spec.access), spec.run) == (row.server, row.access, row.run)


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_takes_what_its_row_and_its_class_say(name: str) -> None:
    schema, row = TOOLS[name].input_schema, ROWS[name]
    common = taken_by_class(row)

    assert set(schema["properties"]) == {a.name for a in row.arguments} | set(common)
    assert set(schema.get("required", ())) == {a.name for a in row.arguments if a.required}
    for argument in row.arguments:
        given = schema["properties"][argument.name]
        if argument.default not in (None, ""):
            assert given.get("default") == argument.default, argument.name
        if argument.choices:
            assert tuple(given.get("enum") or given["items"]["enum"]) == argument.choices, argument.name
    for argument_name, default in common.items():
        assert schema["properties"][argument_name].get("default") == default, argument_name
        assert argument_name not in schema.get("required", ())


@pytest.mark.parametrize("name", TOOLS)
def test_a_definition_is_one_that_every_client_reads(name: str) -> None:
    spec = TOOLS[name]
    text = json.dumps(spec.wire)

    assert re.match(r"^[a-z][a-z0-9_]{0,39}$", name)
    assert 0 < len(spec.description) <= 600
    assert not {"$ref", "anyOf", "oneOf", "allOf", "$defs"} & set(re.findall(r'"([^"]+)":', text))
    assert spec.input_schema["additionalProperties"] is False
    for parameter in spec.input_schema["properties"].values():
        assert "type" in parameter or "enum" in parameter


@pytest.mark.parametrize("name", TOOLS)
def test_hints_follow_from_the_class(name: str) -> None:
    hints = TOOLS[name].annotations
    by_class = {"R": (True, False), "W": (False, False), "D": (False, True), "A": (False, True)}

    assert (hints["readOnlyHint"], hints["destructiveHint"]) == by_class[ROWS[name].access]
    assert hints["idempotentHint"] is (name in {"apply_terraform", "run_cancel"})
    assert hints["openWorldHint"] is (name in {"helm_search_charts", "helm_get_chart"})


def test_core_carries_what_the_catalogue_says() -> None:
    assert {name for name, spec in TOOLS.items() if spec.carried} == catalogue.carried_by_core(TEXT)


def test_older_names_are_understood_and_lead_to_tools() -> None:
    assert set(ALIASES) == {"terraform_apply", "terraform_destroy", "get_stack_job", "list_stack_jobs", "cancel_stack_job"}
    assert set(ALIASES.values()) <= set(TOOLS)
    assert toolset().get("run.start") is not None


def test_role_tables_are_those_of_the_catalogue() -> None:
    table = catalogue.roles(TEXT)

    assert set(ROLES) == set(table)
    for role, cells in table.items():
        assert set(ROLES[role]) == SERVERS
        for server in SERVERS:
            text = cells[server]
            cell = ROLES[role][server]
            letters = {letter for letter in text if letter in "RWDA"}
            assert ({str(a) for a in cell.classes}, cell.own, cell.loaded) == (letters, "own" in text, "**" in text), (role, server)


def definitions(role: str) -> list[ToolSpec]:
    kind = Kind.PERSON if role in PEOPLE_ONLY else Kind.AGENT
    caller = Caller(principal=Principal(id=f"{kind}:x", kind=kind), org="acme", role=role)
    return [spec for spec in TOOLS.values() if listed(caller, spec)]


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_loads_fits_its_budget(role: str) -> None:
    size = sum(len(json.dumps(spec.wire, separators=(",", ":"), ensure_ascii=False).encode()) for spec in definitions(role))

    assert size / TOKEN <= (12_000 if role == "admin" else 8_000)


def test_tools_that_answers_point_to_exist() -> None:
    """`next` is filtered by what exists, so a name that does not would silently be missing."""
    named = set()
    for path in (catalogue.ROOT / "mcp_front").rglob("*.py"):
        named |= set(re.findall(r'next=[\[(]((?:"[a-z_]+",?\s*)+)', path.read_text()))
    names = {name for group in named for name in re.findall(r'"([a-z_]+)"', group)}

    assert len(names) > 10
    assert names <= set(TOOLS)
