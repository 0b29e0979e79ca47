"""Which repositories, refs and commits configuration may come from, decided on names alone, before anything is fetched.

Whoever registers a stack chooses what a worker connects to, and with whose credential. So the operator lists repositories,
nothing is allowed that is not listed, and an address that could be read in two ways is refused.
"""

import posixpath
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from pydantic import Field

from countersign.core.errors import InvalidArgument, PolicyDenied
from countersign.core.model import Payload

LOCAL = "local:"  # begins the name of a repository in the operator's folder of them
# Letters that no shell, URL parser or configuration of git gives a meaning of its own.
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*(?::[1-9][0-9]{0,4})?"
_NAME = r"[A-Za-z0-9_~][A-Za-z0-9._~+-]*"
_URL = re.compile(rf"(?P<scheme>https|ssh)://(?P<user>[a-z_][a-z0-9_-]*@)?(?P<host>{_HOST})(?P<path>(?:/{_NAME})+)")
_LOCAL = re.compile(rf"{LOCAL}{_NAME}(?:/{_NAME})*")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@#=,-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+@#=,-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*){0,15}")
_GLOB = re.compile(r"(?:(?:https|ssh)://|local:)[A-Za-z0-9._~+:/@*?-]+")
BRANCH, TAG = "refs/heads/", "refs/tags/"


class Repositories(Payload):
    """The operator's: which repositories stacks may come from, and which sealed secret opens which addresses. Globs over addresses."""

    allowed: tuple[str, ...] = ()
    credentials: Mapping[str, str] = Field(default_factory=dict)  # the first glob that matches counts


def glob(pattern: str) -> str:
    """An operator's pattern over addresses, as it is. Raises ValueError for one that never matches, or matches more than it shows."""
    if not _GLOB.fullmatch(pattern):
        raise ValueError("write globs like https://git.example.com/team/*, ssh://git@git.example.com/* or local:*")
    if re.match(r"(?:https|ssh)://[^/]*[*?]", pattern):
        raise ValueError("name the host: no * or ? before the path")
    return pattern


def check_repository(address: str, repositories: Repositories) -> str:
    """The address, as it is. Raises InvalidArgument for what is none, PolicyDenied for what the operator does not list."""
    if address.startswith(LOCAL):
        if not _LOCAL.fullmatch(address) or ".." in address:
            raise InvalidArgument("a repository of the operator's folder is named like local:team/shop.git", field="source.repo")
    else:
        _check_url(address)
    if not any(fnmatchcase(address, pattern) for pattern in repositories.allowed):
        offer = f"allowed are {', '.join(repositories.allowed)}" if repositories.allowed else "no repository is allowed so far"
        raise PolicyDenied(f"the repository {address} is not allowed: {offer}; ask the operator (git.repositories)", field="source.repo")
    return address


def _check_url(address: str) -> None:
    hint = "write https://host/path or ssh://user@host/path"
    found = _URL.fullmatch(address)
    if found is None:
        shown = re.sub(r"//[^/@]*@", "//…@", address)  # it may hold a password
        if re.match(r"https://[^/]*@", address):
            raise InvalidArgument(
                "a repository's address holds no user and no password; the operator names a secret for it (git.credentials)",
                field="source.repo",
            )
        raise InvalidArgument(f"{shown[:200]!r} is no address of a repository; {hint}", field="source.repo")
    if found["scheme"] == "https" and found["user"]:
        raise InvalidArgument(
            "a repository's address holds no user; the operator names a secret for it (git.credentials)", field="source.repo"
        )
    if ".." in found["path"]:
        raise InvalidArgument(f"the address of a repository has no `..` in it; {hint}", field="source.repo")


def key_of(address: str, repositories: Repositories) -> tuple[str, str] | None:
    """The glob that this address falls under, and the slug of the secret that opens it."""
    return next(((pattern, slug) for pattern, slug in repositories.credentials.items() if fnmatchcase(address, pattern)), None)


def host_of(pattern: str) -> str:
    """The host, and the port where there is one, of an address or a glob over addresses."""
    return pattern.partition("://")[2].partition("/")[0].rpartition("@")[2]


_SHORTHANDS = ("github.com/", "bitbucket.org/")  # hosts that engines know without being told that they speak Git


