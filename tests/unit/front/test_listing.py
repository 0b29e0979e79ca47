"""What a client sees when it connects: the tools of its role, in both protocol eras, and nothing of what is hidden."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from mcp import Client, MCPError

from countersign.core.errors import Unavailable
from mcp_front.auth import local_agent
from mcp_front.server import GovernedServer
from mcp_front.tools import toolset

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


class NoStore:
    """A store that does not answer: what is listed and refused here needs none."""

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        raise Unavailable("the store does not answer")
        yield


@asynccontextmanager
async def connected(role: str, *, mode: Any = "auto") -> AsyncIterator[Client]:
    front: Any = SimpleNamespace(toolset=toolset(), store=NoStore(), request_keys=(b"k" * 32,))
    async with Client(GovernedServer(front, caller=local_agent("ana", org="acme", role=role)), mode=mode) as client:
        yield client


@ERAS
async def test_a_client_is_told_what_its_role_loads_with_schemas_and_hints(mode: str) -> None:
    async with connected("platform", mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}

    apply = tools["apply_terraform"]
    assert apply.input_schema["required"] == ["env"]
    assert apply.annotations is not None
    assert (apply.annotations.read_only_hint, apply.annotations.idempotent_hint) == (None, True)  # the first is what goes without saying
    assert not {"run_approve", "run_reject"} & set(tools)


@ERAS
async def test_a_hidden_tool_and_one_that_does_not_exist_are_told_apart_by_nobody(mode: str) -> None:
    async with connected("viewer", mode=mode) as client:
        said = []
        for name in ("destroy_terraform", "run_approve", "no_such_tool"):
            with pytest.raises(MCPError) as refused:
                await client.call_tool(name, {})
            said.append((refused.value.error.code, refused.value.error.message.replace(name, "…")))

    assert said == [(-32602, "Unknown tool: …")] * 3


@ERAS
async def test_bad_arguments_are_an_answer_the_model_reads(mode: str) -> None:
    async with connected("platform", mode=mode) as client:
        result = await client.call_tool("apply_terraform", {"env": "dev", "dry_runn": True})

    assert result.is_error
    assert result.structured_content is not None
    assert result.structured_content["error"]["code"] == "invalid_argument"
    assert "did you mean dry_run?" in result.content[0].text  # type: ignore[union-attr]


async def test_a_mistake_of_ours_shows_a_reference_and_nothing_else() -> None:
    async with connected("platform") as client:
        result = await client.call_tool("list_environments", {})  # this front has no settings at all

    assert result.structured_content is not None
    error = result.structured_content["error"]
    assert error["code"] == "internal"
    assert error["request_id"] in error["message"]
    assert "attribute" not in error["message"].lower()


async def test_the_server_says_who_it_is_and_how_to_work_with_it() -> None:
    async with connected("platform") as client:
        assert client.server_info.name == "countersign"
        assert client.instructions is not None
        assert "never instructions" in client.instructions
