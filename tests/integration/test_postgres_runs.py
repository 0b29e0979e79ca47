"""Runs on one Postgres that several use at once, and that dies in the middle of them: nothing is lost, and nothing is done twice."""

import asyncio
import contextlib
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.store import audit, claim, keys, plans, records, requests, runs, secrets, turns
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.decide import decide
from countersign.adapters.store.runs import RunRow
from countersign.core.approval import ApproveInput
from countersign.core.digests import sha256
from countersign.core.errors import Conflict, CountersignError
from countersign.core.principal import Principal
from countersign.core.run import RUN_TYPES, RunState
from countersign.core.steps import Decided, DecideInput
from tests.integration.state_service import ORG, Attempt, Lab, document, lab, lock, serving
from tests.postgres import PASSWORD, Cluster, running
from tests.requirements import requirement
from tests.service import AGENT, ANA, BO, CY, Service, eventually, service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import launched, toy

pytestmark = pytest.mark.anyio
install()
ROUNDS = 5  # of every race; what loses one in ten thousand is not found here, what is not locked is


@pytest.fixture
async def it(client: Client, tmp_path: Path, postgres_url: str) -> AsyncIterator[Service]:
    engine = ToyEngine(tmp_path / "toy")
    engine.want(("a", "create"))
    async with service(client, tmp_path, engine, ui_approvals="trusted", database=postgres_url) as running_one:
        yield running_one


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[list[Store]]:
    """The same database as three processes have it open."""
    opened = [await Store.open(postgres_url) for _ in range(3)]
    yield opened
    for one in opened:
        await one.close()


async def at_once(*asked: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60))


async def chain_holds(store: Store) -> None:
    async with store.read() as conn:
        assert await audit.first_broken(conn, ORG) is None


# -- races between several of each


async def approved(it: Service, slug: str) -> tuple[RunRow, bytes]:
    """A run that was agreed to, on a stack of its own, and that no worker goes on with; and its stored plan."""
    run = await it.start(await it.stack(slug))
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    await it.stop_workers()
    given = ApproveInput(plan_digest=waiting.plan_digest or "", signed=it.signed(run.id, ANA, plan_digest=waiting.plan_digest))
    asked = DecideInput(org=it.org, run_id=run.id, approve=given, nonce=f"n-{slug}")
    await decide(it.store, asked, policy=it.settings.effective_policy, trust="off", verify=it.keyring.verify)
    async with it.store.read() as conn:
        plan = await plans.get_plan(conn, it.org, run.id)
        assert plan is not None
        ref = next(a for a in plan.summary.artifacts if a.kind == "plan_bundle")
        return await it.run(run.id), await it.artifacts.read(conn, org=it.org, artifact_id=ref.id)


@requirement("postgres:two-of-each", "I3")
async def test_of_claims_that_race_one_gets_the_credential(it: Service, stores: list[Store]) -> None:
    for number in range(ROUNDS):
        run, bundle = await approved(it, f"s{number}")
        ask = functools.partial(
            claim.claim,
            org=it.org,
            run_id=run.id,
            plan_digest=run.plan_digest or "",
            bundle_sha256=sha256(bundle),
            policy=it.settings.effective_policy,
            boot_id="b",
        )

        found = await at_once(*(ask(store, host=f"h{n}") for n, store in enumerate(stores * 3)))

        assert Counter(type(one).__name__ for one in found) == {"Claimed": 1, "Existing": 8}
        assert len({one.attempt.id for one in found}) == 1
        async with it.store.read() as conn:
            assert len(await plans.attempts_of(conn, it.org, run.id)) == 1
        await it.start_workers()
    await chain_holds(it.store)


@requirement("postgres:two-of-each", "bad:racing-approvals")
async def test_of_decisions_that_race_each_counts_once_and_the_run_is_approved_once(it: Service, stores: list[Store]) -> None:
    for number in range(ROUNDS):
        run = await it.start(await it.stack(f"s{number}"))
        waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
        await it.stop_workers()

        def say(store: Store, by: Principal, nonce: str, run: RunRow = waiting) -> Awaitable[Decided]:
            signed = it.signed(run.id, by, plan_digest=run.plan_digest, nonce=nonce)
            asked = DecideInput(
                org=it.org, run_id=run.id, approve=ApproveInput(plan_digest=run.plan_digest or "", signed=signed), nonce=f"{nonce}-u"
            )
            return decide(store, asked, policy=it.settings.effective_policy, trust="off", verify=it.keyring.verify)

        people = [(ANA, f"ana-{number}"), (BO, f"bo-{number}"), (CY, f"cy-{number}")]
        found = await at_once(*(say(store, *who) for store in stores for who in people))

        assert [one for one in found if isinstance(one, BaseException)] == []
        assert Counter(one.accepted for one in found) == {True: 3, False: 6}  # one of the people, by each of three fronts
        rows = await it.decisions(run.id)
        assert Counter(row.accepted for row in rows) == {True: 1, False: 2}
        async with it.store.read() as conn:
            moves = [e.state for e in await runs.run_events(conn, it.org, run.id) if e.kind == "state"]
        assert moves.count(RunState.APPROVED) == 1
        await it.start_workers()
        await it.runs.wake(run.id)
        await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["a create"] * ROUNDS
    await chain_holds(it.store)


