"""Charts from a folder, a repository, an index and a registry: one archive each, and from nowhere else."""

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.git import Mirrors, Remotes
from countersign.adapters.helm import archive as archives
from countersign.adapters.helm.archive import Asked
from countersign.adapters.helm.command import HelmCommand, environment_of
from countersign.adapters.helm.fetching import Fetcher
from countersign.adapters.helm.sources import ChartSources
from countersign.core.errors import (
    CountersignError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PolicyDenied,
    ProviderError,
    Unavailable,
)
from countersign.core.helm.charts import Kind, Source
from countersign.core.repository import Repositories
from tests.kubernetes.chart_servers import ChartServer, chart, packed, pushed, registry, serving
from tests.requirements import requirement
from tests.tools import built

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


SECRETS = {"chart-key": '{"username": "ana", "password": "word-of-charts"}', "token": "a-token-of-ours", "broken": '{"username": 5}'}


@dataclass
class Work:
    attempt_id: str
    folder: Path
    helm: HelmCommand

    async def reveal(self, slug: str) -> str:
        return SECRETS[slug]


@dataclass
class World:
    root: Path

    @property
    def stacks(self) -> Path:
        return self.root / "stacks"

    @asynccontextmanager
    async def sources(self, *listed: Source, local: Path | None = None) -> AsyncIterator[tuple[ChartSources, Work]]:
        self.stacks.mkdir(exist_ok=True)
        folder = self.root / "work"
        folder.mkdir(exist_ok=True)
        environment = environment_of(self.root / "home", attempt="att_1", search_path="/usr/bin:/bin", passed={})
        helm = HelmCommand(executable=built("kube", "helm"), folder=folder, environment=environment)
        fetcher = Fetcher({})
        made = ChartSources(
            listed=listed,
            stacks_root=self.stacks,
            cache=self.root / "cache",
            mirrors=Mirrors(folder=self.root / "mirrors", remotes=Remotes(repositories=Repositories(allowed=("local:*",)), local=local)),
            fetcher=fetcher,
            search_path="/usr/bin:/bin",
        )
        yield made, Work("att_1", folder, helm)
        await made.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ChartServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as it:
        yield it


def indexed(server: ChartServer, **more: Any) -> Source:
    return Source(name="stable", kind=Kind.INDEX, address=server.address, **more)


def put(server: ChartServer, tmp_path: Path, *versions: str, name: str = "shop") -> None:
    for version in versions:
        packed(chart(tmp_path / "made", name, version), server.folder)
    server.index()


async def refused(kind: type[CountersignError], asking: Any) -> CountersignError:
    with pytest.raises(kind) as found:
        await asking
    return found.value


def names(data: bytes) -> list[str]:
    return sorted(path for path, _ in archives.files_of(data))


# Folders.


async def test_a_folder_is_packed_by_helm_and_the_same_files_are_the_same_archive(world: World) -> None:
    chart(world.stacks, "team/shop", "1.2.3", _helmignore="notes.txt\n")
    (world.stacks / "team/shop/.helmignore").write_text("notes.txt\n")
    (world.stacks / "team/shop/notes.txt").write_text("private")
    async with world.sources() as (sources, work):
        one = await sources.archive(Asked(chart="team/shop"), work)
        os.utime(world.stacks / "team/shop/values.yaml", (1, 1))
        again = await sources.archive(Asked(chart="team/shop", repo="stacks", version="1.2.3"), work)
        (world.stacks / "team/shop/values.yaml").write_text("greeting: bye\n")
        other = await sources.archive(Asked(chart="team/shop"), work)

    assert (one.name, one.version, one.source, one.commit) == ("shop", "1.2.3", "stacks", None)
    assert one.digest == again.digest != other.digest
    assert "templates/config.yaml" in names(one.data)
    assert "notes.txt" not in names(one.data)
    assert not list(work.folder.glob("pack-*"))


@pytest.mark.parametrize(("link", "says"), [("values.yaml", "is a link"), ("", "goes through a link")])
async def test_links_are_refused(world: World, link: str, says: str) -> None:
    place = chart(world.stacks)
    if link:
        (place / link).unlink()
        (place / link).symlink_to("/etc/passwd")
    else:
        place.rename(world.root / "elsewhere")
        place.symlink_to(world.root / "elsewhere")
    async with world.sources() as (sources, work):
        error = await refused(CountersignError, sources.archive(Asked(chart="shop", repo="stacks"), work))
    assert says in error.message


