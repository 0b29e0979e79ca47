"""Addresses, refs and folders: what is allowed to be fetched is decided before anybody connects."""

import pytest

from countersign.core.errors import InvalidArgument, PolicyDenied
from countersign.core.repository import (
    Repositories,
    addresses_of_modules,
    check_folder,
    check_ref,
    check_repository,
    glob,
    host_of,
    host_of_module,
    key_of,
    meanings,
    prefixes_of_modules,
    protocols_of_modules,
    where_link_leads,
)
from tests.requirements import requirement

ALL = Repositories(allowed=("https://*", "ssh://*", "local:*", "*"))


@pytest.mark.parametrize(
    "address",
    [
        "https://git.example.com/acme/shop.git",
        "https://git.example.com:8443/acme/shop",
        "ssh://git@git.example.com/acme/shop.git",
        "ssh://git.example.com:2222/~ana/shop.git",
        "local:shop.git",
        "local:team/shop",
    ],
)
def test_an_address_that_can_be_read_in_one_way_is_taken(address: str) -> None:
    assert check_repository(address, ALL) == address


@requirement("bad:repository-address")
@pytest.mark.parametrize(
    "address",
    [
        "",
        "-upload-pack=touch",
        "--upload-pack=touch /tmp/x",
        "/srv/git/shop.git",
        "../shop.git",
        "shop.git",
        "file:///srv/git/shop.git",
        "ext::sh -c touch% /tmp/x",
        "git://git.example.com/shop.git",
        "http://git.example.com/shop.git",
        "git@git.example.com:shop.git",
        "ssh://-oProxyCommand=touch/shop.git",
        "ssh://git@-oProxyCommand=touch/shop.git",
        "ssh://git:word@git.example.com/shop.git",
        "https://git.example.com",
        "https://git.example.com/",
        "https://git.example.com/../shop.git",
        "https://git.example.com/acme/..",
        "https://git.example.com/-shop",
        "https://git.example.com/shop.git?x=y",
        "https://git.example.com/shop.git#x",
        "https://git.example.com/shop%2egit",
        "https://git.example.com/a b",
        "https://git.example.com/shop\n",
        "https://git..example.com/shop",
        "https://git.example.com/a..b",
        "HTTPS://git.example.com/shop",
        "local:",
        "local:/srv/git",
        "local:../shop.git",
        "local:-x",
        "local:a..b",
    ],
)
def test_an_address_of_another_kind_is_refused_whatever_is_allowed(address: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_repository(address, ALL)

    assert refused.value.field == "source.repo"


@requirement("bad:repository-address")
@pytest.mark.parametrize(
    "address", ["https://ana:pass-word@git.example.com/shop", "https://ana@git.example.com/shop", "http://a:pass-word@h/x"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_repository(address, ALL)

    assert "pass-word" not in refused.value.message


@requirement("git:allow-list")
def test_nothing_is_allowed_that_the_operator_does_not_list() -> None:
    with pytest.raises(PolicyDenied, match="no repository is allowed so far"):
        check_repository("https://git.example.com/acme/shop", Repositories())
    with pytest.raises(PolicyDenied, match=r"allowed are https://git.example.com/acme/\*"):
        check_repository("https://git.example.com/other/shop", Repositories(allowed=("https://git.example.com/acme/*",)))


def test_the_first_credential_that_matches_opens_an_address() -> None:
    keys = {"https://git.example.com/acme/*": "acme-token", "https://git.example.com/*": "token"}
    repositories = Repositories(credentials=keys)

    assert key_of("https://git.example.com/acme/shop", repositories) == ("https://git.example.com/acme/*", "acme-token")
    assert key_of("https://git.example.com/other/shop", repositories) == ("https://git.example.com/*", "token")
    assert key_of("https://git.example.org/acme/shop", repositories) is None


@pytest.mark.parametrize(
    ("address", "host"),
    [("https://git.example.com/acme/*", "git.example.com"), ("ssh://git@git.example.com:22/x", "git.example.com:22"), ("local:x", "")],
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host


@pytest.mark.parametrize("pattern", ["https://git.example.com/*", "ssh://git@git.example.com/acme/?", "local:*"])
def test_a_glob_over_addresses(pattern: str) -> None:
    assert glob(pattern) == pattern


@pytest.mark.parametrize(
    "pattern", ["*", "https://*", "https://*.example.com/x", "ssh://git@*/x", "https://h/$(x)", "https://h/a b", "file:///*"]
)
def test_a_glob_that_would_match_more_than_it_shows_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"write globs|name the host"):
        glob(pattern)


@pytest.mark.parametrize(
    "ref", ["main", "release/1.x", "v1.2+build", "refs/heads/main", "refs/tags/v1", "dependabot/npm_and_yarn/a-1.0", "feature/a#12"]
)
def test_a_branch_or_a_tag(ref: str) -> None:
    assert check_ref(ref) == ref


@requirement("bad:git-ref")
@pytest.mark.parametrize(
    "ref",
    [
        None,
        "",
        "-x",
        "--upload-pack=touch",
        "a..b",
        "a b",
        "a:b",
        "+a",
        "^a",
        "a~1",
        "a^{}",
        "a*",
        "a?",
        "a[",
        "a\\b",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.",
        "a.lock",
        "a.lock/b",
        "a/-b",
        "a@{1}",
        "@",
        "a\n",
        "HEAD",
        "refs/heads/HEAD",
        "refs/pull/1/head",
        "refs/heads/refs/pull/1/head",
        "refs/remotes/origin/main",
        "a" * 201,
        "0123456789abcdef0123456789abcdef01234567",
        "refs/heads/0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_a_ref_that_is_no_branch_and_no_tag_is_refused(ref: str | None) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_ref(ref)

    assert refused.value.field == "source.git_ref"


def test_a_short_ref_may_mean_two_things_and_a_whole_one_only_itself() -> None:
    assert meanings("main") == ("refs/heads/main", "refs/tags/main")
    assert meanings("refs/tags/v1") == ("refs/tags/v1",)


@pytest.mark.parametrize("path", [".", "stacks", "live/prod/eu-west-1/shop", "_x/y_1"])
def test_a_folder_of_a_repository(path: str) -> None:
    assert check_folder(path) == path


@requirement("bad:repository-path")
@pytest.mark.parametrize(
    "path", ["", "..", "a/..", "../a", "a/../b", "/a", "a/", "a//b", "-a", "a/-b", ".git", "a/.git", "./a", "a b", "a\n", "a:b", ":(top)a"]
)
def test_a_folder_that_could_lead_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_folder(path)

    assert refused.value.field == "source.path"


@requirement("bad:link-leads-out")
@pytest.mark.parametrize(
    ("path", "target", "above", "end"),
    [
        ("a.tf", "b.tf", 0, "b.tf"),
        ("m/a.tf", "../b.tf", 0, "b.tf"),
        ("a.tf", "../b.tf", 0, None),
        ("a.tf", "../b.tf", 1, "../b.tf"),
        ("../m/a.tf", "../../b.tf", 1, None),
        ("a.tf", "x/../../../b.tf", 1, None),
        ("a.tf", "/etc/passwd", 5, None),
        ("a.tf", "", 5, None),
        ("a.tf", "b\0", 5, None),
    ],
)
def test_a_link_leads_to_a_file_of_its_source_or_nowhere(path: str, target: str, above: int, end: str | None) -> None:
    assert where_link_leads(path, target, above) == end


@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("git::https://git.example.com/acme/m//net?ref=v1", "git.example.com"),
        ("git::https://user@git.example.com:8443/acme/m", "git.example.com:8443"),
        ("git::ssh://git@git.example.com/acme/m", "git.example.com"),
        ("git@git.example.com:acme/m.git", "git.example.com"),
        ("github.com/acme/m", "github.com"),
        ("https://git.example.com/m.zip", "git.example.com"),
        ("./m", None),
        ("terraform-aws-modules/vpc/aws", None),
        ("s3::https://x", None),
    ],
)
def test_the_host_a_module_comes_from(source: str, host: str | None) -> None:
    assert host_of_module(source) == host


@pytest.mark.parametrize(
    ("patterns", "prefixes"),
    [
        (("./*", "../*"), ()),
        (("./*", "git::https://git.example.com/acme/*"), ("https://git.example.com/acme/",)),
        (("git::https://git.example.com/acme/m//*", "github.com/acme/*"), ("https://git.example.com/acme/m", "https://github.com/acme/")),
        (("git::ssh://git@git.example.com/*",), ("ssh://git@git.example.com/",)),
        (("git@git.example.com:acme/*",), ("ssh://git@git.example.com/acme/",)),
        (("*",), None),
        (("git::https://*",), None),
        (("terraform-aws-modules/*",), None),
    ],
)
def test_what_addresses_of_modules_begin_with(patterns: tuple[str, ...], prefixes: tuple[str, ...] | None) -> None:
    assert prefixes_of_modules(patterns) == prefixes


@requirement("bad:module-of-a-module")
@pytest.mark.parametrize(
    ("pattern", "address"),
    [
        ("git::https://git.example.com/acme/modules//*", "https://git.example.com/acme/modules"),
        ("git::https://git.example.com/acme/modules.git//net/*?ref=v*", "https://git.example.com/acme/modules.git"),
        ("git::https://git.example.com/acme/modules?ref=v1", "https://git.example.com/acme/modules"),
        ("git::https://git.example.com/acme/*", "https://git.example.com/acme/*"),
        ("git::https://git.example.com/acme/net-?.git", "https://git.example.com/acme/net-?.git"),
        ("git::https://git.example.com/acme/net-[ab].git", "https://git.example.com/acme/net-*"),
        ("github.com/acme/*", "https://github.com/acme/*"),
        ("git@git.example.com:acme/*//net", "ssh://git@git.example.com/acme/*"),
    ],
)
def test_a_module_source_bounds_the_whole_address_that_git_is_given(pattern: str, address: str) -> None:
    assert addresses_of_modules(["./*", pattern]) == (address,)
    assert addresses_of_modules(["*", pattern]) is None
    assert addresses_of_modules(["git::https://*/acme/*"]) is None  # any host


@pytest.mark.parametrize(
    ("patterns", "protocols"),
    [
        (("./*", "git::https://git.example.com/*"), ("https", "ssh")),
        (("git::file:///srv/modules/*",), ("https", "ssh", "file")),
        (("git::http://git.example.com/*",), ("https", "ssh", "http")),
        (("*",), ("https", "ssh", "file", "git", "http")),
    ],
)
def test_a_protocol_that_is_not_checked_is_spoken_only_where_the_operator_names_it(
    patterns: tuple[str, ...], protocols: tuple[str, ...]
) -> None:
    assert protocols_of_modules(patterns) == protocols
