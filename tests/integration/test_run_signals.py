"""What an operator types into the Temporal UI: one object counts, everything else is refused, told, and changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import Client, WorkflowUpdateFailedError

from countersign.adapters.store.runs import RunRow
from countersign.core.run import RunState
from tests.requirements import requirement
from tests.service import ANA, Service, eventually, service
from tests.toy.engine import ToyEngine, install

pytestmark = pytest.mark.anyio
install()


async def waiting(it: Service, *changes: tuple[str, str], tool: str = "apply_toy") -> RunRow:
    assert isinstance(it.engine, ToyEngine)
    it.engine.want(*(changes or (("a", "create"),)))
    run = await it.start(await it.stack(), tool=tool)
    return await it.reaches(run.id, RunState.AWAITING_APPROVAL)


def of_json(value: Any) -> Payload:
    return Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(value).encode())


async def signal(it: Service, run_id: str, name: str, *payloads: Payload) -> None:
    """As the UI sends it: payloads the SDK's own client would never make."""
    await it.client.workflow_service.signal_workflow_execution(
        SignalWorkflowExecutionRequest(
            namespace=it.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=run_id),
            signal_name=name,
            input=Payloads(payloads=payloads) if payloads else None,
        )
    )


async def details_say(it: Service, run_id: str, words: str) -> str:
    async def said() -> str | None:
        text: str = await it.client.get_workflow_handle(run_id).query("__temporal_workflow_metadata")
        current = str(getattr(text, "current_details", text))
        return current if words in current else None

    return str(await eventually(said, f"the run's details to say {words!r}"))


MALFORMED = {
    "nothing at all": (),
    "two objects": (of_json({"plan_digest": "sha256:" + "0" * 64}), of_json({})),
    "a text": (of_json("yes"),),
    "null": (of_json(None),),
    "a list": (of_json([1, 2]),),
    "an empty object": (of_json({}),),
    "a number where a text belongs": (of_json({"plan_digest": 7}),),
    "bytes that are no JSON": (Payload(metadata={"encoding": b"json/plain"}, data=b"{oops"),),
    "an encoding nobody knows": (Payload(metadata={"encoding": b"binary/strange"}, data=b"\x00\x01"),),
    "no encoding": (Payload(data=b"\xff\xfe"),),
}


@requirement("bad:malformed-signal")
@pytest.mark.parametrize("payloads", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("name", ["approve", "reject", "cancel"])
async def test_a_malformed_signal_changes_nothing_is_told_and_wedges_nothing(it: Service, name: str, payloads: tuple[Payload, ...]) -> None:
    if name == "cancel" and payloads and payloads[0].data == b"{}":
        return  # an empty object is a whole wish to cancel
    run = await waiting(it)

    await signal(it, run.id, name, *payloads)

    text = await details_say(it, run.id, "### Refused")
    assert f"{name}:" in text
    assert (await it.run(run.id)).state is RunState.AWAITING_APPROVAL
    await it.approve(run)
    await it.reaches(run.id, RunState.APPLIED)


@requirement("ui:approve-by-signal")
async def test_the_object_the_details_show_approves_when_sent_as_a_signal(it: Service) -> None:
    run = await waiting(it)
    text = await details_say(it, run.id, "### Decide")
    shown = json.loads(text.split("`approve`, with\n\n`", 1)[1].split("`\n", 1)[0])

    await signal(it, run.id, "approve", of_json(shown))

    await it.reaches(run.id, RunState.APPLIED)
    (decision,) = await it.decisions(run.id)
    assert (decision.by.id, str(decision.channel)) == ("person:temporal-ui", "temporal_ui")


@requirement("ui:approve-by-signal")
async def test_a_rejection_by_signal_ends_the_run_with_its_reason(it: Service) -> None:
    run = await waiting(it)

    await signal(it, run.id, "reject", of_json({"reason": "not on a Friday"}))

    assert (await it.reaches(run.id, RunState.REJECTED)).reason == "not on a Friday"


@requirement("bad:wrong-typed-name")
async def test_a_signal_with_the_wrong_typed_name_is_refused_in_the_details(it: Service) -> None:
    run = await waiting(it, ("a", "delete"), tool="destroy_toy")

    await signal(it, run.id, "approve", of_json({"plan_digest": run.plan_digest, "confirm_name": "local/dev/other"}))

    await details_say(it, run.id, "type")
    assert (await it.run(run.id)).state is RunState.AWAITING_APPROVAL


async def test_an_update_of_the_wrong_shape_is_rejected_with_a_reason_and_leaves_no_trace(it: Service) -> None:
    run = await waiting(it)
    handle = it.client.get_workflow_handle(run.id)

    for wrong in ({}, {"plan_digest": "yes"}, "approve", [1]):
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update("approve", wrong)

    assert await it.decisions(run.id) == []
    assert (await it.run(run.id)).state is RunState.AWAITING_APPROVAL


@requirement("ui:off")
async def test_where_ui_approvals_are_off_a_signal_is_refused_with_the_way_that_works(client: Client, tmp_path: Path) -> None:
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), ui_approvals="off") as it:
        run = await waiting(it)

        await signal(it, run.id, "approve", of_json({"plan_digest": run.plan_digest}))

        await details_say(it, run.id, "countersign approve")
        assert (await it.run(run.id)).state is RunState.AWAITING_APPROVAL
        await it.approve(run, by=ANA)
        await it.reaches(run.id, RunState.APPLIED)


@requirement("ui:protected")
async def test_the_unnamed_person_of_the_ui_never_approves_in_a_protected_environment(client: Client, tmp_path: Path) -> None:
    policy = {"protected": ["local/dev"]}
    async with service(client, tmp_path, ToyEngine(tmp_path / "toy"), ui_approvals="trusted", policy=policy) as it:
        run = await waiting(it)

        await signal(it, run.id, "approve", of_json({"plan_digest": run.plan_digest}))

        await details_say(it, run.id, "a decision from the Temporal UI names nobody")
        assert (await it.run(run.id)).state is RunState.AWAITING_APPROVAL
