"""A release through the gate: an agent asks, a person countersigns that exact plan, helm applies it on a real control plane."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from mcp import types

from tests.acceptance.installed import Installed, call, refused, until
from tests.acceptance.installed import eventually as in_time
from tests.kubernetes.plane import Plane, eventually
from tests.kubernetes.releasing import CHARTS, SEALED, helms, people, revisions, service
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

        runs = await call(we.agent, "run_list", target=f"local/dev/{namespace}.web")
        assert [run["type"] for run in runs["data"]["runs"]] == [
            "helm_uninstall",
            "helm_uninstall",
            "helm_rollback",
            "helm_deploy",
            "helm_deploy",
        ]
        error = await refused(we.agent, "apply_terraform", env="dev", workspace=f"{namespace}.web")
        assert (error["code"], error["field"]) == ("not_found", "workspace")


@requirement("helm:through-the-gate", "promise:destroying-asks")
async def test_a_person_before_the_client_is_asked_right_there_and_types_the_name(shared: Installed, plane: Plane, namespace: str) -> None:
    typed: dict[str, str] = {}
    questions: list[str] = []

    async def asked(_: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        questions.append(params.message)
        return types.ElicitResult(action="accept", content=dict(typed))

    async with people(shared, namespace) as we:
        await we.deployed("web")
        await we.deployed("web", {"replicas": 2})
    key = shared.key(f"person:eve-{namespace}", kind="person", role="platform")
    async with shared.client(key, elicitation_callback=asked) as eve:
        back = await call(eve, "helm_rollback", release_name="web", namespace=namespace, revision=1, wait_seconds=25)
        typed["confirm_name"] = "web"
        gone = await call(eve, "helm_uninstall", release_name="web", namespace=namespace, wait_seconds=25)

    assert (back["run"]["state"], gone["run"]["state"]) == ("applied", "applied")
    assert "helm_rollback" in questions[0] and "To approve it" not in questions[0]
    assert "To approve it, type web" in questions[1]
    assert revisions(plane, namespace, "web") == []


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


@requirement("helm:secrets")
async def test_values_are_in_no_argument_and_no_environment_of_helm(shared: Installed, plane: Plane, namespace: str) -> None:
    async with people(shared, namespace) as we:
        run_id = await we.deploy("web", {"token": {"secret": "web-token"}, "hook": "slow"})
        await we.agreed(run_id)
        pid = await eventually_helm(shared)
        shown = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        await until(we.agent, run_id, "applied", patience=120)

    assert b"upgrade" in shown[0] and b"COUNTERSIGN_ATTEMPT" in shown[1]
    assert not any(SECRET.encode() in one for one in shown)
    assert b"HELM_NAMESPACE" not in shown[1] and b"KUBECONFIG" not in shown[1]


async def eventually_helm(it: Installed) -> int:
    async def there() -> int | None:
        return next(helms(it), None)

    pid: int = await in_time(there, "a helm that works")
    return pid


CRD = """apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: baskets.PLACE.example.com}
spec:
  group: PLACE.example.com
  scope: Namespaced
  names: {kind: Basket, plural: baskets, singular: basket}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


async def test_kinds_that_a_chart_brings_along_are_made_first_and_shown(plane: Plane, namespace: str, tmp_path: Path) -> None:
    chart = tmp_path / "charts" / "shop"
    for folder in ("crds", "templates"):
        (chart / folder).mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: shop\nversion: 1.0.0\n")
    (chart / "crds" / "basket.yaml").write_text(CRD.replace("PLACE", namespace))
    (chart / "templates" / "all.yaml").write_text(f"apiVersion: {namespace}.example.com/v1\nkind: Basket\nmetadata: {{name: mine}}\n")
    async with service(tmp_path, plane.kubeconfig, stacks=tmp_path / "charts") as it, people(it, namespace) as we:
        plan = await we.deployed("shop", chart="shop")

    told = json.dumps(plan)
    assert plan["data"]["counts"]["create"] == 2
    assert "CustomResourceDefinition" in told and "unchecked" in told
    assert plane.get(f"/apis/{namespace}.example.com/v1/namespaces/{namespace}/baskets/mine") is not None


async def test_what_was_uninstalled_with_its_history_is_installed_with_the_hooks_that_were_shown(
    shared: Installed, plane: Plane, namespace: str
) -> None:
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    async with people(shared, namespace) as we:
        await we.deployed("web")
        gone = await call(we.agent, "helm_uninstall", release_name="web", namespace=namespace, keep_history=True)
        await we.agreed(gone["run"]["run_id"], confirm_name="web")
        await until(we.agent, gone["run"]["run_id"], "applied", patience=120)
        assert revisions(plane, namespace, "web") == [(1, "uninstalled")]

        plan = await we.deployed("web", {"hook": "runs", "hookEvents": "pre-install"})

    assert f"Job.batch/{namespace}/web-before (pre-install)" in json.dumps(plan)
    assert plane.names(jobs) == ["web-before"]
    assert revisions(plane, namespace, "web") == [(1, "superseded"), (2, "deployed")]


