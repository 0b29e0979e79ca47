"""A state that stays in the backend its configuration declares: planned, applied and destroyed there, with what is weaker told."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.leaving import leaving
from countersign.core.engine import Planned, Reconciled, Remains
from countersign.core.errors import FailedPrecondition, Locked, ProviderError
from countersign.core.reconcile import Next
from countersign.core.run import Mode, RunState
from tests.buckets import running
from tests.integration.moved_states import THINGS, backend, conn_str
from tests.integration.processes import ROOT, leaves_no_process, until
from tests.integration.terraform_bench import SECRETS, SYSTEM, Bench, bench, holding, terraform, texts
from tests.integration.test_remains import job_of
from tests.postgres import PASSWORD, Cluster
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process", "terraform"]
pytestmark = pytest.mark.anyio

KINDS = ("pg", "s3", "http")
OUTPUT = 'output "size" { value = terraform_data.one.output }\n'


@dataclass
class There:
    """A backend as a configuration declares it, and the credential it is reached with."""

    kind: str
    block: str
    credential: dict[str, str] = field(default_factory=dict)
    secret: str = "no secret at all"

    def by_hand(self, bench: Bench, *words: str, fails: bool = False) -> str:
        """The engine itself in a folder of a person's own, with the same configuration."""
        work = bench.folder / "by-hand"
        work.mkdir(exist_ok=True)
        (work / "main.tf").write_text((bench.stacks / "shop" / "main.tf").read_text())
        env = {"PATH": SYSTEM, "HOME": str(work), "CHECKPOINT_DISABLE": "1", **self.credential}
        done = subprocess.run([bench.real, *words], cwd=work, env=env, capture_output=True, text=True, timeout=90, check=False)
        assert fails or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + (done.stderr if fails else "")

    def state(self, bench: Bench) -> dict[str, Any]:
        self.by_hand(bench, "init", "-input=false", "-reconfigure")
        return dict(json.loads(self.by_hand(bench, "state", "pull")))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def http_backend() -> Iterator[str]:
    """The address of a server that keeps states and their locks, and knows no more."""
    port = free_port()
    argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.bench.backend", str(port)]
    server = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert server.stdout is not None and json.loads(server.stdout.readline())["port"] == port
        yield f"http://127.0.0.1:{port}/shop"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)
        server.stdout.close()


def s3_block(endpoint: str, **more: object) -> str:
    """The backend as it is written for a server that is not Amazon's."""
    flags = ("use_path_style", "skip_credentials_validation", "skip_requesting_account_id", "skip_metadata_api_check")
    lines = [f"{flag} = true" for flag in (*flags, "skip_region_validation")]
    lines += [f"{name} = {json.dumps(value)}" for name, value in more.items()]
    named = f'bucket = "artifacts"\nkey = "{secrets.token_hex(8)}"\nregion = "us-east-1"\nendpoints = {{ s3 = "{endpoint}" }}\n'
    return f'terraform {{\n  backend "s3" {{\n{named}{chr(10).join(lines)}\n  }}\n}}\n'


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    with running("s3") as made:
        yield made


@pytest.fixture(params=KINDS)
def there(request: pytest.FixtureRequest, cluster: Cluster, postgres_url: str) -> Iterator[There]:
    with contextlib.ExitStack() as stack:
        yield there_of(request.param, stack, cluster, postgres_url, request)


def there_of(kind: str, stack: contextlib.ExitStack, cluster: Cluster, postgres_url: str, request: pytest.FixtureRequest) -> There:
    if kind == "pg":
        drop = "DROP SCHEMA IF EXISTS shop, terraform_remote_state CASCADE"
        stack.callback(cluster.execute, drop, database=postgres_url.rpartition("/")[2])
        given = {"PG_CONN_STR": conn_str(cluster, postgres_url)}
        return There(kind, backend("pg", schema_name="shop"), given, PASSWORD)
    if kind == "s3":
        bucket = request.getfixturevalue("bucket")
        return There(kind, s3_block(bucket.endpoint, use_lockfile=True), bucket.environment, bucket.environment["AWS_SECRET_ACCESS_KEY"])
    address = stack.enter_context(http_backend())
    given = {"TF_HTTP_USERNAME": "ana", "TF_HTTP_PASSWORD": "password-of-the-http-backend"}
    block = backend("http", address=address, lock_address=address, unlock_address=address)
    return There(kind, block, given, given["TF_HTTP_PASSWORD"])