@pytest.mark.parametrize(
    ("asked", "kind", "says"),
    [
        (Asked(chart="../etc"), InvalidArgument, "no name of a chart"),
        (Asked(chart="/etc"), InvalidArgument, "no name of a chart"),
        (Asked(chart="oci://evil.example.com/x"), InvalidArgument, "named, not given by address"),
        (Asked(chart="shop", repo="https://evil.example.com"), PolicyDenied, "allowed are stacks"),
        (Asked(chart="shop", version="^1"), InvalidArgument, "is no version"),
        (Asked(chart="shop", version="9.0.0"), NotFound, "nearest are 1.0.0"),
        (Asked(chart="shp"), NotFound, "it has broken, lib, shop"),
        (Asked(chart="broken"), FailedPrecondition, "needs a name"),
        (Asked(chart="lib"), FailedPrecondition, "library"),
    ],
)
@requirement("helm:chart-sources")
async def test_what_a_request_cannot_mean(world: World, asked: Asked, kind: type[CountersignError], says: str) -> None:
    chart(world.stacks)
    chart(world.stacks, "broken", Chart_yaml="name: 7\n")
    chart(world.stacks, "lib", Chart_yaml="apiVersion: v2\nname: lib\nversion: 1.0.0\ntype: library\n")
    async with world.sources() as (sources, work):
        assert says.replace("broken, lib, ", "") in (await refused(kind, sources.archive(asked, work))).message


async def test_a_chart_too_large_is_refused(world: World) -> None:
    place = chart(world.stacks)
    for number in range(3):  # helm itself takes no file above 5 MiB
        (place / f"random{number}.bin").write_bytes(os.urandom(4 << 20))
    async with world.sources() as (sources, work):
        assert ".helmignore" in (await refused(FailedPrecondition, sources.archive(Asked(chart="shop"), work))).message


# What charts depend on.

DEPENDS = "apiVersion: v2\nname: shop\nversion: 1.0.0\ndependencies:\n"


async def test_what_a_chart_depends_on_comes_from_beside_it_and_from_the_list(world: World, server: ChartServer, tmp_path: Path) -> None:
    put(server, tmp_path, "2.0.0", name="db")
    chart(world.stacks, "common")
    needs = (
        f"- {{name: common, version: 1.0.0, repository: file://../common}}\n- {{name: db, version: ^2, repository: '{server.address}/'}}\n"
    )
    chart(world.stacks, "shop", Chart_yaml=DEPENDS + needs, Chart_lock="dependencies:\n- {name: db, version: 2.0.0}\n")
    async with world.sources(indexed(server)) as (sources, work):
        one = await sources.archive(Asked(chart="shop"), work)
        again = await sources.archive(Asked(chart="shop"), work)

    assert one.digest == again.digest
    assert {"charts/common/Chart.yaml", "charts/db/Chart.yaml"} <= set(names(one.data))


async def test_what_is_vendored_is_not_fetched(world: World) -> None:
    place = chart(world.stacks, Chart_yaml=DEPENDS + "- {name: db, version: ^2, repository: 'https://gone.invalid'}\n")
    chart(place / "charts", "db", "2.1.0")
    async with world.sources() as (sources, work):
        assert "charts/db/Chart.yaml" in names((await sources.archive(Asked(chart="shop"), work)).data)


@pytest.mark.parametrize(
    ("dependency", "kind", "says"),
    [
        ("{name: db, version: 2.0.0, repository: 'https://evil.example.com'}", PolicyDenied, "not allowed"),
        ("{name: db, version: ^2, repository: 'https://evil.example.com'}", FailedPrecondition, "Chart.lock"),
        ("{name: db, version: 2.0.0, repository: '@stable'}", FailedPrecondition, "vendor it"),
        ("{name: db, version: 2.0.0, repository: 'file:///etc'}", PolicyDenied, "leads out"),
        ("{name: db, version: 2.0.0, repository: 'file://../../x'}", PolicyDenied, "leads out"),
        ("{name: shop, version: 1.0.0, repository: 'file://../shop'}", FailedPrecondition, "deep"),
    ],
)
@requirement("helm:chart-sources")
async def test_what_a_chart_may_not_depend_on(world: World, dependency: str, kind: type[CountersignError], says: str) -> None:
    chart(world.stacks, Chart_yaml=DEPENDS + f"- {dependency}\n")
    async with world.sources() as (sources, work):
        assert says in (await refused(kind, sources.archive(Asked(chart="shop"), work))).message


# Repositories.


