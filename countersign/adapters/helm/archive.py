"""A chart, fixed: one archive with its digest. Whatever it came from may be another one a minute later."""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from countersign.adapters.helm.session import Session
from countersign.core.errors import ProviderError
from countersign.core.redaction import clean_line, cut

LARGEST = 8 << 20  # bytes, packed; a release holds 1 MiB of it
UNPACKED = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Asked:
    """As the request names a chart."""

    chart: str
    repo: str | None = None
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Archive:
    data: bytes = field(repr=False)
    name: str
    version: str
    source: str  # where it came from, for people
    commit: str | None = None

    @property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.data).hexdigest()

    def written(self, folder: Path) -> Path:
        path = folder / "chart.tgz"
        path.touch(mode=0o600)
        path.write_bytes(self.data)
        return path


class Charts(Protocol):
    """Where charts may come from."""

    async def archive(self, asked: Asked, session: Session) -> Archive:
        """The one archive that is meant. Raises PolicyDenied, NotFound, InvalidArgument, Unavailable."""
        ...


def files_of(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(path below the chart's own folder, content) of every plain file. Raises ProviderError where it is no archive, or too large."""
    room = UNPACKED
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                room -= member.size
                if room < 0:
                    raise ProviderError(f"the chart unpacks to more than {UNPACKED >> 20} MiB", field="chart")
                content = tar.extractfile(member)
                yield member.name.partition("/")[2], content.read() if content else b""
    except (tarfile.TarError, OSError, EOFError) as broken:
        raise ProviderError(f"the chart is no archive that can be read: {cut(clean_line(str(broken)), 120)}", field="chart") from None


_CRD = re.compile(r"(?:charts/[^/]+/)*crds/.*\.(?:yaml|yml|json)\Z")
_PACKED = re.compile(r"(?:charts/[^/]+/)*charts/[^/]+\.tgz\Z")  # a subchart


def crds_of(data: bytes) -> str:
    """The texts of all `crds/` folders, subcharts' too: Helm installs them once, before everything else, and never upgrades them.

    What lies in `templates/crds/` is a template like any other.
    """
    return "\n---\n".join(_crds(data))


def _crds(data: bytes) -> Iterator[str]:
    for path, content in sorted(files_of(data)):
        if _CRD.match(path):
            yield content.decode(errors="replace")
        elif _PACKED.match(path):
            yield from _crds(content)
