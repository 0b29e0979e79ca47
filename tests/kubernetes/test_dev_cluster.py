"""`countersign dev-cluster`, as somebody at a terminal uses it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from countersign.adapters.kubernetes.devcluster import DevCluster
from countersign.adapters.process import marked_processes
from tests.kubernetes.plane import Plane, eventually
from tests.requirements import requirement
from tests.tools import built

COMMAND = Path(sys.executable).with_name("countersign")


@dataclass
class Terminal:
    data: Path

    def types(self, *words: str, code: int = 0) -> str:
        environment = {**os.environ, "COUNTERSIGN_DATA": str(self.data)}
        done = subprocess.run([str(COMMAND), "dev-cluster", *words], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    @property
    def cluster(self) -> DevCluster:
        return DevCluster(folder=self.data / "dev-cluster", tools=built("kube", "etcd").parent)

    def processes(self) -> list[int]:
        return marked_processes(self.cluster.marker)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    it = Terminal(data=tmp_path / "data")
    yield it
    it.types("down")


@requirement("kubernetes:dev-cluster")
def test_a_cluster_comes_up_with_ready_nodes_and_leaves_nothing_behind(terminal: Terminal, tmp_path: Path) -> None:
    said = json.loads(terminal.types("up", "--nodes", "3", "--json"))
    plane = Plane(cluster=terminal.cluster, folder=tmp_path / "files")
    ready = [
        condition["status"]
        for node in plane.get("/api/v1/nodes")["items"]  # type: ignore[index]
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    ]

    assert 0 < said["seconds"] < 60
    assert ready == ["True", "True", "True"]
    assert terminal.types("kubeconfig").strip() == said["kubeconfig"] == str(terminal.data / "dev-cluster" / "kubeconfig")
    assert (terminal.data / "dev-cluster" / "kubeconfig").stat().st_mode & 0o077 == 0
    assert plane.helm("list", "-A", "-q") == ""

    before = terminal.processes()
    again = terminal.types("up")
    assert "runs already" in again
    assert sorted(terminal.processes()) == sorted(before)
    assert len(before) == 5

    assert "ended" in terminal.types("down")
    assert terminal.processes() == []
    assert list(terminal.data.iterdir()) == []

    assert "it did not run" in terminal.types("down")
    assert "start it with `countersign dev-cluster up`" in terminal.types("kubeconfig", code=1)


def test_a_cluster_of_which_a_part_died_is_made_anew(terminal: Terminal, tmp_path: Path) -> None:
    terminal.types("up")
    plane = Plane(cluster=terminal.cluster, folder=tmp_path / "files")
    os.kill(plane.pid_of("kube-apiserver"), signal.SIGKILL)
    eventually(lambda: len(terminal.processes()) == 4, "the API server to be gone")

    assert "no cluster runs" in terminal.types("kubeconfig", code=1)
    assert "ready after" in terminal.types("up")
    assert len(terminal.processes()) == 5


def test_programs_that_were_never_built_are_named_with_what_builds_them(terminal: Terminal, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    said = terminal.types("up", "--tools", str(empty), code=1)

    assert "kube-apiserver" in said and "make tools-kube" in said
    assert not (terminal.data / "dev-cluster").exists()
