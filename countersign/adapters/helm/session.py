"""What work on one release is done with: its cluster, helm, and a private folder that ends with it."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from countersign.adapters.helm.command import Failed, HelmCommand, environment_of
from countersign.adapters.kubernetes import kubeconfig
from countersign.adapters.kubernetes.cluster import Cluster, Identity, Named
from countersign.adapters.kubernetes.kubeconfig import Kubeconfig
from countersign.adapters.process import end_marked, find_executable, marked_processes
from countersign.adapters.settings import ClusterSettings
from countersign.core.engine import Release, Reveal
from countersign.core.errors import FailedPrecondition, Unavailable
from countersign.core.fingerprints import Fingerprints
from countersign.core.helm.failures import classify
from countersign.core.helm.manifests import CLUSTER_SCOPED, Manifest, parse
from countersign.core.helm.recovery import LABEL, Revision
from countersign.core.helm.redaction import is_secret, secret_texts
from countersign.core.redaction import Redactor

_VERSIONS: dict[tuple[str, int, int, int], str] = {}  # of an executable, which is asked once


async def together(*questions: Coroutine[Any, Any, Any]) -> list[Any]:
    """All answers, asked at the same time. The first failure ends the others, which leave nothing behind, and is raised."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all work has in common. `charts` is where charts come from (`archive.Charts`)."""

    clusters: tuple[ClusterSettings, ...]
    work_root: Path
    fingerprints: Fingerprints
    charts: Any
    search_path: str
    executable: Path | None = None
    timeout: int = 300  # seconds, of one operation
    history_max: int = 10
    passed: Mapping[str, str] = field(default_factory=dict)

    def helm(self) -> Path:
        """Raises FailedPrecondition saying what to install."""
        found = self.executable if self.executable is not None else find_executable("helm", self.search_path)
        if found is None or not found.exists():
            raise FailedPrecondition("no helm on this machine: install Helm 4, or set helm.executable; `countersign doctor` tells")
        return found

    def cluster_of(self, env: str) -> ClusterSettings:
        for one in self.clusters:
            if one.environment == env:
                return one
        raise FailedPrecondition(f"{env} has no cluster: the operator names one in countersign.toml ([[clusters]])", field="env")


