"""The state service as Terraform meets it: who is answered what, over real HTTP, also when things go wrong."""

import asyncio
import base64
import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from countersign.adapters.artifacts import Written
from countersign.adapters.store import state
from countersign.adapters.store.schema import credentials
from countersign.core.errors import Unavailable
from countersign.state_api.app import STATE_SIZE
from tests.integration.state_service import ORG, Attempt, Lab, document, lab, lock, serving
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=BOTH)
async def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    with database_of(request) as database:
        async with lab(tmp_path_factory.mktemp("state"), database=database) as made:
            yield made


@pytest.fixture
def it(running: Lab) -> Lab:
    """A state of its own."""
    return running.on()


async def locked(it: Lab, mode: str = "apply", **more: Any) -> tuple[Attempt, str]:
    attempt, taken = await it.attempt(mode, **more), lock()
    assert (await attempt.lock(taken)).status_code == 200
    return attempt, taken["ID"]


# -- who is answered at all


async def test_without_a_credential_nothing_is_told(it: Lab) -> None:
    answer = await it.client.get(it.address)

    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="countersign"')


@pytest.mark.parametrize("header", ["Bearer x", "Basic !", "Basic " + base64.b64encode(b"no-colon").decode(), "Basic /w=="])
async def test_what_is_no_basic_authentication_is_no_credential(it: Lab, header: str) -> None:
    assert (await it.client.get(it.address, headers={"Authorization": header})).status_code == 401


async def test_a_wrong_password_and_an_unknown_name_get_the_same_answer(it: Lab) -> None:
    known = await it.attempt()

    wrong = await Attempt(it.client, it.address, known.id, "x").get()
    unknown = await Attempt(it.client, it.address, "att_nobody", known.password).get()

    assert (wrong.status_code, wrong.text) == (unknown.status_code, unknown.text)
    assert wrong.status_code == 403
    assert await it.journal() == []  # whoever proves nothing writes nothing


async def test_a_credential_is_good_at_one_address(it: Lab) -> None:
    mine = await it.attempt()
    elsewhere = it.on()

    assert (await Attempt(it.client, elsewhere.address, mine.id, mine.password).get()).status_code == 403
    other_org = it.address.replace(f"/{ORG}/", "/other/")
    assert (await Attempt(it.client, other_org, mine.id, mine.password).get()).status_code == 403


async def test_the_password_is_stored_as_a_hash_only(it: Lab) -> None:
    attempt = await it.attempt()

    assert len(bytes.fromhex(attempt.password)) == 32
    async with it.store.read() as conn:
        rows = [str(row) for row in await conn.execute(credentials.select())]
    assert any(attempt.id in row for row in rows)
    assert not any(attempt.password in row for row in rows)


async def test_an_expired_credential_is_refused(it: Lab) -> None:
    late = await it.attempt(lives=timedelta(seconds=-1))

    assert (await late.get()).status_code == 403


async def test_a_state_is_never_deleted_here(it: Lab) -> None:
    attempt = await it.attempt()

    answer = await it.client.delete(it.address, auth=httpx2.BasicAuth(attempt.id, attempt.password))

    assert answer.status_code == 405
    assert "LOCK" in answer.headers["Allow"]


