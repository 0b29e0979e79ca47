"""`countersign up` on Postgres and a bucket, as installed: one machine whose database dies, and two that share everything."""

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from countersign.adapters.store import audit
from countersign.adapters.store.database import Store
from tests import buckets
from tests.acceptance.conftest import STACKS
from tests.acceptance.installed import COMMAND, Installed, call, eventually, processes, tidied, until
from tests.postgres import PASSWORD, Cluster, running
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
SECRETS = (PASSWORD, buckets.SECRET)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running(fsync="on") as made:
        yield made


@pytest.fixture
def bucket() -> Iterator[buckets.Buckets]:
    with buckets.running() as made:
        yield made


def place(cluster: Cluster, bucket: buckets.Buckets) -> dict[str, str]:
    """What all parts on all machines are told; the password is PGPASSWORD's."""
    return {
        "COUNTERSIGN_DATABASE": cluster.url(cluster.create(), password=False),
        "PGPASSWORD": PASSWORD,
        "COUNTERSIGN_ARTIFACTS": bucket.url,
        "COUNTERSIGN_ARTIFACTS_ENDPOINT": bucket.endpoint,
        **bucket.environment,
    }


@pytest.fixture
async def it(tmp_path: Path, cluster: Cluster, bucket: buckets.Buckets) -> AsyncIterator[Installed]:
    made = Installed(data=tmp_path / "data", stacks=STACKS, settings=place(cluster, bucket))
    made.start()
    try:
        await made.ready()
        yield made
    finally:
        made.stop()


@pytest.fixture
def world(it: Installed, tmp_path: Path) -> Iterator[Path]:
    """Where an apply waits at its gate; none waits there after the test, however that ends."""
    made = tmp_path / "world"
    made.mkdir()
    yield made
    (made / "1.open").touch()


def reached(world: Path) -> bool:
    return (world / "1.reached").exists()


def engine_of(it: Installed) -> int:
    """The process of the apply that runs."""
    found = [pid for pid, argv in processes() if argv and "apply" in argv and str(it.data) in "".join(argv) + _cwd(pid)]
    assert found, "no apply runs"
    return found[0]


def _cwd(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def findings(it: Installed, *, code: int) -> dict[str, Any]:
    return {one["what"]: one for one in json.loads(it.cli("doctor", "--json", code=code))["findings"]}


@requirement("postgres:restart", "bad:database-restarted", "postgres:password")
async def test_a_database_that_is_killed_in_mid_apply_costs_nothing_and_its_password_is_nowhere(
    it: Installed, cluster: Cluster, bucket: buckets.Buckets, world: Path
) -> None:
    looks = findings(it, code=0)
    assert looks["database"]["told"].startswith("postgresql://countersign@127.0.0.1")
    assert looks["artifacts"]["told"] == f"{bucket.url}: written, read and removed"
    agent_key, person_key = it.key("agent:claude", acts_for="person:ana"), it.key("person:bo", kind="person", role="approver")
    async with it.client(agent_key) as agent, it.client(person_key) as person:
        stack = {"env": "dev", "workspace": "gated"}
        await call(agent, "terraform_register_workspace", **stack, source={"path": "gates"}, vars={"world": str(world)})
        run = (await call(agent, "apply_terraform", **stack, wait_seconds=25))["run"]
        await call(person, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])

        async def at_the_gate() -> bool:
            return reached(world)

        await eventually(at_the_gate, "the apply to reach its gate")
        environment = Path(f"/proc/{engine_of(it)}/environ").read_bytes()
        assert b"TF_HTTP_PASSWORD=" in environment
        assert not any(word in environment for word in (b"PGPASSWORD", b"COUNTERSIGN_DATABASE", b"AWS_", PASSWORD.encode()))
        cluster.kill()
        async with httpx2.AsyncClient() as http:
            asked = {"headers": {"Authorization": f"Bearer {agent_key}", "Accept": "application/json, text/event-stream"}, "json": {}}
            away = await http.post(f"http://127.0.0.1:{it.front_port}/mcp", **asked)  # nobody can say whose key this is
            assert (away.status_code, away.headers["Retry-After"]) == (503, "5")
            assert away.text == "unavailable: the database does not answer; ask again in a moment\n"
            assert (await http.get(f"http://127.0.0.1:{it.front_port}/readyz")).status_code == 503
        gone = findings(it, code=1)["database"]
        assert gone["grade"] == "missing" and "does not answer" in gone["told"]
        cluster.start()
        (world / "1.open").touch()

        await until(agent, run["run_id"], "applied")
        again = (await call(agent, "apply_terraform", **stack, idempotency_key="once-more", wait_seconds=25))["run"]
        assert again["state"] == "planned_and_finished", "the state that was stored has all of it"
    lines = [" ".join(argv) for _, argv in processes()]
    assert any("countersign" in line for line in lines)
    assert not [line for line in lines if any(word in line for word in SECRETS)]
    await tidied(it.data)
    files = [file for file in [*it.data.rglob("*"), it.data.parent / f"{it.data.name}.up.log"] if file.is_file()]
    assert any(file.suffix == ".log" for file in files)
    assert not [file for file in files if any(word.encode() in file.read_bytes() for word in SECRETS)]
    assert not (it.data / "countersign.db").exists() and not (it.data / "artifacts").exists()


