"""From the name of a chart to one archive: from the folder of stacks, a repository, an index or a registry, as the operator lists them.

What is fetched is fetched once and kept by its digest. A folder is packed by helm itself, as its author would, and then without times and
owners, so that the same files are the same archive. What a chart depends on comes from the same list, or is below its charts/ already.
"""

import asyncio
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import tarfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from countersign.adapters.git import Attempt, Broken, Checkout, Mirrors
from countersign.adapters.helm.archive import LARGEST, UNPACKED, Archive, Asked
from countersign.adapters.helm.command import Failed, HelmCommand
from countersign.adapters.helm.fetching import Fetcher, Key
from countersign.core.engine import Progress, Reveal
from countersign.core.errors import CountersignError, FailedPrecondition, InvalidArgument, NotFound, ProviderError, Unavailable
from countersign.core.helm import charts
from countersign.core.helm.charts import STACKS, Dependency, Entry, Kind, Source
from countersign.core.helm.failures import classify
from countersign.core.helm.index import Index
from countersign.core.helm.manifests import load
from countersign.core.redaction import Redactor, clean_line, cut

FRESH = 60.0  # seconds an index is believed
FILES = 5000
DEPTH = 6  # folders below a source in which charts are looked for
NESTED = 4  # charts that charts depend on
KEPT = 200  # archives in the cache
_IGNORED = frozenset({".git", ".hg", ".svn", ".DS_Store", ".terraform", "__pycache__"})

T = TypeVar("T")
Files = Mapping[str, bytes]  # path below the chart → content