async def test_it_says_that_it_is_up_and_that_it_is_ready(it: Lab) -> None:
    assert (await it.client.get(f"{it.url}/healthz")).status_code == 200
    assert (await it.client.get(f"{it.url}/readyz")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1/state", "/v1/state/local", "/v1/state/local/", "/v1/state//st_1", "/v1/state/local/st_1/x"])
async def test_an_address_that_is_no_state_says_what_one_looks_like(it: Lab, path: str) -> None:
    attempt = await it.attempt()

    answer = await it.client.get(it.url + path, auth=httpx2.BasicAuth(attempt.id, attempt.password))

    assert (answer.status_code, answer.text) == (404, "nothing is here; states are at /v1/state/ORGANIZATION/STACK")


async def connected(it: Lab) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = it.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        pytest.param(b"GET /", b"x" * 1024, id="an address"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", b"x" * 1024, id="one header"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 100, id="headers"),
        pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 100, id="chunks of one byte"),
        pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 100, id="trailers"),
    ],
)
async def test_a_request_that_never_comes_to_its_body_or_end_is_not_listened_to_for_ever(it: Lab, begin: bytes, again: bytes) -> None:
    reader, stream = await connected(it)
    async with asyncio.timeout(20):
        stream.write(begin)
        heard = asyncio.create_task(reader.read())  # to the end of the connection
        with contextlib.suppress(ConnectionError):
            while not heard.done():
                stream.write(again)
                await stream.drain()
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            await heard
    stream.close()

    assert (await it.client.get(f"{it.url}/healthz")).status_code == 200


async def test_a_head_of_many_headers_is_taken(it: Lab) -> None:
    headers = {f"X-{n}": "y" * 100 for n in range(300)}

    assert (await it.client.get(f"{it.url}/healthz", headers=headers)).status_code == 200


async def test_a_body_of_who_asks_for_another_protocol_in_passing_is_taken(it: Lab) -> None:
    writer, lock_id = await locked(it)

    assert (await writer.post(document(1), lock_id, Connection="Upgrade", Upgrade="h2c")).status_code == 200
    assert await it.serials() == [1]


# -- reading and writing


async def test_there_is_no_state_before_the_first_write(it: Lab) -> None:
    assert (await (await it.attempt("read")).get()).status_code == 204


async def test_what_was_written_is_read_back_byte_by_byte(it: Lab) -> None:
    writer, lock_id = await locked(it)
    data = document(1, marker="ünïcode")

    stored = await writer.post(data, lock_id)
    answer = await (await it.attempt("read")).get()

    assert stored.status_code == 200
    assert answer.content == data
    assert answer.headers["Content-MD5"] == base64.b64encode(hashlib.md5(data).digest()).decode()
    assert (await it.head()).serial == 1


async def test_every_write_is_kept_and_found_by_its_serial(it: Lab) -> None:
    writer, lock_id = await locked(it)
    for serial in (1, 2, 5):
        assert (await writer.post(document(serial, marker=f"m{serial}"), lock_id)).status_code == 200

    async with it.store.read() as conn:
        newest = await state.snapshot(conn, ORG, it.stack_id)
        second = await state.snapshot(conn, ORG, it.stack_id, 2)
        missing = await state.snapshot(conn, ORG, it.stack_id, 3)
        assert second is not None
        bytes_of_second = await it.artifacts.read(conn, org=ORG, artifact_id=second.artifact_id)

    assert await it.serials() == [5, 2, 1]
    assert newest is not None
    assert (newest.serial, newest.run_id.replace("run_", "att_"), (await it.head()).seq) == (5, writer.id, 3)
    assert bytes_of_second == document(2, marker="m2")
    assert missing is None


async def test_the_same_write_again_is_answered_and_stored_once(it: Lab) -> None:
    writer, lock_id = await locked(it)

    first, again = await writer.post(document(1), lock_id), await writer.post(document(1), lock_id)

    assert (first.status_code, again.status_code) == (200, 200)
    assert await it.serials() == [1]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(document(3, marker="other"), id="the same serial with other content"),
        pytest.param(document(2), id="an older serial"),
        pytest.param(document(4, lineage="99999999"), id="another lineage"),
    ],
)
@requirement("state:fencing")
async def test_a_write_that_does_not_continue_the_stored_state_is_a_conflict(it: Lab, data: bytes) -> None:
    writer, lock_id = await locked(it)
    await writer.post(document(3), lock_id)

    answer = await writer.post(data, lock_id)

    assert answer.status_code == 409
    assert await it.serials() == [3]


