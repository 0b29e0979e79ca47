"""Every history ever released replays on the workflow of today: approvals wait for days, and workers change meanwhile."""

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from countersign.adapters.temporal import DATA_CONVERTER
from countersign.worker.main import PASSED_THROUGH
from tests.requirements import requirement
from tests.toy.engine import install
from workflows.run import Run

pytestmark = pytest.mark.anyio
install()

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*/*.json"))


def test_there_are_histories_to_replay() -> None:
    assert len(HISTORIES) >= 11


@requirement("run:replays")
@pytest.mark.parametrize("path", HISTORIES, ids=[f"{p.parent.name}/{p.stem}" for p in HISTORIES])
async def test_a_recorded_history_replays(path: Path) -> None:
    replayer = Replayer(
        workflows=[Run],
        data_converter=DATA_CONVERTER,
        workflow_runner=SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)),
    )
    await replayer.replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text()))
