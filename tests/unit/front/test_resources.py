"""Addresses of what can be read, as the catalogue lists them."""

import re

import pytest

from mcp_front import resources
from mcp_front.resources import TEMPLATES, found
from mcp_front.tools import toolset
from tests.unit.front import catalogue

SECTION = catalogue.FILE.read_text()
SECTION = SECTION[SECTION.index("## 3. ") : SECTION.index("## 4. ")]
RUN = "run_" + "0" * 26


def test_every_address_stands_in_the_catalogue() -> None:
    static = SECTION[: SECTION.index("- Templates")]
    for resource in resources.STATIC:
        assert f"`{resource.uri}`" in static
    for template in TEMPLATES:
        # "`run://{run_id}`, `run://{run_id}/plan`, `/logs`, `/evidence`"
        assert f"`{template.uri}`" in SECTION or f"`{template.uri.removeprefix('run://{run_id}')}`" in SECTION


def test_every_address_is_answered_by_a_tool_that_only_reads() -> None:
    tools = toolset().tools

    for template in TEMPLATES:
        assert str(tools[template.tool].access) == "R"


def test_names_are_unique_and_say_what_it_is() -> None:
    assert [template.name for template in TEMPLATES] == ["run", "run-plan", "run-logs", "run-evidence", "environment", "policy"]


@pytest.mark.parametrize(
    ("uri", "template", "variables"),
    [
        (f"run://{RUN}", "run", {"run_id": RUN}),
        (f"run://{RUN}/plan", "run-plan", {"run_id": RUN}),
        ("environment://acme/dev", "environment", {"org": "acme", "env": "dev"}),
        ("environment://acme/d%65v", "environment", {"org": "acme", "env": "dev"}),
        ("policy://acme/prod", "policy", {"org": "acme", "env": "prod"}),
    ],
)
def test_an_address_is_taken_apart(uri: str, template: str, variables: dict[str, str]) -> None:
    matched = found(uri)

    assert matched is not None
    assert (matched[0].name, matched[1]) == (template, variables)


@pytest.mark.parametrize(
    "uri", ["", "run://", f"run://{RUN}/", f"run://{RUN}/plan/x", f"RUN://{RUN}", "environment://acme", "file:///etc/passwd"]
)
def test_what_is_no_address_of_ours_is_none(uri: str) -> None:
    assert found(uri) is None


def test_templates_are_those_of_rfc_6570_level_one() -> None:
    for template in TEMPLATES:
        assert re.fullmatch(r"[a-z]+://(\{[a-z_]+\}|[a-z]+)(/(\{[a-z_]+\}|[a-z]+))*", template.uri)