async def test_of_a_release_of_helm_3_what_is_taken_away_is_shown_and_what_others_manage_is_taken_over(
    shared: Installed, plane: Plane, namespace: str
) -> None:
    """Helm goes on with it as it was made, on the client: the server does not know what its chart declared."""

    def values(**data: str) -> dict[str, object]:
        return {"extra": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "lights"}, "data": data}]}

    by_hand = ["install", "web", str(CHARTS / "web"), "-n", namespace, "--server-side=false", "-f", "-"]
    await asyncio.to_thread(plane.helm, *by_hand, stdin=json.dumps(values(red="1", green="1")))
    plane.patch(f"/apis/apps/v1/namespaces/{namespace}/deployments/web", {"spec": {"replicas": 2}})
    async with people(shared, namespace) as we:
        plan = await we.deployed("web", values(red="1"))

    told = json.dumps(plan)
    assert "data.green" in told and "spec.replicas" in told
    assert plan["data"]["counts"]["update"] == 2
    lights = plane.get(f"/api/v1/namespaces/{namespace}/configmaps/lights")
    live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert lights is not None and lights["data"] == {"red": "1"}
    assert live is not None and live["spec"]["replicas"] == 1
    assert revisions(plane, namespace, "web") == [(1, "superseded"), (2, "deployed")]


async def test_whether_an_object_is_kept_says_the_live_one(shared: Installed, plane: Plane, namespace: str) -> None:
    """As Helm does it on an upgrade: who annotates a volume to save it changes no manifest."""

    def config_map(name: str, **annotations: str) -> dict[str, object]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "annotations": annotations}}

    policy = "helm.sh/resource-policy"
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    async with people(shared, namespace) as we:
        await we.deployed("web", {"extra": [config_map("saved"), config_map("given-up", **{policy: "keep"})]})
        plane.patch(f"{maps}/saved", {"metadata": {"annotations": {policy: "keep"}}})
        plane.patch(f"{maps}/given-up", {"metadata": {"annotations": {policy: None}}})

        run_id = await we.deploy("web")
        plan = await we.agreed(run_id, confirm_name="web")
        await until(we.agent, run_id, "applied", patience=120)

    assert (plan["data"]["counts"]["delete"], plan["data"]["counts"]["forgotten"]) == (1, 1)
    told = json.dumps(plan)
    assert f"1 object would be deleted: ConfigMap/{namespace}/given-up" in told
    assert f"for its resource-policy is keep: ConfigMap/{namespace}/saved" in told
    assert "saved" in plane.names(maps) and "given-up" not in plane.names(maps)


async def test_what_a_chart_keeps_and_what_a_failed_upgrade_left_behind_are_told_apart(
    shared: Installed, plane: Plane, namespace: str
) -> None:
    def config_map(name: str, **annotations: str) -> dict[str, object]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "annotations": annotations}}

    kept = config_map("kept", **{"helm.sh/resource-policy": "keep"})
    maps = f"/api/v1/namespaces/{namespace}/configmaps"
    async with people(shared, namespace) as we:
        await we.deployed("web", {"extra": [kept]})
        values = json.dumps({"extra": [kept, config_map("left")], "fake": "image-pull"})
        by_hand = ["upgrade", "web", str(CHARTS / "web"), "-n", namespace, "-f", "-", "--wait", "--timeout", "2s"]
        await asyncio.to_thread(plane.helm, *by_hand, stdin=values, code=1)
        assert "left" in plane.names(maps)

        run_id = await we.deploy("web", {"replicas": 2})
        plan = await we.agreed(run_id, confirm_name="web")
        await until(we.agent, run_id, "applied", patience=120)
        told = json.dumps(plan)
        assert "Revision 2 failed" in told and f"ConfigMap/{namespace}/left" in told
        assert (plan["data"]["counts"]["delete"], plan["data"]["counts"]["forgotten"]) == (1, 1)

    assert "left" not in plane.names(maps)
    assert "kept" in plane.names(maps)
    live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert live is not None and live["spec"]["replicas"] == 2


async def test_a_release_that_helm_could_not_store_is_refused_in_the_plan(plane: Plane, namespace: str, tmp_path: Path) -> None:
    chart = tmp_path / "charts" / "large"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: large\nversion: 1.0.0\n")
    (chart / "templates" / "all.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    (chart / "blob").write_bytes(os.urandom(900 << 10))
    async with service(tmp_path, plane.kubeconfig, stacks=tmp_path / "charts") as it, people(it, namespace) as we:
        run_id = await we.deploy("large", chart="large")
        await we.errored(run_id)
        got = await call(we.agent, "run_get", run_id=run_id)

    assert "one release has room for 1024" in json.dumps(got)
    assert revisions(plane, namespace, "large") == []


@requirement("helm:secrets")
async def test_a_sealed_kubeconfig_reaches_the_cluster_and_lies_nowhere_afterwards(plane: Plane, namespace: str, tmp_path: Path) -> None:
    text = plane.kubeconfig.read_text()
    (user,) = json.loads(text)["users"]
    key = user["user"]["client-key-data"]
    async with service(tmp_path, None) as it, people(it, namespace) as we:
        run_id = await we.deploy("web")
        told = await we.errored(run_id)
        assert f"countersign secret set {SEALED}" in json.dumps(told)
        it.cli("secret", "set", SEALED, stdin=text)
        await we.deployed("web")
        await in_time(nothing_in(it.data / "attempts"), "what the attempt left in clear to be gone")
        for file in it.data.rglob("*"):
            if file.is_file():
                assert key.encode() not in file.read_bytes(), file

    assert revisions(plane, namespace, "web") == [(1, "deployed")]


def nothing_in(folder: Path) -> Callable[[], Awaitable[bool]]:
    async def there() -> bool:
        return not await asyncio.to_thread(lambda: list(folder.iterdir()))

    return there
