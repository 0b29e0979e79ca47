"""Other people's clients do the main job, unaided: the Python and the TypeScript SDK, over HTTP and stdio, and plain HTTP requests."""

import asyncio
import contextlib
import json
import re
import subprocess
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import httpx2
import pytest
from mcp import Client, StdioServerParameters, types

from tests.acceptance.installed import COMMAND, REPOSITORY, Installed
from tests.acceptance.plain_http import LEGACY, MODERN, Plain, plain
from tests.conformance.node import NODE, environment, installed
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
WITHIN = 150.0  # seconds for one story
Types = Callable[[str], dict[str, Any]]


class Caller(Protocol):
    """What a story needs of a client: the structured result of a tool that succeeds."""

    async def __call__(self, name: str, **arguments: Any) -> dict[str, Any]: ...


async def until(call: Caller, run_id: str, *states: str) -> dict[str, Any]:
    """Follow a run as an agent does, to one of these states."""
    ends, cursor = time.monotonic() + WITHIN / 2, None
    while time.monotonic() < ends:
        now = await call("run_wait", run_id=run_id, timeout_seconds=5, **({"from": cursor} if cursor else {}))
        cursor = now["data"]["cursor"]
        if now["run"]["state"] in states:
            return now
    raise AssertionError(f"{run_id} did not come to {states}: {now}")


async def story(agent: Caller, person: Caller, slug: str, types_next: dict[str, Any]) -> dict[str, Any]:
    """Plan, wait, approve, apply, outputs, destroy. `types_next` is what the person types to the next question."""
    await agent("terraform_register_workspace", env="dev", workspace=slug, source={"path": "small"})
    started = (await agent("apply_terraform", env="dev", workspace=slug))["run"]["run_id"]
    waiting = await until(agent, started, "awaiting_approval")
    plan = await agent("run_plan", run_id=started)
    await person("run_approve", run_id=started, plan_digest=waiting["run"]["plan_digest"])
    await until(agent, started, "applied")
    got = await agent("run_get", run_id=started, include=["outputs", "approvals"])

    destroying = (await agent("destroy_terraform", env="dev", workspace=slug))["run"]["run_id"]
    destroy = await until(agent, destroying, "awaiting_approval")
    types_next["confirm_name"] = destroy["run"]["approval"]["confirm_name"]
    await person("run_approve", run_id=destroying, plan_digest=destroy["run"]["plan_digest"])
    await until(agent, destroying, "applied")
    return {
        "created": plan["data"]["counts"]["create"],
        "outputs": got["data"]["outputs"]["values"],
        "approved_by": [a["by"] for a in got["data"]["approvals"]],
    }


def told(seen: dict[str, Any], questions: list[str], slug: str) -> None:
    """What every client has seen by the end, whoever wrote it."""
    assert seen["created"] == 2
    assert seen["outputs"]["size"]["value"] == 1
    assert seen["approved_by"] == ["person:bo"]
    first, second = questions
    assert "2 to add" in first
    assert f"type local/dev/{slug}" in second


def keys(shared: Installed, name: str) -> tuple[str, str]:
    return shared.key(f"agent:{name}", acts_for="person:ana"), shared.key("person:bo", kind="person", role="approver")


# -- the Python SDK -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def agent_of(shared: Installed, key: str, *, stdio: bool, mode: str) -> AsyncIterator[Client]:
    if not stdio:
        async with shared.client(key, mode=mode) as client:
            yield client
        return
    server = StdioServerParameters(command=str(COMMAND), args=["front", "--stdio"], env=shared.environment, cwd=str(REPOSITORY))
    async with Client(server, mode=mode) as client:  # type: ignore[arg-type]
        yield client


def by(client: Client) -> Caller:
    async def call(name: str, **arguments: Any) -> dict[str, Any]:
        result = await client.call_tool(name, arguments)
        assert not result.is_error, result.structured_content
        return dict(result.structured_content or {})

    return call


@requirement("clients:main-job")
@pytest.mark.parametrize(("stdio", "mode"), [(False, "auto"), (False, "legacy"), (True, "auto"), (True, "legacy")])
async def test_the_python_sdk_does_the_main_job(shared: Installed, stdio: bool, mode: str) -> None:
    slug = f"python-{'stdio' if stdio else 'http'}-{mode}"
    agent_key, person_key = keys(shared, slug)
    types_next: dict[str, Any] = {}
    questions: list[str] = []

    async def asked(_: Any, params: Any) -> types.ElicitResult:
        questions.append(params.message)
        return types.ElicitResult(action="accept", content=dict(types_next))

    async with (
        agent_of(shared, agent_key, stdio=stdio, mode=mode) as agent,
        shared.client(person_key, mode=mode, elicitation_callback=asked) as person,
    ):
        async with asyncio.timeout(WITHIN):
            seen = await story(by(agent), by(person), slug, types_next)

    told(seen, questions, slug)


# -- plain HTTP -----------------------------------------------------------------------------------------------------------


@requirement("clients:main-job")
@pytest.mark.parametrize("version", [MODERN, LEGACY])
async def test_plain_requests_do_the_main_job(shared: Installed, version: str) -> None:
    slug = f"plain-{version[:4]}"
    agent_key, person_key = keys(shared, slug)
    types_next: dict[str, Any] = {}
    questions: list[str] = []

    def types_it(question: str) -> dict[str, Any]:
        questions.append(question)
        return types_next

    async with plain(shared.front_port, agent_key, version) as agent, plain(shared.front_port, person_key, version, types_it) as person:

        def calling(client: Any) -> Caller:
            async def call(name: str, **arguments: Any) -> dict[str, Any]:
                result = await client.call_tool(name, arguments)
                assert not result.get("isError"), result
                return dict(result["structuredContent"])

            return call

        async with asyncio.timeout(WITHIN):
            seen = await story(calling(agent), calling(person), slug, types_next)
        tools = await agent.request("tools/list")
        prompt = await agent.request("prompts/get", name="safe-teardown", arguments={"target": f"dev/{slug}"})
        policy = await agent.request("resources/read", uri="policy://local/dev")

    told(seen, questions, slug)
    assert "apply_terraform" in {tool["name"] for tool in tools["tools"]}
    assert f"local/dev/{slug}" in prompt["messages"][0]["content"]["text"]
    assert json.loads(policy["contents"][0]["text"])["data"]["protected"] is False


