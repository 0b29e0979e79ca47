"""An index is read as far as somebody asks, and means the same as if it were read whole."""

import pytest
import yaml

from countersign.core.errors import ProviderError
from countersign.core.helm import index
from countersign.core.helm.charts import Kind, Source, entries_of, pick, searched
from countersign.core.helm.index import Index

SOURCE = Source(name="stable", kind=Kind.INDEX, address="https://charts.example.com")


def document(charts: int = 3, versions: int = 4) -> dict[str, object]:
    def row(name: str, version: int) -> dict[str, object]:
        return {
            "name": name,
            "version": f"{version}.0.0",
            "urls": [f"{name}-{version}.0.0.tgz"],
            "description": f"The {name}:\n  one: of\n- many",
            "dependencies": [{"name": "common", "version": "1.x"}],
        }

    entries = {f"chart-{n}": [row(f"chart-{n}", v) for v in range(versions, 0, -1)] for n in range(charts)}
    return {"apiVersion": "v1", "entries": entries, "generated": "2026-01-01T00:00:00Z"}


def written(value: object, **how: int | bool) -> str:
    """As PyYAML writes it; Helm's way is that of `indented`."""
    return str(yaml.safe_dump(value, **how))  # type: ignore[arg-type]


WAYS = [written(document()), written(document()).replace("\n  - ", "\n    - "), written(document(), default_flow_style=True)]


@pytest.mark.parametrize("text", [WAYS[0], WAYS[2]])
def test_it_means_what_it_means_when_read_whole(text: str) -> None:
    found = Index(text, SOURCE)

    assert {name: found[name] for name in found} == entries_of(document(), SOURCE)
    assert len(found) == 3
    assert pick(found, "chart-1", None, SOURCE).version == "4.0.0"
    assert [entry.version for entry in found.newest()] == ["4.0.0"] * 3
    assert [entry.name for entry in searched(found.newest(), "chart-2")] == ["chart-2"]


def test_what_is_not_asked_for_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Index(written(document()), SOURCE)
    read: list[str] = []
    whole = index.load
    monkeypatch.setattr(index, "load", lambda text, **more: read.append(text) or whole(text, **more))

    assert found["chart-1"][0].version == "4.0.0"
    assert found["chart-1"][3].version == "1.0.0"
    assert len(read) == 1
    assert "chart-2" not in read[0]
    list(found.newest())
    assert all(text.count("version: 1.0.0") == 0 for text in read[1:])


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: v1\nentries:\n  a: &x\n  - {version: 1.0.0, urls: [a.tgz]}\n  b: *x\n",
        "entries: {a: [{version: 1.0.0, urls: [a.tgz]}]}\n",
        "entries:\n  # first\n  'a':\n  - {version: 1.0.0, urls: [a.tgz]}\n",
        "entries:\n    a:\n    - {version: 1.0.0, urls: [a.tgz]}\n",
    ],
)
def test_what_is_written_otherwise_is_read_whole(text: str) -> None:
    found = Index(text, SOURCE)

    assert found["a"][0].version == "1.0.0"
    assert next(found.newest()).name == "a"


@pytest.mark.parametrize("text", ["<html>", "", "entries:\n", "entries: []\n", "other: 1\n"])
def test_what_is_no_index_is_told(text: str) -> None:
    with pytest.raises(ProviderError, match="gives an index without entries"):
        Index(text, SOURCE)


def test_a_chart_that_cannot_be_read_hides_no_other() -> None:
    found = Index("entries:\n  bad:\n  - {version: [\n  good:\n  - version: 1.0.0\n    urls: [g.tgz]\n", SOURCE)

    assert found["good"][0].version == "1.0.0"
    with pytest.raises(ProviderError, match="no YAML"):
        found["bad"]
    none = Index("entries:\n  empty:\n  other:\n  - version: 1.0.0\n    urls: [o.tgz]\n", SOURCE)
    assert none["empty"] == ()
    assert [entry.name for entry in none.newest()] == ["other"]
    with pytest.raises(KeyError):
        found["lacking"]
