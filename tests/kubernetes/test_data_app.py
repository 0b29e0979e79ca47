"""charts/example-data-app through the gate, as a team would release it: an agent asks, a person agrees to that plan."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.installed import Installed, call, until
from tests.kubernetes.plane import CHARTS, Plane
from tests.kubernetes.releasing import people, revisions, settings_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
PASSWORD = "canary-of-the-data-app-91c"
SLUG = "data-password"


@pytest.fixture
async def it(plane: Plane, tmp_path: Path) -> AsyncIterator[Installed]:
    made = Installed(data=tmp_path / "data", stacks=CHARTS)
    made.data.mkdir()
    (made.data / "countersign.toml").write_text(settings_of(kubeconfig=plane.kubeconfig))
    made.start()
    try:
        await made.ready()
        made.cli("secret", "set", SLUG, stdin=PASSWORD)
        yield made
    finally:
        made.stop()


@requirement("charts:example-released")
async def test_the_data_app_is_released_and_upgraded_through_the_gate(it: Installed, plane: Plane, namespace: str) -> None:
    values = {"database": {"password": {"secret": SLUG}}}
    asked = {"chart": "example-data-app", "release_name": "shop", "namespace": namespace, "run_tests": True}
    deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    async with people(it, namespace) as we:
        run_id = (await call(we.agent, "helm_deploy", **asked, values=values))["run"]["run_id"]
        plan = await we.agreed(run_id)
        await until(we.agent, run_id, "applied", patience=120)

        assert plan["data"]["counts"]["create"] == 6  # ConfigMap, Secret, claim, Service and two Deployments
        assert "shop-example-data-app-migrate" in json.dumps(plan), "the hook that will run is shown"
        live = {d["metadata"]["name"]: d["status"].get("readyReplicas") for d in (plane.get(deployments) or {})["items"]}
        assert live == {"shop-example-data-app-web": 2, "shop-example-data-app-worker": 1}
        secret = plane.get(f"/api/v1/namespaces/{namespace}/secrets/shop-example-data-app-database") or {}
        assert secret["data"]["password"] == "Y2FuYXJ5LW9mLXRoZS1kYXRhLWFwcC05MWM=", "the app gets the password itself"

        run_id = (await call(we.agent, "helm_deploy", **asked, values={**values, "web": {"replicas": 3}}))["run"]["run_id"]
        upgrade = await we.agreed(run_id)
        await until(we.agent, run_id, "applied", patience=120)
        logs = await call(we.agent, "run_logs", run_id=run_id)

    assert "spec.replicas" in json.dumps(upgrade)
    assert revisions(plane, namespace, "shop") == [(1, "superseded"), (2, "deployed")]
    assert (plane.get(f"{deployments}/shop-example-data-app-web") or {})["status"]["readyReplicas"] == 3
    assert PASSWORD not in json.dumps([plan, upgrade, logs])
    assert "Y2FuYXJ5LW9mLXRoZS1kYXRhLWFwcC05MWM=" not in json.dumps([plan, upgrade, logs])
