"""The main job through the front: an agent asks, a person countersigns that exact plan, Terraform applies it."""

import asyncio
import json
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from tests.acceptance.installed import COMMAND, REPOSITORY, Installed, call, refused, until
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


async def registered(client: Client, slug: str, path: str = "small", **more: Any) -> None:
    await call(client, "terraform_register_workspace", env="dev", workspace=slug, source={"path": path}, **more)


@requirement("promise:approved-is-what-runs", "promise:one-command")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_agent_asks_a_person_agrees_and_exactly_that_is_applied_then_destroyed(shared: Installed, mode: str) -> None:
    agent_key = shared.key(f"agent:main-{mode}", acts_for="person:ana")
    person_key = shared.key("person:bo", kind="person", role="approver")
    slug = f"main-{mode}"
    async with shared.client(agent_key, mode=mode) as agent, shared.client(person_key, mode=mode) as person:
        await registered(agent, slug)
        started = await call(agent, "apply_terraform", env="dev", workspace=slug, message="the first one")
        run_id = started["run"]["run_id"]
        waiting = await until(agent, run_id, "awaiting_approval")
        digest = waiting["run"]["plan_digest"]
        plan = await call(agent, "run_plan", run_id=run_id)
        assert (plan["data"]["counts"]["create"], plan["run"]["change_class"]) == (2, "create")

        await call(person, "run_approve", run_id=run_id, plan_digest=digest, comment="looks right")
        await until(agent, run_id, "applied")

        got = await call(agent, "run_get", run_id=run_id, include=["outputs", "resources", "approvals", "timeline"])
        assert got["data"]["outputs"]["values"]["size"]["value"] == 1
        assert [r["address"] for r in got["data"]["resources"]["items"]] == ["terraform_data.first", "terraform_data.second"]
        (approval,) = got["data"]["approvals"]
        assert (approval["by"], approval["plan_digest"]) == ("person:bo", digest)
        states = [e["state"] for e in got["data"]["timeline"] if e["kind"] == "state"]
        assert states == ["pending", "planning", "checking", "awaiting_approval", "approved", "applying", "verifying", "applied"]
        state = await call(agent, "terraform_get_state", env="dev", workspace=slug)
        assert "terraform_data.second" in json.dumps(state["data"])

        gone = await call(agent, "destroy_terraform", env="dev", workspace=slug)
        run_id = gone["run"]["run_id"]
        waiting = await until(agent, run_id, "awaiting_approval")
        assert waiting["run"]["approval"]["confirm_name"] == f"local/dev/{slug}"
        digest = waiting["run"]["plan_digest"]
        error = await refused(person, "run_approve", run_id=run_id, plan_digest=digest)
        assert error["code"] == "confirmation_required"
        await call(person, "run_approve", run_id=run_id, plan_digest=digest, confirm_name=f"local/dev/{slug}")
        await until(agent, run_id, "applied")
        nothing = await call(agent, "destroy_terraform", env="dev", workspace=slug, wait_seconds=25)
        assert nothing["run"]["state"] == "planned_and_finished"


@requirement("promise:asking-twice", "bad:key-reused")
async def test_the_same_request_with_the_same_key_is_one_run_and_other_arguments_are_refused_by_name(shared: Installed) -> None:
    async with shared.client(shared.key("agent:twice")) as agent:
        await registered(agent, "twice")
        arguments = {"env": "dev", "workspace": "twice", "idempotency_key": "intent-0001"}
        first, second = await asyncio.gather(call(agent, "apply_terraform", **arguments), call(agent, "apply_terraform", **arguments))
        third = await call(agent, "apply_terraform", **arguments)

        assert first["run"]["run_id"] == second["run"]["run_id"] == third["run"]["run_id"]
        assert third["replayed"] is True
        error = await refused(agent, "apply_terraform", **arguments, vars={"size": 2})
        assert error["code"] == "idempotency_mismatch"
        assert "vars" in error["message"]


