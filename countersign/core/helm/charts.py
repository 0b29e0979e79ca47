"""Where charts may come from, and which one a request means, decided on names alone, before anything is fetched.

The operator lists sources by name; a request names one of them and never an address. What a chart depends on comes from the same list.
"""

import difflib
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any
from urllib.parse import urljoin, urlsplit

from countersign.core.errors import FailedPrecondition, InvalidArgument, NotFound, PolicyDenied, ProviderError
from countersign.core.model import Payload
from countersign.core.redaction import clean_line, cut

STACKS = "stacks"  # the source that is always there: charts in the folder of stacks
NEAREST = 5  # names or versions in one message
VERSIONS = 1000  # of one chart

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?(?:/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?){0,7}")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_SEMVER = re.compile(
    r"v?(?P<major>0|[1-9]\d{0,9})\.(?P<minor>0|[1-9]\d{0,9})\.(?P<patch>0|[1-9]\d{0,9})"
    r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


class Kind(StrEnum):
    FOLDER = "folder"  # on the worker's machine
    GIT = "git"  # a folder of a repository that git.repositories allows
    INDEX = "index"  # a chart repository: index.yaml
    OCI = "oci"  # a registry


class Source(Payload):
    """One record of the operator's."""

    name: str
    kind: Kind
    address: str = ""  # nothing for a folder
    path: str = "."  # of charts below the folder or the root of the repository
    git_ref: str | None = None
    hosts: tuple[str, ...] = ()  # others that archives may come from, as "host" or "host:port"
    credential: str | None = None  # slug of a sealed secret

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc.lower()

    @property
    def shown(self) -> str:
        return f"{self.name} ({self.address})" if self.address else self.name


class Entry(Payload):
    """One version of a chart, as its source tells."""

    name: str
    version: str
    app_version: str = ""
    description: str = ""
    deprecated: bool = False
    url: str = ""  # of the archive, whole
    sha256: str = ""  # of the archive, where the source says; "sha256:…"


class Dependency(Payload):
    name: str
    version: str
    repository: str = ""
    alias: str = ""


def source_named(sources: Sequence[Source], name: str) -> Source:
    """Raises PolicyDenied naming the list: whatever is not on it is not allowed."""
    found = next((one for one in sources if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in sources)
        raise PolicyDenied(
            f"the chart source {clean_line(name)[:80]!r} is not allowed: allowed are {known}; "
            "ask the operator (charts in countersign.toml)",
            field="repo",
            next=["helm_search_charts"],
        )
    return found


def source_at(sources: Sequence[Source], address: str, *, chart: str) -> Source:
    """The source behind the address that a chart gives for one it depends on. Raises PolicyDenied."""
    bare = address.rstrip("/")
    found = next((one for one in sources if one.address and one.address.rstrip("/") == bare), None)
    if found is None:
        known = ", ".join(one.shown for one in sources)
        raise PolicyDenied(
            f"the chart depends on {clean_line(chart)[:80]} of {cut(clean_line(address), 120)!r}, which is not allowed: "
            f"allowed are {known}; vendor it below charts/, or ask the operator (charts in countersign.toml)",
            field="chart",
        )
    return found


def check_chart(name: str) -> str:
    """The name of a chart below its source, as it is. Raises InvalidArgument."""
    if "://" in name:
        raise InvalidArgument("a chart is named, not given by address: name its source in repo", field="chart", next=["helm_search_charts"])
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidArgument(
            f"{clean_line(name)[:100]!r} is no name of a chart; write it like shop or team/shop, without `..`", field="chart"
        )
    return name


def check_version(version: str) -> str:
    """Raises InvalidArgument: a range would mean another version tomorrow."""
    if not _SEMVER.fullmatch(version):
        raise InvalidArgument(
            f"{clean_line(version)[:60]!r} is no version; write one such as 1.4.2, or leave it out for the newest", field="version"
        )
    return version


def order(version: str) -> tuple[Any, ...]:
    """Sorts versions as SemVer does; what is none sorts before all."""
    found = _SEMVER.fullmatch(version)
    if found is None:
        return (0, version)
    pre = found["pre"]
    parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in pre.split(".")) if pre else ()
    return (1, int(found["major"]), int(found["minor"]), int(found["patch"]), pre is None, parts, found["build"] or "")


