"""helm, or the worker, is killed in mid-release: nobody agrees twice, nothing is deployed twice, and a release ends where it should be."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installed import Installed, call, eventually, until
from tests.kubernetes.plane import Plane
from tests.kubernetes.releasing import CHARTS, People, helms, people, revisions, service
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@pytest.fixture
async def own(plane: Plane, tmp_path: Path) -> AsyncIterator[Installed]:
    async with service(tmp_path, plane.kubeconfig) as it:
        yield it


async def pending(plane: Plane, namespace: str, status: str) -> None:
    async def there() -> bool:
        return any(one[1] == status for one in revisions(plane, namespace, "web"))

    await eventually(there, f"a revision to be {status}")


async def at_the_hook(plane: Plane, namespace: str) -> None:
    async def there() -> bool:
        return plane.get(f"/apis/batch/v1/namespaces/{namespace}/jobs/web-before") is not None

    await eventually(there, "the hook's job to be there")


async def kill_helm(it: Installed) -> int:
    async def there() -> int | None:
        return next(helms(it), None)

    pid: int = await eventually(there, "a helm to kill")
    os.kill(pid, signal.SIGKILL)
    return pid


async def agreed_once(we: People, run_id: str) -> dict[str, Any]:
    """The applied run, if exactly one person's word was needed for it."""
    await until(we.agent, run_id, "applied", patience=180)
    got = await call(we.agent, "run_get", run_id=run_id, include=["approvals", "timeline"])
    people_said = [a for a in got["data"]["approvals"] if a.get("channel") != "carried"]
    assert len(people_said) == 1
    states = [e["state"] for e in got["data"]["timeline"] if e["kind"] == "state"]
    assert states.count("awaiting_approval") == 1
    return got


@requirement("helm:recovered-by-evidence", "promise:crash-costs-nothing")
async def test_helm_killed_in_a_hook_is_rolled_back_and_the_rest_goes_on_under_the_same_approval(
    own: Installed, plane: Plane, namespace: str
) -> None:
    async with people(own, namespace) as we:
        await we.deployed("web")
        run_id = await we.deploy("web", {"replicas": 2, "hook": "slow"})
        await we.agreed(run_id)
        await at_the_hook(plane, namespace)
        await pending(plane, namespace, "pending-upgrade")
        await kill_helm(own)

        await agreed_once(we, run_id)

    assert revisions(plane, namespace, "web") == [(1, "superseded"), (2, "pending-upgrade"), (3, "superseded"), (4, "deployed")]
    live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert live is not None and live["spec"]["replicas"] == 2


@requirement("helm:recovered-by-evidence")
async def test_helm_killed_while_an_install_waits_is_uninstalled_and_installed_again(own: Installed, plane: Plane, namespace: str) -> None:
    async with people(own, namespace) as we:
        run_id = await we.deploy("web", {"fake": "slow"})
        await we.agreed(run_id)
        await pending(plane, namespace, "pending-install")

        async def made() -> bool:
            return plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web") is not None

        await eventually(made, "the deployment to be made")
        await kill_helm(own)

        await agreed_once(we, run_id)

    assert revisions(plane, namespace, "web") == [(1, "deployed")]


@requirement("helm:recovered-by-evidence")
async def test_a_worker_killed_beside_a_living_helm_lets_it_finish(own: Installed, plane: Plane, namespace: str) -> None:
    async with people(own, namespace) as we:
        await we.deployed("web")
        run_id = await we.deploy("web", {"replicas": 2, "hook": "slow"})
        await we.agreed(run_id)
        await at_the_hook(plane, namespace)
        before = list(helms(own))
        await own.kill("worker")
        assert list(helms(own)) == before

        await agreed_once(we, run_id)

    assert revisions(plane, namespace, "web") == [(1, "superseded"), (2, "deployed")]


@requirement("helm:recovered-by-evidence", "promise:crash-costs-nothing")
async def test_worker_and_helm_killed_together_are_accounted_for(own: Installed, plane: Plane, namespace: str) -> None:
    async with people(own, namespace) as we:
        await we.deployed("web")
        run_id = await we.deploy("web", {"replicas": 2, "fake": "slow"})
        await we.agreed(run_id)
        await pending(plane, namespace, "pending-upgrade")
        worker = own.pid_of("worker")
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        await kill_helm(own)

        await agreed_once(we, run_id)

    assert revisions(plane, namespace, "web") == [(1, "superseded"), (2, "pending-upgrade"), (3, "superseded"), (4, "deployed")]


@requirement("helm:canceled")
async def test_a_cancel_in_mid_upgrade_rolls_it_back_and_says_so(own: Installed, plane: Plane, namespace: str) -> None:
    async with people(own, namespace) as we:
        await we.deployed("web")
        run_id = await we.deploy("web", {"replicas": 2, "hook": "slow"})
        await we.agreed(run_id)
        await at_the_hook(plane, namespace)
        await call(we.agent, "run_cancel", run_id=run_id, reason="not today")

        ended = await until(we.agent, run_id, "partially_applied", "canceled", patience=120)
        got = await call(we.agent, "run_get", run_id=run_id)

    assert ended["run"]["state"] == "partially_applied"
    assert "rolled back to revision 1" in str(got)
    live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert live is not None and live["spec"]["replicas"] == 1
    assert revisions(plane, namespace, "web")[-1][1] == "deployed"