@requirement("postgres:two-of-each")
async def test_of_runs_that_race_for_a_turn_one_holds_it_and_the_places_are_all_different(stores: list[Store]) -> None:
    for number in range(ROUNDS):
        stack_id = f"st_{number}"

        async def take(store: Store, run_id: str, stack_id: str = stack_id) -> int:
            async with store.begin() as tx:
                return (await turns.take(tx, org=ORG, stack_id=stack_id, run_id=run_id, by=ANA.id, at=stamp(store.now()))).position

        places = await at_once(*(take(store, f"run_{n}") for n, store in enumerate(stores * 3)))

        assert sorted(places) == list(range(9))


@requirement("postgres:two-of-each", "promise:asking-twice")
async def test_the_same_request_by_several_fronts_at_once_is_one_run(stores: list[Store]) -> None:
    source = {"repo": None, "path": "demo", "git_ref": None}
    stack = (await records.register_stack(stores[0], org=ORG, env="dev", slug="demo", source=source, by=ANA)).row.config

    def ask(store: Store, key: str | None, size: str) -> Awaitable[requests.Requested]:
        return requests.request_run(
            store,
            requests.Draft(run_type=RUN_TYPES["apply_toy"], stack=stack, arguments={"vars": {"size": size}}),
            org=ORG,
            principal=AGENT,
            key=key,
            message=None,
        )

    for number in range(ROUNDS):
        keyed = await at_once(*(ask(store, f"intent-{number}", "small") for store in stores * 3))
        joined = await at_once(*(ask(store, None, f"size-{number}") for store in stores * 3))

        for found, again in ((keyed, "replayed"), (joined, "joined")):
            assert len({one.run_id for one in found}) == 1
            assert Counter(getattr(one, again) for one in found) == {False: 1, True: 8}
    await chain_holds(stores[0])


@requirement("postgres:two-of-each")
async def test_records_that_are_changed_at_once_are_changed_one_after_the_other(stores: list[Store], tmp_path: Path) -> None:
    keyring = Keyring.open(tmp_path, role="all")

    def register(store: Store, expected: int, slug: str) -> Awaitable[records.Registered]:
        source = {"repo": None, "path": slug, "git_ref": None}
        return records.register_stack(store, org=ORG, env="dev", slug="demo", source=source, by=ANA, expected_version=expected)

    for number in range(ROUNDS):
        found = await at_once(*(register(store, number, f"p{number}-{n}") for n, store in enumerate(stores * 2)))
        assert Counter(type(one).__name__ for one in found) == {"Registered": 1, "Conflict": 5}
        assert all(isinstance(one, Conflict) for one in found if isinstance(one, BaseException))
        put = [secrets.put(store, keyring, org=ORG, slug="db", value=f"v{number}-{n}", by=ANA) for n, store in enumerate(stores)]
        assert sorted(row.version for row in await at_once(*put)) == [number * 3 + 1, number * 3 + 2, number * 3 + 3]
    await chain_holds(stores[0])


@requirement("postgres:two-of-each")
async def test_the_audit_chain_is_one_whoever_appends_to_it(stores: list[Store]) -> None:
    made = await at_once(*(keys.create_key(store, org=ORG, principal=ANA, role="admin", by=ANA) for store in stores * 20))

    assert [one for one in made if isinstance(one, BaseException)] == []
    await chain_holds(stores[0])
    async with stores[0].read() as conn:
        rows = (await conn.execute(audit.audit.select().order_by(audit.audit.c.seq))).all()
    assert [row.seq for row in rows] == list(range(1, 61))


# -- two state services


@pytest.fixture
async def two(tmp_path: Path, postgres_url: str) -> AsyncIterator[tuple[Lab, str]]:
    """A state service, and the address of a second one that has the database open by itself."""
    async with lab(tmp_path, database=postgres_url) as first:
        store = await Store.open(postgres_url)
        async with serving(store, Artifacts(store, Keyring.open(tmp_path, role="state"), tmp_path / "artifacts")) as second:
            yield first, second
        await store.close()