@dataclass
class Session:
    """One piece of work. `redactor` grows with what is found to be secret."""

    env: str
    attempt_id: str
    folder: Path
    around: Surroundings
    config: Kubeconfig
    kubeconfig: Path
    cluster: Cluster
    identity: Identity
    helm: HelmCommand
    environment: Mapping[str, str] = field(repr=False)
    reveal: Reveal = field(repr=False)  # what opens a chart source, for one
    redactor: Redactor = field(repr=False, default_factory=Redactor)

    def hide(self, secrets: frozenset[str]) -> None:
        self.redactor = Redactor(self.redactor.secrets | secrets)

    def hide_live(self, manifests: Iterable[Manifest], live: Mapping[Named, Mapping[str, Any] | None]) -> None:
        """What the Secrets among these hold by now: by hand, or by a revision that failed, it may be another than was declared."""
        secrets = ((one, live[named(one)]) for one in manifests if is_secret(one))
        self.hide(secret_texts(replace(one, body=body) for one, body in secrets if body is not None))

    async def build(self) -> str:
        """As plans and records name it: "helm v4.2.4"."""
        path = self.around.helm()
        stat = await asyncio.to_thread(path.stat)
        known = (str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if known not in _VERSIONS:
            _VERSIONS[known] = (await self.helm.run(["version", "--template", "{{.Version}}"])).decode().strip()
        said = _VERSIONS[known]
        if not said.startswith("v4."):
            raise FailedPrecondition(f"helm is {self.redactor.line(said, 40)} on this machine, and Helm 4 is needed; set helm.executable")
        return f"helm {said}"

    # What Helm knows

    async def history(self, release: Release) -> list[Revision]:
        """Every revision with its status and its run, oldest first: from the labels of Helm's own records."""
        selector = f"owner=helm,name={release.name}"
        found = await self.cluster.metadata("Secret", namespace=release.namespace, selector=selector)
        said = [item.get("labels") or {} for item in found]
        made = [
            Revision(number=int(s["version"]), status=str(s["status"]), run=s.get(LABEL)) for s in said if str(s.get("version")).isdigit()
        ]
        return sorted(made, key=lambda one: one.number)

    async def described(self, release: Release) -> list[Revision]:
        """The same with what helm says of each, which takes another process: how a rollback is known."""
        history = await self.history(release)
        if not history:
            return []
        rows = await self.asked(["history", release.name, "-n", release.namespace, "--max", "256"])
        said = {int(row["revision"]): str(row.get("description", "")) for row in rows}
        return [replace(one, description=said.get(one.number, "")) for one in history]

    async def manifest(self, release: Release, revision: int) -> tuple[Manifest, ...]:
        where = [release.name, "-n", release.namespace, "--revision", str(revision)]
        return await self.parsed((await self.run(["get", "manifest", *where])).decode(), release.namespace)

    async def hooks(self, release: Release, revision: int) -> tuple[Manifest, ...]:
        where = [release.name, "-n", release.namespace, "--revision", str(revision)]
        found = await self.parsed((await self.run(["get", "hooks", *where])).decode(), release.namespace)
        return tuple(one for one in found if one.hook is not None)

    async def parsed(self, text: str, namespace: str) -> tuple[Manifest, ...]:
        """The objects of a manifest. What kinds outside of Kubernetes itself live in, the cluster is asked."""
        found = await asyncio.to_thread(parse, text, namespace=namespace)
        unknown = {(one.key.group, one.key.kind): one.api_version for one in found if "." in one.key.group and one.key.namespace}
        wide = {kind for kind, version in unknown.items() if await self.cluster.namespaced(version, kind[1]) is False}
        if not wide:
            return found
        return await asyncio.to_thread(parse, text, namespace=namespace, cluster_scoped=CLUSTER_SCOPED | wide)

    # helm, asked

    async def run(self, command: Sequence[str], input: bytes | None = None) -> bytes:
        """Raises what helm's words mean, redacted."""
        try:
            return await self.helm.run(command, input)
        except Failed as failed:
            raise classify(failed.errors).error(self.redactor) from None

    async def asked(self, command: Sequence[str], input: bytes | None = None) -> Any:
        return json.loads(await self.run([*command, "-o", "json"], input) or b"null")


def named(manifest: Manifest) -> Named:
    key = manifest.key
    return Named(api_version=manifest.api_version, kind=key.kind, namespace=key.namespace or None, name=key.name)


async def kubeconfig_of(cluster: ClusterSettings, reveal: Reveal) -> Kubeconfig:
    """Raises FailedPrecondition and Unavailable saying what is wrong with it."""
    if cluster.kubeconfig is not None:
        return await asyncio.to_thread(kubeconfig.of_file, cluster.kubeconfig, context=cluster.context)
    assert cluster.kubeconfig_secret is not None  # settings saw to it
    return kubeconfig.of_text(await reveal(cluster.kubeconfig_secret), context=cluster.context)


def sweep(work_root: Path, *, before: float) -> int:
    """Remove folders of work whose worker died in it: they hold a kubeconfig. `before` is seconds since 1970; how many there were."""
    work = (*work_root.glob("att_*"), *work_root.glob("read_*"))  # plans, and questions
    stale = [one for one in work if one.stat().st_mtime < before and not marked_processes(one.name)]
    for folder in stale:
        shutil.rmtree(folder, ignore_errors=True)
    return len(stale)


async def _closed(slug: str) -> str:
    raise FailedPrecondition(f"the secret {slug} is not opened while an apply is watched")


@asynccontextmanager
async def at_work(
    around: Surroundings, *, env: str, attempt_id: str, reveal: Reveal | None = None, folder: Path | None = None
) -> AsyncIterator[Session]:
    """A session in a folder of its own, which is removed afterwards unless it is given; what helm left behind ends with it.

    Without `reveal` the folder has the kubeconfig that an earlier session put there.
    """
    settings = around.cluster_of(env)
    helm = around.helm()
    own = folder is None
    place = around.work_root / attempt_id if folder is None else folder
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if reveal is not None:
            config = await kubeconfig_of(settings, reveal)
            written = config.written(place / "kubeconfig")
        else:
            written = place / "kubeconfig"
            config = await asyncio.to_thread(kubeconfig.of_file, written, context=None)
        cluster = await Cluster.open(config, name=settings.name, folder=place / "client")
        environment = environment_of(place / "home", attempt=attempt_id, search_path=around.search_path, passed=around.passed)
        yield Session(
            env=env,
            attempt_id=attempt_id,
            folder=place,
            around=around,
            config=config,
            kubeconfig=written,
            cluster=cluster,
            identity=await cluster.identity(),
            helm=HelmCommand(executable=helm, folder=place, environment=environment, kubeconfig=written),
            environment=environment,
            reveal=reveal or _closed,
            redactor=Redactor(config.secrets),
        )
    except OSError as broken:
        raise Unavailable(f"the folder of plans cannot be used ({broken.strerror or broken}); see `countersign doctor`") from None
    finally:
        await asyncio.to_thread(end_marked, attempt_id)
        if own:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
