"""Bad input, as agents and people really send it: each gets an error that says what to do next, and nothing is lost."""

import json
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.acceptance.conftest import STACKS
from tests.acceptance.installed import COMMAND, REPOSITORY, Installed, call, eventually, refused, until
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def keys(shared: Installed) -> dict[str, str]:
    return {
        "agent": shared.key("agent:claude", acts_for="person:ana"),
        "person": shared.key("person:bo", kind="person", role="approver"),
    }


@pytest.fixture
async def agent(shared: Installed, keys: dict[str, str]) -> AsyncIterator[Client]:
    async with shared.client(keys["agent"]) as client:
        yield client


@pytest.fixture
async def person(shared: Installed, keys: dict[str, str]) -> AsyncIterator[Client]:
    async with shared.client(keys["person"]) as client:
        yield client


async def asked(agent: Client, path: str, *, tool: str = "apply_terraform", slug: str | None = None, **more: Any) -> dict[str, Any]:
    """The run of a workspace on that folder, as far as it comes without anybody."""
    slug = slug or path.replace("_", "-")
    await call(agent, "terraform_register_workspace", env="dev", workspace=slug, source={"path": path})
    answer = await call(agent, tool, env="dev", workspace=slug, wait_seconds=25, **more)
    run: dict[str, Any] = answer["run"]
    return run


async def reason(agent: Client, run: dict[str, Any]) -> tuple[str, str]:
    """Code and words of a run that failed."""
    got = await call(agent, "run_get", run_id=run["run_id"])
    assert got["run"]["state"] == "errored", got
    return got["data"]["code"], got["data"]["reason"]["text"]


@requirement("bad:unknown-stack")
async def test_an_unknown_workspace_is_not_found_and_near_names_are_told(agent: Client) -> None:
    await call(agent, "terraform_register_workspace", env="dev", workspace="billing", source={"path": "small"})

    error = await refused(agent, "apply_terraform", env="dev", workspace="biling")

    assert (error["code"], error["field"]) == ("not_found", "workspace")
    assert "billing" in error["message"]
    assert "terraform_list_workspaces" in error["next"]


async def test_an_unknown_argument_is_refused_with_the_nearest_name(agent: Client) -> None:
    error = await refused(agent, "apply_terraform", env="dev", workspace="billing", auto_aprove=True)

    assert error["code"] == "invalid_argument"
    assert "auto_approve" in error["message"]


@requirement("bad:external-data-source")
async def test_an_external_data_source_is_refused_before_anything_of_it_runs(agent: Client) -> None:
    code, words = await reason(agent, await asked(agent, "external"))

    assert code == "policy_denied"
    assert "external" in words and "main.tf" in words


@requirement("bad:foreign-provider")
async def test_a_provider_outside_the_list_is_refused_with_the_setting_that_would_allow_it(agent: Client) -> None:
    run = await asked(agent, "foreign")

    code, words = await reason(agent, run)
    logs = await call(agent, "run_get", run_id=run["run_id"], include=["timeline"])
    assert code == "policy_denied"
    assert "main.tf" in words
    assert "allowed_providers" in json.dumps(logs)


async def test_a_configuration_with_a_backend_of_its_own_is_refused_and_told_why(agent: Client) -> None:
    code, words = await reason(agent, await asked(agent, "remote_backend"))

    assert code == "policy_denied"
    assert "backend" in words


@requirement("bad:broken-hcl")
async def test_broken_configuration_comes_back_with_file_and_line(agent: Client) -> None:
    run = await asked(agent, "broken")

    code, words = await reason(agent, run)
    assert code == "provider_error"
    assert "main.tf line" in words
    validated = await asked(agent, "broken", tool="terraform_validate")
    plan = await call(agent, "run_plan", run_id=validated["run_id"])
    (finding, *_) = plan["data"]["findings"]
    assert finding["file"] == "main.tf" and isinstance(finding["line"], int)


@requirement("bad:missing-variable")
async def test_a_missing_variable_is_named(agent: Client) -> None:
    _, words = await reason(agent, await asked(agent, "needs_variable"))

    assert "region" in words


async def test_an_undeclared_variable_is_refused_with_those_there_are(agent: Client) -> None:
    code, words = await reason(agent, await asked(agent, "needs_variable", slug="undeclared", vars={"regoin": "eu", "region": "eu"}))

    assert code == "invalid_argument"
    assert "regoin" in words and "region" in words


@requirement("bad:failing-plan")
async def test_a_plan_that_errors_ends_the_run_with_the_engines_words(agent: Client) -> None:
    code, words = await reason(agent, await asked(agent, "failing"))

    assert code == "provider_error"
    assert words


async def test_an_apply_that_fails_half_way_tells_what_was_done(agent: Client, person: Client) -> None:
    run = await asked(agent, "partial")
    await call(person, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])

    await until(agent, run["run_id"], "partially_applied")

    got = await call(agent, "run_get", run_id=run["run_id"], include=["resources"])
    done = {r["address"]: r["ok"] for r in got["data"]["resources"]["items"]}
    assert done == {"terraform_data.done": True, "terraform_data.fails": False}
    logs = await call(agent, "run_logs", run_id=run["run_id"])
    assert "the disk is full" in json.dumps(logs["data"])
    assert "run_resume" in got["next"]


