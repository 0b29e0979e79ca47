"""What only reads the world: it ends with whoever started it."""

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from countersign.adapters.process.ending import ending
from countersign.adapters.process.guardian import ending_with_us
from countersign.adapters.process.lines import Lines, tail_of
from countersign.core.errors import Unavailable


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
    stdin: Path | None = None,
) -> Ended:
    """Run to the end; output goes to `folder/name.out` and `.err`. `on_lines` gets new lines at least every `tick` seconds, maybe none.
    Without `read` it gets none: the output is one document. `stdin` is a file to read from.

    Cancelled, or where `on_lines` raises: one SIGINT to the process alone, `grace` seconds, then SIGKILL to its group; then the
    cancellation or error is raised on. What the process leaves behind in its group is killed in any case; what left the group
    as well is found by `end_marked`, which is the caller's to call once for all commands of an attempt.
    """
    refuse_missing(argv, env)
    out, errors = folder / f"{name}.out", folder / f"{name}.err"
    handles = [os.open(p, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600) for p in (out, errors)]
    handles.append(os.open(stdin or os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    try:
        # Not by asyncio: in Python 3.11 it waits for each child in a thread.
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns as soon as the child is forked
            argv,
            cwd=cwd,
            env=ending_with_us(env),
            stdin=handles[2],
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
    ended = asyncio.ensure_future(_end_of(process))
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
