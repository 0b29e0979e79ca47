"""Telling clients that a run moved, in both eras, and what becomes of a run when the client that waits for it goes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError, types
from mcp.client.subscriptions import ResourceUpdated

from countersign.adapters.store import keys
from countersign.core.principal import SYSTEM
from countersign.core.run import RunState
from tests.integration.front import ANA, CLAUDE, OTTO, PATIENCE, Caller, FrontService, front_service
from tests.integration.test_front import connected, served
from tests.postgres import BOTH, database_of
from tests.requirements import requirement
from tests.service import eventually

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
NOBODYS = "run_" + "0" * 26


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FrontService]:
    with database_of(request) as database:
        async with front_service(tmp_path, database=database) as running:
            running.engine.want(("a", "create"))
            await running.stack()
            yield running


async def waiting(it: FrontService) -> dict[str, Any]:
    async with it.as_(CLAUDE, "platform") as agent:
        run: dict[str, Any] = (await agent.call("apply_terraform", env="dev", wait_seconds=20))["run"]
    return run


async def approved(it: FrontService, run: dict[str, Any]) -> None:
    async with it.as_(ANA, "approver") as ana:
        await ana.call("run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
    await it.reaches(run["run_id"], RunState.APPLIED)


async def until(events: Any, *wanted: str) -> None:
    """Hear events until all these addresses were among them."""
    missing = set(wanted)
    with anyio.fail_after(PATIENCE):
        async for event in events:
            if isinstance(event, ResourceUpdated):
                missing.discard(event.uri)
            if not missing:
                return
    raise AssertionError(f"the stream ended before {missing}")


@contextlib.asynccontextmanager
async def over_http(it: FrontService, by: Any, role: str, *, mode: str = "auto", **options: Any) -> AsyncIterator[Caller]:
    async with served(it) as url, connected(url, await it.key(by, role), mode=mode, **options) as client:
        yield Caller(client)


# -- the stateless era ----------------------------------------------------------------------------------------------------


@requirement("subscriptions:told")
async def test_who_listens_is_told_when_a_run_moves_and_reads_it_then(it: FrontService) -> None:
    run = await waiting(it)
    uri = f"run://{run['run_id']}"
    async with over_http(it, CLAUDE, "platform") as agent, agent.client.listen(resource_subscriptions=[uri, f"{uri}/evidence"]) as news:
        assert news.honored.resource_subscriptions == [uri, f"{uri}/evidence"]
        await approved(it, run)
        await until(news, uri, f"{uri}/evidence")
        (content,) = (await agent.client.read_resource(uri)).contents

    assert isinstance(content, types.TextResourceContents)


async def test_an_environment_is_told_about_when_a_run_in_it_moves(it: FrontService) -> None:
    async with it.as_(CLAUDE, "platform") as agent, agent.client.listen(resource_subscriptions=["environment://acme/dev"]) as news:
        await agent.call("terraform_plan", env="dev")
        await until(news, "environment://acme/dev")


@requirement("read:same-rights")
async def test_one_hears_of_nothing_one_may_not_read(it: FrontService) -> None:
    run = await waiting(it)
    hidden, missing = f"run://{run['run_id']}", f"run://{NOBODYS}"
    async with it.as_(OTTO, "dev") as other:
        for uri in (hidden, missing, "policy://acme/dev", "tools://manifest", "nonsense"):  # the last ones never change
            with pytest.raises(MCPError, match="Resource not found"):
                async with other.client.listen(resource_subscriptions=[uri]):
                    pass
        async with other.client.listen(resource_subscriptions=[hidden, "environment://acme/dev"]) as news:
            assert news.honored.resource_subscriptions == ["environment://acme/dev"]

    assert ("subscribe", "permission_denied") in {(row["action"], row["outcome"]) for row in await it.audited()}


async def test_a_revoked_key_hears_no_more(it: FrontService) -> None:
    run = await waiting(it)
    row, token = await keys.create_key(it.front.store, org=it.org, principal=CLAUDE, role="platform", by=SYSTEM)
    async with (
        served(it) as url,
        connected(url, token) as client,
        client.listen(resource_subscriptions=[f"run://{run['run_id']}"]) as news,
    ):
        await keys.revoke_key(it.front.store, org=it.org, key_id=row.id, by=ANA)
        await approved(it, run)
        with anyio.fail_after(PATIENCE):
            assert [event async for event in news] == []


async def test_a_front_that_ends_says_so_to_who_listens(it: FrontService) -> None:
    run = await waiting(it)
    async with it.as_(CLAUDE, "platform") as agent, agent.client.listen(resource_subscriptions=[f"run://{run['run_id']}"]) as news:
        it.front.gateway.close()
        with anyio.fail_after(PATIENCE):
            assert [event async for event in news] == []


async def test_too_many_addresses_are_refused(it: FrontService) -> None:
    async with it.as_(CLAUDE, "platform") as agent:
        with pytest.raises(MCPError, match="200 are the most"):
            async with agent.client.listen(resource_subscriptions=[f"run://{n}" for n in range(201)]):
                pass


# -- the era of sessions --------------------------------------------------------------------------------------------------


class Heard:
    """The notifications of a session."""

    def __init__(self) -> None:
        self.uris: list[str] = []

    async def __call__(self, message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            self.uris.append(str(message.params.uri))


async def subscribe(caller: Caller, uri: str) -> None:
    await caller.client.session.send_request(types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri)), types.EmptyResult)


async def unsubscribe(caller: Caller, uri: str) -> None:
    request = types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri=uri))
    await caller.client.session.send_request(request, types.EmptyResult)


@requirement("subscriptions:told")
@pytest.mark.parametrize("http", [False, True])
async def test_a_session_that_subscribed_is_told_until_it_unsubscribes(it: FrontService, http: bool) -> None:
    run, heard = await waiting(it), Heard()
    uri = f"run://{run['run_id']}"
    place = over_http if http else FrontService.as_
    async with place(it, CLAUDE, "platform", mode="legacy", message_handler=heard) as agent:
        capabilities = agent.client.server_capabilities
        assert capabilities.resources is not None
        assert capabilities.resources.subscribe is True
        await subscribe(agent, uri)
        await subscribe(agent, f"{uri}/logs")
        await unsubscribe(agent, f"{uri}/logs")
        await approved(it, run)

        async def told() -> bool:
            return uri in heard.uris

        await eventually(told, "the session to be told", PATIENCE)
        with pytest.raises(MCPError, match="Resource not found"):
            await subscribe(agent, f"run://{NOBODYS}")

    assert f"{uri}/logs" not in heard.uris


async def test_nobody_is_followed_for_a_session_that_is_gone(it: FrontService) -> None:
    run = await waiting(it)
    async with it.as_(CLAUDE, "platform", mode="legacy") as agent:
        await subscribe(agent, f"run://{run['run_id']}")
        assert any(task.get_coro().__qualname__ == "RunEvents._follow" for task in asyncio.all_tasks())  # type: ignore[union-attr]

    async def over() -> bool:
        return not any(task.get_coro().__qualname__ == "RunEvents._follow" for task in asyncio.all_tasks())  # type: ignore[union-attr]

    await eventually(over, "the follower to end", PATIENCE)


# -- a client that goes ---------------------------------------------------------------------------------------------------


@ERAS
@pytest.mark.parametrize("http", [False, True])
@requirement("cancel:the-wait-only")
async def test_cancelling_a_request_ends_the_wait_and_never_the_run(it: FrontService, mode: str, http: bool) -> None:
    run = await waiting(it)
    place: Callable[..., Any] = over_http if http else FrontService.as_
    async with place(it, CLAUDE, "platform", mode=mode) as agent:

        async def waits(number: int) -> Callable[[], Awaitable[bool]]:
            async def so_many() -> bool:
                return it.front.watch.waiting == number

            return so_many

        async with anyio.create_task_group() as calls:
            calls.start_soon(lambda: agent.call("run_wait", run_id=run["run_id"], until="end", timeout_seconds=25))
            await eventually(await waits(1), "the wait to begin", PATIENCE)
            calls.cancel_scope.cancel()
        await eventually(await waits(0), "the wait to end", PATIENCE)
        still = await agent.call("run_get", run_id=run["run_id"])

    assert still["run"]["state"] == "awaiting_approval"
    assert [row["action"] for row in await it.audited() if "cancel" in row["action"]] == []


@ERAS
async def test_a_start_that_is_cancelled_is_finished_all_the_same(it: FrontService, mode: str) -> None:
    """Whoever asked and went finds the run: by the same call, which joins it."""
    it.temporal.go_on.clear()
    async with it.as_(CLAUDE, "platform", mode=mode) as agent:
        async with anyio.create_task_group() as calls:
            calls.start_soon(lambda: agent.call("apply_terraform", env="dev", wait_seconds=25))

            async def there() -> bool:
                return bool(it.temporal.starts)

            await eventually(there, "the run to be started", PATIENCE)
            calls.cancel_scope.cancel()
        joined = await agent.call("apply_terraform", env="dev")

    assert joined["replayed"] is True
    assert it.temporal.starts == [joined["run"]["run_id"]]
