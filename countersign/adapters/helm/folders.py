"""Charts as folders below the folder of stacks, packed by helm."""

import re
from dataclasses import dataclass
from pathlib import Path

from countersign.adapters.helm.archive import LARGEST, Archive, Asked
from countersign.adapters.helm.session import Session
from countersign.core.errors import InvalidArgument, NotFound, PolicyDenied

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}\Z")


@dataclass(frozen=True, kw_only=True)
class Folders:
    root: Path

    async def archive(self, asked: Asked, session: Session) -> Archive:
        if asked.repo is not None:
            raise PolicyDenied("no chart repository is allowed here; charts are folders below the folder of stacks", field="repo")
        if not NAME.match(asked.chart) or ".." in asked.chart.split("/"):
            raise InvalidArgument("a chart is named by a path below the folder of stacks, without ..", field="chart")
        folder = self.root / asked.chart
        if not (folder / "Chart.yaml").is_file() or folder.resolve() != folder.absolute():
            raise NotFound(f"there is no chart {asked.chart[:100]} in the folder of stacks", field="chart", next=["helm_search_charts"])
        out = session.folder / "packed"
        out.mkdir(mode=0o700)
        await session.run(["package", str(folder), "--destination", str(out)])
        (packed,) = out.iterdir()
        if packed.stat().st_size > LARGEST:
            raise InvalidArgument(f"the chart is larger than {LARGEST >> 20} MiB, packed", field="chart")
        version = packed.name.removesuffix(".tgz").removeprefix(f"{folder.name}-")
        return Archive(data=packed.read_bytes(), name=folder.name, version=version, source=f"the folder {asked.chart}")