@requirement("bad:wrong-digest", "bad:approval-of-another-run", "bad:finished-run")
async def test_an_approval_counts_for_its_own_plan_of_its_own_open_run_only(agent: Client, person: Client) -> None:
    one = await asked(agent, "small", slug="one")
    two = await asked(agent, "small", slug="two")

    other = await refused(person, "run_approve", run_id=two["run_id"], plan_digest=one["plan_digest"])
    assert other["code"] == "plan_stale" and two["plan_digest"] in other["message"]
    never = await refused(person, "run_approve", run_id=one["run_id"], plan_digest="sha256:" + "0" * 64)
    assert never["code"] == "plan_stale"
    await call(person, "run_approve", run_id=one["run_id"], plan_digest=one["plan_digest"])
    await until(agent, one["run_id"], "applied")
    late = await refused(person, "run_approve", run_id=one["run_id"], plan_digest=one["plan_digest"])
    assert late["code"] == "failed_precondition" and "applied" in late["message"]
    await call(person, "run_reject", run_id=two["run_id"], reason="enough")
    again = await refused(person, "run_reject", run_id=two["run_id"], reason="enough")
    assert again["code"] == "failed_precondition"


@requirement("I7")
async def test_an_agent_finds_no_tool_to_agree_with(agent: Client) -> None:
    run = await asked(agent, "small", slug="self")

    result = await agent.call_tool("run_get", {"run_id": run["run_id"]})
    assert "run_approve" not in (result.structured_content or {}).get("next", [])
    tools = {tool.name for tool in (await agent.list_tools()).tools}
    assert "run_approve" not in tools


@requirement("bad:control-characters")
async def test_names_with_control_characters_are_shown_without_them(agent: Client) -> None:
    run = await asked(agent, "strange_names")

    plan = await agent.call_tool("run_plan", {"run_id": run["run_id"]})
    said = [*texts(plan.structured_content), *(getattr(c, "text", "") for c in plan.content)]
    assert run["state"] == "awaiting_approval"
    assert not any(c in text for text in said for c in ("\x1b", "\u202e"))
    assert any("terraform_data.a" in text for text in said)


def texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [text for key, item in node.items() for text in (key, *texts(item))]
    if isinstance(node, list):
        return [text for item in node for text in texts(item)]
    return [node] if isinstance(node, str) else []


async def test_a_key_that_is_none_is_turned_away_at_the_door(shared: Installed) -> None:
    import httpx2

    async with httpx2.AsyncClient() as http:
        for header in ({}, {"Authorization": "Bearer cs_0000000000000000_" + "0" * 64}, {"Authorization": "Basic eDp5"}):
            answer = await http.post(f"http://127.0.0.1:{shared.front_port}/mcp", json={}, headers=header)
            assert answer.status_code == 401


async def test_a_page_of_another_origin_is_turned_away(shared: Installed, keys: dict[str, str]) -> None:
    import httpx2

    headers = {
        "Authorization": f"Bearer {keys['agent']}",
        "Origin": "https://evil.example",
        "Accept": "application/json, text/event-stream",
    }
    async with httpx2.AsyncClient() as http:
        answer = await http.post(f"http://127.0.0.1:{shared.front_port}/mcp", json={}, headers=headers)
    assert answer.status_code == 403


@requirement("bad:temporal-down")
async def test_while_temporal_is_down_a_call_is_unavailable_and_the_same_call_later_is_that_run(own: Installed) -> None:
    import os
    import signal

    async with own.client(own.key("agent:claude")) as agent:
        await call(agent, "terraform_register_workspace", env="dev", workspace="down", source={"path": "small"})
        pid = own.pid_of("temporal")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # it hangs: worse than gone, and the supervisor does not replace it
        try:
            error = await refused(agent, "apply_terraform", env="dev", workspace="down", idempotency_key="when-it-is-down")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (error["code"], error["retryable"]) == ("unavailable", True)
        assert error["run_id"].startswith("run_")

        async def taken() -> str | None:
            result = await agent.call_tool("apply_terraform", {"env": "dev", "workspace": "down", "idempotency_key": "when-it-is-down"})
            content = result.structured_content or {}
            return None if result.is_error else str(content["run"]["run_id"])

        assert await eventually(taken, "the same call to be taken") == error["run_id"]
        await until(agent, error["run_id"], "awaiting_approval")


@requirement("bad:newer-data-folder")
def test_a_data_folder_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    it = Installed(data=tmp_path / "data", stacks=STACKS)
    it.cli("key", "create", "--as", "agent:a", "--kind", "agent", "--role", "platform", "--json")
    connection = sqlite3.connect(it.data / "countersign.db", isolation_level=None)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = (it.data / "countersign.db").read_bytes()

    done = subprocess.run([str(COMMAND), "up"], env=it.environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode != 0
    assert "newer" in done.stdout + done.stderr
    assert (it.data / "countersign.db").read_bytes() == before
