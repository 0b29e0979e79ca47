"""Stacks that come from repositories, over a real wire: what is fetched, what of it is planned, and what is refused."""

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.git import Remotes
from countersign.adapters.leaving import leaving
from countersign.core.engine import Planned
from countersign.core.errors import CountersignError, FailedPrecondition, InvalidArgument, NotFound, PolicyDenied, ProviderError
from countersign.core.repository import Repositories
from countersign.core.run import Mode
from tests.integration import terraform_bench
from tests.integration.git_server import GitServer, Repository, git_server, ssh_server
from tests.integration.processes import leaves_no_process
from tests.integration.terraform_bench import Bench, bench, findings, terraform
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process", "terraform"]
pytestmark = pytest.mark.anyio

SHOP = 'variable "size" {\n  default = 1\n}\n\nresource "terraform_data" "shop" {\n  input = var.size\n}\n'
USES = 'module "net" {\n  source = "../../modules/net"\n}\n'
EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # the id of a file without content
NET = 'resource "terraform_data" "net" {\n  input = file("${path.module}/names.txt")\n}\n'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "forge") as running:
        yield running


class Stacks:
    """A repository on the server, and the engine that may plan what is in it."""

    def __init__(self, bench: Bench, server: GitServer) -> None:
        self.bench, self.server = bench, server
        self.repository = server.repository("acme/live.git")
        self.use()

    def use(self, **remotes: Any) -> None:
        allowed = Repositories(allowed=(f"{self.server.address}/acme/*",))
        given: dict[str, Any] = {"repositories": allowed, "ca_bundle": self.server.certificate, **remotes}
        self.bench.use(remotes=Remotes(**given))

    async def plan(
        self, path: str = "stacks/shop", *, ref: str = "main", repo: str | None = None, mode: Mode = Mode.APPLY, **job: Any
    ) -> Planned:
        config = {"source_repo": repo or self.server.url("acme/live.git"), "source_path": path, "git_ref": ref}
        return await self.bench.plan("shop", mode, config=config, **job)

    @property
    def mirror(self) -> Path:
        (found,) = (self.bench.folder / "work" / "git").glob("*.git")
        return found


@pytest.fixture
def stacks(terraform: Bench, server: GitServer) -> Stacks:
    return Stacks(terraform, server)


@pytest.fixture
def each(bench: Bench, server: GitServer) -> Stacks:
    """Of either engine."""
    return Stacks(bench, server)


@requirement("git:planned-commit")
async def test_a_stack_is_planned_at_the_newest_commit_of_its_ref_and_the_plan_says_so(each: Stacks) -> None:
    commit = each.repository.commit({"stacks/shop/main.tf": SHOP, "stacks/other/main.tf": "not even HCL"})

    planned = await each.plan()

    assert planned.plan.counts.create == 1
    frozen = {name: planned.inputs[name] for name in ("commit", "repository", "ref", "path")}
    address = each.server.url("acme/live.git")
    assert frozen == {"commit": commit, "repository": address, "ref": "refs/heads/main", "path": "stacks/shop"}
    assert planned.plan.source == f"commit {commit[:12]} of refs/heads/main, {address}, stacks/shop"
    assert planned.warnings == ()


@requirement("git:apply-without-git")
async def test_what_was_planned_is_applied_when_the_repository_is_gone(each: Stacks) -> None:
    each.repository.commit({"stacks/shop/main.tf": SHOP + USES, "modules/net/main.tf": NET, "modules/net/names.txt": "a b c"})
    planned = await each.plan()
    each.repository.bare.rename(each.repository.bare.with_name("gone"))

    config = {"source_repo": each.server.url("acme/live.git"), "source_path": "stacks/shop", "git_ref": "main"}
    outcome = await each.bench.apply(planned, "shop", config=config)

    assert (str(outcome.state), outcome.done) == ("verifying", 2), outcome.message
    assert each.bench.state.resources == ["module.netterraform_data.net", "terraform_data.shop"]