def is_stable(version: str) -> bool:
    found = _SEMVER.fullmatch(version)
    return found is not None and found["pre"] is None


def entries_of(index: object, source: Source) -> dict[str, tuple[Entry, ...]]:
    """What an index.yaml offers, newest first. What cannot be an entry is left out: one bad one hides no other. Raises ProviderError."""
    charts = index.get("entries") if isinstance(index, Mapping) else None
    if not isinstance(charts, Mapping):
        raise ProviderError(
            f"the chart source {source.shown} gives an index without entries; see whether its address is right", field="repo"
        )
    found: dict[str, tuple[Entry, ...]] = {}
    for name, versions in charts.items():
        rows = [
            row for one in (versions if isinstance(versions, list) else ())[:VERSIONS] if (row := _entry(name, one, source)) is not None
        ]
        if rows:
            found[name] = tuple(sorted(rows, key=lambda row: order(row.version), reverse=True))
    return found


def _entry(name: object, said: object, source: Source) -> Entry | None:
    if not isinstance(said, Mapping) or not isinstance(name, str) or not _NAME.fullmatch(name):
        return None
    version = said.get("version")
    urls = said.get("urls")
    url = urls[0] if isinstance(urls, list) and urls else None
    if not isinstance(version, str) or not _SEMVER.fullmatch(version) or not isinstance(url, str):
        return None
    digest = _DIGEST.fullmatch(str(said.get("digest", "")))
    return Entry(
        name=name,
        version=version,
        app_version=cut(clean_line(str(said.get("appVersion", ""))), 60),
        description=cut(clean_line(str(said.get("description", ""))), 200),
        deprecated=said.get("deprecated") is True,
        url=urljoin(f"{source.address.rstrip('/')}/", url),
        sha256=f"sha256:{digest[1]}" if digest else "",
    )


def pick(charts: Mapping[str, Sequence[Entry]], chart: str, version: str | None, source: Source) -> Entry:
    """The version that is meant: the newest stable one where none is named. Raises NotFound with what comes near."""
    entries = charts.get(chart)
    if not entries:
        raise NotFound(
            f"the chart source {source.name} has no chart {clean_line(chart)[:80]!r}{_near(chart, charts)}",
            field="chart",
            next=["helm_search_charts"],
        )
    if version is None:
        return next((one for one in entries if is_stable(one.version)), entries[0])
    found = next((one for one in entries if one.version.lstrip("v") == version.lstrip("v")), None)
    if found is None:
        raise no_version(chart, version, [one.version for one in entries])
    return found


def no_version(chart: str, version: str, known: Iterable[str]) -> NotFound:
    there = nearest_versions(version, known)
    told = f"; nearest are {', '.join(there)}" if there else "; it has no version at all"
    return NotFound(f"the chart {clean_line(chart)[:80]} has no version {version}{told}", field="version", next=["helm_get_chart"])


