"""The ground `countersign up` stands on: a private data folder, nobody else on it, free ports, nothing left of an earlier start.

Whatever is wrong is said before anything is started, with the setting that changes it.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from countersign.adapters.process import MARKER
from countersign.adapters.settings import Settings
from countersign.cli.session import LOOPBACK
from countersign.core.errors import FailedPrecondition, Unavailable

ENDING = 20.0  # seconds for the parts of an `up` that was killed; a worker takes its time to interrupt a plan
LOCK, NOTE = "up.lock", "up.json"


def prepare_folder(data: Path) -> None:
    """The data folder, ours alone. Raises FailedPrecondition saying what to do."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        stat = data.stat()
    except OSError as broken:
        raise FailedPrecondition(
            f"the data folder {data} cannot be made ({broken.strerror}); name another with --data or COUNTERSIGN_DATA"
        ) from None
    if stat.st_uid != os.getuid():
        raise FailedPrecondition(f"the data folder {data} belongs to another user; name another with --data or COUNTERSIGN_DATA")
    if stat.st_mode & 0o077:
        data.chmod(0o700)  # it holds keys and states
    if not os.access(data, os.W_OK | os.X_OK):
        raise FailedPrecondition(f"nothing can be written to the data folder {data}; correct its permissions, or name another with --data")


@dataclass(frozen=True, kw_only=True)
class Port:
    number: int
    host: str
    what: str
    setting: str

    @property
    def variable(self) -> str:
        return f"COUNTERSIGN_{self.setting.upper()}"


def ports_of(settings: Settings) -> list[Port]:
    """Every port `up` listens on."""
    ports = [
        Port(number=settings.front_port, host=settings.host, what="the front", setting="front_port"),
        Port(number=settings.state_port, host=settings.host, what="the state API", setting="state_port"),
    ]
    if settings.worker_port is not None:
        ports.append(Port(number=settings.worker_port, host=settings.host, what="the worker's probes", setting="worker_port"))
    if settings.embedded_temporal:
        ports += [
            Port(number=settings.temporal_port, host=LOOPBACK, what="Temporal", setting="temporal_port"),
            Port(number=settings.temporal_ui_port, host=LOOPBACK, what="the Temporal UI", setting="temporal_ui_port"),
        ]
    return ports


def taken(port: Port) -> str | None:
    """Why nobody can listen there, or None."""
    with socket.socket(socket.AF_INET6 if ":" in port.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
        except OSError as refused:
            return refused.strerror or str(refused)
    return None


def check_ports(settings: Settings) -> None:
    """Raises FailedPrecondition naming the port, what it is for and the setting."""
    seen: dict[int, Port] = {}
    for port in ports_of(settings):
        if (other := seen.get(port.number)) is not None:
            raise FailedPrecondition(f"{other.what} and {port.what} are both set to port {port.number}; change {port.variable}")
        seen[port.number] = port
        if why := taken(port):
            raise FailedPrecondition(
                f"port {port.number} for {port.what} is not free on {port.host} ({why}); end what listens there, or set "
                f"{port.variable} ({port.setting} in countersign.toml) to another port"
            )


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]


@dataclass
class Ground:
    """One data folder, held by one `up`. Use it as a context."""

    data: Path
    _fd: int = field(default=-1, repr=False)

    def __enter__(self) -> "Ground":
        fd = os.open(self.data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise FailedPrecondition(
                f"another `countersign up` uses {self.data}{self._who()}; stop it first, or name another with --data"
            ) from None
        self._fd = fd
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _who(self) -> str:
        note = self.note()
        where = f", front {note['front']}" if isinstance(note.get("front"), str) else ""
        return f" (process {note['pid']}{where})" if isinstance(note.get("pid"), int) else ""

    def note(self) -> dict[str, Any]:
        """What the last `up` said about itself."""
        try:
            note = json.loads((self.data / NOTE).read_bytes())
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def write(self, front: str, children: Mapping[str, int]) -> None:
        """Say who runs here, so that a second `up` can name it and the next one can wait for what this one leaves behind."""
        body = {
            "pid": os.getpid(),
            "front": front,
            "children": [{"name": name, "pid": pid, "since": born(pid)} for name, pid in children.items()],
        }
        new = self.data / f"{NOTE}.new"
        new.write_text(json.dumps(body))
        new.chmod(0o600)
        new.replace(self.data / NOTE)

    def clear(self) -> None:
        (self.data / NOTE).unlink(missing_ok=True)

    async def end_leftovers(self) -> Sequence[str]:
        """Wait for the parts of an earlier `up` that was killed, and end them where they do not; which there were.

        They end with their supervisor by themselves where the kernel can tell them (setpriv). Raises Unavailable.
        """
        found = [
            (str(c.get("name")), int(c["pid"]), c.get("since")) for c in self.note().get("children", ()) if isinstance(c.get("pid"), int)
        ]
        left = [(name, pid, since) for name, pid, since in found if since is not None and born(pid) == since]
        names = [name for name, _, _ in left]
        for number, patience in ((signal.SIGTERM, ENDING), (signal.SIGKILL, 5.0)):
            for _, pid, _ in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            until = time.monotonic() + patience
            # Other processes tell no event.
            while (left := [(n, p, s) for n, p, s in left if born(p) == s]) and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            if not left:
                return names
        raise Unavailable(
            f"parts of an earlier `up` do not end: {', '.join(f'{name} (process {pid})' for name, pid, _ in left)}; end them by hand"
        )


def held(data: Path) -> bool:
    """Whether an `up` uses this folder now; changes nothing."""
    try:
        fd = os.open(data / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def born(pid: int) -> int | None:
    """When the process started, in ticks since boot: ids are used again. None where it is gone, a zombie, or there is no /proc."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state == "Z" else int(fields[18])


def processes_of(data: Path) -> list[tuple[int, str]]:
    """(id, command line) of every process of this user that serves a data folder: a part that was told of it, or an attempt in it.

    Who started us may know the folder too and is none of it, and neither is an editor that has one of its files open.
    """
    part, attempt, place = f"COUNTERSIGN_DATA={data}".encode(), f"{MARKER}=".encode(), str(data).encode()
    ours = _ancestors()
    found: list[tuple[int, str]] = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) in ours:
            continue
        try:
            words, env = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes().split(b"\0")
            here = place in words or (entry / "cwd").readlink().is_relative_to(data)
            serves = part in env or (here and any(variable.startswith(attempt) for variable in env))
        except OSError:  # gone, or another user's
            continue
        if serves and born(int(entry.name)) is not None:
            found.append((int(entry.name), words.replace(b"\0", b" ").decode(errors="replace").strip()))
    return found


def _ancestors() -> set[int]:
    """This process, and all it descends from."""
    found, pid = set(), os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
    return found
