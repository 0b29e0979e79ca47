"""The service as installed, with an environment whose cluster is the simulated one, and the people who release there."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client

from tests.acceptance.installed import Installed, call, until
from tests.kubernetes.plane import Plane
from tests.tools import built

CHARTS = Path(__file__).with_name("charts")


SEALED = "dev-cluster"  # the sealed kubeconfig of a service that is given no file


def settings_of(*, kubeconfig: Path | None, timeout: int = 60) -> str:
    """With a kubeconfig in a file, or sealed."""
    return "\n".join(
        [
            "[[clusters]]",
            'environment = "local/dev"',
            'name = "dev"',
            f"kubeconfig = {json.dumps(str(kubeconfig))}" if kubeconfig is not None else f'kubeconfig_secret = "{SEALED}"',
            "[helm]",
            f"executable = {json.dumps(str(built('kube', 'helm')))}",
            f"timeout_seconds = {timeout}",
            "",
        ]
    )


@contextlib.asynccontextmanager
async def service(folder: Path, kubeconfig: Path | None, *, timeout: int = 60, stacks: Path = CHARTS) -> AsyncIterator[Installed]:
    it = Installed(data=folder / "data", stacks=stacks)
    it.data.mkdir(parents=True)
    (it.data / "countersign.toml").write_text(settings_of(kubeconfig=kubeconfig, timeout=timeout))
    it.start()
    try:
        await it.ready()
        yield it
    finally:
        it.stop()


@dataclass
class People:
    """An agent that asks and a person who agrees."""

    agent: Client
    person: Client
    namespace: str

    async def deploy(self, name: str, values: dict[str, Any] | None = None, **more: Any) -> str:
        asked = {"chart": "web", "release_name": name, "namespace": self.namespace, "values": values or {}, **more}
        return str((await call(self.agent, "helm_deploy", **asked))["run"]["run_id"])

    async def agreed(self, run_id: str, **more: Any) -> dict[str, Any]:
        """The run when it waits for a person, and its plan; then the person agrees to exactly that."""
        waiting = await until(self.agent, run_id, "awaiting_approval")
        plan = await call(self.agent, "run_plan", run_id=run_id)
        await call(self.person, "run_approve", run_id=run_id, plan_digest=waiting["run"]["plan_digest"], **more)
        return plan

    async def deployed(self, name: str, values: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        run_id = await self.deploy(name, values, **more)
        plan = await self.agreed(run_id)
        await until(self.agent, run_id, "applied", patience=120)
        return plan

    async def errored(self, run_id: str) -> dict[str, Any]:
        """The error of a run that could not be planned."""
        return await until(self.agent, run_id, "errored")


@contextlib.asynccontextmanager
async def people(it: Installed, namespace: str) -> AsyncIterator[People]:
    agent, person = it.key(f"agent:{namespace}", acts_for="person:ana"), it.key(f"person:{namespace}", kind="person", role="approver")
    async with it.client(agent) as asking, it.client(person) as agreeing:
        yield People(agent=asking, person=agreeing, namespace=namespace)


def revisions(plane: Plane, namespace: str, name: str) -> list[tuple[int, str]]:
    """(number, status) of each revision, as helm keeps them."""
    found = plane.get(f"/api/v1/namespaces/{namespace}/secrets", labelSelector=f"owner=helm,name={name}") or {"items": []}
    labels = [item["metadata"]["labels"] for item in found["items"]]
    return sorted((int(one["version"]), str(one["status"])) for one in labels)


def helms(it: Installed) -> Iterator[int]:
    """Processes of helm that an apply of this service runs."""
    from tests.acceptance.installed import processes

    for pid, argv in processes():
        if argv and Path(argv[0]).name == "helm" and any(str(it.data / "attempts") in word for word in argv):
            yield pid
