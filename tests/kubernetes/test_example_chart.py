"""The small data app in charts/: releases on a cluster that enforces what a careful one enforces, and refuses values that make no sense."""

import json

import pytest

from tests.kubernetes.plane import CHARTS, Plane
from tests.requirements import requirement

CHART = str(CHARTS / "example-data-app")
PASSWORD = "database.password=of-the-tests-only"


@pytest.fixture
def restricted(plane: Plane, namespace: str) -> str:
    """A namespace whose pods the API server refuses unless they are `restricted`."""
    plane.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    return namespace


@requirement("charts:example")
def test_the_data_app_installs_migrates_upgrades_and_answers_its_test(plane: Plane, restricted: str) -> None:
    plane.helm("lint", CHART, "--strict", "--set", PASSWORD)

    plane.helm("upgrade", "--install", "shop", CHART, "-n", restricted, "--wait", "--timeout", "60s", "--set", PASSWORD)

    deployments = plane.get(f"/apis/apps/v1/namespaces/{restricted}/deployments") or {}
    assert {d["metadata"]["name"]: d["status"].get("readyReplicas") for d in deployments["items"]} == {
        "shop-example-data-app-web": 2,
        "shop-example-data-app-worker": 1,
    }
    claim = plane.get(f"/api/v1/namespaces/{restricted}/persistentvolumeclaims/shop-example-data-app-data") or {}
    assert claim["status"]["phase"] == "Bound"
    assert plane.names(f"/apis/batch/v1/namespaces/{restricted}/jobs") == [], "the hook that succeeded is gone"

    plane.helm("upgrade", "shop", CHART, "-n", restricted, "--wait", "--timeout", "60s", "--set", PASSWORD, "--set", "web.replicas=3")
    told = json.loads(plane.helm("status", "shop", "-n", restricted, "-o", "json"))
    hooks = {hook["name"]: hook["last_run"]["phase"] for hook in told["hooks"] if "pre-upgrade" in hook["events"]}
    assert hooks == {"shop-example-data-app-migrate": "Succeeded"}
    assert "runs 3 web and 1 worker pods of registry.example.com/data-app:1.0.0" in told["info"]["notes"]

    assert "Succeeded" in plane.helm("test", "shop", "-n", restricted, "--timeout", "60s")


def test_a_volume_that_is_to_be_kept_is_left_by_an_uninstall(plane: Plane, restricted: str) -> None:
    plane.helm("install", "kept", CHART, "-n", restricted, "--wait", "--timeout", "60s", "--set", f"{PASSWORD},storage.keep=true")

    said = plane.helm("uninstall", "kept", "-n", restricted, "--wait", "--timeout", "60s")

    assert "kept-example-data-app-data" in said
    assert plane.names(f"/api/v1/namespaces/{restricted}/persistentvolumeclaims") == ["kept-example-data-app-data"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("database.host=db", "/database/password"),
        ("database.password=short", "/database/password"),
        (f"{PASSWORD},web.replicas=-1", "/web/replicas"),
        (f"{PASSWORD},worker.replicas=2", "/worker/replicas"),
        (f"{PASSWORD},storage.size=lots", "/storage/size"),
        (f"{PASSWORD},image.digest=sha256:1", "/image/digest"),
        (f"{PASSWORD},web.replica=1", "/web"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_their_path(plane: Plane, given: str, named: str) -> None:
    said = plane.helm("template", CHART, "--set", given, code=1)

    assert "values don't meet the specifications of the schema" in said
    assert f"at '{named}'" in said
