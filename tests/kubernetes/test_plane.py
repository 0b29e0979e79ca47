"""The cluster that releases are tried on behaves as a cluster does, and can be broken on purpose."""

import pytest

from tests.kubernetes.plane import Plane, eventually

POD = {"containers": [{"name": "c", "image": "example.com/c:1"}]}


def deployment(name: str, *, fake: str | None = None) -> dict[str, object]:
    labels = {"app": name, **({"countersign.local/fake": fake} if fake else {})}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": labels}, "spec": POD}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def test_pods_of_a_deployment_become_ready(plane: Plane, namespace: str) -> None:
    at = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    plane.create(at, deployment("good"))

    eventually(lambda: (plane.get(f"{at}/good") or {})["status"].get("readyReplicas") == 2, "two ready pods")


def test_a_pod_that_is_told_to_crash_never_becomes_ready(plane: Plane, namespace: str) -> None:
    plane.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("bad", fake="crash"))

    def crashing() -> bool:
        pods = (plane.get(f"/api/v1/namespaces/{namespace}/pods") or {"items": []})["items"]
        waiting = [s["state"].get("waiting", {}).get("reason") for p in pods for s in p.get("status", {}).get("containerStatuses", ())]
        return waiting == ["CrashLoopBackOff"] * 2

    eventually(crashing, "two crashing pods")


def test_a_restricted_account_may_do_what_its_role_says_and_nothing_else(plane: Plane, namespace: str) -> None:
    config = plane.restricted(namespace, [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}])

    assert plane.helm("list", "-n", namespace, "--kubeconfig", str(config), "-q") == ""
    refused = plane.helm("list", "-n", "default", "--kubeconfig", str(config), code=1)
    assert "is forbidden" in refused


@pytest.mark.parametrize("program", ["kube-apiserver", "etcd"])
def test_a_part_that_was_killed_comes_back_with_what_it_knew(own_plane: Plane, program: str) -> None:
    own_plane.namespace("kept")

    with own_plane.away(program):
        pass

    assert "kept" in own_plane.names("/api/v1/namespaces")
