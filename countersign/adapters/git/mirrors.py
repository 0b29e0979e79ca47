"""One bare mirror for each repository, shared by all stacks that come from it: history and folders at once, contents as needed.

A mirror is a cache: what is lost of it is fetched again, and nothing is concluded from what is not in it. It has neither
address nor key in its configuration, so that only a fetch of ours reaches out, and nothing is ever checked out of it.
"""

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from countersign.adapters.git.environment import Keys, Remotes
from countersign.adapters.git.failures import Broken
from countersign.adapters.git.mirror import Attempt, Checkout, Mirror, Tip
from countersign.adapters.locks import share, taken
from countersign.adapters.process import find_executable
from countersign.core.errors import FailedPrecondition, ProviderError
from countersign.core.repository import check_ref, check_repository, key_of, meanings

OLDEST = (2, 32)  # that takes configuration from its environment
MOST, UNUSED = 64, 30 * 86_400  # mirrors that are kept whatever happens; seconds after which others go


@dataclass(frozen=True, kw_only=True)
class Mirrors:
    folder: Path
    remotes: Remotes
    recent: set[str] = field(default_factory=set)  # executables that are known to be new enough

    @asynccontextmanager
    async def opened(self, address: str, ref: str | None, commit: str | None, attempt: Attempt) -> AsyncIterator[Checkout]:
        """The commit, or the newest one, of a ref; it stays while this is open.

        Raises PolicyDenied, InvalidArgument, NotFound, FailedPrecondition or ProviderError with what to do; Broken where the
        mirror turned out to be: `forget` it then and open it again.
        """
        check_repository(address, self.remotes.repositories)
        names = meanings(check_ref(ref))
        async with self._speaking(address, attempt) as mirror:
            await self._recent(mirror)
            tip = await mirror.tip(names)
            lock = await taken(self._lock(address), attempt.wait, shared=True)
            try:
                mirror.lock[:] = [lock]
                if not await mirror.has(tip.oid) or await mirror.scattered():
                    os.close(lock)
                    mirror.lock.clear()
                    lock = await taken(self._lock(address), attempt.wait)
                    mirror.lock[:] = [lock]
                    await self._fetched(mirror, tip)
                    share(lock)
                os.utime(mirror.place)
                yield Checkout(mirror=mirror, at=await mirror.revision(tip, commit))
            finally:
                os.close(lock)

    async def forget(self, address: str, attempt: Attempt) -> None:
        """Remove a mirror that cannot be read."""
        lock = await taken(self._lock(address), attempt.wait)
        try:
            await asyncio.to_thread(shutil.rmtree, self._place(address), ignore_errors=True)
        finally:
            os.close(lock)

    def _place(self, address: str) -> Path:
        return self.folder / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.git"

    def _lock(self, address: str) -> Path:
        return self._place(address).with_suffix(".lock")

    @asynccontextmanager
    async def _speaking(self, address: str, attempt: Attempt) -> AsyncIterator[Mirror]:
        """A mirror, with what it takes to reach its repository; the keys are gone afterwards."""
        executable = self.remotes.executable or find_executable("git", attempt.search_path)
        if executable is None:
            raise FailedPrecondition("git was not found; install it, or name it in the settings (git.executable)")
        keys = Keys(attempt.side / "keys", self.remotes)
        key = key_of(address, self.remotes.repositories)
        if key is not None:
            await keys.add(*key, attempt.reveal)
        try:
            yield Mirror(
                place=self._place(address),
                address=address,
                url=self.remotes.url(address),
                executable=executable,
                keys=keys,
                key=key[1] if key else None,
                attempt=attempt,
                remotes=self.remotes,
            )
        finally:
            await asyncio.to_thread(keys.forget)

    async def _recent(self, mirror: Mirror) -> None:
        """Raise FailedPrecondition for a git that would not hear what it is told by environment."""
        if str(mirror.executable) not in self.recent:
            if (version := await mirror.version()) < OLDEST:
                told = ".".join(map(str, version)) or "of an unknown version"
                raise FailedPrecondition(f"git on the worker's machine is {told}; install {OLDEST[0]}.{OLDEST[1]} or newer")
            self.recent.add(str(mirror.executable))

    async def _fetched(self, mirror: Mirror, tip: Tip) -> None:
        """Fetch the ref, and pack what is scattered, unless somebody did meanwhile; a broken mirror is made anew, once."""
        if await mirror.has(tip.oid):
            if await mirror.scattered():
                await mirror.packed()
            return
        await asyncio.to_thread(self._prune)
        try:
            await mirror.fetch(tip)
        except Broken:
            await asyncio.to_thread(shutil.rmtree, mirror.place, ignore_errors=True)
            try:
                await mirror.fetch(tip)
            except Broken as again:
                raise ProviderError(f"{mirror.address} cannot be fetched: {again}") from None

    def _prune(self) -> None:
        """Remove mirrors that nobody used for a month, where there are many."""
        found = sorted(self.folder.glob("*.git"), key=lambda place: place.stat().st_mtime, reverse=True)
        for old in found[MOST:]:
            if time.time() - old.stat().st_mtime > UNUSED:
                shutil.rmtree(old, ignore_errors=True)
