"""Let the checkout's `.venv` hold what a task needs: `python tools/venv.py run | dev`.

`run` is what the service needs, with the bundled Terraform only where this machine has no engine of its own; `dev` adds what
checks and tests need. Installs from the hash-pinned locks, once per lock: a stamp remembers what it installed.
Runs before anything is there, so it knows only the standard library, and starts on older Pythons to say what is wrong.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.json"
NEEDED = (3, 11)
FROM_SOURCE = "python-terraform"  # there is no wheel of it
# What else holds everything that is in a lock.
HELD_BY = {"base": ("base", "embedded", "dev"), "embedded": ("embedded", "dev"), "dev": ("dev",)}


def main(task):
    check_python()
    lock = {"run": "base" if has_engine() else "embedded", "dev": "dev"}[task]
    stamps = read_stamps()
    if usable() and any(stamps.get(name) == fingerprint(name) for name in HELD_BY[lock]):
        return
    if not usable():
        print(f"making .venv with Python {sys.version.split()[0]}", flush=True)
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
        stamps = {}
    print(f"installing requirements/{lock}.txt (once, until it changes)", flush=True)
    # Without isolation nothing is built with what is not pinned, and only what is named here is built at all.
    pip("install", "--require-hashes", "--only-binary", ":all:", "-r", "requirements/build.txt")
    only_binary = ("--only-binary", ":all:", "--no-binary", FROM_SOURCE, "--use-pep517", "--no-build-isolation")
    if bundled_pip() < (23, 1):
        only_binary += ("--use-feature", "no-binary-enable-wheel-cache")  # what was built once is taken again, as later ones do
    pip("install", "--require-hashes", *only_binary, "-r", f"requirements/{lock}.txt")
    pip("install", "--no-deps", "--no-build-isolation", "-e", ".")
    stamps[lock] = fingerprint(lock)
    STAMP.write_text(json.dumps(stamps))


def check_python():
    if sys.version_info < NEEDED:
        found = f"{sys.executable} is {sys.version.split()[0]}"
        sys.exit(f"Countersign needs Python 3.11 or newer, and {found}. Name another one: make PYTHON=python3.12 ...")
    try:
        import ensurepip  # noqa: F401  # Debian ships it apart
        import venv  # noqa: F401
    except ImportError:
        sys.exit(
            f"{sys.executable} cannot make virtual environments: its module ensurepip or venv is missing. "
            "On Debian and Ubuntu install it with: apt-get install python3-venv"
        )


def bundled_pip():
    """Version of the pip that a new environment gets."""
    import ensurepip

    return tuple(int(part) for part in ensurepip.version().split(".")[:2])


def has_engine():
    """Whether this machine has a Terraform or OpenTofu that Countersign would find: on PATH, or named in the settings."""
    if shutil.which("terraform") or shutil.which("tofu"):
        return True
    if os.environ.get("COUNTERSIGN_TERRAFORM__EXECUTABLE") or os.environ.get("COUNTERSIGN_TERRAFORM__TOFU_EXECUTABLE"):
        return True
    share = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    data = Path(os.environ.get("COUNTERSIGN_DATA") or share + "/countersign").expanduser()
    try:
        import tomllib

        settings = tomllib.loads((data / "countersign.toml").read_text(encoding="utf-8")).get("terraform", {})
    except (OSError, ValueError):
        return False
    return bool(settings.get("executable") or settings.get("tofu_executable"))


def usable():
    """Whether `.venv` is there, of this Python's version, and not moved here from elsewhere."""
    python = VENV / "bin" / "python"
    if not python.exists():
        return False
    made_for = dict(line.split(" = ", 1) for line in (VENV / "pyvenv.cfg").read_text().splitlines() if " = " in line)
    if made_for.get("version", "").split(".")[:2] != [str(part) for part in sys.version_info[:2]]:
        return False
    script = VENV / "bin" / "pip"
    return script.exists() and str(VENV) in script.read_text().splitlines()[0]


def fingerprint(lock):
    """Of everything an install depends on: the lock, and what pyproject.toml says of the package itself."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    about = {"build": project["build-system"], "project": project["project"], "hatch": project["tool"]["hatch"]}
    locks = [(ROOT / "requirements" / f"{name}.txt").read_bytes() for name in ("build", lock)]
    return hashlib.sha256(b"".join([json.dumps(about, sort_keys=True).encode(), *locks])).hexdigest()


def read_stamps():
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def pip(*arguments):
    run(str(VENV / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(*command):
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL).returncode:
        sys.exit("could not: " + " ".join(command))


if __name__ == "__main__":
    main(sys.argv[1])
