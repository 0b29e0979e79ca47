"""The state service as a process: it starts or says why not, ends in order, and keeps its word on a full disk and after a kill."""

import asyncio
import contextlib
import json
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import Settings
from countersign.adapters.store.database import Store
from countersign.core.errors import FailedPrecondition
from countersign.state_api.main import Joining, listen, serve
from tests.integration.state_service import PATIENCE, Lab, document, lock
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio

MOST, AFTER = 800, 300  # MiB over what the service has idle: it holds a state whole, with what its check reads of it

SERVE = """
import asyncio, pathlib, sys
from countersign.adapters.settings import Settings
from countersign.state_api.main import serve
asyncio.run(serve(Settings(data=pathlib.Path(sys.argv[1]), state_port=int(sys.argv[2]), database=sys.argv[3] or None)))
"""


def free_port() -> int:
    with contextlib.closing(listen("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.asynccontextmanager
async def process(data: Path, port: int, database: str | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    """A state service of its own that answers; killed at the end where it still runs."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(data), str(port), database or "", cwd=Path(__file__).parents[2]
    )
    try:
        async with asyncio.timeout(PATIENCE), httpx2.AsyncClient() as client:
            while True:
                assert started.returncode is None, "the state service ended while it started"
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.02)
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


@contextlib.asynccontextmanager
async def beside(data: Path, port: int, database: str | None = None) -> AsyncIterator[Lab]:
    """The store as a worker has it open at the same time."""
    store = await Store.open(database or f"sqlite+aiosqlite:///{data / 'countersign.db'}")
    try:
        artifacts = Artifacts(store, Keyring.open(data, role="state"), data / "artifacts")
        async with httpx2.AsyncClient(timeout=PATIENCE) as client:
            yield Lab(data, store, artifacts, f"http://127.0.0.1:{port}", client)
    finally:
        await store.close()


@pytest.fixture(params=BOTH)
def database(request: pytest.FixtureRequest) -> Iterator[str | None]:
    with database_of(request) as found:
        yield found


async def test_it_ends_in_order_on_sigterm(tmp_path: Path) -> None:
    async with process(tmp_path, free_port()) as service:
        service.terminate()

        assert await asyncio.wait_for(service.wait(), PATIENCE) == 0


async def test_what_it_acknowledged_survives_its_kill(tmp_path: Path, database: str | None) -> None:
    port = free_port()
    async with process(tmp_path, port, database) as service, beside(tmp_path, port, database) as it:
        writer, taken = await it.attempt(), lock()
        await writer.lock(taken)
        assert (await writer.post(document(1), taken["ID"])).status_code == 200
        service.send_signal(signal.SIGKILL)
        await asyncio.wait_for(service.wait(), PATIENCE)
        async with process(tmp_path, port, database):
            assert (await writer.get()).content == document(1)
            assert (await writer.post(document(2), taken["ID"])).status_code == 200


def memory(pid: int) -> tuple[int, int]:
    """MiB a process holds, and held at most since it began."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) >> 10, int(lines["VmHWM"].split()[0]) >> 10


@requirement("state:size")
async def test_a_state_as_large_as_is_taken_needs_bounded_memory_which_is_given_back(tmp_path: Path) -> None:
    def large(serial: int) -> bytes:
        """Of real objects: numbers, texts and lists, not one long text."""
        made = json.loads(document(serial))
        one = {"attributes": {"id": "0" * 36, "input": {"value": [1, 2, "three"], "type": "tuple"}, "text": "x" * 300}}
        many = ((64 << 20) - 4096) // (len(json.dumps(one)) + 2)
        made["resources"] = [{"mode": "managed", "type": "terraform_data", "name": "x", "provider": "p", "instances": [one] * many}]
        return json.dumps(made).encode()

    port = free_port()
    async with process(tmp_path, port) as service, beside(tmp_path, port) as it:
        writer, taken = await it.attempt(), lock()
        await writer.lock(taken)
        before, _ = memory(service.pid)
        for serial in (1, 2):
            data = large(serial)
            assert 63 << 20 < len(data) <= 64 << 20
            assert (await writer.post(data, taken["ID"])).status_code == 200
            assert (await writer.get()).content == data
        after, most = memory(service.pid)
        print(f"state service: {before} MiB idle, {most} at most, {after} afterwards")

    assert most - before < MOST
    assert after - before < AFTER


@requirement("bad:disk-full")
async def test_a_full_disk_is_a_503_and_nothing_counts_as_stored_until_there_is_room(tmp_path: Path) -> None:
    port = free_port()
    async with process(tmp_path, port) as service, beside(tmp_path, port) as it:
        writer, taken = await it.attempt(), lock()
        await writer.lock(taken)
        unlimited = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (10, unlimited[1]))  # no file of it grows beyond ten bytes

        refused = [await writer.post(document(1), taken["ID"]), await writer.unlock(taken)]
        kept = await it.serials()
        resource.prlimit(service.pid, resource.RLIMIT_FSIZE, unlimited)
        stored = [await writer.post(document(1), taken["ID"]), await writer.unlock(taken)]

        assert [answer.status_code for answer in refused] == [503, 503]
        assert kept == []
        assert [answer.status_code for answer in stored] == [200, 200]
        assert await it.serials() == [1]


@requirement("bad:ports-taken")
async def test_a_taken_port_is_named_with_its_setting_before_anything_is_opened(tmp_path: Path) -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        with pytest.raises(FailedPrecondition) as refused:
            await serve(Settings(data=tmp_path / "data", state_port=port))

    assert f"port {port} " in refused.value.message
    assert "COUNTERSIGN_STATE_PORT" in refused.value.message
    assert not (tmp_path / "data").exists()


async def test_an_address_of_another_machine_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        await serve(Settings(data=tmp_path, host="192.0.2.1", state_port=0))

    assert "COUNTERSIGN_HOST" in refused.value.message


class Recording:
    """A transport that remembers what it was given, and in how many pieces."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.pieces.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def test_head_and_body_of_an_answer_leave_as_one_piece() -> None:
    wire: Any = Recording()
    joining = Joining(wire)
    joining.write(b"HTTP/1.1 200 OK\r\n\r\n")
    joining.write(b"body")
    await asyncio.sleep(0)
    joining.write(b"the next")
    joining.close()

    assert wire.pieces == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"the next"]
    assert wire.closed
