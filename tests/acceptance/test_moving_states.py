"""A stack that somebody ran by hand comes to Countersign, goes on there, back to an earlier state, and away again."""

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.installed import Installed
from tests.requirements import requirement

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
