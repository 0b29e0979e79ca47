"""A real control plane on the loopback, whose nodes and pods are simulated: to try Helm releases on, and to test against.

etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok, as `make tools` builds them, in one folder. Whoever starts it
need not stay: each process carries the folder's marker, and `down` ends whatever carries it and removes the folder.
"""

import asyncio
import hashlib
import json
import shutil
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from countersign.adapters.kubernetes import pki
from countersign.adapters.process import MARKER, end_marked, marked_processes, start_service, tail_of
from countersign.core.errors import FailedPrecondition, Unavailable

HERE = "127.0.0.1"
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
READY_WITHIN = 60.0  # seconds; three are usual
ENDS_WITHIN = 10.0
LOOK = 0.05
STAGES = Path(__file__).with_name("stages.yaml")
OF_KWOK = (  # stages of its own, in the folder that `make tools` takes along
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "volume/fast/pv-bind.yaml",
    "volume/fast/pv-delete.yaml",
    "volume/fast/pvc-delete.yaml",
    "volume/fast/pvc-provision.yaml",
)
KUBECONFIG = "kubeconfig"


@dataclass(frozen=True, kw_only=True)
class DevCluster:
    """One cluster in `folder`, of the programs in `tools`."""

    folder: Path
    tools: Path
    nodes: int = 2
    outlives_us: bool = True  # else its processes end with the thread that started them, however that ends

    @property
    def kubeconfig(self) -> Path:
        return self.folder / KUBECONFIG

    @property
    def marker(self) -> str:
        return "dev-cluster-" + hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]

    @property
    def runs(self) -> bool:
        return bool(marked_processes(self.marker))

    async def up(self) -> float:
        """Start it, unless it runs; seconds until nodes are ready. What is left of one that broke is removed first.

        Raises FailedPrecondition where programs are missing, Unavailable.
        """
        if await self.answers():
            return 0.0
        missing = [name for name in PROGRAMS if not (self.tools / name).exists()]
        if missing:
            raise FailedPrecondition(f"{', '.join(missing)} not built yet: run `make tools-kube` in a checkout (some minutes, once)")
        await self.down()
        self.folder.mkdir(mode=0o700, parents=True)
        began = time.monotonic()
        try:
            await _Start(self).run()
        except BaseException:
            await self.down(keep_logs=True)
            raise
        return time.monotonic() - began

    async def answers(self) -> bool:
        """Whether it runs and its API answers."""
        if not (self.runs and self.kubeconfig.exists()):
            return False
        server = json.loads(self.kubeconfig.read_text(encoding="utf-8"))["clusters"][0]["cluster"]["server"]
        async with _client(self.folder, server) as http:
            return await _answers(http, "/readyz")()

    async def down(self, *, keep_logs: bool = False) -> bool:
        """End whatever is left of it and remove its folder; whether anything ran."""
        ended = await asyncio.to_thread(end_marked, self.marker)
        until = time.monotonic() + ENDS_WITHIN
        while self.runs:
            if time.monotonic() > until:
                raise Unavailable("the cluster's processes do not end; see `ps`")
            await asyncio.sleep(LOOK)
        if self.folder.exists() and not keep_logs:
            await asyncio.to_thread(shutil.rmtree, self.folder)
        return bool(ended)


