"""Artifacts in a bucket: sealed as in a folder, and a bucket that is away costs time and never an apply without its stored plan."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import pytest
from temporalio.client import Client

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import Bucket
from countersign.adapters.store.database import Store
from countersign.core.errors import FailedPrecondition, InvalidArgument, Unavailable
from countersign.core.run import RunState
from tests.buckets import SECRET, Buckets, running
from tests.requirements import requirement
from tests.service import Service, eventually, service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import launched, toy

pytestmark = pytest.mark.anyio
install()
FACTS = {"org": "local", "stack_id": "st_1", "run_id": "run_1", "readable": False, "kind": "state"}
STATE = b'{"version": 4, "serial": 7, "lineage": "l", "outputs": {"secret": "hunter2hunter2"}}'


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Buckets]:
    kind: Literal["s3", "gs"] = request.param
    with running(kind) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Buckets]:
    with running() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'countersign.db'}")
    yield opened
    await opened.close()


def kept(store: Store, folder: Path, at: Buckets) -> Artifacts:
    return Artifacts(store, Keyring.open(folder, role="state"), Bucket(at.url, endpoint=at.endpoint))


@requirement("artifacts:bucket")
async def test_what_was_put_into_a_bucket_is_read_back_and_lies_there_sealed(store: Store, tmp_path: Path, bucket: Buckets) -> None:
    artifacts = kept(store, tmp_path, bucket)
    large = b"x" * (12 << 20)  # in several parts
    written = [await artifacts.write(**FACTS, name="state-1", data=STATE), await artifacts.write(**FACTS, name="state-2", data=large)]
    async with store.begin() as tx:
        await artifacts.record(tx, *written)
    unknown = await artifacts.write(**FACTS, name="state-3", data=b"{}")

    async with store.read() as conn:
        assert [await artifacts.read(conn, org="local", artifact_id=one.id) for one in written] == [STATE, large]
        assert await artifacts.unknown(conn, "state") == [unknown]
    lying = bucket.bytes_of_all()
    assert len(lying) > 12 << 20
    assert b"hunter2" not in lying
    assert not (tmp_path / "artifacts").exists()


@requirement("artifacts:bucket")
async def test_an_object_that_is_gone_is_told_apart_from_a_bucket_that_is(store: Store, tmp_path: Path, bucket: Buckets) -> None:
    artifacts = kept(store, tmp_path, bucket)
    one = await artifacts.write(**FACTS, name="state-1", data=STATE)
    bucket.remove(f"local/st_1/{one.id}" if bucket.kind == "s3" else f"local%2Fst_1%2F{one.id}")

    with pytest.raises(FailedPrecondition, match="are gone from the artifact store"):
        await artifacts.content(one)
    elsewhere = Artifacts(store, Keyring.open(tmp_path, role="state"), Bucket(f"{bucket.kind}://nobodys/of", endpoint=bucket.endpoint))
    with pytest.raises(Unavailable, match=f"there is no bucket {bucket.kind}://nobodys/of"):
        await elsewhere.content(one)
    with pytest.raises(Unavailable, match=f"there is no bucket {bucket.kind}://nobodys/of"):
        await elsewhere.write(**FACTS, name="state-2", data=STATE)


@requirement("artifacts:bucket", "promise:no-secrets")
async def test_a_bucket_that_is_away_or_hangs_is_unavailable_in_time_and_no_credential_is_told(
    store: Store, tmp_path: Path, s3: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("countersign.adapters.objects.PATIENCE", {"connect_timeout": "1s", "read_timeout": "1s", "timeout": "5s"})
    artifacts = kept(store, tmp_path, s3)
    one = await artifacts.write(**FACTS, name="state-1", data=STATE)
    told = []

    s3.leave()
    for ask in (artifacts.write(**FACTS, name="state-2", data=STATE), artifacts.content(one)):
        with pytest.raises(Unavailable) as refused:
            await ask
        told.append(str(refused.value))
    s3.come_back()
    with s3.frozen():
        began = time.monotonic()
        with pytest.raises(Unavailable) as refused:
            await artifacts.content(one)
        assert time.monotonic() - began < 20
        told.append(str(refused.value))

    assert await artifacts.content(one) == STATE
    assert all(s3.url in text for text in told)
    assert not any(word in text for text in told for word in (SECRET, "AKIATESTS", "Signature", "http://"))


@pytest.mark.parametrize(
    "url", ["s3://user:secret-word@bucket/x", "https://bucket", "s3://b", "s3://bucket/a?versionId=1", "s3://bucket/../x"]
)
def test_what_is_no_bucket_is_refused_without_quoting_it(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from countersign.adapters.settings import load

    monkeypatch.setenv("COUNTERSIGN_ARTIFACTS", url)
    with pytest.raises(InvalidArgument) as refused:
        load(tmp_path)

    assert "write s3://BUCKET/PREFIX or gs://BUCKET/PREFIX" in str(refused.value)
    assert "secret-word" not in str(refused.value)


# -- runs


@pytest.fixture
async def on_bucket(client: Client, tmp_path: Path, s3: Buckets) -> AsyncIterator[Service]:
    engine = ToyEngine(tmp_path / "toy")
    engine.want(("a", "create"))
    where = {"artifacts": s3.url, "artifacts_endpoint": s3.endpoint}
    async with service(client, tmp_path, engine, ui_approvals="trusted", **where) as made:
        yield made


async def tries(it: Service, run_id: str, step: str) -> int:
    """How often Temporal has tried the step it tries now."""
    described = await it.client.get_workflow_handle(run_id).describe()
    return max((a.attempt for a in described.raw_description.pending_activities if a.activity_type.name == step), default=0)


@requirement("artifacts:bucket", "bad:bucket-away")
async def test_a_bucket_that_is_away_at_the_plan_delays_it_and_no_plan_counts_before(on_bucket: Service, s3: Buckets) -> None:
    it = on_bucket
    s3.leave()
    run = await it.start(await it.stack())

    async def again() -> bool:
        return await tries(it, run.id, "toy.plan") > 1

    await eventually(again, "the plan to be tried again")
    assert (await it.run(run.id)).state is RunState.PLANNING
    assert (await it.run(run.id)).plan_digest is None
    s3.come_back()

    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["a create"]


@requirement("artifacts:bucket", "bad:bucket-away")
async def test_a_bucket_that_is_away_at_the_claim_claims_nothing_until_it_is_back(on_bucket: Service, s3: Buckets) -> None:
    it = on_bucket
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    s3.leave()
    await it.approve(waiting)

    async def refused() -> bool:
        history = await it.client.get_workflow_handle(run.id).fetch_history()
        return any(event.HasField("activity_task_failed_event_attributes") for event in history.events)

    await eventually(refused, "the apply to find no plan")
    assert (await it.run(run.id)).state is RunState.APPROVED
    assert toy(it).launched == []
    s3.come_back()
    await it.runs.wake(run.id)

    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["a create"]
    assert len(toy(it).launched) == 1


@requirement("artifacts:bucket", "bad:bucket-away")
async def test_a_bucket_that_is_away_when_an_apply_ends_delays_its_record(on_bucket: Service, s3: Buckets) -> None:
    it = on_bucket
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))

    folder = await launched(it)
    s3.leave()
    (folder / "go").touch()

    async def followed_again() -> bool:
        return await tries(it, run.id, "toy.follow") > 1

    await eventually(followed_again, "the end to be recorded again and again")
    assert (await it.run(run.id)).state is RunState.APPLYING
    s3.come_back()

    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["a create"]
