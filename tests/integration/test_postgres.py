"""The store on Postgres: its schema, who is told of changes, what a dead or slow database means, and that no password is told."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError

from countersign.adapters.settings import Settings
from countersign.adapters.store import keys, postgres
from countersign.adapters.store.database import MIGRATIONS, SCHEMA_HEAD, Store, migrate
from countersign.adapters.store.schema import metadata
from countersign.adapters.store.watch import Watch
from countersign.core.errors import CountersignError, FailedPrecondition, InvalidArgument, Unavailable
from countersign.core.principal import Kind, Principal
from tests.postgres import PASSWORD, Cluster, running
from tests.requirements import requirement
from tests.service import eventually

pytestmark = pytest.mark.anyio
ANA = Principal(id="person:ana", kind=Kind.PERSON)


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[Store]:
    opened = await Store.open(postgres_url)
    yield opened
    await opened.close()


async def counting(store: Store) -> None:
    async with store.begin() as tx:
        await tx.execute(text("CREATE TABLE IF NOT EXISTS counter (n INTEGER NOT NULL)"))
        await tx.execute(text("DELETE FROM counter"))
        await tx.execute(text("INSERT INTO counter VALUES (0)"))


async def counted(store: Store) -> int:
    async with store.read() as conn:
        return int((await conn.execute(text("SELECT n FROM counter"))).scalar_one())


async def event(store: Store, run_id: str, kind: str = "progress") -> int:
    values = {"run": run_id, "kind": kind}
    query = "INSERT INTO events (org_id, run_id, at, kind, state, body) VALUES ('local', :run, '', :kind, 'planning', '{}') RETURNING n"
    async with store.begin() as tx:
        return int((await tx.execute(text(query), values)).scalar_one())


# -- the schema


@requirement("postgres:schema")
def test_the_migrations_make_the_schema_of_the_code_and_go_back_and_forth(cluster: Cluster) -> None:
    url = cluster.url(cluster.create())
    migrate(url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    command.downgrade(config, "0001")
    command.upgrade(config, "head")

    engine = create_engine(url)
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    engine.dispose()
    assert found == []
    cluster.drop(url)


@requirement("postgres:schema")
async def test_of_parts_that_start_at_once_on_an_empty_database_one_migrates_and_all_find_the_schema(cluster: Cluster) -> None:
    url = cluster.url(cluster.create())

    opened = await asyncio.gather(*(Store.open(url) for _ in range(5)))

    for one in opened:
        async with one.read() as conn:
            assert (await conn.execute(text("SELECT count(*) FROM runs"))).scalar_one() == 0
        await one.close()
    assert await asyncio.to_thread(postgres.version, url) == SCHEMA_HEAD
    cluster.drop(url)


@requirement("postgres:schema", "bad:newer-data-folder")
async def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(cluster: Cluster) -> None:
    url = cluster.migrated()
    name = url.rsplit("/", 1)[1]
    cluster.execute("UPDATE alembic_version SET version_num = '9999'", database=name)

    with pytest.raises(FailedPrecondition, match="written by a newer Countersign"):
        await Store.open(url)

    assert cluster.execute("SELECT version_num FROM alembic_version", database=name) == [("9999",)]
    cluster.drop(url)


@requirement("postgres:schema")
async def test_a_user_who_may_not_make_tables_is_told_of_migrate_and_works_after_it(cluster: Cluster) -> None:
    owner = cluster.url(cluster.create())
    name = owner.rsplit("/", 1)[1]
    cluster.execute(f"CREATE ROLE app_{name} LOGIN PASSWORD 'app'; GRANT CONNECT ON DATABASE {name} TO app_{name}")
    limited = owner.replace(f"countersign:{PASSWORD}", f"app_{name}:app")

    with pytest.raises(FailedPrecondition, match="run `countersign migrate` as one who may"):
        await Store.open(limited)
    migrate(owner)
    cluster.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_{name}; "
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app_{name}",
        database=name,
    )
    store = await Store.open(limited)
    await keys.create_key(store, org="local", principal=ANA, role="admin", by=ANA)
    await store.close()
    cluster.drop(owner)


# -- how it is named and what is told of it


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param((PASSWORD, "wrong-word-9"), "does not accept that user or password", id="wrong password"),
        pytest.param(("countersign:", "nobody:"), "does not accept that user or password", id="unknown user"),
        pytest.param(("/postgres", "/nothing-there"), "there is no such database: create it first", id="unknown database"),
        pytest.param(("127.0.0.1", "no-such-host.invalid"), "does not answer", id="unknown host"),
    ],
)
@requirement("postgres:password")
async def test_what_cannot_be_opened_says_why_and_never_with_the_password(cluster: Cluster, change: tuple[str, str], told: str) -> None:
    url = cluster.url("postgres").replace(*change)

    with pytest.raises((FailedPrecondition, Unavailable)) as refused:
        await Store.open(url)

    assert told in str(refused.value)
    assert PASSWORD not in repr(refused.value) and "wrong-word-9" not in repr(refused.value)


@pytest.mark.parametrize("url", ["mysql://a:hidden-word@h/d", "postgresql:/h", "hidden-word", "postgresql+asyncpg://a:hidden-word@h/d"])
@requirement("postgres:password")
def test_what_is_no_database_is_refused_without_quoting_it(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from countersign.adapters.settings import load

    monkeypatch.setenv("COUNTERSIGN_DATABASE", url)
    with pytest.raises(InvalidArgument) as refused:
        load(tmp_path)

    assert "write postgresql://USER@HOST/DATABASE" in str(refused.value)
    assert "hidden-word" not in str(refused.value)


@requirement("postgres:password")
def test_settings_do_not_show_the_password_when_they_are_shown(tmp_path: Path) -> None:
    assert PASSWORD not in repr(Settings(data=tmp_path, database=f"postgresql://u:{PASSWORD}@h/d"))


# -- one after the other


async def count(store: Store) -> None:
    async with store.begin() as tx:
        before = (await tx.execute(text("SELECT n FROM counter"))).scalar_one()
        await asyncio.sleep(0)
        await tx.execute(text("UPDATE counter SET n = :n"), {"n": before + 1})


@requirement("postgres:serial")
async def test_what_a_transaction_read_is_still_true_when_it_writes(store: Store, postgres_url: str) -> None:
    await counting(store)
    other = await Store.open(postgres_url)

    await asyncio.wait_for(asyncio.gather(*(count(one) for one in [store, other] * 50)), 60)

    assert await counted(store) == 100
    await other.close()


@requirement("postgres:serial")
async def test_a_reader_that_follows_the_events_misses_none_whatever_commits_when(store: Store, postgres_url: str) -> None:
    other, seen, done = await Store.open(postgres_url), list[int](), asyncio.Event()

    async def follow() -> None:
        cursor = 0
        while True:
            last = done.is_set()
            async with store.read() as conn:
                rows = (await conn.execute(text("SELECT n FROM events WHERE n > :n ORDER BY n"), {"n": cursor})).scalars().all()
            seen.extend(rows)
            cursor = seen[-1] if seen else 0
            if last:
                return

    async def write(one: Store, number: int) -> None:
        async with one.begin() as tx:
            query = "INSERT INTO events (org_id, run_id, at, kind, state, body) VALUES ('local', 'r', '', 'progress', 'planning', '{}')"
            await tx.execute(text(query))
            if number % 3 == 0:
                await asyncio.sleep(0.005)  # it commits later than it numbered
            if number % 7 == 0:
                await tx.rollback()  # and leaves a gap

    following = asyncio.create_task(follow())
    await asyncio.wait_for(asyncio.gather(*(write([store, other][n % 2], n) for n in range(90))), 60)
    done.set()
    await asyncio.wait_for(following, 20)

    async with store.read() as conn:
        there = (await conn.execute(text("SELECT n FROM events ORDER BY n"))).scalars().all()
    assert seen == list(there)
    assert len(seen) == 77
    await other.close()


@requirement("postgres:serial")
async def test_reads_of_one_look_belong_together_and_a_look_cannot_write(store: Store) -> None:
    await counting(store)
    async with store.read() as conn:
        assert (await conn.execute(text("SELECT n FROM counter"))).scalar_one() == 0
        await count(store)
        assert (await conn.execute(text("SELECT n FROM counter"))).scalar_one() == 0

    with pytest.raises(Unavailable, match="only reads"):
        async with store.read() as conn:
            await conn.execute(text("UPDATE counter SET n = 7"))

    assert await counted(store) == 1


@requirement("postgres:bounded")
async def test_a_writer_that_stops_in_mid_transaction_loses_it_and_the_others_go_on(
    store: Store, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await counting(store)
    monkeypatch.setattr(postgres, "IDLE_INSIDE", 1)
    stopped = await Store.open(postgres_url)

    with pytest.raises(Unavailable) as lost:
        async with stopped.begin() as tx:
            await tx.execute(text("UPDATE counter SET n = 7"))
            await asyncio.wait_for(count(store), 8)  # waits for its turn until that one has lost it
            await tx.execute(text("UPDATE counter SET n = 8"))

    assert lost.value.retryable
    assert await counted(store) == 1
    await stopped.close()


@requirement("postgres:bounded")
async def test_nobody_waits_for_a_writer_without_end(store: Store, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await counting(store)
    monkeypatch.setattr(postgres, "LOCKED_FOR", 1)
    hurried = await Store.open(postgres_url)

    async with store.begin() as tx:
        await tx.execute(text("UPDATE counter SET n = 1"))
        began = time.monotonic()
        with pytest.raises(Unavailable, match="somebody else writes for too long"):
            await count(hurried)
        assert time.monotonic() - began < 5
        assert await counted(hurried) == 0  # readers do not wait
    await count(hurried)

    assert await counted(store) == 2
    await hurried.close()


@requirement("postgres:bounded")
async def test_writers_who_give_up_leave_no_lock_behind(store: Store) -> None:
    await counting(store)
    for _ in range(8):
        tasks = [asyncio.create_task(count(store)) for _ in range(6)]
        await asyncio.sleep(0.002)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    before = await counted(store)

    await asyncio.wait_for(count(store), 5)

    assert await counted(store) == before + 1


async def test_a_text_no_database_keeps_is_the_callers_to_mend(store: Store) -> None:
    with pytest.raises(InvalidArgument, match="too long for the store"):
        await event(store, "x" * 50)


async def test_a_text_with_nul_is_kept_and_shows_that_something_stood_there(store: Store) -> None:
    await event(store, "run_1", kind="a\0b")

    async with store.read() as conn:
        assert (await conn.execute(text("SELECT kind FROM events WHERE kind = :kind"), {"kind": "a\0b"})).scalars().all() == ["a\ufffdb"]


async def test_a_rule_of_the_schema_that_is_broken_is_a_mistake_of_ours_and_not_passing_trouble(store: Store) -> None:
    with pytest.raises(IntegrityError) as broken:
        async with store.begin() as tx:
            await tx.execute(text("INSERT INTO secrets (org_id) VALUES (:canary)"), {"canary": "canary-value"})

    assert "canary-value" not in str(broken.value).partition("DETAIL")[0]


# -- who waits is told


@requirement("postgres:told")
async def test_who_waits_is_told_of_an_event_of_another_process_and_not_of_other_commits(store: Store, postgres_url: str) -> None:
    other, watch = await Store.open(postgres_url), Watch(store)
    seen = watch.seen
    while await watch.changed(after=seen, timeout=0.5):  # listening begins with a look
        seen = watch.seen

    waiting = asyncio.create_task(watch.changed(after=seen, timeout=20, run="run_1"))
    await keys.create_key(other, org="local", principal=ANA, role="admin", by=ANA)
    await event(other, "run_2")
    assert await watch.changed(after=seen, timeout=20)
    assert not waiting.done()
    began = time.monotonic()
    await event(other, "run_1")

    assert await waiting
    assert time.monotonic() - began < 2
    await watch.close()
    await other.close()


@requirement("postgres:told", "postgres:restart")
async def test_who_waits_through_a_restart_looks_again_and_is_told_afterwards() -> None:
    with running() as cluster:
        store = await Store.open(cluster.migrated())
        watch = Watch(store)
        assert await watch.changed(after=watch.seen, timeout=20)
        seen = watch.seen
        cluster.kill()

        assert await watch.changed(after=seen, timeout=20)  # and what it reads then says that nobody answers
        cluster.start()
        seen = watch.seen
        await event(store, "run_1")
        while await watch.changed(after=seen, timeout=20):
            seen = watch.seen
            async with store.read() as conn:
                if (await conn.execute(text("SELECT max(n) FROM events"))).scalar_one():
                    break
        else:
            pytest.fail("nobody was told")
        await watch.close()
        await store.close()


# -- a database that goes away


@requirement("postgres:restart")
async def test_a_database_that_goes_away_is_unavailable_and_half_a_transaction_is_none() -> None:
    with running() as cluster:
        store = await Store.open(cluster.migrated())
        await counting(store)

        with pytest.raises(Unavailable) as lost:
            async with store.begin() as tx:
                await tx.execute(text("UPDATE counter SET n = 7"))
                cluster.kill()
                await tx.execute(text("UPDATE counter SET n = 8"))
        with pytest.raises(Unavailable) as away:
            await counted(store)
        cluster.start()

        assert lost.value.retryable and away.value.retryable
        assert PASSWORD not in f"{lost.value!r}{away.value!r}"
        assert await counted(store) == 0  # the pool's dead connections cost nobody an error
        await count(store)
        cluster.stop()  # in order, as an upgrade does
        cluster.start()
        await asyncio.gather(*(count(store) for _ in range(5)))
        assert await counted(store) == 6
        await store.close()


@requirement("postgres:restart")
async def test_a_standby_that_only_reads_is_unavailable_to_writers() -> None:
    with running() as cluster:
        url = cluster.migrated()
        cluster.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        cluster.execute("SELECT pg_reload_conf()")
        store = await Store.open(url)

        async def refused() -> Any:
            try:
                await keys.create_key(store, org="local", principal=ANA, role="admin", by=ANA)
            except CountersignError as error:
                return error
            return None

        error = await eventually(refused, "the database to only read")
        assert isinstance(error, Unavailable) and "only reads" in error.message
        await store.close()


def test_the_driver_is_loaded_only_where_there_is_postgres(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = (
        "import asyncio, sys\nfrom countersign.adapters.store.database import Store\n"
        f"asyncio.run(Store.open('sqlite+aiosqlite:///{tmp_path}/x.db'))\nprint('psycopg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "False"


def test_commits_wait_for_the_disk_whatever_the_database_does_by_default(cluster: Cluster) -> None:
    url = cluster.migrated()
    name = url.rsplit("/", 1)[1]
    cluster.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    async def asked() -> str:
        store = await Store.open(url)
        async with store.begin() as tx:
            found = str((await tx.execute(text("SHOW synchronous_commit"))).scalar_one())
        await store.close()
        return found

    assert asyncio.run(asked()) == "on"
    cluster.drop(url)