def nearest_versions(version: str, known: Iterable[str]) -> list[str]:
    """Those around where it would stand, newest first."""
    ordered = sorted({one for one in known if _SEMVER.fullmatch(one)}, key=order, reverse=True)
    below = next((place for place, one in enumerate(ordered) if order(one) < order(version)), len(ordered))
    begin = max(0, min(below - NEAREST // 2, len(ordered) - NEAREST))
    return ordered[begin : begin + NEAREST]


def searched(newest: Iterable[Entry], text: str) -> list[Entry]:
    """Those of the newest versions that have all words in name or description; names that begin with the text come first."""
    words = text.lower().split()
    found = [row for row in newest if all(word in f"{row.name} {row.description}".lower() for word in words)]
    return sorted(found, key=lambda row: (not row.name.lower().startswith(text.lower()), row.deprecated, row.name))


def allowed_url(url: str, source: Source) -> bool:
    """Whether an archive may come from there: the source's own host, or one that the operator lists beside it."""
    parts, own = urlsplit(url), urlsplit(source.address)
    scheme = "https" if own.scheme == "oci" and parts.scheme == "https" else own.scheme
    if parts.username is not None or not parts.hostname:
        return False
    netloc = parts.netloc.lower()
    if netloc == source.host:
        return parts.scheme in (scheme, "http" if own.scheme == "oci" and is_loopback(parts.hostname) else scheme)
    return netloc in source.hosts and (parts.scheme == "https" or is_loopback(parts.hostname))


def is_loopback(host: str) -> bool:
    return host in ("localhost", "127.0.0.1", "::1")


def chart_of(metadata: object, *, what: str) -> Mapping[str, Any]:
    """A Chart.yaml that can be one. Raises FailedPrecondition."""
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str) or not isinstance(metadata.get("version"), str):
        raise FailedPrecondition(f"{what} is no chart: its Chart.yaml needs a name and a version", field="chart")
    if not _SEMVER.fullmatch(metadata["version"]):
        raise FailedPrecondition(f"{what} has the version {clean_line(metadata['version'])[:40]!r}, which is none", field="chart")
    if metadata.get("type") == "library":
        raise FailedPrecondition(f"{what} is a library, which other charts use and nobody can install", field="chart")
    return metadata


def dependencies_of(metadata: Mapping[str, Any], lock: object = None) -> tuple[Dependency, ...]:
    """What a chart depends on, with the versions of its lock where it has one. Raises FailedPrecondition."""
    locked = {
        str(one.get("name")): str(one.get("version"))
        for one in ((lock.get("dependencies") if isinstance(lock, Mapping) else None) or ())
        if isinstance(one, Mapping)
    }
    found = []
    for one in metadata.get("dependencies") or ():
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str) or not _NAME.fullmatch(one["name"]):
            raise FailedPrecondition("a dependency in Chart.yaml has no name that one can have", field="chart")
        name = one["name"]
        found.append(
            Dependency(
                name=name,
                version=locked.get(name) or str(one.get("version", "")),
                repository=str(one.get("repository") or ""),
                alias=str(one.get("alias") or ""),
            )
        )
    return tuple(found)


def check_dependency(one: Dependency) -> Dependency:
    """Fetched is only what has one exact version and an address. Raises FailedPrecondition saying what to do."""
    if not one.repository or one.repository.startswith(("@", "alias:")):
        raise FailedPrecondition(
            f"the chart depends on {one.name}, which is not below its charts/, and says no address of it; vendor it there", field="chart"
        )
    if not one.repository.startswith("file://") and not _SEMVER.fullmatch(one.version):
        raise FailedPrecondition(
            f"the chart depends on {one.name} {cut(clean_line(one.version), 40)}, which is no exact version: commit a Chart.lock "
            "(`helm dependency update`), or vendor it below charts/",
            field="chart",
        )
    return one


def folder_beside(chart: str, repository: str) -> str:
    """The folder that `file://../common` means, seen from the root of the source. Raises PolicyDenied where that leaves it."""
    relative = repository.removeprefix("file://")
    found = posixpath.normpath(posixpath.join(chart, relative))
    if relative.startswith("/") or found.startswith("..") or "\0" in found:
        raise PolicyDenied(f"the chart depends on {cut(clean_line(repository), 120)}, which leads out of its source", field="chart")
    return found


def member_path(name: str) -> str:
    """The path of a file in an archive. Raises FailedPrecondition for one that would lie elsewhere."""
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts) or len(name) > 500:
        raise FailedPrecondition(f"the chart's archive holds {cut(clean_line(name), 80)!r}, which is no path below it", field="chart")
    return name


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return f"; did you mean {', '.join(near)}?"
    return f"; it has {', '.join(names[:NEAREST])}{' and more' if len(names) > NEAREST else ''}" if names else "; it has none at all"
