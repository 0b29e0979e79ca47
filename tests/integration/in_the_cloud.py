"""The whole service in one test process: a real MCP client, a front, Temporal, the state service and Terraform on the fake cloud."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from temporalio.client import Client

from countersign.core.run import ENDS, RunState
from mcp_front.main import build_front
from tests.fakecloud.client import Cloud, cloud, provider
from tests.fakecloud.provider import ADDRESS
from tests.fakecloud.raw import REQUIRED
from tests.integration.front import ANA, CLAUDE, Caller, FrontService
from tests.integration.lost_applies import Lost, lost
from tests.service import eventually

THING = REQUIRED + 'resource "fake_thing" "one" {\n  name = "one"\n  size = 1\n}\nresource "fake_thing" "two" {\n  name = "two"\n}\n'


@dataclass
class InTheCloud:
    lost: Lost
    cloud: Cloud
    front: FrontService
    agent: Caller

    async def ended(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The answer of `run_get` about the run that a tool started, when it has ended or waits for somebody."""
        where = {} if tool == "run_start" else {"env": "dev", "workspace": "demo"}
        begun = await self.agent.call(tool, **{**where, **arguments})
        run_id = begun["run"]["run_id"]

        async def there() -> dict[str, Any] | None:
            await self.agent.call("run_wait", run_id=run_id, until="decision", timeout_seconds=5)
            now = await self.agent.call("run_get", run_id=run_id)
            waits = (RunState.AWAITING_APPROVAL, RunState.NEEDS_OPERATOR)
            return now if now["run"]["state"] in (*ENDS, *waits) else None

        found: dict[str, Any] = await eventually(there, f"{tool} to end", patience=90.0)
        return found

    async def applied(self, tool: str = "apply_terraform", **arguments: Any) -> str:
        """A run that a person agreed to, to its end; its id."""
        waiting = (await self.ended(tool, **arguments))["run"]
        assert waiting["state"] == "awaiting_approval", waiting
        name = (waiting.get("approval") or {}).get("confirm_name")
        async with self.front.as_(ANA, "approver") as ana:
            given = {"confirm_name": name} if name else {}
            await ana.call("run_approve", run_id=waiting["run_id"], plan_digest=waiting["plan_digest"], **given)
        await self.lost.it.reaches(waiting["run_id"], RunState.APPLIED, patience=90.0)
        return str(waiting["run_id"])

    async def plan(self, run_id: str) -> dict[str, Any]:
        return dict((await self.agent.call("run_plan", run_id=run_id))["data"])

    async def workspace(self, slug: str = "demo") -> dict[str, Any]:
        return dict((await self.agent.call("terraform_get_workspace", env="dev", workspace=slug))["data"])

    def object(self, name: str) -> dict[str, Any]:
        """The newest object of that name in the cloud."""
        return dict(next(line["object"] for line in reversed(self.cloud.record) if line["object"]["name"] == name))


@contextlib.asynccontextmanager
async def in_the_cloud(
    client: Client, folder: Path, configuration: str = THING, *, database: str | None = None, **engine: Any
) -> AsyncIterator[InTheCloud]:
    (folder / "cloud").mkdir()
    async with cloud(folder / "cloud") as world, provider(world) as fake:
        options = {"allowed_providers": (ADDRESS, "terraform.io/builtin/*"), "environment": {"TF_REATTACH_PROVIDERS": fake.reattach}}
        async with lost(client, folder, engine={**options, **engine}, database=database) as running:
            running.configure(configuration)

            async def runs() -> Any:
                return running.it.runs

            async with build_front(running.it.settings, runs=runs) as front:
                service = FrontService(front=front, temporal=cast(Any, None), engine=cast(Any, None), org="local")
                async with service.as_(CLAUDE, "platform") as agent:
                    yield InTheCloud(running, world, service, agent)
