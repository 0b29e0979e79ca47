"""From a name to a copy of its source: what may be planned, and its digest.

The copy is made by reading every file once, so that what is digested, checked and planned are the same bytes, whatever
happens to the folder meanwhile.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from countersign.adapters.private import write_all
from countersign.core.digests import digest_of
from countersign.core.errors import FailedPrecondition, InvalidArgument, NotFound
from countersign.core.redaction import clean_line

OVERRIDE = "zzz_countersign_override.tf"
OURS = "zzz_countersign_override."  # begins every name that could stand for, or hide, the file above
LOCK_FILE = ".terraform.lock.hcl"
FILES = 10_000
SIZE = 64 << 20  # bytes of all files
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
# Left where they are: what tools keep beside a source, an earlier init of somebody else's included.
_IGNORED = frozenset({".git", ".hg", ".svn", ".DS_Store", "__pycache__", ".terraform"})
# Tests, mocks and queries are no part of a plan, yet init would fetch the modules they name.
_NOT_PLANNED = re.compile(r".*\.(?:tftest|tofutest|tfmock|tofumock|tfquery|tofuquery)\.(?:hcl|json)")


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The files of one source: path seen from the working folder → content. `digest` covers paths, contents and the executable bit.

    Where the working folder lies `below` the root of a repository, files beside it begin with `../`.
    """

    files: Mapping[str, bytes]
    executable: frozenset[str]
    below: str = ""
    remarks: tuple[str, ...] = ()  # what an approver should know about it

    @cached_property
    def digest(self) -> str:
        return digest_of([[path, path in self.executable, hashlib.sha256(data).hexdigest()] for path, data in sorted(self.files.items())])

    @property
    def lock(self) -> str | None:
        """sha256 of the dependency lock file, or None."""
        data = self.files.get(LOCK_FILE)
        return None if data is None else "sha256:" + hashlib.sha256(data).hexdigest()

    def write(self, folder: Path) -> None:
        write_all(folder, ((path, data, path in self.executable) for path, data in self.files.items()))


def read_tree(root: Path, name: str) -> Tree:
    """The stack's folder `name` below `root`. Raises InvalidArgument, NotFound or FailedPrecondition saying what to change."""
    folder = _folder(root, name)
    files: dict[str, bytes] = {}
    executable: set[str] = set()
    size = 0
    try:
        for path, relative in _walk(folder, folder):
            status = path.stat()
            size += status.st_size
            if len(files) >= FILES or size > SIZE:
                raise too_large(name)
            files[relative] = path.read_bytes()
            if status.st_mode & 0o100:
                executable.add(relative)
    except OSError as broken:
        where = clean_line(str(broken.filename or name).removeprefix(f"{root}/"))
        raise FailedPrecondition(f"{where} cannot be read ({broken.strerror}); see to its permissions", field="source") from None
    refuse_empty(name, files)
    return Tree(files=files, executable=frozenset(executable))


def _folder(root: Path, name: str) -> Path:
    parts = name.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise InvalidArgument(
            f"{clean_line(name)[:100]!r} is no name of a stack's folder; write it like `network/prod`, without `..`", field="source.path"
        )
    folder = root.resolve()
    for part in parts:
        folder = folder / part
        if folder.is_symlink():
            raise InvalidArgument(f"the source {name} goes through a link; name the folder itself", field="source.path")
    if not folder.is_dir():
        raise NotFound(f"there is no folder {name} below the configured folder of stacks", field="source.path")
    return folder


def _walk(folder: Path, root: Path) -> Iterator[tuple[Path, str]]:
    for entry in sorted(folder.iterdir()):
        relative = entry.relative_to(root).as_posix()
        if left_out(entry.name):
            continue
        check_name(relative)
        if entry.is_symlink():
            target = entry.resolve()
            if not target.is_relative_to(root) or not target.is_file():
                raise FailedPrecondition(
                    f"{clean_line(relative)} is a link to something that is no file of this source; replace it by the file", field="source"
                )
        if entry.is_dir():
            yield from _walk(entry, root)
        elif entry.is_file():
            yield entry, relative
        else:
            raise FailedPrecondition(f"{clean_line(relative)} is neither file nor folder; remove it", field="source")


# What folders and repositories have in common


def left_out(name: str) -> bool:
    """Whether a file or folder of that name is no part of a source."""
    return name in _IGNORED or _NOT_PLANNED.fullmatch(name) is not None


def check_name(relative: str) -> None:
    """Raise FailedPrecondition for a file that must not be in a working folder."""
    name = relative.rpartition("/")[2]
    if ".tfstate" in name:
        raise FailedPrecondition(
            f"the source contains {clean_line(relative)}, and what is in that state would be made again: move it into the stack "
            "with `terraform state push`, and the file out of the folder",
            field="source",
        )
    if name.startswith(OURS):
        raise FailedPrecondition(f"the source contains {clean_line(relative)}, a name Countersign uses itself; rename it", field="source")
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise FailedPrecondition(f"{clean_line(relative)!r} is no name in UTF-8; rename that file", field="source") from None


def too_large(name: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the source {name} has more than {FILES} files or {SIZE >> 20} MiB; keep only the configuration in it", field="source"
    )


def refuse_empty(name: str, files: Iterable[str]) -> None:
    """Raise NotFound where a source has no root module."""
    if not any(f.endswith((".tf", ".tf.json", ".tofu", ".tofu.json")) and "/" not in f for f in files):
        raise NotFound(f"the source {name} holds no configuration (*.tf); name the folder of a root module", field="source")
