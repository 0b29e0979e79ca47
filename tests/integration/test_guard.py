"""The live guard beside a real Terraform whose journal says that it does more than was approved."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from countersign.adapters.store import audit
from countersign.core.policy import Need, Policy, Rule
from countersign.core.run import RunState
from tests.integration.lost_applies import Lost, lost
from tests.integration.test_run_signals import details_say
from tests.requirements import requirement
from tests.service import eventually, temporal_server

pytestmark = pytest.mark.anyio
S = RunState
ALARM = "terraform_data.foreign: its delete was begun, and that is not in the approved plan"
MORE = "objects whose destruction was begun: 1, approved: 0"


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal_server() as running:
        yield running


def doctored(folder: Path) -> Path:
    """A Terraform that says, when it applies, that it begins to destroy something nobody planned."""
    event = {"@timestamp": "2026-01-01T00:00:00Z", "type": "apply_start"}
    event |= {"hook": {"resource": {"addr": "terraform_data.foreign"}, "action": "delete"}}
    (folder / "event").write_text(json.dumps(event) + "\n")
    made = folder / "terraform"
    made.write_text(f'#!/bin/sh\n[ "$1" = apply ] && cat {folder}/event\nexec /usr/local/bin/terraform "$@"\n')
    made.chmod(0o700)
    return made


async def alarmed(it: Lost, run_id: str) -> list[str]:
    async def there() -> list[str]:
        return [str(one["message"]) for one in (await it.it.run(run_id)).alarms]

    found: list[str] = await eventually(there, "the alarm to be in the run's row")
    return found


async def audited(it: Lost) -> list[dict[str, Any]]:
    async with it.it.store.read() as conn:
        rows = [json.loads(row.body) for row in await conn.execute(audit.audit.select().order_by(audit.audit.c.seq))]
    return [row for row in rows if row["action"] == "run.guard"]


@requirement("guard:alarm", "run:policy-alone")
@pytest.mark.parametrize("need", [Need.PERSON, Need.AUTO])
async def test_an_apply_that_does_more_than_was_approved_raises_an_alarm_while_it_runs(client: Client, tmp_path: Path, need: Need) -> None:
    policy = Policy(rules=(Rule(need=need),))
    async with lost(client, tmp_path, engine={"executable": doctored(tmp_path)}, policy=policy) as it:
        it.configure(it.world.chain(2, gates=[1]))
        run = await it.applying()
        async with it.world.held(1):
            assert await alarmed(it, run.id) == [ALARM, MORE]
            assert f"⚠ `{ALARM}`" in await details_say(it.it, run.id, "ALARM: the apply does what nobody approved")

            async def beats() -> bool:
                pending = (await client.get_workflow_handle(run.id).describe()).raw_description.pending_activities
                return any(f"ALARM: {ALARM}" in p.data.decode() for one in pending for p in one.heartbeat_details.payloads)

            await eventually(beats, "the heartbeat to say so, in the Temporal UI")
            await it.it.stop_workers()  # whoever follows next hears it all again
            await it.it.start_workers()

        applied = await it.it.reaches(run.id, S.APPLIED)

        warnings = [e.body for e in await it.events(run) if e.kind == "warning"]
        assert [body["message"] for body in warnings] == [ALARM, MORE], "told once, whoever follows"
        assert [one["message"] for one in applied.alarms] == [ALARM, MORE]
        [attempt] = await it.attempts(run)
        assert [(row["outcome"], row["facts"]["attempt"], row["facts"]["alarm"]) for row in await audited(it)] == [
            ("alarm", attempt.id, ALARM),
            ("alarm", attempt.id, MORE),
        ]
        assert f"alarm: {ALARM}" in attempt.evidence


@requirement("guard:interrupt")
async def test_where_policy_says_so_it_is_interrupted_once_and_tells_what_was_done(client: Client, tmp_path: Path) -> None:
    policy = Policy(guard="interrupt")
    async with lost(client, tmp_path, engine={"executable": doctored(tmp_path)}, policy=policy) as it:
        it.configure(it.world.chain(3, gates=[1]))
        run = await it.applying()
        async with it.world.held(1):
            await it.it.reaches(run.id, S.CANCELING)
            [attempt] = await it.attempts(run)
            folder = it.it.engine.where(attempt.id) / "run"

            async def interrupted() -> bool:
                return (folder / "sent").exists() and b"Stopping operation" in (folder / "journal").read_bytes()

            await eventually(interrupted, "the one SIGINT to be heeded")

        ended = await it.it.reaches(run.id, S.PARTIALLY_APPLIED)

        assert ended.code == "canceled"
        assert (ended.reason or "").startswith(f"The live guard interrupted it: {ALARM}.")
        assert (await it.head()).lock is None
        assert sorted(await it.ids()) == ["item_1"]
        assert [row["outcome"] for row in await audited(it)] == ["interrupt", "interrupt"]


@requirement("guard:alarm")
async def test_an_apply_that_does_what_was_approved_raises_none(client: Client, tmp_path: Path) -> None:
    async with lost(client, tmp_path) as it:
        it.configure(it.world.chain(2, gates=[]))
        run = await it.applied()
        destroyed = await it.it.reaches((await it.applying(tool="destroy_terraform")).id, S.APPLIED)

        assert (run.alarms, destroyed.alarms) == ((), ())
        [attempt] = await it.attempts(run)
        assert not any("not watched" in line for line in attempt.evidence)
