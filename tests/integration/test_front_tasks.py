"""Runs as tasks: by a client that declares the extension, over a real store, with the rights of whoever asks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError, types
from mcp.client.extension import advertise

from countersign.core.run import RunState
from tests.integration import task_client
from tests.integration.front import ANA, CLAUDE, OTTO, FrontService, User, front_service
from tests.integration.task_client import TASKS, TaskClient
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
NAME = "acme/dev/main"
NOBODYS = "run_" + "0" * 26


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[FrontService]:
    async with front_service(tmp_path) as running:
        running.engine.want(("a", "create"))
        await running.stack()
        await running.stack("main", env="prod")
        yield running


async def waiting(it: FrontService, *, tool: str = "apply_terraform", env: str = "dev") -> dict[str, Any]:
    async with it.as_(CLAUDE, "platform") as agent:
        run: dict[str, Any] = (await agent.call(tool, env=env, wait_seconds=20))["run"]
    assert run["state"] == "awaiting_approval"
    return run


async def refusal(what: Any) -> MCPError:
    try:
        await what
    except MCPError as error:
        return error
    raise AssertionError("it was not refused")


# -- becoming one ---------------------------------------------------------------------------------------------------------


@requirement("tasks:are-runs")
async def test_a_run_is_a_task_of_the_same_id_that_ends_with_the_run(it: FrontService) -> None:
    tasks = TaskClient(user=User(says={"comment": "looks right"}))
    async with it.as_(ANA, "admin", user=tasks.user, extensions=[tasks]) as ana:
        done = await ana.call("apply_terraform", env="dev")

    (created,) = tasks.created
    assert (created.task_id, created.ttl_ms) == (done["run"]["run_id"], None)
    assert done["run"]["state"] == "applied"
    assert tasks.seen[-1] == "completed"
    assert "input_required" in tasks.seen
    (decision,) = await it.decisions(created.task_id)
    assert (decision.by.id, decision.comment, decision.accepted) == (ANA.id, "looks right", True)
    assert created.task_id in tasks.user.questions[0]  # type: ignore[union-attr]


async def test_who_declares_no_tasks_gets_the_handle(it: FrontService) -> None:
    for options in ({}, {"mode": "legacy", "extensions": [advertise(TASKS)]}):
        async with it.as_(CLAUDE, "platform", **options) as agent:
            answer = await agent.call("terraform_plan", env="dev", idempotency_key=f"one-{len(options)}-of-two")
            assert answer["run"]["run_id"]


async def test_what_starts_no_run_or_has_ended_at_once_is_no_task(it: FrontService) -> None:
    tasks = TaskClient()
    async with it.as_(CLAUDE, "platform", extensions=[tasks]) as agent:
        await agent.call("whoami")
        planned = await agent.call("terraform_plan", env="dev", wait_seconds=20)
        refused = await agent.refused("terraform_plan", env="nowhere")

    assert tasks.created == []
    assert (planned["run"]["state"], refused["code"]) == ("planned_and_finished", "not_found")


# -- looking at one -------------------------------------------------------------------------------------------------------


@requirement("tasks:owner")
async def test_a_task_is_looked_at_and_cancelled_with_the_rights_to_its_run(it: FrontService) -> None:
    run = await waiting(it)
    async with it.as_(OTTO, "dev", extensions=[TaskClient()]) as other:
        session = other.client.session
        answers = [
            await refusal(task_client.get(session, run["run_id"])),
            await refusal(task_client.cancel(session, run["run_id"])),
            await refusal(task_client.update(session, run["run_id"], {})),
            await refusal(task_client.get(session, NOBODYS)),
            await refusal(task_client.get(session, "x" * 200)),
        ]
    async with it.as_(OTTO, "viewer", extensions=[TaskClient()]) as viewer:
        seen = await task_client.get(viewer.client.session, run["run_id"])
        denied = await refusal(task_client.cancel(viewer.client.session, run["run_id"]))

    assert {(error.code, error.message) for error in answers} == {(types.INVALID_PARAMS, "Unknown task")}
    assert seen["status"] == "working"
    assert denied.data["code"] == "permission_denied"
    assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL


async def test_without_the_extension_there_are_no_tasks(it: FrontService) -> None:
    run = await waiting(it)
    async with it.as_(CLAUDE, "platform") as agent:
        undeclared = await refusal(task_client.get(agent.client.session, run["run_id"]))
    async with it.as_(CLAUDE, "platform", mode="legacy") as agent:
        legacy = await refusal(task_client.get(agent.client.session, run["run_id"]))

    assert (undeclared.code, legacy.code) == (types.MISSING_REQUIRED_CLIENT_CAPABILITY, types.METHOD_NOT_FOUND)


async def test_a_task_that_waits_for_somebody_else_says_for_whom_and_where(it: FrontService) -> None:
    run = await waiting(it, env="prod")
    async with it.as_(ANA, "approver", user=User(says={}), extensions=[TaskClient()]) as ana:
        task = await task_client.get(ana.client.session, run["run_id"])

    assert task["status"] == "working"  # ana's word would not count here: she is the requester's person
    assert "a person other than the requester's" in task["statusMessage"]
    assert f"/runs/{run['run_id']}" in task["statusMessage"]
    assert "inputRequests" not in task


async def test_a_run_that_failed_is_a_completed_task_whose_result_is_an_error(it: FrontService) -> None:
    run = await waiting(it)
    async with it.as_(ANA, "approver") as ana:
        await ana.call("run_reject", run_id=run["run_id"], reason="not on a Friday")
    async with it.as_(CLAUDE, "platform", extensions=[TaskClient()]) as agent:
        task = await task_client.get(agent.client.session, run["run_id"])

    assert (task["status"], task["result"]["isError"]) == ("completed", True)
    content = task["result"]["structuredContent"]
    assert (content["error"]["code"], content["run"]["state"]) == ("failed_precondition", "rejected")
    assert "not on a Friday" in content["error"]["message"]
    assert content["error"]["next"] == ["run_rerun"]


# -- answering one --------------------------------------------------------------------------------------------------------


@requirement("promise:destroying-asks", "ask:declining-decides-nothing")
async def test_a_task_asks_for_the_name_and_takes_no_other_and_a_declined_answer_decides_nothing(it: FrontService) -> None:
    it.engine.want(("a", "delete"))
    run = await waiting(it, tool="destroy_terraform")
    async with it.as_(ANA, "approver", user=User(says={}), extensions=[TaskClient()]) as ana:
        session = ana.client.session
        first = await task_client.get(session, run["run_id"])
        ((key, question),) = first["inputRequests"].items()
        assert f"type {NAME}" in question["params"]["message"]
        await task_client.update(session, run["run_id"], {key: {"action": "decline"}, "another": {"action": "accept", "content": {}}})
        assert (await task_client.get(session, run["run_id"]))["inputRequests"] == first["inputRequests"]
        assert await it.decisions(run["run_id"]) == []

        wrong = await refusal(task_client.update(session, run["run_id"], {key: {"action": "accept", "content": {"name": NAME}}}))
        assert wrong.code == types.INVALID_PARAMS
        await task_client.update(session, run["run_id"], {key: {"action": "accept", "content": {"confirm_name": "acme/dev"}}})
        again = await task_client.get(session, run["run_id"])
        assert again["status"] == "input_required"
        assert "the last answer was refused" in again["statusMessage"]
        ((other, _),) = again["inputRequests"].items()
        assert other != key  # a client answers a key once

        await task_client.update(session, run["run_id"], {other: {"action": "accept", "content": {"confirm_name": NAME}}})
    await it.reaches(run["run_id"], RunState.APPLIED)


@requirement("I7")
async def test_an_agents_task_never_asks_the_agent_to_approve(it: FrontService) -> None:
    it.engine.want(("a", "delete"))
    run = await waiting(it, tool="destroy_terraform")
    async with it.as_(CLAUDE, "admin", user=User(says={"confirm_name": NAME}), extensions=[TaskClient()]) as agent:
        task = await task_client.get(agent.client.session, run["run_id"])
        await task_client.update(
            agent.client.session, run["run_id"], {"approve-0": {"action": "accept", "content": {"confirm_name": NAME}}}
        )

    assert "inputRequests" not in task
    assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL


# -- cancelling one -------------------------------------------------------------------------------------------------------


async def test_cancelling_a_task_cancels_its_run_and_again_is_no_error(it: FrontService) -> None:
    run = await waiting(it)
    async with it.as_(CLAUDE, "platform", extensions=[TaskClient()]) as agent:
        first = await task_client.cancel(agent.client.session, run["run_id"])
        task = await task_client.get(agent.client.session, run["run_id"])
        again = await task_client.cancel(agent.client.session, run["run_id"])

    assert (task["status"], "result" in task) == ("cancelled", False)
    assert first["resultType"] == again["resultType"] == "complete"
    assert (await it.run(run["run_id"])).state is RunState.CANCELED
    assert "run_cancel" in {row["action"] for row in await it.audited()}
