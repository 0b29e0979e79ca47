"""Charts and releases read through an MCP client: what is there, whether it works, what was changed outside, and no secret of it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mcp import Client, MCPError
from temporalio.client import Client as Temporal
from temporalio.client import WorkflowExecution

from tests.acceptance.installed import Installed, call, refused, until
from tests.acceptance.installed import eventually as later
from tests.kubernetes.chart_servers import ChartServer, chart, packed, serving
from tests.kubernetes.plane import Plane, eventually
from tests.kubernetes.releasing import CHARTS, people, settings_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
SECRET = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChartServer]:
    folder = tmp_path_factory.mktemp("served")
    with serving(folder) as it:
        for version in ("1.0.0", "1.1.0"):
            packed(chart(folder / "made", "shop", version), folder)
        it.index()
        yield it


@pytest.fixture(scope="module")
async def shared(plane: Plane, server: ChartServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installed]:
    folder = tmp_path_factory.mktemp("reading")
    it = Installed(data=folder / "data", stacks=CHARTS)
    it.data.mkdir(parents=True)
    sources = f'[[charts]]\nname = "stable"\nindex = "{server.address}"\n[[charts]]\nname = "away"\noci = "oci://127.0.0.1:1/charts"\n'
    clusters = settings_of(kubeconfig=plane.kubeconfig).replace('name = "dev"', 'name = "dev"\ndrift_every = "7h"', 1)
    (it.data / "countersign.toml").write_text(clusters + sources)
    it.start()
    try:
        await it.ready()
        it.cli("secret", "set", "web-token", stdin=SECRET)
        yield it
    finally:
        it.stop()


@pytest.fixture(scope="module")
def key(shared: Installed) -> str:
    return shared.key("agent:reads", acts_for="person:ana")


@pytest.fixture
async def agent(shared: Installed, key: str) -> AsyncIterator[Client]:
    async with shared.client(key) as client:
        yield client


# Charts.


async def test_a_search_tells_charts_and_what_could_not_be_asked(agent: Client) -> None:
    found = await call(agent, "helm_search_charts", text="")
    only = await call(agent, "helm_search_charts", text="shop tests", repo="stable", limit=1)

    assert [(row["repo"], row["chart"], row["version"]) for row in found["data"]["charts"]] == [
        ("stacks", "web", "1.0.0"),
        ("stable", "shop", "1.1.0"),
    ]
    assert "away" in found["warnings"][0]
    assert only["page"]["total"] == 1


@requirement("helm:chart-sources")
async def test_a_source_that_is_not_listed_is_denied_with_the_list(agent: Client) -> None:
    for tool, more in (("helm_search_charts", {"text": "x"}), ("helm_get_chart", {"chart": "x"})):
        error = await refused(agent, tool, repo="evil", **more)
        assert (error["code"], error["field"]) == ("policy_denied", "repo")
        assert "stacks, stable, away" in error["message"]


@pytest.mark.parametrize(
    ("asked", "code", "field", "says"),
    [
        ({"chart": "../etc"}, "invalid_argument", "chart", "no name of a chart"),
        ({"chart": "shp", "repo": "stable"}, "not_found", "chart", "did you mean shop?"),
        ({"chart": "shop", "repo": "stable", "version": "2.0.0"}, "not_found", "version", "nearest are 1.1.0, 1.0.0"),
        ({"chart": "shop"}, "invalid_argument", "repo", "stacks, stable, away"),
        ({"chart": "shop", "repo": "away"}, "unavailable", "repo", "does not answer"),
        ({"chart": "web", "values": {"token": {"secret": "NO"}}}, "invalid_argument", "values", "no sealed secret"),
    ],
)
async def test_a_chart_that_cannot_be_had(agent: Client, asked: dict[str, Any], code: str, field: str | None, says: str) -> None:
    error = await refused(agent, "helm_get_chart", **asked)

    assert (error["code"], says in error["message"]) == (code, True), error
    assert field is None or error["field"] == field


async def test_a_chart_tells_what_it_takes_and_what_it_would_run(agent: Client) -> None:
    data = (await call(agent, "helm_get_chart", chart="web"))["data"]
    other = (await call(agent, "helm_get_chart", chart="shop", repo="stable", version="1.0.0"))["data"]

    assert (data["chart"], data["version"], data["repo"], data["versions"]) == ("web", "1.0.0", "stacks", ["1.0.0"])
    assert data["images"] == ["registry.example.com/web:1"]
    assert data["schema"]["properties"]["replicas"] == {"type": "integer", "minimum": 0}
    assert "replicas: 1" in data["defaults"]["text"]
    assert data["defaults"]["untrusted"] is True
    assert "problems" not in data
    assert (other["version"], other["versions"]) == ("1.0.0", ["1.1.0", "1.0.0"])


async def test_values_are_judged_by_path_and_rendered_without_secrets(agent: Client) -> None:
    bad = await call(agent, "helm_get_chart", chart="web", values={"replicas": "many", "image": 5})
    good = await call(agent, "helm_get_chart", chart="web", values={"token": {"secret": "web-token"}, "replicas": 2})

    assert sorted(one["path"] for one in bad["data"]["problems"]) == ["image", "replicas"]
    assert good["data"]["problems"] == []
    assert "Secret/default/example-token" in good["data"]["objects"]
    assert "token: (sensitive fp:" in good["data"]["rendered"]["text"]
    assert "replicas: 2" in good["data"]["rendered"]["text"]


@requirement("helm:secrets")
async def test_looking_at_a_chart_opens_no_secret(agent: Client) -> None:
    """A template may cut or turn what it gets, and nobody could hide what comes of that."""
    found = await call(agent, "helm_get_chart", chart="web", values={"image": {"secret": "web-token"}, "fake": {"secret": "not-set"}})
    text = json.dumps(found)

    assert SECRET not in text
    assert not [at for at in range(len(SECRET) - 7) if SECRET[at : at + 8] in text]
    assert "not-set" in found["warnings"][0]


# Releases.


@requirement("helm:secrets", "helm:drift")
async def test_a_release_tells_everything_but_its_secrets(shared: Installed, plane: Plane, namespace: str) -> None:
    async with people(shared, namespace) as we:
        await we.deployed("web", {"token": {"secret": "web-token"}, "replicas": 2, "extra": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "copy"}, "data": {"url": "https://x/?t=plain"}}]})  # fmt: skip
        listed = await call(we.agent, "helm_list_releases", namespace=namespace)
        whole = await call(we.agent, "helm_get_release", release_name="web", include=["values", "manifest", "history", "drift", "notes"])

        assert [(row["release_name"], row["status"], row["chart"]) for row in listed["data"]["releases"]] == [("web", "deployed", "web")]
        data = whole["data"]
        assert (data["health"], data["lock"], data["revision"], data["unhealthy"]) == ("healthy", None, 1, [])
        assert data["values"]["replicas"] == 2
        assert data["values"]["token"].startswith("(sensitive fp:")
        assert "token: (sensitive fp:" in data["manifest"]["text"]
        assert (data["manifest"]["untrusted"], data["history"][0]["revision"]) == (True, 1)
        assert data["drift"] == {"revision": 1, "in_sync": True, "summary": "no changes", "risks": [], "changes": [], "changes_total": 0,
                                 "unchecked": []}  # fmt: skip
        assert data["runs"][0]["state"] == "applied"
        assert data["run"] == data["runs"][0]["run_id"]
        assert SECRET not in json.dumps(whole)

        apps = f"/apis/apps/v1/namespaces/{namespace}/deployments/web"
        plane.patch(apps, {"spec": {"replicas": 5}, "metadata": {"annotations": {"ops": "by hand"}}})
        plane.patch(f"/api/v1/namespaces/{namespace}/secrets/web-token", {"data": {"token": "c29tZXRoaW5nLWVsc2U="}})
        plane.delete(f"/api/v1/namespaces/{namespace}/configmaps/copy")
        moved = await call(we.agent, "helm_get_release", release_name="web", namespace=namespace, include=["drift"])

    drift = {one["address"]: one for one in moved["data"]["drift"]["changes"]}
    assert drift[f"Deployment.apps/{namespace}/web"]["attributes"] == [{"name": "spec.replicas", "declared": "2", "live": "5"}]
    (token,) = drift[f"Secret/{namespace}/web-token"]["attributes"]
    assert token["name"] == "data.token"
    assert token["declared"] != token["live"]
    assert token["live"].startswith("(sensitive fp:")
    assert drift[f"ConfigMap/{namespace}/copy"]["action"] == "gone"
    assert not moved["data"]["drift"]["in_sync"]
    assert moved["data"]["health"] == "missing"
    assert moved["data"]["unhealthy"][0]["address"] == f"ConfigMap/{namespace}/copy"


def begun(words: list[str], plane: Plane) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(words, env=plane.helm_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def test_a_release_of_somebody_else_that_hangs_comes_first_with_its_lock(agent: Client, plane: Plane, namespace: str) -> None:
    plane.helm("install", "fine", str(CHARTS / "web"), "-n", namespace, "--wait", "--timeout", "60s")
    words = plane.helm_words("install", "stuck", str(CHARTS / "web"), "-n", namespace, "--set", "hook=hang", "--timeout", "120s")
    hanging = begun(words, plane)
    try:
        eventually(lambda: plane.names(f"/apis/batch/v1/namespaces/{namespace}/jobs"), "the hook's job")
        listed = await call(agent, "helm_list_releases", namespace=namespace)
        got = await call(agent, "helm_get_release", release_name="stuck", namespace=namespace)
        pending = await call(agent, "helm_list_releases", namespace=namespace, status="pending-install")
    finally:
        hanging.kill()
        hanging.wait(10)

    first, second = listed["data"]["releases"]
    assert (first["release_name"], first["status"], second["release_name"]) == ("stuck", "pending-install", "fine")
    assert first["lock"] == {"status": "pending-install", "revision": 1, "run": None}
    assert got["data"]["lock"] == first["lock"]
    assert got["data"]["runs"] == []
    assert pending["page"]["total"] == 1


async def test_what_does_not_come_up_is_told_with_its_reason(agent: Client, plane: Plane, namespace: str) -> None:
    plane.helm("install", "sick", str(CHARTS / "web"), "-n", namespace, "--set", "fake=image-pull")

    def stuck() -> bool:
        pods = (plane.get(f"/api/v1/namespaces/{namespace}/pods") or {"items": []})["items"]
        return any("waiting" in s.get("state", {}) for pod in pods for s in pod.get("status", {}).get("containerStatuses", []))

    eventually(stuck, "a pod that cannot pull its image")
    plane.helm("install", "a-fine-one", str(CHARTS / "web"), "-n", namespace, "--wait", "--timeout", "60s")
    listed = (await call(agent, "helm_list_releases", namespace=namespace))["data"]["releases"]
    data = (await call(agent, "helm_get_release", release_name="sick", namespace=namespace))["data"]

    assert [(row["release_name"], row["health"]) for row in listed] == [("sick", "progressing"), ("a-fine-one", "healthy")]
    assert data["health"] == "degraded"
    assert any("ErrImagePull" in one["message"] for one in data["unhealthy"])
    assert any(one["address"] == f"Deployment.apps/{namespace}/sick" for one in data["unhealthy"])


async def test_a_release_that_cannot_be_meant(agent: Client, plane: Plane, namespace: str) -> None:
    other = plane.namespace(f"{namespace[:50]}-b")
    for place in (namespace, other):
        plane.helm("install", f"twin-{namespace[:20]}", str(CHARTS / "web"), "-n", place)
    name = f"twin-{namespace[:20]}"
    several = await refused(agent, "helm_get_release", release_name=name)
    one = await call(agent, "helm_get_release", release_name=name, namespace=other)
    lacking = await refused(agent, "helm_get_release", release_name="nobody", namespace=namespace)
    nowhere = await refused(agent, "helm_get_release", release_name="nobody-anywhere")
    past = await refused(agent, "helm_get_release", release_name=name, namespace=other, revision=7)
    odd = await refused(agent, "helm_get_release", release_name="No_Name")
    plane.delete(f"/api/v1/namespaces/{other}")

    assert (several["code"], several["field"]) == ("invalid_argument", "namespace")
    assert f"{namespace}/{name}" in several["message"]
    assert one["data"]["namespace"] == other
    assert [error["code"] for error in (lacking, nowhere, past, odd)] == ["not_found", "not_found", "invalid_argument", "invalid_argument"]
    assert "it keeps 1" in past["message"]


async def test_an_earlier_revision_is_shown_as_it_was(agent: Client, plane: Plane, namespace: str) -> None:
    chart_of, where = str(CHARTS / "web"), ["-n", namespace, "--wait", "--timeout", "60s"]
    plane.helm("install", "web", chart_of, *where, "--set", "replicas=1")
    plane.helm("upgrade", "web", chart_of, *where, "--set", "replicas=2")
    data = (
        await call(
            agent, "helm_get_release", release_name="web", namespace=namespace, revision=1, include=["values", "manifest", "history"]
        )
    )["data"]

    assert (data["revision"], data["status"], data["deployed_revision"], data["values"]) == (1, "superseded", 2, {"replicas": 1})
    assert "replicas: 1" in data["manifest"]["text"]
    assert [row["revision"] for row in data["history"]] == [2, 1]


# Drift as a run.


@requirement("helm:drift", "drift:scheduled")
async def test_a_release_is_looked_at_when_its_time_has_come_and_when_somebody_asks(
    shared: Installed, agent: Client, plane: Plane, namespace: str
) -> None:
    temporal = await Temporal.connect(f"127.0.0.1:{shared.temporal_port}")

    triggered: set[str] = set()

    async def checked() -> dict[str, Any] | None:
        """What a schedule that somebody triggers finds; which one is this release's, its id does not tell."""
        ours = [one async for one in await temporal.list_schedules() if one.id.startswith("drift-") and one.id not in triggered]
        for one in ours:
            assert one.schedule is not None and one.schedule.spec.intervals[0].every == timedelta(hours=7)
            await temporal.get_schedule_handle(one.id).trigger()
            triggered.add(one.id)
        found = (await call(agent, "helm_get_release", release_name="looked-at", namespace=namespace))["data"].get("drift_checked")
        return found if found and found["found"] else None

    async with people(shared, namespace) as we:
        await we.deployed("looked-at")
    plane.patch(f"/apis/apps/v1/namespaces/{namespace}/deployments/looked-at", {"spec": {"replicas": 4}})
    found = await later(checked, "what a scheduled check found")

    assert (found["found"], found["summary"]) == (1, "1 changed")
    assert found["items"][0]["address"] == f"Deployment.apps/{namespace}/looked-at"
    begun = await call(agent, "run_start", type="helm_detect_drift", input={"release_name": "looked-at", "namespace": namespace})
    ended = await until(agent, begun["run"]["run_id"], "planned_and_finished")
    plan = await call(agent, "run_plan", run_id=ended["run"]["run_id"])
    assert plan["data"]["counts"]["update"] == 1
    assert "spec.replicas: 1 → 4" in json.dumps(plan, ensure_ascii=False)