def committed(folder: Path, name: str) -> Path:
    """A bare repository with what is in `folder` on main."""
    bare = folder.parent / f"{name}.git"
    git: Mapping[str, Any] = {"check": True, "capture_output": True}
    ids = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], **git)
    subprocess.run(["git", "-C", str(folder), "add", "-A"], **git)
    subprocess.run(["git", "-C", str(folder), *ids, "commit", "-q", "-m", "charts"], **git)
    subprocess.run(["git", "clone", "-q", "--bare", str(folder), str(bare)], **git)
    return bare


@requirement("helm:chart-sources")
async def test_a_chart_of_a_repository_names_its_commit(world: World, tmp_path: Path) -> None:
    tree = tmp_path / "repositories" / "tree"
    chart(
        tree / "charts",
        "shop",
        "3.0.0",
        Chart_yaml=DEPENDS.replace("1.0.0", "3.0.0") + "- {name: lib, version: 1.0.0, repository: file://../lib}\n",
    )
    chart(tree / "charts", "lib")
    (chart(tree / "charts", "linked") / "link").symlink_to("/etc/passwd")
    bare = committed(tree, "charts")
    source = Source(name="live", kind=Kind.GIT, address="local:charts.git", path="charts", git_ref="main")
    async with world.sources(source, local=bare.parent) as (sources, work):
        one = await sources.archive(Asked(chart="shop"), work)
        found, _ = await sources.search("shop", "live", work)
        link = await refused(FailedPrecondition, sources.archive(Asked(chart="linked"), work))
        lacking = await refused(NotFound, sources.archive(Asked(chart="gone"), work))

    assert (one.name, one.version, one.source) == ("shop", "3.0.0", "live (local:charts.git)")
    assert one.commit is not None and len(one.commit) == 40
    assert "charts/lib/Chart.yaml" in names(one.data)
    assert [(entry.name, entry.version) for _, entry in found] == [("shop", "3.0.0")]
    assert "is a link" in link.message
    assert "it has lib, linked, shop" in lacking.message


# Indexes.


@requirement("helm:chart-sources")
async def test_an_index_offers_versions_and_each_is_fetched_once(world: World, server: ChartServer, tmp_path: Path) -> None:
    put(server, tmp_path, "1.0.0", "1.10.0", "2.0.0-rc.1")
    async with world.sources(indexed(server)) as (sources, work):
        newest = await sources.archive(Asked(chart="shop"), work)
        await sources.archive(Asked(chart="shop", version="1.10.0"), work)
        old = await sources.archive(Asked(chart="shop", repo="stable", version="1.0.0"), work)
        versions = [entry.version for entry in await sources.versions(Asked(chart="shop"), work)]

    assert (newest.version, old.version, versions) == ("1.10.0", "1.0.0", ["2.0.0-rc.1", "1.10.0", "1.0.0"])
    assert newest.digest == "sha256:" + hashlib.sha256((server.folder / "shop-1.10.0.tgz").read_bytes()).hexdigest()
    assert sorted(path for path, _ in server.asked) == ["/index.yaml", "/shop-1.0.0.tgz", "/shop-1.10.0.tgz"]


async def test_a_cached_archive_that_was_changed_is_fetched_again(world: World, server: ChartServer, tmp_path: Path) -> None:
    put(server, tmp_path, "1.0.0")
    async with world.sources(indexed(server)) as (sources, work):
        one = await sources.archive(Asked(chart="shop"), work)
        (cached,) = (world.root / "cache").glob("*.tgz")
        cached.write_bytes(b"something else")
        again = await sources.archive(Asked(chart="shop"), work)

    assert one.digest == again.digest
    assert [path for path, _ in server.asked].count("/shop-1.0.0.tgz") == 2


async def test_a_key_opens_its_source_and_is_shown_to_nobody_else(world: World, server: ChartServer, tmp_path: Path) -> None:
    put(server, tmp_path, "1.0.0")
    server.key = "ana:word-of-charts"
    with serving(tmp_path / "served") as other:
        server.answers["/shop-1.0.0.tgz"] = (302, {"Location": f"{other.address}/shop-1.0.0.tgz"}, b"")
        source = indexed(server, credential="chart-key", hosts=(f"127.0.0.1:{other.port}",))
        async with world.sources(source) as (sources, work):
            one = await sources.archive(Asked(chart="shop"), work)

    assert one.version == "1.0.0"
    assert all(given.startswith("Basic ") for _, given in server.asked)
    assert [given for _, given in other.asked] == [""]


