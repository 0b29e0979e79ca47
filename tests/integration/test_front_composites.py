"""Asking for several runs as one, by a real MCP client: whose right that is, what is refused, and how it is read, ended and resumed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from countersign.core.run import RunState
from tests.integration.front import ANA, CLAUDE, FrontService, front_service
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FrontService]:
    with database_of(request) as database:
        async with front_service(tmp_path, database=database) as running:
            running.engine.want(("net", "create"), of="net")
            running.engine.want(("app", "create"), of="app")
            for slug in ("net", "app"):
                await running.stack(slug)
            await running.stack("app", env="prod")
            yield running


def step(slug: str, tool: str = "apply_terraform", **more: Any) -> dict[str, Any]:
    return {"type": tool, "input": {"env": "dev", "workspace": slug, **more.pop("input", {})}, **more}


BOTH_STEPS = [step("net"), step("app")]


async def composed(it: FrontService, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A composite that waits for approval, as it was answered."""
    async with it.as_(CLAUDE, "platform") as agent:
        asked: dict[str, Any] = await agent.call(
            "run_start", type="composite", input={"steps": list(steps or BOTH_STEPS)}, wait_seconds=20, **more
        )
    assert asked["run"]["state"] == "awaiting_approval", asked
    return asked


@requirement("composite:asked-for", "composite:one-approval")
async def test_an_agent_asks_for_two_runs_as_one_and_a_person_agrees_once(it: FrontService) -> None:
    asked = await composed(it, message="the shop, whole")
    run = asked["run"]

    async with it.as_(ANA, "approver") as ana:
        plan = (await ana.call("run_plan", run_id=run["run_id"]))["data"]
        assert [c["address"] for c in plan["changes"]["items"]] == ["1/net", "2/app"]
        assert [(s["step"], s["type"], s["workspace"]) for s in plan["steps"]] == [
            (1, "apply_terraform", "acme/dev/net"),
            (2, "apply_terraform", "acme/dev/app"),
        ]
        await ana.call("run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
        await it.reaches(run["run_id"], RunState.APPLIED)
        told = await ana.call("run_get", run_id=run["run_id"], include=["input", "outputs", "resources"])

    assert it.engine.world == ["net create", "app create"]
    assert [(s["step"], s["state"]) for s in told["data"]["steps_of_it"]] == [(1, "applied"), (2, "applied")]
    assert told["data"]["input"]["steps"][0] == {"type": "apply_terraform", "input": {"env": "acme/dev", "workspace": "net"}}
    assert set(told["data"]["outputs"]["values"]) == {"1/made", "2/made"}
    assert told["data"]["workspace"] == "acme/dev/net + acme/dev/app"


async def test_a_step_names_its_composite_and_the_list_shows_the_composite(it: FrontService) -> None:
    run = (await composed(it))["run"]
    async with it.as_(CLAUDE, "platform") as agent:
        listed = (await agent.call("run_list"))["data"]["runs"]
        of_app = (await agent.call("run_list", target="dev/app"))["data"]["runs"]
        member = await agent.call("run_get", run_id=of_app[0]["run_id"])

    assert [one["run_id"] for one in listed] == [run["run_id"]]
    assert [(one["type"], one["composite"]) for one in of_app] == [("apply_terraform", run["run_id"])]
    assert member["data"]["composite"] == {"run_id": run["run_id"], "step": 2}
    assert member["data"]["waits_for"] == f"{run['run_id']}, which it is step 2 of, to be agreed to and to come to it"
    assert "approval" not in member["run"] and member["next"] == ["run_wait", "run_plan"]


REFUSED: dict[str, tuple[list[Any], str, str, str]] = {
    "no steps": ([], "invalid_argument", "input.steps", "at least 1"),
    "too many": ([step("net")] * 11, "invalid_argument", "input.steps", "at most 10"),
    "an unknown type": ([step("net", "aply_terraform")], "invalid_argument", "input.steps.0.type", "did you mean apply_terraform?"),
    "a type that only looks": ([step("net"), step("app", "terraform_plan")], "invalid_argument", "input.steps.1.type", "changes nothing"),
    "a composite in it": (
        [{"type": "composite", "input": {"steps": BOTH_STEPS}}],
        "invalid_argument",
        "input.steps.0.type",
        "a composite holds no composite",
    ),
    "the same stack twice": ([step("net"), step("net", "destroy_terraform")], "invalid_argument", "input.steps.1", "as steps.0 does"),
    "a late first step": ([step("net", late=True)], "invalid_argument", "input.steps.0.late", "nothing to wait for"),
    "an unknown workspace": ([step("net"), step("ap")], "not_found", "input.steps.1.input.workspace", "did you mean app?"),
    "an unknown argument": (
        [step("net", input={"colour": "red"})],
        "invalid_argument",
        "input.steps.0.input.colour",
        "takes no argument 'colour'",
    ),
    "an argument of the whole": ([step("net", input={"dry_run": True})], "invalid_argument", "input.steps.0.input.dry_run", "to the whole"),
    "another word": ([{**step("net"), "after": "x"}], "invalid_argument", "input.steps.0.after", "not permitted"),
}


@requirement("composite:asked-for")
@pytest.mark.parametrize(("steps", "code", "field", "says"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_is_wrong_with_one_step_refuses_all_of_them(
    it: FrontService, steps: list[Any], code: str, field: str, says: str
) -> None:
    async with it.as_(CLAUDE, "platform") as agent:
        error = await agent.refused("run_start", type="composite", input={"steps": steps})
        left = (await agent.call("run_list"))["data"]["runs"]
        nothing_began = [(await agent.call("run_list", target=f"dev/{slug}"))["data"]["runs"] for slug in ("net", "app")]

    assert (error["code"], error["field"]) == (code, field), error
    assert says in error["message"]
    assert (left, nothing_began) == ([], [[], []])


@requirement("composite:asked-for")
async def test_a_composite_needs_the_right_to_each_steps_own_tool(it: FrontService) -> None:
    async with it.as_(CLAUDE, "ci") as agent:  # may apply, and not destroy
        error = await agent.refused("run_start", type="composite", input={"steps": [step("net"), step("app", "destroy_terraform")]})
        assert (error["code"], (await agent.call("run_list"))["data"]["runs"]) == ("permission_denied", [])
        assert "terraform:destroy" in error["message"]
        await agent.call("run_start", type="composite", input={"steps": BOTH_STEPS})


@requirement("promise:asking-twice")
async def test_the_same_key_is_the_same_composite_and_other_steps_under_it_are_refused(it: FrontService) -> None:
    first = (await composed(it, idempotency_key="shop-2026-01"))["run"]
    async with it.as_(CLAUDE, "platform") as agent:
        again = await agent.call("run_start", type="composite", input={"steps": BOTH_STEPS}, idempotency_key="shop-2026-01")
        error = await agent.refused(
            "run_start", type="composite", input={"steps": [step("net"), step("app", late=True)]}, idempotency_key="shop-2026-01"
        )
        alone = await agent.call("apply_terraform", env="dev", workspace="net")  # is a run of its own, and joins no step

    assert (again["run"]["run_id"], again["replayed"]) == (first["run_id"], True)
    assert (error["code"], error["field"]) == ("idempotency_mismatch", "steps")
    assert "replayed" not in alone


@requirement("composite:claim")
async def test_a_step_is_decided_canceled_resumed_and_repeated_with_the_whole(it: FrontService) -> None:
    run = (await composed(it))["run"]
    async with it.as_(ANA, "admin") as ana:
        first, _ = (await ana.call("run_get", run_id=run["run_id"]))["data"]["steps_of_it"]
        given = {
            "run_approve": {"plan_digest": first["plan_digest"]},
            "run_reject": {"reason": "no"},
            "run_cancel": {},
            "run_resume": {},
            "run_rerun": {},
        }
        for tool, arguments in given.items():
            error = await ana.refused(tool, run_id=first["run_id"], **arguments)
            assert (error["code"], error["run_id"]) == ("failed_precondition", run["run_id"]), tool
            assert f"this is step 1 of {run['run_id']}" in error["message"]
    assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL


@requirement("composite:resume")
async def test_resuming_finishes_the_second_without_repeating_the_first(it: FrontService) -> None:
    it.engine.want(("app", "fail"), of="app")
    run = (await composed(it))["run"]
    async with it.as_(ANA, "admin") as ana:
        await ana.call("run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
        partial = await it.reaches(run["run_id"], RunState.PARTIALLY_APPLIED)
        assert partial.reason == "step 2 (acme/dev/app) ended errored: it was refused"
        logs = (await ana.call("run_logs", run_id=run["run_id"]))["data"]
        assert {"2/plan-1", "1/apply-1", "ledger"} <= {one["step"] for one in logs["steps"]}

        it.engine.want(("app", "create"), of="app")
        rest = (await ana.call("run_resume", run_id=run["run_id"], wait_seconds=20))["run"]
        told = (await ana.call("run_get", run_id=rest["run_id"], include=["input"]))["data"]
        assert [s["workspace"] for s in told["steps_of_it"]] == ["acme/dev/app"]
        assert told["input"]["resumes"] == run["run_id"]
        await ana.call("run_approve", run_id=rest["run_id"], plan_digest=rest["plan_digest"])
        await it.reaches(rest["run_id"], RunState.APPLIED)

        assert it.engine.world == ["net create", "app create"]
        error = await ana.refused("run_resume", run_id=rest["run_id"])
        assert error["code"] == "failed_precondition"
        whole = (await ana.call("run_rerun", run_id=run["run_id"], wait_seconds=20))["run"]
        assert len((await ana.call("run_get", run_id=whole["run_id"]))["data"]["steps_of_it"]) == 2


async def test_a_dry_run_of_a_composite_shows_its_plan_and_ends(it: FrontService) -> None:
    async with it.as_(CLAUDE, "platform") as agent:
        asked = await agent.call("run_start", type="composite", input={"steps": BOTH_STEPS}, dry_run=True, wait_seconds=20)
        plan = (await agent.call("run_plan", run_id=asked["run"]["run_id"]))["data"]

    assert asked["run"]["state"] == "planned_and_finished"
    assert [c["address"] for c in plan["changes"]["items"]] == ["1/net", "2/app"]
    assert it.engine.launched == []


@requirement("composite:policy")
async def test_a_step_in_a_protected_environment_asks_for_another_person(it: FrontService) -> None:
    prod = {"type": "apply_terraform", "input": {"env": "prod", "workspace": "app"}}
    run = (await composed(it, step("net"), prod))["run"]
    assert run["approval"]["by"] == ["a person other than the requester's (person:ana)"]
    async with it.as_(ANA, "approver") as ana:
        error = await ana.refused("run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
        assert error["code"] == "policy_denied"


async def test_a_dry_run_of_a_composite_that_is_run_again_is_one_again(it: FrontService) -> None:
    steps = [step("net"), step("app", tool="destroy_terraform")]
    async with it.as_(CLAUDE, "platform") as agent:
        asked = await agent.call("run_start", type="composite", input={"steps": steps}, dry_run=True, wait_seconds=20)
        again = await agent.call("run_rerun", run_id=asked["run"]["run_id"], wait_seconds=20)

    assert again["run"]["run_id"] != asked["run"]["run_id"]
    assert again["run"]["state"] == "planned_and_finished", again
    assert it.engine.world == []