class Work(Protocol):
    """One piece of work that needs charts: `session.Session` is one."""

    @property
    def attempt_id(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def helm(self) -> HelmCommand: ...
    @property
    def reveal(self) -> Reveal: ...


class Place(Protocol):
    """Where folders of charts lie: on this machine, or in one commit."""

    async def files(self, folder: str) -> Files:
        """Of a folder; empty where there is none."""
        ...

    async def charts(self) -> Mapping[str, bytes]:
        """Folder → its Chart.yaml, of every chart."""
        ...


@dataclass
class ChartSources:
    """What the operator lists, and the folder of stacks."""

    listed: tuple[Source, ...]
    stacks_root: Path
    cache: Path
    mirrors: Mirrors
    fetcher: Fetcher
    search_path: str
    _indexes: dict[str, tuple[float, Mapping[str, Sequence[Entry]]]] = field(default_factory=dict, repr=False)

    @property
    def sources(self) -> tuple[Source, ...]:
        return (Source(name=STACKS, kind=Kind.FOLDER), *self.listed)

    async def archive(self, asked: Asked, work: Work) -> Archive:
        """The one archive that is meant. Raises PolicyDenied, NotFound, InvalidArgument, FailedPrecondition, Unavailable."""
        charts.check_chart(asked.chart)
        if asked.version is not None:
            charts.check_version(asked.version)
        source = await self._meant(asked)
        if source.kind in (Kind.INDEX, Kind.OCI):
            return await self._fetched(source, asked.chart, asked.version, work)
        pack = partial(self._packed, _below(source, asked.chart), work, asked=asked, source=source)
        (data, name, version), commit = await self._in_place(source, work, pack)
        return Archive(data=data, name=name, version=version, source=source.shown, commit=commit)

    async def versions(self, asked: Asked, work: Work) -> list[Entry]:
        """Every version of a chart, newest first. Raises NotFound."""
        source = await self._meant(asked)
        charts.check_chart(asked.chart)
        if source.kind is Kind.OCI:
            tags = await self.fetcher.tags(source, await self._key(source, work), asked.chart)
            return [Entry(name=asked.chart, version=tag) for tag in tags]
        there = await self._offered(source, work)
        await asyncio.to_thread(charts.pick, there, asked.chart, None, source)
        return list(there[asked.chart])

    async def search(self, text: str, repo: str | None, work: Work) -> tuple[list[tuple[Source, Entry]], list[str]]:
        """Charts that have all words of `text`, and what could not be asked. Raises PolicyDenied for a source that is not listed."""
        asked = (charts.source_named(self.sources, repo),) if repo else self.sources
        found: list[tuple[Source, Entry]] = []
        remarks: list[str] = []
        for source in asked:
            if source.kind is Kind.OCI:
                remarks.append(f"{source.shown} is a registry, which lists no charts: name one to see its versions (helm_get_chart)")
                continue
            try:
                there = await self._offered(source, work)
            except CountersignError as failed:
                if repo:
                    raise
                remarks.append(failed.message)
            else:
                newest = there.newest() if isinstance(there, Index) else (entries[0] for entries in there.values())
                found += [(source, entry) for entry in await asyncio.to_thread(charts.searched, newest, text)]
        return found, remarks

    async def close(self) -> None:
        await self.fetcher.close()

    async def _meant(self, asked: Asked) -> Source:
        """Where no source is named: the folder of stacks if it has the chart, else the only one that is listed."""
        if asked.repo is not None:
            return charts.source_named(self.sources, asked.repo)
        if not self.listed or await asyncio.to_thread((self.stacks_root / asked.chart / "Chart.yaml").is_file):
            return self.sources[0]
        if len(self.listed) == 1:
            return self.listed[0]
        names = ", ".join(one.name for one in self.sources)
        raise InvalidArgument(f"say where {asked.chart} comes from: repo is one of {names}", field="repo", next=["helm_search_charts"])

    async def _key(self, source: Source, work: Work) -> Key | None:
        return Key.of(await work.reveal(source.credential), slug=source.credential) if source.credential else None

    async def _offered(self, source: Source, work: Work) -> Mapping[str, Sequence[Entry]]:
        if source.kind is not Kind.INDEX:
            found, _ = await self._in_place(source, work, lambda place: place.charts())
            return _in_folders(found)
        known = self._indexes.get(source.name)
        if known is None or time.monotonic() - known[0] > FRESH:
            text = await self.fetcher.index(source, await self._key(source, work))
            known = (time.monotonic(), await asyncio.to_thread(Index, text.decode(errors="replace"), source))
            self._indexes[source.name] = known
        return known[1]

    # What is fetched

    async def _fetched(self, source: Source, chart: str, version: str | None, work: Work) -> Archive:
        key = await self._key(source, work)
        if source.kind is Kind.OCI:
            entry = await self.fetcher.entry(source, key, chart, version)
        else:
            entry = await asyncio.to_thread(charts.pick, await self._offered(source, work), chart, version, source)
        data = await asyncio.to_thread(self._known, entry.sha256)
        if data is None:
            data = await self.fetcher.archive(entry.url, source, key, sha256=entry.sha256)
        found = await asyncio.to_thread(_checked, data, f"{chart} {entry.version} of {source.name}")
        name = chart.rpartition("/")[2]
        if (found["name"], found["version"].lstrip("v")) != (name, entry.version.lstrip("v")):
            raise ProviderError(
                f"{source.shown} gives {cut(clean_line(found['name'] + ' ' + found['version']), 100)} for {chart} {entry.version}",
                field="chart",
            )
        await asyncio.to_thread(self._keep, data)
        return Archive(data=data, name=name, version=found["version"], source=source.shown)

    def _known(self, sha256: str) -> bytes | None:
        """What was fetched before, if it still is what it was."""
        path = self.cache / f"{sha256.removeprefix('sha256:')}.tgz"
        try:
            data = path.read_bytes() if sha256 else b""
        except OSError:
            return None
        if "sha256:" + hashlib.sha256(data).hexdigest() != sha256:
            return None
        os.utime(path)
        return data

    def _keep(self, data: bytes) -> None:
        """A cache: what cannot be kept is fetched again."""
        path = self.cache / f"{hashlib.sha256(data).hexdigest()}.tgz"
        try:
            self.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                made = path.with_suffix(f".{os.getpid()}.{time.monotonic_ns()}")
                made.touch(mode=0o600)
                made.write_bytes(data)
                made.rename(path)
            for old in sorted(self.cache.glob("*.tgz"), key=lambda one: one.stat().st_mtime, reverse=True)[KEPT:]:
                old.unlink(missing_ok=True)
        except OSError:
            return

    # What is packed

    async def _in_place(self, source: Source, work: Work, use: Callable[[Place], Awaitable[T]]) -> tuple[T, str | None]:
        """What `use` makes of the folders of a source, and the commit they are of."""
        if source.kind is Kind.FOLDER:
            return await use(_Disk(self.stacks_root.resolve())), None
        side = work.folder / "charts-side"
        (side / "home").mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(side / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            attempt = Attempt(
                attempt_id=work.attempt_id,
                home=side / "home",
                side=side,
                beat=_unheard,
                reveal=work.reveal,
                search_path=self.search_path,
                lock=lock,
            )
            for _ in range(2):
                try:
                    async with self.mirrors.opened(source.address, source.git_ref, None, attempt) as checkout:
                        return await use(_Commit(checkout, source.path)), checkout.at.commit
                except Broken:
                    await self.mirrors.forget(source.address, attempt)
        finally:
            os.close(lock)
        raise Unavailable(f"the mirror of {source.address} cannot be read, and a new one neither; see `countersign doctor`")

    async def _packed(
        self, folder: str, work: Work, place: Place, *, asked: Asked | None, source: Source, nested: int = 0
    ) -> tuple[bytes, str, str]:
        """(archive, name, version) of a folder, with what it depends on below its charts/."""
        what = f"{folder} of {source.name}"
        files = dict(await place.files(folder))
        if "Chart.yaml" not in files:
            known = sorted(_in_folders(await place.charts()))
            raise NotFound(
                f"{source.name} has no chart {clean_line(folder)}; it has {', '.join(known[:10]) or 'none'}", field="chart",
                next=["helm_search_charts"],
            )  # fmt: skip
        metadata = _yaml(files, "Chart.yaml", what)
        if asked is not None:
            metadata = charts.chart_of(metadata, what=what)
            if asked.version is not None and asked.version.lstrip("v") != str(metadata["version"]).lstrip("v"):
                raise charts.no_version(asked.chart, asked.version, [str(metadata["version"])])
        if nested > NESTED:
            raise FailedPrecondition(f"{what} depends on charts that depend on charts, more than {NESTED} deep", field="chart")
        lock = _yaml(files, "Chart.lock", what) if "Chart.lock" in files else None
        for one in charts.dependencies_of(metadata, lock):
            if not _vendored(one, files):
                brought = await self._brought(one, place, folder, work, source=source, nested=nested)
                files[f"charts/{one.name}.tgz"] = brought
        data = await self._by_helm(files, work, what)
        return data, str(metadata["name"]), str(metadata["version"])

    async def _brought(self, one: Dependency, place: Place, folder: str, work: Work, *, source: Source, nested: int) -> bytes:
        charts.check_dependency(one)
        if one.repository.startswith("file://"):
            beside = charts.folder_beside(folder, one.repository)
            return (await self._packed(beside, work, place, asked=None, source=source, nested=nested + 1))[0]
        other = charts.source_at(self.sources, one.repository, chart=one.name)
        return (await self._fetched(other, one.name, one.version, work)).data

    async def _by_helm(self, files: Files, work: Work, what: str) -> bytes:
        place = work.folder / f"pack-{time.monotonic_ns()}"
        try:
            await asyncio.to_thread(_written, files, place / "chart")
            (place / "out").mkdir(mode=0o700)
            try:
                await work.helm.run(["package", str(place / "chart"), "--destination", str(place / "out")])
            except Failed as failed:
                told = classify(failed.errors)
                said = Redactor().line(told.said.replace(f"{place}/", ""), 400)
                raise FailedPrecondition(f"{what} cannot be packed: {said}", field="chart") from None
            (made,) = (place / "out").glob("*.tgz")
            data = await asyncio.to_thread(_timeless, made.read_bytes())
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        await asyncio.to_thread(_checked, data, what)
        return data


class _Disk:
    """Folders of charts of this machine. Every file is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def files(self, folder: str) -> Files:
        return await asyncio.to_thread(self._files, folder)

    def _files(self, folder: str) -> Files:
        at = self._root
        for part in folder.split("/"):
            at = at / part
            if at.is_symlink():
                raise InvalidArgument(f"{folder} goes through a link; name the folder itself", field="chart")
        found: dict[str, bytes] = {}
        room = UNPACKED
        for path in _walked(at):
            relative = path.relative_to(at).as_posix()
            if path.is_symlink():
                raise FailedPrecondition(f"{clean_line(f'{folder}/{relative}')} is a link; replace it by the file", field="chart")
            room -= path.stat().st_size
            if room < 0 or len(found) >= FILES:
                raise _too_large(folder)
            found[charts.member_path(relative)] = path.read_bytes()
        return found

    async def charts(self) -> Mapping[str, bytes]:
        return await asyncio.to_thread(self._charts, self._root, 0)

    def _charts(self, folder: Path, depth: int) -> dict[str, bytes]:
        """A folder with a Chart.yaml is one, and what lies below it is part of it."""
        if not folder.is_dir() or depth > DEPTH:
            return {}
        if depth and (folder / "Chart.yaml").is_file():
            return {folder.relative_to(self._root).as_posix(): (folder / "Chart.yaml").read_bytes()[:LARGEST]}
        found: dict[str, bytes] = {}
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink() and entry.name not in _IGNORED:
                found |= self._charts(entry, depth + 1)
        return found


class _Commit:
    """The same of one commit."""

    def __init__(self, checkout: Checkout, path: str) -> None:
        self._checkout, self._path = checkout, "" if path == "." else path

    async def files(self, folder: str) -> Files:
        entries = [e for e in await self._checkout.entries([folder], most=FILES) if e.path.startswith(f"{folder}/")]
        if link := next((e.path for e in entries if e.mode == "120000"), None):
            raise FailedPrecondition(f"{clean_line(link)} is a link; replace it by the file", field="chart")
        if sum(e.size or 0 for e in entries) > UNPACKED:
            raise _too_large(folder)
        wanted = [e for e in entries if e.mode in ("100644", "100755")]
        contents = await self._checkout.contents(wanted)
        return {charts.member_path(e.path.removeprefix(f"{folder}/")): contents[e.oid] for e in wanted}

    async def charts(self) -> Mapping[str, bytes]:
        mirror, commit = self._checkout.mirror, self._checkout.at.commit
        entries = await mirror.entries(commit, [self._path])
        found = [e for e in entries if e.path.endswith("/Chart.yaml") and e.mode in ("100644", "100755")]
        if lacking := sorted({e.oid for e in found if e.size is None}):
            await mirror.bring(lacking)
        contents = await self._checkout.contents(found)
        prefix = f"{self._path}/" if self._path else ""
        folders = {e.path.removesuffix("/Chart.yaml").removeprefix(prefix): contents[e.oid] for e in found}
        return {name: data for name, data in folders.items() if not any(name.startswith(f"{other}/") for other in folders)}


async def _unheard(progress: Progress) -> None:
    """Nobody listens to how far a chart is: its reader beats by itself."""


def _below(source: Source, chart: str) -> str:
    return chart if source.path == "." else f"{source.path}/{chart}"


def _walked(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return
    for entry in sorted(folder.iterdir()):
        if entry.name in _IGNORED:
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walked(entry)
        elif entry.is_file() or entry.is_symlink():
            yield entry


def _in_folders(found: Mapping[str, bytes]) -> Mapping[str, tuple[Entry, ...]]:
    """What folders offer: one version each. What is none is left out."""
    offered: dict[str, tuple[Entry, ...]] = {}
    for folder, text in found.items():
        try:
            metadata = charts.chart_of(load(text.decode(errors="replace"), what=folder), what=folder)
        except CountersignError:
            continue
        offered[folder] = (
            Entry(
                name=folder,
                version=str(metadata["version"]),
                app_version=cut(clean_line(str(metadata.get("appVersion") or "")), 60),
                description=cut(clean_line(str(metadata.get("description") or "")), 200),
                deprecated=metadata.get("deprecated") is True,
            ),
        )
    return offered


def _yaml(files: Files, name: str, what: str) -> Any:
    try:
        return load(files[name].decode(), what=f"{name} of {what}")
    except UnicodeDecodeError:
        raise FailedPrecondition(f"{name} of {what} is no text in UTF-8", field="chart") from None


def _vendored(one: Dependency, files: Files) -> bool:
    """Whether it lies below charts/ already, as a folder or as an archive."""
    begins = f"charts/{one.name}"
    return any(
        path == f"{begins}/Chart.yaml" or (path.endswith(".tgz") and path.count("/") == 1 and path.startswith((f"{begins}-", f"{begins}.")))
        for path in files
    )


def _written(files: Files, folder: Path) -> None:
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.touch(mode=0o600)
        target.write_bytes(data)


def _checked(data: bytes, what: str) -> Mapping[str, Any]:
    """The Chart.yaml of an archive that can be one: plain files below one folder, bounded. Raises FailedPrecondition."""
    if len(data) > LARGEST:
        raise _too_large(what)
    room, count, metadata = UNPACKED, 0, None
    tops: set[str] = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for member in tar:
                if member.isdir():
                    continue
                path = charts.member_path(member.name)
                if not member.isreg():
                    raise FailedPrecondition(f"{what} holds {clean_line(path)}, which is no plain file", field="chart")
                room, count = room - member.size, count + 1
                if room < 0 or count > FILES:
                    raise _too_large(what)
                top, _, below = path.partition("/")
                tops.add(top)
                if below == "Chart.yaml":
                    content = tar.extractfile(member)
                    metadata = load((content.read() if content else b"").decode(errors="replace"), what=f"Chart.yaml of {what}")
    except (tarfile.TarError, OSError, EOFError) as broken:
        raise FailedPrecondition(f"{what} is no archive that can be read: {cut(clean_line(str(broken)), 120)}", field="chart") from None
    if len(tops) != 1:
        raise FailedPrecondition(f"{what} is no chart: its archive has to hold one folder", field="chart")
    return charts.chart_of(metadata, what=what)


def _timeless(data: bytes) -> bytes:
    """The same files, in the same order, without the time they were packed at."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar,
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as made,
    ):
        for member in sorted((m for m in tar if m.isreg()), key=lambda m: m.name):
            content = tar.extractfile(member)
            bare = tarfile.TarInfo(member.name)
            bare.size, bare.mode = member.size, 0o644
            made.addfile(bare, content)
    return out.getvalue()


def _too_large(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{clean_line(what)} is larger than {LARGEST >> 20} MiB packed, {UNPACKED >> 20} MiB unpacked or {FILES} files; "
        "keep files out of it (.helmignore)",
        field="chart",
    )
