"""pyhelm3's argument lists over our own processes.

Its stock command goes through a shell, and a cancel does not reach helm. Here helm ends with whoever started it, what it is given comes
from a private file and never from its arguments, and its environment is an allow-list. What changes a release is not run from here at
all: `applying` starts it detached.
"""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyhelm3.command

from countersign.adapters.process import MARKER, TooMuch, supervise
from countersign.core.errors import TimedOut

READS_WITHIN = 120.0  # seconds; a dry run takes half of one
GRACE = 10.0  # seconds between the interrupt and the kill of what only reads
TICK = 0.5  # seconds between two looks at what it says
OUTPUT_MAX = 64 << 20  # bytes


class Failed(Exception):
    """helm said no. `errors` is its standard error, `out` its output, in clear: classify it, and redact what is told of it."""

    def __init__(self, *, code: int, errors: str, out: bytes = b"") -> None:
        super().__init__(f"helm ended with {code}")
        self.code, self.errors, self.out = code, errors, out


def environment_of(home: Path, *, attempt: str, search_path: str, passed: Mapping[str, str]) -> dict[str, str]:
    """What helm gets of an environment: never ours, in which HELM_NAMESPACE or KUBECONFIG could lead elsewhere."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        **passed,
        "PATH": search_path,
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "HELM_CACHE_HOME": str(home / "cache"),
        "HELM_CONFIG_HOME": str(home / "config"),
        "HELM_DATA_HOME": str(home / "data"),
        MARKER: attempt,
    }


class HelmCommand(pyhelm3.command.Command):  # type: ignore[misc]  # it comes without types
    """What only reads: dry runs, history, manifests. `folder` is private, and `environment` as `environment_of` makes it."""

    def __init__(
        self,
        *,
        executable: Path,
        folder: Path,
        environment: Mapping[str, str],
        kubeconfig: Path | None = None,
        limit: float = READS_WITHIN,
    ) -> None:
        super().__init__(executable=str(executable), kubeconfig=kubeconfig)
        self._folder, self._environment = folder, dict(environment)
        self.limit = limit  # seconds, of one command
        self._numbers = itertools.count(1)

    async def run(self, command: Sequence[Any], input: bytes | None = None) -> bytes:
        """Standard output. Raises Failed with what helm said, TimedOut, Unavailable where it cannot be started."""
        argv = [self._executable, *map(str, command)]
        if self._kubeconfig:
            argv += ["--kubeconfig", str(self._kubeconfig)]
        given = self._given(input)
        until = time.monotonic() + self.limit

        async def listen(_: list[bytes]) -> None:
            if time.monotonic() > until:
                raise TimedOut(f"helm {command[0]} was not done within {self.limit:.0f} s; ask again")

        try:
            ended = await supervise(
                argv,
                cwd=self._folder,
                env=self._environment,
                folder=self._folder,
                on_lines=listen,
                grace=GRACE,
                tick=TICK,
                read=False,
                stdin=given,
                most=OUTPUT_MAX,
            )
        except TooMuch:
            raise Failed(code=0, errors=f"the answer of helm {command[0]} is larger than {OUTPUT_MAX >> 20} MiB") from None
        finally:
            if given is not None:
                given.unlink(missing_ok=True)
        if ended.code != 0:
            raise Failed(code=ended.code, errors=ended.errors, out=ended.out)
        return ended.out

    async def json(self, command: Sequence[Any], input: bytes | None = None) -> Any:
        """What helm answers with `-o json`."""
        return json.loads(await self.run([*command, "-o", "json"], input) or b"null")

    def _given(self, input: bytes | None) -> Path | None:
        if input is None:
            return None
        path = self._folder / f"helm-{next(self._numbers)}.in"
        path.touch(mode=0o600)
        path.write_bytes(input)
        return path
