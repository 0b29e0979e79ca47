"""The client of one cluster, beside others of the same one."""

import asyncio
import shutil
from pathlib import Path

import pytest

from countersign.adapters.kubernetes import kubeconfig
from countersign.adapters.kubernetes.cluster import Cluster, Named
from tests.kubernetes.plane import Plane

pytestmark = pytest.mark.anyio


async def test_work_that_ends_takes_no_keys_from_other_work_on_the_same_cluster(plane: Plane, tmp_path: Path) -> None:
    config = kubeconfig.of_file(plane.kubeconfig, context=None)
    await Cluster.open(config, name="dev", folder=tmp_path / "one")
    other = await Cluster.open(config, name="dev", folder=tmp_path / "other")
    shutil.rmtree(tmp_path / "one")
    default = Named(api_version="v1", kind="Namespace", namespace=None, name="default")

    # More at once than there are connections, so that some have to show their keys.
    found = await asyncio.gather(*(other.get(default) for _ in range(12)))

    assert all(one is not None and one["metadata"]["name"] == "default" for one in found)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "other").iterdir() if path.name.startswith("client-")} == {0o600}
