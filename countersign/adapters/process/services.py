"""Long-lived parts of this service, for `countersign up`."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from countersign.adapters.process.supervised import told_of_our_end
from countersign.core.errors import Unavailable


class Running(Protocol):
    """A process of ours, started or forked."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def terminate(self) -> None: ...


async def start_service(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path, ends_with_us: bool = True, timer_slack: float | None = None
) -> asyncio.subprocess.Process:
    """Start a long-lived part of this service in a session of its own; its output is appended to `log` (0600).

    `ends_with_us`: it gets SIGTERM when the calling thread ends, however that happens, where `setpriv` exists.
    `timer_slack`: seconds its sleeps may take longer, on Linux; None as the calling thread's.
    """
    handle = appending(log)
    try:
        words = told_of_our_end(argv, "TERM", env) if ends_with_us else argv
        return await asyncio.create_subprocess_exec(
            *(words if timer_slack is None else _with_slack(words, timer_slack)),
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


def _with_slack(argv: Sequence[str], seconds: float) -> list[str]:
    """It takes that slack for itself before it becomes the command: of another process only root may change it, and of ours it would
    pass to whatever is started meanwhile. Where there is nothing of the kind it goes on without."""
    take = '{ echo "$0" >/proc/self/timerslack_ns; } 2>/dev/null; exec "$@"'
    return ["/bin/sh", "-c", take, str(int(seconds * 1e9)), *argv]


def appending(log: Path) -> int:
    """A descriptor that appends to `log` (0600), in a folder that is made where it is not there."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)


async def stop_service(process: Running, *, grace: float = 10.0) -> int:
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
