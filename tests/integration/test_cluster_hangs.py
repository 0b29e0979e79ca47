"""A cluster that takes connections and never answers: whoever asks is told so, and nobody else waits for it."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from countersign.adapters.kubernetes import cluster, kubeconfig
from countersign.core.errors import Unavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of one. Whoever still waits at the end is let go."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"


def opened(server: str, folder: Path) -> "asyncio.Task[cluster.Cluster]":
    text = f"""
current-context: it
clusters: [{{name: it, cluster: {{server: "{server}", insecure-skip-tls-verify: true}}}}]
users: [{{name: it, user: {{token: some-token}}}}]
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
"""
    return asyncio.create_task(cluster.Cluster.open(kubeconfig.of_text(text, context=None), name="dev", folder=folder))


async def test_whoever_asks_is_told(silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WITHIN", (0.1, 0.1))

    with pytest.raises(Unavailable, match="the cluster dev does not answer"):
        await asyncio.wait_for(opened(silent, tmp_path), 20)


async def test_other_work_has_threads_while_many_wait(silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WITHIN", (1.0, 1.0))
    waiting = [opened(silent, tmp_path / str(number)) for number in range(24)]
    try:
        await asyncio.sleep(0)  # each has asked for its thread

        assert await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 3) == "done"
    finally:
        for one in waiting:
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one
