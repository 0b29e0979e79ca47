"""What a worker answers about releases where its credential reaches little, or its cluster nothing."""

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from activities import reading
from activities.reading import Reading, belongs
from countersign.adapters.helm.engine import HelmEngine
from countersign.adapters.keyring import Keyring
from countersign.adapters.process import marked_processes
from countersign.adapters.settings import ClusterSettings, HelmSettings
from countersign.adapters.store.database import Store
from countersign.core.reading import Question
from tests.kubernetes.plane import Plane
from tests.kubernetes.releasing import CHARTS
from tests.tools import built

pytestmark = pytest.mark.anyio


class Asking:
    """The front's half of a question, to a worker of its own."""

    def __init__(self, folder: Path, store: Store, kubeconfig: Path) -> None:
        self.folder, self.keyring = folder, Keyring.open(folder, role="all")
        engine = HelmEngine(
            clusters=[ClusterSettings(environment="local/dev", name="dev", kubeconfig=kubeconfig)],
            helm=HelmSettings(executable=built("kube", "helm")),
            stacks_root=CHARTS,
            work_root=folder / "work",
            attempts_root=folder / "attempts",
            mac_key=self.keyring.mac_key,
            mac_kid=self.keyring.mac_kid,
            search_path="/usr/bin:/bin",
        )
        self.worker = Reading(store=store, keyring=self.keyring, engine=engine)

    async def ask(self, subject: str, **arguments: Any) -> Mapping[str, Any]:
        question = Question(id="read_one", org="local", engine="helm", sealed="")
        asked = json.dumps({"env": "local/dev", "subject": subject, "arguments": arguments}).encode()
        sealed, _ = self.keyring.seal("artifacts", asked, belongs_to=belongs(question, "question"))
        reply = await self.worker.read(question.model_copy(update={"sealed": base64.b64encode(sealed).decode()}))
        opened = self.keyring.unseal("artifacts", base64.b64decode(reply.sealed), belongs_to=belongs(question, "reply"))
        answer: dict[str, Any] = json.loads(opened)
        return answer


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'countersign.db'}")
    yield opened
    await opened.close()


async def test_a_credential_for_one_namespace_reads_there_and_says_so_elsewhere(
    plane: Plane, namespace: str, store: Store, tmp_path: Path
) -> None:
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]
    looker = Asking(tmp_path, store, plane.restricted(namespace, rules, name="looker"))
    plane.helm("install", "web", str(CHARTS / "web"), "-n", namespace, "--wait", "--timeout", "60s")

    here = await looker.ask("list_releases", namespace=namespace)
    everywhere = await looker.ask("list_releases")
    elsewhere = await looker.ask("get_release", release_name="web", namespace="default")
    got = await looker.ask("get_release", release_name="web", namespace=namespace, include=["drift"])

    assert [row["release_name"] for row in here["data"]["releases"]] == ["web"]
    assert everywhere["error"]["code"] == "failed_precondition"
    assert "may not look into all namespaces: name one" in everywhere["error"]["message"]
    assert elsewhere["error"]["code"] == "permission_denied"
    assert got["data"]["health"] == "healthy"
    drift = got["data"]["drift"]
    assert (drift["in_sync"], drift["changes"], len(drift["unchecked"])) == (False, [], 3), "what may not be asked is not called unchanged"
    assert "cannot patch" in drift["unchecked"][0]["why"]


async def test_a_cluster_that_hangs_is_told_in_time_and_leaves_nothing(
    own_plane: Plane, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 3.0)
    asking = Asking(tmp_path, store, own_plane.kubeconfig)
    assert (await asking.ask("list_releases"))["data"]["releases"] == []
    with own_plane.frozen("kube-apiserver"):
        begun = time.monotonic()
        answer = await asking.ask("list_releases")
        took = time.monotonic() - begun

    assert answer["error"]["code"] == "unavailable"
    assert took < 15
    assert not list((tmp_path / "work").glob("read_*"))
    assert not list(marked_processes("read_one"))
