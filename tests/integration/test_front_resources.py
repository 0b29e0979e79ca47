"""Resources, prompts and completions: what a client reads and offers besides tools, filtered by the same rights."""

import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError, types

from countersign.core.errors import BY_CODE
from countersign.core.principal import Kind, Principal
from countersign.core.run import RUN_TYPES, RunState
from mcp_front.rights import PEOPLE_ONLY, ROLES
from tests.integration.front import ANA, CLAUDE, OTTO, Caller, FrontService, front_service
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
NOBODYS = "run_" + "0" * 26


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[FrontService]:
    async with front_service(tmp_path) as running:
        running.engine.want(("a", "create"))
        await running.stack()
        await running.stack("net")
        yield running


async def started(it: FrontService, by: Any = CLAUDE) -> str:
    async with it.as_(by, "platform") as caller:
        run = (await caller.call("apply_terraform", env="dev", wait_seconds=20, message="a second replica"))["run"]
    return str(run["run_id"])


async def read(caller: Caller, uri: str) -> dict[str, Any]:
    (content,) = (await caller.client.read_resource(uri)).contents
    assert isinstance(content, types.TextResourceContents)
    assert (content.mime_type, content.uri) == ("application/json", uri)
    found: dict[str, Any] = json.loads(content.text)
    return found


async def refused(what: Any) -> MCPError:
    try:
        await what
    except MCPError as error:
        return error
    raise AssertionError("it was not refused")


# -- resources ------------------------------------------------------------------------------------------------------------


@ERAS
async def test_a_run_is_read_by_address_as_its_tools_show_it(it: FrontService, mode: str) -> None:
    run_id = await started(it)
    async with it.as_(CLAUDE, "platform", mode=mode) as agent:
        run, plan = await read(agent, f"run://{run_id}"), await read(agent, f"run://{run_id}/plan")
        logs, evidence = await read(agent, f"run://{run_id}/logs"), await read(agent, f"run://{run_id}/evidence")
        by_tool = await agent.call("run_plan", run_id=run_id)

    assert (run["run"]["state"], run["data"]["requester"], run["data"]["approvals"]) == ("awaiting_approval", "agent:claude", [])
    assert plan == by_tool
    assert logs["data"]["content"]["untrusted"] is True
    assert evidence["data"]["v"] == "countersign.evidence/1"


@ERAS
@requirement("read:same-rights")
async def test_what_one_may_not_see_has_the_answer_of_what_is_not_there(it: FrontService, mode: str) -> None:
    run_id = await started(it)
    async with it.as_(OTTO, "dev", mode=mode) as other:
        answers = [
            await refused(other.client.read_resource(uri))
            for uri in (f"run://{run_id}", f"run://{run_id}/plan", f"run://{NOBODYS}", "run://nonsense", "environment://other/dev", "x://y")
        ]

    assert {(error.code, error.message) for error in answers} == {(types.INVALID_PARAMS, "Resource not found")}
    assert answers[0].data == {"uri": f"run://{run_id}"}
    assert ("run_get", "permission_denied") in {(row["action"], row["outcome"]) for row in await it.audited() if row["by"] == OTTO.id}


async def test_templates_are_those_whose_tools_one_has(it: FrontService) -> None:
    async with it.as_(CLAUDE, "worker") as worker:
        listed = [t.uri_template for t in (await worker.client.list_resource_templates()).resource_templates]
    async with it.as_(CLAUDE, "viewer") as viewer:
        more = [t.uri_template for t in (await viewer.client.list_resource_templates()).resource_templates]

    assert set(more) - set(listed) == set()
    assert f"{'run://{run_id}'}/evidence" in more


async def test_what_is_not_there_yet_says_why(it: FrontService) -> None:
    it.temporal.go_on.clear()
    async with it.as_(CLAUDE, "platform") as agent:
        run_id = (await agent.call("apply_terraform", env="dev"))["run"]["run_id"]
        error = await refused(agent.client.read_resource(f"run://{run_id}/plan"))

    assert (error.code, error.data["code"]) == (-32010, "failed_precondition")
    assert "no plan yet" in error.message