@pytest.mark.parametrize(
    ("credential", "says"),
    [(None, "it asks for a key"), ("token", "the secret token does not open it"), ("broken", "neither a token")],
)
async def test_a_source_that_stays_closed_says_what_to_do(
    world: World, server: ChartServer, tmp_path: Path, credential: str | None, says: str
) -> None:
    put(server, tmp_path, "1.0.0")
    server.key = "ana:word-of-charts"
    async with world.sources(indexed(server, credential=credential)) as (sources, work):
        error = await refused(FailedPrecondition, sources.archive(Asked(chart="shop"), work))

    assert says in error.message
    assert "a-token-of-ours" not in error.message


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:1/shop.tgz", "https://evil.example.com/shop.tgz", "file:///etc/passwd", "//evil.example.com/x"]
)
@requirement("helm:chart-sources")
async def test_a_redirect_off_the_list_is_refused(world: World, server: ChartServer, tmp_path: Path, location: str) -> None:
    put(server, tmp_path, "1.0.0")
    server.answers["/shop-1.0.0.tgz"] = (302, {"Location": location}, b"")
    async with world.sources(indexed(server)) as (sources, work):
        assert "not allowed" in (await refused(PolicyDenied, sources.archive(Asked(chart="shop"), work))).message


async def test_an_index_that_names_archives_elsewhere_is_refused(world: World, server: ChartServer, tmp_path: Path) -> None:
    packed(chart(tmp_path / "made"), server.folder)
    server.index("https://evil.example.com/charts")
    async with world.sources(indexed(server)) as (sources, work):
        assert "evil.example.com" in (await refused(PolicyDenied, sources.archive(Asked(chart="shop"), work))).message


def _tgz(*members: tuple[str, bytes, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content) if kind == tarfile.REGTYPE else 0, "/etc/passwd"
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


META = b"apiVersion: v2\nname: shop\nversion: 1.0.0\n"
FILE = tarfile.REGTYPE


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"no archive", "no archive that can be read"),
        (_tgz(("shop/Chart.yaml", FILE, META), ("shop/../../x", FILE, b"")), "no path below it"),
        (_tgz(("/shop/Chart.yaml", FILE, META)), "no path below it"),
        (_tgz(("shop/Chart.yaml", FILE, META), ("shop/l", tarfile.SYMTYPE, b"")), "no plain file"),
        (_tgz(("shop/Chart.yaml", FILE, META), ("other/x", FILE, b"")), "has to hold one folder"),
        (_tgz(("shop/values.yaml", FILE, META)), "needs a name"),
        (_tgz(("shop/Chart.yaml", FILE, b"a: [")), "no YAML"),
        (_tgz(("shop/Chart.yaml", FILE, META), ("shop/zeros", FILE, b"\0" * (65 << 20))), "larger than"),
        (gzip.compress(os.urandom(9 << 20), 0), "larger than 8 MiB"),
        (_tgz(("evil/Chart.yaml", FILE, META.replace(b"shop", b"evil"))), "gives evil 1.0.0 for shop 1.0.0"),
    ],
)
async def test_an_archive_that_is_no_chart_is_refused(world: World, server: ChartServer, tmp_path: Path, body: bytes, says: str) -> None:
    put(server, tmp_path, "1.0.0")
    index = (server.folder / "index.yaml").read_text()
    (server.folder / "index.yaml").write_text("\n".join(line for line in index.splitlines() if "digest" not in line))
    server.answers["/shop-1.0.0.tgz"] = (200, {}, body)
    async with world.sources(indexed(server)) as (sources, work):
        assert says in (await refused(CountersignError, sources.archive(Asked(chart="shop"), work))).message
    assert not list((world.root / "cache").glob("*.tgz"))


async def test_an_archive_other_than_its_index_says_is_refused(world: World, server: ChartServer, tmp_path: Path) -> None:
    put(server, tmp_path, "1.0.0")
    server.answers["/shop-1.0.0.tgz"] = (200, {}, _tgz(("shop/Chart.yaml", FILE, META)))
    async with world.sources(indexed(server)) as (sources, work):
        assert "not the one its index names" in (await refused(ProviderError, sources.archive(Asked(chart="shop"), work))).message


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ((404, {}, b""), NotFound, "does not have the index"),
        ((503, {}, b""), Unavailable, "ask again later"),
        ((418, {}, b""), ProviderError, "refuses the index (418)"),
        ((200, {}, b"<html>"), ProviderError, "without entries"),
        ((200, {}, b"entries: ["), ProviderError, "no YAML"),
        ((302, {"Location": "/index.yaml"}, b""), ProviderError, "in circles"),
    ],
)
async def test_an_index_that_cannot_be_had(world: World, server: ChartServer, answer: Any, kind: type[CountersignError], says: str) -> None:
    server.answers["/index.yaml"] = answer
    async with world.sources(indexed(server)) as (sources, work):
        assert says in (await refused(kind, sources.archive(Asked(chart="shop"), work))).message


