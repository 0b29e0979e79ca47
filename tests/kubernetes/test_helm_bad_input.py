"""What cannot be released is told before anybody is asked to agree, in words that say what to do next."""

import json
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installed import Installed, call, eventually, refused, until
from tests.kubernetes.plane import Plane
from tests.kubernetes.releasing import CHARTS, People, people, revisions, service
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def shared(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installed]:
    async with service(tmp_path_factory.mktemp("helm"), plane.kubeconfig, timeout=12) as it:
        yield it


def config_map(name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **more}


async def why(we: People, values: dict[str, Any], name: str = "web", **more: Any) -> str:
    """Why a deploy ends before anything is changed."""
    run_id = await we.deploy(name, values, **more)
    await we.errored(run_id)
    got = await call(we.agent, "run_get", run_id=run_id)
    return json.dumps(got)


@requirement("helm:refused-in-the-plan")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"replicas": "many"}, "/replicas"),
        ({"extra": ["no object"]}, "do not render"),
        ({"extra": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}]}, "resource name may not be empty"),
        ({"extra": [config_map("web-settings")]}, "written only once"),
        ({"extra": [config_map("a", data={"n": [1]})]}, "is not valid"),
        ({"extra": [{"apiVersion": "shop.example.com/v1", "kind": "Basket", "metadata": {"name": "a"}}]}, "CustomResourceDefinition"),
    ],
)
async def test_values_that_give_no_release_are_refused_by_what_is_wrong(
    shared: Installed, plane: Plane, namespace: str, values: dict[str, Any], said: str
) -> None:
    async with people(shared, namespace) as we:
        assert said in await why(we, values)

    assert revisions(plane, namespace, "web") == []


@requirement("helm:refused-in-the-plan")
async def test_what_the_door_can_tell_is_told_at_once(shared: Installed, namespace: str) -> None:
    async with people(shared, namespace) as we:
        asked = {"chart": "web", "release_name": "web", "namespace": namespace, "values": {}}
        for change, field in [
            ({"release_name": "Web"}, "release_name"),
            ({"release_name": "x" * 54}, "release_name"),
            ({"namespace": "a.b"}, "namespace"),
            ({"values": {"token": {"secret": "No Slug"}}}, "values"),
            ({"values": {"data": "x" * (300 << 10)}}, "values"),
            ({"env": "prod"}, "env"),
        ]:
            error = await refused(we.agent, "helm_deploy", **{**asked, **change})
            assert error["field"] == field, change
        for tool, more in [("helm_uninstall", {}), ("helm_rollback", {"revision": 1})]:
            error = await refused(we.agent, tool, release_name="nobody", **more)
            assert (error["code"], error["field"]) == ("not_found", "release_name")


