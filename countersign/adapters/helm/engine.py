"""The engine: `plan`, `launch` and `follow` a release, and `reconcile` what was lost, each in its own module.

Those modules, and with them Helm's and Kubernetes' libraries, are loaded when the first release is asked for: a service that has none
starts without them.
"""

import asyncio
import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from countersign.adapters.apart import apart
from countersign.adapters.attempts import AttemptFolders
from countersign.adapters.git import Mirrors, Remotes
from countersign.adapters.settings import ClusterSettings, HelmSettings
from countersign.core.engine import ApplyJob, Beat, Outcome, PlanJob, Planned, Reconciled, ReconcileJob, Remains, Told, Wanted
from countersign.core.fingerprints import Fingerprints
from countersign.core.helm.charts import Source
from countersign.core.reading import Asked
from countersign.core.run import Mode

ABANDONED = 2 * 3600.0  # seconds after which a folder of work that nothing of it lives for is nobody's


class HelmEngine:
    """Helm 4, as `countersign.core.engine.Reconciler` asks.

    `stacks_root` is the folder of stacks, where charts may lie, `charts` where else they may come from, `remotes` what the operator says
    about Git; `work_root` and `attempts_root` are ours (0700), the latter on a disk that outlives the worker. `mac_key` keys the
    fingerprints in plans.
    """

    name = "helm"

    def __init__(
        self,
        *,
        clusters: Sequence[ClusterSettings],
        helm: HelmSettings,
        stacks_root: Path,
        work_root: Path,
        attempts_root: Path,
        mac_key: bytes,
        mac_kid: str,
        search_path: str,
        charts: Sequence[Source] = (),
        remotes: Remotes | None = None,
    ) -> None:
        for folder in (work_root, attempts_root):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            apart(folder)
        self._folders = AttemptFolders(root=attempts_root.absolute())
        self._given: Mapping[str, Any] = {
            "clusters": tuple(clusters),
            "work_root": work_root.absolute(),
            "fingerprints": Fingerprints(key=mac_key, kid=mac_kid),
            "search_path": ":".join(entry for entry in search_path.split(":") if entry.startswith("/")),
            "executable": helm.executable,
            "timeout": helm.timeout_seconds,
            "history_max": helm.history_max,
            "passed": dict(helm.environment),
        }
        self._charts: Mapping[str, Any] = {
            "listed": tuple(charts),
            "stacks_root": stacks_root.absolute(),
            "cache": work_root.absolute() / "charts",
            "mirrors": Mirrors(folder=work_root / "git", remotes=remotes or Remotes()),
            "search_path": self._given["search_path"],
        }
        self._swept = False
        self._sources: Any = None  # one for all work: it keeps what was fetched

    async def plan(self, job: PlanJob, beat: Beat) -> Planned:
        """What the release would become. Raises with `details["findings"]` where the cluster would not take objects of it."""
        module = await _module("drifting" if job.mode is Mode.DRIFT else "planning")
        planned: Planned = await module.make_plan(job, beat, around=await self._around())
        return planned

    async def moved(self, job: PlanJob, inputs: Mapping[str, object], beat: Beat) -> str | None:
        return "plans of releases are not adopted: each is made from what is live"

    async def launch(self, job: ApplyJob) -> None:
        await (await self._attempts()).launch(job)

    async def follow(self, attempt_id: str, beat: Beat, *, stop: Wanted) -> Outcome:
        outcome: Outcome = await (await self._attempts()).follow(attempt_id, beat, stop=stop)
        return outcome

    async def end(self, attempt_id: str, *, same_boot: bool) -> Remains:
        remains: Remains = await (await self._attempts()).end(attempt_id)
        return remains

    def told(self, testimony: bytes) -> Sequence[Told]:
        return ()  # what it did, the release's own history tells

    def joined(self, shipped: bytes, found: bytes) -> bytes:
        return found or shipped

    async def reconcile(self, job: ReconcileJob, beat: Beat) -> Reconciled:
        """What a lost operation did; what was cut off is undone, and what is left is planned with the proof that it was approved."""
        reconciled: Reconciled = await (await _module("reconciling")).reconcile(job, beat, attempts=await self._attempts())
        return reconciled

    async def forget(self, attempt_id: str) -> None:
        await (await self._attempts()).forget(attempt_id)

    async def read(self, asked: Asked) -> Mapping[str, object]:
        """What is known of charts and releases: search_charts, get_chart, list_releases, get_release."""
        said: Mapping[str, object] = await (await _module("reading")).answer(asked, around=await self._around())
        return said

    def where(self, attempt_id: str) -> Path:
        return self._folders.where(attempt_id)

    async def _around(self) -> Any:
        session = await _module("session")
        if not self._swept:
            self._swept = True
            await asyncio.to_thread(session.sweep, self._given["work_root"], before=time.time() - ABANDONED)
        return session.Surroundings(charts=await self._chart_sources(), **self._given)

    async def _chart_sources(self) -> Any:
        sources, fetching = await _module("sources"), await _module("fetching")
        if self._sources is None:
            self._sources = sources.ChartSources(fetcher=fetching.Fetcher(self._given["passed"]), **self._charts)
        return self._sources

    async def _attempts(self) -> Any:
        return (await _module("applying")).Attempts(root=self._folders.root, around=await self._around())


async def _module(name: str) -> Any:
    """In a thread: it takes a second the first time, and heartbeats are due meanwhile."""
    return await asyncio.to_thread(importlib.import_module, f"countersign.adapters.helm.{name}")
