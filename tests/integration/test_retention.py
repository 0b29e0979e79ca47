"""What runs leave is let go by its time, and what proves a change stays."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, update
from temporalio.client import Client

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.backup import inspected
from countersign.adapters.store import audit, journals, plans
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.retention import lapse
from countersign.adapters.store.schema import artifacts, attempts, runs
from countersign.adapters.store.schema import journals as chunks
from countersign.core.engine import Said
from countersign.core.errors import Unavailable
from countersign.core.retention import Retention, rules
from countersign.worker.forgetting import forget
from tests.integration.in_the_cloud import InTheCloud, in_the_cloud
from tests.postgres import BOTH, database_of
from tests.requirements import requirement
from tests.service import temporal_server

pytestmark = pytest.mark.anyio
EVIDENCE = {"plan_view", "semantic_document", "log"}


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, client: Client, tmp_path: Path) -> AsyncIterator[InTheCloud]:
    with database_of(request) as database:
        async with in_the_cloud(client, tmp_path, database=database) as running:
            yield running


async def past(it: InTheCloud, days: int) -> None:
    """Everything that has ended did so that many days ago."""
    then = stamp(it.lost.it.store.now() - timedelta(days=days))
    async with it.lost.it.store.begin() as tx:
        await tx.execute(update(runs).where(runs.c.ended_at.is_not(None)).values(ended_at=then))
        await tx.execute(update(attempts).where(attempts.c.closed_at.is_not(None)).values(closed_at=then))


async def shipped(it: InTheCloud, run_id: str) -> AttemptRow:
    """The attempt of a run, of which two pieces of the journal were shipped while it ran; an apply this short is not waited for."""
    [attempt] = await it.lost.attempts(await it.lost.it.run(run_id))
    store, keyring = it.lost.it.store, it.lost.it.keyring
    async with store.begin() as tx:
        for number in (1001, 1002):
            said: dict[str, Any] = {"said": [Said(number=number, line=b'{"type":"version"}')], "upto": number, "host": attempt.host}
            await journals.append(tx, keyring, org="local", attempt_id=attempt.id, at=store.now(), **said)
        await tx.execute(update(chunks).values(late=False))
    return attempt


async def let_go(it: InTheCloud, kept: Retention | None = None) -> dict[str, int]:
    return {name: n for name, n in (await forget(it.lost.it.store, it.lost.it.artifacts, kept or Retention(), ["local"])).items() if n}


async def kinds(it: InTheCloud, run_id: str) -> set[str]:
    """What of a run can be read still, and lies there."""
    async with it.lost.it.store.read() as conn:
        rows = (await conn.execute(select(artifacts).where(artifacts.c.run_id == run_id))).all()
    there = {path.name for path in (it.lost.folder / "data" / "artifacts").rglob("art_*")}
    assert {row.id for row in rows if row.expires_at is None} == {row.id for row in rows if row.id in there}
    return {row.kind for row in rows if row.expires_at is None}


async def view_of(it: InTheCloud, run_id: str) -> str:
    async with it.lost.it.store.read() as conn:
        mine = (artifacts.c.run_id == run_id) & (artifacts.c.kind == "plan_view")
        return str((await conn.execute(select(artifacts.c.id).where(mine))).scalar_one())


@requirement("retention:lets-go", "retention:evidence-stays")
async def test_after_a_month_what_only_looked_is_gone_and_what_was_applied_or_refused_is_told_for_good(it: InTheCloud) -> None:
    looked = (await it.ended("terraform_plan"))["run"]["run_id"]
    refused = (await it.ended("apply_terraform"))["run"]
    await it.lost.refuse(await it.lost.it.run(refused["run_id"]), reason="not today")
    applied = await it.applied("apply_terraform", message="for good")
    drifted = (await it.ended("terraform_detect_drift"))["run"]["run_id"]
    await shipped(it, applied)
    everything = await kinds(it, applied)
    view = await view_of(it, looked)
    await past(it, 29)
    assert await let_go(it) == {}
    await past(it, 31)

    went = await let_go(it)

    assert (went["looked_days"], went["drift_days"], went["unapplied_days"], went["journal_days"]) == (5, 3, 2, 1)
    assert (await kinds(it, looked), await kinds(it, drifted)) == (set(), set())
    assert await kinds(it, refused["run_id"]) == EVIDENCE
    assert await kinds(it, applied) == everything > {"plan_bundle", "plan_json", "apply_log", "journal"}
    error = await it.agent.refused("read_artifact", artifact_id=view)
    assert error["code"] == "not_found"
    assert "what a run leaves that only looked is kept for 30 days after its end (retention.looked_days)" in error["message"]
    plan = await it.plan(looked)  # counts, class and changes are rows
    assert plan["summary"] == "2 to add"
    assert (await it.lost.document())["resources"]  # a state never goes
    async with it.lost.it.store.read() as conn:
        assert await audit.first_broken(conn, "local") is None
    assert await let_go(it) == {}  # once
    if (file := it.lost.folder / "data" / "countersign.db").exists():  # a backup looks for no more than there is
        with contextlib.closing(sqlite3.connect(file)) as connection:
            *_, named = inspected(connection)
        folder = it.lost.folder / "data" / "artifacts"
        assert named == {path.relative_to(folder).as_posix() for path in folder.rglob("art_*")}


@requirement("retention:evidence-stays")
async def test_of_a_journal_the_last_link_stays_and_of_one_with_something_late_all(it: InTheCloud) -> None:
    run_id = await it.applied()
    attempt, store, keyring = await shipped(it, run_id), it.lost.it.store, it.lost.it.keyring
    async with store.read() as conn:
        before = await journals.received(conn, "local", attempt.id)
    await past(it, 31)

    async with store.begin() as tx:
        await tx.execute(update(chunks).values(late=True))
    assert await let_go(it) == {}
    async with store.begin() as tx:
        await tx.execute(update(chunks).values(late=False))
    assert await let_go(it) == {"journal_days": 1}

    async with store.read() as conn:
        [row] = (await conn.execute(select(chunks))).all()
        closed = await plans.attempt_by_id(conn, "local", attempt.id)
        assert closed is not None
        told = await journals.shipped(conn, keyring, org="local", attempt=closed)
        assert await journals.received(conn, "local", attempt.id) == before
    assert (row.sealed, told.testimony, told.broken) == (b"", b"", False)


@requirement("retention:lets-go")
async def test_a_round_that_is_cut_off_is_made_up_for_and_bundles_of_applies_go_where_the_operator_says_so(
    it: InTheCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await it.applied()
    everything = await kinds(it, run_id)
    await past(it, 400)

    async def away(self: Artifacts, org: str, found: Any) -> None:
        raise Unavailable("the bucket is away")

    with monkeypatch.context() as broken:
        broken.setattr(Artifacts, "remove", away)
        with pytest.raises(Unavailable):
            await let_go(it, Retention(applied_days=365))
    assert await let_go(it, Retention(applied_days=365)) == {}  # rows said so before; now the bytes are gone as well
    assert await kinds(it, run_id) == everything - {"plan_bundle", "plan_json"}


async def test_an_apply_that_is_open_keeps_everything(it: InTheCloud) -> None:
    run_id = await it.applied()
    async with it.lost.it.store.begin() as tx:
        await tx.execute(update(attempts).values(closed_at=None))
    await past(it, 400)

    assert await let_go(it, Retention(applied_days=2, journal_days=2)) == {}
    assert "plan_bundle" in await kinds(it, run_id)


async def test_a_round_looks_up_the_applies_of_a_run_and_reads_not_all_of_them_for_each(tmp_path: Path) -> None:
    """Tens of thousands of runs are a year; each round holds the lock for writing."""
    path = tmp_path / "store.db"
    store = await Store.open(f"sqlite+aiosqlite:///{path}")
    asked: list[tuple[str, Any]] = []

    def ask(conn: Any, cursor: Any, text: str, given: Any, *_: Any) -> None:
        asked.append((text, given))

    event.listen(Engine, "before_cursor_execute", ask)
    try:
        for rule in rules(Retention(applied_days=30)):
            async with store.begin() as tx:
                await lapse(tx, "o", rule, now=store.now(), most=200)
    finally:
        event.remove(Engine, "before_cursor_execute", ask)
        await store.close()

    with contextlib.closing(sqlite3.connect(path)) as connection:
        steps = [row[3] for text, given in asked for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", given)]
    assert len(asked) == 4
    assert [step for step in steps if "attempts" in step and "ix_attempts_run" not in step] == []
