"""The mirror of one repository, and one attempt that uses it: what its refs are now, fetching, and reading a commit."""

import asyncio
import hashlib
import io
import re
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from countersign.adapters.git.environment import Keys, Remotes, environment
from countersign.adapters.git.failures import Broken, NoAnswer, failure, no_answer
from countersign.adapters.process import OUTPUT_MAX, Ended, TooMuch, supervise
from countersign.core.engine import Beat, Progress, Reveal
from countersign.core.errors import FailedPrecondition, NotFound, ProviderError
from countersign.core.redaction import Redactor
from countersign.core.repository import BRANCH, LOCAL, TAG

LISTING = 16 << 20  # bytes of names in one answer: a commit of some kilobytes can hold more files than there are disks for
GRACE = 5.0  # seconds between SIGINT and SIGKILL
PACKS = 40  # in a mirror; more are packed into one
AT_ONCE = 5000  # objects asked for by one command: each is 41 bytes of its arguments
AGAIN = 1.0  # seconds until somebody who did not answer is asked once more
_FETCH = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something a commit holds at a path."""

    path: str
    mode: str  # "100644", "100755", "120000" a link, "160000" a submodule
    oid: str
    size: int | None  # None: its content is not here, or it has none


@dataclass(frozen=True, kw_only=True)
class Revision:
    """A commit as it was found below a ref."""

    address: str
    ref: str  # whole: refs/heads/main
    commit: str
    behind: int  # commits of the ref that it does not have


@dataclass(frozen=True, kw_only=True)
class Tip:
    ref: str
    oid: str  # of a commit, or of an annotated tag


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Whoever asks, and what it gives to git."""

    attempt_id: str
    home: Path  # empty
    side: Path  # keys
    beat: Beat
    reveal: Reveal
    search_path: str
    lock: int  # descriptor that its processes inherit

    async def wait(self) -> None:
        await self.beat(Progress(current="waiting for another fetch of this repository"))

    async def fetching(self) -> None:
        await self.beat(Progress(current="fetching the repository"))


