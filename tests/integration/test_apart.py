"""Parts that run apart from one another, as in containers: how each is told where the others are, and says how it is."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import Settings, load
from countersign.core.errors import FailedPrecondition, InvalidArgument
from countersign.worker.health import Health, told
from tests.acceptance.installed import free_ports
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
COMMAND = Path(sys.executable).with_name("countersign")


def types(*words: str, code: int = 0, **environment: str) -> str:
    given = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERSIGN_")} | environment
    done = subprocess.run([str(COMMAND), *words], env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, f"ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@requirement("keys:apart")
def test_new_keys_serve_parts_that_run_apart(tmp_path: Path) -> None:
    said = json.loads(types("new-keys", str(tmp_path / "new"), "--json"))

    assert said["files"] == {
        "front": ["artifacts.json", "front.json", "front.pub.json", "requests.json"],
        "worker": ["artifacts.json", "front.pub.json", "mac.json", "secrets.json"],
        "state": ["artifacts.json"],
    }
    for part, files in said["files"].items():
        (tmp_path / part / "keys").mkdir(parents=True)
        for file in files:
            (tmp_path / part / "keys" / file).write_bytes((tmp_path / "new" / file).read_bytes())
    front, worker = Keyring.open(tmp_path / "front", role="front"), Keyring.open(tmp_path / "worker", role="worker")
    state = Keyring.open(tmp_path / "state", role="state")
    signature, key_id = front.sign(b"approve")
    sealed, _ = front.seal("artifacts", b"plan", belongs_to=["local"])

    assert worker.verify(b"approve", signature, key_id)
    assert worker.unseal("artifacts", sealed, belongs_to=["local"]) == state.unseal("artifacts", sealed, belongs_to=["local"]) == b"plan"
    for part, files in said["files"].items():
        assert sorted(file.name for file in (tmp_path / part / "keys").iterdir()) == sorted(files), f"{part} made none of its own"
    assert [oct(file.stat().st_mode & 0o777) for file in (tmp_path / "new").iterdir()] == ["0o600"] * 6


def test_new_keys_never_replace_others(tmp_path: Path) -> None:
    types("new-keys", str(tmp_path / "keys"))
    before = {file.name: file.read_bytes() for file in (tmp_path / "keys").iterdir()}

    said = types("new-keys", str(tmp_path / "keys"), code=1)

    assert "is not empty; name a folder that is not there yet" in said
    assert {file.name: file.read_bytes() for file in (tmp_path / "keys").iterdir()} == before


def test_a_part_whose_keys_are_mounted_and_incomplete_names_the_file_and_makes_none(tmp_path: Path) -> None:
    (tmp_path / "keys").symlink_to("/proc/self/fdinfo")  # a folder in which nobody can make a file

    with pytest.raises(FailedPrecondition, match=r"keys/artifacts\.json is not there and cannot be made .*`countersign new-keys FOLDER`"):
        Keyring.open(tmp_path, role="state")


def test_migrating_a_temporal_needs_one(tmp_path: Path) -> None:
    data = str(tmp_path / "data")

    assert "COUNTERSIGN_TEMPORAL_ADDRESS" in types("migrate", "--temporal", code=2, COUNTERSIGN_DATA=data)


def test_the_state_api_is_where_its_address_says(tmp_path: Path) -> None:
    assert Settings(data=tmp_path, state_port=9).state_url == "http://127.0.0.1:9"
    assert Settings(data=tmp_path, state_address="https://state.example.com/").state_url == "https://state.example.com"
    with pytest.raises(InvalidArgument, match="without path"):
        load(tmp_path, state_address="http://state.example.com/v1")


async def test_a_worker_says_what_it_lacks_and_that_it_takes_nothing_new(tmp_path: Path) -> None:
    [port] = free_ports(1)
    there = {"store": True, "temporal": False}

    async def store() -> bool:
        return there["store"]

    async def temporal() -> bool:
        if not there["temporal"]:
            await asyncio.sleep(60)  # it hangs, as a server does whose machine went away
        return True

    health = Health(working=True)
    async with told(Settings(data=tmp_path, worker_port=port), health), httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        health.parts |= {"store": store, "temporal": temporal}
        hanging = await http.get("/readyz", timeout=10)
        assert (await http.get("/healthz")).status_code == 200
        there["temporal"] = True
        ready = await http.get("/readyz")
        health.working = False
        ending = await http.get("/readyz")

    assert hanging.status_code == 503
    assert hanging.json() == {"ready": False, "store": "ok", "temporal": "unavailable", "work": "ok"}
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "store": "ok", "temporal": "ok", "work": "ok"}
    assert ending.status_code == 503 and ending.json()["work"] == "not taken"
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/healthz")


async def test_a_worker_whose_port_is_taken_names_the_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = Settings(data=tmp_path, worker_port=other.getsockname()[1])

        with pytest.raises(FailedPrecondition, match="COUNTERSIGN_WORKER_PORT"):
            async with told(settings, Health()):
                pass
