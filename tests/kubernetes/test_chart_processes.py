"""What charts/countersign starts runs and serves: every container as a process, with its own command, environment and probes."""

import asyncio
import contextlib
import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from temporalio.testing import WorkflowEnvironment

from tests.acceptance.installed import call, free_ports, until
from tests.kubernetes.plane import CHARTS, eventually
from tests.kubernetes.pods import Node
from tests.postgres import Cluster, cluster  # noqa: F401  a fixture
from tests.requirements import requirement
from tests.tools import built

CHART = CHARTS / "countersign"
pytestmark = pytest.mark.anyio
SLOW = 'resource "terraform_data" "slow" {\n  provisioner "local-exec" {\n    command = "touch begun; sleep 6"\n  }\n}\n'
QUICK = 'resource "terraform_data" "quick" {\n  input = 1\n}\n'


class RolledOut:
    """The chart, its pods as processes, with a Postgres and a Temporal that know nothing of Countersign yet."""

    def __init__(self, node: Node, values: dict[str, Any]) -> None:
        self.node, self.values = node, values
        self.migrate = node.pod("Job", "cs-countersign-migrate")
        self.front = node.pod("Deployment", "cs-countersign-front")
        self.state = node.pod("Deployment", "cs-countersign-state")
        self.worker = node.pod("StatefulSet", "cs-countersign-worker")

    @contextlib.asynccontextmanager
    async def client(self, key: str) -> AsyncIterator[Client]:
        # A name as an Ingress passes it on.
        headers = {"Authorization": f"Bearer {key}", "Host": "countersign.example.com"}
        async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(40, read=300)) as http:
            address = f"http://127.0.0.1:{self.values['front']['port']}/mcp"
            async with Client(streamable_http_client(address, http_client=http)) as client:
                yield client

    def key(self) -> str:
        words = ("countersign", "key", "create", "--as", "ana", "--kind", "person", "--role", "admin", "--json")
        return str(json.loads(self.front.exec(*words))["key"])


