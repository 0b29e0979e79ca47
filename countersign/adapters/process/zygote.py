"""Parts of this service that are forked from a process which has loaded what they have in common: a zygote.

What parts load is most of what they cost: half of a cold start, and most of their memory. A zygote loads it once and then does
nothing but fork: parts share those pages and start in milliseconds, again when one was killed.

A part becomes a child of whoever asked for it (for that moment a subreaper) and not of its zygote, so that exit codes, signals and
what happens when either dies are as if it had been started as a program, and the end of a zygote ends nothing. A process that has
threads, or is no child of whoever asks, is not forked from; where this cannot be had, `serve` or `Zygote.fork` says so, and a
part can still be started as a program.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from countersign.adapters.process.ending import ending
from countersign.adapters.process.forking import LONGEST, SETTLED, control
from countersign.adapters.process.services import appending
from countersign.adapters.process.supervised import told_of_our_end
from countersign.core.errors import Unavailable

WITHIN = 60.0  # seconds for an answer; a zygote that still loads on a busy machine takes its time
SUBREAPER = 36  # of prctl
asking = 0  # requests under way


class Forked:
    """A child that was forked for us, watched as asyncio watches what it starts."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = asyncio.ensure_future(_end_of(pid))

    @property
    def returncode(self) -> int | None:
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGTERM)


async def _end_of(pid: int) -> int:
    with ending(pid) as gone:
        if gone is None:
            status = await asyncio.to_thread(os.waitpid, pid, 0)
        else:
            await gone.wait()
            status = os.waitpid(pid, 0)  # noqa: ASYNC222  it has ended
    return os.waitstatus_to_exitcode(status[1])


@dataclass
class Zygote:
    """Our end of one. It ends when this is closed or we are gone."""

    _channel: socket.socket
    _process: "subprocess.Popen[bytes] | Forked"
    _asked: asyncio.Lock = field(default_factory=asyncio.Lock)
    proven: bool = False  # it has forked something

    @classmethod
    def begun(cls, argv: Sequence[str], *, env: Mapping[str, str], log: Path | None = None) -> "Zygote":
        """Start `argv`, which has to call `serve`. Returns at once: what it loads, it loads meanwhile. Raises Unavailable.

        What it says against it goes to `log` where its folder is there already, and never to our own standard error, which may be closed.
        """
        if sys.platform != "linux":
            raise Unavailable("only Linux hands a process on to another parent")
        errors = appending(log) if log is not None and log.parent.is_dir() else os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            process = subprocess.Popen(
                told_of_our_end(argv, "TERM", env),
                env=env,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as broken:
            ours.close()
            raise Unavailable(f"{Path(argv[0]).name} cannot be started ({broken.strerror}); run `countersign doctor`") from None
        finally:
            theirs.close()
            os.close(errors)
        return cls(ours, process)

    async def zygote(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> "Zygote":
        """Another one, which begins with what this one has loaded. Raises Unavailable."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                return Zygote(ours, await self._fork(argv, env, log, theirs.fileno()))
            except BaseException:
                ours.close()
                raise

    async def fork(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> Forked:
        """A part in a session of its own that is told our end, as `start_service` makes one: it carries on as `argv`, of which the
        words behind the program are its business. Raises Unavailable."""
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return await self._fork(argv, env, log, nothing)
        finally:
            os.close(nothing)

    @property
    def closed(self) -> bool:
        """It will fork nothing any more."""
        return self._channel.fileno() < 0 or self.gone

    @property
    def gone(self) -> bool:
        process = self._process
        return (process.poll() if isinstance(process, subprocess.Popen) else process.returncode) is not None

    async def _fork(self, argv: Sequence[str], env: Mapping[str, str], log: Path, stdin: int) -> Forked:
        handle = appending(log)
        wanted = json.dumps({"argv": list(argv), "env": dict(env), "parent": os.getpid()}).encode()
        try:
            async with self._asked:
                if self.closed:
                    raise Unavailable("the process parts are forked from has ended")
                made = Forked(await self._made(wanted, [stdin, handle]))
        finally:
            os.close(handle)
        self.proven = True
        return made

    async def _made(self, wanted: bytes, handles: Sequence[int]) -> int:
        """The id of a new child of ours. Raises Unavailable. Whatever comes between, cancellation too, nothing unknown runs on."""
        heard: list[bytes] = []
        try:
            async with asyncio.timeout(WITHIN):
                with _adopting():
                    await self._answered(wanted, handles, heard)
            if heard[1:] != [SETTLED]:
                raise Unavailable("the process parts are forked from could not make one")
            return int(heard[0])
        except BaseException as broken:
            self._shut()  # an answer that comes late must not be taken for the next one
            while self._hear(heard):
                pass
            self._channel.close()
            _end(heard)
            if not isinstance(broken, (OSError, TimeoutError)):
                raise
            raise Unavailable(f"the process parts are forked from does not answer: {broken or type(broken).__name__}") from None

    async def _answered(self, wanted: bytes, handles: Sequence[int], heard: list[bytes]) -> None:
        over, loop = asyncio.Event(), asyncio.get_running_loop()

        def hear() -> None:
            if not self._hear(heard):
                over.set()

        loop.add_reader(self._channel, hear)  # not `sock_recv`: what it had read would be lost with a cancellation
        try:
            socket.send_fds(self._channel, [wanted], handles)
            await over.wait()
        finally:
            loop.remove_reader(self._channel)

    def _hear(self, heard: list[bytes]) -> bool:
        """One of the two answers: the id of what is about to settle, then that it did. Whether another may come."""
        try:
            heard.append(self._channel.recv(LONGEST))
        except OSError:
            heard.append(b"")
        return bool(heard[-1]) and len(heard) < 2

    def close(self) -> None:
        """End it. A request under way raises Unavailable."""
        self._shut()
        if not self._asked.locked():
            self._channel.close()

    def _shut(self) -> None:
        """Nothing is sent from now on; what was can still be read."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        if not self.gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)  # it may be stopped, and has nothing to finish

    async def ended(self) -> None:
        """Close it, and wait until it is gone."""
        self.close()
        process = self._process
        over: Awaitable[int] = asyncio.to_thread(process.wait, 5) if isinstance(process, subprocess.Popen) else process.wait()
        with contextlib.suppress(TimeoutError, subprocess.TimeoutExpired):
            await asyncio.wait_for(over, 5)


def _end(heard: Sequence[bytes]) -> None:
    """End the child that was announced, if one was."""
    if not heard or not heard[0].isdigit():
        return
    pid = int(heard[0])
    with contextlib.suppress(ChildProcessError):  # it is none of ours, or no more
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextlib.contextmanager
def _adopting() -> Iterator[None]:
    """Meanwhile what is orphaned below us becomes ours: a zygote makes a part by way of a process that ends at once."""
    global asking
    control(SUBREAPER, 1)
    asking += 1
    try:
        yield
    finally:
        asking -= 1
        if not asking:
            control(SUBREAPER, 0)
