"""A state that was made elsewhere comes here: from a file, or from the backend its configuration declares."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from countersign.adapters.store import state
from tests.buckets import running
from tests.integration.moved_states import STACK, THINGS, Moved, backend, conn_str
from tests.integration.processes import leaves_no_process
from tests.integration.terraform_bench import ENGINES, Bench, bench
from tests.integration.test_kept_backends import http_backend, s3_block
from tests.postgres import BOTH, PASSWORD, Cluster, database_of
from tests.requirements import requirement

__all__ = ["bench", "leaves_no_process"]
pytestmark = pytest.mark.anyio


@pytest.fixture(params=ENGINES)
def it(request: pytest.FixtureRequest, tmp_path: Path) -> Moved:
    return Moved(folder=tmp_path, engine=request.param)


@pytest.fixture(params=BOTH)
async def local(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Moved]:
    """A state that Terraform keeps in a file."""
    with database_of(request) as database:
        made = Moved(folder=tmp_path, database=database)
        await made.made(THINGS)
        made.apply_by_hand()
        yield made


@pytest.fixture
def elsewhere(cluster: Cluster, postgres_url: str) -> Iterator[str]:
    """A Postgres in which somebody else keeps states, as the pg backend takes it."""
    yield conn_str(cluster, postgres_url)
    database = postgres_url.rpartition("/")[2]
    cluster.execute("DROP SCHEMA IF EXISTS shop, terraform_remote_state CASCADE", database=database)


def file_of(it: Moved) -> Path:
    return it.folder / "by-hand" / "terraform.tfstate"


@requirement("state:adopted")
async def test_a_state_in_a_file_is_kept_here_with_its_lineage_and_both_serials_on_record(local: Moved) -> None:
    there = json.loads(file_of(local).read_bytes())

    told = local.json("stack", "adopt", "dev/shop", "--from", str(file_of(local)), "--reason", "from the laptop of Bo")

    head, stack = await local.head(), await local.stack()
    assert (head.lineage, head.serial, head.epoch) == (there["lineage"], there["serial"], 1)
    assert (told["serial_there"], told["serial_before"], told["serial"]) == (there["serial"], 0, there["serial"])
    kept = {"kept": "here", "from": "file", "serial_there": there["serial"], "serial": there["serial"], "lineage": there["lineage"]}
    assert stack.custody == kept
    [row] = await local.audited("state.adopt")
    assert row["by"].startswith("person:")
    assert (row["target"], row["facts"]["reason"]) == (STACK, "from the laptop of Bo")
    assert (row["facts"]["serial_there"], row["facts"]["serial_before"], row["facts"]["serial"]) == (there["serial"], 0, there["serial"])
    assert json.loads(local.cli("state", "pull", "dev/shop")) == there


@requirement("state:adopted")
async def test_the_same_state_again_changes_nothing_and_another_history_is_never_taken(local: Moved) -> None:
    adopt = ["stack", "adopt", "dev/shop", "--from"]
    first = local.json(*adopt, str(file_of(local)))
    laid_out = local.folder / "laid-out.tfstate"
    laid_out.write_text(json.dumps(json.loads(file_of(local).read_bytes())))

    assert local.json(*adopt, str(laid_out))["stored"] is False
    other = local.folder / "other.tfstate"
    other.write_text(json.dumps({**json.loads(file_of(local).read_bytes()), "lineage": "another", "serial": 99}))
    assert "they have no common history" in local.says(*adopt, str(other))
    assert "they have no common history" in local.says(*adopt, str(other), "--newer")
    edited = local.folder / "edited.tfstate"
    edited.write_text(json.dumps({**json.loads(file_of(local).read_bytes()), "outputs": {"a": {"value": "b", "type": "string"}}}))
    assert "with other content" in local.says(*adopt, str(edited), "--newer")
    assert "is none" in local.says(*adopt, str(local.source / "main.tf"), code=2)
    assert ((await local.head()).serial, (await local.head()).seq) == (first["serial"], 1)


@requirement("state:adopted")
async def test_what_went_on_elsewhere_is_taken_only_where_somebody_asks_for_that(local: Moved) -> None:
    adopt = ["stack", "adopt", "dev/shop", "--from", str(file_of(local))]
    first = local.json(*adopt)["serial"]
    local.by_hand("apply", "-auto-approve", "-input=false", "-var=size=2")

    assert "--newer" in local.says(*adopt)
    told = local.json(*adopt, "--newer")

    assert (told["serial_before"], told["serial"] > first) == (first, True)
    assert json.loads(local.cli("state", "pull", "dev/shop", "--serial", str(first)))["serial"] == first


@requirement("state:adopted")
async def test_a_state_in_a_declared_backend_is_read_by_the_engine_itself(it: Moved, elsewhere: str) -> None:
    await it.made(backend("pg", schema_name="shop") + THINGS, plan_credential="pg")
    secret = json.dumps({"PG_CONN_STR": elsewhere})
    it.cli("secret", "set", "pg", stdin=secret.encode())
    it.apply_by_hand(PG_CONN_STR=elsewhere)
    there = json.loads(it.by_hand("state", "pull", PG_CONN_STR=elsewhere))

    told = it.json("stack", "adopt", "dev/shop")

    assert (told["from"], told["serial_there"], told["lineage"]) == ("pg", there["serial"], there["lineage"])
    assert (await it.stack()).custody["from"] == "pg"
    assert json.loads(it.cli("state", "pull", "dev/shop")) == there
    left = [path for path in it.data.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert left == []
    assert it.json("stack", "adopt", "dev/shop")["stored"] is False


@requirement("state:adopted")
async def test_a_backend_that_holds_nothing_yet_is_adopted_as_that_and_one_that_does_not_answer_is_not(
    tmp_path: Path, elsewhere: str
) -> None:
    it = Moved(folder=tmp_path)
    await it.made(backend("pg", conn_str=elsewhere.replace("127.0.0.1", "127.0.0.9")) + THINGS)
    assert "init failed" in it.says("stack", "adopt", "dev/shop", code=1)
    assert (await it.stack()).custody == {}

    (it.source / "main.tf").write_text(backend("pg", conn_str=elsewhere) + THINGS)
    told = it.json("stack", "adopt", "dev/shop")

    assert (told["from"], told["serial_there"], told["serial"], told["stored"]) == ("pg", None, 0, False)
    assert (await it.stack()).config.adopted


@requirement("state:adopted")
async def test_without_a_backend_to_read_from_it_says_what_to_name(local: Moved) -> None:
    assert "--from" in local.says("stack", "adopt", "dev/shop") or "in a file" in local.says("stack", "adopt", "dev/shop")
    (local.source / "main.tf").write_text('terraform {\n  cloud {\n    organization = "o"\n  }\n}\n' + THINGS)
    assert "terraform state pull" in local.says("stack", "adopt", "dev/shop")


@requirement("state:adopted")
async def test_after_it_the_declared_backend_counts_no_more(bench: Bench, tmp_path: Path, elsewhere: str) -> None:
    """Nothing is there any more either: whoever planned against it would make everything again."""
    it = Moved(folder=tmp_path / "moved", engine=bench.engine_name)
    await it.made(THINGS)
    it.apply_by_hand()
    bench.state.state = file_of(it).read_bytes()
    bench.write("shop", main_tf=backend("pg", conn_str=elsewhere) + THINGS)

    planned = await bench.plan("shop", config={"adopted": True})

    assert not planned.plan.changes_anything
    assert planned.lineage == json.loads(file_of(it).read_bytes())["lineage"]
    outcome = await bench.applied("shop", vars={"size": 5}, config={"adopted": True})
    assert outcome.done == 1
    (it.folder / "by-hand" / "main.tf").write_text((bench.stacks / "shop" / "main.tf").read_text())
    (file_of(it)).unlink()
    it.by_hand("init", "-input=false", "-reconfigure")
    assert "terraform_data" not in it.by_hand("state", "pull")


@requirement("state:adopted")
async def test_nothing_is_taken_over_beside_an_apply_that_is_open_or_under_a_lock_of_somebody_else(local: Moved) -> None:
    assert local.row is not None
    adopt = ["stack", "adopt", "dev/shop", "--from", str(file_of(local))]
    store = await local.store()
    columns = "org_id, id, run_id, stack_id, plan_digest, epoch, host, boot_id, opened_at, evidence"
    async with store.begin() as tx:
        await tx.exec_driver_sql(
            f"INSERT INTO attempts ({columns}) VALUES ('local', 'att_1', 'run_1', '{local.row.id}', 'sha256:1', 1, 'h', 'b', "
            "'2026-01-01T00:00:00.000Z', '[]')"
        )
    assert "an apply of run run_1 is open" in local.says(*adopt)
    async with store.begin() as tx:
        await tx.exec_driver_sql("DELETE FROM attempts")
        await state.hold(tx, "local", local.row.id)
        lock = json.dumps({"ID": "l", "Who": "bo@laptop", "Created": "yesterday"})
        await tx.exec_driver_sql(f"UPDATE states SET lock = '{lock}'")
    assert "locked by bo@laptop" in local.says(*adopt, code=4)
    await store.close()

    assert (await local.head()).empty
    assert (await local.stack()).custody == {}


# -- Given back


@requirement("state:released")
async def test_a_state_is_given_back_to_a_file_as_it_is_and_taken_over_again_with_what_went_on_there(local: Moved) -> None:
    local.cli("stack", "adopt", "dev/shop", "--from", str(file_of(local)))
    there, given = json.loads(file_of(local).read_bytes()), local.folder / "given.tfstate"
    release = ["stack", "release", "dev/shop", "--to", str(given)]

    assert "whole path" in local.says(*release, code=5)
    assert not given.exists()
    told = local.json(*release, "--confirm", STACK, "--reason", "moves to another team")

    assert json.loads(given.read_bytes()) == there
    assert oct(given.stat().st_mode & 0o777) == "0o600"
    kept = {"kept": "away", "to": "file", "serial_there": None, "serial": there["serial"], "lineage": there["lineage"]}
    assert (await local.stack()).custody == kept
    assert (told["serial"], (await local.head()).epoch) == (there["serial"], 2)
    [row] = await local.audited("state.release")
    assert (row["target"], row["facts"]["reason"], row["facts"]["serial"]) == (STACK, "moves to another team", there["serial"])
    assert json.loads(local.cli("state", "pull", "dev/shop")) == there

    local.by_hand("apply", "-auto-approve", "-input=false", "-var=size=7")
    again = local.json("stack", "adopt", "dev/shop", "--from", str(file_of(local)))
    assert (again["serial_before"], again["serial"] > there["serial"]) == (there["serial"], True)
    assert (await local.stack()).config.released is False


@requirement("state:released")
async def test_a_state_is_given_back_to_the_declared_backend_which_has_all_of_it_then(it: Moved, elsewhere: str) -> None:
    await it.made(backend("pg", schema_name="shop", conn_str=elsewhere) + THINGS)
    file = it.folder / "first.tfstate"
    local = Moved(folder=it.folder / "first", engine=it.engine)
    await local.made(THINGS)
    local.apply_by_hand()
    file.write_bytes(file_of(local).read_bytes())
    it.cli("stack", "adopt", "dev/shop", "--from", str(file))

    told = it.json("stack", "release", "dev/shop", "--confirm", STACK)

    assert (told["to"], told["serial_there"]) == ("pg", None)
    it.by_hand("init", "-input=false")
    assert json.loads(it.by_hand("state", "pull"))["resources"] == json.loads(file.read_bytes())["resources"]
    given = (await it.stack()).custody["serial_given"]
    assert json.loads(it.by_hand("state", "pull"))["serial"] == given >= told["serial"]
    assert it.json("stack", "release", "dev/shop", "--confirm", STACK)["serial_there"] == given
    it.by_hand("apply", "-auto-approve", "-input=false", "-var=size=7")
    again = it.json("stack", "adopt", "dev/shop")
    assert (again["from"], again["serial"] > told["serial"]) == ("pg", True)


@requirement("state:released")
async def test_a_backend_that_holds_another_history_refuses_and_the_state_stays_here(tmp_path: Path, elsewhere: str) -> None:
    it = Moved(folder=tmp_path)
    await it.made(backend("pg", schema_name="shop", conn_str=elsewhere) + THINGS)
    it.apply_by_hand()
    theirs = json.loads(it.by_hand("state", "pull"))
    ours = it.folder / "ours.tfstate"
    ours.write_text(json.dumps({**theirs, "lineage": "ours"}))
    it.cli("stack", "adopt", "dev/shop", "--from", str(ours))
    before = (await it.stack()).custody

    assert "state push failed" in it.says("stack", "release", "dev/shop", "--confirm", STACK)

    assert (await it.stack()).custody == before
    assert json.loads(it.by_hand("state", "pull")) == theirs
    assert [row["outcome"] for row in await it.audited("state.release")] == ["ok", "failed"]


# -- Left where it is


@requirement("state:kept")
async def test_a_state_stays_where_it_is_once_somebody_typed_what_that_means_and_can_be_taken_over_later(it: Moved, elsewhere: str) -> None:
    await it.made(backend("pg", schema_name="shop") + THINGS, plan_credential="pg")
    it.cli("secret", "set", "pg", stdin=json.dumps({"PG_CONN_STR": elsewhere}).encode())
    it.apply_by_hand(PG_CONN_STR=elsewhere)
    there = json.loads(it.by_hand("state", "pull", PG_CONN_STR=elsewhere))

    assert "whole path" in it.says("stack", "keep", "dev/shop", code=5)
    assert (await it.stack()).custody == {}
    told = it.json("stack", "keep", "dev/shop", "--confirm", STACK, "--reason", "another team writes it too")

    assert (told["backend"], told["serial_there"], told["serial_before"], told["lineage"]) == ("pg", there["serial"], 0, there["lineage"])
    assert (await it.stack()).config.own
    assert (await it.stack()).custody == {"kept": "own", "backend": "pg", "serial_there": there["serial"], "lineage": there["lineage"]}
    [row] = await it.audited("state.keep")
    assert (row["by"].partition(":")[0], row["facts"]["reason"]) == ("person", "another team writes it too")
    assert json.loads(it.cli("state", "pull", "dev/shop")) == there  # as it was seen
    assert "in its own backend already" in it.says("stack", "release", "dev/shop", "--confirm", STACK)
    assert it.json("stack", "keep", "dev/shop", "--confirm", STACK)["serial_before"] == there["serial"]
    it.by_hand("apply", "-auto-approve", "-input=false", "-var=size=2", PG_CONN_STR=elsewhere)
    adopted = it.json("stack", "adopt", "dev/shop")
    assert (adopted["serial_before"], adopted["serial"] > there["serial"]) == (there["serial"], True)
    assert ((await it.stack()).config.own, (await it.stack()).config.adopted) == (False, True)
    assert "is kept here; give it back first: countersign stack release dev/shop" in it.says(
        "stack", "keep", "dev/shop", "--confirm", STACK
    )


@requirement("state:kept")
async def test_an_earlier_state_or_another_one_is_kept_only_where_somebody_says_so(tmp_path: Path, elsewhere: str) -> None:
    it = Moved(folder=tmp_path)
    await it.made(backend("pg", schema_name="shop", conn_str=elsewhere) + THINGS)
    it.apply_by_hand()
    it.by_hand("apply", "-auto-approve", "-input=false", "-var=size=2")
    keep = ["stack", "keep", "dev/shop", "--confirm", STACK]
    first = it.json(*keep)
    now = json.loads(it.by_hand("state", "pull"))
    (it.folder / "earlier.tfstate").write_text(json.dumps({**now, "serial": 0}))
    it.by_hand("state", "push", "-force", str(it.folder / "earlier.tfstate"))

    assert "what is there is an earlier one" in it.says(*keep)
    assert it.json(*keep, "--another")["serial_there"] < first["serial_there"]
    (it.source / "main.tf").write_text(backend("pg", schema_name="other", conn_str=elsewhere) + THINGS)
    assert "no common history" in it.says(*keep)
    assert it.json(*keep, "--another")["serial_there"] is None


# -- Backends of other kinds


@requirement("state:adopted", "state:released")
@pytest.mark.parametrize("kind", ["s3", "http"])
async def test_a_state_in_a_bucket_or_behind_a_server_is_taken_over_and_given_back(it: Moved, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "s3":
            bucket = stack.enter_context(running("s3"))
            block, given = s3_block(bucket.endpoint, use_lockfile=True), bucket.environment
        else:
            address = stack.enter_context(http_backend())
            block = backend("http", address=address, lock_address=address, unlock_address=address)
            given = {"TF_HTTP_USERNAME": "ana", "TF_HTTP_PASSWORD": "password-of-the-http-backend"}
        await it.made(block + THINGS, plan_credential="there", apply_credential="there")
        it.cli("secret", "set", "there", stdin=json.dumps(given).encode())
        it.apply_by_hand(**given)
        there = json.loads(it.by_hand("state", "pull", **given))

        told = it.json("stack", "adopt", "dev/shop")

        assert (told["from"], told["serial_there"], told["lineage"]) == (kind, there["serial"], there["lineage"])
        assert json.loads(it.cli("state", "pull", "dev/shop")) == there
        assert it.json("stack", "release", "dev/shop", "--confirm", STACK)["to"] == kind
        it.by_hand("apply", "-auto-approve", "-input=false", "-var=size=7", **given)
        assert it.json("stack", "adopt", "dev/shop")["serial"] > there["serial"]