def host_of_module(source: str) -> str | None:
    """The host that a module source is fetched from by Git; None where nobody can tell, or nothing is fetched so."""
    if source.startswith(_SHORTHANDS):
        return source.partition("/")[0]
    found = re.match(r"(?:git::)?(?:(?:https|ssh)://(?:[^@/]+@)?([^/?]+)|[a-z_][a-z0-9_-]*@([^:/?]+):)", source)
    return (found[1] or found[2]) if found else None


def prefixes_of_modules(patterns: Iterable[str]) -> tuple[str, ...] | None:
    """What addresses of Git begin with where only these module sources are allowed; None where they may begin with anything.

    Modules of modules are fetched before anybody can read their sources, so this is what keeps them within bounds meanwhile.
    """
    addresses = addresses_of_modules(patterns)
    return None if addresses is None else tuple(re.split(r"[*?]", address, maxsplit=1)[0] for address in addresses)


def addresses_of_modules(patterns: Iterable[str]) -> tuple[str, ...] | None:
    """Globs (`*` and `?`) over the whole addresses that git may be given where only these module sources are allowed; None where
    those may be any.

    An address is a source without the folder in the repository (`//…`) and without what comes after `?`.
    """
    found = []
    for pattern in patterns:
        if pattern.startswith(("./", "../")):
            continue
        address = f"https://{pattern}" if pattern.startswith(_SHORTHANDS) else pattern.removeprefix("git::")
        address = re.sub(r"^([a-z_][a-z0-9_-]*@[^:/]+):(?!//)", r"ssh://\1/", address)
        if not re.match(r"(?:https|ssh)://[^/*?\[]+/", address):
            return None
        scheme, _, rest = address.partition("://")
        whole = re.split(r"//|\?(?:ref|depth|sshkey)=", rest, maxsplit=1)[0]
        # What cannot be said here as it is there is bounded by its beginning.
        found.append(f"{scheme}://" + re.sub(r"\[.*", "*", whole))
    return tuple(found)


def protocols_of_modules(patterns: Iterable[str]) -> tuple[str, ...]:
    """What git may speak where only these module sources are allowed: what the operator names, and what is private and checked."""
    known = ("file", "git", "http")
    return ("https", "ssh", *(p for p in known if any(pattern.startswith(("*", "git::*", f"git::{p}:")) for pattern in patterns)))


def check_ref(ref: str | None) -> str:
    """The ref, as it is: a branch or a tag, short or whole. Raises InvalidArgument."""
    if not ref:
        raise InvalidArgument("a source in a repository needs its git_ref: the branch or tag plans are made of", field="source.git_ref")
    name = ref.removeprefix(BRANCH).removeprefix(TAG)
    bad = ".." in name or "@{" in name or any(part.endswith((".", ".lock")) for part in name.split("/"))
    if bad or not _REF.fullmatch(name) or len(ref) > 200:
        raise InvalidArgument(f"{ref[:100]!r} is no name of a branch or tag; write it like main or refs/tags/v1.2", field="source.git_ref")
    if _COMMIT.fullmatch(name):
        raise InvalidArgument(
            "git_ref names a branch or tag, and that is a commit; register the branch it is on, and give the commit to the plan",
            field="source.git_ref",
        )
    if name in ("HEAD", "FETCH_HEAD", "ORIG_HEAD") or name.startswith("refs/"):
        raise InvalidArgument(
            f"{ref[:100]!r} is neither a branch nor a tag; write it like main, refs/heads/main or refs/tags/v1.2", field="source.git_ref"
        )
    return ref


def meanings(ref: str) -> tuple[str, ...]:
    """The whole names a ref may stand for."""
    return (ref,) if ref.startswith("refs/") else (f"{BRANCH}{ref}", f"{TAG}{ref}")


def check_folder(path: str) -> str:
    """The path of a root module below the root of its repository, "." for the root itself. Raises InvalidArgument."""
    if path != "." and (not _FOLDER.fullmatch(path) or ".." in path.split("/")):
        raise InvalidArgument(
            f"{path[:100]!r} is no folder of a repository; write names joined by /, without `..`, or . for its root", field="source.path"
        )
    return path


def where_link_leads(path: str, target: str, above: int) -> str | None:
    """What a link at `path` points to, both seen from the working folder; None where it leaves a source that reaches so far `above`."""
    if not target or target.startswith("/") or "\0" in target:
        return None
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return None if leads_out(end, above) else end


def leads_out(path: str, above: int) -> bool:
    """Whether a normal path leaves a source that reaches so many folders above the working folder."""
    return path.split("/")[: above + 1].count("..") > above
