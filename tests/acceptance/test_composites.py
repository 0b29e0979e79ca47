"""Two Terraform stacks as one plan of plans, by a real MCP client on `countersign up`: the second reads what the first gives out."""

from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.acceptance.installed import Installed, call, eventually, until
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


def step(workspace: str, tool: str = "apply_terraform", **more: Any) -> dict[str, Any]:
    return {"type": tool, "input": {"env": "dev", "workspace": workspace, **more}}


async def approve(person: Client, run: dict[str, Any], **more: Any) -> None:
    async def taken() -> bool:
        result = await person.call_tool("run_approve", {"run_id": run["run_id"], "plan_digest": run["plan_digest"], **more})
        error = (result.structured_content or {}).get("error")
        assert error is None or error["retryable"], error
        return error is None

    await eventually(taken, "the approval to be taken")


async def asked_again(agent: Client, run: dict[str, Any]) -> dict[str, Any]:
    """The composite's handle, once it asks for another plan than this one."""

    async def again() -> dict[str, Any] | None:
        result = await agent.call_tool("run_get", {"run_id": run["run_id"]})
        content: dict[str, Any] = result.structured_content or {}
        if result.is_error:
            assert content["error"]["retryable"], content
            return None
        now: dict[str, Any] = content["run"]
        assert now["state"] in ("awaiting_approval", "approved", "applying", "stale", "pending", "planning", "checking"), content
        return now if now["state"] == "awaiting_approval" and now["plan_digest"] != run["plan_digest"] else None

    found: dict[str, Any] = await eventually(again, "the composite to ask again")
    return found


async def steps_of(agent: Client, run: dict[str, Any]) -> list[tuple[str, str]]:
    data = (await call(agent, "run_get", run_id=run["run_id"]))["data"]
    return [(one["workspace"], one["state"]) for one in data["steps_of_it"]]


async def plan_of(agent: Client, run: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Addresses of the changes, and why steps are planned later."""
    data = (await call(agent, "run_plan", run_id=run["run_id"]))["data"]
    return sorted(c["address"] for c in data["changes"]["items"]), [one.get("planned_later") for one in data["steps"]]


@requirement("composite:one-approval", "composite:asks-again", "promise:destroying-asks")
async def test_a_stack_and_the_one_that_reads_it_are_made_changed_and_destroyed_as_one(shared: Installed) -> None:
    agent_key, person_key = shared.key("agent:whole", acts_for="person:ana"), shared.key("person:eve", kind="person", role="approver")
    async with shared.client(agent_key) as agent, shared.client(person_key) as person:
        await call(agent, "terraform_register_workspace", env="dev", workspace="base", source={"path": "small"})
        await call(agent, "terraform_register_workspace", env="dev", workspace="top", source={"path": "reader"}, reads=["dev/base"])

        # Made: the second cannot be planned while the first has no state, so it asks for itself.
        asked = await call(agent, "run_start", type="composite", input={"steps": [step("base"), step("top")]}, wait_seconds=25)
        run = asked["run"]
        assert run["state"] == "awaiting_approval"
        addresses, later = await plan_of(agent, run)
        assert addresses == ["1/terraform_data.first", "1/terraform_data.second"]
        assert later[0] is None and "apply local/dev/base first" in later[1]
        await approve(person, run)
        rest = await asked_again(agent, run)
        assert await steps_of(agent, run) == [("local/dev/base", "applied"), ("local/dev/top", "awaiting_approval")]
        assert (await plan_of(agent, run))[0] == ["2/terraform_data.app"]
        await approve(person, rest)
        await until(agent, run["run_id"], "applied")
        made = (await call(agent, "run_get", run_id=run["run_id"], include=["outputs", "resources"]))["data"]
        assert made["outputs"]["values"]["1/size"]["value"] == 1
        assert made["outputs"]["values"]["2/seen"]["value"] == '{"base":{"size":1}}'
        assert sorted(r["address"] for r in made["resources"]["items"]) == [
            "1/terraform_data.first",
            "1/terraform_data.second",
            "2/terraform_data.app",
        ]

        # Changed: the second has nothing to do before the first is changed, and something afterwards.
        changing = await call(
            agent, "run_start", type="composite", input={"steps": [step("base", vars={"size": 2}), step("top")]}, wait_seconds=25
        )
        run = changing["run"]
        assert "1/terraform_data.first" in (await plan_of(agent, run))[0]
        await approve(person, run)
        rest = await asked_again(agent, run)
        assert (await plan_of(agent, run))[0] == ["2/terraform_data.app"]
        await approve(person, rest)
        await until(agent, run["run_id"], "applied")

        # Destroyed, the other way round, by every name.
        steps = [step("top", "destroy_terraform"), step("base", "destroy_terraform")]
        destroying = await call(agent, "run_start", type="composite", input={"steps": steps}, wait_seconds=25)
        run = destroying["run"]
        assert run["approval"]["confirm_name"] == "local/dev/top, local/dev/base"
        await approve(person, run, confirm_name="local/dev/top, local/dev/base")
        await until(agent, run["run_id"], "applied")
        listed = [one["run_id"] for one in (await call(agent, "run_list", type="composite"))["data"]["runs"]]
        assert run["run_id"] in listed
    said = shared.cli("show", run["run_id"])
    assert "1/terraform_data.app" in said


@requirement("composite:survives", "promise:crash-costs-nothing")
async def test_a_composite_survives_the_kill_of_every_part_in_each_of_its_steps(own: Installed, tmp_path: Path) -> None:
    worlds = [tmp_path / name for name in ("one", "two")]
    for world in worlds:
        world.mkdir()
    agent_key, person_key = own.key("agent:claude", acts_for="person:ana"), own.key("person:bo", kind="person", role="approver")
    async with own.client(agent_key) as agent, own.client(person_key) as person:
        for world in worlds:
            await call(
                agent, "terraform_register_workspace", env="dev", workspace=world.name, source={"path": "gates"}, vars={"world": str(world)}
            )
        steps = [step("one"), step("two")]
        run = (await call(agent, "run_start", type="composite", input={"steps": steps}, wait_seconds=25))["run"]
        assert run["state"] == "awaiting_approval"
        await approve(person, run)

    for world, victims in zip(worlds, (("worker", "front"), ("worker", "temporal")), strict=True):

        async def reached(gate: Path = world / "1.reached") -> bool:
            return gate.exists()

        await eventually(reached, f"the step {world.name} to be in mid-apply")
        for victim in victims:
            await own.kill(victim)
        await own.ready()
        (world / "1.open").touch()

    async with own.client(agent_key) as agent:
        await until(agent, run["run_id"], "applied", patience=90)
        assert await steps_of(agent, run) == [("local/dev/one", "applied"), ("local/dev/two", "applied")]
        for one in (await call(agent, "run_get", run_id=run["run_id"]))["data"]["steps_of_it"]:
            evidence = (await call(agent, "run_evidence", run_id=one["run_id"]))["data"]
            assert len(evidence["attempts"]) == 1 and len(evidence["decisions"]) == 1