async def test_an_environment_and_the_policy_in_force_are_read(it: FrontService) -> None:
    async with it.as_(CLAUDE, "dev") as agent:
        env, dev = await read(agent, "environment://acme/prod"), await read(agent, "policy://acme/dev")
        prod = await read(agent, "policy://acme/prod")
        listed = {str(r.uri) for r in (await agent.client.list_resources()).resources}

    assert env["data"]["protected"] is True
    assert [rule["need"] for rule in dev["data"]["approvals"]] == ["deny", "auto", "person"]
    assert [len(p["data"]["floors"]) for p in (dev, prod)] == [1, 2]
    assert listed == {"run-types://catalog", "tools://manifest"}


async def test_the_catalogs_know_no_caller_and_change_with_what_they_list(it: FrontService) -> None:
    async with it.as_(CLAUDE, "dev") as agent:
        manifest, run_types = await read(agent, "tools://manifest"), await read(agent, "run-types://catalog")
        (content,) = (await agent.client.read_resource("tools://manifest")).contents
    async with it.as_(ANA, "admin") as ana:
        same = await read(ana, "tools://manifest")

    assert {t["name"] for t in manifest["tools"]} == set(it.front.toolset.tools)
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", t["digest"]) for t in manifest["tools"])
    assert {t["type"] for t in run_types["run_types"]} == set(RUN_TYPES)
    assert same == manifest
    assert content.meta is not None
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", content.meta["countersign/version"])


# -- prompts --------------------------------------------------------------------------------------------------------------


def text_of(prompt: types.GetPromptResult) -> str:
    (message,) = prompt.messages
    assert isinstance(message.content, types.TextContent)
    return message.content.text


@ERAS
async def test_a_prompt_is_a_runbook_with_the_facts_of_the_run(it: FrontService, mode: str) -> None:
    run_id = await started(it)
    async with it.as_(CLAUDE, "platform", mode=mode) as agent:
        (listed,) = [p for p in (await agent.client.list_prompts()).prompts if p.name == "plan-and-review"]
        text = text_of(await agent.client.get_prompt("plan-and-review", {"run_id": run_id}))

    assert listed.arguments is not None
    assert [(a.name, a.required) for a in listed.arguments] == [("run_id", True)]
    assert run_id in text
    assert "agent:claude for person:ana" in text
    assert (await it.run(run_id)).plan_digest in text
    assert '"a second replica" (untrusted)' in text


@pytest.mark.parametrize("role", ROLES)
@requirement("prompts:exist")
async def test_prompts_name_only_tools_states_and_codes_that_exist_for_the_role(it: FrontService, role: str) -> None:
    run_id = await started(it)
    kind = Kind.PERSON if role in PEOPLE_ONLY else Kind.AGENT
    who = Principal(id=f"{kind}:someone", kind=kind, acts_for=None)
    mine = {}
    async with it.as_(CLAUDE if kind is Kind.AGENT else ANA, role) as caller:  # whose run it is, so that every role sees it
        for prompt in (await caller.client.list_prompts()).prompts:
            argument = {"run_id": run_id, "stack_job_id": run_id, "target": "dev/net"}[prompt.arguments[0].name]  # type: ignore[index]
            mine[prompt.name] = text_of(await caller.client.get_prompt(prompt.name, {prompt.arguments[0].name: argument}))  # type: ignore[index]
        allowed = {t["name"] for t in await _allowed(caller)}
    words = {str(state) for state in RunState} | set(BY_CODE)
    for name, text in mine.items():
        named = set(re.findall(r"`([a-z_]+)`", text))
        assert named, name
        assert named - words <= allowed, (role, name, named - words - allowed)
    assert set(mine) >= {"plan-and-review", "debug-failed-stack-job"}, who
    assert ("safe-teardown" in mine) is ("destroy_terraform" in allowed)


async def _allowed(caller: Caller) -> list[dict[str, Any]]:
    """What a role may call, listed or not."""
    found: list[dict[str, Any]] = []
    for server in ("core", "runs", "terraform"):
        answer = await caller.call(
            "search_tools", text="run plan terraform get list destroy approve reject workspace state", server=server, limit=100
        )
        found += answer["data"]["tools"]
    return found


