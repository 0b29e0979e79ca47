"""Every history ever released replays on the workflow of today: approvals wait for days, and workers change meanwhile."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from countersign.adapters.temporal import DATA_CONVERTER
from tests.requirements import requirement
from tests.toy.engine import install
from workflows.drift import Drift
from workflows.read import Read
from workflows.run import Run

pytestmark = pytest.mark.anyio
install()

# The service runs workflows without the sandbox (docs/decisions/0024); here it looks at all that a run ever did.
PASSED_THROUGH = ("countersign", "workflows", "pydantic", "pydantic_core", "annotated_types")
RUNNERS: dict[str, WorkflowRunner] = {
    "as-served": UnsandboxedWorkflowRunner(),
    "sandboxed": SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)),
}
HISTORIES = sorted((Path(__file__).parent / "histories").glob("*/*.json"))


def test_there_are_histories_to_replay() -> None:
    assert len(HISTORIES) >= 11


@requirement("run:replays")
@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
@pytest.mark.parametrize("path", HISTORIES, ids=[f"{p.parent.name}/{p.stem}" for p in HISTORIES])
async def test_a_recorded_history_replays(path: Path, runner: WorkflowRunner) -> None:
    replayer = Replayer(workflows=[Run, Drift, Read], data_converter=DATA_CONVERTER, workflow_runner=runner)
    await replayer.replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text()))
