"""The front as it is reached: over real HTTP in both eras, over standard input and output, with and without a Temporal."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import sysconfig
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from temporalio.common import SearchAttributeKey
from temporalio.testing import WorkflowEnvironment

from countersign.adapters.serving import Server
from countersign.adapters.settings import Settings
from countersign.adapters.store import keys, records, runs
from countersign.adapters.store.database import Store
from countersign.adapters.temporal import DATA_CONVERTER
from countersign.core import attributes
from countersign.core.errors import FailedPrecondition
from countersign.core.principal import SYSTEM
from mcp_front import main
from mcp_front.http import app
from mcp_front.main import listening, serve
from tests.integration.front import ANA, CLAUDE, ORGANIZATION, PATIENCE, FrontService, front_service
from tests.requirements import requirement
from tests.service import eventually

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


@contextlib.asynccontextmanager
async def served(it: FrontService) -> AsyncIterator[str]:
    """The front of the test on a port of its own."""
    with contextlib.closing(listening(it.front.settings.model_copy(update={"front_port": 0}))) as at:
        server = Server(main.served(it.front.settings, app(it.front)))
        serving = asyncio.create_task(server.serve(sockets=[at]))
        try:
            yield f"http://127.0.0.1:{at.getsockname()[1]}"
        finally:
            it.front.gateway.close()
            server.stop()
            await serving


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[FrontService]:
    async with front_service(tmp_path) as running:
        running.engine.want(("a", "create"))
        await running.stack()
        yield running


@pytest.fixture
async def url(it: FrontService) -> AsyncIterator[str]:
    async with served(it) as at:
        yield at


@contextlib.asynccontextmanager
async def connected(url: str, token: str, *, mode: Any = "auto", path: str = "/mcp", **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=60)) as http,
        Client(streamable_http_client(f"{url}{path}", http_client=http), mode=mode, **options) as client,
    ):
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    content: dict[str, Any] = result.structured_content or {}
    assert not result.is_error, content
    return content


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


# -- over HTTP ------------------------------------------------------------------------------------------------------------


@ERAS
async def test_a_key_says_who_calls_and_a_run_is_asked_agreed_and_applied(it: FrontService, url: str, mode: str) -> None:
    async with connected(url, await it.key(CLAUDE, "platform"), mode=mode) as agent:
        assert (await call(agent, "whoami"))["data"]["principal"] == "agent:claude"
        run = (await call(agent, "apply_terraform", env="dev", wait_seconds=20))["run"]
    async with connected(url, await it.key(ANA, "approver"), mode=mode) as ana:
        await call(ana, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
        done = await call(ana, "run_wait", run_id=run["run_id"], until="end")

    assert done["run"]["state"] == "applied"


@ERAS
async def test_progress_arrives_while_one_waits(it: FrontService, url: str, mode: str) -> None:
    it.engine.want(("a", "create"), ("b", "create"))
    it.engine.hold_applies = True
    token = await it.key(ANA, "admin")
    heard = asyncio.Event()

    async def progress(done: float, total: float | None, what: str | None) -> None:
        heard.set()
        (await it.launched() / "go").touch()

    async with connected(url, token, mode=mode) as ana:
        run = (await call(ana, "apply_terraform", env="dev", wait_seconds=20))["run"]
        await call(ana, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
        await it.launched()
        arguments = {"run_id": run["run_id"], "until": "end"}
        result = await ana.call_tool("run_wait", arguments, progress_callback=progress)

    assert heard.is_set()
    assert result.structured_content is not None
    assert result.structured_content["run"]["state"] == "applied"


async def test_servers_in_the_address_load_other_tools_and_give_no_right(it: FrontService, url: str) -> None:
    token = await it.key(CLAUDE, "ops")
    async with connected(url, token) as agent:
        by_role = {tool.name for tool in (await agent.list_tools()).tools}
    async with connected(url, token, path="/mcp?servers=terraform") as agent:
        asked = {tool.name for tool in (await agent.list_tools()).tools}
    async with connected(url, token, path="/mcp?servers=platform-terraform") as agent:
        assert {tool.name for tool in (await agent.list_tools()).tools} == asked
    async with connected(url, token, path="/mcp?servers=nonsense") as agent:
        with pytest.raises(MCPError, match="Unknown server: nonsense"):
            await agent.list_tools()

    assert "apply_terraform" not in by_role
    assert {name.split("_")[0] for name in asked} == {"terraform", "apply", "destroy"}


async def test_without_a_key_or_with_one_nobody_made_there_is_nothing(it: FrontService, url: str) -> None:
    async with httpx2.AsyncClient() as http:
        for headers in ({}, {"Authorization": "Bearer cs_" + "0" * 16 + "_" + "0" * 64}, {"Authorization": "Basic YTpi"}):
            answer = await http.post(f"{url}/mcp", json={}, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer ")


@ERAS
async def test_a_revoked_key_ends_at_once_also_for_who_is_connected(it: FrontService, url: str, mode: str) -> None:
    row, token = await keys.create_key(it.front.store, org=it.org, principal=CLAUDE, role="platform", by=SYSTEM)
    with contextlib.suppress(BaseExceptionGroup):  # closing a session that is refused is refused as well
        async with connected(url, token, mode=mode) as agent:
            await call(agent, "whoami")
            await keys.revoke_key(it.front.store, org=it.org, key_id=row.id, by=ANA)
            with pytest.raises(MCPError):
                await call(agent, "whoami")


async def test_another_sites_page_and_a_bent_name_get_nothing(it: FrontService, url: str) -> None:
    token = await it.key(CLAUDE, "platform")
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=headers) as http:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        rebound = await http.post(f"{url}/mcp", json=body, headers={"Host": "evil.example:8700"})
        foreign = await http.post(f"{url}/mcp", json=body, headers={"Origin": "https://evil.example"})

    assert (rebound.status_code, foreign.status_code) == (421, 403)


async def test_readiness_names_what_is_missing_and_nothing_else(it: FrontService, url: str) -> None:
    async with httpx2.AsyncClient() as http:
        without_state = await http.get(f"{url}/readyz")
        it.temporal.away = True
        without_both = await http.get(f"{url}/readyz")
        alive = await http.get(f"{url}/healthz")

    assert (without_state.status_code, without_state.json()) == (
        503,
        {"ready": False, "store": "ok", "temporal": "ok", "state": "unavailable"},
    )
    assert without_both.json()["temporal"] == "unavailable"
    assert alive.status_code == 200


async def test_it_is_ready_when_every_part_answers(it: FrontService) -> None:
    async def ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(ready, "127.0.0.1", 0) as state:
        settings = it.front.settings.model_copy(update={"state_port": state.sockets[0].getsockname()[1]})
        with_state = replace(it, front=replace(it.front, settings=settings))
        async with served(with_state) as url, httpx2.AsyncClient() as http:
            answer = await http.get(f"{url}/readyz")

    assert (answer.status_code, answer.json()["ready"]) == (200, True)


# -- the process ----------------------------------------------------------------------------------------------------------


async def seeded(data: Path, **given: Any) -> tuple[Settings, str]:
    """A data folder with a workspace and a key, as settings and token."""
    settings = Settings(data=data, organizations=(ORGANIZATION,), **given)
    store = await Store.open(settings.database_url)
    try:
        await records.register_stack(store, org="acme", env="dev", slug="main", source={"repo": None, "path": "x", "git_ref": None}, by=ANA)
        _, token = await keys.create_key(store, org="acme", principal=CLAUDE, role="platform", by=SYSTEM)
    finally:
        await store.close()
    return settings, token


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[str]:
    """`serve` until SIGTERM, as a supervisor does it."""
    task = asyncio.create_task(serve(settings))
    url = settings.front_url

    async def answers() -> bool:
        if task.done():
            await task
        with contextlib.suppress(httpx2.HTTPError):
            async with httpx2.AsyncClient() as http:
                return (await http.get(f"{url}/healthz")).status_code == 200
        return False

    await eventually(answers, "the front to answer")
    try:
        yield url
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        with anyio.fail_after(PATIENCE):
            await task


@requirement("bad:temporal-down")
async def test_it_serves_without_a_temporal_and_finds_one_that_comes_by_itself(tmp_path: Path) -> None:
    port = free_port()
    settings, token = await seeded(tmp_path, front_port=free_port(), temporal_address=f"127.0.0.1:{port}")
    async with serving(settings) as url, connected(url, token) as agent:
        refused = (await agent.call_tool("apply_terraform", {"env": "dev"})).structured_content or {}
        listed = await call(agent, "run_list")
        executable = str(Path(sysconfig.get_path("scripts")) / "temporal")
        environment = await WorkflowEnvironment.start_local(
            port=port,
            dev_server_existing_path=executable,
            data_converter=DATA_CONVERTER,
            search_attributes=[SearchAttributeKey.for_keyword(name) for name in attributes.SEARCH_ATTRIBUTES],
            dev_server_log_level="error",
        )
        async with environment:

            async def taken() -> dict[str, Any] | None:
                result = await agent.call_tool("apply_terraform", {"env": "dev"})
                return None if result.is_error else result.structured_content

            joined = await eventually(taken, "the front to find the Temporal that came")
            workflow = await environment.client.get_workflow_handle(joined["run"]["run_id"]).describe()

    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("unavailable", True)
    assert [row["state"] for row in listed["data"]["runs"]] == ["pending"]
    assert joined["run"]["run_id"] == refused["error"]["run_id"]
    assert workflow.status is not None


async def test_whoever_waits_is_answered_before_it_ends(tmp_path: Path) -> None:
    settings, token = await seeded(tmp_path, front_port=free_port(), temporal_address=f"127.0.0.1:{free_port()}")
    waiting: asyncio.Task[dict[str, Any]] | None = None
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(settings))
        agent = await stack.enter_async_context(connected(url, token))
        refused = (await agent.call_tool("apply_terraform", {"env": "dev"})).structured_content or {}
        waiting = asyncio.create_task(call(agent, "run_wait", run_id=refused["error"]["run_id"], timeout_seconds=25))
        await asyncio.sleep(0)
        await call(agent, "whoami")  # by now the other call has begun
        os.kill(os.getpid(), signal.SIGTERM)
        with anyio.fail_after(10):
            answer = await waiting

    assert (answer["run"]["state"], answer["data"]["reached"]) == ("pending", False)


@requirement("bad:ports-taken")
async def test_a_taken_port_is_named_with_the_setting_that_changes_it(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(FailedPrecondition) as refused:
            await serve(Settings(data=tmp_path / "data", front_port=port))

    assert str(port) in refused.value.message
    assert "COUNTERSIGN_FRONT_PORT" in refused.value.message
    assert not (tmp_path / "data").exists()


async def test_over_stdio_the_protocol_alone_is_on_standard_output(tmp_path: Path) -> None:
    settings, _ = await seeded(tmp_path, temporal_address=f"127.0.0.1:{free_port()}")
    code = (
        "import asyncio, logging, sys\n"
        "logging.basicConfig(stream=sys.stderr, level=logging.DEBUG)\n"
        "from countersign.adapters.settings import Settings\n"
        "from mcp_front.main import serve_stdio\n"
        f"settings = Settings.model_validate_json({settings.model_dump_json(exclude={'search_path'})!r})\n"
        "asyncio.run(serve_stdio(settings, user='ana'))\n"
    )
    parameters = StdioServerParameters(command=sys.executable, args=["-c", code], cwd=str(Path(main.__file__).parents[1]))
    with anyio.fail_after(60):
        async with Client(parameters) as client:
            who = (await call(client, "whoami"))["data"]
            names = {tool.name for tool in (await client.list_tools()).tools}
            refused = (await client.call_tool("apply_terraform", {"env": "dev"})).structured_content or {}

    assert (who["principal"], who["acts_for"], who["role"], who["organization"]) == ("agent:stdio-ana", "person:ana", "platform", "acme")
    assert "apply_terraform" in names
    assert not {"run_approve", "run_reject"} & names
    assert refused["error"]["code"] == "unavailable"


async def test_importing_the_front_loads_no_engine_and_no_migrations() -> None:
    code = "import sys, json, mcp_front.main, mcp_front.tools as t; t.toolset(); print(json.dumps(sorted(sys.modules)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    loaded = set(json.loads(output))

    heavy = {"alembic", "temporalio", "kubernetes", "hcl2", "countersign.adapters.terraform", "countersign.adapters.process"}
    heavy |= {"mcp_front.fixtures"}  # for conformance tests only
    heavy |= {"jinja2"}  # for pages, with the first one
    assert not heavy & loaded


async def test_a_run_that_was_asked_for_survives_the_front(tmp_path: Path) -> None:
    """The row is written before Temporal is spoken to, so nothing is lost between the two."""
    settings, token = await seeded(tmp_path, front_port=free_port(), temporal_address=f"127.0.0.1:{free_port()}")
    async with serving(settings) as url, connected(url, token) as agent:
        refused = (await agent.call_tool("apply_terraform", {"env": "dev", "idempotency_key": "intent-1"})).structured_content or {}
    async with serving(settings) as url, connected(url, token) as agent:
        again = (await agent.call_tool("apply_terraform", {"env": "dev", "idempotency_key": "intent-1"})).structured_content or {}
    store = await Store.open(settings.database_url)
    async with store.read() as conn:
        _, total = await runs.list_runs(conn, "acme")
    await store.close()

    assert again["error"]["run_id"] == refused["error"]["run_id"]
    assert total == 1