async def test_a_module_beside_the_stack_is_part_of_what_was_planned(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": USES, "modules/net/main.tf": NET, "modules/net/names.txt": "a"})
    before = await stacks.plan()
    stacks.repository.commit({"stacks/other/main.tf": "# not of this stack\n"})
    same = await stacks.plan()
    stacks.repository.commit({"modules/net/main.tf": NET + "# another word\n"})
    after = await stacks.plan()

    assert before.inputs["tree"] == same.inputs["tree"] and before.plan.semantic_digest == same.plan.semantic_digest
    assert before.inputs["commit"] != same.inputs["commit"]
    assert before.inputs["tree"] != after.inputs["tree"] and before.plan.semantic_digest != after.plan.semantic_digest


async def test_a_root_module_may_be_the_root_of_its_repository(stacks: Stacks) -> None:
    stacks.repository.commit({"main.tf": SHOP, "run.sh": "#!/bin/sh\n"})

    planned = await stacks.plan(".")

    assert planned.plan.counts.create == 1


@pytest.mark.parametrize("kind", ["a tag", "an annotated tag", "a whole ref"])
async def test_a_tag_is_a_ref_as_well(stacks: Stacks, kind: str) -> None:
    commit = stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    stacks.repository.git("tag", *(["-a", "-m", "one"] if kind == "an annotated tag" else []), "v1")
    stacks.repository.git("push", "-q", "origin", "v1")

    planned = await stacks.plan(ref="refs/tags/v1" if kind == "a whole ref" else "v1")

    assert (planned.inputs["commit"], planned.inputs["ref"]) == (commit, "refs/tags/v1")


# -- Which commit


@requirement("git:pinned-commit")
@pytest.mark.parametrize("length", [8, 40])
async def test_an_older_commit_of_the_ref_is_planned_where_it_is_named_and_that_is_told(stacks: Stacks, length: int) -> None:
    old = stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    stacks.repository.commit({"stacks/shop/main.tf": "not even HCL"})

    planned = await stacks.plan(commit=old[:length])

    assert planned.inputs["commit"] == old
    assert f"Commit {old[:12]} is 1 commit(s) behind refs/heads/main: what came later is not in this plan." in planned.plan.risks


@requirement("bad:foreign-commit")
@pytest.mark.parametrize("whose", ["another branch", "a fork", "nobody"])
async def test_a_commit_that_is_not_of_the_ref_is_refused(stacks: Stacks, whose: str) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    stacks.repository.git("checkout", "-q", "-b", "other")
    foreign = stacks.repository.commit(
        {"stacks/shop/main.tf": SHOP.replace("size", "sizes")}, branch="other", push=whose == "another branch"
    )
    if whose == "a fork":  # a forge keeps commits of forks in the same store, below refs nobody registers
        stacks.repository.git("push", "-q", "origin", "HEAD:refs/pull/7/head")
    await stacks.plan()
    if whose == "another branch":  # its objects are in the mirror then, for another stack
        await stacks.plan(ref="other")

    with pytest.raises(FailedPrecondition) as refused:
        await stacks.plan(commit=foreign)

    assert refused.value.field == "commit"
    assert f"commit {foreign} is not part of refs/heads/main" in refused.value.message


@requirement("bad:moved-back-ref")
async def test_a_ref_that_moved_back_is_told_to_who_approves_and_a_commit_it_lost_is_refused(stacks: Stacks) -> None:
    first = stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    lost = stacks.repository.commit({"stacks/shop/main.tf": SHOP.replace("1", "2")})
    await stacks.plan()
    stacks.repository.git("reset", "-q", "--hard", first)
    stacks.repository.push()

    planned = await stacks.plan(applied_commit=lost)

    assert planned.inputs["commit"] == first
    (risk,) = [r for r in planned.plan.risks if "moved back" in r]
    assert risk.startswith(f"Commit {lost[:12]}, which was applied last, is not part of the history of {first[:12]}: refs/heads/main")
    with pytest.raises(FailedPrecondition, match="or the ref was moved back"):
        await stacks.plan(commit=lost)


async def test_a_commit_that_was_applied_and_is_still_there_is_no_risk(stacks: Stacks) -> None:
    first = stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    stacks.repository.commit({"stacks/shop/main.tf": SHOP.replace("1", "2")})

    assert (await stacks.plan(applied_commit=first)).warnings == ()


# -- What is refused, before anything of it runs


@requirement("bad:gone-repository")
@pytest.mark.parametrize(
    ("change", "error", "field", "words"),
    [
        ({"repo": "acme/none.git"}, NotFound, "source.repo", "acme/none.git does not exist, or"),
        ({"ref": "none"}, NotFound, "source.git_ref", "has no branch none or tag none"),
        ({"path": "stacks/none"}, NotFound, "source.path", "there is no folder stacks/none of"),
        ({"path": "stacks/shop/main.tf"}, NotFound, "source.path", "there is no folder"),
        ({"path": "modules"}, NotFound, "source", "holds no configuration"),
        ({"path": "stacks/../stacks/shop"}, InvalidArgument, "source.path", "without `..`"),
        ({"ref": "--upload-pack=touch"}, InvalidArgument, "source.git_ref", "is no name of a branch or tag"),
        ({"repo": "other/live.git"}, PolicyDenied, "source.repo", "is not allowed"),
    ],
)
async def test_what_is_not_there_is_named(
    stacks: Stacks, change: dict[str, str], error: type[CountersignError], field: str, words: str
) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP, "modules/net/readme": ""})
    if "repo" in change:
        change = {**change, "repo": stacks.server.url(change["repo"])}

    with pytest.raises(error, match=words) as refused:
        await stacks.plan(**{"path": "stacks/shop", **change})

    assert refused.value.field == field


