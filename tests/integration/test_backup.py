"""Backups of a data folder, and states by hand, as the commands do it, with no service at all."""

import asyncio
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.store import audit, keys, page_sessions, plans, records, state
from countersign.adapters.store.database import Store
from countersign.adapters.store.plans import AttemptRow
from countersign.core.principal import Kind, Principal
from countersign.core.terraform.state import header_of
from countersign.worker.noticing import notice
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
COMMAND = Path(sys.executable).with_name("countersign")
ANA = Principal(id="person:ana", kind=Kind.PERSON)
STACK = "local/dev/shop"


def document(serial: int, lineage: str = "l", **more: Any) -> bytes:
    return json.dumps({"version": 4, "serial": serial, "lineage": lineage, "resources": [], **more}).encode()


@dataclass
class Folder:
    """A data folder with one stack and a state of serial 7."""

    data: Path
    stack_id: str = ""

    def cli(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        env = {**{k: v for k, v in os.environ.items() if not k.startswith("COUNTERSIGN_")}, "COUNTERSIGN_DATA": str(self.data)}
        done = subprocess.run([str(COMMAND), *arguments], env=env, input=stdin, capture_output=True, timeout=90, check=False)
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == code, f"countersign {' '.join(arguments)} ended with {done.returncode}: {said}"
        return done.stdout.decode()

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        return dict(json.loads(self.cli(*arguments, "--json", code=code)))

    def says(self, *arguments: str, code: int = 1) -> str:
        """Why it refuses."""
        return str(self.json(*arguments, code=code)["error"]["message"])

    async def store(self) -> Store:
        return await Store.open(f"sqlite+aiosqlite:///{self.data / 'countersign.db'}")

    async def made(self) -> None:
        self.data.mkdir()
        store = await self.store()
        source = {"repo": None, "path": "shop", "git_ref": None}
        row = (await records.register_stack(store, org="local", env="dev", slug="shop", source=source, by=ANA)).row
        self.stack_id = row.id
        Keyring.open(self.data, role="all")
        for serial in (6, 7):
            await self.wrote(store, document(serial))
        await store.close()

    async def wrote(self, store: Store, data: bytes, *, row: bool = True, run_id: str = "run_later") -> str:
        """A state as the state service stores one; without a row it is what a store of before does not know."""
        kept = Artifacts(store, Keyring.open(self.data, role="state"), self.data / "artifacts")
        header = header_of(data)
        facts: Any = {"org": "local", "stack_id": self.stack_id, "run_id": run_id, "kind": "state", "name": f"state-{header.serial}"}
        written = await kept.write(**facts, data=data, readable=False)
        if row:
            async with store.begin() as tx:
                await kept.record(tx, written)
                by: Any = {"org": "local", "stack_id": self.stack_id, "credential_id": "att_1", "run_id": "run_1", "now": store.now()}
                await state.install(tx, header=header, written=written, **by)
        return written.id

    async def head(self) -> tuple[str | None, int, int]:
        store = await self.store()
        async with store.read() as conn:
            found = await state.head(conn, "local", self.stack_id)
        await store.close()
        return found.lineage, found.serial, found.epoch

    async def audited(self) -> list[dict[str, Any]]:
        store = await self.store()
        async with store.read() as conn:
            assert await audit.first_broken(conn, "local") is None
            rows = await conn.exec_driver_sql("SELECT body FROM audit WHERE org_id = 'local' ORDER BY seq")
            found = [json.loads(body) for (body,) in rows]
        await store.close()
        return found


@pytest.fixture
async def it(tmp_path: Path) -> Folder:
    made = Folder(data=tmp_path / "data")
    await made.made()
    return made


# -- backups


@requirement("backup:whole")
async def test_a_backup_holds_everything_its_store_names_and_overwrites_nothing(it: Folder, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"

    made = it.json("backup", str(file))

    assert (made["keys"], made["artifacts"], made["missing"]) == ("inside", 2, [])
    [head] = made["states"]
    assert (head["path"], head["lineage"], head["serial"], head["open_attempt"]) == (STACK, "l", 7, None)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "never overwrites" in it.says("backup", str(file))
    with tarfile.open(file) as tar:
        names = tar.getnames()
        assert names[0] == "store.db"
        assert names[-1] == "manifest.json"
        assert {"keys/artifacts.json", "keys/secrets.json", "keys/front.json"} <= set(names)
    it.cli("backup", str(tmp_path))  # a folder: one named by the time
    assert len(list(tmp_path.glob("countersign-*.tar"))) == 1
    assert [left.name for left in tmp_path.iterdir() if left.name.startswith(".")] == []


@requirement("backup:whole")
async def test_keys_go_to_another_place_or_stay_out_as_asked(it: Folder, tmp_path: Path) -> None:
    apart, bare, kept = tmp_path / "apart.tar", tmp_path / "bare.tar", tmp_path / "keys.json"
    secret = json.loads((it.data / "keys" / "artifacts.json").read_text())["keys"]["k1"]

    assert it.json("backup", str(apart), "--keys", str(kept))["keys"] == "elsewhere"
    assert it.json("backup", str(bare), "--without-keys")["keys"] == "none"

    assert all(secret.encode() not in file.read_bytes() for file in (apart, bare))
    assert kept.stat().st_mode & 0o777 == 0o600
    new = Folder(data=tmp_path / "new")
    assert "no keys in this backup" in new.says("restore", str(apart))
    assert not (new.data / "countersign.db").exists()
    new.cli("restore", str(apart), "--keys", str(kept))
    assert new.cli("state", "pull", "dev/shop") == document(7).decode()
    assert "whole" in it.cli("backup", "--verify", str(apart), "--keys", str(kept))


@requirement("backup:whole")
@pytest.mark.parametrize("harm", ["flip", "cut", "other keys", "no tar", "smuggled"])
async def test_a_damaged_backup_is_refused_before_anything_is_touched(it: Folder, tmp_path: Path, harm: str) -> None:
    file = tmp_path / "b.tar"
    it.cli("backup", str(file))
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    elif harm == "cut":
        del data[-20_000:]
    elif harm == "no tar":
        data = bytearray(b"hello" * 1000)
    if harm in ("other keys", "smuggled"):
        rewritten(file, harm)
    else:
        file.write_bytes(data)
    before = {path: path.read_bytes() for path in it.data.rglob("*") if path.is_file() and path.name != "up.lock"}

    for command in (["backup", "--verify", str(file)], ["restore", str(file), "--replace"]):
        why = it.says(*command)
        assert any(word in why for word in ("damaged", "no backup", "changed or belong elsewhere", "no backup of ours")), why

    assert {path: path.read_bytes() for path in before} == before
    assert not list(it.data.glob(".restoring*"))


def rewritten(file: Path, harm: str) -> None:
    """A tar whose manifest agrees with what was done to it."""
    with tarfile.open(file) as tar:
        members = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    if harm == "smuggled":
        members = {"../../evil": b"x", **members}
    else:
        name = "keys/artifacts.json"
        members[name] = members[name].replace(b'"keys": {"k1": "', b'"keys": {"k1": "AAAA')[:-7] + b'"}}'
        ring = {"active": "k1", "keys": {"k1": "QUFB" * 10 + "QUE="}}
        members[name] = json.dumps(ring).encode()
    manifest = json.loads(members.pop("manifest.json"))
    manifest["files"] = {n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in members.items()}
    members["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@requirement("backup:whole")
async def test_a_backup_made_while_others_write_is_one_moment_and_lacks_no_artifact(it: Folder, tmp_path: Path) -> None:
    store = await it.store()
    stop = asyncio.Event()

    async def writing() -> int:
        serial = 8
        while not stop.is_set():
            await it.wrote(store, document(serial, filler="x" * 20_000))
            serial += 1
        return serial - 1

    busy = asyncio.create_task(writing())
    files = [tmp_path / f"{number}.tar" for number in range(3)]
    for file in files:
        made = await asyncio.to_thread(it.json, "backup", str(file))
        assert made["missing"] == []
    stop.set()
    assert await busy > 8
    await store.close()
    for file in files:
        verified = await asyncio.to_thread(it.json, "backup", "--verify", str(file))
        assert verified["artifacts"] >= verified["states"][0]["serial"] - 5


@requirement("backup:whole")
async def test_what_the_data_folder_itself_lacks_is_said(it: Folder, tmp_path: Path) -> None:
    lost = next(path for path in (it.data / "artifacts").rglob("art_*"))
    lost.unlink()

    made = it.json("backup", str(tmp_path / "b.tar"), code=1)

    assert [name.rpartition("/")[2] for name in made["missing"]] == [lost.name]


async def test_a_newer_schema_and_a_running_service_are_refused(it: Folder, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    with sqlite3.connect(it.data / "countersign.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    it.cli("backup", str(file))
    assert "newer than this version" in Folder(data=tmp_path / "new").says("restore", str(file))
    with (it.data / "up.lock").open("w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another `countersign up` uses" in it.says("restore", str(file), "--replace")


# -- restoring


@requirement("restore:found", "restore:fenced")
async def test_a_newer_state_becomes_the_head_and_no_credential_of_before_opens_anything(it: Folder, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    store = await it.store()
    async with store.begin() as tx:
        facts: Any = {"org": "local", "stack_id": it.stack_id, "run_id": "run_1", "mode": "apply", "epoch": 0}
        password = await state.grant(tx, **facts, credential_id="att_old", expires_at=store.now() + timedelta(hours=1))
    it.cli("backup", str(file))
    await it.wrote(store, document(8), row=False)
    await it.wrote(store, document(9), row=False)
    await store.close()

    [told] = it.json("restore", str(file), "--replace")["states"]

    assert (told["before"], told["serial"], told["doubts"]) == (7, 9, [])
    lineage, serial, epoch = await it.head()
    assert (lineage, serial, epoch >= 1000) == ("l", 9, True)
    store = await it.store()
    async with store.read() as conn:
        found = await state.authenticate(conn, org="local", stack_id=it.stack_id, credential_id="att_old", password=password)
        assert found is not None
        old, head = found
        assert old.over(head, store.now()) == "the credential was revoked"
    await store.close()
    listed = it.json("state", "list", "dev/shop")
    assert [one["serial"] for one in listed["snapshots"]] == [9, 8, 7, 6]
    assert "countersign state accept local/dev/shop" in listed["held"]
    it.cli("state", "accept", "--all", "--reason", "looked")
    assert it.json("state", "list", "dev/shop")["held"] is None
    acted = [a["action"] for a in await it.audited() if a["action"].startswith("state.")]
    assert acted == ["state.hold", "state.restore", "state.accept"]


@requirement("restore:fenced")
async def test_whoever_was_signed_in_when_the_backup_was_made_is_signed_out_by_a_restore(it: Folder, tmp_path: Path) -> None:
    store = await it.store()
    key, _ = await keys.create_key(store, org="local", principal=ANA, role="approver", by=ANA)
    token = await page_sessions.open_session(store, key, how="key")
    code, _ = await page_sessions.make_code(store, key)
    it.cli("backup", str(tmp_path / "b"))
    async with store.read() as conn:
        session = await page_sessions.session_of(conn, token, now=store.now())
    assert session is not None
    await page_sessions.close_session(store, session)  # which the backup does not know
    await store.close()

    it.cli("restore", str(tmp_path / "b"), "--replace")

    store = await it.store()
    async with store.read() as conn:
        assert await keys.key_by_id(conn, "local", key.id) is not None
        assert await page_sessions.session_of(conn, token, now=store.now()) is None
    assert await page_sessions.use_code(store, code) is None
    await store.close()


@requirement("restore:found")
async def test_states_that_are_not_one_line_are_left_to_a_person_who_can_read_each(it: Folder, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    it.cli("backup", str(file))
    store = await it.store()
    found = [await it.wrote(store, document(9, **more), row=False) for more in ({}, {"a": "b"}, {"lineage": "other"})]
    await store.close()

    [told] = it.json("restore", str(file), "--replace", "--nothing-since", "I was sure", code=7)["states"]

    assert (told["before"], told["serial"]) == (7, 7)
    assert all(one in told["doubts"][0] for one in found)
    assert it.json("state", "list", "dev/shop")["held"] is not None, "a doubt holds whatever anybody is sure of"
    assert json.loads(it.cli("state", "pull", "dev/shop", "--found", found[1]))["a"] == "b"


@requirement("restore:found")
async def test_a_state_by_hand_that_may_have_been_refused_is_left_to_a_person(it: Folder, tmp_path: Path) -> None:
    it.cli("backup", str(tmp_path / "b"))
    store = await it.store()
    found = await it.wrote(store, document(8), row=False, run_id="hand_1")
    kept = Artifacts(store, Keyring.open(it.data, role="state"), it.data / "artifacts")
    nobody: Any = None
    assert await notice(store, kept, nobody, host="h", attempts_root=it.data / "attempts", orgs=["local"]) == []
    await store.close()
    assert it.json("state", "list", "dev/shop")["held"] is None, "a worker makes no head of a push that was refused"

    [told] = it.json("restore", str(tmp_path / "b"), "--replace", "--nothing-since", "I was sure", code=7)["states"]

    assert (told["before"], told["serial"]) == (7, 7)
    assert f"serial 8, {found}" in told["doubts"][0]
    assert it.json("state", "list", "dev/shop")["held"] is not None


async def test_who_knows_that_nothing_was_applied_since_holds_nothing(it: Folder, tmp_path: Path) -> None:
    it.cli("backup", str(tmp_path / "b.tar"))
    new = Folder(data=tmp_path / "new", stack_id=it.stack_id)

    assert new.json("restore", str(tmp_path / "b.tar"), "--nothing-since", "moved to another machine, stopped before")["held"] is False

    assert new.json("state", "list", "dev/shop")["held"] is None
    [said] = [a["facts"]["nothing_since"] for a in await new.audited() if a["action"] == "state.restore"]
    assert said == "moved to another machine, stopped before"


async def test_a_restore_that_was_cut_short_is_told_and_done_again(it: Folder, tmp_path: Path) -> None:
    it.cli("backup", str(tmp_path / "b.tar"))
    (it.data / "restoring").touch()

    assert "was not finished" in it.says("state", "list", "dev/shop")
    assert "was not finished" in it.says("up")
    it.cli("restore", str(tmp_path / "b.tar"))

    assert it.json("state", "list", "dev/shop")["serial"] == 7


@requirement("restore:found")
async def test_a_store_that_came_back_by_other_hands_is_settled_in_place(it: Folder) -> None:
    store = await it.store()
    await it.wrote(store, document(8), row=False)
    await store.close()

    [told] = it.json("restore", "--in-place")["states"]

    assert (told["before"], told["serial"]) == (7, 8)


async def test_keys_of_a_folder_that_was_started_again_are_put_aside_and_rotated_ones_kept(it: Folder, tmp_path: Path) -> None:
    it.cli("backup", str(tmp_path / "b.tar"))
    ring = it.data / "keys" / "artifacts.json"
    rotated = json.loads(ring.read_text())
    rotated["keys"]["k2"] = "QUFB" * 10 + "QUE="
    rotated["active"] = "k2"
    ring.write_text(json.dumps(rotated))
    new = Folder(data=tmp_path / "new")
    new.data.mkdir()
    Keyring.open(new.data, role="all")  # of its own: the backup's count

    it.cli("restore", str(tmp_path / "b.tar"), "--replace")
    new.cli("restore", str(tmp_path / "b.tar"), "--replace")

    assert json.loads(ring.read_text()) == rotated
    assert it.cli("state", "pull", "dev/shop") == new.cli("state", "pull", "dev/shop") == document(7).decode()
    assert len(list(new.data.glob("before-restore-*/keys/artifacts.json"))) == 1


# -- by hand


@requirement("state:by-hand")
async def test_a_state_pushed_by_hand_is_fenced_attributed_and_keeps_the_one_before(it: Folder, tmp_path: Path) -> None:
    file = tmp_path / "new.tfstate"
    file.write_bytes(document(8, outputs={}))
    push = ["state", "push", "dev/shop", str(file), "--reason", "imported by hand; token ghp_0123456789abcdefghijklmnopqrstuvwxyzAB"]

    assert "whole path" in it.says(*push, code=5)
    assert "whole path" in it.says(*push, "--confirm", "dev/shop", code=5)
    pushed = it.json(*push, "--confirm", STACK)

    assert (pushed["serial_before"], pushed["serial"], pushed["epoch"]) == (7, 8, 1)
    assert await it.head() == ("l", 8, 1)
    assert it.cli("state", "pull", "dev/shop", "--serial", "7") == document(7).decode()
    listed = it.json("state", "list", "dev/shop")["snapshots"]
    assert listed[0]["by"].endswith(", by hand")
    assert it.json(*push, "--confirm", STACK)["changed"] is False
    row = next(a for a in await it.audited() if a["action"] == "state.push")
    assert row["by"].startswith("person:")
    assert row["target"] == STACK
    assert "imported by hand" in row["facts"]["reason"]
    assert "ghp_0123" not in row["facts"]["reason"]
    assert (row["facts"]["serial_before"], row["facts"]["serial"], row["facts"]["forced"]) == (7, 8, False)
    assert [a["action"] for a in await it.audited()].count("state.pull") == 1


@requirement("state:by-hand")
async def test_another_history_is_replaced_only_by_force_and_never_with_an_older_serial(it: Folder, tmp_path: Path) -> None:
    older, other = tmp_path / "older", tmp_path / "other"
    older.write_bytes(document(6))
    other.write_bytes(document(3, lineage="other"))
    more = ["--reason", "the right one", "--confirm", STACK]

    assert "its serial is 6, and the stored state has 7" in it.says("state", "push", "dev/shop", str(older), *more)
    assert "its lineage is other" in it.says("state", "push", "dev/shop", str(other), *more)
    it.cli("state", "push", "dev/shop", str(older), *more, "--force")
    assert await it.head() == ("l", 8, 1)
    it.cli("state", "push", "dev/shop", str(other), *more, "--force")

    assert await it.head() == ("other", 9, 2)
    assert json.loads(it.cli("state", "pull", "dev/shop")) == json.loads(document(9, lineage="other"))


@requirement("state:by-hand")
async def test_nobody_pushes_beside_an_apply_that_may_live_or_without_being_an_administrator(it: Folder, tmp_path: Path) -> None:
    file = tmp_path / "new.tfstate"
    file.write_bytes(document(8))
    push = ["state", "push", "dev/shop", str(file), "--reason", "r", "--confirm", STACK]
    store = await it.store()
    _, token = await keys.create_key(store, org="local", principal=ANA, role="ops", by=ANA)
    (tmp_path / "ops.key").write_text(token)
    now = store.now()
    opened = {"ended_at": None, "closed_at": None, "outcome": None, "evidence": (), "opened_at": now}
    facts: Any = {"run_id": "run_1", "stack_id": it.stack_id, "plan_digest": "sha256:1", "epoch": 1, "host": "h-gone", "boot_id": "b"}
    async with store.begin() as tx:
        await plans.insert_attempt(tx, "local", AttemptRow(id="att_open", **facts, **opened))
    await store.close()

    assert "role ops" in it.says(*push, "--key-file", str(tmp_path / "ops.key"), code=5)
    assert "nobody can tell from here whether it lives" in it.says(*push)
    folder = it.data / "attempts" / "att_open" / "run"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:  # held while anything of an attempt lives
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "started").write_text("boot")
        assert "lives; wait for its end" in it.says(*push, "--lost")
    it.cli(*push)
    assert (await it.head())[1] == 8
    assert it.says("state", "push", "dev/shop", str(file), "--reason", " ", "--confirm", STACK, code=2)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"{}", "version"), (b"nothing", "JSON object"), (document(2**31), "serial"), (b'{"version": 4, "serial": 1}', "lineage")],
)
async def test_what_is_no_state_is_never_pushed(it: Folder, tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "f").write_bytes(content)

    assert why in it.says("state", "push", "dev/shop", str(tmp_path / "f"), "--reason", "r", "--confirm", STACK, "--force", code=2)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("COUNTERSIGN_KEY", raising=False)
    yield


@requirement("restore:found")
async def test_a_worker_notices_a_store_that_was_put_back_under_it_and_holds_what_is_behind(it: Folder) -> None:
    store = await it.store()
    kept = Artifacts(store, Keyring.open(it.data, role="state"), it.data / "artifacts")
    nobody: Any = None  # no run is lost here, so no workflow is told
    look: Any = {"host": "h", "attempts_root": it.data / "attempts", "orgs": ["local"]}
    assert await notice(store, kept, nobody, **look) == []
    await it.wrote(store, document(5), row=False)  # below the head: it lost a race
    assert await notice(store, kept, nobody, **look) == []
    await it.wrote(store, document(8), row=False)

    [told] = await notice(store, kept, nobody, **look)

    assert (told.path, told.before, told.serial) == (STACK, 7, 8)
    assert await notice(store, kept, nobody, **look) == [], "once"
    await store.close()
    assert it.json("state", "list", "dev/shop")["held"] is not None


@requirement("restore:found")
async def test_an_apply_that_begins_while_a_worker_looks_is_not_taken_for_one_of_another_time(it: Folder) -> None:
    store = await it.store()

    class Slow(Artifacts):
        async def unknown(self, conn: Any, *kinds: str) -> list[Any]:
            await self.ids(conn)
            async with store.begin() as tx:
                facts: Any = {"org": "local", "stack_id": it.stack_id, "run_id": "run_now", "mode": "apply", "epoch": 0}
                await state.grant(tx, **facts, credential_id="att_now", expires_at=store.now() + timedelta(hours=1))
            await it.wrote(store, document(8))
            return await super().unknown(conn, *kinds)

    nobody: Any = None
    slow = Slow(store, Keyring.open(it.data, role="state"), it.data / "artifacts")
    assert await notice(store, slow, nobody, host="h", attempts_root=it.data / "attempts", orgs=["local"]) == []
    await store.close()

    assert await it.head() == ("l", 8, 0), "nobody fenced it"


@requirement("restore:found")
async def test_what_a_person_was_told_and_has_judged_holds_nothing_a_second_time(it: Folder, tmp_path: Path) -> None:
    it.cli("backup", str(tmp_path / "b"))
    store = await it.store()
    for more in ({}, {"a": "b"}):
        await it.wrote(store, document(9, **more), row=False)
    await store.close()
    it.cli("restore", str(tmp_path / "b"), "--replace", code=7)
    it.cli("state", "accept", "dev/shop", "--reason", "neither is right")
    _, _, epoch = await it.head()

    store = await it.store()
    kept = Artifacts(store, Keyring.open(it.data, role="state"), it.data / "artifacts")
    nobody: Any = None
    look: Any = {"host": "h", "attempts_root": it.data / "attempts", "orgs": ["local"]}
    assert await notice(store, kept, nobody, **look) == []
    assert await it.head() == ("l", 7, epoch)
    await it.wrote(store, document(10, "other"), row=False)
    [told] = await notice(store, kept, nobody, **look)
    assert "serial 10 of lineage other" in told.doubts[0]
    await store.close()
