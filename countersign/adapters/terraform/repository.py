"""From a commit of a repository to the files of one stack: its folder, the modules beside it that it uses, and nothing else.

Files are what the commit holds, byte for byte: no work tree, no filter, no line ends of this machine. What a link points to
is read as a file, where that is one of the same commit; submodules are left out, and told.
"""

import asyncio
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import replace

from countersign.adapters.git import Attempt, Broken, Checkout, Entry
from countersign.adapters.terraform.checkout import FILES, SIZE, Tree, check_name, left_out, refuse_empty, too_large
from countersign.adapters.terraform.session import Session
from countersign.core.engine import PlanJob, StackConfig
from countersign.core.errors import FailedPrecondition, NotFound, Unavailable
from countersign.core.redaction import clean_line
from countersign.core.repository import check_folder, where_link_leads
from countersign.core.terraform.source import module_folder

_LINK, _SUBMODULE = "120000", "160000"
_CHAIN = 5  # links to links
_TOLD = 5  # paths named in one remark
_POINTER = b"version https://git-lfs.github.com/spec/"


def folder_of(stack: StackConfig) -> str:
    """The path of the working folder below the root of its source."""
    return "" if stack.source_repo is None or stack.source_path == "." else stack.source_path


async def read_repository(session: Session) -> Tree:
    """The stack's files at its commit; the session's job names that commit afterwards."""
    stack, around, place = session.job.stack, session.around, session.place
    assert stack.source_repo is not None
    check_folder(stack.source_path)
    attempt = Attempt(
        attempt_id=session.job.attempt_id,
        home=place.home,
        side=place.side,
        beat=session.beat,
        reveal=session.job.reveal,
        search_path=around.search_path,
        lock=place.lock,
    )
    for _ in range(2):
        try:
            async with around.mirrors.opened(stack.source_repo, stack.git_ref, session.job.commit, attempt) as checkout:
                tree = await _Reading(checkout, session).tree()
                remarks = (*tree.remarks, *await _history(checkout, session.job))
                session.revision = checkout.at
                session.job = replace(session.job, commit=checkout.at.commit)
                return replace(tree, remarks=remarks)
        except Broken:
            await around.mirrors.forget(stack.source_repo, attempt)
    raise Unavailable(f"the mirror of {stack.source_repo} cannot be read, and a new one neither; see `countersign doctor`")


async def _history(checkout: Checkout, job: PlanJob) -> list[str]:
    """What an approver should know about the commit beside what it holds."""
    at, said = checkout.at, []
    if at.behind:
        said.append(f"Commit {at.commit[:12]} is {at.behind} commit(s) behind {at.ref}: what came later is not in this plan.")
    before = job.applied_commit
    if before is not None and before != at.commit and not await checkout.contains(before):
        said.append(
            f"Commit {before[:12]}, which was applied last, is not part of the history of {at.commit[:12]}: {at.ref} was moved back or "
            "rewritten, or an older commit is planned. This may undo what came with it."
        )
    return said


