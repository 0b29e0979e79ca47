"""What a run's workflow asks for is handed to its worker in the answer to that task: nothing is queued, matched and polled for it."""

from collections import Counter
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import PendingActivityState as Pending
from temporalio.client import Client
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig
from temporalio.service import ConnectConfig, ServiceClient

from countersign.adapters.temporal import DATA_CONVERTER
from countersign.core.run import RunState
from countersign.core.step import RUNS_QUEUE
from countersign.core.steps import RunInput
from tests.service import Service, eventually, service
from tests.toy.engine import ToyEngine, install
from tests.toy.steering import toy

pytestmark = pytest.mark.anyio
install()


@pytest.fixture
def told() -> MetricBuffer:
    """What the worker's own counters say."""
    return MetricBuffer(100_000)


@pytest.fixture
async def counted(client: Client, told: MetricBuffer) -> Client:
    target = client.config()["service_client"].config.target_host
    runtime = Runtime(telemetry=TelemetryConfig(metrics=told))
    return Client(await ServiceClient.connect(ConnectConfig(target_host=target, runtime=runtime)), data_converter=DATA_CONVERTER)


def received(told: MetricBuffer) -> Counter[tuple[str, str]]:
    """(step, whether it came without a poll) → how often."""
    steps: Counter[tuple[str, str]] = Counter()
    for update in told.retrieve_updates():
        if update.metric.name == "temporal_activity_task_received":
            steps[str(update.attributes["activity_type"]), str(update.attributes["eager"])] += int(update.value)
    return steps


async def applied(it: Service) -> None:
    toy(it).want(("a", "create"))
    waiting = await it.reaches((await it.start(await it.stack())).id, RunState.AWAITING_APPROVAL)
    await it.approve(waiting)
    await it.reaches(waiting.id, RunState.APPLIED)


async def test_plan_and_apply_are_started_by_the_tasks_that_ask_for_them(counted: Client, told: MetricBuffer, tmp_path: Path) -> None:
    async with service(counted, tmp_path, ToyEngine(tmp_path / "toy"), plan_slots=4) as it:
        await applied(it)

    assert received(told) == {("toy.plan", "True"): 1, ("toy.apply", "True"): 1}


async def test_a_worker_with_one_place_for_an_engine_polls_for_its_steps(counted: Client, told: MetricBuffer, tmp_path: Path) -> None:
    async with service(counted, tmp_path, ToyEngine(tmp_path / "toy"), plan_slots=1) as it:
        await applied(it)

    assert received(told) == {("toy.plan", "False"): 1, ("toy.apply", "False"): 1}


async def test_no_more_processes_run_at_once_than_there_are_places(client: Client, tmp_path: Path) -> None:
    engine = ToyEngine(tmp_path / "toy")
    engine.want(("a", "create"))
    async with service(client, tmp_path, engine, plan_slots=2) as it:
        waiting = [await it.start(await it.stack(f"s{number}")) for number in range(4)]
        waiting = [await it.reaches(run.id, RunState.AWAITING_APPROVAL) for run in waiting]
        engine.hold_applies = True
        for run in waiting:
            await it.approve(run)  # which waits behind no apply

        async def two_and_two() -> bool:
            described = [await client.get_workflow_handle(run.id).describe() for run in waiting]
            states = Counter(step.state for one in described for step in one.raw_description.pending_activities)
            stand = Counter([(await it.run(run.id)).state for run in waiting])
            return (stand, states) == (
                {RunState.APPLYING: 2, RunState.APPROVED: 2},
                {Pending.PENDING_ACTIVITY_STATE_STARTED: 2, Pending.PENDING_ACTIVITY_STATE_SCHEDULED: 2},
            )

        await eventually(two_and_two, "two to be applied, and two to wait in Temporal's queue")
        engine.hold_applies = False
        for attempt in engine.launched:
            (engine.where(attempt) / "go").touch()
        for run in waiting:
            await it.reaches(run.id, RunState.APPLIED)


async def test_a_run_that_an_older_version_began_goes_on(it: Service) -> None:
    toy(it).want(("a", "create"))
    run = await it.start(await it.stack())
    await it.reaches(run.id, RunState.AWAITING_APPROVAL)
    handle = it.client.get_workflow_handle(run.id)
    await handle.terminate()
    before = RunInput(org=run.org, run_id=run.id, engine=run.engine)
    await it.client.start_workflow("Run", before, id=run.id, task_queue=RUNS_QUEUE)

    await it.approve(await it.run(run.id))

    await it.reaches(run.id, RunState.APPLIED)
    assert (await handle.describe()).task_queue == "countersign"