@requirement("postgres:password", "postgres:schema")
def test_migrate_makes_the_schema_and_takes_no_password_as_an_argument(tmp_path: Path, cluster: Cluster) -> None:
    url, secret = cluster.url(cluster.create(), password=False), f"postgresql://countersign:{PASSWORD}@127.0.0.1/x"
    it = Installed(data=tmp_path / "data", settings={"PGPASSWORD": PASSWORD})
    it.data.mkdir()
    plain = url.replace("+psycopg", "")

    assert findings_of(it, plain)["grade"] == "note"  # there is no schema yet
    first, again = (json.loads(it.cli("migrate", "--database", plain, "--json")) for _ in range(2))
    assert first == again == {"database": plain, "schema": "0002"}
    assert findings_of(it, plain)["grade"] == "ok"
    for words in (("migrate", "--database", secret), ("up", "--database", secret), ("up", "--database", f"{plain}?password={PASSWORD}")):
        done = subprocess.run([str(COMMAND), *words], env=it.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert "leave it out and set PGPASSWORD or PGPASSFILE" in done.stderr
        assert PASSWORD not in done.stdout + done.stderr


def findings_of(it: Installed, url: str) -> dict[str, Any]:
    it.environment["COUNTERSIGN_DATABASE"] = url
    done = subprocess.run([str(COMMAND), "doctor", "--json"], env=it.environment, capture_output=True, text=True, timeout=60, check=False)
    found: dict[str, Any] = next(one for one in json.loads(done.stdout)["findings"] if one["what"] == "database")
    return found


# -- two machines


@dataclass
class Second(Installed):
    """Front, worker and state service of another machine: another data folder with the same keys, and the first one's Temporal."""

    of: Installed | None = None
    _parts: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(self) -> None:
        assert self.of is not None
        self.environment["COUNTERSIGN_TEMPORAL_ADDRESS"] = f"127.0.0.1:{self.of.temporal_port}"
        self.data.mkdir(mode=0o700)
        shutil.copytree(self.of.data / "keys", self.data / "keys")
        with (self.data.parent / f"{self.data.name}.up.log").open("ab") as log:
            for part in ("state", "worker", "front"):
                command = [str(COMMAND), part]
                self._parts.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    async def ready(self) -> None:
        async def answers() -> bool:
            assert all(part.poll() is None for part in self._parts), self.log()
            async with httpx2.AsyncClient(timeout=2) as http:
                with contextlib.suppress(httpx2.HTTPError):
                    ports = (self.front_port, self.state_port)
                    found = [(await http.get(f"http://127.0.0.1:{port}/readyz")).status_code for port in ports]
                    return found == [200, 200] and (self.data / "worker.ready").exists()
            return False

        await eventually(answers, f"the second machine to be ready:\n{self.log()}")

    def stop(self) -> int:
        for part in self._parts:
            part.send_signal(signal.SIGTERM)
        for part in self._parts:
            with contextlib.suppress(subprocess.TimeoutExpired):
                part.wait(20)
            part.kill()
        return 0


RUNS = 6


@requirement("postgres:two-of-each", "bad:racing-approvals", "artifacts:bucket")
async def test_two_of_each_part_do_what_one_would_and_everything_once(it: Installed, cluster: Cluster, tmp_path: Path) -> None:
    second = Second(data=tmp_path / "second", stacks=STACKS, settings=dict(it.settings), of=it)
    second.start()
    try:
        await second.ready()
        agent_key = it.key("agent:claude", acts_for="person:ana")
        bo, cy = (it.key(f"person:{name}", kind="person", role="approver") for name in ("bo", "cy"))
        async with it.client(agent_key) as here, second.client(agent_key) as there, it.client(bo) as at_one, second.client(cy) as at_two:

            async def story(number: int) -> str:
                asks, waits = (here, there) if number % 2 else (there, here)
                stack = {"env": "dev", "workspace": f"s{number}"}
                await call(asks, "terraform_register_workspace", **stack, source={"path": "small"})
                # The same request at both fronts at once is one run.
                both = await asyncio.gather(
                    *(call(who, "apply_terraform", **stack, idempotency_key=f"intent-{number}") for who in (asks, waits))
                )
                assert len({one["run"]["run_id"] for one in both}) == 1
                run = (await until(waits, both[0]["run"]["run_id"], "awaiting_approval"))["run"]
                decision = {"run_id": run["run_id"], "plan_digest": run["plan_digest"]}
                answers = await asyncio.gather(*(who.call_tool("run_approve", decision) for who in (at_one, at_two)))
                assert not all(answer.is_error for answer in answers), answers
                await until(asks, run["run_id"], "applied")
                outputs = [await call(who, "terraform_get_state", **stack) for who in (here, there)]
                assert outputs[0]["data"] == outputs[1]["data"]
                return str(run["run_id"])

            ids = await asyncio.wait_for(asyncio.gather(*(story(number) for number in range(RUNS))), 240)
    finally:
        second.stop()

    name = it.settings["COUNTERSIGN_DATABASE"].rsplit("/", 1)[1]
    store = await Store.open(cluster.url(name))
    async with store.read() as conn:
        assert await audit.first_broken(conn, "local") is None
        rows = (await conn.execute(audit.audit.select())).all()
    await store.close()
    bodies = [json.loads(row.body) for row in rows]
    assert sorted(b["run_id"] for b in bodies if b["action"] == "run.claim" and b["outcome"] == "ok") == sorted(ids)
    assert sorted(b["run_id"] for b in bodies if b["action"] == "run.apply" and b["outcome"] == "applied") == sorted(ids)
