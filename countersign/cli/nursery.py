"""Where the Python parts of `up` come from: processes that have loaded what several parts need, and fork.

`store` has loaded what all of them need, `temporal`, which is forked from it, what the front and the worker need beyond that. So the
state API never has a Temporal in it, and none has what only another needs. The first begins to load before `up` knows its settings.

It only saves time and memory: a part that cannot be forked is started as a program, and so is every part where nothing can be forked.
"""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

from countersign.adapters.process import Running, Zygote
from countersign.cli.session import inherited, named
from countersign.cli.supervisor import Part, started
from countersign.core.errors import Unavailable

MODULE, FORK = "countersign.cli.part", "fork"
PARENTS = {"store": None, "temporal": "store"}
LOG = Path("logs", "zygote.log")  # in the data folder; only what keeps one from forking is ever in it
FOR = "state --local-key, front, worker --prepare-temporal"  # told by `ps`; and a part writes its own words over it


def program(*words: str) -> tuple[str, ...]:
    """A part, or what parts are forked from, as a program."""
    # -P: the folder `up` was called in must not shadow modules.
    return (sys.executable, "-P", "-m", MODULE, *words)


def begun(data: Path | None) -> Zygote | None:
    """The first one, beginning to load; None where there can be none. What it forks gets the settings with the request."""
    folder = named(data)
    env = inherited() | {"COUNTERSIGN_DATA": str(folder)}
    with contextlib.suppress(Unavailable):
        return Zygote.begun(program(FORK, "store", FOR), env=env, log=folder / LOG)
    return None


class Nursery:
    """Makes the processes of parts. Use it as a context."""

    def __init__(self, data: Path, *, cwd: Path, first: Zygote | None = None) -> None:
        self._data = data
        self._cwd = cwd
        self._zygotes = {"store": first} if first is not None else {}
        self._making = {kind: asyncio.Lock() for kind in PARENTS}

    async def __aenter__(self) -> "Nursery":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(zygote.ended() for zygote in self._zygotes.values()))

    async def start(self, part: Part) -> Running:
        """Raises Unavailable."""
        if part.zygote is not None:
            with contextlib.suppress(Unavailable):
                zygote = await self._zygote(part.zygote, part.env)
                return await zygote.fork(part.argv, env=part.env, log=part.log)
        return await started(part, cwd=self._cwd)

    async def _zygote(self, kind: str, env: Mapping[str, str]) -> Zygote:
        """The living one, or another where it is gone. Raises Unavailable, and at once where the last one never forked anything."""
        async with self._making[kind]:
            zygote = self._zygotes.get(kind)
            if zygote is None or (zygote.closed and zygote.proven):
                zygote = self._zygotes[kind] = await self._made(kind, env)
            elif zygote.closed:
                raise Unavailable(f"this machine forks no parts; {self._data / LOG} may tell why")
            return zygote

    async def _made(self, kind: str, env: Mapping[str, str]) -> Zygote:
        parent = PARENTS[kind]
        argv = program(FORK, kind, FOR)
        log = self._data / LOG
        if parent is None:
            return Zygote.begun(argv, env=env, log=log)
        return await (await self._zygote(parent, env)).zygote(argv, env=env, log=log)