async def test_a_source_that_does_not_answer_is_worth_another_try(world: World) -> None:
    source = Source(name="stable", kind=Kind.INDEX, address="http://127.0.0.1:1")
    async with world.sources(source) as (sources, work):
        assert (await refused(Unavailable, sources.archive(Asked(chart="shop"), work))).retryable


async def test_which_source_is_meant_has_to_be_said_where_there_are_several(world: World, server: ChartServer, tmp_path: Path) -> None:
    put(server, tmp_path, "1.0.0")
    chart(world.stacks, "here")
    two = (indexed(server), Source(name="more", kind=Kind.INDEX, address="http://127.0.0.1:1"))
    async with world.sources(*two) as (sources, work):
        here = await sources.archive(Asked(chart="here"), work)
        error = await refused(InvalidArgument, sources.archive(Asked(chart="shop"), work))
        found, remarks = await sources.search("", None, work)

    assert here.source == "stacks"
    assert "one of stacks, stable, more" in error.message
    assert [(source.name, entry.name) for source, entry in found] == [("stacks", "here"), ("stable", "shop")]
    assert len(remarks) == 1
    assert "more" in remarks[0]


# Registries.


@requirement("helm:chart-sources")
async def test_a_chart_of_a_registry(world: World, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as host:
        for version in ("1.0.0", "1.2.0+build.5", "2.0.0-rc.1"):
            pushed(packed(chart(tmp_path / "made", "shop", version), tmp_path / "out"), f"oci://{host}/charts")
        source = Source(name="images", kind=Kind.OCI, address=f"oci://{host}/charts")
        async with world.sources(source) as (sources, work):
            one = await sources.archive(Asked(chart="shop"), work)
            old = await sources.archive(Asked(chart="shop", version="1.0.0"), work)
            versions = [entry.version for entry in await sources.versions(Asked(chart="shop"), work)]
            lacking = await refused(NotFound, sources.archive(Asked(chart="shop", version="1.1.0"), work))
            gone = await refused(NotFound, sources.archive(Asked(chart="gone"), work))
            found, remarks = await sources.search("shop", None, work)

    assert (one.name, one.version, old.version) == ("shop", "1.2.0+build.5", "1.0.0")
    assert one.digest == "sha256:" + hashlib.sha256((tmp_path / "out" / "shop-1.2.0+build.5.tgz").read_bytes()).hexdigest()
    assert versions == ["2.0.0-rc.1", "1.2.0+build.5", "1.0.0"]
    assert "nearest are 2.0.0-rc.1, 1.2.0+build.5, 1.0.0" in lacking.message
    assert "does not have the list of versions of gone" in gone.message
    assert found == []
    assert "lists no charts" in remarks[0]


async def test_a_registry_that_wants_a_token_gets_it_from_where_the_operator_lets_it(
    world: World, server: ChartServer, tmp_path: Path
) -> None:
    server.answers["/token"] = lambda given: (200, {}, b'{"token": "t"}') if given.startswith("Basic ") else (401, {}, b"")
    with registry(tmp_path / "registry") as host:
        pushed(packed(chart(tmp_path / "made"), tmp_path / "out"), f"oci://{host}/charts")
    with registry(tmp_path / "registry", realm=f"{server.address}/token") as host:
        told: dict[str, Any] = {"name": "images", "kind": Kind.OCI, "address": f"oci://{host}/charts", "credential": "chart-key"}
        async with world.sources(Source(**told, hosts=(f"127.0.0.1:{server.port}",))) as (sources, work):
            one = await sources.archive(Asked(chart="shop"), work)
        async with world.sources(Source(**told)) as (sources, work):
            error = await refused(PolicyDenied, sources.versions(Asked(chart="shop"), work))

    assert one.version == "1.0.0"
    assert {given for path, given in server.asked if path == "/token"} == {"Basic YW5hOndvcmQtb2YtY2hhcnRz"}
    assert f"127.0.0.1:{server.port}" in error.message
