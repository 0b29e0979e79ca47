"""The only place that starts processes, and the only one that ends them.

Three kinds, because three things may happen to whoever started them:

* `supervise`: reads the world (init, plan, show). It ends with us: one SIGINT, grace, then the whole group.
* `Detached`: changes the world (apply). It never depends on us: own session, output in files, a lock that is held as long as
  any of it lives, an exit code in a file. Any process of this machine can follow it, and none has to.
* `start_service`: a long-lived part of this service, for `countersign up`.

Standard output of what we start is always a file: a pipe whose reader dies kills the writer in mid-apply.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from countersign.core.errors import FailedPrecondition, Unavailable

LINE_MAX = 16 << 20  # bytes; all outputs of a stack come in one line. Longer ones are dropped, never collected
CHUNK = 1 << 16
ERRORS_KEPT = 64 << 10  # bytes of standard error, the last ones
MARKER = "COUNTERSIGN_ATTEMPT"  # in the environment of every process of an attempt, so that what escapes its group is found


class Lines:
    """Reads the whole lines of a growing file, as far as it has grown."""

    def __init__(self, path: Path, *, longest: int = LINE_MAX) -> None:
        self.path = path
        self.dropped = 0
        self._fd: int | None = None
        self._tail: list[bytes] = []
        self._size = 0
        self._longest = longest
        self._skip = False

    def new(self) -> list[bytes]:
        if self._fd is None:
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        out: list[bytes] = []
        while data := os.read(self._fd, CHUNK):
            *whole, rest = data.split(b"\n")
            for line in whole:
                if not self._skip:
                    out.append(b"".join((*self._tail, line)))
                self._tail, self._size, self._skip = [], 0, False
            if rest and not self._skip:
                self._tail.append(rest)
                self._size += len(rest)
                if self._size > self._longest:
                    self._tail, self._size, self._skip = [], 0, True
                    self.dropped += 1
        return [line for line in out if line]

    @property
    def whole(self) -> bool:
        """Whether the file ended with a line end when it was last read."""
        return self._fd is not None and not self._tail and not self._skip

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@dataclass(frozen=True, kw_only=True)
class Ended:
    code: int  # negative: the signal that ended it
    out: Path
    errors: str  # the end of standard error, in clear


async def supervise(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    folder: Path,
    name: str,
    on_lines: Callable[[list[bytes]], Awaitable[None]],
    grace: float = 30.0,
    tick: float = 0.5,
    pass_fds: Sequence[int] = (),
    read: bool = True,
) -> Ended:
    """Run to the end; output goes to `folder/name.out` and `.err`. `on_lines` gets new lines at least every `tick` seconds, maybe none.
    Without `read` it gets none: the output is one document.

    Cancelled, or where `on_lines` raises: one SIGINT to the process alone, `grace` seconds, then SIGKILL to its group; then the
    cancellation or error is raised on. What the process leaves behind in its group is killed in any case.
    """
    out, errors = folder / f"{name}.out", folder / f"{name}.err"
    handles = [os.open(p, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600) for p in (out, errors)]
    try:
        # PDEATHSIG belongs to the thread that forks, so this must be the event loop's own; no preexec_fn (it would fork Python).
        process = await asyncio.create_subprocess_exec(
            *_ending_with_us(argv, "INT"),
            cwd=cwd,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=handles[0],
            stderr=handles[1],
            start_new_session=True,
            umask=0o077,
            pass_fds=pass_fds,
        )
    except OSError as broken:
        raise Unavailable(f"{Path(argv[0]).name} cannot be started ({broken.strerror}); run `countersign doctor`") from None
    finally:
        for handle in handles:
            os.close(handle)
    lines = Lines(out)
    ended = asyncio.ensure_future(process.wait())
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=tick)
            await on_lines(lines.new() if read else [])
        await on_lines(lines.new() if read else [])
        return Ended(code=ended.result(), out=out, errors=tail_of(errors))
    except BaseException:
        await _interrupted(process, ended, grace)
        raise
    finally:
        lines.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def _interrupted(process: asyncio.subprocess.Process, ended: "asyncio.Future[int]", grace: float) -> None:
    """One SIGINT, once: a second one makes the engine give up on its state. Further cancellations only shorten nothing."""
    if not ended.done():
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
    until = time.monotonic() + grace
    while not ended.done():
        left = until - time.monotonic()
        if left <= 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            left = 5.0
            until += 3600.0
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({ended}, timeout=left)


def _ending_with_us(argv: Sequence[str], name: str) -> list[str]:
    setpriv = shutil.which("setpriv", path=os.defpath + ":/usr/bin:/bin")
    return [setpriv, "--pdeathsig", name, "--", *argv] if setpriv else list(argv)


def tail_of(path: Path, limit: int = ERRORS_KEPT) -> str:
    """The last `limit` bytes of a file as text; nothing where it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