async def test_a_write_needs_the_lock_and_its_id(it: Lab) -> None:
    writer = await it.attempt()
    unlocked = await writer.post(document(1), "lock-x")
    taken = lock()
    await writer.lock(taken)

    nameless, wrong = await writer.post(document(1), None), await writer.post(document(1), "lock-x")

    assert [unlocked.status_code, nameless.status_code, wrong.status_code] == [409, 409, 409]
    assert wrong.json() == taken
    assert await it.serials() == []


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"{", {}),
        (document(1), {"Content-MD5": base64.b64encode(b"0" * 16).decode()}),
        (json.dumps({"version": 3, "serial": 1, "lineage": "x"}).encode(), {}),
        (json.dumps({"version": 4, "serial": 1}).encode(), {}),
    ],
)
async def test_what_is_damaged_or_no_state_is_refused(it: Lab, data: bytes, headers: dict[str, str]) -> None:
    writer, lock_id = await locked(it)

    answer = await writer.post(data, lock_id, **headers)

    assert answer.status_code == 400
    assert await it.serials() == []


async def test_a_write_without_a_checksum_is_refused(it: Lab) -> None:
    writer, lock_id = await locked(it)

    answer = await it.client.post(
        it.address, params={"ID": lock_id}, content=document(1), auth=httpx2.BasicAuth(writer.id, writer.password)
    )

    assert answer.status_code == 400


@pytest.mark.parametrize("declared", [True, False])
async def test_what_is_larger_than_64_mib_is_refused_and_the_connection_goes_on(it: Lab, declared: bool) -> None:
    writer, lock_id = await locked(it)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield b" " * (1 << 20)

    body: Any = b" " * (STATE_SIZE + 1) if declared else pieces()
    answer = await it.client.post(it.address, params={"ID": lock_id}, content=body, auth=httpx2.BasicAuth(writer.id, writer.password))

    assert answer.status_code == 413
    assert (await writer.post(document(1), lock_id)).status_code == 200


async def test_a_state_of_many_megabytes_is_stored(it: Lab) -> None:
    writer, lock_id = await locked(it)
    data = document(1, marker="x" * (20 << 20))

    assert (await writer.post(data, lock_id)).status_code == 200
    assert (await writer.get()).content == data


async def test_opentofus_encrypted_envelope_is_stored(it: Lab) -> None:
    writer, lock_id = await locked(it)
    envelope = json.dumps({"serial": 1, "lineage": "x", "meta": {}, "encrypted_data": "AAAA", "encryption_version": "v0"}).encode()

    assert (await writer.post(envelope, lock_id)).status_code == 200


async def test_nothing_of_a_state_lies_on_the_disk_in_clear(it: Lab) -> None:
    writer, lock_id = await locked(it)
    marker = "plaintext-marker-of-a-secret"

    assert (await writer.post(document(1, marker=marker), lock_id)).status_code == 200

    files = [path for path in it.data.rglob("*") if path.is_file()]
    assert any("artifacts" in path.parts for path in files)
    assert [path for path in files if marker.encode() in path.read_bytes()] == []


# -- modes


async def test_a_planner_reads_locks_and_unlocks_and_does_not_write(it: Lab) -> None:
    planner, lock_id = await locked(it, "plan")

    assert (await planner.get()).status_code == 204
    assert (await planner.post(document(1), lock_id)).status_code == 403
    assert (await planner.unlock({"ID": lock_id})).status_code == 200


async def test_a_reader_reads_and_does_nothing_else(it: Lab) -> None:
    reader = await it.attempt("read")

    assert (await reader.get()).status_code == 204
    assert (await reader.lock(lock())).status_code == 403
    assert (await reader.unlock(None)).status_code == 403
    assert (await reader.post(document(1), "x")).status_code == 403


# -- the lock


async def test_a_lock_that_is_held_is_refused_with_its_holder(it: Lab) -> None:
    holder, taken = await it.attempt(is_open=True), lock(who="ana@here")
    await holder.lock(taken)

    answer = await (await it.attempt("plan")).lock(lock(who="bo@there"))

    assert (answer.status_code, answer.json()) == (423, taken)


