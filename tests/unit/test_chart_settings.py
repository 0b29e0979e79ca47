"""Chart sources, as the operator writes them."""

from pathlib import Path

import pytest

from countersign.adapters.settings import load
from countersign.core.errors import InvalidArgument
from countersign.core.helm.charts import Kind
from tests.requirements import requirement


def write(folder: Path, *records: str) -> Path:
    (folder / "countersign.toml").write_text("".join(f"[[charts]]\n{record}\n" for record in records))
    return folder


@requirement("helm:chart-sources")
def test_three_kinds_of_sources(tmp_path: Path) -> None:
    settings = load(
        write(
            tmp_path,
            'name = "live"\nrepository = "https://git.example.com/acme/charts"\ngit_ref = "main"\npath = "charts"',
            'name = "stable"\nindex = "https://charts.example.com/stable/"\ncredential = "chart-key"\nhosts = ["cdn.example.com"]',
            'name = "images"\noci = "oci://registry.example.com/charts"',
        )
    )

    assert [(s.source.kind, s.source.address) for s in settings.charts] == [
        (Kind.GIT, "https://git.example.com/acme/charts"),
        (Kind.INDEX, "https://charts.example.com/stable"),
        (Kind.OCI, "oci://registry.example.com/charts"),
    ]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ('name = "a"', "exactly one"),
        ('name = "a"\nindex = "https://a"\noci = "oci://a"', "exactly one"),
        ('name = "stacks"\nindex = "https://a"', "is the folder of stacks"),
        ('name = "A b"\nindex = "https://a"', "lower case"),
        ('name = "a"\nindex = "http://charts.example.com"', "http is for this machine alone"),
        ('name = "a"\nindex = "https://user:word@charts.example.com"', "without a user"),
        ('name = "a"\nindex = "oci://a"', "a chart repository index"),
        ('name = "a"\noci = "https://a"', "a registry is oci"),
        ('name = "a"\nindex = "https://a"\nhosts = ["https://b"]', "write hosts"),
        ('name = "a"\nrepository = "https://git.example.com/x"', "git_ref"),
        ('name = "a"\nrepository = "https://git.example.com/x"\ngit_ref = "main"\ncredential = "k"', "git.credentials"),
        ('name = "a"\nrepository = "https://git.example.com/x"\ngit_ref = "main"\npath = "../x"', "without `..`"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, record: str, why: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load(write(tmp_path, record))
    assert why in refused.value.message
    assert "word@" not in refused.value.message


def test_a_name_means_one_source(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="two chart sources"):
        load(write(tmp_path, 'name = "a"\nindex = "https://a"', 'name = "a"\nindex = "https://b"'))


def test_how_often_releases_are_looked_at(tmp_path: Path) -> None:
    cluster = '[[clusters]]\nenvironment = "local/dev"\nname = "dev"\nkubeconfig_secret = "k"\ndrift_every = "{}"\n'
    (tmp_path / "countersign.toml").write_text(cluster.format("2h"))

    assert load(tmp_path).releases_every == {"local/dev": "2h"}
    for every, why in (("30s", "once a minute at most"), ("often", "reads 90s, 2h or 7d")):
        (tmp_path / "countersign.toml").write_text(cluster.format(every))
        with pytest.raises(InvalidArgument, match=why):
            load(tmp_path)
