"""What of a chart's archive Helm takes for what."""

import io
import tarfile
from collections.abc import Mapping

from countersign.adapters.helm.archive import crds_of


def archive(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(f"shop/{path}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_definitions_are_those_of_the_chart_and_of_its_subcharts_and_no_templates() -> None:
    packed = archive({"crds/c.json": b"packed", "templates/crds/d.yaml": b"{{ template }}"})
    chart = archive(
        {
            "crds/a.yaml": b"own",
            "crds/below/b.yml": b"own, below",
            "crds/README.md": b"text",
            "charts/open/crds/e.yaml": b"of an open subchart",
            "charts/open/charts/deep.tgz": packed,
            "charts/packed-1.0.0.tgz": packed,
            "templates/crds/f.yaml": b"{{ template }}",
            "files/crds/g.yaml": b"a file",
            "files/chart.tgz": packed,
        }
    )

    assert crds_of(chart).split("\n---\n") == ["packed", "of an open subchart", "packed", "own", "own, below"]