OWN: dict[str, Any] = {"own": True, "plan_credential": "backend", "apply_credential": "backend"}


@pytest.fixture
def shop(bench: Bench, there: There, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench with a stack whose state stays in a backend of its own."""
    monkeypatch.setitem(SECRETS, "backend", json.dumps(there.credential))
    bench.write("shop", main_tf=there.block + THINGS + OUTPUT)
    return bench


async def plan(bench: Bench, mode: Mode = Mode.APPLY, **job: Any) -> Planned:
    return await bench.plan("shop", mode, config=OWN, **job)


async def applied(bench: Bench, mode: Mode = Mode.APPLY, **job: Any) -> Planned:
    planned = await plan(bench, mode, **job)
    outcome = await bench.apply(planned, "shop", config=OWN)
    assert outcome.state is RunState.VERIFYING, (outcome.message, outcome.log)
    return planned


@requirement("state:kept")
async def test_what_is_planned_is_applied_changed_and_destroyed_in_the_declared_backend(shop: Bench, there: There) -> None:
    first = await applied(shop)

    assert (first.lineage, first.serial, first.seen and first.seen.backend) == (None, 0, there.kind)
    now = there.state(shop)
    assert [r["name"] for r in now["resources"]] == ["one", "two"]
    second = await plan(shop, vars={"size": 5})
    assert (second.lineage, second.serial) == (now["lineage"], now["serial"])
    assert second.seen is not None and second.seen.data is not None
    assert json.loads(second.seen.data) == now
    outcome = await shop.apply(second, "shop", config=OWN)
    assert (outcome.state, outcome.outputs) == (RunState.VERIFYING, {"size": {"value": 5, "type": "number"}})
    assert there.state(shop)["serial"] > now["serial"]
    assert not (await plan(shop, Mode.DRIFT)).plan.changes_anything
    await applied(shop, Mode.DESTROY)
    assert there.state(shop)["resources"] == []
    assert shop.state.state is None  # our own service heard nothing of it


@requirement("state:kept-told")
async def test_who_agrees_is_told_what_is_weaker_and_no_secret_of_the_backend(shop: Bench, there: There) -> None:
    planned = await plan(shop)

    first, second, *_ = planned.plan.risks
    assert first.startswith(f"The state stays in the backend {there.kind} that the configuration declares, where nothing is fenced")
    assert second.startswith(f"Its lock is the one of {there.kind}, and no run frees one that it cannot prove to be its own")
    assert planned.inputs["state_in"] == there.kind
    assert holding(texts(planned), there.secret) == []
    await leaving.gone()
    # What is kept warm was initialised without the backend, whose settings lie in `.terraform` in clear.
    warm = list((shop.folder / "work" / "warm").glob("*/.terraform"))
    assert [len(warm), [entry for entry in warm if (entry / "terraform.tfstate").exists()]] == [1, []]
    assert holding({str(p): p.read_text(errors="replace") for p in (shop.folder / "work").rglob("*") if p.is_file()}, there.secret) == []


@requirement("state:kept")
async def test_a_plan_is_stale_when_somebody_moved_the_state_there(shop: Bench, there: There) -> None:
    await applied(shop)
    planned = await plan(shop, vars={"size": 2})
    there.by_hand(shop, "init", "-input=false", "-reconfigure")
    there.by_hand(shop, "apply", "-auto-approve", "-input=false", "-var=size=3")

    seen = await shop.engine.seen(shop.plan_job("shop", config=OWN), planned.bundle, shop.beat)
    outcome = await shop.apply(planned, "shop", config=OWN)

    assert seen.data is not None and json.loads(seen.data)["serial"] > planned.serial
    assert (outcome.state, outcome.code) == (RunState.STALE, "plan_stale")


@requirement("state:kept-lock")
async def test_a_lock_of_somebody_else_is_waited_for_and_named(shop: Bench, there: There) -> None:
    await applied(shop)
    planned = await plan(shop, vars={"size": 2})
    with locked(shop, there):
        with pytest.raises(Locked, match="locked in its own backend"):
            await plan(shop, vars={"size": 2})
        outcome = await shop.apply(planned, "shop", config=OWN)
        await plan(shop, Mode.SPECULATIVE)  # only looks, and takes none

    assert (outcome.state, outcome.code) == (RunState.ERRORED, "locked")


@contextlib.contextmanager
def locked(bench: Bench, there: There) -> Iterator[None]:
    """Somebody applies by hand and does not come to an end."""
    started = bench.folder / "by-hand-applies"
    more = f'resource "terraform_data" "hand" {{\n  provisioner "local-exec" {{\n    command = "touch {started}; sleep 300"\n  }}\n}}\n'
    there.by_hand(bench, "init", "-input=false", "-reconfigure")
    work = bench.folder / "by-hand"
    (work / "more.tf").write_text(more)
    env = {"PATH": SYSTEM, "HOME": str(work), "CHECKPOINT_DISABLE": "1", **there.credential}
    argv = [bench.real, "apply", "-auto-approve", "-input=false"]
    applying = subprocess.Popen(argv, cwd=work, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until_exists(started)
        yield
    finally:
        os.killpg(applying.pid, signal.SIGKILL)
        applying.wait(30)


def until_exists(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} does not come"
        time.sleep(0.02)


# -- Where nothing can stay


@requirement("state:kept")
@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("", "declares none"),
        (backend("local", path="x.tfstate"), "declares a file"),
        ('terraform {\n  cloud {\n    organization = "o"\n  }\n}\n', "declares cloud; a state can stay in one of"),
        (backend("pg") + backend("s3"), "declares pg and s3"),
    ],
)
async def test_no_file_and_no_cloud_is_a_place_for_a_state_that_stays(terraform: Bench, block: str, why: str) -> None:
    terraform.write("shop", main_tf=block + THINGS)

    with pytest.raises((FailedPrecondition, ProviderError), match=why):
        await terraform.plan("shop", config={"own": True})


@requirement("state:kept")
async def test_an_override_that_takes_the_state_to_a_file_is_refused(terraform: Bench) -> None:
    with http_backend() as address:
        block = backend("http", address=address)
        terraform.write("shop", main_tf=block + THINGS, override_tf=backend("local", path="x.tfstate"))
        with pytest.raises(FailedPrecondition, match="declares"):
            await terraform.plan("shop", config={"own": True})

        (terraform.stacks / "shop" / "override.tf").unlink()
        planned = await terraform.plan("shop", config={"own": True})
    assert planned.plan.risks[0].startswith("The backend http is declared without a lock")


@requirement("state:kept")
async def test_a_plan_of_before_the_state_moved_to_another_keeper_is_not_applied(terraform: Bench) -> None:
    terraform.write("shop", main_tf=THINGS)
    planned = await terraform.plan("shop")

    with pytest.raises(FailedPrecondition, match="is kept elsewhere since this plan was made"):
        await terraform.launch(planned, "shop", config={"own": True})

    assert terraform.state.state is None


async def test_an_earlier_state_is_restored_in_the_backend_and_not_here(terraform: Bench) -> None:
    with pytest.raises(FailedPrecondition, match="stays in its own backend"):
        await terraform.plan("demo", restore=b"{}", config={"own": True})


# -- An apply that is lost


@requirement("state:kept-lost", "promise:crash-costs-nothing")
async def test_a_killed_apply_is_accounted_for_and_its_lock_freed_where_it_proves_to_be_its_own(shop: Bench, there: There) -> None:
    planned, attempt = await killed(shop, there)
    remains = await shop.engine.end(attempt, same_boot=True)
    assert there.state(shop).get("resources", []) == []

    found = await reconciled(shop, planned, remains)

    if there.kind == "http":  # it tells nobody who has the lock, so only a person can know
        assert found.decision.next is Next.OPERATOR
        assert "locked in its own backend by somebody, lock " in found.decision.why
        [command] = [line.strip() for line in found.decision.instructions if "force-unlock" in line]
        there.by_hand(shop, "force-unlock", "-force", command.split()[-1])
        found = await reconciled(shop, planned, remains)
    assert found.decision.next is Next.CONTINUE, found.decision
    assert found.planned is not None
    assert found.planned.seen is not None
    assert [str(c.change_class) for c in found.planned.plan.changes if c.address == "terraform_data.before"] == ["import"]
    (shop.world / "1.open").touch()
    outcome = await shop.apply(found.planned, "gates", config=OWN)
    assert outcome.state is RunState.VERIFYING, (outcome.message, outcome.log)
    made = {r["name"]: r["instances"][0]["attributes"]["id"] for r in there.state(shop)["resources"]}
    [id] = [e["hook"]["id_value"] for e in map(json.loads, remains.testimony.splitlines()) if e["type"] == "apply_complete"]
    assert made["before"] == id


@requirement("state:kept-lock", "reconcile:foreign-lock")
async def test_a_lock_that_is_not_proven_to_be_of_the_lost_apply_stays(shop: Bench, there: There) -> None:
    planned, attempt = await killed(shop, there)
    remains = replace(await shop.engine.end(attempt, same_boot=True), testimony=b"")  # it does not say that it ever had the lock
    # A Postgres frees what a dead session held, so there somebody else has it.
    with locked(shop, there) if there.kind == "pg" else contextlib.nullcontext():
        found = await reconciled(shop, planned, remains)
        again = await reconciled(shop, planned, remains)

    assert (found.decision.next, found.planned) == (Next.OPERATOR, None)
    assert "Find out whose it is" in found.decision.why
    assert f"{bench_name(shop)} force-unlock" in " ".join(found.decision.instructions)
    assert again.decision == found.decision  # it is still there


def bench_name(bench: Bench) -> str:
    return Path(bench.real).name


@requirement("state:kept-lost", "reconcile:unstored-state")
@pytest.mark.parametrize("moved", [False, True], ids=["as-it-was", "moved-meanwhile"])
async def test_a_state_that_could_not_be_stored_is_stored_only_where_it_still_fits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    with running("s3") as bucket:
        there = There("s3", s3_block(bucket.endpoint, use_lockfile=True, max_retries=1), bucket.environment)
        monkeypatch.setitem(SECRETS, "backend", json.dumps(there.credential))
        planned, attempt = await at_its_gate(bench, there)
        bucket.leave()
        (bench.world / "1.open").touch()
        outcome = await bench.follow(attempt)
        bucket.come_back()
        assert (outcome.state, "errored.tfstate was left: the state could not be stored" in outcome.evidence) == (
            RunState.INTERRUPTED,
            True,
        )
        remains = await bench.engine.end(attempt, same_boot=True)
        assert remains.state is not None
        left = json.loads(remains.state)
        if moved:
            hand = bench.folder / "by-hand"
            there.state(bench)
            file = hand / "another.tfstate"
            file.write_text(json.dumps({**left, "lineage": "another", "serial": 9, "resources": [], "outputs": {}}))
            there.by_hand(bench, "state", "push", "-lock=false", str(file))
            theirs = there.state(bench)

        found = await reconciled(bench, planned, remains, missing=[])

        now = there.state(bench)
        if moved:  # what the journal knows is imported instead
            assert (now, found.decision.next) == (theirs, Next.CONTINUE)
            assert found.planned is not None
            assert found.planned.plan.counts.total >= 4
        else:
            assert found.decision.next is Next.CONTINUE
            assert found.planned is not None and not found.planned.plan.changes_anything
            assert [r["name"] for r in now["resources"]] == [r["name"] for r in left["resources"]]


async def killed(bench: Bench, there: There) -> tuple[Planned, str]:
    """An attempt whose whole group was killed at its gate; it holds the lock then."""
    planned, attempt = await at_its_gate(bench, there)
    os.killpg(int((bench.engine.where(attempt) / "run" / "pgid").read_text()), signal.SIGKILL)
    outcome = await bench.follow(attempt)
    assert outcome.state is RunState.INTERRUPTED
    return planned, attempt


async def at_its_gate(bench: Bench, there: There) -> tuple[Planned, str]:
    """An apply that has made one thing, and waits."""
    gates = (ROOT / "tests" / "stacks" / "gates" / "main.tf").read_text()
    bench.write("gates", main_tf=there.block + gates)
    bench.write("shop", main_tf=there.block)
    planned = await bench.plan("gates", vars={"world": str(bench.world)}, config=OWN)
    attempt = await bench.launch(planned, "gates", config=OWN)
    await until((bench.world / "1.reached").exists, "the apply to reach its gate")
    return planned, attempt


async def reconciled(bench: Bench, planned: Planned, remains: Remains, **more: Any) -> Reconciled:
    job = job_of(bench, planned, remains, "gates", **{"missing": ["terraform_data.gate"], **more})
    return await bench.engine.reconcile(replace(job, stack=bench.stack("gates", **OWN)), bench.beat)