@pytest.fixture(scope="module")
async def temporal(anyio_backend: str) -> AsyncIterator[str]:
    """The address of a server without our search attributes, as an operator gets one."""
    executable = str(Path(sysconfig.get_path("scripts")) / "temporal")
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=executable, dev_server_log_level="error") as running:
        yield running.client.service_client.config.target_host


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    """What `countersign new-keys` makes, as `kubectl create secret --from-file` takes it."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("countersign")), "new-keys", f"{folder}/keys"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        return {file.name: file.read_text() for file in Path(folder, "keys").iterdir()}


@pytest.fixture(scope="module")
def rolled_out(
    tmp_path_factory: pytest.TempPathFactory,
    cluster: Cluster,  # noqa: F811
    temporal: str,
    keys: dict[str, str],
) -> Iterator[RolledOut]:
    folder = tmp_path_factory.mktemp("pods")
    for name, source in {"slow": SLOW, "quick": QUICK}.items():
        (folder / "stacks" / name).mkdir(parents=True)
        (folder / "stacks" / name / "main.tf").write_text(source)
    front, state, worker = free_ports(3)
    values = {
        "front": {"port": front},
        "state": {"port": state},
        "worker": {"port": worker, "drainSeconds": 50},
        "temporal": {"address": temporal},
        "settings": {
            "stacks": str(folder / "stacks"),
            "organizations": [{"slug": "local", "environments": [{"slug": "dev"}]}],
            "policy": {"rules": [{"classes": ["none", "create"], "need": "auto"}, {"need": "person"}], "approval_hours": 12},
        },
    }
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    command = [str(built("kube", "helm")), "template", "cs", str(CHART), "-f", str(CHART / "examples" / "volume.yaml")]
    done = subprocess.run([*command, "-f", str(folder / "values.yaml")], check=True, capture_output=True, text=True, timeout=60)
    secrets = {"countersign-keys": keys, "countersign-database": {"url": cluster.url(cluster.create())}}
    it = RolledOut(Node(folder=folder, made=[d for d in yaml.safe_load_all(done.stdout) if d], secrets=secrets), values)
    try:
        assert it.migrate.start().ends() == 0, it.migrate.log()
        for pod in (it.state, it.worker, it.front):
            pod.start()
        for pod in (it.state, it.worker, it.front):
            pod.becomes_ready()
        yield it
    finally:
        for pod in (it.front, it.worker, it.state, it.migrate):
            pod.kill()


@requirement("charts:processes")
async def test_the_rolled_out_parts_apply_a_change_asked_for_through_the_front(rolled_out: RolledOut) -> None:
    it = rolled_out
    assert "has what runs need in namespace default" in it.migrate.log()

    key = it.key()
    async with it.client(key) as client:
        await call(client, "terraform_register_workspace", env="dev", workspace="quick", source={"path": "quick"})
        asked = await call(client, "apply_terraform", env="dev", workspace="quick", wait_seconds=25)
        ended = asked if asked["run"]["state"] == "applied" else await until(client, asked["run"]["run_id"], "applied")
        state = await call(client, "terraform_get_state", env="dev", workspace="quick")

    assert ended["run"]["state"] == "applied"
    assert state["data"]["serial"] == 1
    assert "dev/quick" in it.front.exec("env", f"COUNTERSIGN_KEY={key}", "countersign", "stack", "list")
    assert list((it.node.folder / "claims" / "cs-countersign-artifacts").rglob("*")), "plans and states lie in the shared volume"


@requirement("worker:drains")
async def test_a_worker_that_is_told_to_end_stays_with_its_apply_and_the_next_one_tells_how_it_ended(rolled_out: RolledOut) -> None:
    it = rolled_out
    attempts = it.node.folder / "claims" / "data-cs-countersign-worker-0" / "attempts"

    async with it.client(it.key()) as client:
        await call(client, "terraform_register_workspace", env="dev", workspace="slow", source={"path": "slow"})
        asked = await call(client, "apply_terraform", env="dev", workspace="slow")
        run_id = asked["run"]["run_id"]
        await asyncio.to_thread(eventually, lambda: list(attempts.rglob("begun")), f"the apply to begin; worker:\n{it.worker.log()}")

        it.worker.terminate()
        await asyncio.to_thread(eventually, lambda: not it.worker.probe("readinessProbe"), "the worker to say that it takes nothing new")
        assert it.worker.probe("livenessProbe"), "and lives: a kubelet must not kill it"
        assert await asyncio.to_thread(it.worker.ends) == 0, it.worker.log()
        assert "stays with applies that run here" in it.worker.log()

        it.worker.start()
        await asyncio.to_thread(it.worker.becomes_ready)
        ended = await until(client, run_id, "applied")

    assert ended["run"]["state"] == "applied"
    assert "needs_operator" not in json.dumps(ended)


def test_what_an_operator_types_in_pods_works_with_the_keys_that_are_there(rolled_out: RolledOut) -> None:
    it = rolled_out
    admin = f"COUNTERSIGN_KEY={it.key()}"

    it.worker.exec("countersign", "secret", "set", "forge-token", stdin="a-token-of-the-tests")
    assert "forge-token" in it.worker.exec("countersign", "secret", "list")
    said = it.worker.exec("env", admin, "countersign", "state", "list", "dev/quick", "--json")
    pulled = it.worker.exec("env", admin, "countersign", "state", "pull", "dev/quick", "--reason", "to look")

    assert [entry["serial"] for entry in json.loads(said)["snapshots"]] == [1]
    assert json.loads(pulled)["serial"] == 1
    missing = it.front.exec("countersign", "secret", "set", "forge-token", stdin="a-token-of-the-tests", code=1)
    assert "secrets.json is not there" in missing, "a front does not make the key it must not hold"


def test_a_front_without_temporal_and_state_api_stays_in_service_and_says_what_is_missing(rolled_out: RolledOut) -> None:
    it = rolled_out
    assert it.state.stop() == 0, it.state.log()
    try:
        answer = httpx2.get(f"http://127.0.0.1:{it.values['front']['port']}/readyz", timeout=10)

        assert answer.status_code == 503 and answer.json()["state"] == "unavailable" and answer.json()["store"] == "ok"
        assert it.front.probe("readinessProbe"), "it answers what it can, so callers are still sent to it"
    finally:
        it.state.start().becomes_ready()


def test_parts_end_in_order_when_they_are_told_to(rolled_out: RolledOut) -> None:
    it = rolled_out
    for pod in (it.front, it.state, it.worker):
        assert pod.stop() == 0, pod.log()
        pod.start()
    for pod in (it.state, it.worker, it.front):
        pod.becomes_ready()
