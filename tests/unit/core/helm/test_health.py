"""Whether what lives in a cluster works, read from what it says of itself."""

from typing import Any

import pytest

from countersign.core.helm.health import Health, Standing, standing, worst

H, P, D = Health.HEALTHY, Health.PROGRESSING, Health.DEGRADED


def live(api: str, kind: str, status: Any = None, *, spec: Any = None, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec or {}, "status": status or {}}


def condition(name: str, status: str = "True", **more: str) -> dict[str, str]:
    return {"type": name, "status": status, **more}


ALL_READY = {"readyReplicas": 2, "updatedReplicas": 2}
STUCK = {"name": "web", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "back-off"}}}


@pytest.mark.parametrize(
    ("body", "health", "message"),
    [
        (live("v1", "ConfigMap", deletionTimestamp="2026-01-01T00:00:00Z"), P, "it is being deleted"),
        (live("apps/v1", "Deployment", {"observedGeneration": 1}, generation=2), P, "its newest change was not taken up yet"),
        (live("apps/v1", "Deployment", ALL_READY, spec={"replicas": 2}), H, ""),
        (live("apps/v1", "Deployment", {"readyReplicas": 1, "updatedReplicas": 2}, spec={"replicas": 2}), P, "1 of 2 ready"),
        (live("apps/v1", "Deployment", {"readyReplicas": 2, "updatedReplicas": 1}, spec={"replicas": 2}), P, "1 of 2 updated"),
        (live("apps/v1", "Deployment", {}), P, "0 of 1 updated"),
        (live("apps/v1", "Deployment", {}, spec={"replicas": 0}), H, ""),
        (live("apps/v1", "Deployment", ALL_READY, spec={"paused": True}), P, "it is paused"),
        (
            live(
                "apps/v1",
                "Deployment",
                {"conditions": [condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="no")]},
            ),
            D,
            "no",
        ),
        (live("apps/v1", "Deployment", {"conditions": [condition("ReplicaFailure")]}), D, "its pods are refused"),
        (live("apps/v1", "Deployment", {**ALL_READY, "conditions": [condition("Available")]}), H, ""),
        (live("acme.dev/v1", "Zone", {"conditions": [condition("Odd"), condition("Ready", "False", reason="Slow")]}), P, "Slow"),
        (live("apps/v1", "StatefulSet", {"readyReplicas": 1, "updatedReplicas": 0}), P, "0 of 1 updated"),
        (live("apps/v1", "StatefulSet", {"readyReplicas": 1, "currentReplicas": 1}), H, ""),
        (live("apps/v1", "ReplicaSet", {"readyReplicas": 0}), P, "0 of 1 ready"),
        (live("apps/v1", "DaemonSet", {"desiredNumberScheduled": 3, "numberReady": 3, "updatedNumberScheduled": 3}), H, ""),
        (live("apps/v1", "DaemonSet", {"desiredNumberScheduled": 3, "numberReady": 1, "updatedNumberScheduled": 3}), P, "1 of 3 ready"),
        (live("batch/v1", "Job", {"conditions": [condition("Failed", message="BackoffLimitExceeded")]}), D, "BackoffLimitExceeded"),
        (live("batch/v1", "Job", {"conditions": [condition("Complete")]}), H, ""),
        (live("batch/v1", "Job", {"conditions": [condition("Failed", "False")]}), P, "it runs"),
        (live("v1", "Pod", {"phase": "Failed", "message": "Evicted"}), D, "Evicted"),
        (live("v1", "Pod", {"phase": "Succeeded"}), H, ""),
        (live("v1", "Pod", {"phase": "Pending", "containerStatuses": [STUCK]}), D, "web: ImagePullBackOff back-off"),
        (live("v1", "Pod", {"phase": "Running", "conditions": [condition("Ready")]}), H, ""),
        (live("v1", "Pod", {"phase": "Running", "conditions": ["odd"]}), P, "it is Running, and not ready"),
        (
            live("v1", "Pod", {"containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]}),
            P,
            "it is not scheduled, and not ready",
        ),
        (live("v1", "Pod", {}), P, "it is not scheduled, and not ready"),
        (live("v1", "PersistentVolumeClaim", {"phase": "Bound"}), H, ""),
        (live("v1", "PersistentVolumeClaim", {"phase": "Lost"}), D, "it is Lost"),
        (live("v1", "PersistentVolumeClaim"), P, "it is not seen yet"),
        (live("v1", "Service", spec={"type": "LoadBalancer"}), P, "it has no address yet"),
        (live("v1", "Service", {"loadBalancer": {"ingress": [{}]}}, spec={"type": "LoadBalancer"}), H, ""),
        (live("v1", "Service"), H, ""),
        (live("acme.dev/v1", "Zone", {"conditions": [condition("Stalled", reason="Denied")]}), D, "Denied"),
        (live("acme.dev/v1", "Zone", {"conditions": [condition("Ready", "False")]}), P, "it is not ready"),
        (live("acme.dev/v1", "Zone", {"conditions": [condition("Ready")]}), H, ""),
        (live("acme.dev/v1", "Pod"), H, ""),
        ({"kind": "ConfigMap", "apiVersion": "v1"}, H, ""),
    ],
)
def test_what_an_object_says_of_itself(body: dict[str, Any], health: Health, message: str) -> None:
    assert standing("it", body) == Standing(address="it", health=health, message=message)


def test_what_is_not_there_is_worst() -> None:
    gone = standing("it", None)

    assert gone.health is Health.MISSING
    assert worst([]) is H
    assert worst([standing("a", live("v1", "Service")), gone, standing("b", live("v1", "Pod"))]) is Health.MISSING
