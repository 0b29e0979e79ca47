"""Terraform, then a release: two engines as one plan of plans with one approval, and a resume that repeats nothing."""

import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.acceptance.conftest import STACKS
from tests.acceptance.installed import Installed, call, until
from tests.kubernetes.plane import Plane
from tests.kubernetes.releasing import CHARTS, People, people, revisions, service
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def it(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installed]:
    folder = tmp_path_factory.mktemp("composites")
    shutil.copytree(CHARTS, folder / "stacks")
    shutil.copytree(STACKS / "small", folder / "stacks" / "small")
    async with service(folder, plane.kubeconfig, timeout=15, stacks=folder / "stacks") as running:
        yield running


def steps(namespace: str, workspace: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    deploy = {"chart": "web", "release_name": "web", "namespace": namespace, "values": values}
    return [{"type": "apply_terraform", "input": {"env": "dev", "workspace": workspace}}, {"type": "helm_deploy", "input": deploy}]


async def asked(we: People, workspace: str, values: dict[str, Any]) -> dict[str, Any]:
    await call(we.agent, "terraform_register_workspace", env="dev", workspace=workspace, source={"path": "small"})
    answer = await call(we.agent, "run_start", type="composite", input={"steps": steps(we.namespace, workspace, values)}, wait_seconds=25)
    run: dict[str, Any] = answer["run"]
    return (await until(we.agent, run["run_id"], "awaiting_approval"))["run"] | {"run_id": run["run_id"]}


async def ended(we: People, run: dict[str, Any], state: str) -> list[tuple[str, str]]:
    await until(we.agent, run["run_id"], state, patience=120)
    data = (await call(we.agent, "run_get", run_id=run["run_id"]))["data"]
    return [(one["type"], one["state"]) for one in data["steps_of_it"]]


@requirement("composite:one-approval", "composite:ordered")
async def test_a_stack_and_a_release_are_planned_agreed_to_and_applied_as_one(it: Installed, plane: Plane, namespace: str) -> None:
    async with people(it, namespace) as we:
        run = await asked(we, "ground", {"replicas": 2})
        plan = await we.agreed(run["run_id"])
        addresses = [c["address"] for c in plan["data"]["changes"]["items"]]
        assert {a.partition("/")[0] for a in addresses} == {"1", "2"}
        assert "1/terraform_data.first" in addresses and any("web" in a for a in addresses)
        assert plan["data"]["counts"]["create"] == 5

        assert await ended(we, run, "applied") == [("apply_terraform", "applied"), ("helm_deploy", "applied")]
        made = (await call(we.agent, "run_get", run_id=run["run_id"], include=["outputs"]))["data"]["outputs"]["values"]

    assert made["1/size"]["value"] == 1 and made["2/revision"]["value"] == 1
    assert revisions(plane, namespace, "web") == [(1, "deployed")]


@requirement("composite:honest-end", "composite:resume")
async def test_a_release_that_fails_after_its_stack_is_told_and_finished_without_the_stack(
    it: Installed, plane: Plane, namespace: str
) -> None:
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    async with people(it, namespace) as we:
        run = await asked(we, "kept", {})
        plane.create(
            quotas, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
        )  # no plan could have seen it
        await we.agreed(run["run_id"])
        (_, stack), (_, release) = await ended(we, run, "partially_applied")
        assert stack == "applied" and release in ("errored", "partially_applied")
        assert [one for one in revisions(plane, namespace, "web") if one[1] == "deployed"] == []
        told = await call(we.agent, "run_get", run_id=run["run_id"])
        assert told["data"]["reason"]["text"].startswith(f"step 2 (local/dev/{namespace}.web) ended {release}: ")
        assert "run_resume" in told["next"]

        plane.delete(f"{quotas}/none")
        rest = (await call(we.agent, "run_resume", run_id=run["run_id"], wait_seconds=25))["run"]
        await we.agreed(rest["run_id"])
        assert await ended(we, rest, "applied") == [("helm_deploy", "applied")]
        state = (await call(we.agent, "terraform_get_state", env="dev", workspace="kept"))["data"]

    assert state["serial"] == 1, "the stack was applied once"
    assert [status for _, status in revisions(plane, namespace, "web")][-1] == "deployed"
