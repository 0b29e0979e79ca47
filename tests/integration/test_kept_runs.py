"""Runs on a state that stays in the backend its configuration declares: from the request to the record, with people in between."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from countersign.adapters.store import records, state
from countersign.adapters.store.by_hand import Push
from countersign.adapters.store.custody import Adoption, Keeping, saw
from countersign.adapters.store.runs import RunRow
from countersign.core.engine import Seen
from countersign.core.errors import FailedPrecondition
from countersign.core.run import RunState
from countersign.worker import interceptors
from tests.integration.in_the_cloud import THING, InTheCloud, in_the_cloud
from tests.integration.lost_applies import Lost, lost
from tests.integration.moved_states import backend, conn_str
from tests.integration.test_cancel import later
from tests.integration.test_kept_backends import http_backend
from tests.postgres import BOTH, Cluster, database_of
from tests.requirements import requirement
from tests.service import ANA, eventually, temporal_server

pytestmark = pytest.mark.anyio
HTTP = "http"
OUTPUT = 'output "name" { value = fake_thing.one.name }\n'


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


async def keep(it: InTheCloud, kind: str, data: bytes | None = None, *, another: bool = False) -> None:
    store, artifacts = it.lost.it.store, it.lost.it.artifacts
    async with store.read() as conn:
        stack = await records.get_stack(conn, "local", it.lost.stack_id)
    await Keeping(store=store, artifacts=artifacts, stack=stack, by=ANA, reason="", another=another)(Seen(backend=kind, data=data))


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, client: Client, tmp_path: Path) -> AsyncIterator[InTheCloud]:
    with http_backend() as address, database_of(request) as database:
        block = backend(HTTP, address=address, lock_address=address, unlock_address=address)
        async with in_the_cloud(client, tmp_path, block + THING + OUTPUT, database=database) as running:
            await keep(running, HTTP)
            yield running


def configuration(it: InTheCloud) -> str:
    return (it.lost.folder / "stacks" / "demo" / "main.tf").read_text()


def pulled(it: InTheCloud) -> dict[str, Any]:
    """The state as somebody else sees it who works on that backend."""
    return dict(json.loads(by_hand(it, "state", "pull")))


def by_hand(it: InTheCloud, *words: str) -> str:
    work = it.lost.folder / "by-hand"
    work.mkdir(exist_ok=True)
    (work / "main.tf").write_text(configuration(it).partition("resource")[0])
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(work), "CHECKPOINT_DISABLE": "1"}
    env["TF_REATTACH_PROVIDERS"] = it.lost.engine._around.passed["TF_REATTACH_PROVIDERS"]
    for argv in (["init", "-input=false", "-reconfigure"], list(words)):
        done = subprocess.run(
            ["/usr/local/bin/terraform", *argv], cwd=work, env=env, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def counted_up(it: InTheCloud) -> int:
    """Somebody works on the state by hand, and leaves it with a higher serial; which."""
    now = pulled(it)
    file = it.lost.folder / "by-hand" / "pushed.tfstate"
    file.write_text(json.dumps({**now, "serial": now["serial"] + 5}))
    by_hand(it, "state", "push", str(file))
    return int(pulled(it)["serial"])


@requirement("state:kept")
async def test_a_run_changes_the_state_where_it_lies_and_what_it_saw_is_what_people_read(it: InTheCloud) -> None:
    await it.applied()

    now, head = pulled(it), await it.lost.head()
    assert (head.lineage, head.serial) == (now["lineage"], now["serial"])
    shown = await it.workspace()
    assert shown["custody"] == {"kept": "own", "backend": "http", "serial_there": None, "lineage": None}
    state = (await it.agent.call("terraform_get_state", env="dev", workspace="demo"))["data"]
    assert (state["serial"], state["addresses"]) == (now["serial"], ["fake_thing.one", "fake_thing.two"])
    found = await it.ended("terraform_detect_drift")
    assert found["run"]["state"] == "planned_and_finished"
    assert it.cloud.truth(pulled(it)).clean

    await it.applied("destroy_terraform")
    assert pulled(it)["resources"] == []
    assert (await it.lost.head()).serial == pulled(it)["serial"]


@requirement("state:kept", "import:a-run")
async def test_what_exists_is_imported_into_the_state_where_it_lies(it: InTheCloud) -> None:
    await it.applied()
    asked = {"type": "fake_thing", "project": "default", "name": "three", "attributes": {"size": 3}}
    made = await asyncio.to_thread(lambda: it.cloud.connection.create(**asked))
    it.lost.configure(configuration(it) + 'resource "fake_thing" "three" {\n  name = "three"\n  size = 3\n}\n')

    await it.applied("terraform_import", address="fake_thing.three", external_id=str(made["id"]))

    [three] = [r for r in pulled(it)["resources"] if r["name"] == "three"]
    assert three["instances"][0]["attributes"]["id"] == made["id"]
    again = await it.agent.refused("terraform_import", env="dev", workspace="demo", address="fake_thing.three", external_id=str(made["id"]))
    assert again["code"] == "already_exists"


@requirement("state:kept-claim")
async def test_the_claim_looks_again_and_what_somebody_else_did_there_is_planned_anew(it: InTheCloud) -> None:
    await it.applied()
    it.lost.configure(configuration(it).replace("size = 1", "size = 2"))
    waiting = (await it.ended("apply_terraform"))["run"]
    planned = (await it.plan(waiting["run_id"]))["risks"]
    assert any("nothing is fenced" in str(risk) for risk in planned)
    seen, serial = (await it.lost.head()).serial, counted_up(it)

    await it.lost.agree(await it.lost.it.run(waiting["run_id"]))
    applied = await it.lost.it.reaches(waiting["run_id"], RunState.APPLIED, patience=90.0)

    told = [e.body.get("message") for e in await it.lost.events(applied) if e.state is RunState.STALE]
    assert told == [f"the state moved from serial {seen} to {serial} after this plan was made"]
    assert [d.channel for d in await it.lost.it.decisions(applied.id)] == ["front", "carried"]  # it still means the same
    assert it.object("one")["attributes"]["size"] == 2
    assert (await it.lost.head()).serial == pulled(it)["serial"] > serial


@requirement("state:kept-claim")
async def test_a_backend_in_which_another_state_lies_is_not_planned_on_until_an_administrator_says_so(it: InTheCloud) -> None:
    await it.applied()
    it.lost.configure(configuration(it).replace("/shop", "/elsewhere"))

    failed = await it.ended("apply_terraform")

    assert (failed["run"]["state"], failed["data"]["code"]) == ("errored", "failed_precondition")
    assert "nothing is in the backend http" in failed["data"]["reason"]["text"]
    assert "countersign stack keep dev/demo --another" in failed["data"]["reason"]["text"]
    assert sorted(it.cloud.changes()) == ["create one", "create two"]
    with pytest.raises(FailedPrecondition, match="no common history"):
        await keep(it, HTTP)
    await keep(it, HTTP, another=True)


@requirement("state:kept")
async def test_what_only_our_own_service_can_do_is_refused_and_says_where_it_is_done(it: InTheCloud) -> None:
    await it.applied()
    where = {"env": "dev", "workspace": "demo"}

    unlocked = await it.agent.refused("terraform_force_unlock", **where, lock_id="l1", confirm_name="local/dev/demo")
    restored = await it.agent.refused("run_start", type="terraform_restore_state", input={**where, "serial": 1})
    async with it.lost.it.store.read() as conn:
        stack = await records.get_stack(conn, "local", it.lost.stack_id)
    push = Push(
        store=it.lost.it.store, artifacts=it.lost.it.artifacts, stack=stack, by=ANA, reason="", force=True, check=lambda attempt: None
    )

    assert "the lock of local/dev/demo is the one of its own backend, http" in unlocked["message"]
    assert "stays in its own backend" in restored["message"]
    with pytest.raises(FailedPrecondition, match="push it there"):
        await push(json.dumps(pulled(it)).encode())


@requirement("state:kept", "reads:outputs")
async def test_another_stack_reads_its_outputs(it: InTheCloud) -> None:
    await it.applied()
    folder = it.lost.folder / "stacks" / "app"
    folder.mkdir()
    (folder / "main.tf").write_text('variable "reads" { type = any }\nresource "terraform_data" "it" { input = var.reads.demo.name }\n')
    await it.agent.call("terraform_register_workspace", env="dev", workspace="app", source={"path": "app"}, reads=["dev/demo"])

    waiting = (await it.ended("apply_terraform", workspace="app"))["run"]

    assert "input = one" in str((await it.plan(waiting["run_id"]))["changes"])


@requirement("state:kept")
async def test_what_a_run_saw_elsewhere_is_not_noted_once_the_state_was_taken_over(it: InTheCloud) -> None:
    await it.applied()
    store, artifacts = it.lost.it.store, it.lost.it.artifacts
    async with store.read() as conn:
        then = await records.get_stack(conn, "local", it.lost.stack_id)  # as a run has it that began to look before
    there = pulled(it)
    newer = json.dumps({**there, "serial": there["serial"] + 2}).encode()
    await Adoption(store=store, artifacts=artifacts, stack=then, by=ANA, origin="file", reason="", newer=True)(newer)

    await saw(store, artifacts, then.config, "run_looked", Seen(backend=HTTP, data=json.dumps(there).encode()))

    async with store.read() as conn:
        assert (await state.head(conn, "local", it.lost.stack_id)).serial == there["serial"] + 2


@requirement("state:kept-claim")
async def test_a_backend_that_is_away_at_the_claim_costs_no_approval(
    client: Client, tmp_path: Path, cluster: Cluster, postgres_url: str
) -> None:
    database = postgres_url.rpartition("/")[2]
    block = backend("pg", conn_str=conn_str(cluster, postgres_url), schema_name="shop")
    async with in_the_cloud(client, tmp_path, block + THING) as it:
        await keep(it, "pg")
        waiting = (await it.ended("apply_terraform"))["run"]
        cluster.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        run = await it.lost.it.run(waiting["run_id"])
        await it.lost.agree(run)

        async def told() -> bool:
            return "cannot be looked at in its own backend" in ((await it.lost.it.run(run.id)).reason or "")

        await eventually(told, "the run to say what it waits for")
        cluster.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        await it.lost.it.reaches(run.id, RunState.APPLIED, patience=90.0)

    assert [state for state in await it.lost.states(run) if state in ("stale", "errored")] == []
    cluster.execute("DROP SCHEMA IF EXISTS shop, terraform_remote_state CASCADE", database=database)


@requirement("state:kept-claim", "I8")
async def test_a_backend_that_stays_away_is_waited_for_until_the_approval_expires(
    client: Client, tmp_path: Path, cluster: Cluster, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "SKEW", timedelta(days=2))  # a worker whose clock is off by itself does nothing at all
    database = postgres_url.rpartition("/")[2]
    block = backend("pg", conn_str=conn_str(cluster, postgres_url), schema_name="shop")
    async with in_the_cloud(client, tmp_path, block + THING) as it:
        await keep(it, "pg")
        waiting = (await it.ended("apply_terraform"))["run"]
        cluster.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        try:
            await it.lost.agree(run := await it.lost.it.run(waiting["run_id"]))

            async def told() -> bool:
                return "cannot be looked at in its own backend" in ((await it.lost.it.run(run.id)).reason or "")

            await eventually(told, "the run to say what it waits for")
            with later(it.lost.it.store, hours=25):
                await it.lost.it.runs.wake(run.id)
                over = await it.lost.it.reaches(run.id, RunState.EXPIRED, patience=60.0)
        finally:
            cluster.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")

    assert over.code == "approval_expired"
    assert over.reason is not None and "cannot be looked at in its own backend" in over.reason
    cluster.execute("DROP SCHEMA IF EXISTS shop, terraform_remote_state CASCADE", database=database)


# -- Lost on the way


@pytest.fixture
async def chain(client: Client, tmp_path: Path) -> AsyncIterator[Lost]:
    async with lost(client, tmp_path) as running:
        yield running


async def killed(it: Lost, kind: str, block: str) -> RunRow:
    """A run whose apply died when two of four things were made."""
    it.configure(block + it.world.chain(4, gates=[2]))
    async with it.it.store.read() as conn:
        stack = await records.get_stack(conn, "local", it.stack_id)
    await Keeping(store=it.it.store, artifacts=it.it.artifacts, stack=stack, by=ANA, reason="")(Seen(backend=kind, data=None))
    run = await it.applying()
    async with it.world.held(2):
        await it.kill(run)
    return run


@requirement("state:kept-lost", "promise:crash-costs-nothing")
async def test_a_killed_apply_on_a_postgres_is_finished_by_itself_and_makes_nothing_twice(
    chain: Lost, cluster: Cluster, postgres_url: str
) -> None:
    """Its lock goes with the connection."""
    run = await killed(chain, "pg", backend("pg", conn_str=conn_str(cluster, postgres_url), schema_name="shop"))
    try:
        await chain.it.reaches(run.id, RunState.APPLIED, patience=90.0)

        assert (await chain.states(run))[-4:] == ["approved", "applying", "verifying", "applied"]
        await chain.is_settled()
    finally:
        cluster.execute("DROP SCHEMA IF EXISTS shop, terraform_remote_state CASCADE", database=postgres_url.rpartition("/")[2])


@requirement("state:kept-lost", "state:kept-lock")
async def test_where_the_backend_does_not_tell_whose_its_lock_is_an_operator_frees_it_and_the_run_goes_on(chain: Lost) -> None:
    with http_backend() as address:
        run = await killed(chain, "http", backend("http", address=address, lock_address=address, unlock_address=address))
        asking = await chain.it.reaches(run.id, RunState.NEEDS_OPERATOR, patience=90.0)
        assert asking.reason is not None
        assert "locked in its own backend by somebody, lock " in asking.reason
        [command] = [line.strip() for line in asking.reason.splitlines() if "force-unlock" in line]
        assert command.startswith("terraform init && terraform force-unlock ")

        folder = chain.folder / "by-hand"
        folder.mkdir()
        (folder / "main.tf").write_text(backend("http", address=address, lock_address=address, unlock_address=address))
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "CHECKPOINT_DISABLE": "1"}
        for argv in (["init", "-input=false"], ["force-unlock", "-force", command.split()[-1]]):
            words = ["/usr/local/bin/terraform", *argv]
            await asyncio.to_thread(subprocess.run, words, cwd=folder, env=env, capture_output=True, timeout=90, check=True)
        await chain.it.runs.resume(asking.id, ANA.id)

        await chain.it.reaches(run.id, RunState.APPLIED, patience=90.0)
        await chain.is_settled()
