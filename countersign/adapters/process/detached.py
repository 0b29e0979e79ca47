"""What changes the world: one command that is started at most once, depends on nobody, and can be followed by anybody."""

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from countersign.adapters.process.ending import ending
from countersign.adapters.process.files import content, write, write_once
from countersign.adapters.process.machine import UNKNOWN_BOOT, boot_id
from countersign.adapters.process.marked import (
    MARKER,
    NOBODY,
    Present,
    can_be_seen,
    carries,
    children,
    end_marked,
    group_of,
    marked_processes,
    present,
    reap,
)
from countersign.core.errors import FailedPrecondition, Unavailable

# $0 is the folder. Every process started here inherits the lock's descriptor: lock held = something of it still lives.
# The inner shell writes its pid and becomes the command, so that the one SIGINT reaches the engine and nothing else. It is a fork
# of the outer one where it can be told its own pid (`$$` stays that of the outer one), as on Linux; else it is a new one.
# Where the group cannot be written nothing is started: without it nobody could tell later that something was.
# Output is synced before the exit code is written, which says whether it was: after a power cut it never vouches for a lost journal.
_WRAPPER = """
trap : INT TERM HUP
echo $$ >"$0/pgid" || exit 1
[ -s "$0/pgid" ] || exit 1
(
{ read -r cs_pid cs_rest </proc/self/stat; } 2>/dev/null ||
exec /bin/sh -c 'echo $$ >"$0/pid" || exit 126; unset PWD OLDPWD SHLVL; exec "$@"' "$0" "$@"
echo "$cs_pid" >"$0/pid" || exit 126
unset PWD OLDPWD SHLVL
exec "$@"
) >>"$0/journal" 2>>"$0/errors" </dev/null
code=$?
sync "$0/journal" "$0/errors" 2>/dev/null && code="$code synced"
echo "$code" >"$0/rc"
"""
_before: dict[str, Present] = {}  # by marker: the processes there were when it was about to be started here, which cannot be of it
_NUMBER = re.compile(r"(\d+)\n")
_ENDED = re.compile(r"(\d+)( synced)?\n")


@dataclass(frozen=True)
class Detached:
    """One command that is started at most once and outlives whoever started it. `folder` is its own, below `marker`'s attempt.

    Files: lock (held while anything lives), started (boot id), abandoned, pgid, pid, journal, errors, rc, interrupted, sent, resent,
    killed; synced of an earlier version.
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
            write(self.folder / "abandoned", boot_id())
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
        if self._same_boot():
            return True
        ended = self._ended()
        return bool(ended and ended.group(2)) or (self.folder / "synced").exists()

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
        reap()
        ended = self._ended()
        return int(ended.group(1)) if ended else None

    def process(self) -> int | None:
        """The command's own process id, as soon as there is one."""
        return self._number("pid")

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
        with ending(group) if group and self._ours(group) else contextlib.nullcontext() as gone:
            if gone is None:
                await asyncio.sleep(min(timeout, 0.05))
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), timeout)

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
        if not write_once(self.folder / ("resent" if again else "interrupted"), str(time.time())):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        write(self.folder / "sent", "")
        return True

    def kill(self) -> int:
        """SIGKILL to the group and to everything that carries the marker; how many processes that were."""
        write(self.folder / "killed", str(time.time()))
        return self.sweep()

    def sweep(self) -> int:
        """Kill what the command left behind, and tell how many that were. Call it after the engine's end, or to make an end."""
        group = self._number("pgid")
        before = _before.pop(self.marker, NOBODY)
        left = set(marked_processes(self.marker, before=before))
        if group and (self._ours(group) or any(group_of(pid) == group for pid in left)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        # A process that carries no marker started none that does.
        return len((left | end_marked(self.marker, before=before)) - {group}) if left else 0  # the group's leader is our own wrapper

    def _same_boot(self) -> bool:
        return boot_id() == self._read("started") != UNKNOWN_BOOT

    def _ours(self, pid: int) -> bool:
        """Process ids are used again: only one that carries our marker is signalled, or where none can be seen, one of our group."""
        return carries(pid, self.marker) if can_be_seen() else group_of(pid) == self._number("pgid")

    def _number(self, name: str) -> int | None:
        """What the wrapper wrote, or None where it has not, or not to the end."""
        found = _NUMBER.fullmatch(self._read(name) or "")
        return int(found.group(1)) if found else None

    def _ended(self) -> "re.Match[str] | None":
        return _ENDED.fullmatch(self._read("rc") or "")

    def _read(self, name: str) -> str | None:
        try:
            return content(f"{self.folder}/{name}").decode()
        except FileNotFoundError:
            return None


def living_attempts(root: Path) -> list[str]:
    """The attempts in folders below `root` whose process is alive on this machine, whoever follows it."""
    folders = sorted(root.glob("*/run"))
    return [folder.parent.name for folder in folders if Detached(folder=folder, marker=folder.parent.name).is_alive()]


class Hold:
    """The right to start a `Detached`: an exclusive lock that the started process inherits. Use it as a context."""

    def __init__(self, detached: Detached, fd: int) -> None:
        self._detached = detached
        self._before = present()
        self.fd = fd  # pass it to what prepares the start as well: then the right is taken as long as that lives

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    async def launch(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Start the command; returns when its group is known. `env` is given the marker."""
        folder = self._detached.folder
        write(folder / "started", boot_id())
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
        children.append(child)
        _before[self._detached.marker] = self._before
        until = time.monotonic() + 10
        while not self._detached.begun and time.monotonic() < until and child.poll() is None:  # noqa: ASYNC110 - another process's file
            await asyncio.sleep(0.002)
