"""A disk that is full at each write, one after the other: nothing counts that was not written, and all goes on when there is room.

The data folder lies on a small file system of its own, and it is really full: mounting one takes root. What Terraform writes itself
(work folder, journal, a state it cannot store) is in `test_terraform_limits.py`, the state service in `test_state_process.py`.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.client import Client

from countersign.adapters.artifacts import Artifacts, Content, Written
from countersign.adapters.store import audit, plans
from countersign.adapters.store.runs import RunRow
from countersign.core.errors import Unavailable
from countersign.core.run import RunState
from tests.requirements import requirement
from tests.service import Service, eventually, service
from tests.toy.engine import ToyEngine, install

pytestmark = pytest.mark.anyio
S = RunState


# Commits that find no room: a step that is tried again comes one further each time, so every commit of a run is among them.
FULL = frozenset(n * (n + 1) // 2 for n in range(1, 60))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """Not a byte is free inside, however many the store takes or gives back while the disk is being filled."""
    ballast, held = folder / "ballast", 0
    try:
        with ballast.open("wb") as file:
            while free := shutil.disk_usage(folder).free:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), held, free)
                    held += free
        yield
    finally:
        ballast.unlink()


class Filling(Artifacts):
    """The disk is full when an artifact of some kind is written for the first time."""

    at = ""
    refused: list[str]

    async def write_all(self, contents: Sequence[Content], **of: Any) -> tuple[Written, ...]:
        if self.refused or all(content.kind != self.at for content in contents):
            return await super().write_all(contents, **of)
        with full(Path(self._place.shown)):
            try:
                return await super().write_all(contents, **of)
            except Unavailable as no_room:
                self.refused.append(no_room.message)
                raise


@contextlib.asynccontextmanager
async def on_a_small_disk(client: Client, small: Path, engine: ToyEngine) -> AsyncIterator[Service]:
    install()
    async with service(client, small / "data", engine, ui_approvals="trusted") as it:
        await it.stop_workers()
        yield it


async def asked(it: Service, engine: ToyEngine) -> RunRow:
    engine.want(("a", "create"))
    return await it.start(await it.stack("full"), tool="apply_toy")


async def applied_once(it: Service, engine: ToyEngine, run: RunRow) -> None:
    waiting = await it.reaches(run.id, S.AWAITING_APPROVAL, patience=90)

    async def agreed() -> bool:
        with contextlib.suppress(Unavailable):
            return (await it.approve(waiting)).accepted
        return False

    await eventually(agreed, "the decision to be taken")
    await it.reaches(run.id, S.APPLIED, patience=120)
    assert engine.world == ["a create"]
    async with it.store.read() as conn:
        [attempt] = await plans.attempts_of(conn, it.org, run.id)
        assert attempt.outcome == S.APPLIED
        assert await audit.first_broken(conn, it.org) is None
    assert (engine.root / "launched").read_text().split() == [attempt.id]


@requirement("bad:disk-full", "I3", "I4")
@pytest.mark.parametrize("kind", ["plan_bundle", "plan_json", "plan_view", "semantic_document", "log", "apply_log"])
async def test_an_artifact_that_finds_the_disk_full_is_no_artifact_and_the_run_goes_on(
    client: Client, small: Path, tmp_path: Path, kind: str
) -> None:
    engine = ToyEngine(tmp_path / "toy")
    async with on_a_small_disk(client, small, engine) as it:
        disk = Filling(it.store, it.keyring, it.settings.data / "artifacts")
        disk.at, disk.refused, it.artifacts = kind, [], disk
        run = await asked(it, engine)
        await it.start_workers()

        await applied_once(it, engine, run)

        assert len(disk.refused) == 1
        assert "free some space on the disk of the data folder" in disk.refused[0]


@requirement("bad:disk-full", "I1", "I3")
async def test_a_store_whose_disk_is_full_at_one_commit_after_the_other_loses_and_doubles_nothing(
    client: Client, small: Path, tmp_path: Path
) -> None:
    engine = ToyEngine(tmp_path / "toy")
    async with on_a_small_disk(client, small, engine) as it:
        whole, refused, number = it.store.begin, [], 0

        @contextlib.asynccontextmanager
        async def begin() -> AsyncIterator[AsyncConnection]:
            nonlocal number
            number += 1
            with contextlib.ExitStack() as disk:
                try:
                    async with whole() as tx:
                        yield tx
                        if number in FULL:
                            disk.enter_context(full(small))  # at the commit
                except Unavailable as no_room:
                    refused.append(no_room.message)
                    raise

        run = await asked(it, engine)
        it.store.begin = begin  # type: ignore[method-assign]
        it.store.begin_state = begin  # type: ignore[method-assign]
        await it.start_workers()

        await applied_once(it, engine, run)

        assert len(refused) >= 5
        assert set(refused) == {"the disk of the data folder is full or failing; free some space and ask again"}