@requirement("helm:recovered-by-evidence", "promise:crash-costs-nothing")
async def test_helm_killed_in_a_rollback_goes_back_there_under_the_same_approval(own: Installed, plane: Plane, namespace: str) -> None:
    async with people(own, namespace) as we:
        await we.deployed("web", {"hook": "slow", "hookEvents": "pre-rollback"})
        await we.deployed("web", {"replicas": 2})
        back = await call(we.agent, "helm_rollback", release_name="web", revision=1)
        run_id = back["run"]["run_id"]
        await we.agreed(run_id)
        await at_the_hook(plane, namespace)
        await pending(plane, namespace, "pending-rollback")
        await kill_helm(own)

        await agreed_once(we, run_id)

    there = revisions(plane, namespace, "web")
    assert [one for one in there if one[1] == "deployed"] == [there[-1]]
    live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert live is not None and live["spec"]["replicas"] == 1


@requirement("helm:recovered-by-evidence", "promise:crash-costs-nothing")
async def test_helm_killed_in_an_uninstall_is_finished_under_the_same_approval(own: Installed, plane: Plane, namespace: str) -> None:
    async with people(own, namespace) as we:
        await we.deployed("web", {"hook": "slow", "hookEvents": "pre-delete"})
        gone = await call(we.agent, "helm_uninstall", release_name="web")
        run_id = gone["run"]["run_id"]
        await we.agreed(run_id, confirm_name="web")
        await at_the_hook(plane, namespace)
        await pending(plane, namespace, "uninstalling")
        await kill_helm(own)

        await agreed_once(we, run_id)

    assert revisions(plane, namespace, "web") == []
    assert plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web") is None


@requirement("helm:recovered-by-evidence", "promise:crash-costs-nothing")
@pytest.mark.parametrize("program", ["kube-apiserver", "etcd"])
async def test_a_cluster_that_dies_in_mid_upgrade_leaves_a_truthful_record(own_plane: Plane, tmp_path: Path, program: str) -> None:
    own_plane.namespace("shop")
    async with service(tmp_path, own_plane.kubeconfig) as it, people(it, "shop") as we:
        await we.deployed("web")
        run_id = await we.deploy("web", {"replicas": 2, "hook": "slow"})
        await we.agreed(run_id)
        await at_the_hook(own_plane, "shop")
        with own_plane.away(program):
            pass
        ended = await until(we.agent, run_id, "applied", "partially_applied", "needs_operator", patience=240)

    state, there = ended["run"]["state"], revisions(own_plane, "shop", "web")
    replicas = (own_plane.get("/apis/apps/v1/namespaces/shop/deployments/web") or {})["spec"]["replicas"]
    assert [one[1] for one in there].count("deployed") == 1
    assert (state, replicas) in [("applied", 2), ("partially_applied", 1)]


@requirement("helm:recovered-by-evidence")
async def test_a_release_that_somebody_moved_while_everything_was_down_is_shown_to_people_again(
    own: Installed, plane: Plane, namespace: str
) -> None:
    async with people(own, namespace) as we:
        await we.deployed("web")
        run_id = await we.deploy("web", {"replicas": 2, "hook": "slow"})
        await we.agreed(run_id)
        await at_the_hook(plane, namespace)
        await pending(plane, namespace, "pending-upgrade")
    own.kill_all()
    await kill_helm(own)
    where = ["-n", namespace]
    await asyncio.to_thread(plane.helm, "rollback", "web", "1", *where, "--wait")
    await asyncio.to_thread(plane.helm, "upgrade", "web", str(CHARTS / "web"), *where, "--set", "replicas=3", "--wait")

    own.start()
    await own.ready()
    async with people(own, f"{namespace}-again") as we:
        waiting = await until(we.person, run_id, "awaiting_approval", patience=180)
        got = await call(we.person, "run_get", run_id=run_id)
        assert "revision 4 (deployed)" in json.dumps(got)
        await call(we.person, "run_approve", run_id=run_id, plan_digest=waiting["run"]["plan_digest"])
        await until(we.person, run_id, "applied", patience=180)

    assert [one for one in revisions(plane, namespace, "web") if one[1] == "deployed"] == [(5, "deployed")]
    live = plane.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/web")
    assert live is not None and live["spec"]["replicas"] == 2


@requirement("helm:recovered-by-evidence", "promise:crash-costs-nothing")
async def test_an_uninstall_whose_cluster_dies_is_finished_under_the_same_approval(own_plane: Plane, tmp_path: Path) -> None:
    own_plane.namespace("shop")
    async with service(tmp_path, own_plane.kubeconfig) as it, people(it, "shop") as we:
        await we.deployed("web", {"hook": "slow", "hookEvents": "pre-delete"})
        gone = await call(we.agent, "helm_uninstall", release_name="web")
        run_id = gone["run"]["run_id"]
        await we.agreed(run_id, confirm_name="web")
        await at_the_hook(own_plane, "shop")
        [helm] = helms(it)
        os.kill(helm, signal.SIGSTOP)  # it goes on when its cluster is gone
        with own_plane.away("kube-apiserver"):
            os.kill(helm, signal.SIGCONT)

        await agreed_once(we, run_id)

    assert revisions(own_plane, "shop", "web") == []
    assert own_plane.get("/apis/apps/v1/namespaces/shop/deployments/web") is None