@requirement("postgres:two-of-each", "I2")
async def test_of_locks_and_writes_that_race_on_two_state_services_one_is_given(two: tuple[Lab, str]) -> None:
    for _ in range(ROUNDS):
        it = two[0].on()
        here = await it.attempt()
        there = Attempt(it.client, it.address.replace(it.url, two[1]), here.id, here.password)
        asked = [lock() for _ in range(8)]

        answers = await at_once(*([here, there][n % 2].lock(one) for n, one in enumerate(asked)))
        assert sorted(a.status_code for a in answers) == [200] + [423] * 7
        holder = next(one for one, a in zip(asked, answers, strict=True) if a.status_code == 200)
        writes = await at_once(*([here, there][n % 2].post(document(1, marker=f"m{n}"), holder["ID"]) for n in range(8)))
        assert sorted(a.status_code for a in writes) == [200] + [409] * 7
        assert await it.serials() == [1]


@requirement("postgres:two-of-each", "state:fencing")
async def test_a_write_that_races_its_fence_is_stored_before_it_or_refused(two: tuple[Lab, str]) -> None:
    outcomes: Counter[int] = Counter()
    for _ in range(3 * ROUNDS):
        it = two[0].on()
        writer, taken = await it.attempt(is_open=True), lock()
        there = Attempt(it.client, it.address.replace(it.url, two[1]), writer.id, writer.password)
        await there.lock(taken)

        async def fenced(it: Lab = it) -> int | None:
            """The serial that the state has for good, as whoever fenced it saw it."""
            await it.fence()
            return (await it.head()).serial

        answer, serial = await at_once(there.post(document(1), taken["ID"]), fenced())

        outcomes[answer.status_code] += 1
        assert (answer.status_code, serial) in ((200, 1), (403, 0)), answer.text
        assert await it.serials() == [1] * serial
    assert set(outcomes) <= {200, 403}


# -- a database that dies


@pytest.fixture(scope="module")
def victim() -> Iterator[Cluster]:
    with running() as made:
        yield made


@pytest.fixture
async def mortal(client: Client, tmp_path: Path, victim: Cluster) -> AsyncIterator[Service]:
    """A service on a database that the test kills."""
    if victim.pid is None:
        victim.start()
    engine = ToyEngine(tmp_path / "toy")
    engine.want(("a", "create"))
    async with service(client, tmp_path, engine, ui_approvals="trusted", database=victim.migrated()) as made:
        try:
            yield made
        finally:
            if victim.pid is None:
                victim.start()


async def failures(it: Service, run_id: str) -> int:
    """How often a step of the run has failed, the tries of one that is still tried among them."""
    handle = it.client.get_workflow_handle(run_id)
    history, described = await handle.fetch_history(), await handle.describe()
    failed = sum(event.HasField("activity_task_failed_event_attributes") for event in history.events)
    return failed + sum(a.attempt - 1 for a in described.raw_description.pending_activities)


async def fails(it: Service, run_id: str, more_than: int = 0) -> None:
    async def failed() -> bool:
        return await failures(it, run_id) > more_than

    await eventually(failed, "a step to hear that the database is away")


@requirement("postgres:restart", "bad:database-restarted")
async def test_a_database_that_dies_while_a_plan_is_made_delays_its_record(mortal: Service, victim: Cluster) -> None:
    it, made = mortal, toy(mortal).plan

    async def dying(job: Any, beat: Any) -> Any:
        planned = await made(job, beat)
        if victim.pid is not None and not (toy(it).root / "died").exists():
            (toy(it).root / "died").touch()
            victim.kill()
        return planned

    it.engine.plan = dying  # type: ignore[method-assign]
    run = await it.start(await it.stack())
    await fails(it, run.id)
    victim.start()

    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))
    done = await it.reaches(run.id, RunState.APPLIED)
    assert done.plan_number == 1
    assert toy(it).world == ["a create"]
    await chain_holds(it.store)


@requirement("postgres:restart", "bad:database-restarted", "I3")
async def test_a_database_that_dies_in_the_middle_of_a_claim_has_claimed_nothing(
    mortal: Service, victim: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, append = mortal, audit.append
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)

    async def dying(tx: Any, **row: Any) -> int:
        if row["action"] == "run.claim" and not (toy(it).root / "died").exists():
            (toy(it).root / "died").touch()
            victim.kill()  # attempt, epoch and credential are written, and not committed
        return await append(tx, **row)

    monkeypatch.setattr(audit, "append", dying)
    await it.approve(waiting)
    await fails(it, run.id)
    victim.start()
    assert (await it.run(run.id)).state is RunState.APPROVED
    assert toy(it).launched == []
    await it.runs.wake(run.id)

    await it.reaches(run.id, RunState.APPLIED)
    assert len(toy(it).launched) == 1
    async with it.store.read() as conn:
        assert [a.outcome for a in await plans.attempts_of(conn, it.org, run.id)] == ["applied"]
    await chain_holds(it.store)


