"""Named pipes that hold up whoever reads them: a Terraform that has reached one has begun nothing that comes behind it."""

import contextlib
import errno
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

_EMPTY = {"version": 4, "terraform_version": "1.11.4", "serial": 1, "lineage": "a-gate", "outputs": {}, "resources": []}
Eventually = Callable[[Callable[[], Awaitable[Any]], str], Awaitable[Any]]


def close(gate: Path) -> None:
    gate.unlink(missing_ok=True)
    os.mkfifo(gate)


def open_for_good(gate: Path) -> None:
    """Whoever comes from now on reads an empty state; who waits at the pipe goes on waiting."""
    made = gate.with_suffix(".open")
    made.write_text(json.dumps(_EMPTY))
    made.replace(gate)


@contextlib.asynccontextmanager
async def held(gate: Path, eventually: Eventually) -> AsyncIterator[None]:
    """Inside, somebody waits at the gate; afterwards it is open for good, also for whoever waits."""

    async def there() -> int | None:
        try:
            return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as nobody:
            assert nobody.errno == errno.ENXIO, nobody
            return None

    fd = await eventually(there, f"somebody to reach {gate.name}")
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(fd, json.dumps(_EMPTY).encode())
        open_for_good(gate)
        os.close(fd)
