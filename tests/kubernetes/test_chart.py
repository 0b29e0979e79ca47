"""charts/countersign on a control plane: accepted as it is by an API server that enforces `restricted`, and rolled out to the end."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.plane import CHARTS, Plane, eventually
from tests.kubernetes.pods import Node
from tests.requirements import requirement

CHART = CHARTS / "countersign"
EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
MINIMAL = str(CHART / "examples" / "minimal.yaml")
KEYS = ("artifacts", "front", "front.pub", "mac", "requests", "secrets")
Object = dict[str, Any]


@pytest.fixture
def ground(plane: Plane, namespace: str) -> str:
    """A namespace that enforces `restricted`, with the Secrets that an operator makes."""
    plane.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    for name, entries in {
        "countersign-keys": {f"{key}.json": "{}" for key in KEYS},
        "countersign-database": {"url": "postgresql://countersign@postgres/countersign"},
        "countersign-database-owner": {"url": "postgresql://owner@postgres/countersign"},
    }.items():
        data = {entry: base64.b64encode(text.encode()).decode() for entry, text in entries.items()}
        plane.create(
            f"/api/v1/namespaces/{namespace}/secrets", {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
        )
    return namespace


def rendered(plane: Plane, namespace: str, *options: str) -> list[Object]:
    """What the chart makes, hooks too."""
    listed = plane.helm("template", "cs", str(CHART), "-n", namespace, *options)
    return [document for document in yaml.safe_load_all(listed) if document]


@requirement("charts:countersign")
@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_rolled_out_where_pods_have_to_be_restricted(plane: Plane, ground: str, example: str) -> None:
    values = ("-f", str(CHART / "examples" / f"{example}.yaml"))
    said = plane.helm("lint", str(CHART), "--strict", *values)
    assert "0 chart(s) failed" in said

    plane.helm("install", "cs", str(CHART), "-n", ground, "--wait", "--timeout", "90s", *values)

    want = {"minimal": (2, 2, 2), "production": (3, 2, 3), "volume": (1, 1, 1)}[example]
    # Where a HorizontalPodAutoscaler looks after them, they begin with one pod, and it sees to the others.
    eventually(lambda: _ready(plane, ground) == want, f"{want} ready pods of front, state and worker")
    pods = (plane.get(f"/api/v1/namespaces/{ground}/pods") or {})["items"]
    assert {pod["spec"].get("serviceAccountName") for pod in pods} == {f"cs-countersign-{part}" for part in ("front", "state", "worker")}
    assert not [v for pod in pods for v in pod["spec"]["volumes"] if "projected" in v], "no token of the cluster's API is in a pod"
    hooks = {h["name"]: h["last_run"]["phase"] for h in json.loads(plane.helm("status", "cs", "-n", ground, "-o", "json"))["hooks"]}
    assert hooks == {"cs-countersign-migrate": "Succeeded"}

    plane.helm("upgrade", "cs", str(CHART), "-n", ground, "--wait", "--timeout", "90s", *values, "--set", "image.tag=0.2.0,image.digest=")

    images = {pod["spec"]["containers"][0]["image"] for pod in (plane.get(f"/api/v1/namespaces/{ground}/pods") or {})["items"]}
    assert "registry.example.com/countersign:0.2.0" in images


def _ready(plane: Plane, namespace: str) -> tuple[int | None, ...]:
    kinds = (("deployments", "front"), ("deployments", "state"), ("statefulsets", "worker"))
    apps = f"/apis/apps/v1/namespaces/{namespace}"
    return tuple((plane.get(f"{apps}/{kind}/cs-countersign-{part}") or {})["status"].get("readyReplicas") for kind, part in kinds)


def test_the_namespace_of_these_tests_would_refuse_a_pod_that_is_not_restricted(plane: Plane, ground: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"}, "spec": {"containers": [{"name": "c", "image": "c"}]}}

    answer = plane.api.post(f"/api/v1/namespaces/{ground}/pods", json=pod)

    assert answer.status_code == 403 and "violates PodSecurity" in answer.text


@pytest.mark.parametrize("example", EXAMPLES)
def test_containers_are_not_root_write_only_where_something_is_mounted_and_say_what_they_need(
    plane: Plane, namespace: str, example: str
) -> None:
    made = rendered(plane, namespace, "-f", str(CHART / "examples" / f"{example}.yaml"))
    templates = [document["spec"]["template"]["spec"] for document in made if document["kind"] in ("Deployment", "StatefulSet", "Job")]

    assert len(templates) == 4
    for spec in templates:
        [container] = spec["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}
        environment = {entry["name"]: entry for entry in container["env"]}
        assert "valueFrom" in environment["COUNTERSIGN_DATABASE"], "its password is in a Secret"
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert environment["TMPDIR"]["value"] in writable
        assert any(environment["COUNTERSIGN_DATA"]["value"].startswith(path) for path in writable)


def test_each_part_gets_the_keys_of_its_role_and_no_other(plane: Plane, namespace: str) -> None:
    made = rendered(plane, namespace, "-f", MINIMAL)

    assert {part: _keys_of(document) for part, document in _parts(made).items()} == {
        "front": {"artifacts.json", "front.json", "front.pub.json", "requests.json"},
        "state": {"artifacts.json"},
        "worker": {"artifacts.json", "front.pub.json", "mac.json", "secrets.json"},
    }


def _parts(made: list[Object]) -> dict[str, Object]:
    kinds = ("Deployment", "StatefulSet")
    return {d["metadata"]["labels"]["app.kubernetes.io/component"]: d for d in made if d["kind"] in kinds}


def _keys_of(document: Object) -> set[str]:
    [keys] = [volume["secret"] for volume in document["spec"]["template"]["spec"]["volumes"] if volume["name"] == "keys"]
    return {item["path"] for item in keys["items"]}


# Who reaches whom


def _selected(selector: Object, labels: Object) -> bool:
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def _allowed(rules: list[Object], side: str, peer: Object | None, port: int, names: dict[str, int]) -> bool:
    """Whether a rule lets `peer` (labels of a pod; None: somebody outside) through to `port`."""
    for rule in rules:
        ports = [names.get(p["port"], p["port"]) for p in rule.get("ports", ())]
        peers = rule.get(side, ())
        if (not ports or port in ports) and (not peers or (peer is not None and any(_selected(p["podSelector"], peer) for p in peers))):
            return True
    return False


def test_only_the_front_is_reached_from_outside_and_only_workers_and_fronts_reach_the_state_api(plane: Plane, namespace: str) -> None:
    made = rendered(plane, namespace, "-f", MINIMAL)
    policies = [document["spec"] for document in made if document["kind"] == "NetworkPolicy"]
    pods = {part: document["spec"]["template"]["metadata"]["labels"] for part, document in _parts(made).items()}
    [job] = [document for document in made if document["kind"] == "Job"]
    pods["migrations"] = job["spec"]["template"]["metadata"]["labels"]
    names = {"http": 8700, "state": 8701, "health": 8702}

    def through(direction: str, side: str, of: str, peer: str | None, port: int) -> bool:
        ours = [p for p in policies if direction in p["policyTypes"] and _selected(p["podSelector"], pods[of])]
        assert ours, f"no policy is about {of}"
        rules = [rule for policy in ours for rule in policy.get(direction.lower(), ())]
        return _allowed(rules, side, pods[peer] if peer else None, port, names)

    def may(source: str | None, target: str | None, port: int) -> bool:
        leaves = source is None or through("Egress", "to", source, target, port)
        enters = target is None or through("Ingress", "from", target, source, port)
        return leaves and enters

    assert may(None, "front", 8700)
    assert may("worker", "state", 8701) and may("front", "state", 8701)
    for part in pods:
        assert may(part, None, 5432) and may(part, None, 7233) and may(part, None, 53), part
    assert may("worker", None, 443) and may("worker", None, 22)
    assert not may(None, "state", 8701) and not may("migrations", "state", 8701)
    assert not may(None, "worker", 8702) and not may("front", "worker", 8702)
    assert not may("front", None, 22) and not may("state", None, 22)
    assert not may("state", "front", 8700)


def test_what_workers_are_told_leads_to_the_service_of_the_state_api(plane: Plane, namespace: str) -> None:
    made = rendered(plane, namespace, "-f", MINIMAL)
    [service] = [d for d in made if d["kind"] == "Service" and d["metadata"]["name"] == "cs-countersign-state"]
    worker, state = _parts(made)["worker"], _parts(made)["state"]
    [container] = worker["spec"]["template"]["spec"]["containers"]

    address = next(entry["value"] for entry in container["env"] if entry["name"] == "COUNTERSIGN_STATE_ADDRESS")

    assert address == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert _selected({"matchLabels": service["spec"]["selector"]}, state["spec"]["template"]["metadata"]["labels"])


def test_keys_of_a_bucket_and_its_address_reach_every_part(plane: Plane, namespace: str, tmp_path: Path) -> None:
    bucket = "artifacts.existingSecret=bucket-keys,artifacts.endpoint=https://minio.example.com:9000"
    node = Node(
        folder=tmp_path,
        made=rendered(plane, namespace, "-f", MINIMAL, "--set", bucket),
        secrets={"bucket-keys": {"AWS_ACCESS_KEY_ID": "AKIA-OF-TESTS"}, "countersign-database": {"url": "postgresql://c@db/c"}},
    )

    for kind, part in (("Deployment", "front"), ("Deployment", "state"), ("StatefulSet", "worker")):
        pod = node.pod(kind, f"cs-countersign-{part}")
        assert pod.environment["AWS_ACCESS_KEY_ID"] == "AKIA-OF-TESTS"
        assert pod.environment["COUNTERSIGN_ARTIFACTS"] == "s3://acme-countersign/prod"
        assert pod.environment["COUNTERSIGN_ARTIFACTS_ENDPOINT"] == "https://minio.example.com:9000"
        assert "/var/lib/countersign/artifacts" not in [mount["mountPath"] for mount in pod.container["volumeMounts"]]
    ports = {p["port"] for d in node.made if d["kind"] == "NetworkPolicy" for r in d["spec"].get("egress", ()) for p in r["ports"]}
    assert 9000 in ports, "and they may reach it"


def test_workers_left_to_an_external_scaler_have_no_number_of_the_charts(plane: Plane, namespace: str) -> None:
    assert "replicas" not in _parts(rendered(plane, namespace, "-f", str(CHART / "examples" / "volume.yaml")))["worker"]["spec"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("keys.existingSecret=", "/keys/existingSecret"),
        ("database.existingSecret=", "/database/existingSecret"),
        ("temporal.address=temporal", "/temporal/address"),
        ("artifacts.url=https://bucket", "/artifacts/url"),
        ("settings.database=postgresql://a:b@c/d", "invalid propertyName 'database'"),
        ("front.replicas=0", "/front/replicas"),
        ("worker.drainSeconds=-1", "/worker/drainSeconds"),
        ("ingress.enabled=true", "/ingress/host"),
        ("workers.replicas=1", "additional properties 'workers' not allowed"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_their_path(plane: Plane, given: str, named: str) -> None:
    said = plane.helm("template", str(CHART), "-f", MINIMAL, "--set", given, code=1)

    assert "values don't meet the specifications of the schema" in said
    assert named in said


def test_the_chart_is_of_the_version_of_the_code() -> None:
    lines = dict(line.split(": ", 1) for line in (CHART / "Chart.yaml").read_text().splitlines() if ": " in line)
    project = Path(CHARTS.parent / "pyproject.toml").read_text()

    assert f"version = {lines['appVersion']}" in project