# What reading leaves behind.


@requirement("I6")
async def test_questions_and_replies_are_sealed_in_histories(shared: Installed, agent: Client) -> None:
    begun = datetime.now(tz=UTC)
    await call(agent, "helm_get_chart", chart="web", values={"image": "registry.example.com/seen-by-nobody:1"})
    temporal = await Temporal.connect(f"127.0.0.1:{shared.temporal_port}")

    async def reads() -> list[WorkflowExecution]:
        return [one async for one in temporal.list_workflows('WorkflowType = "Read"') if one.start_time >= begun]

    texts = []
    for workflow in await later(reads, "the question to be listed"):
        history = await temporal.get_workflow_handle(workflow.id, run_id=workflow.run_id).fetch_history()
        texts.append(history.to_json())

    assert not [text for text in texts if "seen-by-nobody" in text or "get_chart" in text or SECRET in text]
    assert not list((shared.data / "work" / "helm").glob("read_*")), "a private folder was left behind"


async def test_without_a_worker_the_answer_says_so_in_time(shared: Installed, agent: Client) -> None:
    pid = shared.pid_of("worker")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        error = await refused(agent, "helm_list_releases")
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (error["code"], error["retryable"]) == ("unavailable", True)
    assert time.monotonic() - begun < 24


async def test_whoever_may_not_see_releases_is_told_of_no_such_tool(shared: Installed) -> None:
    async with shared.client(shared.key("agent:dev", role="dev")) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert not {name for name in names if name.startswith("helm_")}
        with pytest.raises(MCPError, match="Unknown tool: helm_list_releases"):
            await client.call_tool("helm_list_releases", {})


