"""The parts of the service: how each is started, and how one sees that it is ready."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from countersign.adapters.settings import Settings
from countersign.cli import embedded_temporal
from countersign.cli.nursery import program
from countersign.cli.session import LOOPBACK, child_environment
from countersign.cli.supervisor import Part

PROBE = 1.0  # seconds for one look
WORKER_READY = "worker.ready"  # in the data folder; the worker writes its process id there
LOG_MAX = 8 << 20  # bytes; a longer log is put aside when `up` starts


def parts_of(settings: Settings) -> list[Part]:
    """In the order in which they are started: what the others wait for comes first."""
    env, logs = child_environment(settings), settings.data / "logs"
    made: list[Part] = []
    prepare: tuple[str, ...] = ()
    if settings.embedded_temporal:
        prepare = ("--prepare-temporal",)
        made.append(
            Part(
                name="temporal",
                argv=embedded_temporal.command(settings),
                env=env | embedded_temporal.environment(),
                timer_slack=embedded_temporal.TIMER_SLACK,
                log=logs / "temporal.log",
                ready=_listens(LOOPBACK, settings.temporal_port),
                wave=2,
            )
        )
    return [
        *made,
        Part(
            name="front",
            argv=program("front"),
            zygote="temporal",
            env=env,
            log=logs / "front.log",
            ready=_answers(settings.host, settings.front_port, "/readyz"),
        ),
        Part(
            name="worker",
            argv=program("worker", *prepare),
            zygote="temporal",
            env=env,
            log=logs / "worker.log",
            ready=_wrote(settings.data / WORKER_READY),
        ),
        # It stores states until the worker has let go of everything that writes one.
        Part(
            name="state",
            argv=program("state", "--local-key"),
            zygote="store",
            env=env,
            log=logs / "state.log",
            ready=_answers(settings.host, settings.state_port, "/readyz"),
            wave=1,
        ),
    ]


def fresh_logs(data: Path) -> None:
    """Make the folder of logs, and put aside those that grew long."""
    logs = data / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    for log in logs.glob("*.log"):
        if log.stat().st_size > LOG_MAX:
            log.replace(log.with_suffix(".log.1"))


def reachable(host: str) -> str:
    """Where to reach what listens on `host`."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104  nothing is bound here


async def http_status(host: str, port: int, path: str) -> tuple[int, bytes] | None:
    """Status and body of a GET, or None where nobody answers. The client libraries cost more than all of `up` imports."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PROBE):
            reader, writer = await asyncio.open_connection(reachable(host), port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            head, _, body = answer.partition(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), body
    except (OSError, TimeoutError, ValueError, IndexError):
        return None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _listens(host: str, port: int) -> Callable[[int], Awaitable[bool]]:
    async def ready(_: int) -> bool:
        try:
            async with asyncio.timeout(PROBE):
                opened = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return False
        opened[1].close()
        return True

    return ready


def _answers(host: str, port: int, path: str) -> Callable[[int], Awaitable[bool]]:
    async def ready(_: int) -> bool:
        answer = await http_status(host, port, path)
        return answer is not None and answer[0] == 200

    return ready


def _wrote(file: Path) -> Callable[[int], Awaitable[bool]]:
    async def ready(pid: int) -> bool:
        try:
            return file.read_text().strip() == str(pid)  # noqa: ASYNC240  a few bytes
        except OSError:
            return False

    return ready