class _Start:
    def __init__(self, cluster: DevCluster) -> None:
        self._folder, self._tools, self._nodes = cluster.folder, cluster.tools, cluster.nodes
        self._ends_with_us = not cluster.outlives_us
        self._logs = cluster.folder / "logs"
        self._environment = {MARKER: cluster.marker, "PATH": "/usr/bin:/bin", "HOME": str(cluster.folder), "TMPDIR": str(cluster.folder)}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._ports = _free_ports(6)
        self._authority = pki.Authority()

    async def run(self) -> None:
        etcd, peer, api, manager, scheduler, kwok = self._ports
        admin = self._authority.client("admin", "system:masters")
        self._server = f"https://{HERE}:{api}"
        await self._start("etcd", self._etcd(etcd, peer))
        await self._start("kube-apiserver", self._apiserver(etcd, api, admin))
        config = self._kubeconfig(KUBECONFIG, admin)
        async with _client(self._folder, self._server) as http:
            await self._until(_answers(http, "/readyz"), "the API server to be ready")
            manager_config = self._kubeconfig("controller-manager.kubeconfig", self._authority.client("system:kube-controller-manager"))
            scheduler_config = self._kubeconfig("scheduler.kubeconfig", self._authority.client("system:kube-scheduler"))
            await self._start("kube-controller-manager", self._manager(manager, manager_config))
            await self._start("kube-scheduler", self._scheduler(scheduler, scheduler_config))
            await self._start("kwok", self._kwok(kwok, config))
            await self._populate(http)
            await self._until(_nodes_ready(http, self._nodes), "its nodes to be ready")
            await self._until(_answers(http, "/api/v1/namespaces/default/serviceaccounts/default"), "its first service account")

    async def _start(self, name: str, arguments: Sequence[str]) -> None:
        argv = [str(self._tools / name), *arguments]
        self._processes[name] = await start_service(
            argv, cwd=self._folder, env=self._environment, log=self._logs / f"{name}.log", ends_with_us=self._ends_with_us
        )

    async def _until(self, probe: Callable[[], Awaitable[bool]], what: str) -> None:
        until = time.monotonic() + READY_WITHIN
        while not await probe():
            ended = [name for name, process in self._processes.items() if process.returncode is not None]
            if ended or time.monotonic() > until:
                which = ended[0] if ended else "kube-apiserver"
                said = tail_of(self._logs / f"{which}.log")[-800:]
                raise Unavailable(f"waited for {what}; {which} {'ended' if ended else 'is not done'}. It said: {said}")
            await asyncio.sleep(LOOK)

    def _etcd(self, client: int, peer: int) -> list[str]:
        at, peers = f"http://{HERE}:{client}", f"http://{HERE}:{peer}"
        return [
            "--name=node0",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={at}",
            f"--advertise-client-urls={at}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=node0={peers}",
            "--unsafe-no-fsync",  # what is in it ends with it
            "--log-level=warn",
        ]

    def _apiserver(self, etcd: int, port: int, admin: pki.Pair) -> list[str]:
        authority = self._file("ca.crt", self._authority.certificate)
        signing = self._file("service-accounts.key", pki.signing_key())
        certificate, key = self._authority.server().written(self._folder, "apiserver")
        own, own_key = admin.written(self._folder, "admin")
        return [
            f"--etcd-servers=http://{HERE}:{etcd}",
            f"--bind-address={HERE}",
            f"--advertise-address={HERE}",
            f"--secure-port={port}",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={authority}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--cert-dir={self._folder}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--proxy-client-cert-file={own}",
            f"--proxy-client-key-file={own_key}",
            f"--requestheader-client-ca-file={authority}",
            "--requestheader-allowed-names=admin",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--kubelet-client-certificate={own}",
            f"--kubelet-client-key={own_key}",
            "--enable-priority-and-fairness=false",
            "--profiling=false",
        ]

    def _manager(self, port: int, config: Path) -> list[str]:
        return [
            f"--kubeconfig={config}",
            f"--bind-address={HERE}",
            f"--secure-port={port}",
            "--leader-elect=false",
            f"--service-account-private-key-file={self._folder / 'service-accounts.key'}",
            f"--root-ca-file={self._folder / 'ca.crt'}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            f"--cert-dir={self._folder}",
            f"--flex-volume-plugin-dir={self._folder / 'flex'}",  # else it makes a folder of the system's
            "--use-service-account-credentials=true",
            "--authorization-always-allow-paths=/healthz,/readyz,/livez,/metrics",
        ]

    def _scheduler(self, port: int, config: Path) -> list[str]:
        flags = ["--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000"]
        return [f"--kubeconfig={config}", f"--bind-address={HERE}", f"--secure-port={port}", *flags]

    def _kwok(self, port: int, config: Path) -> list[str]:
        stages = [(self._tools / "stages" / name).read_text(encoding="utf-8") for name in OF_KWOK]
        known = self._file("stages.yaml", "\n---\n".join([*stages, STAGES.read_text(encoding="utf-8")]).encode())
        return [
            f"--kubeconfig={config}",
            f"--config={known}",
            "--manage-all-nodes=true",
            f"--node-ip={HERE}",
            "--node-name=localhost",
            f"--node-port={port}",
            f"--server-address={HERE}:{port}",
            f"--tls-cert-file={self._folder / 'apiserver.crt'}",
            f"--tls-private-key-file={self._folder / 'apiserver.key'}",
            "--node-lease-duration-seconds=40",
        ]

    async def _populate(self, http: httpx2.AsyncClient) -> None:
        """Nodes with room, and a storage class whose claims are bound at once."""
        room = {"cpu": "32", "memory": "256Gi", "pods": "1000"}
        for number in range(self._nodes):
            name = f"node-{number}"
            await _created(
                http,
                "/api/v1/nodes",
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {
                        "name": name,
                        "annotations": {"kwok.x-k8s.io/node": "fake"},
                        "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
                    },
                    "status": {"allocatable": room, "capacity": room},
                },
            )
        await _created(
            http,
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                # The name that kwok's stages of volumes look for.
                "metadata": {"name": "kwok-volume", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "provisioner": "kwok.x-k8s.io/volume",
                "volumeBindingMode": "Immediate",
                "allowVolumeExpansion": True,
            },
        )

    def _kubeconfig(self, name: str, client: pki.Pair) -> Path:
        return self._file(name, pki.kubeconfig(server=self._server, authority=self._authority.certificate, client=client).encode())

    def _file(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


def _client(folder: Path, server: str) -> httpx2.AsyncClient:
    """The API, as its administrator."""
    trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    trust.load_cert_chain(folder / "admin.crt", folder / "admin.key")
    return httpx2.AsyncClient(base_url=server, verify=trust, timeout=5)


def _answers(http: httpx2.AsyncClient, path: str) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        try:
            return bool((await http.get(path)).status_code == 200)
        except httpx2.HTTPError:
            return False

    return probe


def _nodes_ready(http: httpx2.AsyncClient, count: int) -> Callable[[], Awaitable[bool]]:
    async def probe() -> bool:
        nodes: list[dict[str, Any]] = (await http.get("/api/v1/nodes")).json()["items"]
        conditions = [c for node in nodes for c in node.get("status", {}).get("conditions", ()) if c["type"] == "Ready"]
        return len([c for c in conditions if c["status"] == "True"]) >= count

    return probe


async def _created(http: httpx2.AsyncClient, path: str, document: dict[str, Any]) -> None:
    answer = await http.post(path, json=document)
    if answer.status_code not in (201, 409):
        raise Unavailable(f"the cluster did not take a {document['kind']}: {answer.text[:300]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HERE, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
