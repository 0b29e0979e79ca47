"""The one wheel, built offline and installed elsewhere: the command runs from there, and brings all it reads along."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEMO = "countersign/cli/stacks/demo/"  # where the wheel has what the checkout has in infra/stacks/demo
PACKAGES = {"countersign", "activities", "workflows", "mcp_front"}
# Scripts of dependencies, such as the Temporal server, are on PATH; the checkout is nowhere.
SEES = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": "/nonexistent", "LANG": "C.UTF-8"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder far from the checkout, with an environment that has the wheel, and from here only what it depends on."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = folder / "env"
    venv.create(environment, with_pip=False, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # A folder named in a .pth is searched, but the .pth files in it are not read: our own editable install stays unseen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    done = subprocess.run([*install, "--no-deps", "--no-index", "--ignore-installed", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(folder: Path, program: str, *arguments: str) -> str:
    command = [str(folder / "env" / "bin" / program), *arguments]
    done = subprocess.run(command, cwd=folder, env=SEES, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_brings_what_pages_are_drawn_from(names: set[str]) -> None:
    pages = ROOT / "mcp_front" / "pages"
    drawn = {f"mcp_front/pages/{path.relative_to(pages)}" for kind in ("templates", "static") for path in (pages / kind).iterdir()}

    assert len(drawn) > 10
    assert drawn <= names


def test_it_has_the_four_packages_and_nothing_beside_them(names: set[str]) -> None:
    folders = {name.split("/")[0] for name in names}

    assert {folder for folder in folders if not folder.endswith(".dist-info")} == PACKAGES
    assert not [name for name in names if "/tests/" in name or "test_" in name or name.endswith(".pyc")]


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.splitlines() if (ROOT / name).exists()}


def test_it_has_everything_that_lies_in_the_packages(names: set[str]) -> None:
    assert tracked(*PACKAGES) - names == set()


def test_it_has_the_stack_of_the_demo_and_nothing_that_an_engine_left_there(names: set[str]) -> None:
    shipped = {name.removeprefix(DEMO) for name in names if name.startswith(DEMO)}

    assert shipped == {name.removeprefix("infra/stacks/demo/") for name in tracked("infra/stacks/demo")}


def test_it_says_that_it_is_typed_and_under_which_licence(names: set[str], wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
        licence = archive.read(next(name for name in names if name.endswith(".dist-info/licenses/LICENSE"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_command_runs_from_where_it_was_installed(elsewhere: Path) -> None:
    where = run(
        elsewhere, "python", "-c", "import countersign, activities, workflows, mcp_front as m; print(countersign.__file__, m.__file__)"
    )

    assert all(Path(file).is_relative_to(elsewhere) for file in where.split())
    assert "up" in run(elsewhere, "countersign", "--help")


def test_a_store_is_made_from_the_migrations_it_brings(elsewhere: Path) -> None:
    make = (
        "import asyncio, sys; from countersign.adapters.store.database import Store\n"
        "async def make():\n"
        "    store = await Store.open('sqlite+aiosqlite:///' + sys.argv[1])\n"
        "    await store.close()\n"
        "asyncio.run(make())\n"
    )
    run(elsewhere, "python", "-c", make, str(elsewhere / "store.db"))

    assert (elsewhere / "store.db").stat().st_size > 0


def test_the_demo_runs_from_where_it_was_installed(elsewhere: Path) -> None:
    told = json.loads(run(elsewhere, "countersign", "demo", "--yes", "--json", "--data", str(elsewhere / "d")))

    assert told["ok"] is True
    assert told["processes_left"] == 0