async def test_a_name_that_is_a_branch_and_a_tag_is_refused(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    stacks.repository.git("push", "-q", "origin", "HEAD:refs/tags/main")

    with pytest.raises(FailedPrecondition, match="register refs/heads/main or refs/tags/main"):
        await stacks.plan()

    assert (await stacks.plan(ref="refs/heads/main")).inputs["ref"] == "refs/heads/main"


@requirement("bad:gone-repository")
async def test_a_server_that_does_not_answer_is_told_after_two_tries(stacks: Stacks) -> None:
    stacks.use(repositories=Repositories(allowed=("https://127.0.0.1:1/*",)))

    with pytest.raises(ProviderError, match=r"https://127.0.0.1:1/acme/live.git does not answer"):
        await stacks.plan(repo="https://127.0.0.1:1/acme/live.git")


async def test_a_redirect_is_not_followed(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    stacks.server.redirects["/acme/old.git"] = "/acme/live.git"

    with pytest.raises(FailedPrecondition, match="redirects elsewhere; register the address it leads to"):
        await stacks.plan(repo=stacks.server.url("acme/old.git"))


async def test_a_certificate_nobody_knows_is_refused(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    stacks.use(ca_bundle=None)

    with pytest.raises(FailedPrecondition, match=r"a certificate that is not trusted here; name its authority in git.ca_bundle"):
        await stacks.plan()


@requirement("bad:link-leads-out")
@pytest.mark.parametrize("target", ["/etc/passwd", "../../../outside", "../../nowhere.tf", "../../modules", "a.tf"])
async def test_a_link_to_what_is_no_file_of_the_commit_is_refused(stacks: Stacks, target: str) -> None:
    stacks.repository.write({"stacks/shop/main.tf": SHOP, "modules/net/main.tf": ""})
    (stacks.repository.work / "stacks" / "shop" / "a.tf").symlink_to(target)
    stacks.repository.commit()

    with pytest.raises(FailedPrecondition, match=r"stacks/shop/a.tf is a link (that leads out|to something that is no file)"):
        await stacks.plan()


async def test_a_link_to_a_file_of_the_commit_is_that_file(stacks: Stacks) -> None:
    stacks.repository.write({"stacks/shop/main.tf": SHOP, "shared/common.tf": 'resource "terraform_data" "common" {}\n'})
    (stacks.repository.work / "shared" / "again.tf").symlink_to("common.tf")
    (stacks.repository.work / "stacks" / "shop" / "common.tf").symlink_to("../../shared/again.tf")
    stacks.repository.commit()

    assert (await stacks.plan()).plan.counts.create == 2


@requirement("bad:submodule")
async def test_submodules_filters_and_attributes_change_nothing_of_what_is_planned(stacks: Stacks) -> None:
    other = stacks.server.repository("acme/other.git")
    commit = other.commit({"main.tf": "not even HCL"})
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    files = {
        "stacks/shop/main.tf": SHOP,
        "stacks/shop/big.bin": pointer,
        "stacks/.gitattributes": "* filter=evil eol=crlf export-ignore ident\n",
    }
    stacks.repository.write(
        {**files, ".gitmodules": f'[submodule "m"]\n\tpath = stacks/shop/m\n\turl = {stacks.server.url("acme/other.git")}\n'}
    )
    stacks.repository.git("add", "-A")
    stacks.repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},stacks/shop/m")
    stacks.repository.git("commit", "-q", "-m", "with a submodule")
    stacks.repository.push()

    planned = await stacks.plan()

    assert planned.plan.counts.create == 1
    assert planned.warnings[:2] == (
        "Submodules are not fetched, and left out: stacks/shop/m.",
        "Contents in Git LFS are not fetched; these files hold only where they are: stacks/shop/big.bin.",
    )
    assert not [path for _, path in stacks.server.asked if "other.git" in path]


async def test_a_module_outside_of_the_repository_is_refused(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": USES.replace("../../", "../../../")})

    with pytest.raises(PolicyDenied) as refused:
        await stacks.plan()

    (finding,) = findings(refused.value)
    assert (finding.file, finding.line) == ("main.tf", 2)
    assert "leads out of the repository" in finding.detail


@requirement("bad:huge-repository")
async def test_a_stack_of_too_many_files_or_a_fetch_of_too_many_bytes_is_refused(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP, "stacks/shop/big.bin": os.urandom(3 << 20), "empty": ""})
    stacks.use(size=1 << 20)

    with pytest.raises(FailedPrecondition, match=r"has more than 1 MiB to fetch; .*git.fetch_mib"):
        await stacks.plan()
    stacks.use()
    many = _made_tree(stacks.repository, "".join(f"100644 blob {EMPTY}\t{n:05}.tf\n" for n in range(10_001)))
    commit = stacks.repository.git("commit-tree", _made_tree(stacks.repository, f"040000 tree {many}\tshop\n"), "-m", "many files")
    stacks.repository.git("push", "-q", "--force", "origin", f"{commit}:refs/heads/main")
    with pytest.raises(FailedPrecondition, match="has more than 10000 files or 64 MiB"):
        await stacks.plan("shop")


@requirement("bad:huge-repository")
async def test_a_small_commit_that_holds_more_files_than_anybody_can_read_is_refused_at_once(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP, "empty": ""})
    tree = _made_tree(stacks.repository, "".join(f"100644 blob {EMPTY}\t{n}.tf\n" for n in range(10)))
    for _ in range(9):  # ten thousand million files
        tree = _made_tree(stacks.repository, "".join(f"040000 tree {tree}\t{n}\n" for n in range(10)))
    commit = stacks.repository.git("commit-tree", _made_tree(stacks.repository, f"040000 tree {tree}\tshop\n"), "-m", "a bomb")
    stacks.repository.git("push", "-q", "--force", "origin", f"{commit}:refs/heads/main")

    async with asyncio.timeout(30):
        with pytest.raises(FailedPrecondition, match="has more than 16 MiB of names of files there"):
            await stacks.plan("shop")


@requirement("bad:unsound-object")
async def test_a_repository_that_would_trick_a_checkout_is_not_even_taken(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    blob = stacks.repository.git("rev-parse", "HEAD:stacks/shop/main.tf")
    inner = _made_tree(stacks.repository, f"100644 blob {blob}\tconfig\n")
    outer = _made_tree(stacks.repository, f"040000 tree {inner}\t.git\n")
    commit = stacks.repository.git("commit-tree", outer, "-m", "evil")
    stacks.repository.git("push", "-q", "--force", "origin", f"{commit}:refs/heads/main")

    with pytest.raises(FailedPrecondition, match="holds an object that git does not take"):
        await stacks.plan()


def _made_tree(repository: Repository, listing: str) -> str:
    """A tree as only a hostile server has it."""
    data = b"".join(
        f"{int(mode, 8):o} {name}\0".encode() + bytes.fromhex(oid)
        for mode, _, oid, name in (line.replace("\t", " ").split() for line in listing.splitlines())
    )
    file = repository.work.with_suffix(".object")
    file.write_bytes(data)
    return repository.git("hash-object", "-t", "tree", "-w", "--literally", str(file))


# -- Keys


def _secrets(monkeypatch: pytest.MonkeyPatch, **secrets: str) -> None:
    for name, value in secrets.items():
        monkeypatch.setitem(terraform_bench.SECRETS, name.replace("_", "-"), value)


@requirement("git:credentials")
@pytest.mark.parametrize("form", ["token", "pair"])
async def test_a_private_repository_is_opened_by_the_secret_the_operator_names_and_nobody_sees_it(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    user = {"token": "x-access-token", "pair": "robot"}[form]
    stacks.server.users["/acme/"] = (user, "token $(of) 'the' \\forge")
    value = (
        stacks.server.users["/acme/"][1]
        if form == "token"
        else json.dumps({"username": user, "password": stacks.server.users["/acme/"][1]})
    )
    _secrets(monkeypatch, forge_token=value)
    keys = {f"{stacks.server.address}/acme/*": "forge-token"}
    stacks.use(repositories=Repositories(allowed=(f"{stacks.server.address}/*",), credentials=keys))
    seen = _watched(monkeypatch)

    planned = await stacks.plan()

    assert planned.plan.counts.create == 1
    assert seen and not [text for text in seen if "the' \\forge" in text]
    await leaving.gone()
    everything = [path.read_bytes() for path in stacks.bench.folder.joinpath("work").rglob("*") if path.is_file()]
    assert not [data for data in everything if b"\\forge" in data]
    for text in terraform_bench.texts(planned).values():
        assert "forge token" not in text and "$(of)" not in text
    assert b"$(of)" not in planned.bundle


def _watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments and environment of every git process."""
    from countersign.adapters.git import mirror

    seen: list[str] = []
    real = mirror.supervise

    async def watching(argv: Any, **options: Any) -> Any:
        seen.append(" ".join(argv) + repr(options["env"]))
        return await real(argv, **options)

    monkeypatch.setattr(mirror, "supervise", watching)
    return seen


@requirement("git:credentials")
async def test_a_key_is_shown_only_to_the_addresses_it_is_for(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    _secrets(monkeypatch, forge_token="token-of-the-forge")
    other = stacks.server.repository("others/live.git")
    other.commit({"stacks/shop/main.tf": SHOP})
    stacks.server.users["/others/"] = ("x-access-token", "token-of-the-forge")
    keys = {f"{stacks.server.address}/acme/*": "forge-token"}
    stacks.use(repositories=Repositories(allowed=(f"{stacks.server.address}/*",), credentials=keys))

    with pytest.raises(FailedPrecondition, match="it asks for a key: the operator names a secret for it"):
        await stacks.plan(repo=stacks.server.url("others/live.git"))

    assert stacks.server.shown == []


@requirement("bad:wrong-git-key")
async def test_a_key_that_does_not_open_is_told_at_once_and_not_repeated(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    _secrets(monkeypatch, forge_token="token-of-yesterday", broken="two\nlines")
    stacks.server.users["/acme/"] = ("x-access-token", "token-of-today")
    keys = {f"{stacks.server.address}/acme/*": "forge-token"}
    allowed = (f"{stacks.server.address}/*",)
    stacks.use(repositories=Repositories(allowed=allowed, credentials=keys))
    began = time.monotonic()

    with pytest.raises(FailedPrecondition, match="the secret forge-token does not open it") as refused:
        await stacks.plan()

    assert time.monotonic() - began < 20 and "yesterday" not in refused.value.message
    stacks.use(repositories=Repositories(allowed=allowed, credentials={allowed[0]: "broken"}))
    with pytest.raises(InvalidArgument, match="the secret broken is neither a token") as broken:
        await stacks.plan()
    assert "lines" not in broken.value.message.replace("one line", "")


@requirement("git:ssh")
async def test_a_repository_over_ssh_is_opened_by_a_key_where_its_host_is_known(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    with ssh_server(tmp_path / "forge", user=os.environ.get("USER", "root") if os.getuid() else "root") as ssh:
        _secrets(monkeypatch, deploy_key=ssh.key)
        address = f"{ssh.address}/acme/live.git"
        repositories = Repositories(allowed=(f"{ssh.address}/*",), credentials={f"{ssh.address}/*": "deploy-key"})
        stacks.use(repositories=repositories, known_hosts=ssh.known_hosts)

        planned = await stacks.plan(repo=address)

        assert planned.inputs["commit"] == commit
        stacks.use(repositories=repositories, known_hosts=None)
        with pytest.raises(FailedPrecondition, match="a host key that the operator does not know"):
            await stacks.plan(repo=address)
        stacks.use(repositories=Repositories(allowed=(f"{ssh.address}/*",)), known_hosts=ssh.known_hosts)
        with pytest.raises(FailedPrecondition, match="asks for a key"):
            await stacks.plan(repo=address)


# -- The mirror


@requirement("git:shared-mirror")
async def test_two_plans_at_once_fetch_a_commit_once(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP, "stacks/till/main.tf": SHOP})
    config = {"source_repo": stacks.server.url("acme/live.git"), "git_ref": "main"}
    made = {name: {**config, "source_path": f"stacks/{name}"} for name in ("shop", "till")}
    jobs = [stacks.bench.plan_job(name, Mode.SPECULATIVE, config=one) for name, one in made.items()]  # which lock nothing
    jobs = [replace(job, stack=replace(job.stack, stack_id=f"st_{name}")) for job, name in zip(jobs, made, strict=True)]

    await asyncio.gather(*(stacks.bench.engine.plan(job, stacks.bench.beat) for job in jobs))

    # One brings the commit, and each what its folder holds, unless the other was faster: it is the same.
    assert 2 <= stacks.server.fetches <= 3


@requirement("bad:killed-fetch")
async def test_a_fetch_that_is_killed_midway_leaves_a_mirror_that_works(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    await stacks.plan()
    stacks.repository.commit({f"stacks/shop/n{n}.tf": f"# {os.urandom(100).hex()}\n" for n in range(300)})
    stacks.server.hold = threading.Event()
    plan = asyncio.ensure_future(stacks.plan())
    await asyncio.to_thread(stacks.server.held.wait, 30)
    for pid in _running_git(stacks.mirror):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProviderError, match=r"cannot be fetched|does not answer"):
        await asyncio.wait_for(plan, 60)
    stacks.server.hold.set()
    stacks.server.hold = None

    planned = await stacks.plan()

    assert planned.plan.counts.create == 1 and planned.inputs["commit"] != first
    assert not [*stacks.mirror.glob("objects/pack/tmp_*"), *stacks.mirror.rglob("*.lock")]


def _running_git(mirror: Path) -> list[int]:
    """Processes that work in the mirror, and what they started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"GIT_DIR={mirror}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    assert found, "nobody fetches"
    return found


@requirement("bad:killed-fetch")
@pytest.mark.parametrize("damage", ["a pack is cut short", "a pack is gone", "its head is gone"])
async def test_a_mirror_that_was_damaged_is_made_anew(stacks: Stacks, damage: str) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    await stacks.plan()
    packs = sorted(stacks.mirror.glob("objects/pack/*.pack"))
    if damage == "its head is gone":
        (stacks.mirror / "HEAD").unlink()
    for pack in packs:
        pack.chmod(0o600)
        if damage == "a pack is cut short":
            pack.write_bytes(pack.read_bytes()[:40])
        elif damage == "a pack is gone":
            pack.unlink()

    assert (await stacks.plan()).plan.counts.create == 1


async def test_a_second_plan_asks_only_where_the_ref_is(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    await stacks.plan()
    before = stacks.server.fetches

    await stacks.plan()

    assert (before, stacks.server.fetches) == (2, 2)


@requirement("git:monorepo")
async def test_of_a_monorepo_only_what_the_stack_uses_is_fetched(stacks: Stacks) -> None:
    stacks.repository.commit(
        {**{f"stacks/s{n}/main.tf": SHOP + f"# {os.urandom(2000).hex()}\n" for n in range(200)}, "big.bin": os.urandom(2 << 20)}
    )

    await stacks.plan("stacks/s7")

    assert sum(p.stat().st_size for p in stacks.mirror.glob("objects/pack/*.pack")) < 100_000


async def test_a_server_that_cannot_filter_gives_everything_and_that_works_too(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    (stacks.repository.bare / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")

    assert (await stacks.plan()).plan.counts.create == 1


async def test_the_operators_folder_of_bare_repositories(stacks: Stacks) -> None:
    commit = stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    stacks.use(repositories=Repositories(allowed=("local:*",)), local=stacks.server.folder / "served")

    assert (await stacks.plan(repo="local:acme/live.git")).inputs["commit"] == commit
    (stacks.server.folder / "served" / "out.git").symlink_to("/etc")
    for name in ("local:out.git", "local:none.git"):
        with pytest.raises(FailedPrecondition, match="there is no bare repository"):
            await stacks.plan(repo=name)


# -- Modules that init fetches


def _module_of(server: GitServer, name: str, path: str = "") -> str:
    return f'module "m" {{\n  source = "git::{server.url(name)}//{path}?ref=v1"\n}}\n'


def _with_modules(stacks: Stacks, *prefixes: str, **secrets: str) -> None:
    server = stacks.server
    credentials = {f"{server.address}/{path}/*": slug for path, slug in secrets.items()}
    allowed = tuple(f"git::{server.address}/{prefix}/*" for prefix in prefixes)
    stacks.bench.use(allowed_modules=("./*", "../*", *allowed))
    stacks.use(repositories=Repositories(allowed=(f"{server.address}/acme/*",), credentials=credentials))


@requirement("git:private-modules")
async def test_a_private_module_is_fetched_with_its_secret_and_frozen_into_what_is_approved(
    each: Stacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    _secrets(monkeypatch, modules_token="token-of-the-modules")
    server = each.server
    modules = server.repository("modules/net.git")
    modules.commit({"net/main.tf": NET, "net/names.txt": "first"})
    modules.git("push", "-q", "origin", "HEAD:refs/tags/v1")
    server.users["/modules/"] = ("x-access-token", "token-of-the-modules")
    each.repository.commit({"stacks/shop/main.tf": _module_of(server, "modules/net.git", "net")})
    _with_modules(each, "modules", modules="modules-token")
    spy = each.bench.spied()

    before = await each.plan()
    modules.commit({"net/names.txt": "second"})
    modules.git("push", "-q", "--force", "origin", "HEAD:refs/tags/v1")
    after = await each.plan()

    assert (
        before.inputs["files_made"][".terraform/modules/m/net/names.txt"]
        != after.inputs["files_made"][".terraform/modules/m/net/names.txt"]
    )
    assert before.plan.semantic_digest != after.plan.semantic_digest
    for command in ("init", "plan"):
        assert "token-of-the-modules" not in repr(spy.environment(command))
    assert not [name for name in spy.environment("plan") if name.startswith("GIT_")]
    assert b"token-of-the-modules" not in after.bundle
    server.users["/modules/"] = ("nobody", "gets in")
    config = {"source_repo": server.url("acme/live.git"), "source_path": "stacks/shop", "git_ref": "main"}
    outcome = await each.bench.apply(after, "shop", config=config)
    assert str(outcome.state) == "verifying", outcome.message


@requirement("bad:module-without-key")
async def test_a_module_that_asks_for_a_password_is_told_at_once(stacks: Stacks) -> None:
    stacks.server.repository("modules/net.git").commit({"net/main.tf": NET})
    stacks.server.users["/modules/"] = ("x-access-token", "token-of-the-modules")
    stacks.repository.commit({"stacks/shop/main.tf": _module_of(stacks.server, "modules/net.git", "net")})
    _with_modules(stacks, "modules")
    began = time.monotonic()

    with pytest.raises(ProviderError, match="the repository of a module asks for a key: the operator names a secret for its address"):
        await stacks.plan()

    assert time.monotonic() - began < 30


@requirement("bad:module-of-a-module")
async def test_a_module_of_a_module_is_not_fetched_from_where_the_operator_does_not_allow(stacks: Stacks) -> None:
    outer = stacks.server.repository("modules/net.git")
    outer.commit({"main.tf": _module_of(stacks.server, "foreign/evil.git")})
    outer.git("push", "-q", "origin", "HEAD:refs/tags/v1")
    stacks.server.repository("foreign/evil.git").commit({"main.tf": ""})
    stacks.repository.commit({"stacks/shop/main.tf": _module_of(stacks.server, "modules/net.git")})
    _with_modules(stacks, "modules")

    with pytest.raises((ProviderError, PolicyDenied)) as refused:
        await stacks.plan()

    assert "is not allowed" in refused.value.message or "outside of terraform.allowed_modules" in refused.value.message
    assert not [path for _, path in stacks.server.asked if "evil" in path]


@requirement("bad:module-of-a-module", "git:credentials")
@pytest.mark.parametrize(
    ("allowed", "nested"),
    [
        ("modules/net.git//*", "modules/net.git-secrets"),  # begins like it
        ("modules/net*.git//*", "modules/other.git"),
        ("modules/*", "modules/../foreign/evil.git"),  # the server, or git on its way, resolves it
        ("modules/*", "modules/%2e%2e/foreign/evil.git"),
        ("modules/*", "modulesecrets.git"),
    ],
)
async def test_a_module_of_a_module_reaches_no_sibling_of_what_is_allowed(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch, allowed: str, nested: str
) -> None:
    server = stacks.server
    outer = server.repository("modules/net.git")
    outer.commit({"in/main.tf": _module_of(server, nested)})
    outer.git("push", "-q", "origin", "HEAD:refs/tags/v1")
    for name in ("modules/net.git-secrets", "modules/other.git", "foreign/evil.git", "modulesecrets.git"):
        server.repository(name).commit({"main.tf": ""})
    stacks.repository.commit({"stacks/shop/main.tf": _module_of(server, "modules/net.git", "in")})
    _secrets(monkeypatch, token="token-of-the-modules")
    server.users["/modules/"] = server.users["/foreign/"] = ("x-access-token", "token-of-the-modules")
    stacks.bench.use(allowed_modules=("./*", "../*", f"git::{server.address}/{allowed}"))
    keys = {f"{server.address}/modules/*": "token"}
    stacks.use(repositories=Repositories(allowed=(f"{server.address}/acme/*",), credentials=keys))

    with pytest.raises((ProviderError, PolicyDenied)) as refused:
        await stacks.plan()

    assert "is not allowed" in refused.value.message or "outside of terraform.allowed_modules" in refused.value.message
    strange = ("secrets", "other", "evil", "..", "%2e")
    assert [path for _, path in stacks.server.asked if "modules" in path or "evil" in path] != []  # the outer one was fetched
    assert [path for _, path in stacks.server.asked if any(part in path for part in strange)] == []


@requirement("bad:module-of-a-module")
async def test_submodules_of_a_module_are_not_fetched(stacks: Stacks) -> None:
    outer, beside = stacks.server.repository("modules/net.git"), stacks.server.repository("modules/beside.git")
    commit = beside.commit({"main.tf": ""})
    outer.write({".gitmodules": f'[submodule "x"]\n  path = x\n  url = {stacks.server.url("modules/beside.git")}\n', "main.tf": ""})
    outer.git("add", "-A")
    outer.git("update-index", "--add", "--cacheinfo", f"160000,{commit},x")
    outer.git("commit", "-q", "-m", "with a submodule")
    outer.git("push", "-q", "origin", "HEAD:refs/tags/v1")
    stacks.repository.commit({"stacks/shop/main.tf": _module_of(stacks.server, "modules/net.git")})
    _with_modules(stacks, "modules")

    planned = await stacks.plan()

    assert planned.inputs["files_made"]

    assert [path for _, path in stacks.server.asked if "beside" in path] == []


@requirement("bad:slow-repository")
async def test_a_server_that_stops_in_mid_sentence_is_not_waited_for_without_end(stacks: Stacks) -> None:
    stacks.repository.commit({f"stacks/shop/n{n}.tf": f"# {os.urandom(100).hex()}\n" for n in range(300)})
    stacks.use(timeout=2.0)
    stacks.server.hold = threading.Event()

    with pytest.raises(ProviderError, match=r"took longer than 2 s; plan again, or ask the operator \(git.timeout_seconds\)"):
        await stacks.plan()

    stacks.server.hold.set()
    stacks.server.hold = None
    stacks.use()
    assert (await stacks.plan()).plan.counts.total == 0


async def test_a_git_that_does_not_take_configuration_from_its_environment_is_refused(stacks: Stacks, tmp_path: Path) -> None:
    old = tmp_path / "git"
    old.write_text("#!/bin/sh\necho git version 2.25.1\n")
    old.chmod(0o700)
    stacks.use(executable=old)

    with pytest.raises(FailedPrecondition, match=r"git on the worker's machine is 2\.25; install 2\.32 or newer"):
        await stacks.plan()


async def test_what_many_fetches_leave_is_packed_into_one(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    from countersign.adapters.git import mirror

    monkeypatch.setattr(mirror, "PACKS", 2)
    for n in range(3):
        stacks.repository.commit({"stacks/shop/main.tf": SHOP + f"# {n}\n"})
        await stacks.plan()
    before = [*stacks.mirror.glob("objects/pack/*.pack")]

    planned = await stacks.plan()

    after = [*stacks.mirror.glob("objects/pack/*.pack")]
    assert len(before) > len(after) <= 2 and planned.plan.counts.create == 1


async def test_what_old_tools_left_in_a_history_stands_in_nobodys_way(stacks: Stacks) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    tree = stacks.repository.git("rev-parse", "HEAD^{tree}")
    file = stacks.repository.work.with_suffix(".object")
    file.write_text(
        f"tree {tree}\nauthor Ana <ana@example.com> 1190000000 +051800\ncommitter Ana <ana@example.com>1190000000 +0000\n\nold\n"
    )
    commit = stacks.repository.git("hash-object", "-t", "commit", "-w", "--literally", str(file))
    stacks.repository.git("push", "-q", "--force", "origin", f"{commit}:refs/heads/main")

    with contextlib.suppress(FailedPrecondition):  # of a git before 2.44
        assert (await stacks.plan()).inputs["commit"] == commit
    stacks.use(check_objects=False)

    assert (await stacks.plan()).inputs["commit"] == commit


@requirement("bad:unsound-object")
@pytest.mark.parametrize("name", ["..", "."])
async def test_a_path_that_leads_out_is_refused_also_where_objects_are_not_checked(stacks: Stacks, name: str) -> None:
    stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    blob = stacks.repository.git("rev-parse", "HEAD:stacks/shop/main.tf")
    inner = _made_tree(stacks.repository, f"100644 blob {blob}\tescaped.tf\n")
    shop = _made_tree(stacks.repository, f"040000 tree {inner}\t{name}\n100644 blob {blob}\tmain.tf\n")
    commit = stacks.repository.git("commit-tree", _made_tree(stacks.repository, f"040000 tree {shop}\tshop\n"), "-m", "evil")
    stacks.repository.git("push", "-q", "--force", "origin", f"{commit}:refs/heads/main")
    stacks.use(check_objects=False)

    with pytest.raises(FailedPrecondition, match="is no path that a commit may have"):
        await stacks.plan("shop")


async def test_a_validation_names_files_as_seen_from_the_stack_and_the_commit(each: Stacks) -> None:
    commit = each.repository.commit({"stacks/shop/main.tf": USES + 'output  "a" {}\n', "modules/net/main.tf": NET})

    checked = await each.plan(mode=Mode.VALIDATE)

    assert checked.inputs["commit"] == commit and checked.plan.source.startswith(f"commit {commit[:12]} of refs/heads/main")
    assert {(f.severity, f.file) for f in checked.findings} >= {("error", "main.tf"), ("warning", "main.tf")}


async def test_an_adopted_plan_is_compared_with_its_commit(stacks: Stacks) -> None:
    commit = stacks.repository.commit({"stacks/shop/main.tf": SHOP})
    config = {"source_repo": stacks.server.url("acme/live.git"), "source_path": "stacks/shop", "git_ref": "main"}
    planned = await stacks.plan(mode=Mode.SPECULATIVE)
    stacks.repository.commit({"stacks/shop/main.tf": SHOP.replace("1", "2")})

    async def moved(commit: str | None) -> str | None:
        job = stacks.bench.plan_job("shop", config=config, commit=commit)
        return await stacks.bench.engine.moved(job, planned.inputs, stacks.bench.beat)

    assert await moved(commit) is None
    assert await moved(None) == "the configuration is another one now"
