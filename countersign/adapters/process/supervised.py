"""What only reads the world: it ends with whoever started it."""

import asyncio
import contextlib
import functools
import io
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from countersign.adapters.process.ending import ending
from countersign.adapters.process.guardian import ending_with_us
from countersign.adapters.process.lines import Lines, tail
from countersign.adapters.process.output import output, take_no_more
from countersign.core.errors import PermanentError, Unavailable

OUTPUT_MAX = 128 << 20  # bytes of what a command says: it is kept in memory
PIECE = 16 << 20  # bytes of it that are read at once, in some milliseconds


class TooMuch(PermanentError):
    """It said more than anybody reads, and was ended."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    code: int  # negative: the signal that ended it
    out: bytes = field(repr=False)  # in clear; nothing where it was given out in lines
    errors: str = field(repr=False)  # the end of standard error, in clear


async def supervise(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    folder: Path,
    on_lines: Callable[[list[bytes]], Awaitable[None]],
    grace: float = 30.0,
    tick: float = 0.5,
    pass_fds: Sequence[int] = (),
    read: bool = True,
    stdin: Path | None = None,
    most: int = OUTPUT_MAX,
) -> Ended:
    """Run to the end; what it says is kept in memory, or in `folder` where the system cannot. `on_lines` gets new lines at least every
    `tick` seconds, maybe none. Without `read` it gets none: the output is one document, which is given back. `stdin` is a file to read
    from. Raises TooMuch where it says more than `most` bytes.

    Cancelled, or where `on_lines` or this raises: one SIGINT to the process alone, `grace` seconds, then SIGKILL to its group; then the
    cancellation or error is raised on. What the process leaves behind in its group is killed in any case; what left the group
    as well is found by `end_marked`, which is the caller's to call once for all commands of an attempt.
    """
    refuse_missing(argv, env)
    with ExitStack() as kept:
        try:
            out, errors = kept.enter_context(output(folder)), kept.enter_context(output(folder))
            process = _started(argv, cwd=cwd, env=env, out=out, errors=errors, stdin=stdin, pass_fds=pass_fds)
        except OSError as broken:
            raise Unavailable(f"{Path(argv[0]).name} cannot be started ({broken.strerror}); run `countersign doctor`") from None
        lines = Lines(out)
        ended = asyncio.ensure_future(_end_of(process))
        try:
            while True:
                over = ended.done()  # asked before reading: what was written before the end is read after it
                told = False
                for batch in lines.batches() if read else ():  # there may be no end of them while it says more
                    await on_lines(batch)
                    told = True
                    _refuse_more_than(most, argv, out, errors)
                if not told:
                    await on_lines([])
                _refuse_more_than(most, argv, out, errors)
                if over:
                    said = b"" if read else await _whole(out, os.fstat(out).st_size)
                    return Ended(code=ended.result(), out=said, errors=tail(errors))
                await asyncio.wait({ended}, timeout=tick)
        except BaseException:
            await _interrupted(process, ended, grace)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def _refuse_more_than(most: int, argv: Sequence[str], *outputs: int) -> None:
    if max(os.fstat(one).st_size for one in outputs) <= most:
        return
    for one in outputs:  # it may take its time to end
        take_no_more(one)
    raise TooMuch(f"{Path(argv[0]).name} said more than the {most >> 20} MiB that are read of it; have it say less, or split the stack")


def _started(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], out: int, errors: int, stdin: Path | None, pass_fds: Sequence[int]
) -> "subprocess.Popen[bytes]":
    """Raises OSError. Not by asyncio: in Python 3.11 it waits for each child in a thread."""
    given = os.open(stdin or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return subprocess.Popen(
            argv,
            cwd=cwd,
            env=ending_with_us(env),
            stdin=given,
            stdout=out,
            stderr=errors,
            start_new_session=True,
            umask=0o077,
            pass_fds=pass_fds,
        )
    finally:
        os.close(given)


async def _whole(out: int, size: int) -> bytes:
    """What is in there. Others get their turn between two pieces; not in a thread, which could still read when this is cancelled."""
    if size <= PIECE:
        return os.pread(out, size, 0)
    said = io.BytesIO()
    while piece := os.pread(out, min(PIECE, size - said.tell()), said.tell()):
        said.write(piece)
        await asyncio.sleep(0)
    return said.getvalue()


async def _end_of(process: "subprocess.Popen[bytes]") -> int:
    """Its exit code, as soon as it ended. Not to be cancelled: the process would stay in the table."""
    with ending(process.pid) as gone:
        if gone is None:
            return await asyncio.to_thread(process.wait)
        await gone.wait()
    return process.wait()


async def _interrupted(process: "subprocess.Popen[bytes]", ended: "asyncio.Future[int]", grace: float) -> None:
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


def told_of_our_end(argv: Sequence[str], name: str, env: Mapping[str, str]) -> list[str]:
    """`argv`, to be told by the signal `name` when the calling thread is gone, where setpriv exists. For what lives long: it has to be
    executed as well. Raises Unavailable where the command does not exist."""
    refuse_missing(argv, env)
    setpriv = _setpriv()
    return [setpriv, "--pdeathsig", name, "--", *argv] if setpriv else list(argv)


def refuse_missing(argv: Sequence[str], env: Mapping[str, str]) -> None:
    if shutil.which(argv[0], path=env.get("PATH", os.defpath)) is None:
        raise Unavailable(f"{Path(argv[0]).name} cannot be started (no such executable); run `countersign doctor`")


@functools.cache
def _setpriv() -> str | None:
    return shutil.which("setpriv", path=os.defpath + ":/usr/bin:/bin")
