"""Drift: found on demand and by schedule, told by address and by who applied it, and nothing is changed by looking."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import Client

from countersign.adapters.schedules import Schedules
from countersign.adapters.store import runs
from countersign.adapters.store.schema import outbox
from countersign.core.run import RunState
from countersign.worker.schedules import settle
from tests.integration.in_the_cloud import THING, InTheCloud, in_the_cloud
from tests.postgres import BOTH, database_of
from tests.requirements import requirement
from tests.service import eventually, temporal_server

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, client: Client, tmp_path: Path) -> AsyncIterator[InTheCloud]:
    with database_of(request) as database:
        async with in_the_cloud(client, tmp_path, database=database) as running:
            yield running


async def changed_by_hand(it: InTheCloud) -> None:
    one, two = it.object("one"), it.object("two")
    it.cloud.connection.update(one["id"], {**one["attributes"], "size": 9})
    it.cloud.connection.delete(two["id"])


async def told(it: InTheCloud) -> list[str]:
    """What the outside is told, in order."""
    async with it.lost.it.store.read() as conn:
        return [row.moment for row in await conn.execute(outbox.select().order_by(outbox.c.at, outbox.c.id))]


@requirement("drift:found")
async def test_what_was_changed_outside_is_found_by_address_with_who_applied_it_and_the_state_stays(it: InTheCloud) -> None:
    applied = await it.applied()
    before = await it.lost.head()
    await changed_by_hand(it)
    run = (await it.ended("terraform_detect_drift"))["run"]

    assert (run["state"], run["change_class"]) == ("planned_and_finished", "delete")
    plan = await it.plan(run["run_id"])
    assert "size: 1 → 9" in plan["changes"]["items"][1]["attributes"]
    assert plan["risks"][0] == "Gone, and made again by the next apply: fake_thing.two."
    last = plan["last_applied"]["fake_thing.one"]
    assert (last["run_id"], last["by"], last["acts_for"]) == (applied, "agent:claude", "person:ana")
    found = (await it.workspace())["drift"]
    assert (found["found"], found["run_id"]) == (2, run["run_id"])
    assert [(i["address"], i["action"], i["last_applied"]["run_id"]) for i in found["items"]] == [
        ("fake_thing.two", "delete", applied),
        ("fake_thing.one", "update", applied),
    ]
    after = await it.lost.head()
    assert (after.serial, after.seq, after.lock) == (before.serial, before.seq, None)
    assert it.cloud.changes()[2:] == ["update one", "delete two"]  # by hand, and nothing else


@requirement("drift:event")
async def test_drift_is_an_event_once_and_again_when_it_is_another(it: InTheCloud) -> None:
    await it.applied()
    quiet = (await it.ended("terraform_detect_drift"))["run"]["run_id"]
    await changed_by_hand(it)
    ids = [(await it.ended("terraform_detect_drift", idempotency_key=f"look-{n}-{it.lost.stack_id}"))["run"]["run_id"] for n in range(2)]
    await it.applied()
    ids.append((await it.ended("terraform_detect_drift"))["run"]["run_id"])

    async with it.lost.it.store.read() as conn:
        events = [[e.body for e in await runs.run_events(conn, "local", id) if e.kind == "drift"] for id in (quiet, *ids)]
    assert [[(e["found"], e["new"]) for e in of] for of in events] == [[], [(2, True)], [(2, False)], [(0, False)]]
    assert events[1][0]["addresses"] == ["fake_thing.two", "fake_thing.one"]
    assert (await told(it)).count("drifted") == 1
    assert (await told(it)).count("ended") == 2  # of the two applies: a check that ended is nobody's news


@requirement("drift:scheduled")
async def test_a_schedule_comes_with_the_record_changes_with_it_and_goes_with_it(it: InTheCloud, client: Client) -> None:
    schedules, store, stack_id = Schedules(client), it.lost.it.store, it.lost.stack_id
    registered = {"env": "dev", "workspace": "demo", "source": {"path": "demo"}}

    async def is_there(every: timedelta | None) -> None:
        async def there() -> bool:
            await settle(store, schedules, ["local"])
            return (await schedules.there()).get(f"drift-{stack_id}") == every

        await eventually(there, f"a schedule of {every}")

    assert await settle(store, schedules, ["local"]) == 0
    await it.agent.call("terraform_register_workspace", **registered, drift_every="2h")
    await is_there(timedelta(hours=2))
    await it.agent.call("terraform_register_workspace", **registered, drift_every="7d")
    await is_there(timedelta(days=7))
    described = await client.get_schedule_handle(f"drift-{stack_id}").describe()
    assert described.schedule.spec.jitter == timedelta(minutes=5)
    await it.agent.call("terraform_register_workspace", **registered, drift_every="off")
    await is_there(None)
    assert "drift_every" not in (await it.workspace())


@requirement("drift:scheduled")
async def test_a_check_that_is_due_is_a_run_and_is_left_out_while_somebody_works_on_the_state(it: InTheCloud, client: Client) -> None:
    schedules, store, stack_id = Schedules(client), it.lost.it.store, it.lost.stack_id
    await it.applied()
    await it.agent.call("terraform_register_workspace", env="dev", workspace="demo", source={"path": "demo"}, drift_every="1d")
    await settle(store, schedules, ["local"])
    handle = client.get_schedule_handle(f"drift-{stack_id}")

    async def due() -> str:
        """A check is due now; what it came to, as its workflow tells it."""
        before = {action.started_at for action in (await handle.describe()).info.recent_actions}
        await handle.trigger()

        async def acted() -> str | None:
            for action in (await handle.describe()).info.recent_actions:
                if action.started_at not in before:
                    done = await client.get_workflow_handle(action.action.workflow_id).result()  # type: ignore[attr-defined]
                    return str(done)
            return None

        return str(await eventually(acted, "the check to begin"))

    assert "'run_id': 'run_" in await due()

    async def looked() -> bool:
        return (await it.workspace()).get("drift", {}).get("found") == 0

    await eventually(looked, "the check to end")
    [check] = [run for run in await it.lost.runs() if run.type == "terraform_detect_drift"]
    assert (check.requester.id, check.state) == ("machine:countersign", RunState.PLANNED_AND_FINISHED)

    held = it.cloud.hook(op="update", name="one", when="before")
    it.lost.configure(THING.replace("size = 1", "size = 2") + 'variable "world" {\n  type = string\n}\n')
    applying = await it.lost.applying()
    await it.lost.seen(applying, RunState.APPLYING, times=1)
    assert f"{applying.id} is at work on the state" in await due()
    held.release("go")
    await it.lost.it.reaches(applying.id, RunState.APPLIED)
    assert len([run for run in await it.lost.runs() if run.type == "terraform_detect_drift"]) == 1


async def test_drift_is_looked_for_once_a_minute_at_most_and_a_bad_interval_is_named(it: InTheCloud) -> None:
    for every, says in (("30s", "once a minute at most"), ("often", "90s, 2h or 7d")):
        error = await it.agent.refused(
            "terraform_register_workspace", env="dev", workspace="demo", source={"path": "demo"}, drift_every=every
        )
        assert (error["code"], error["field"]) == ("invalid_argument", "drift_every")
        assert says in error["message"]