@requirement("helm:secrets")
async def test_drift_of_what_is_deployed_shows_no_secret_of_it_where_the_newest_revision_failed(
    agent: Client, plane: Plane, namespace: str
) -> None:
    def values(token: str, **more: str) -> str:
        data = {"line": f"say {token} twice"}
        return json.dumps(
            {"token": token, "extra": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "db"}, "data": data}], **more}
        )

    by_hand = ["upgrade", "--install", "web", str(CHARTS / "web"), "-n", namespace, "-f", "-"]
    plane.helm(*by_hand, stdin=values("deployed-9f2c77ab"))
    plane.helm(*by_hand, "--wait", "--timeout", "1s", stdin=values("failed-51d0e3c4", fake="image-pull"), code=1)
    asked = {"release_name": "web", "namespace": namespace, "env": "dev"}

    newest = await call(agent, "helm_get_release", **asked, include=["drift"])
    older = await call(agent, "helm_get_release", **asked, include=["drift"], revision=1)
    checked = await call(agent, "run_start", type="helm_detect_drift", input=asked)
    await until(agent, checked["run"]["run_id"], "planned_and_finished")
    plan = await call(agent, "run_plan", run_id=checked["run"]["run_id"])
    deploy = {**asked, "chart": "web", "values": {"token": "other-77aa01fe"}}
    planned = await call(agent, "helm_deploy", **deploy, dry_run=True)
    await until(agent, planned["run"]["run_id"], "planned_and_finished")
    deployed = await call(agent, "run_plan", run_id=planned["run"]["run_id"])

    assert (newest["data"]["revision"], newest["data"]["drift"]["revision"]) == (2, 1)
    for told in map(json.dumps, (newest, older, plan, deployed)):
        assert f"ConfigMap/{namespace}/db" in told
        assert "9f2c77ab" not in told and "51d0e3c4" not in told
