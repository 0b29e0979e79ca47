"""`tools/python.sh`: which Python an environment is made with."""

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _chosen(folder: Path, on_path: str) -> str:
    """What is printed where `python3` on PATH says that it is of this version."""
    stub = folder / "python3"
    stub.write_text(f"#!/bin/sh\necho {on_path}\n")
    stub.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    told = subprocess.run([REPOSITORY / "tools/python.sh"], env={"PATH": path}, capture_output=True, text=True, check=True, timeout=30)
    return told.stdout.strip()


@pytest.mark.parametrize("other", ["3.99", "4.0"])
def test_a_python_on_path_of_another_version_counts_more_than_the_system_s(tmp_path: Path, other: str) -> None:
    assert _chosen(tmp_path, other) == "python3"


def test_one_that_is_too_old_or_says_nothing_leaves_it_to_the_system_s_where_that_will_do(tmp_path: Path) -> None:
    fit = ["/usr/bin/python3", "-c", "import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))"]
    will_do = Path(fit[0]).exists() and subprocess.run(fit, capture_output=True, check=False, timeout=30).returncode == 0
    assert _chosen(tmp_path, "2.7") == ("/usr/bin/python3" if will_do else "python3")
