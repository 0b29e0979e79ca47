"""From a name to an initialised folder: the source is copied, judged, and only then does anything of it run."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from countersign.adapters import private
from countersign.adapters.terraform.checkout import OVERRIDE, Tree, read_tree
from countersign.adapters.terraform.modules import fetching_modules
from countersign.adapters.terraform.repository import read_repository
from countersign.adapters.terraform.session import Session
from countersign.adapters.terraform.static_check import is_configuration
from countersign.adapters.terraform.warm import check_backend
from countersign.core.engine import Finding
from countersign.core.errors import ProviderError
from countersign.core.terraform import source
from countersign.core.terraform.events import in_words
from countersign.core.terraform.source import Declared

BACKEND = b'terraform {\n  backend "http" {}\n}\n'


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A source that may be planned, in the workspace's tree."""

    tree: Tree
    files: Mapping[str, Declared]


async def checked(session: Session, *, elsewhere: bool = False) -> Checked:
    """Copy the source and judge it. Raises PolicyDenied or ProviderError with findings.

    With `elsewhere`, and where the state stays there, the backend it declares is left to count; else ours replaces whatever it says.
    """
    await session.tell("reading the source")
    stack, around, place = session.job.stack, session.around, session.place

    def copied(tree: Tree | None) -> tuple[Tree, dict[str, Declared], list[str]]:
        tree = tree or read_tree(around.stacks_root, stack.source_path)
        tree.write(place.tree)
        return tree, *around.reader.read(tree.files)

    repository = await read_repository(session) if stack.source_repo is not None else None
    tree, files, unreadable = await session.while_beating(asyncio.to_thread(copied, repository))
    if unreadable:
        await _unreadable(session, unreadable)
    declared = elsewhere or stack.own
    session.refuse(source.judge(files, around.allow, above=len(Path(tree.below).parts), backends=declared or stack.adopted))
    if not declared:
        private.write(place.tree / OVERRIDE, BACKEND)
    return Checked(tree=tree, files=files)


async def _unreadable(session: Session, paths: list[str]) -> None:
    """The engine says what is wrong with a file; where it finds nothing, the file is refused, for it was not checked."""
    environment = session.environment({}, backend=False)
    found: list[Finding] = []
    for folder in sorted({Path(path).parent for path in paths})[:5]:
        for one in await session.validate(environment, session.place.tree / folder):
            name = (folder / one.file).as_posix() if one.file else None
            if (
                name in paths and f"{session.executable.name} init" not in one.detail
            ):  # that nothing is initialised yet is no fault of the file
                found.append(replace(one, file=name))
    if found:
        raise session.failure(ProviderError, f"the configuration is broken: {in_words(found)}", found)
    session.refuse(_unchecked(paths))


def _unchecked(paths: Iterable[str]) -> list[Finding]:
    why = "Countersign is not sure what it declares: its syntax, or a kind of block, is unknown here. Write it plainer."
    return [Finding(severity="error", summary="this file cannot be checked", detail=why, file=path) for path in paths]


async def initialised(session: Session, source_: Checked, environment: Mapping[str, str], *, backend: str) -> str:
    """`init`, unless a warm folder fits; the key of the warm folder. `backend` is "http" or "none"."""
    tree, pool, place = source_.tree, session.around.pool, session.place
    key = pool.key(tree=tree.digest, lock=tree.lock, backend=backend, executable=session.executable.identity)
    if not pool.install(key, place.tree):  # a few small files and a link
        await session.tell("initialising")
        session.note(f"provider packages come from {session.around.origin}")
        async with fetching_modules(session, source_.files) as variables:
            argv = session.commands.init(backend=backend != "none")
            journal, ended = await session.events("init", argv, {**environment, **variables})
        refused, unreadable = await asyncio.to_thread(_judge_modules, session)
        session.refuse(refused)
        if ended.code != 0:
            raise session.failed("init", journal, ended)
        session.refuse(_unchecked(unreadable))
        if backend == "http":
            check_backend(place.tree)
        await asyncio.to_thread(pool.keep, key, place.tree)
    session.refuse(_strange_providers(session))
    return key


def _judge_modules(session: Session) -> tuple[list[Finding], list[str]]:
    """What init fetched is configuration as well, and was not seen before: what is refused of it, and what cannot be read."""
    fetched = session.place.tree / ".terraform" / "modules"
    contents = {
        path.relative_to(session.place.tree).as_posix(): path.read_bytes()
        for path in (sorted(fetched.rglob("*")) if fetched.is_dir() else ())
        if path.is_file() and is_configuration(path.name)
    }
    files, unreadable = session.around.reader.read(contents)
    return source.judge(files, session.around.allow), unreadable


def _strange_providers(session: Session) -> list[Finding]:
    """What init installed is what will run, whatever the files were read to say; the state may ask for providers as well."""
    installed = (session.place.tree / ".terraform" / "providers").glob("*/*/*")
    names = sorted("/".join(path.parts[-3:]) for path in installed)
    return [
        Finding(
            severity="error", summary=f"provider {name!r} is not allowed", detail="The configuration or an object in the state needs it."
        )
        for name in names
        if not source.provider_allowed(name, session.around.allow)
    ]