@requirement("helm:refused-in-the-plan")
async def test_a_chart_that_is_none_or_does_not_render_or_wants_another_cluster_is_refused(
    plane: Plane, namespace: str, tmp_path: Path
) -> None:
    for name, template, more in [
        ("broken", "{{ .Values.nothing.at.all }}", ""),
        ("newer", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}", "kubeVersion: '>=9.0.0'\n"),
    ]:
        (tmp_path / "charts" / name / "templates").mkdir(parents=True)
        (tmp_path / "charts" / name / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: 1.0.0\n{more}")
        (tmp_path / "charts" / name / "templates" / "all.yaml").write_text(template)
    async with service(tmp_path, plane.kubeconfig, stacks=tmp_path / "charts") as it, people(it, namespace) as we:
        assert "nil pointer evaluating" in await why(we, {}, chart="broken")
        assert "another version of it" in await why(we, {}, chart="newer")
        assert "no chart" in await why(we, {}, chart="nowhere")


@requirement("helm:refused-in-the-plan")
async def test_a_namespace_that_is_missing_is_named(shared: Installed, namespace: str) -> None:
    async with people(shared, namespace) as we:
        told = await why(we, {}, namespace="not-there")

    assert "not-there" in told and "made first" in told


@requirement("helm:refused-in-the-plan")
async def test_an_object_of_somebody_else_is_not_taken_over(shared: Installed, plane: Plane, namespace: str) -> None:
    plane.create(f"/api/v1/namespaces/{namespace}/configmaps", config_map("web-settings", data={"mine": "1"}))
    async with people(shared, namespace) as we:
        told = await why(we, {})

    assert "web-settings" in told and "is not this release's" in told


@requirement("helm:refused-in-the-plan")
async def test_a_field_that_cannot_change_is_named(shared: Installed, plane: Plane, namespace: str) -> None:
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    smaller = {**spec, "resources": {"requests": {"storage": "1Mi"}}}
    async with people(shared, namespace) as we:
        await we.deployed("web", {"extra": [{**claim, "spec": spec}]})
        told = await why(we, {"extra": [{**claim, "spec": smaller}]})

    assert "PersistentVolumeClaim" in told and "does not let" in told
    assert revisions(plane, namespace, "web") == [(1, "deployed")]


@requirement("helm:refused-in-the-plan")
async def test_quotas_of_pods_are_reckoned_and_those_of_objects_asked(shared: Installed, plane: Plane, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": {"pods": "2", "configmaps": "3"}}}
    plane.create(f"/api/v1/namespaces/{namespace}/resourcequotas", quota)

    async def counted() -> bool:
        found = plane.get(f"/api/v1/namespaces/{namespace}/resourcequotas/small") or {}
        return bool(found.get("status", {}).get("used"))

    await eventually(counted, "the quota to be counted")
    async with people(shared, namespace) as we:
        assert "allows 2 pods" in await why(we, {"replicas": 3})
        assert "allows 3 configmaps" in await why(we, {"extra": [config_map(f"c{n}") for n in range(2)]})
        await we.deployed("web", {"extra": [config_map("c0")]})


async def test_fields_of_another_manager_are_taken_only_as_the_plan_says(shared: Installed, plane: Plane, namespace: str) -> None:
    async with people(shared, namespace) as we:
        await we.deployed("web")
        plane.patch(f"/apis/apps/v1/namespaces/{namespace}/deployments/web?fieldManager=somebody", {"spec": {"replicas": 5}})
        run_id = await we.deploy("web", {"replicas": 2})
        plan = await we.agreed(run_id)
        assert "somebody" in json.dumps(plan) and "by force" in json.dumps(plan)
        await until(we.agent, run_id, "applied", patience=120)

    live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert live is not None and live["spec"]["replicas"] == 2


async def test_what_moved_after_the_plan_is_planned_and_asked_again(shared: Installed, plane: Plane, namespace: str) -> None:
    async with people(shared, namespace) as we:
        await we.deployed("web")
        run_id = await we.deploy("web", {"replicas": 2})
        waiting = await until(we.agent, run_id, "awaiting_approval")
        first = waiting["run"]["plan_digest"]
        plane.patch(f"/apis/apps/v1/namespaces/{namespace}/deployments/web", {"spec": {"minReadySeconds": 1}})
        await call(we.person, "run_approve", run_id=run_id, plan_digest=first)

        async def asked_again() -> str | None:
            run = (await call(we.agent, "run_get", run_id=run_id))["run"]
            return run["plan_digest"] if run["state"] == "awaiting_approval" and run["plan_digest"] != first else None

        second = await eventually(asked_again, "the plan to be made again")
        await call(we.person, "run_approve", run_id=run_id, plan_digest=second)
        await until(we.agent, run_id, "applied", patience=120)


@requirement("helm:recovered-by-evidence")
async def test_a_release_that_somebody_else_left_pending_is_told_and_left_alone(shared: Installed, plane: Plane, namespace: str) -> None:
    words = plane.helm_words("install", "web", str(CHARTS / "web"), "-n", namespace, "--set", "hook=hang", "--timeout", "60s")
    by_hand = subprocess.Popen(  # noqa: ASYNC220 - it only starts
        words, env=plane.helm_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:

        async def there() -> bool:
            return revisions(plane, namespace, "web") == [(1, "pending-install")]

        await eventually(there, "somebody's install to be pending")
        async with people(shared, namespace) as we:
            alive = await why(we, {})
            by_hand.send_signal(signal.SIGKILL)
            by_hand.wait(10)
            dead = await why(we, {}, message="once more")
    finally:
        by_hand.kill()
        by_hand.wait(10)

    for told in (alive, dead):
        assert "pending-install at revision 1" in told and "by something other than this run" in told
    assert revisions(plane, namespace, "web") == [(1, "pending-install")]


async def test_a_release_of_before_server_side_apply_is_upgraded(shared: Installed, plane: Plane, namespace: str) -> None:
    plane.helm("install", "web", str(CHARTS / "web"), "-n", namespace, "--server-side=false", "--wait")
    async with people(shared, namespace) as we:
        plan = await we.deployed("web", {"replicas": 2})

    assert plan["data"]["counts"]["update"] == 2
    assert revisions(plane, namespace, "web") == [(1, "superseded"), (2, "deployed")]


async def test_what_does_not_become_ready_is_rolled_back_and_said(shared: Installed, plane: Plane, namespace: str) -> None:
    async with people(shared, namespace) as we:
        await we.deployed("web")
        for values in ({"fake": "image-pull"}, {"hook": "hang"}):
            run_id = await we.deploy("web", values)
            await we.agreed(run_id)
            await until(we.agent, run_id, "partially_applied", patience=120)
            got = await call(we.agent, "run_get", run_id=run_id)
            assert "rolled back to revision" in json.dumps(got)

    assert revisions(plane, namespace, "web")[-1][1] == "deployed"
    live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert live is not None and live["status"].get("readyReplicas") == 1


async def test_a_credential_without_rights_is_told_which_it_lacks(plane: Plane, namespace: str, tmp_path: Path) -> None:
    rules = [
        {"apiGroups": ["", "apps", "batch"], "resources": ["*"], "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"]}
    ]
    no_deployments = [
        {"apiGroups": [""], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
    ]
    able, unable = plane.restricted(namespace, rules), plane.restricted(namespace, no_deployments, name="unable")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with service(tmp_path / "a", unable) as it, people(it, namespace) as we:
        told = await why(we, {})
    async with service(tmp_path / "b", able) as it, people(it, f"{namespace}") as we:
        await we.deployed("web")

    assert "may not do that" in told and "deployments" in told


async def test_a_cluster_that_does_not_answer_leaves_the_run_waiting_and_nothing_done(own_plane: Plane, tmp_path: Path) -> None:
    own_plane.namespace("shop")
    async with service(tmp_path, own_plane.kubeconfig) as it, people(it, "shop") as we:
        with own_plane.frozen("kube-apiserver"):
            run_id = await we.deploy("web")
            await until(we.agent, run_id, "planning")
        plan = await we.agreed(run_id)
        await until(we.agent, run_id, "applied", patience=120)

    assert plan["data"]["counts"]["create"] == 3


async def test_an_install_that_fails_is_taken_back_and_failing_tests_are_told(shared: Installed, plane: Plane, namespace: str) -> None:
    async with people(shared, namespace) as we:
        run_id = await we.deploy("web", {"fake": "image-pull"})
        await we.agreed(run_id)
        await until(we.agent, run_id, "partially_applied", patience=120)
        assert "what it had made was removed again" in json.dumps(await call(we.agent, "run_get", run_id=run_id))
        assert revisions(plane, namespace, "web") == []
        assert plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web") is None

        run_id = await we.deploy("web", {"testFake": "exit"}, run_tests=True)
        await we.agreed(run_id)
        await until(we.agent, run_id, "partially_applied", patience=120)
        assert "its tests failed" in json.dumps(await call(we.agent, "run_get", run_id=run_id))
        assert revisions(plane, namespace, "web") == [(1, "deployed")]
