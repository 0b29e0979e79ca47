"""The bundle: everything apply needs, in one piece whose hash people approved.

A tar of the saved plan, the configuration as it was planned (with the files the plan made), the lock file and the modules;
not of provider packages, which the lock file pins and machines share. Equal content gives equal bytes. It holds secrets in
clear (the saved plan does): it is sealed by the caller and unpacked into an attempt's private folder only.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from countersign.adapters.private import write, write_all
from countersign.adapters.terraform.checkout import OVERRIDE, Tree
from countersign.core.errors import FailedPrecondition
from countersign.core.model import Payload

PLAN, META, SECRETS, TREE, OPERATIONS = "plan.tfplan", "meta.json", "secrets.json", "tree", "operations.json"


class Meta(Payload):
    v: Literal["countersign.bundle/1"] = "countersign.bundle/1"
    engine: str  # "terraform" | "tofu"
    engine_build: str
    plan_sha256: str
    warm_key: str = Field(pattern=r"^[0-9a-f]{64}$")  # where a machine that planned this keeps the provider packages
    commit: str | None = None
    repository: str | None = None
    ref: str | None = None
    below: str = ""  # path of the working folder below the root of its source
    source: tuple[str, ...] = ()  # files that were there before anything ran; none in a bundle of an earlier version
    own: bool = False  # the state stays in the backend that the configuration declares
    restores: bool = False  # what was approved is no plan of the engine but a state to be stored

    def refuse_other_than(self, engine: str) -> None:
        if self.engine != engine:
            raise FailedPrecondition(f"the plan was made by {self.engine}, and the stack now says {engine}; plan again")

    def refuse_other_keeper(self, *, own: bool) -> None:
        if self.own != own:
            raise FailedPrecondition("the state of the stack is kept elsewhere since this plan was made; plan again")


def pack(*, meta: Meta, plan: bytes, secrets: Iterable[str], operations: Mapping[str, Sequence[str]], tree: Path) -> bytes:
    """The bundle of a planned folder. `secrets` are what apply must hide in everything it tells, `operations` what it may begin."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, META, meta.model_dump_json().encode())
        _add(tar, SECRETS, json.dumps(sorted(secrets)).encode())
        _add(tar, OPERATIONS, json.dumps(operations, sort_keys=True).encode())
        _add(tar, PLAN, plan)
        for path in files_below(tree, meta.below):
            name = path.relative_to(_root(tree, meta.below)).as_posix()
            _add(tar, f"{TREE}/{name}", path.read_bytes(), mode=0o700 if path.stat().st_mode & 0o100 else 0o600)
    return out.getvalue()


def _root(tree: Path, below: str) -> Path:
    return tree.parents[below.count("/")] if below else tree


def files_below(tree: Path, below: str = "") -> list[Path]:
    """Regular files of a planned folder, and of what lies beside it where it is `below` the root of its source, in a fixed order.

    Provider packages, links and the history of fetched modules are left out.
    """
    providers, modules = tree / ".terraform" / "providers", tree / ".terraform" / "modules"

    def look(folder: Path, *, fetched: bool) -> Iterator[Path]:
        try:
            found = os.scandir(folder)
        except PermissionError:
            return
        with found as entries:
            for entry in entries:
                path = folder / entry.name
                if entry.is_symlink() or path == providers or (fetched and entry.name == ".git"):
                    continue
                if entry.is_dir():
                    yield from look(path, fetched=fetched or path == modules)
                elif entry.is_file():
                    yield path

    return sorted(look(_root(tree, below), fetched=False))


def made_files(tree: Path, planned: Iterable[str], below: str = "") -> dict[str, str]:
    """Files the plan made beside the source: path → sha256."""
    known = set(planned)
    found = {}
    for path in files_below(tree, below):
        relative = _name(path, tree)
        if relative not in known and relative != ".terraform/terraform.tfstate":
            found[relative] = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _name(path: Path, tree: Path) -> str:
    """As a `Tree` names its files: seen from the working folder."""
    return Path(os.path.relpath(path, tree)).as_posix()


def fetched_modules(made: Mapping[str, str]) -> dict[str, str]:
    """Of the files beside the source, those of modules from elsewhere."""
    inside = ".terraform/modules/"
    return {path: digest for path, digest in made.items() if path.startswith(inside) and path != f"{inside}modules.json"}


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    meta: Meta
    secrets: list[str] = field(repr=False)
    operations: Mapping[str, Sequence[str]] | None = field(repr=False)  # None in a bundle of an earlier version
    work: Path  # the work directory


def unpack(data: bytes, folder: Path) -> Unpacked:
    """Write the saved plan and the work directory into `folder`. Raises FailedPrecondition where the bundle is none.

    What is about them is not written: who needs it later keeps it.
    """
    about: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar.getmembers():
                if not member.isreg() or member.name.startswith("/") or ".." in member.name.split("/"):
                    raise FailedPrecondition("the plan's bundle holds something that is no plain file; plan again")
            about = {m.name: _content(tar, m) for m in tar.getmembers() if m.name in (META, SECRETS, OPERATIONS, PLAN)}
            files = (m for m in tar.getmembers() if m.name not in about)
            write_all(folder, ((m.name, _content(tar, m), bool(m.mode & 0o100)) for m in files))
        meta = Meta.model_validate_json(about[META])
        secrets: Any = json.loads(about[SECRETS])
        operations: Any = json.loads(about.get(OPERATIONS, b"null"))
        saved = about[PLAN]
    except (tarfile.TarError, OSError, KeyError, ValueError, ValidationError):
        raise FailedPrecondition("the plan's bundle cannot be read; plan again") from None
    if "sha256:" + hashlib.sha256(saved).hexdigest() != meta.plan_sha256:
        raise FailedPrecondition("the saved plan in the bundle is not the one that was planned; plan again")
    write(folder / PLAN, saved)
    work = working_folder(folder, meta.below)
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Unpacked(meta=meta, secrets=[str(s) for s in secrets], operations=operations, work=work)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    return content.read() if content else b""


def below_of(unpacked: Path) -> str:
    """As a bundle that an earlier version unpacked says."""
    try:
        return Meta.model_validate_json((unpacked / META).read_bytes()).below
    except (OSError, ValidationError):
        return ""


def working_folder(unpacked: Path, below: str) -> Path:
    """Where the engine works in a bundle that was unpacked into this folder."""
    return unpacked / TREE / below


def source_of(meta: Meta, work: Path) -> Tree:
    """The source as it was planned, from the work directory of an unpacked bundle."""
    ours = work / ".terraform"
    every = [p for p in files_below(work, meta.below) if not p.is_relative_to(ours) and p.name != OVERRIDE]
    paths = [work / name for name in meta.source] if meta.source else every
    files = {_name(path, work): path for path in paths}
    return Tree(
        below=meta.below,
        files={name: path.read_bytes() for name, path in files.items()},
        executable=frozenset(name for name, path in files.items() if path.stat().st_mode & 0o100),
    )


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o600) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), mode, 0
    tar.addfile(info, io.BytesIO(data))