# -- the TypeScript SDK ---------------------------------------------------------------------------------------------------


@requirement("clients:main-job")
@pytest.mark.parametrize("stdio", [False, True], ids=["http", "stdio"])
@pytest.mark.parametrize(("sdk", "protocol"), [("v1", LEGACY), ("v2", MODERN)])
async def test_the_typescript_sdk_does_the_main_job(shared: Installed, sdk: str, protocol: str, stdio: bool) -> None:
    """v1 is what most hosts carry today, and speaks in sessions; v2 is the SDK's present line, and needs none."""
    slug = f"ts-{sdk}-{'stdio' if stdio else 'http'}"
    agent_key, person_key = keys(shared, slug)
    url = f"http://127.0.0.1:{shared.front_port}/mcp"
    over_stdio = {"command": str(COMMAND), "args": ["front", "--stdio"], "env": dict(shared.environment)}
    given = {
        "packages": str(installed()),
        "sdk": sdk,
        "agent": over_stdio if stdio else {"url": url, "key": agent_key},
        "person": {"url": url, "key": person_key},
        "workspace": slug,
        "source": "small",
    }
    script = REPOSITORY / "tests" / "conformance" / "story.mjs"
    done = await asyncio.to_thread(
        subprocess.run,
        [NODE, script, json.dumps(given)],
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout)

    told(seen, seen["questions"], slug)
    assert seen["read"] == "applied"
    assert slug in seen["prompt"]
    assert {"apply_terraform", "run_wait"} <= set(seen["tools"])
    assert not {"run_approve", "run_reject"} & set(seen["tools"])  # an agent decides nothing
    assert seen["protocol"] == protocol or (sdk, stdio) == ("v1", True)  # which does not tell


# -- the files of clients -------------------------------------------------------------------------------------------------


def entry_of(shared: Installed, client: str, *more: str) -> dict[str, Any]:
    """The one entry that `countersign mcp-config` writes for a client, read as the client reads it."""
    text = shared.cli("mcp-config", client, *more)
    document = tomllib.loads(text) if client == "codex" else json.loads(text)
    table = document.get("mcpServers") or document.get("servers") or document["mcp_servers"]
    entry: dict[str, Any] = table["countersign"]
    return entry


@requirement("clients:config")
@pytest.mark.parametrize("client", ["claude-code", "claude-desktop", "cursor", "vscode", "codex", "gemini", "generic"])
async def test_what_a_client_is_told_to_start_is_an_agent_of_that_role(shared: Installed, client: str) -> None:
    entry = entry_of(shared, client, "--role", "dev")
    # A client gives what it starts little more than a path, and never the shell's own variables.
    server = StdioServerParameters(command=entry["command"], args=entry["args"], env=entry.get("env"))
    async with asyncio.timeout(WITHIN), Client(server) as started:
        me = await by(started)("whoami")
        environments = await by(started)("list_environments")
        tools = {tool.name for tool in (await started.list_tools()).tools}

    assert (me["data"]["role"], me["data"]["kind"], me["data"]["via"]) == ("dev", "agent", "stdio")
    assert [row["ref"] for row in environments["data"]["environments"]] == ["local/dev"]
    assert "run_wait" in tools
    assert not {"apply_terraform", "run_approve"} & tools


@requirement("clients:config")
@pytest.mark.parametrize("client", ["claude-code", "cursor", "vscode", "codex", "gemini", "generic"])
async def test_what_a_client_is_told_to_call_answers_to_the_key_it_holds(shared: Installed, client: str) -> None:
    entry = entry_of(shared, client, "--http")
    key = shared.key(f"agent:{client}", role="ops")
    header = entry.get("headers", {}).get("Authorization") or f"Bearer ${{{entry['bearer_token_env_var']}}}"
    told = re.sub(r"\$\{[^}]*\}|\$[A-Z_]+", key, header)  # each client's way to fill it in
    headers = {"Authorization": told, "Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        caller = Plain(http, entry.get("url") or entry["httpUrl"], LEGACY)
        me = await caller.call_tool("whoami", {})

    assert (me["structuredContent"]["data"]["role"], me["structuredContent"]["data"]["principal"]) == ("ops", f"agent:{client}")


async def test_a_role_or_server_there_is_not_is_refused_before_anything_is_served(shared: Installed) -> None:
    for wrong, said in ((["--role", "nobody"], "no role 'nobody'"), (["--server", "nowhere"], "no server 'nowhere'")):
        done = await asyncio.to_thread(
            subprocess.run,
            [COMMAND, "front", "--stdio", *wrong],
            env=shared.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


async def test_a_server_of_its_own_lists_its_tools_and_gives_no_right(shared: Installed) -> None:
    server = StdioServerParameters(command=str(COMMAND), args=["front", "--stdio", "--server", "terraform"], env=shared.environment)
    async with asyncio.timeout(WITHIN), Client(server) as started:
        tools = {tool.name for tool in (await started.list_tools()).tools}

    assert {"apply_terraform", "terraform_get_state"} <= tools
    assert not {"whoami", "run_approve"} & tools
