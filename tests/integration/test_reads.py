"""A stack that reads the outputs of another: what it gets, and what becomes of its plan when the other one moves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.core.run import RunState
from tests.integration.front import ANA
from tests.integration.in_the_cloud import InTheCloud, in_the_cloud
from tests.postgres import BOTH, database_of
from tests.requirements import requirement
from tests.service import temporal_server

pytestmark = pytest.mark.anyio

NET = """
variable "cidr" { default = "10.0.0.0/16" }
resource "terraform_data" "net" { input = var.cidr }
output "cidr" { value = var.cidr }
"""
APP = 'variable "reads" { type = any }\nresource "terraform_data" "app" { input = var.reads.net.cidr }\n'


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, client: Client, tmp_path: Path) -> AsyncIterator[InTheCloud]:
    """Two stacks: `app` reads `net`."""
    with database_of(request) as database:
        async with in_the_cloud(client, tmp_path, database=database) as running:
            for slug, text, more in (("net", NET, {}), ("app", APP, {"reads": ["dev/net"]})):
                folder = running.lost.folder / "stacks" / slug
                folder.mkdir()
                (folder / "main.tf").write_text(text)
                registered = {"env": "dev", "workspace": slug, "source": {"path": slug}, **more}
                assert "warnings" not in await running.agent.call("terraform_register_workspace", **registered)
            yield running


@requirement("reads:outputs")
async def test_a_stack_gets_the_outputs_of_the_one_it_reads_as_soon_as_that_has_some(it: InTheCloud) -> None:
    early = await it.ended("apply_terraform", workspace="app")
    assert (early["run"]["state"], early["data"]["code"]) == ("errored", "failed_precondition")
    assert "local/dev/net, which has no state yet; apply local/dev/net first" in early["data"]["reason"]["text"]

    await it.applied(workspace="net")
    waiting = (await it.ended("apply_terraform", workspace="app"))["run"]
    plan = await it.plan(waiting["run_id"])
    assert plan["reads"] == [{"ref": "local/dev/net", "serial": 1}]
    assert "input = 10.0.0.0/16" in plan["changes"]["items"][0]["attributes"]
    assert "reads_moved" not in plan


@requirement("reads:stale")
async def test_a_plan_whose_outputs_moved_is_planned_again_before_anything_is_applied(it: InTheCloud) -> None:
    await it.applied(workspace="net")
    waiting = (await it.ended("apply_terraform", workspace="app"))["run"]
    await it.applied(workspace="net", vars={"cidr": "10.9.0.0/16"})
    assert (await it.plan(waiting["run_id"]))["reads_moved"] == ["local/dev/net moved from serial 1 to 2"]
    async with it.front.as_(ANA, "approver") as ana:
        await ana.call("run_approve", run_id=waiting["run_id"], plan_digest=waiting["plan_digest"])
        run = await it.lost.seen(await it.lost.it.run(waiting["run_id"]), RunState.AWAITING_APPROVAL, times=2)

        assert "input = 10.9.0.0/16" in str((await it.plan(run.id))["changes"])
        told = [e.body.get("message") for e in await it.lost.events(run) if e.state is RunState.STALE]
        assert told == ["outputs that this plan was made with may be others now: local/dev/net moved from serial 1 to 2"]
        await ana.call("run_approve", run_id=run.id, plan_digest=run.plan_digest)
    await it.lost.it.reaches(run.id, RunState.APPLIED)

    assert "reads_moved" not in await it.workspace("app")
    await it.applied(workspace="net", vars={"cidr": "10.8.0.0/16"})
    assert (await it.workspace("app"))["reads_moved"] == ["local/dev/net moved from serial 2 to 3"]


@requirement("reads:stale")
async def test_where_the_outputs_stayed_the_same_the_approval_is_carried_over(it: InTheCloud) -> None:
    await it.applied(workspace="net")
    waiting = (await it.ended("apply_terraform", workspace="app"))["run"]
    (it.lost.folder / "stacks/net/main.tf").write_text(NET.replace("input = var.cidr", "input = [var.cidr]"))
    await it.applied(workspace="net")
    async with it.front.as_(ANA, "approver") as ana:
        await ana.call("run_approve", run_id=waiting["run_id"], plan_digest=waiting["plan_digest"])

    ended = await it.lost.it.reaches(waiting["run_id"], RunState.APPLIED)
    assert [d.channel for d in await it.lost.it.decisions(ended.id)] == ["front", "carried"]


async def test_what_reads_is_destroyed_also_where_the_other_is_gone(it: InTheCloud) -> None:
    await it.applied(workspace="net")
    await it.applied(workspace="app")
    await it.applied("destroy_terraform", workspace="net")
    await it.applied("destroy_terraform", workspace="app")

    assert (await it.workspace("app"))["state"]["serial"] > 1
    forgetting = {"env": "dev", "workspace": "net", "confirm_name": "local/dev/net"}
    error = await it.agent.refused("terraform_forget_workspace", **forgetting)
    assert (error["code"], "local/dev/app reads the outputs of local/dev/net" in error["message"]) == ("failed_precondition", True)
    await it.agent.call("terraform_forget_workspace", env="dev", workspace="app", confirm_name="local/dev/app")
    await it.agent.call("terraform_forget_workspace", **forgetting)
