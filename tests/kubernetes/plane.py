"""What a test says to the simulated cluster, and how it breaks it: the API as an administrator, helm, kubeconfigs of others, kills.

The control plane is real (etcd, kube-apiserver, controller-manager, scheduler); nodes and pods are kwok's. A pod's label
`countersign.local/fake` makes it misbehave: image-pull, crash, exit, slow (ready after 8 s), hang (a Job that never completes).
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from countersign.adapters.kubernetes.devcluster import DevCluster
from countersign.adapters.process import marked_processes
from tests.tools import built

PATIENCE = 60.0  # seconds; every wait is bounded
CHARTS = Path(__file__).parents[2] / "charts"


def eventually(probe: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true answer of `probe`; fails by saying `what` it waited for."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if answer := probe():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"waited {patience} s for {what}")


@dataclass
class Plane:
    """A running control plane. `folder` is for kubeconfigs and what helm writes."""

    cluster: DevCluster
    folder: Path
    api: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        trust = ssl.create_default_context(cafile=str(self.cluster.folder / "ca.crt"))
        trust.load_cert_chain(self.cluster.folder / "admin.crt", self.cluster.folder / "admin.key")
        self.api = httpx2.Client(base_url=self.server, verify=trust, timeout=30)

    @property
    def server(self) -> str:
        return str(self._config()["clusters"][0]["cluster"]["server"])

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator."""
        return self.cluster.kubeconfig

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(self.cluster.kubeconfig.read_text())
        return config

    # Objects

    def get(self, path: str, **query: str) -> dict[str, Any] | None:
        """The object or list at an API path such as /api/v1/namespaces/n/pods, or None where there is none."""
        answer = self.api.get(path, params=query)
        if answer.status_code == 404:
            return None
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def names(self, path: str, **query: str) -> list[str]:
        return sorted(item["metadata"]["name"] for item in (self.get(path, **query) or {"items": []})["items"])

    def create(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.api.post(path, json=dict(document))
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def patch(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """A merge patch, as somebody with kubectl would make it."""
        answer = self.api.patch(path, content=json.dumps(dict(document)), headers={"Content-Type": "application/merge-patch+json"})
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def delete(self, path: str) -> None:
        assert self.api.delete(path).status_code in (200, 202, 404)

    def namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """A new namespace, with its default service account, which pods need."""
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}
        self.create("/api/v1/namespaces", document)
        eventually(lambda: self.get(f"/api/v1/namespaces/{name}/serviceaccounts/default"), f"the service account of {name}")
        return name

    # Who may what

    def restricted(self, namespace: str, rules: Sequence[Mapping[str, Any]], *, name: str = "deployer") -> Path:
        """The kubeconfig of a service account that may do in `namespace` what `rules` (of a Role) say, and nothing else."""
        base, rbac = f"/api/v1/namespaces/{namespace}", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        meta = {"metadata": {"name": name}}
        self.create(f"{base}/serviceaccounts", {"apiVersion": "v1", "kind": "ServiceAccount", **meta})
        group = "rbac.authorization.k8s.io"
        self.create(f"{rbac}/roles", {"apiVersion": f"{group}/v1", "kind": "Role", **meta, "rules": [dict(rule) for rule in rules]})
        subjects = [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
        binding = {"roleRef": {"apiGroup": group, "kind": "Role", "name": name}, "subjects": subjects}
        self.create(f"{rbac}/rolebindings", {"apiVersion": f"{group}/v1", "kind": "RoleBinding", **meta, **binding})
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        token = self.create(f"{base}/serviceaccounts/{name}/token", asked)["status"]["token"]
        return self.kubeconfig_with({"token": token}, name=f"{namespace}-{name}", namespace=namespace)

    def kubeconfig_with(self, user: Mapping[str, Any], *, name: str, namespace: str = "default", server: str | None = None) -> Path:
        """A kubeconfig for this cluster with other credentials, or another address."""
        config = self._config()
        config["users"] = [{"name": "dev", "user": dict(user)}]
        config["contexts"][0]["context"]["namespace"] = namespace
        if server is not None:
            config["clusters"][0]["cluster"]["server"] = server
        path = self.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        return path

    # Helm, by hand

    def helm(self, *arguments: str, code: int | None = 0, stdin: str | None = None, timeout: float = 2 * PATIENCE) -> str:
        """What helm prints, as an administrator; with `code` 1 what it complains about, with None both."""
        done = subprocess.run(
            self.helm_words(*arguments), env=self.helm_environment(), input=stdin, capture_output=True, text=True, timeout=timeout
        )
        if code is None:
            return done.stdout + done.stderr
        assert done.returncode == code, f"helm {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if code else done.stdout

    def helm_words(self, *arguments: str) -> list[str]:
        return [str(built("kube", "helm")), *arguments]

    def helm_environment(self) -> dict[str, str]:
        home = self.folder / "helm"
        homes = {f"HELM_{what}_HOME": str(home / what.lower()) for what in ("CACHE", "CONFIG", "DATA")}
        return {"PATH": "/usr/bin:/bin", "HOME": str(home), **homes, "KUBECONFIG": str(self.kubeconfig)}

    # Breaking it. Only a plane of the test's own (`own_plane`): others share theirs.

    def pid_of(self, program: str) -> int:
        for pid in marked_processes(self.cluster.marker):
            words = _words(pid)
            if words and Path(words[0]).name == program:
                return pid
        raise AssertionError(f"{program} does not run")

    @contextlib.contextmanager
    def frozen(self, program: str) -> Iterator[None]:
        """It keeps its connections and answers nothing."""
        pid = self.pid_of(program)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def away(self, program: str) -> Iterator[None]:
        """kill -9; started again, as it was, when the block ends, and ready when this returns."""
        pid = self.pid_of(program)
        words, environment = _words(pid), dict(entry.split("=", 1) for entry in _strings(pid, "environ") if "=" in entry)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not _words(pid), f"{program} to be gone")
        try:
            yield
        finally:
            self._start_again(program, words, environment)

    def _start_again(self, program: str, words: Sequence[str], environment: Mapping[str, str]) -> None:
        """Again and again where it ends, as a supervisor does: its port may be somebody's for a moment."""
        path = self.cluster.folder / "logs" / f"{program}.log"

        def started() -> "subprocess.Popen[bytes]":
            with path.open("ab") as log:
                return subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *words],
                    cwd=self.cluster.folder,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

        def ready() -> bool:
            if self._again.poll() is not None:
                self._again = started()
            return self._ready()

        self._again = started()
        try:
            eventually(ready, f"the cluster to be ready again after {program} came back")
        except AssertionError as late:
            raise AssertionError(f"{late}; its log ends: {path.read_text(errors='replace')[-2000:]}") from None

    def _ready(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return bool(self.api.get("/readyz").status_code == 200)
        return False


@contextlib.asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Plane]:
    """A plane of its own in `folder`; it ends with the test process, however that ends."""
    cluster = DevCluster(folder=folder / "plane", tools=built("kube", "kube-apiserver").parent, outlives_us=False)
    try:
        await cluster.up()
        plane = Plane(cluster=cluster, folder=folder / "plane-files")
        try:
            yield plane
        finally:
            plane.api.close()
    finally:
        await cluster.down()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Plane]:
    """The same where no event loop runs. Its own is kept open: whoever closes it lets go of the processes, and that ends them."""
    loop, it = asyncio.new_event_loop(), started(folder)
    try:
        yield loop.run_until_complete(it.__aenter__())
    finally:
        loop.run_until_complete(it.__aexit__(None, None, None))
        loop.close()


def _strings(pid: int, file: str) -> list[str]:
    try:
        return [part.decode(errors="replace") for part in Path(f"/proc/{pid}/{file}").read_bytes().split(b"\0") if part]
    except OSError:
        return []


def _words(pid: int) -> list[str]:
    return _strings(pid, "cmdline")
