"""Which chart a request means, and that it comes from nowhere else than the operator lists."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from countersign.core.errors import CountersignError, FailedPrecondition, InvalidArgument, NotFound, PolicyDenied, ProviderError
from countersign.core.helm.charts import (
    Dependency,
    Entry,
    Kind,
    Source,
    allowed_url,
    chart_of,
    check_chart,
    check_dependency,
    check_version,
    dependencies_of,
    entries_of,
    folder_beside,
    is_stable,
    member_path,
    nearest_versions,
    order,
    pick,
    searched,
    source_at,
    source_named,
)
from tests.requirements import requirement

STABLE = Source(name="stable", kind=Kind.INDEX, address="https://charts.example.com/stable", hosts=("cdn.example.com",))
REGISTRY = Source(name="registry", kind=Kind.OCI, address="oci://registry.example.com/charts", hosts=("blobs.example.com",))
LOCAL = Source(name="local", kind=Kind.INDEX, address="http://127.0.0.1:8080/charts", hosts=("127.0.0.1:9090",))
STACKS = Source(name="stacks", kind=Kind.FOLDER)
ALL = (STACKS, STABLE, REGISTRY)


def refused(kind: type[CountersignError], call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(kind) as found:
        call(*args, **more)
    return found.value.message


# Which source.


@requirement("helm:chart-sources")
def test_what_is_not_listed_is_denied_with_the_list() -> None:
    assert source_named(ALL, "stable") is STABLE
    assert "allowed are stacks, stable, registry" in refused(PolicyDenied, source_named, ALL, "https://evil.example.com")
    assert source_at(ALL, "https://charts.example.com/stable/", chart="db") is STABLE
    assert "stable (https://charts.example.com/stable)" in refused(PolicyDenied, source_at, ALL, "https://evil.example.com", chart="db")
    assert "db" in refused(PolicyDenied, source_at, ALL, "", chart="db")


@pytest.mark.parametrize(
    ("url", "source", "allowed"),
    [
        ("https://charts.example.com/a.tgz", STABLE, True),
        ("https://CDN.example.com/a.tgz", STABLE, True),
        ("http://charts.example.com/a.tgz", STABLE, False),
        ("http://cdn.example.com/a.tgz", STABLE, False),
        ("https://evil.example.com/a.tgz", STABLE, False),
        ("https://charts.example.com.evil.com/a.tgz", STABLE, False),
        ("https://user@charts.example.com/a.tgz", STABLE, False),
        ("file:///etc/passwd", STABLE, False),
        ("https://registry.example.com/v2/a", REGISTRY, True),
        ("http://registry.example.com/v2/a", REGISTRY, False),
        ("https://blobs.example.com/a", REGISTRY, True),
        ("http://127.0.0.1:8080/a.tgz", LOCAL, True),
        ("http://127.0.0.1:9090/a.tgz", LOCAL, True),
        ("http://127.0.0.1:9091/a.tgz", LOCAL, False),
        ("http://localhost:5000/v2/a", Source(name="o", kind=Kind.OCI, address="oci://localhost:5000"), True),
    ],
)
@requirement("helm:chart-sources")
def test_archives_come_from_listed_hosts_alone(url: str, source: Source, allowed: bool) -> None:
    assert allowed_url(url, source) is allowed


# Names and versions.


@pytest.mark.parametrize("name", ["shop", "team/shop", "Shop_2.0", "a" * 63])
def test_names_of_charts(name: str) -> None:
    assert check_chart(name) == name


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/etc", "a//b", "-rf", "a b", "a\n", "a/", "https://x/y", "oci://x", "a..b"])
def test_what_is_no_name_of_a_chart(name: str) -> None:
    assert refused(InvalidArgument, check_chart, name)


def test_versions_are_exact() -> None:
    assert check_version("v1.2.3-rc.1+build") == "v1.2.3-rc.1+build"
    for version in ("^1.2.0", "1.2", "latest", "1.2.3 || 2", "", "01.2.3"):
        assert "is no version" in refused(InvalidArgument, check_version, version)
    assert (is_stable("1.0.0"), is_stable("1.0.0-rc1"), is_stable("main")) == (True, False, False)


def test_versions_are_ordered_as_semver_says() -> None:
    ordered = ["odd", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "1.2.0", "1.10.0"]

    assert all(order(a) < order(b) for a, b in itertools.pairwise(ordered))


@given(
    st.lists(
        st.builds(lambda a, b, c, p: f"{a}.{b}.{c}{p}", *[st.integers(0, 12)] * 3, st.sampled_from(["", "-rc.1", "-a", "+b"])), max_size=9
    )
)
def test_nearest_versions_are_few_and_known(known: list[str]) -> None:
    near = nearest_versions("6.0.0", known)

    assert set(near) <= set(known)
    assert len(near) == min(5, len(set(known)))


def test_nearest_versions_stand_around() -> None:
    assert nearest_versions("1.5.0", [f"1.{n}.0" for n in range(10) if n != 5]) == ["1.7.0", "1.6.0", "1.4.0", "1.3.0", "1.2.0"]


# An index.

INDEX = {
    "entries": {
        "shop": [
            {"version": "1.2.0", "urls": ["shop-1.2.0.tgz"], "digest": "a" * 64, "description": "The shop\x1b[31m", "appVersion": 7},
            {"version": "1.10.0", "urls": ["https://cdn.example.com/shop-1.10.0.tgz"], "digest": "odd"},
            {"version": "2.0.0-rc.1", "urls": ["x.tgz"], "deprecated": True},
            {"version": "latest", "urls": ["x.tgz"]},
            {"version": "3.0.0", "urls": []},
            {"version": 4, "urls": ["x"]},
            {"version": "5.0.0", "urls": [5]},
            "odd",
        ],
        "next": [{"version": "0.1.0-a", "urls": ["n.tgz"], "description": "what comes after the shop"}],
        "empty": [],
        "odd": "none",
        "../bad": [{"version": "1.0.0", "urls": ["x"]}],
        5: [{"version": "1.0.0", "urls": ["x"]}],
    }
}


def test_an_index_is_read_and_what_is_odd_in_it_left_out() -> None:
    charts = entries_of(INDEX, STABLE)

    assert [e.version for e in charts["shop"]] == ["2.0.0-rc.1", "1.10.0", "1.2.0"]
    assert set(charts) == {"shop", "next"}
    assert charts["shop"][2] == Entry(
        name="shop",
        version="1.2.0",
        app_version="7",
        description="The shop",
        url="https://charts.example.com/stable/shop-1.2.0.tgz",
        sha256="sha256:" + "a" * 64,
    )
    assert charts["shop"][1].sha256 == ""
    assert "without entries" in refused(ProviderError, entries_of, "<html>", STABLE)
    assert "without entries" in refused(ProviderError, entries_of, {"entries": []}, STABLE)


def test_the_newest_stable_version_is_meant_where_none_is_named() -> None:
    charts = entries_of(INDEX, STABLE)

    assert pick(charts, "shop", None, STABLE).version == "1.10.0"
    assert pick(charts, "next", None, STABLE).version == "0.1.0-a"
    assert pick(charts, "shop", "v1.2.0", STABLE).version == "1.2.0"


@requirement("helm:chart-sources")
def test_what_is_not_there_is_told_with_what_comes_near() -> None:
    charts = entries_of(INDEX, STABLE)

    assert "nearest are 2.0.0-rc.1, 1.10.0, 1.2.0" in refused(NotFound, pick, charts, "shop", "1.3.0", STABLE)
    assert "did you mean shop?" in refused(NotFound, pick, charts, "shp", None, STABLE)
    assert "it has next, shop" in refused(NotFound, pick, charts, "zzz", None, STABLE)
    assert "it has none at all" in refused(NotFound, pick, {}, "zzz", None, STABLE)
    assert "it has no version at all" in refused(NotFound, pick, {"a": [Entry(name="a", version="odd")]}, "a", "1.0.0", STABLE)
    many = {f"chart{n}": charts["shop"] for n in range(9)}
    assert "and more" in refused(NotFound, pick, many, "zzz", None, STABLE)


def test_searching_by_words() -> None:
    charts = [entries[0] for entries in entries_of(INDEX, STABLE).values()]

    assert [e.name for e in searched(charts, "shop")] == ["shop", "next"]
    assert [e.name for e in searched(charts, "after comes")] == ["next"]
    assert [e.name for e in searched(charts, "")] == ["next", "shop"]


# Chart.yaml.


def test_a_chart_has_a_name_and_a_version_and_can_be_installed() -> None:
    assert chart_of({"name": "a", "version": "1.0.0"}, what="it")["name"] == "a"
    for said, why in (
        ("text", "needs a name"),
        ({"name": "a"}, "needs a name"),
        ({"name": "a", "version": "one"}, "which is none"),
        ({"name": "a", "version": "1.0.0", "type": "library"}, "library"),
    ):
        assert why in refused(FailedPrecondition, chart_of, said, what="it")


def test_what_a_chart_depends_on() -> None:
    metadata = {"dependencies": [{"name": "db", "version": "^1", "repository": "https://a", "alias": "store"}, {"name": "lib"}]}

    assert dependencies_of({}) == ()
    assert dependencies_of(metadata, {"dependencies": [{"name": "db", "version": "1.4.2"}, "odd"]}) == (
        Dependency(name="db", version="1.4.2", repository="https://a", alias="store"),
        Dependency(name="lib", version=""),
    )
    assert dependencies_of(metadata, "odd")[0].version == "^1"
    assert "no name" in refused(FailedPrecondition, dependencies_of, {"dependencies": ["odd"]})
    assert "no name" in refused(FailedPrecondition, dependencies_of, {"dependencies": [{"name": "../x"}]})


def test_what_is_fetched_for_a_chart_is_exact() -> None:
    exact = Dependency(name="db", version="1.4.2", repository="https://a")
    beside = Dependency(name="db", version="", repository="file://../db")

    assert check_dependency(exact) is exact
    assert check_dependency(beside) is beside
    assert "Chart.lock" in refused(FailedPrecondition, check_dependency, Dependency(name="db", version="^1", repository="https://a"))
    for repository in ("", "@stable", "alias:stable"):
        assert "vendor it" in refused(FailedPrecondition, check_dependency, Dependency(name="db", version="1.0.0", repository=repository))


def test_charts_beside_a_chart_stay_in_its_source() -> None:
    assert folder_beside("charts/shop", "file://../common") == "charts/common"
    for repository in ("file:///etc", "file://../../..", "file://../../../x"):
        assert "leads out" in refused(PolicyDenied, folder_beside, "charts/shop", repository)


def test_paths_in_archives() -> None:
    assert member_path("shop/templates/a.yaml") == "shop/templates/a.yaml"
    for path in ("/etc/passwd", "shop/../../x", "shop//a", "shop\\a", "a/" * 300 + "b", "shop/\0", "./a", "shop/"):
        assert "no path below it" in refused(FailedPrecondition, member_path, path)
