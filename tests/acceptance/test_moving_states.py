"""A stack that somebody ran by hand comes to Countersign, goes on there, back to an earlier state, and away again."""

import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installed import Installed, tidied
from tests.integration.moved_states import backend, conn_str
from tests.postgres import PASSWORD, Cluster, cluster, postgres_url
from tests.requirements import requirement

__all__ = ["cluster", "postgres_url"]

pytestmark = pytest.mark.anyio

THINGS = 'variable "size" { default = 1 }\nresource "terraform_data" "one" { input = var.size }\n'
LATER = 'resource "terraform_data" "two" {}\n'
GCS = 'terraform {\n  backend "gcs" {\n    bucket = "state"\n  }\n}\n'


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Installed]:
    (tmp_path / "stacks" / "shop").mkdir(parents=True)
    made = Installed(data=tmp_path / "data", stacks=tmp_path / "stacks")
    made.start()
    try:
        await made.ready()
        yield made
    finally:
        made.stop()


def applied_by_hand(folder: Path) -> Path:
    folder.mkdir()
    (folder / "main.tf").write_text(THINGS)
    for command in (["init", "-input=false"], ["apply", "-auto-approve", "-input=false"]):
        subprocess.run(["terraform", *command], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def told(it: Installed, *arguments: str, code: int | None = 0) -> dict[str, Any]:
    return dict(json.loads(it.cli(*arguments, "--json", code=code).strip().splitlines()[-1]))


def agreed(it: Installed, *arguments: str) -> dict[str, Any]:
    """A run that waits for a person, countersigned and followed to its end."""
    waiting = told(it, *arguments, code=3)["run"]
    it.cli("approve", waiting["run_id"], "--digest", waiting["plan_digest"])
    return waiting | dict(told(it, "show", waiting["run_id"])["run"])


@requirement("state:adopted", "state:restored", "state:released")
async def test_a_stack_run_by_hand_is_adopted_applied_restored_and_released(it: Installed, tmp_path: Path) -> None:
    by_hand = applied_by_hand(tmp_path / "by-hand")
    source, first = it.stacks / "shop" / "main.tf", json.loads((by_hand / "terraform.tfstate").read_bytes())
    source.write_text(GCS + THINGS)
    it.cli("stack", "register", "dev/shop", "--source", "shop")

    refused = it.cli("plan", "dev/shop", code=None)
    assert 'backend "gcs" keeps the state elsewhere' in refused
    it.cli("stack", "adopt", "dev/shop", "--from", str(by_hand / "terraform.tfstate"))
    assert told(it, "plan", "dev/shop")["plan"]["changes"]["total"] == 0

    source.write_text(GCS + THINGS + LATER)
    assert agreed(it, "apply", "dev/shop")["state"] == "applied"
    restored = agreed(it, "stack", "restore", "dev/shop", "--serial", str(first["serial"]))
    assert (restored["state"], restored["change_class"]) == ("applied", "forget")
    now = json.loads(it.cli("state", "pull", "dev/shop"))
    assert (now["resources"], now["lineage"], now["serial"] > first["serial"]) == (first["resources"], first["lineage"], True)

    it.cli("stack", "release", "dev/shop", "--to", str(tmp_path / "given.tfstate"), "--confirm", "local/dev/shop")
    assert json.loads((tmp_path / "given.tfstate").read_bytes()) == now
    assert "countersign stack adopt dev/shop" in told(it, "apply", "dev/shop", code=None)["error"]["message"]
    it.cli("stack", "adopt", "dev/shop", "--from", str(tmp_path / "given.tfstate"))
    assert told(it, "plan", "dev/shop")["plan"]["changes"]["total"] == 1


@requirement("state:kept", "state:kept-told")
async def test_a_stack_whose_state_stays_in_its_postgres_is_planned_applied_and_destroyed_there(
    it: Installed, tmp_path: Path, cluster: Cluster, postgres_url: str
) -> None:
    conn, source = conn_str(cluster, postgres_url), it.stacks / "shop" / "main.tf"
    source.write_text(backend("pg", schema_name="shop") + THINGS)
    folder = tmp_path / "by-hand"
    folder.mkdir()
    (folder / "main.tf").write_text(source.read_text())

    def by_hand(*words: str) -> str:
        given = {**os.environ, "PG_CONN_STR": conn}
        return subprocess.run(["terraform", *words], cwd=folder, env=given, check=True, capture_output=True, text=True, timeout=60).stdout

    by_hand("init", "-input=false")
    by_hand("apply", "-auto-approve", "-input=false")
    it.cli("secret", "set", "state", stdin=json.dumps({"PG_CONN_STR": conn}))
    it.cli("stack", "register", "dev/shop", "--source", "shop", "--plan-credential", "state", "--apply-credential", "state")
    it.cli("stack", "keep", "dev/shop", "--confirm", "local/dev/shop")

    assert told(it, "plan", "dev/shop")["plan"]["changes"]["total"] == 0
    source.write_text(source.read_text() + LATER)
    waiting = told(it, "apply", "dev/shop", code=3)["run"]
    shown = it.cli("show", waiting["run_id"])
    assert "The state stays in the backend pg that the configuration declares" in " ".join(shown.split())
    by_hand("apply", "-auto-approve", "-input=false", "-var=size=2")  # somebody else goes on meanwhile
    again = told(it, "approve", waiting["run_id"], "--digest", waiting["plan_digest"], code=3)["run"]
    assert (again["state"], again["plan_digest"] != waiting["plan_digest"]) == ("awaiting_approval", True)
    assert "input: 2 → 1" in it.cli("show", waiting["run_id"])
    it.cli("approve", waiting["run_id"], "--digest", again["plan_digest"])
    assert [r["name"] for r in json.loads(by_hand("state", "pull"))["resources"]] == ["one", "two"]
    assert json.loads(it.cli("state", "pull", "dev/shop")) == json.loads(by_hand("state", "pull"))
    destroying = told(it, "destroy", "dev/shop", code=3)["run"]
    named = ["--digest", destroying["plan_digest"], "--name", "local/dev/shop"]
    it.cli("approve", destroying["run_id"], *named)
    assert json.loads(by_hand("state", "pull"))["resources"] == []
    await tidied(it.data)
    left = [path for path in it.data.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert left == []