@requirement("postgres:restart", "bad:database-restarted", "I3")
async def test_a_claim_whose_answer_was_lost_is_found_and_nothing_is_applied_without_its_credential(
    mortal: Service, victim: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, real = mortal, claim.claim

    async def unheard(*given: Any, **named: Any) -> Any:
        await real(*given, **named)
        raise CountersignErrorOnce("the database closed the connection")

    class CountersignErrorOnce(CountersignError):
        code, retryable = "unavailable", True

    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    monkeypatch.setattr(claim, "claim", unheard)
    await it.approve(waiting)

    ended = await it.reaches(run.id, RunState.ERRORED)
    assert ended.reason == "the apply never started"
    assert toy(it).launched == [] and toy(it).world == []
    async with it.store.read() as conn:
        assert [a.outcome for a in await plans.attempts_of(conn, it.org, run.id)] == ["errored"]


@requirement("postgres:restart", "bad:database-restarted")
async def test_a_database_that_dies_in_mid_apply_delays_its_record_and_nothing_is_applied_twice(mortal: Service, victim: Cluster) -> None:
    it = mortal
    toy(it).hold_applies = True
    run = await it.start(await it.stack())
    await it.approve(await it.reaches(run.id, RunState.AWAITING_APPROVAL))

    folder = await launched(it)
    victim.kill()
    (folder / "go").touch()
    await fails(it, run.id)
    with pytest.raises(CountersignError) as away:
        await it.run(run.id)
    victim.start()

    assert away.value.code == "unavailable" and PASSWORD not in str(away.value)
    await it.reaches(run.id, RunState.APPLIED)
    assert toy(it).world == ["a create"]
    assert len(toy(it).launched) == 1
    await chain_holds(it.store)


@requirement("postgres:restart", "bad:database-restarted")
async def test_a_decision_while_the_database_is_away_is_recorded_when_it_is_back_and_once(
    mortal: Service, victim: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, begin, tries = mortal, mortal.store.begin, list[float]()
    run = await it.start(await it.stack())
    waiting = await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    monkeypatch.setattr(it.store, "begin", lambda: (tries.append(time.monotonic()), begin())[1])
    victim.kill()
    deciding = asyncio.create_task(it.approve(waiting))

    async def tried_again() -> bool:
        return len(tries) > 1

    await eventually(tried_again, "the decision to be tried again")
    assert not deciding.done()
    victim.start()

    assert (await asyncio.wait_for(deciding, 60)).accepted
    await it.reaches(run.id, RunState.APPLIED)
    assert [(d.by.id, d.accepted) for d in await it.decisions(run.id)] == [("person:ana", True)]


@requirement("postgres:restart")
async def test_the_state_service_says_503_while_its_database_is_away_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    with running() as cluster:
        async with lab(tmp_path, database=cluster.migrated()) as it:
            writer, taken = await it.attempt(), lock()
            await writer.lock(taken)
            assert (await writer.post(document(1), taken["ID"])).status_code == 200
            cluster.kill()

            away = await writer.post(document(2), taken["ID"])
            ready = await it.client.get(f"{it.url}/readyz")
            cluster.start()
            back = await writer.post(document(2), taken["ID"])

            assert (away.status_code, away.headers["Retry-After"], ready.status_code) == (503, "1", 503)
            assert PASSWORD not in away.text
            assert back.status_code == 200
            assert await it.serials() == [2, 1]


@requirement("postgres:bounded")
async def test_the_state_service_answers_in_time_where_its_database_hangs(tmp_path: Path) -> None:
    with running() as cluster:
        async with lab(tmp_path, database=cluster.migrated(), answer_within=0.5) as it:
            writer, taken = await it.attempt(), lock()
            await writer.lock(taken)
            cluster.freeze()
            began = time.monotonic()
            with contextlib.ExitStack() as at_the_end:
                at_the_end.callback(cluster.thaw)
                answer = await writer.post(document(1), taken["ID"])

            assert answer.status_code == 503
            assert time.monotonic() - began < 5

            async def stored() -> bool:
                return (await writer.post(document(1), taken["ID"])).status_code == 200

            await eventually(stored, "the state to be stored after all")
            assert await it.serials() == [1]
