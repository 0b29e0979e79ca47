"""What a release costs through the gate, beside `helm upgrade --install --wait` by hand: the same chart, values and control plane."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client

from tests.acceptance.installed import Installed, call, until
from tests.kubernetes.plane import CHARTS, Plane, started
from tests.tools import built

CHART = "example-data-app"
NAMESPACE = "bench"
PASSWORD = "of-the-bench-only"


@dataclass
class Releases:
    plane: Plane
    agent: Client

    async def raw(self, name: str, replicas: int) -> float:
        """Seconds of helm by hand."""
        values = json.dumps(_values(replicas))
        words = ("upgrade", "--install", name, str(CHARTS / CHART), "-n", NAMESPACE, "--wait", "--timeout", "60s", "-f", "-")
        begun = time.perf_counter()
        await asyncio.to_thread(self.plane.helm, *words, stdin=values)
        return time.perf_counter() - begun

    async def ours(self, name: str, replicas: int) -> float:
        """Seconds from the call to applied, plan included, where policy agrees by itself."""
        asked = {"env": "auto", "chart": CHART, "release_name": name, "namespace": NAMESPACE, "values": _values(replicas)}
        begun = time.perf_counter()
        answer = await call(self.agent, "helm_deploy", **asked, wait_seconds=25)
        if answer["run"]["state"] != "applied":
            await until(self.agent, answer["run"]["run_id"], "applied")
        return time.perf_counter() - begun

    async def pairs(self, repeat: int) -> tuple[list[float], list[float], list[float]]:
        """(installs beyond raw, upgrades beyond raw, raw of both), in ms; the first pair warms up."""
        installs, upgrades, floor = [], [], []
        for number in range(repeat + 1):
            raw_install, install = await self.raw(f"raw-{number}", 2), await self.ours(f"ours-{number}", 2)
            raw_upgrade, upgrade = await self.raw(f"raw-{number}", 3), await self.ours(f"ours-{number}", 3)
            if number:
                installs.append(1000 * (install - raw_install))
                upgrades.append(1000 * (upgrade - raw_upgrade))
                floor += [1000 * raw_install, 1000 * raw_upgrade]
        print(f"  raw: {statistics.median(floor):.0f} ms", flush=True)
        return installs, upgrades, floor


def _values(replicas: int) -> dict[str, Any]:
    return {"database": {"password": PASSWORD}, "web": {"replicas": replicas}}


@asynccontextmanager
async def assembled(folder: Path) -> AsyncIterator[Releases]:
    """A control plane and a service of their own: they would weigh on other figures."""
    async with started(folder / "releases") as plane:
        plane.namespace(NAMESPACE)
        it = Installed(data=folder / "releases-data", stacks=CHARTS)
        it.data.mkdir()
        (it.data / "countersign.toml").write_text(
            f"""
            [[organizations]]
            slug = "local"
            environments = [{{slug = "auto"}}]

            [policy]
            rules = [{{need = "auto"}}]

            [[clusters]]
            environment = "local/auto"
            name = "bench"
            kubeconfig = {json.dumps(str(plane.kubeconfig))}

            [helm]
            executable = {json.dumps(str(built("kube", "helm")))}
            """
        )
        it.start()
        try:
            await it.ready()
            async with it.client(it.key("agent:bench", acts_for="person:bench")) as agent:
                yield Releases(plane=plane, agent=agent)
        finally:
            it.stop()
