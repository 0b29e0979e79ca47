"""Objects in the artifact store say, sealed, what they are: what a restored store does not know is found by that."""

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters import durable
from countersign.adapters.artifacts import Artifacts, Content
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import Folder
from countersign.adapters.store.database import Store
from countersign.core.errors import FailedPrecondition, Unavailable
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
STATE = b'{"version": 4, "serial": 7, "lineage": "l", "outputs": {"secret": "hunter2hunter2"}}'


@pytest.fixture(params=BOTH)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    with database_of(request) as database:
        opened = await Store.open(database or f"sqlite+aiosqlite:///{tmp_path / 'countersign.db'}")
        yield opened
        await opened.close()


def kept(store: Store, folder: Path) -> Artifacts:
    return Artifacts(store, Keyring.open(folder, role="state"), folder / "artifacts")


@requirement("restore:found")
async def test_what_the_store_does_not_know_is_found_with_what_it_is(store: Store, tmp_path: Path) -> None:
    artifacts = kept(store, tmp_path)
    facts: Any = {"org": "local", "stack_id": "st_1", "run_id": "run_1", "readable": False}
    known = await artifacts.write(**facts, kind="state", name="state-6", data=b"{}")
    async with store.begin() as tx:
        await artifacts.record(tx, known)
    later = await artifacts.write(**facts, kind="state", name="state-7", data=STATE)
    log = await artifacts.write(**facts | {"readable": True}, kind="log", name="log", data=b"said")

    async with store.read() as conn:
        assert await artifacts.unknown(conn, "state") == [later]
        assert {one.id for one in await artifacts.unknown(conn)} == {later.id, log.id}
    assert await artifacts.content(later) == STATE
    stored = (tmp_path / "artifacts" / "local" / "st_1" / later.id).read_bytes()
    assert b"hunter2" not in stored
    assert b"state-7" not in stored


@requirement("restore:found")
async def test_what_was_moved_or_damaged_or_comes_from_before_proves_nothing(store: Store, tmp_path: Path) -> None:
    artifacts = kept(store, tmp_path)
    facts: Any = {"org": "local", "stack_id": "st_1", "run_id": "run_1", "readable": False, "kind": "state"}
    one = await artifacts.write(**facts, name="state-1", data=STATE)
    path = tmp_path / "artifacts" / "local" / "st_1" / one.id
    stored = path.read_bytes()
    other = tmp_path / "artifacts" / "local" / "st_2" / one.id
    other.parent.mkdir()
    other.write_bytes(stored)  # of another stack
    damaged = bytearray(stored)
    damaged[60] ^= 1
    path.write_bytes(bytes(damaged))
    content = stored[8 + int.from_bytes(stored[4:8], "big") :]  # as it lay there before objects had labels
    path.with_name("art_before").write_bytes(content)
    path.with_name("art_empty").touch()

    async with store.read() as conn:
        assert await artifacts.unknown(conn) == []
    path.unlink()
    with pytest.raises(FailedPrecondition, match="gone"):
        await artifacts.content(one)


async def test_an_object_of_before_there_were_labels_is_still_read(store: Store, tmp_path: Path) -> None:
    artifacts = kept(store, tmp_path)
    one = await artifacts.write(org="local", stack_id="st_1", run_id=None, kind="log", name="log", data=b"said", readable=True)
    path = tmp_path / "artifacts" / "local" / "st_1" / one.id
    stored = path.read_bytes()
    path.write_bytes(stored[8 + int.from_bytes(stored[4:8], "big") :])

    assert await artifacts.content(one) == b"said"


async def test_what_one_step_stores_is_on_the_disk_together_and_each_folder_is_synced_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = kept(store, tmp_path)
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").resolve().relative_to(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    contents = [Content(kind=kind, name=kind, data=kind.encode() * 1000, readable=True) for kind in ("plan_view", "log")]
    first = await artifacts.write_all(contents, org="local", stack_id="st_1", run_id="run_1")
    view, log = (f"artifacts/local/st_1/{one.id}" for one in first)

    assert sorted(synced) == sorted([view, log, "artifacts/local/st_1", "artifacts/local", "artifacts"])
    synced.clear()
    [later] = await artifacts.write_all(contents[:1], org="local", stack_id="st_1", run_id="run_2")
    assert sorted(synced) == ["artifacts/local/st_1", f"artifacts/local/st_1/{later.id}"], "the folder's name is on the disk already"
    assert await artifacts.content(first[0]) == b"plan_view" * 1000
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "artifacts" / "local" / "st_1").iterdir()} == {"0o600"}


@pytest.mark.parametrize(("size", "quick", "waits"), [(1000, True, False), (1000, False, True), (200_000, True, True)])
async def test_only_what_is_small_is_stored_on_the_event_loop_and_only_on_a_quick_disk_beside_sqlite(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, quick: bool, waits: bool
) -> None:
    artifacts = kept(store, tmp_path)
    by: list[int] = []
    monkeypatch.setattr(durable, "_disk", durable.Disk(quick=quick))
    monkeypatch.setattr(durable, "QUICK", 60.0 if quick else 0.0)
    put = Folder.put

    def noted(folder: Folder, objects: Any) -> None:
        by.append(threading.get_ident())
        put(folder, objects)

    monkeypatch.setattr(Folder, "put", noted)
    contents = [Content(kind=kind, name=kind, data=b"x" * size, readable=True) for kind in ("plan_view", "log")]
    written = await artifacts.write_all(contents, org="local", stack_id="st_1", run_id="run_1")

    assert [who != threading.get_ident() for who in by] == [waits or not store.is_sqlite]
    assert [await artifacts.content(one) for one in written] == [b"x" * size] * 2
    assert await artifacts.write_all([], org="local", stack_id="st_1", run_id="run_1") == ()


@requirement("bad:disk-full")
async def test_what_the_disk_did_not_take_to_the_end_is_not_called_stored(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = kept(store, tmp_path)
    synced = 0

    def fsync(fd: int) -> None:
        nonlocal synced
        synced += 1
        if Path(f"/proc/self/fd/{fd}").resolve() == tmp_path / "artifacts" / "local" / "st_1":
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(durable, "_disk", durable.Disk())
    monkeypatch.setattr(durable, "QUICK", 0.0)  # all of them at once
    contents = [Content(kind=kind, name=kind, data=b"said", readable=True) for kind in ("plan_view", "log")]
    with pytest.raises(Unavailable, match="the artifact store did not take plan_view, log: an input or output error"):
        await artifacts.write_all(contents, org="local", stack_id="st_1", run_id="run_1")
    assert synced == 5


async def test_an_object_that_is_cut_off_while_it_is_written_is_none(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = kept(store, tmp_path)
    facts: Any = {"org": "local", "stack_id": "st_1", "run_id": "run_1", "readable": False, "kind": "state"}
    whole = await artifacts.write(**facts, name="state-1", data=STATE)
    written = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return written(fd, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unavailable, match="the artifact store did not take state: no space left"):
        await artifacts.write(**facts, name="state-2", data=STATE)
    monkeypatch.undo()

    assert [path.name for path in (tmp_path / "artifacts" / "local" / "st_1").iterdir()] == [whole.id]
    (tmp_path / "artifacts" / "local" / "st_1" / "art_killed#17").write_bytes(b"CSA1")  # by whoever was killed meanwhile
    async with store.read() as conn:
        assert await artifacts.unknown(conn) == [whole]