# $0 is the folder. Every process started here inherits the lock's descriptor: lock held = something of it still lives.
# The inner shell writes its pid and becomes the command, so that the one SIGINT reaches the engine and nothing else.
_WRAPPER = (
    'trap : INT TERM HUP; echo $$ >"$0/pgid.new"; mv "$0/pgid.new" "$0/pgid"; '
    '/bin/sh -c \'echo $$ >"$0/pid.new"; mv "$0/pid.new" "$0/pid"; exec "$@"\' "$0" "$@" >>"$0/journal" 2>>"$0/errors" </dev/null; '
    'echo $? >"$0/rc.new"; mv "$0/rc.new" "$0/rc"'
)


@dataclass
class Detached:
    """One command that is started at most once and outlives whoever started it. `folder` is its own, below `marker`'s attempt.

    Files: lock (held while anything lives), started (boot id), abandoned, pgid, pid, journal, errors, rc, interrupted, killed.
    """

    folder: Path
    marker: str  # the attempt id
    _child: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    # Starting

    async def hold(self, *, wait: float = 5.0) -> "Hold | None":
        """The right to start it, or None where it was started already. Raises FailedPrecondition where it was abandoned."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        until = time.monotonic() + wait
        while True:
            fd = self._lock()
            if fd is not None:
                if self.abandoned:
                    os.close(fd)
                    raise FailedPrecondition("this attempt was given up before it started; a new run has to plan again")
                if self.started:
                    os.close(fd)
                    return None
                return Hold(self, fd)
            if self.started:
                return None
            if time.monotonic() > until:
                raise Unavailable("another process of this machine prepares this attempt; follow it")
            await asyncio.sleep(0.05)  # somebody looks whether it lives, or prepares it

    def abandon(self) -> bool:
        """Whether it is proven that nothing was started; afterwards nothing ever will be.

        Proof: the lock is free, so nobody is about to start it, and either nobody ever said `started`, or its wrapper, whose
        first act is to write its group, never ran since this machine was booted.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = self._lock()
        if fd is None:
            return False
        try:
            if self.started and ((self.folder / "pgid").exists() or self._read("started") != boot_id()):
                return False
            _write(self.folder / "abandoned", boot_id())
            return True
        finally:
            os.close(fd)

    def _lock(self) -> int | None:
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    # Watching

    @property
    def started(self) -> bool:
        return (self.folder / "started").exists()

    @property
    def abandoned(self) -> bool:
        return (self.folder / "abandoned").exists()

    def is_alive(self) -> bool:
        """Whether anything of it lives, or somebody is about to start it."""
        if not (self.folder / "lock").exists():
            return False
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def exit_code(self) -> int | None:
        """As the shell tells it (128 + signal), or None while it runs or where it died without a word."""
        self._reap()
        text = self._read("rc")
        return int(text) if text and text.isdigit() else None

    async def ended(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end; whether it ended. The end is noticed at once, not at the next look."""
        if self.exit_code() is not None or not self.is_alive():
            return True
        group = self._number("pgid")
        try:
            fd = os.pidfd_open(group) if group and self._ours(group) else None
        except (ProcessLookupError, OSError):  # gone meanwhile, or a kernel without it
            fd = None
        if fd is None:
            await asyncio.sleep(min(timeout, 0.05))
            return self.exit_code() is not None or not self.is_alive()
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, gone.set)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), timeout)
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        return self.exit_code() is not None or not self.is_alive()

    # Ending

    @property
    def interrupted_at(self) -> float | None:
        """When it was interrupted (seconds since 1970), or None."""
        text = self._read("interrupted")
        return float(text) if text else None

    @property
    def killed(self) -> bool:
        return (self.folder / "killed").exists()

    def interrupt(self, *, again: bool = False) -> bool:
        """SIGINT to the engine alone, once for all followers; whether this call sent it. `again` where it provably got lost."""
        pid = self._number("pid")
        if pid is None or not self._ours(pid):
            return False
        if not again:
            try:
                os.close(os.open(self.folder / "interrupted", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                return False
        _write(self.folder / "interrupted", str(time.time()))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        return True

    def kill(self) -> int:
        """SIGKILL to the group and to everything that carries the marker; how many processes were found outside the group."""
        _write(self.folder / "killed", str(time.time()))
        return self.sweep()

    def sweep(self) -> int:
        """Kill what the command left behind. Call it after the engine's end, or to make an end."""
        group = self._number("pgid")
        if group and (self._ours(group) or _group_marked(group, self.marker)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        escaped = marked_processes(self.marker)
        for pid in escaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self._reap()
        return len(escaped)

    def _reap(self) -> None:
        if self._child is not None:
            self._child.poll()

    def _ours(self, pid: int) -> bool:
        """Process ids are used again: only one that carries our marker is signalled."""
        return _carries(pid, self.marker)

    def _number(self, name: str) -> int | None:
        text = self._read(name)
        return int(text) if text and text.isdigit() else None

    def _read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text().strip()
        except FileNotFoundError:
            return None


class Hold:
    """The right to start a `Detached`: an exclusive lock that the started process inherits. Use it as a context."""

    def __init__(self, detached: Detached, fd: int) -> None:
        self._detached, self._fd = detached, fd

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    async def launch(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Start the command; returns when its group is known. `env` is given the marker."""
        folder = self._detached.folder
        _write(folder / "started", boot_id())
        # Not by asyncio: its transport kills the child when the loop closes, and this one must outlive the loop.
        self._detached._child = subprocess.Popen(
            ["/bin/sh", "-c", _WRAPPER, str(folder), *argv],
            cwd=cwd,
            env={**env, MARKER: self._detached.marker},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o077,
            pass_fds=(self._fd,),
        )
        until = time.monotonic() + 10
        while not (folder / "pgid").exists() and time.monotonic() < until and self._detached._child.poll() is None:
            await asyncio.sleep(0.002)


def marked_processes(marker: str) -> list[int]:
    """Every process of this machine that carries the attempt's marker, ourselves left out."""
    own = os.getpid()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()] if Path("/proc").is_dir() else []
    return [pid for pid in pids if pid != own and _carries(pid, marker)]


def _carries(pid: int, marker: str) -> bool:
    try:
        return f"{MARKER}={marker}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, another user's, or no /proc here
        return False


def _group_marked(group: int, marker: str) -> bool:
    def group_of(pid: int) -> int | None:
        try:
            return os.getpgid(pid)
        except ProcessLookupError:
            return None

    return any(group_of(pid) == group for pid in marked_processes(marker))


def boot_id() -> str:
    """Changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and on the disk before we go on."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


async def start_service(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, ends_with_us: bool = True
) -> asyncio.subprocess.Process:
    """Start a long-lived part of this service in a session of its own; its output is appended to `log` (0600).

    `ends_with_us`: it gets SIGTERM when the calling thread ends, however that happens, where `setpriv` exists.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *(_ending_with_us(argv, "TERM") if ends_with_us else argv),
            cwd=cwd,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    except OSError as broken:
        raise Unavailable(f"{Path(argv[0]).name} cannot be started ({broken.strerror}); run `countersign doctor`") from None
    finally:
        os.close(handle)


async def stop_service(process: asyncio.subprocess.Process, *, grace: float = 10.0) -> int:
    """SIGTERM, `grace` seconds, then SIGKILL to its group; its exit code."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return await process.wait()


def find_executable(name: str, search_path: str) -> Path | None:
    """`name` on `search_path` (as in PATH), or None."""
    found = shutil.which(name, path=search_path)
    return Path(found) if found else None