@requirement("bad:second-apply-queued")
async def test_a_second_apply_waits_for_its_turn_and_is_told_its_place(shared: Installed, tmp_path_factory: pytest.TempPathFactory) -> None:
    world = tmp_path_factory.mktemp("gates")
    person_key = shared.key("person:cy", kind="person", role="approver")
    async with (
        shared.client(shared.key("agent:first")) as agent,
        shared.client(shared.key("agent:second")) as other,
        shared.client(person_key) as person,
    ):
        await registered(agent, "queue", "gates", vars={"world": str(world)})
        first = await call(agent, "apply_terraform", env="dev", workspace="queue", wait_seconds=25)
        await call(person, "run_approve", run_id=first["run"]["run_id"], plan_digest=first["run"]["plan_digest"])
        await reached(world, 1)

        second = await call(other, "apply_terraform", env="dev", workspace="queue")
        second_id = second["run"]["run_id"]

        async def place() -> dict[str, Any] | None:
            got = await call(other, "run_get", run_id=second_id)
            found: dict[str, Any] | None = got["data"].get("queue")
            return found

        assert (await eventually_true(place))["position"] == 1
        assert (await eventually_true(place))["ahead"] == [first["run"]["run_id"]]
        (world / "1.open").touch()
        await until(agent, first["run"]["run_id"], "applied")
        await until(other, second_id, "planned_and_finished")


@requirement("promise:approved-is-what-runs", "bad:plan-made-stale")
async def test_a_plan_made_stale_by_another_run_is_made_again_and_keeps_its_approval_only_if_it_means_the_same(shared: Installed) -> None:
    """Two plans wait on one state; the first that is applied moves it under the other."""
    person_key = shared.key("person:dee", kind="person", role="approver")
    async with (
        shared.client(shared.key("agent:slow")) as slow,
        shared.client(shared.key("agent:fast")) as fast,
        shared.client(person_key) as person,
    ):
        await registered(slow, "stale")
        waiting = await call(slow, "apply_terraform", env="dev", workspace="stale", vars={"size": 3}, wait_seconds=25)
        ahead = await call(fast, "apply_terraform", env="dev", workspace="stale", vars={"size": 2}, wait_seconds=25)
        await call(person, "run_approve", run_id=ahead["run"]["run_id"], plan_digest=ahead["run"]["plan_digest"])
        await until(fast, ahead["run"]["run_id"], "applied")

        run_id, old = waiting["run"]["run_id"], waiting["run"]["plan_digest"]
        await call(person, "run_approve", run_id=run_id, plan_digest=old)

        async def planned_again() -> dict[str, Any] | None:
            got = await call(slow, "run_get", run_id=run_id)
            return got if got["run"]["state"] == "awaiting_approval" and got["run"]["plan_digest"] != old else None

        again = await eventually_true(planned_again)
        error = await refused(person, "run_approve", run_id=run_id, plan_digest=old)
        assert error["code"] == "plan_stale"
        await call(person, "run_approve", run_id=run_id, plan_digest=again["run"]["plan_digest"])
        await until(slow, run_id, "applied")


async def test_over_stdio_an_agent_of_the_local_user_asks_and_cannot_agree(shared: Installed) -> None:
    server = StdioServerParameters(command=str(COMMAND), args=["front", "--stdio"], env=shared.environment, cwd=str(REPOSITORY))
    async with Client(server) as agent:
        me = await call(agent, "whoami")
        assert me["data"]["kind"] == "agent" and me["data"]["may_decide"] is False
        tools = {tool.name for tool in (await agent.list_tools()).tools}
        assert "run_approve" not in tools and "run_reject" not in tools
        found = await call(agent, "search_tools", text="apply terraform")
        assert any(t["name"] == "apply_terraform" for t in found["data"]["tools"])


async def test_the_operator_of_the_command_line_plans_approves_and_reads(shared: Installed) -> None:
    shared.cli("stack", "register", "dev/by-hand", "--source", "small")
    asked = json.loads(shared.cli("apply", "dev/by-hand", "--json", code=None))
    run_id = asked["run"]["run_id"]
    assert asked["run"]["state"] == "awaiting_approval"
    shared.cli("approve", run_id, "--digest", asked["run"]["plan_digest"], "--json")
    watched = shared.cli("watch", run_id)
    assert "applied" in watched
    assert run_id in shared.cli("runs")
    assert "terraform_data.first" in shared.cli("show", run_id)


async def eventually_true(probe: Any, patience: float = 30.0) -> Any:
    from tests.acceptance.installed import eventually

    return await eventually(probe, "it to come true", patience)


async def reached(world: Any, gate: int) -> None:
    async def there() -> bool:
        return (world / f"{gate}.reached").exists()

    await eventually_true(there)
