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
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from countersign.core.errors import FailedPrecondition, Unavailable

LINE_MAX = 16 << 20  # bytes; all outputs of a stack come in one line. Longer ones are dropped, never collected
CHUNK = 1 << 16
BATCH = 1 << 20  # bytes read before the reader gets to do something else: a heartbeat is due every few seconds
ERRORS_KEPT = 64 << 10  # bytes of standard error, the last ones
PROC = Path("/proc")  # elsewhere than on Linux there is none, and what leaves its group is not found
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

    def batches(self) -> Iterator[list[bytes]]:
        """All that is new, in pieces of about BATCH bytes; ends where the file ends for now."""
        if self._fd is None:
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
        out: list[bytes] = []
        size = 0
        while data := os.read(self._fd, CHUNK):
            out += self._whole_lines(data)
            size += len(data)
            if size >= BATCH:
                yield out
                out, size = [], 0
        if out:
            yield out

    def new(self) -> list[bytes]:
        """All that is new at once: for files that are known to be small."""
        return [line for batch in self.batches() for line in batch]

    def _whole_lines(self, data: bytes) -> Iterator[bytes]:
        *whole, rest = data.split(b"\n")
        for line in whole:
            if not self._skip and (complete := b"".join((*self._tail, line))):
                yield complete
            self._tail, self._size, self._skip = [], 0, False
        if rest and not self._skip:
            self._tail.append(rest)
            self._size += len(rest)
            if self._size > self._longest:
                self._tail, self._size, self._skip = [], 0, True
                self.dropped += 1

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
    cancellation or error is raised on. What the process leaves behind in its group is killed in any case; what left the group
    as well is found by `end_marked`, which is the caller's to call once for all commands of an attempt.
    """
    ending_with_us = _ending_with_us(argv, "INT", env)
    out, errors = folder / f"{name}.out", folder / f"{name}.err"
    handles = [os.open(p, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600) for p in (out, errors)]
    try:
        # PDEATHSIG belongs to the thread that forks, so this must be the event loop's own; no preexec_fn (it would fork Python).
        process = await asyncio.create_subprocess_exec(
            *ending_with_us,
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
        while True:
            over = ended.done()  # asked before reading: what was written before the end is read after it
            told = False
            for batch in lines.batches() if read else ():
                await on_lines(batch)
                told = True
            if not told:
                await on_lines([])
            if over:
                return Ended(code=ended.result(), out=out, errors=tail_of(errors))
            await asyncio.wait({ended}, timeout=tick)
    except BaseException:
        await _interrupted(process, ended, grace)
        raise
    finally:
        lines.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


async def _interrupted(process: asyncio.subprocess.Process, ended: "asyncio.Future[int]", grace: float) -> None:
    """One SIGINT, once: a second one makes the engine give up on its state. Further cancellations do not shorten the grace."""
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


def _ending_with_us(argv: Sequence[str], name: str, env: Mapping[str, str]) -> list[str]:
    """`argv`, to be told by the signal `name` when we are gone, where setpriv exists. Raises Unavailable where the command does not."""
    if shutil.which(argv[0], path=env.get("PATH", os.defpath)) is None:
        raise Unavailable(f"{Path(argv[0]).name} cannot be started (no such executable); run `countersign doctor`")
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
# Where the group cannot be written nothing is started: without it nobody could tell later that something was.
# `synced` comes before the exit code, so that after a power cut an exit code never vouches for a journal that was lost.
_WRAPPER = """
trap : INT TERM HUP
echo $$ >"$0/pgid" || exit 1
[ -s "$0/pgid" ] || exit 1
/bin/sh -c 'echo $$ >"$0/pid" || exit 126; unset PWD OLDPWD SHLVL; exec "$@"' "$0" "$@" >>"$0/journal" 2>>"$0/errors" </dev/null
code=$?
sync "$0/journal" "$0/errors" 2>/dev/null && : >"$0/synced"
echo $code >"$0/rc"
"""
_NUMBER = re.compile(r"(\d+)\n")
_children: "list[subprocess.Popen[bytes]]" = []  # wrappers this process started: nobody else can reap them
ROUNDS = 20  # looks for processes of an attempt, as long as each finds new ones


@dataclass(frozen=True)
class Detached:
    """One command that is started at most once and outlives whoever started it. `folder` is its own, below `marker`'s attempt.

    Files: lock (held while anything lives), started (boot id), abandoned, pgid, pid, journal, errors, synced, rc, interrupted,
    sent, resent, killed.
    """

    folder: Path  # absolute
    marker: str  # the attempt id

    # Starting

    async def hold(self, *, wait: float = 5.0) -> "Hold | None":
        """The right to start it, or None where it was started already. Raises FailedPrecondition where it was abandoned."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = await self._lock_within(wait, unless=lambda: self.started)
        if fd is None:
            if self.started:
                return None
            raise Unavailable("another process of this machine prepares this attempt; follow it")
        if self.abandoned:
            os.close(fd)
            raise FailedPrecondition("this attempt was given up before it started; a new run has to plan again")
        if self.started:
            os.close(fd)
            return None
        return Hold(self, fd)

    async def abandon(self, *, wait: float = 0.5) -> bool:
        """Whether it is proven that nothing was started; afterwards nothing ever will be.

        Proof: the lock is free, so nobody is about to start it, and either nobody ever said `started`, or its wrapper, whose
        first act is to write its group, never ran since this machine was booted.
        """
        if self.begun:
            return False
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = await self._lock_within(wait, unless=lambda: self.begun)
        if fd is None:
            return False
        try:
            if self.begun:
                return False
            _write(self.folder / "abandoned", boot_id())
            return True
        finally:
            os.close(fd)

    async def _lock_within(self, wait: float, *, unless: Callable[[], bool]) -> int | None:
        """The lock's descriptor, or None: it was not free for `wait` seconds, or `unless` says that there is no need."""
        until = time.monotonic() + wait
        while (fd := self._lock()) is None and not unless() and time.monotonic() < until:  # noqa: ASYNC110 - another process's lock
            await asyncio.sleep(0.05)  # somebody prepares it, or only looks whether it lives
        return fd

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
        """Whether somebody was about to start it."""
        return (self.folder / "started").exists()

    @property
    def begun(self) -> bool:
        """Whether the command may have run. False is a proof only for who holds the lock."""
        return self.started and (bool(self._read("pgid")) or not self._same_boot())

    @property
    def abandoned(self) -> bool:
        return (self.folder / "abandoned").exists()

    @property
    def output_kept(self) -> bool:
        """Whether what was written is all there: the machine ran on since the start, or it was on the disk at the end."""
        return self._same_boot() or (self.folder / "synced").exists()

    def is_alive(self) -> bool:
        """Whether anything of it lives, or somebody is about to start it."""
        try:
            fd = os.open(self.folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def exit_code(self) -> int | None:
        """As the shell tells it (128 + signal), or None while it runs or where it died without a word."""
        _reap()
        return self._number("rc")

    async def ended(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end; whether it ended. The end is noticed at once, not at the next look."""
        until = time.monotonic() + timeout
        while self.exit_code() is None and self.is_alive():
            left = until - time.monotonic()
            if left <= 0:
                return False
            await self._wrapper_gone(left)
        return True

    async def _wrapper_gone(self, timeout: float) -> None:
        """Wait for the wrapper's end; where there is none to be seen, the others are looked at again soon."""
        group = self._number("pgid")
        fd = None
        if group and self._ours(group):
            with contextlib.suppress(OSError, AttributeError):  # gone meanwhile, or a system without it
                fd = os.pidfd_open(group)
        if fd is None:
            await asyncio.sleep(min(timeout, 0.05))
            return
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(fd, gone.set)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), timeout)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    # Ending

    @property
    def interrupted_at(self) -> float | None:
        """When it was (last) interrupted, in seconds since 1970, or None."""
        times = [float(text) for name in ("interrupted", "resent") if (text := self._read(name))]
        return max(times, default=None)

    @property
    def killed(self) -> bool:
        return (self.folder / "killed").exists()

    @property
    def interrupt_sent(self) -> bool:
        """Whether the signal left for certain; not so where whoever sent it died between saying so and doing it."""
        return (self.folder / "sent").exists()

    def interrupt(self, *, again: bool = False) -> bool:
        """SIGINT to the engine alone, once for all followers; whether this call sent it.

        `again` is for a signal that provably got lost, and works once as well: a second one that arrives costs the state.
        """
        pid = self._number("pid")
        if pid is None or not self._ours(pid):
            return False
        if not _write_once(self.folder / ("resent" if again else "interrupted"), str(time.time())):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        _write(self.folder / "sent", "")
        return True

    def kill(self) -> int:
        """SIGKILL to the group and to everything that carries the marker; how many processes that were."""
        _write(self.folder / "killed", str(time.time()))
        return self.sweep()

    def sweep(self) -> int:
        """Kill what the command left behind, and tell how many that were. Call it after the engine's end, or to make an end."""
        group = self._number("pgid")
        left = set(marked_processes(self.marker))
        if group and (self._ours(group) or any(_group_of(pid) == group for pid in left)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        return len((left | end_marked(self.marker)) - {group})  # the group's leader is our own wrapper

    def _same_boot(self) -> bool:
        return boot_id() == self._read("started") != UNKNOWN_BOOT

    def _ours(self, pid: int) -> bool:
        """Process ids are used again: only one that carries our marker is signalled, or where none can be seen, one of our group."""
        return _carries(pid, self.marker) if PROC.is_dir() else _group_of(pid) == self._number("pgid")

    def _number(self, name: str) -> int | None:
        """What the wrapper wrote, or None where it has not, or not to the end."""
        found = _NUMBER.fullmatch(self._read(name) or "")
        return int(found.group(1)) if found else None

    def _read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError:
            return None


class Hold:
    """The right to start a `Detached`: an exclusive lock that the started process inherits. Use it as a context."""

    def __init__(self, detached: Detached, fd: int) -> None:
        self._detached = detached
        self.fd = fd  # pass it to what prepares the start as well: then the right is taken as long as that lives

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    async def launch(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Start the command; returns when its group is known. `env` is given the marker."""
        folder = self._detached.folder
        _write(folder / "started", boot_id())
        try:
            # Not by asyncio: its transport kills the child when the loop closes, and this one must outlive the loop.
            child = subprocess.Popen(  # noqa: ASYNC220 - it returns as soon as the wrapper is forked
                ["/bin/sh", "-c", _WRAPPER, str(folder), *argv],
                cwd=cwd,
                env={**env, MARKER: self._detached.marker},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                umask=0o077,
                pass_fds=(self.fd,),
            )
        except OSError as broken:
            raise Unavailable(f"nothing can be started on this machine ({broken.strerror}); run `countersign doctor`") from None
        _children.append(child)
        until = time.monotonic() + 10
        while not self._detached.begun and time.monotonic() < until and child.poll() is None:  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.002)


def _reap() -> None:
    """Let wrappers of ours that ended go: a process that is never waited for stays in the table."""
    _children[:] = [child for child in _children if child.poll() is None]


def end_marked(marker: str) -> set[int]:
    """SIGKILL everything that carries the attempt's marker; which processes that were."""
    ended: set[int] = set()
    for _ in range(ROUNDS):
        new = set(marked_processes(marker)) - ended
        if not new:
            break
        for pid in new:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= new
    _reap()
    return ended


def marked_processes(marker: str) -> list[int]:
    """Every process of this machine that carries the attempt's marker, ourselves left out."""
    own = os.getpid()
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()] if PROC.is_dir() else []
    return [pid for pid in pids if pid != own and _carries(pid, marker)]


def _carries(pid: int, marker: str) -> bool:
    try:
        return f"{MARKER}={marker}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, another user's, or no /proc here
        return False


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


UNKNOWN_BOOT = "unknown"


def boot_id() -> str:
    """Changes with every start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return UNKNOWN_BOOT


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
    _sync_folder(path.parent)


def _write_once(path: Path, text: str) -> bool:
    """The same, unless somebody did before; whether it was us."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    _write(temporary, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
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
            *(_ending_with_us(argv, "TERM", env) if ends_with_us else argv),
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
