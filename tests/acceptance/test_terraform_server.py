"""The rest of the terraform server, through a real MCP client and the command line: adopt, look for drift, import, unlock, read."""

from typing import Any

import pytest
from mcp import Client
from temporalio.client import Client as Temporal

from tests.acceptance.installed import Installed, call, eventually, refused, until
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


async def registered(client: Client, slug: str, **more: Any) -> dict[str, Any]:
    return await call(client, "terraform_register_workspace", env="dev", workspace=slug, source={"path": "small"}, **more)


async def agreed(agent: Client, person: Client, run: dict[str, Any]) -> None:
    """A run that waits is countersigned, and applied."""
    waiting = await until(agent, run["run_id"], "awaiting_approval")
    await call(person, "run_approve", run_id=run["run_id"], plan_digest=waiting["run"]["plan_digest"])
    await until(agent, run["run_id"], "applied")


@requirement("adopt:asks-for-itself", "import:a-run", "drift:found")
async def test_an_agent_looks_first_adopts_what_it_saw_imports_and_looks_for_drift(shared: Installed) -> None:
    agent_key = shared.key("agent:server", acts_for="person:ana")
    person_key = shared.key("person:dee", kind="person", role="approver")
    async with shared.client(agent_key) as agent, shared.client(person_key) as person:
        await registered(agent, "whole")
        where = {"env": "dev", "workspace": "whole"}
        taken = await call(agent, "terraform_import", **where, address="terraform_data.first", external_id="made-elsewhere")
        waiting = await until(agent, taken["run"]["run_id"], "awaiting_approval")
        assert waiting["run"]["change_class"] == "import"
        await agreed(agent, person, taken["run"])
        state = await call(agent, "terraform_get_state", **where, address="terraform_data.first")
        assert "made-elsewhere" in str(state["data"]["resource"])

        looked = await call(agent, "terraform_plan", **where, vars={"size": 2}, wait_seconds=25)
        assert looked["run"]["state"] == "planned_and_finished"
        adopting = await call(agent, "apply_terraform", **where, plan_digest=looked["run"]["plan_digest"])
        await agreed(agent, person, adopting["run"])
        stale = await refused(agent, "apply_terraform", **where, plan_digest=looked["run"]["plan_digest"], idempotency_key="once-more-1")
        assert (stale["code"], "serial" in stale["message"]) == ("plan_stale", True)

        drift = await call(agent, "terraform_detect_drift", **where, wait_seconds=25)
        assert drift["run"]["state"] == "planned_and_finished"
        found = (await call(agent, "terraform_get_workspace", **where))["data"]["drift"]
        assert (found["found"], found["run_id"]) == (0, drift["run"]["run_id"])
        unlocked = await refused(agent, "terraform_force_unlock", **where, lock_id="x", confirm_name="local/dev/whole")
        assert unlocked["code"] == "failed_precondition"
    assert "no changes" in shared.cli("drift", "dev/whole")


@requirement("drift:scheduled")
async def test_a_worker_makes_the_schedule_of_a_workspace_and_removes_it(shared: Installed) -> None:
    temporal = await Temporal.connect(f"127.0.0.1:{shared.temporal_port}")

    async def intervals() -> list[str]:
        """Of all schedules there are."""
        return [
            str(spec.every)
            async for one in await temporal.list_schedules()
            if one.schedule is not None
            for spec in one.schedule.spec.intervals
        ]

    async with shared.client(shared.key("agent:scheduler")) as agent:
        await registered(agent, "watched", drift_every="7h")

        async def made() -> bool:
            return "7:00:00" in await intervals()

        await eventually(made, "the schedule to be made")
        await call(agent, "terraform_forget_workspace", env="dev", workspace="watched", confirm_name="local/dev/watched")

        async def gone() -> bool:
            return "7:00:00" not in await intervals()

        await eventually(gone, "the schedule to be removed")
