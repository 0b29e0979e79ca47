"""A release through the gate: an agent asks, a person countersigns that exact plan, helm applies it on a real control plane."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.acceptance.installed import Installed, call, refused, until
from tests.kubernetes.plane import Plane, eventually
from tests.kubernetes.releasing import people, revisions, service
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
SECRET = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
async def shared(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installed]:
    async with service(tmp_path_factory.mktemp("helm"), plane.kubeconfig) as it:
        it.cli("secret", "set", "web-token", stdin=SECRET)
        yield it


@requirement("helm:through-the-gate")
async def test_an_agent_deploys_upgrades_rolls_back_and_uninstalls_and_a_person_agrees_to_each(
    shared: Installed, plane: Plane, namespace: str
) -> None:
    values = {"token": {"secret": "web-token"}}
    async with people(shared, namespace) as we:
        run_id = await we.deploy("web", values, run_tests=True)
        plan = await we.agreed(run_id)
        assert plan["data"]["counts"]["create"] == 3
        await until(we.agent, run_id, "applied", patience=120)
        got = await call(we.agent, "run_get", run_id=run_id, include=["outputs", "resources", "timeline"])
        assert got["data"]["outputs"]["values"]["revision"]["value"] == 1
        states = [e["state"] for e in got["data"]["timeline"] if e["kind"] == "state"]
        assert states == ["pending", "planning", "checking", "awaiting_approval", "approved", "applying", "verifying", "applied"]
        live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
        assert live is not None and live["status"]["readyReplicas"] == 1

        plan = await we.deployed("web", {**values, "replicas": 3})
        assert plan["data"]["counts"]["update"] == 2
        assert "spec.replicas" in json.dumps(plan)
        assert revisions(plane, namespace, "web") == [(1, "superseded"), (2, "deployed")]

        back = await call(we.agent, "helm_rollback", release_name="web", revision=1)
        await we.agreed(back["run"]["run_id"])
        await until(we.agent, back["run"]["run_id"], "applied", patience=120)
        assert revisions(plane, namespace, "web")[-1] == (3, "deployed")
        live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
        assert live is not None and live["spec"]["replicas"] == 1

        gone = await call(we.agent, "helm_uninstall", release_name="web")
        run_id = gone["run"]["run_id"]
        waiting = await until(we.agent, run_id, "awaiting_approval")
        assert (waiting["run"]["change_class"], waiting["run"]["approval"]["confirm_name"]) == ("stateful_delete", "web")
        digest = waiting["run"]["plan_digest"]
        assert (await refused(we.person, "run_approve", run_id=run_id, plan_digest=digest))["code"] == "confirmation_required"
        await call(we.person, "run_approve", run_id=run_id, plan_digest=digest, confirm_name="web")
        await until(we.agent, run_id, "applied", patience=120)
        assert revisions(plane, namespace, "web") == []
        assert plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web") is None

        nothing = await call(we.agent, "helm_uninstall", release_name="web", namespace=namespace, wait_seconds=25)
        assert nothing["run"]["state"] == "planned_and_finished"


@requirement("helm:secrets")
async def test_a_secret_of_a_release_is_nowhere_to_be_read(shared: Installed, namespace: str) -> None:
    async with people(shared, namespace) as we:
        run_id = await we.deploy("web", {"token": {"secret": "web-token"}})
        plan = await we.agreed(run_id)
        await until(we.agent, run_id, "applied", patience=120)
        got = await call(we.agent, "run_get", run_id=run_id, include=["outputs", "resources", "approvals", "timeline"])
        logs = await call(we.agent, "run_logs", run_id=run_id)

    told = json.dumps([plan, got, logs])
    assert SECRET not in told
    assert "Secret" in told
    eventually(lambda: not list((shared.data / "attempts").iterdir()), "what the attempt left in clear to be gone")
    for file in shared.data.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