@ERAS
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("no-such-prompt", {}, "Unknown prompt: no-such-prompt"),
        ("safe-teardown", {"target": "dev/net"}, "Unknown prompt: safe-teardown"),  # dev destroys nothing
        ("plan-and-review", {}, "needs run_id"),
        ("plan-and-review", {"run_id": " "}, "needs run_id"),
        ("plan-and-review", {"run_id": NOBODYS, "run": "x"}, "no argument 'run'"),
        ("plan-and-review", {"run_id": NOBODYS}, "no run run_"),
    ],
)
async def test_what_is_unknown_to_a_prompt_is_an_invalid_parameter(
    it: FrontService, mode: str, name: str, arguments: Any, said: str
) -> None:
    async with it.as_(OTTO, "dev", mode=mode) as other:
        error = await refused(other.client.get_prompt(name, arguments))

    assert error.code == types.INVALID_PARAMS
    assert said in error.message


async def test_a_hidden_run_and_a_missing_one_are_told_apart_by_no_prompt(it: FrontService) -> None:
    run_id = await started(it)
    async with it.as_(OTTO, "dev") as other:
        hidden = await refused(other.client.get_prompt("debug-failed-stack-job", {"stack_job_id": run_id}))
        missing = await refused(other.client.get_prompt("debug-failed-stack-job", {"stack_job_id": NOBODYS}))

    assert hidden.message.replace(run_id, NOBODYS) == missing.message


# -- completions ----------------------------------------------------------------------------------------------------------

RUN_TEMPLATE = types.ResourceTemplateReference(uri="run://{run_id}")
ENVIRONMENT = types.ResourceTemplateReference(uri="environment://{org}/{env}")
REVIEW, DEBUG, TEARDOWN = (types.PromptReference(name=name) for name in ("plan-and-review", "debug-failed-stack-job", "safe-teardown"))


def completing(caller: Caller) -> Callable[..., Any]:
    async def complete(ref: Any, name: str, typed: str = "", **chosen: str) -> list[str]:
        done = await caller.client.complete(ref, {"name": name, "value": typed}, context_arguments=chosen or None)
        return list(done.completion.values)

    return complete


@ERAS
async def test_arguments_are_completed_with_what_there_is(it: FrontService, mode: str) -> None:
    run_id = await started(it)
    async with it.as_(CLAUDE, "platform", mode=mode) as agent:
        complete = completing(agent)
        assert await complete(ENVIRONMENT, "org") == ["acme"]
        assert await complete(ENVIRONMENT, "env", "p", org="acme") == ["prod"]
        assert await complete(ENVIRONMENT, "env", "", org="other") == []
        assert await complete(RUN_TEMPLATE, "run_id", "run_") == [run_id]
        assert await complete(RUN_TEMPLATE, "run_id", run_id[10:20]) == [run_id]  # from the middle, where nothing begins so
        assert await complete(DEBUG, "stack_job_id") == []  # none has failed
        assert await complete(TEARDOWN, "target", "acme/dev/n") == ["acme/dev/net"]
        assert await complete(TEARDOWN, "workspace", "", env="dev") == ["main", "net"]
        assert "platform" in await complete(REVIEW, "role", "pl")
        assert await complete(REVIEW, "nonsense") == []


@requirement("read:same-rights")
async def test_nothing_is_completed_that_one_may_not_see(it: FrontService) -> None:
    await started(it)
    async with it.as_(OTTO, "dev") as other:
        complete = completing(other)
        assert await complete(RUN_TEMPLATE, "run_id") == []
        assert await complete(REVIEW, "workspace") == []
        unknown = [
            await refused(complete(ref, "target"))
            for ref in (TEARDOWN, types.PromptReference(name="nonsense"), types.ResourceTemplateReference(uri="x://{y}"))
        ]

    assert {error.code for error in unknown} == {types.INVALID_PARAMS}


async def test_no_more_than_a_hundred_are_offered_and_the_rest_is_counted(it: FrontService) -> None:
    for n in range(101):
        await it.stack(f"many-{n}")
    async with it.as_(CLAUDE, "platform") as agent:
        done = await agent.client.complete(TEARDOWN, {"name": "target", "value": "acme/dev/many"})

    assert (len(done.completion.values), done.completion.total, done.completion.has_more) == (100, 101, True)