async def test_the_same_lock_again_is_the_same_lock(it: Lab) -> None:
    holder, taken = await it.attempt(), lock()

    assert [(await holder.lock(taken)).status_code for _ in range(2)] == [200, 200]
    assert (await holder.lock(lock())).status_code == 423


async def test_unlocking_what_is_not_locked_is_no_error(it: Lab) -> None:
    attempt = await it.attempt()

    assert (await attempt.unlock(lock())).status_code == 200
    assert (await attempt.unlock(None)).status_code == 200


async def test_the_lock_of_another_is_not_freed_and_the_holder_is_named(it: Lab) -> None:
    planner, taken = await it.attempt("plan"), lock()
    await planner.lock(taken)
    stranger = await it.attempt(claims=False)  # of the same epoch

    for named in (taken, {"ID": "another"}, None):
        answer = await stranger.unlock(named)
        assert (answer.status_code, answer.json()) == (409, taken)
    assert (await planner.unlock({"ID": "another"})).status_code == 409
    assert (await it.head()).lock is not None


async def test_force_unlock_works_for_the_holders_own_credential(it: Lab) -> None:
    holder, _ = await locked(it)

    assert (await holder.unlock(None)).status_code == 200
    assert (await it.head()).lock is None


async def test_opentofus_force_unlock_that_names_only_the_id_works_for_the_holder(it: Lab) -> None:
    holder, lock_id = await locked(it)

    answer = await holder.unlock({"ID": lock_id, "Operation": "", "Info": "", "Who": "", "Version": "", "Created": "", "Path": ""})

    assert answer.status_code == 200


@pytest.mark.parametrize("body", [b"", b"{}", b"no", b"[1]", b'{"ID": 1}'])
async def test_a_lock_without_an_id_is_refused(it: Lab, body: bytes) -> None:
    attempt = await it.attempt()

    assert (await attempt.lock(body)).status_code == 400
    assert (await it.head()).lock is None


async def test_everything_about_locks_and_every_refusal_is_on_the_record(it: Lab) -> None:
    planner = await it.attempt("plan")
    taken = lock()
    await planner.lock(taken)
    await planner.lock(lock())
    await planner.post(document(1), taken["ID"])
    await planner.unlock({"ID": "another"})
    await planner.unlock(taken)
    await it.fence()
    await planner.get()

    assert await it.journal() == [(planner.id, done) for done in ("lock", "refused", "refused", "refused", "unlock", "refused")]


# -- races


@requirement("I2")
async def test_of_locks_that_race_one_is_given(it: Lab) -> None:
    attempt = await it.attempt()
    asked = [lock() for _ in range(8)]

    answers = await asyncio.gather(*(attempt.lock(one) for one in asked))

    assert sorted(a.status_code for a in answers) == [200] + [423] * 7
    winner = next(one for one, a in zip(asked, answers, strict=True) if a.status_code == 200)
    assert all(a.json() == winner for a in answers if a.status_code == 423)


@requirement("I2")
async def test_of_writes_that_race_one_is_stored(it: Lab) -> None:
    writer, lock_id = await locked(it)

    answers = await asyncio.gather(*(writer.post(document(1, marker=f"m{n}"), lock_id) for n in range(8)))

    assert sorted(a.status_code for a in answers) == [200] + [409] * 7
    assert await it.serials() == [1]


async def test_one_write_sent_twice_at_once_is_stored_once_and_both_are_told_so(it: Lab) -> None:
    writer, lock_id = await locked(it)

    answers = await asyncio.gather(*(writer.post(document(1), lock_id) for _ in range(4)))

    assert [a.status_code for a in answers] == [200] * 4
    assert await it.serials() == [1]


# -- fencing


