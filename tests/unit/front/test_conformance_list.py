"""What the conformance level leaves out, and what it installs, is written down and pinned."""

import json
import re
from pathlib import Path

import pytest

from tests.conformance.__main__ import LEFT_OUT
from tests.conformance.node import HERE
from tests.unit.front.catalogue import ROOT

TARGETS = (ROOT / "docs" / "targets.md").read_text()


def test_at_most_five_scenarios_are_left_out() -> None:
    assert len(LEFT_OUT) <= 5


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_told_with_its_reason(name: str) -> None:
    assert re.search(rf"^\| `{name}` \| {re.escape(LEFT_OUT[name])} \|$", TARGETS, re.M)


def test_other_peoples_packages_are_pinned_and_locked_without_an_address() -> None:
    package = json.loads((HERE / "package.json").read_text())
    lock = (HERE / "package-lock.json").read_text()

    assert all(re.fullmatch(r"\d+\.\d+\.\d+(-[a-z0-9.]+)?", version) for version in package["dependencies"].values())
    assert json.loads(lock)["packages"][""]["dependencies"] == package["dependencies"]
    assert "://" not in lock
    assert "omit-lockfile-registry-resolved=true" in (Path(HERE) / ".npmrc").read_text().splitlines()
    assert all("integrity" in entry for name, entry in json.loads(lock)["packages"].items() if name)