class _Reading:
    """Paths are those of the repository; the tree that comes of it names its files as seen from the working folder."""

    def __init__(self, checkout: Checkout, session: Session) -> None:
        self._checkout, self._session = checkout, session
        self._below = folder_of(session.job.stack)
        self._name = f"{session.job.stack.source_path} of {checkout.at.address} at {checkout.at.commit[:12]}"
        self._folders: set[str] = set()
        self._files: dict[str, bytes] = {}
        self._links: dict[str, str] = {}  # path → path it leads to
        self._beside: dict[str, bytes] = {}  # what only links lead to
        self._executable: set[str] = set()
        self._submodules: list[str] = []
        self._size = 0

    async def tree(self) -> Tree:
        wanted = {self._below}
        while wanted:
            self._folders |= wanted
            await self._read(wanted)
            wanted = await asyncio.to_thread(self._modules)
        await self._follow_links()
        found = {self._seen(path): data for path, data in self._files.items()}
        refuse_empty(self._name, found)
        executable = frozenset(self._seen(path) for path in self._executable & self._files.keys())
        return Tree(files=found, executable=executable, below=self._below, remarks=tuple(self._remarks()))

    def _seen(self, path: str) -> str:
        return posixpath.relpath(path, self._below or ".")

    async def _read(self, folders: Iterable[str]) -> None:
        entries = await self._checkout.entries(sorted(folders), most=FILES)
        if self._below in folders and not any(self._inside(e.path) for e in entries):
            raise NotFound(f"there is no folder {self._name}; name one that is in that commit", field="source.path")
        if strange := next((e.path for e in entries if {"", ".", ".."} & {*e.path.split("/")}), None):
            raise FailedPrecondition(f"{clean_line(strange)!r} is no path that a commit may have; mend the repository", field="source")
        kept = [e for e in entries if not any(left_out(part) for part in self._seen(e.path).split("/"))]
        for entry in kept:
            if self._inside(entry.path):
                check_name(self._seen(entry.path))
        self._submodules += [e.path for e in kept if e.mode == _SUBMODULE]
        for path, data in (await self._contents(e for e in kept if e.mode != _SUBMODULE and ".tfstate" not in e.path)).items():
            self._files[path] = data

    def _inside(self, path: str) -> bool:
        """Whether it is below the working folder."""
        return not self._below or path.startswith(f"{self._below}/")

    async def _contents(self, entries: Iterable[Entry]) -> dict[str, bytes]:
        """Of files; links are noted."""
        entries = tuple(entries)
        self._size += sum(e.size or 0 for e in entries)
        if len(self._files) + len(entries) > FILES or self._size > SIZE:
            raise too_large(self._name)
        contents = await self._checkout.contents(entries)
        found = {}
        for entry in entries:
            data = contents[entry.oid]
            if entry.mode == _LINK:
                self._links[entry.path] = self._target(entry.path, data)
                continue
            found[entry.path] = data
            if entry.mode == "100755":
                self._executable.add(entry.path)
        return found

    def _target(self, path: str, data: bytes) -> str:
        target = where_link_leads(path, data.decode("utf-8", "surrogateescape"), 0)
        if target is None:
            raise FailedPrecondition(
                f"{clean_line(path)} is a link that leads out of the repository; replace it by the file", field="source"
            )
        return target

    def _modules(self) -> set[str]:
        """Folders of local modules that are not read yet. Reads what files declare: call it in a thread."""
        files, _ = self._session.around.reader.read(self._files)
        found = set()
        for path, file in files.items():
            for module in file.modules:
                if module.name.startswith(("./", "../")):
                    folder = module_folder(module.name, posixpath.dirname(path))
                    folder = "" if folder == "." else folder
                    if not folder.startswith("../") and folder != ".." and not self._covered(folder):
                        found.add(folder)
        return found

    def _covered(self, folder: str) -> bool:
        return any(not known or folder == known or folder.startswith(f"{known}/") for known in self._folders)

    async def _follow_links(self) -> None:
        """A link becomes the file it leads to, also by way of other links."""
        known: Mapping[str, bytes] = self._files
        for _ in range(_CHAIN):
            targets = {t for t in self._links.values() if t not in known and t not in self._links}
            if targets:
                entries = [
                    e for e in await self._checkout.entries(sorted(targets), most=FILES) if e.path in targets and e.mode != _SUBMODULE
                ]
                self._beside |= await self._contents(entries)
                known = {**self._beside, **self._files}
            self._links = {path: self._links.get(target, target) for path, target in self._links.items()}
            if all(target in known for target in self._links.values()):
                break
        for path, target in self._links.items():
            if target not in known:
                raise FailedPrecondition(
                    f"{clean_line(path)} is a link to something that is no file of this commit; replace it by the file", field="source"
                )
            if any(path == f or path.startswith(f"{f}/") or not f for f in self._folders):
                self._files[path] = known[target]

    def _remarks(self) -> Iterable[str]:
        if self._submodules:
            yield f"Submodules are not fetched, and left out: {_some(self._submodules)}."
        if pointers := sorted(path for path, data in self._files.items() if data.startswith(_POINTER)):
            yield f"Contents in Git LFS are not fetched; these files hold only where they are: {_some(pointers)}."


def _some(paths: Iterable[str]) -> str:
    paths = [clean_line(path)[:100] for path in paths]
    more = f" and {len(paths) - _TOLD} more" if len(paths) > _TOLD else ""
    return ", ".join(paths[:_TOLD]) + more