@requirement("I2", "promise:one-writer", "state:fencing")
async def test_a_fenced_apply_reads_writes_and_frees_nothing(it: Lab) -> None:
    zombie, lock_id = await locked(it, is_open=True)
    await zombie.post(document(1), lock_id)
    await it.fence()

    answers = [await zombie.get(), await zombie.post(document(2), lock_id), await zombie.unlock(None), await zombie.lock(lock(lock_id))]

    assert [a.status_code for a in answers] == [403] * 4
    assert await it.serials() == [1]
    assert (await it.head()).lock is not None  # still ours to release, once that attempt is dead


@requirement("I2")
async def test_a_write_that_was_checked_before_the_fence_is_not_stored_after_it(it: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, lock_id = await locked(it)
    write = it.artifacts.write

    async def fenced_meanwhile(**what: Any) -> Written:
        written = await write(**what)
        await it.fence()
        return written

    monkeypatch.setattr(it.artifacts, "write", fenced_meanwhile)
    answer = await writer.post(document(1), lock_id)

    assert answer.status_code == 403
    assert await it.serials() == []


async def test_a_write_of_a_head_that_moved_meanwhile_is_a_conflict(it: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, lock_id = await locked(it)
    write = it.artifacts.write
    first = True

    async def overtaken(**what: Any) -> Written:
        nonlocal first
        written = await write(**what)
        if first:
            first = False
            assert (await writer.post(document(1, marker="faster"), lock_id)).status_code == 200
        return written

    monkeypatch.setattr(it.artifacts, "write", overtaken)
    answer = await writer.post(document(1), lock_id)

    assert answer.status_code == 409
    assert (await writer.get()).content == document(1, marker="faster")


async def test_a_swap_of_a_head_that_another_swapped_is_refused(it: Lab) -> None:
    await it.fence()
    seen = await it.head()
    await it.fence()

    with pytest.raises(Unavailable):
        async with it.store.begin() as tx:
            await state._swap(tx, ORG, it.stack_id, seen, serial=9)


async def test_a_claim_elsewhere_does_not_end_a_speculative_plan(it: Lab) -> None:
    reader = await it.attempt("read")
    await it.fence()

    assert (await reader.get()).status_code == 204


async def test_a_claim_ends_every_planner(it: Lab) -> None:
    planner = await it.attempt("plan")
    await it.fence()

    assert (await planner.get()).status_code == 403


# -- locks of the dead


async def test_the_lock_of_an_attempt_that_was_closed_goes_with_its_credential(it: Lab) -> None:
    dead, _ = await locked(it)
    await it.revoke(dead)

    assert (await it.head()).lock is None
    assert (await it.journal())[-1] == (dead.id, "released")


@requirement("I5")
async def test_the_lock_of_an_open_attempt_outlives_its_credential_and_the_fence(it: Lab) -> None:
    lost, _ = await locked(it, is_open=True)
    await it.revoke(lost)
    await it.fence()
    next_one = await it.attempt("plan")

    assert (await next_one.lock(lock())).status_code == 423


@requirement("I5")
async def test_the_lock_of_an_attempt_proven_dead_is_released_when_it_is_fenced_and_not_before(it: Lab) -> None:
    lost, _ = await locked(it, is_open=True)

    assert not await it.release(lost)
    await it.fence()
    assert await it.release(lost)

    assert (await it.head()).lock is None
    assert not await it.release(lost)


@requirement("I5")
@pytest.mark.parametrize("field", ["ID", "Who", "Created"])
async def test_a_lock_that_is_not_the_one_on_our_record_is_never_broken(it: Lab, field: str) -> None:
    lost, _ = await locked(it, is_open=True)
    async with it.store.begin() as tx:
        seen = await state.hold(tx, ORG, it.stack_id)
        assert seen.lock is not None
        await state._swap(tx, ORG, it.stack_id, seen, lock=json.dumps({**json.loads(seen.lock.text), field: "another"}))
    await it.fence()

    assert not await it.release(lost)
    assert (await it.head()).lock is not None


@requirement("I5")
async def test_only_the_lock_of_the_named_attempt_is_released(it: Lab) -> None:
    other = await it.attempt("read")
    await locked(it, is_open=True)
    await it.fence()

    assert not await it.release(other)


async def test_what_a_killed_planner_left_locked_blocks_no_later_plan(it: Lab) -> None:
    await locked(it, "plan")

    again = await it.attempt("plan")

    assert (await again.lock(lock())).status_code == 200


async def test_what_a_killed_planner_left_locked_blocks_no_claim(it: Lab) -> None:
    await locked(it, "plan")

    claimed = await it.attempt("apply")

    assert (await claimed.lock(lock())).status_code == 200


async def test_the_lock_of_an_expired_planner_can_be_released(it: Lab) -> None:
    planner, _ = await locked(it, "plan", lives=timedelta(hours=1))

    async with it.store.begin() as tx:
        now = it.store.now()
        too_early = await state.release_lock_of(tx, ORG, it.stack_id, planner.id, now=now)
        released = await state.release_lock_of(tx, ORG, it.stack_id, planner.id, now=now + timedelta(hours=2))

    assert (too_early, released) == (False, True)


# -- trouble


async def test_a_restart_keeps_lock_credentials_and_state(tmp_path: Path) -> None:
    async with lab(tmp_path) as before:
        writer, lock_id = await locked(before)
        await writer.post(document(1), lock_id)
    async with lab(tmp_path) as after:
        again = Attempt(after.client, after.on(before.stack_id).address, writer.id, writer.password)

        assert (await again.get()).content == document(1)
        assert (await again.post(document(2), lock_id)).status_code == 200
        assert (await again.unlock({"ID": lock_id})).status_code == 200


async def test_two_replicas_of_the_service_keep_one_state(it: Lab) -> None:
    async with serving(it.store, it.artifacts) as second:
        writer, lock_id = await locked(it)
        there = Attempt(it.client, it.address.replace(it.url, second), writer.id, writer.password)

        answers = await asyncio.gather(writer.post(document(1, marker="a"), lock_id), there.post(document(1, marker="b"), lock_id))

    assert sorted(a.status_code for a in answers) == [200, 409]


async def test_a_store_that_hangs_is_a_503_in_time_and_the_next_try_works(tmp_path: Path) -> None:
    async with lab(tmp_path, answer_within=0.3) as it:
        writer, lock_id = await locked(it)
        hog = sqlite3.connect(tmp_path / "countersign.db", isolation_level=None)
        hog.execute("BEGIN IMMEDIATE")
        began = time.monotonic()

        answer = await writer.post(document(1), lock_id)

        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert time.monotonic() - began < 5
        hog.execute("ROLLBACK")
        hog.close()
        async with asyncio.timeout(20):
            while (await writer.post(document(1), lock_id)).status_code != 200:
                pass
        assert await it.serials() == [1]


async def test_a_client_that_never_sends_its_body_is_not_waited_for(tmp_path: Path) -> None:
    async with lab(tmp_path, answer_within=0.3) as it:
        writer, lock_id = await locked(it)
        reader, stream = await connected(it)
        basic = base64.b64encode(f"{writer.id}:{writer.password}".encode()).decode()
        head = (f"POST {it.path}?ID={lock_id} HTTP/1.1", "Host: x", f"Authorization: Basic {basic}", "Content-Length: 9", "", "{")
        stream.write("\r\n".join(head).encode())

        async with asyncio.timeout(10):
            answer = await reader.readline()

        stream.close()
        assert answer.startswith(b"HTTP/1.1 503")


async def test_a_full_disk_under_the_snapshots_is_a_503_and_nothing_counts_as_stored(it: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, lock_id = await locked(it)

    async def full(**what: Any) -> Written:
        raise Unavailable("no space left")

    with monkeypatch.context() as during:
        during.setattr(it.artifacts, "write", full)
        refused = await writer.post(document(1), lock_id)
    stored = await writer.post(document(1), lock_id)

    assert (refused.status_code, stored.status_code) == (503, 200)
    assert await it.serials() == [1]