@dataclass(frozen=True, kw_only=True)
class Mirror:
    place: Path
    address: str
    url: str
    executable: Path
    keys: Keys
    key: str | None  # slug of what opens it
    attempt: Attempt
    remotes: Remotes
    lock: list[int] = field(default_factory=list)  # of the mirror, while it is held

    async def version(self) -> tuple[int, ...]:
        """Of the git that is used here."""
        said = re.search(r"(\d+)\.(\d+)", await self._line("version") or "")
        return tuple(map(int, said.groups())) if said else ()

    # What it is now

    async def tip(self, names: Sequence[str]) -> Tip:
        """Where the one ref is that bears one of these names. Raises NotFound, or FailedPrecondition where several do."""
        ended = await self._outside("ls-remote", "--quiet", self.url, *names)
        lines = (line.split("\t") for line in ended.out.decode(errors="replace").splitlines())
        found = [Tip(ref=name, oid=oid) for oid, name in lines if name in names]
        if not found:
            known = " or ".join(f"{'branch' if n.startswith(BRANCH) else 'tag'} {n.removeprefix(BRANCH).removeprefix(TAG)}" for n in names)
            raise NotFound(f"{self.address} has no {known}; register a ref that exists", field="source.git_ref")
        if len(found) > 1:
            raise FailedPrecondition(
                f"{self.address} has a branch and a tag of that name; register {found[0].ref} or {found[1].ref}", field="source.git_ref"
            )
        return found[0]

    # Fetching, by whoever holds the mirror alone

    async def fetch(self, tip: Tip) -> None:
        """History and folders of the ref. Raises Broken where the mirror has to be made anew."""
        await self._made()
        await asyncio.to_thread(_left_over, self.place)
        # Under a name of ours: a branch `a` that made way for `a/b` stands in nobody's way.
        kept = f"refs/countersign/{hashlib.sha256(tip.ref.encode()).hexdigest()[:16]}"
        await self._outside(*_FETCH, "origin", f"+{tip.ref}:{kept}")
        if not await self.has(tip.oid):
            raise FailedPrecondition(f"{tip.ref} of {self.address} moved while it was fetched; plan again", field="source.git_ref")

    async def packed(self) -> None:
        """All packs made into one. Raises Broken."""
        await self._outside("repack", "-adq")

    async def scattered(self) -> bool:
        """Whether there are so many packs that reading gets slow: every question for contents leaves one."""
        return len(await asyncio.to_thread(lambda: [*self.place.glob("objects/pack/*.pack")])) > PACKS

    async def _made(self) -> None:
        """An empty mirror, whole or not at all."""
        if (self.place / "HEAD").is_file():
            return
        self.place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.place.parent, prefix="new-"))
        await self._inside("init", "--quiet", "--bare", "--template=", str(temporary), folder=temporary)
        await asyncio.to_thread((temporary / "description").write_text, f"{self.address}\n")
        await asyncio.to_thread(shutil.rmtree, self.place, ignore_errors=True)
        await asyncio.to_thread(temporary.rename, self.place)

    async def bring(self, oids: Sequence[str]) -> None:
        """Contents that are not here yet, in as few questions as possible."""
        for at in range(0, len(oids), AT_ONCE):
            await self._outside(*_FETCH, "origin", *oids[at : at + AT_ONCE], negotiate="noop")

    # Reading

    async def has(self, oid: str) -> bool:
        return (self.place / "HEAD").is_file() and (await self._run("cat-file", "-e", oid)).code == 0

    async def revision(self, tip: Tip, wanted: str | None) -> Revision:
        """The commit asked for, or the newest one. Raises FailedPrecondition where it is not part of the ref."""
        newest = await self._line("rev-parse", "--verify", "--quiet", f"{tip.oid}^{{commit}}")
        if newest is None:
            raise FailedPrecondition(f"{tip.ref} of {self.address} is no commit", field="source.git_ref")
        if wanted is None or newest.startswith(wanted):
            return Revision(address=self.address, ref=tip.ref, commit=newest, behind=0)
        commit = await self._line("rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}")
        if commit is None or (await self._run("merge-base", "--is-ancestor", commit, newest)).code != 0:
            raise FailedPrecondition(
                f"commit {wanted} is not part of {tip.ref} of {self.address}, where plans are made of: it is of another branch or of a "
                "fork, or the ref was moved back; bring it onto the ref, or leave commit out",
                field="commit",
            )
        behind = await self._line("rev-list", "--count", f"{commit}..{newest}")
        return Revision(address=self.address, ref=tip.ref, commit=commit, behind=int(behind or 0))

    async def contains(self, commit: str, other: str) -> bool:
        """Whether `other` is part of the history of `commit`; what is not here is not."""
        return (await self._run("merge-base", "--is-ancestor", other, commit)).code == 0

    async def entries(self, commit: str, paths: Iterable[str]) -> list[Entry]:
        """All below these folders, or these files, "" being the root. Raises Broken, FailedPrecondition for more than anybody reads."""
        wanted = [path for path in paths if path]
        listing = ("ls-tree", "-r", "-l", "-z", "--full-tree", commit, *(["--", *wanted] if wanted else []))
        try:
            ended = await self._inside(*listing, most=LISTING)
        except TooMuch:
            raise FailedPrecondition(
                f"{self.address} has more than {LISTING >> 20} MiB of names of files there; name a folder that holds only configuration",
                field="source.path",
            ) from None
        found = []
        for line in ended.out.split(b"\0")[:-1]:
            head, _, path = line.partition(b"\t")
            mode, _, oid, size = head.decode().split()
            name = path.decode("utf-8", "surrogateescape")
            found.append(Entry(path=name, mode=mode, oid=oid, size=int(size) if size.isdecimal() else None))
        return found

    async def contents(self, oids: Iterable[str]) -> dict[str, bytes]:
        """Of objects that are here. Raises Broken."""
        if not (wanted := sorted(set(oids))):
            return {}
        asked = self.attempt.side / "git.in"
        await asyncio.to_thread(asked.write_text, "".join(f"{oid}\n" for oid in wanted))
        ended = await self._inside("cat-file", "--batch", stdin=asked)
        return await asyncio.to_thread(_batch, ended.out)

    # Processes

    async def _outside(self, *arguments: str, negotiate: str = "skipping") -> Ended:
        """A command that talks to the repository, tried twice. Raises what its words mean."""
        for last in (False, True):
            try:
                return await self._talk(arguments, negotiate)
            except NoAnswer as away:
                if last:
                    raise no_answer(self.address, away) from None
                await self.attempt.fetching()
                await asyncio.sleep(AGAIN)
        raise AssertionError("unreachable")

    async def _talk(self, arguments: Sequence[str], negotiate: str) -> Ended:
        started, before = time.monotonic(), await asyncio.to_thread(_size, self.place)

        async def watch() -> None:
            await self.attempt.fetching()
            if time.monotonic() - started > self.remotes.timeout:
                raise ProviderError(
                    f"{self.address} took longer than {self.remotes.timeout:.0f} s; plan again, or ask the operator (git.timeout_seconds)"
                )
            if await asyncio.to_thread(_size, self.place) - before > self.remotes.size:
                raise FailedPrecondition(
                    f"{self.address} has more than {self.remotes.size >> 20} MiB to fetch; use a smaller repository, or ask the operator "
                    "(git.fetch_mib)",
                    field="source.repo",
                )

        remote = {
            "remote.origin.url": self.url,
            "remote.origin.promisor": "true",
            "remote.origin.partialclonefilter": "blob:none",
            "fetch.negotiationAlgorithm": negotiate,
        }
        protocols = ["file"] if self.address.startswith(LOCAL) else [self.address.partition("://")[0]]
        ended = await self._run(*arguments, configuration=remote, protocols=protocols, watch=watch)
        if ended.code != 0:
            secrets = Redactor(self.keys.secrets)
            raise failure(self.address, ended.errors, secret=self.key, redactor=secrets) from None
        if await asyncio.to_thread(_size, self.place) - before > self.remotes.size:
            await watch()
        return ended

    async def _inside(
        self,
        *arguments: str,
        folder: Path | None = None,
        stdin: Path | None = None,
        most: int = OUTPUT_MAX,
    ) -> Ended:
        ended = await self._run(*arguments, folder=folder, stdin=stdin, most=most)
        if ended.code != 0:
            raise Broken(ended.errors)
        return ended

    async def _line(self, *arguments: str) -> str | None:
        ended = await self._run(*arguments)
        return ended.out.decode(errors="replace").strip() or None if ended.code == 0 else None

    async def _run(
        self,
        *arguments: str,
        configuration: Mapping[str, str] | None = None,
        protocols: Sequence[str] = (),
        watch: Callable[[], Awaitable[None]] | None = None,
        folder: Path | None = None,
        stdin: Path | None = None,
        most: int = OUTPUT_MAX,
    ) -> Ended:
        attempt = self.attempt

        async def heard(_: list[bytes]) -> None:
            await (watch() if watch else attempt.fetching())

        given = environment(
            self.remotes,
            home=attempt.home,
            search_path=attempt.search_path,
            attempt=attempt.attempt_id,
            keys=self.keys,
            configuration=configuration or {},
            protocols=protocols,
        )
        place = folder or self.place
        cwd = place if place.is_dir() else attempt.home
        return await supervise(
            [str(self.executable), *arguments],
            cwd=cwd,
            # Never what lies above: the data folder may be in somebody's checkout.
            env={**given, "GIT_CEILING_DIRECTORIES": str(cwd.parent), **({"GIT_DIR": str(place)} if (place / "HEAD").is_file() else {})},
            folder=attempt.side,
            on_lines=heard,
            grace=GRACE,
            pass_fds=(attempt.lock, *self.lock),
            read=False,
            stdin=stdin,
            most=most,
        )


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """One commit of a mirror that stays while it is read."""

    mirror: Mirror
    at: Revision

    async def entries(self, paths: Iterable[str], *, most: int) -> list[Entry]:
        """All below these folders, with the size of every content: what was not here is brought, unless it is more than `most`."""
        paths = tuple(paths)
        found = await self.mirror.entries(self.at.commit, paths)
        if len(found) > most:
            return found
        if lacking := sorted({e.oid for e in found if e.size is None and e.mode != "160000"}):
            await self.mirror.bring(lacking)
            found = await self.mirror.entries(self.at.commit, paths)
            if any(e.size is None and e.mode != "160000" for e in found):
                raise Broken("contents are missing")
        return found

    async def contents(self, entries: Iterable[Entry]) -> dict[str, bytes]:
        """By object id."""
        return await self.mirror.contents(e.oid for e in entries)

    async def contains(self, commit: str) -> bool:
        return await self.mirror.contains(self.at.commit, commit)


def _batch(said: bytes) -> dict[str, bytes]:
    found = {}
    file = io.BytesIO(said)
    while head := file.readline():
        oid, kind, *size = head.decode().split()
        if kind == "missing" or not size:
            raise Broken(f"{oid} is missing")
        found[oid] = file.read(int(size[0]))
        file.read(1)
    return found


def _left_over(place: Path) -> None:
    """What fetches that were killed left behind; whoever calls this is alone here."""
    for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/tmp_*", "objects/incoming-*", "objects/tmp_objdir-*"):
        for path in place.glob(pattern):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _size(place: Path) -> int:
    """Bytes of all packs, also of one that is being written."""
    total = 0
    for path in place.glob("objects/pack/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
