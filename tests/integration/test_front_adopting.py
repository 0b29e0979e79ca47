"""Adopting a speculative plan, by a real MCP client: the run takes that plan as its own, or says why it cannot."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters.store.schema import plans, states
from countersign.core.run import RunState
from tests.integration.front import ANA, CLAUDE, Caller, FrontService, front_service, moved_clock
from tests.postgres import BOTH, database_of
from tests.requirements import requirement

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BOTH)
async def it(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FrontService]:
    with database_of(request) as database:
        async with front_service(tmp_path, database=database) as running:
            running.engine.want(("a", "create"))
            await running.stack()
            yield running


@pytest.fixture
async def agent(it: FrontService) -> AsyncIterator[Caller]:
    async with it.as_(CLAUDE, "platform") as caller:
        yield caller


async def planned(agent: Caller, **asked: Any) -> dict[str, Any]:
    run: dict[str, Any] = (await agent.call("terraform_plan", env="dev", wait_seconds=20, **asked))["run"]
    assert run["state"] == "planned_and_finished"
    return run


async def moved_state(it: FrontService, agent: Caller) -> None:
    """Somebody else's apply stores a state."""
    stack_id = (await agent.call("terraform_get_workspace", env="dev"))["data"]["id"]
    async with it.front.store.begin() as tx:
        mine = states.c.stack_id == stack_id
        await tx.execute(states.update().where(mine).values(lineage="l", serial=1, seq=1, sha256="s"))


@requirement("adopt:asks-for-itself")
async def test_an_adopted_plan_is_applied_as_it_was_made_after_an_approval_of_its_own(it: FrontService, agent: Caller) -> None:
    looked = await planned(agent, vars={"size": 3})
    it.engine.want(("b", "create"))  # what a new plan would do
    asked = await agent.call("apply_terraform", env="dev", plan_digest=looked["plan_digest"], wait_seconds=20)
    run = asked["run"]

    assert run["state"] == "awaiting_approval"
    assert run["plan_digest"] != looked["plan_digest"]
    plan = (await agent.call("run_plan", run_id=run["run_id"]))["data"]
    assert f"by {looked['run_id']} and adopted" in plan["risks"][0]
    assert plan["expires_at"] == (await agent.call("run_plan", run_id=looked["run_id"]))["data"]["expires_at"]
    async with it.as_(ANA, "approver") as ana:
        error = await ana.refused("run_approve", run_id=run["run_id"], plan_digest=looked["plan_digest"])
        assert error["code"] == "plan_stale"
        await ana.call("run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
    await it.reaches(run["run_id"], RunState.APPLIED)
    assert it.engine.world == ["a create"]


@requirement("adopt:or-stale")
async def test_a_plan_on_a_state_that_moved_is_stale_and_a_repeated_request_still_finds_its_run(it: FrontService, agent: Caller) -> None:
    looked, other = await planned(agent), await planned(agent, vars={"size": 3})
    first = await agent.call("apply_terraform", env="dev", plan_digest=looked["plan_digest"], idempotency_key="adopt-it-1", wait_seconds=20)
    await moved_state(it, agent)

    error = await agent.refused("apply_terraform", env="dev", plan_digest=other["plan_digest"])
    again = await agent.call("apply_terraform", env="dev", plan_digest=looked["plan_digest"], idempotency_key="adopt-it-1")

    assert (error["code"], error["field"], error["next"]) == ("plan_stale", "plan_digest", ["apply_terraform"])
    assert "from serial 0 to 1" in error["message"]
    assert (again["replayed"], again["run"]["run_id"]) == (True, first["run"]["run_id"])


@requirement("adopt:or-stale")
async def test_what_a_plan_was_made_of_is_compared_when_it_is_adopted(it: FrontService, agent: Caller) -> None:
    looked = await planned(agent)
    async with it.front.store.begin() as tx:  # as if the source had changed meanwhile
        await tx.execute(plans.update().values(inputs='{"vars": ["gone"]}'))
    run = (await agent.call("apply_terraform", env="dev", plan_digest=looked["plan_digest"], wait_seconds=20))["run"]
    ended = await it.run(run["run_id"])

    assert (ended.state, ended.code) == (RunState.ERRORED, "plan_stale")
    assert "the variables are others" in (ended.reason or "")
    assert it.engine.launched == []


@requirement("adopt:or-stale")
async def test_a_plan_lives_as_long_as_an_approval(it: FrontService, agent: Caller) -> None:
    looked = await planned(agent)
    with moved_clock(it.front.store, hours=25):
        error = await agent.refused("apply_terraform", env="dev", plan_digest=looked["plan_digest"])

    assert error["code"] == "plan_stale"
    assert "has expired" in error["message"]


@requirement("adopt:whole-plans")
async def test_a_plan_with_targets_or_of_a_destruction_has_no_digest_to_adopt(it: FrontService, agent: Caller) -> None:
    aimed = await agent.call("terraform_plan", env="dev", targets=["terraform_data.a"], wait_seconds=20)
    destroying = await planned(agent, destroy=True)

    assert "nothing can adopt it" in aimed["warnings"][0]
    assert "plan_digest" not in aimed["run"] and "plan_digest" not in destroying


async def test_other_variables_beside_the_digest_are_refused_and_the_plans_own_may_be_repeated(it: FrontService, agent: Caller) -> None:
    looked = await planned(agent, vars={"size": 3})

    error = await agent.refused("apply_terraform", env="dev", plan_digest=looked["plan_digest"], vars={"size": 4})
    same = await agent.call("apply_terraform", env="dev", plan_digest=looked["plan_digest"], vars={"size": 3}, wait_seconds=20)

    assert (error["code"], error["field"]) == ("plan_stale", "vars")
    assert same["run"]["state"] == "awaiting_approval"


async def test_the_plan_of_a_run_that_applies_is_approved_there_and_adopted_nowhere(it: FrontService, agent: Caller) -> None:
    waiting = (await agent.call("apply_terraform", env="dev", wait_seconds=20))["run"]
    await it.stack("other")

    error = await agent.refused("apply_terraform", env="dev", plan_digest=waiting["plan_digest"])
    elsewhere = await agent.refused(
        "apply_terraform", env="dev", workspace="other", plan_digest=(await planned(agent, vars={"n": 1}))["plan_digest"]
    )

    assert (error["code"], error["next"]) == ("plan_stale", ["run_get"])
    assert waiting["run_id"] in error["message"]
    assert "no plan of acme/dev/other has this digest" in elsewhere["message"]


async def test_an_adopted_run_that_is_run_again_makes_a_new_plan(it: FrontService, agent: Caller) -> None:
    looked = await planned(agent)
    run = (await agent.call("apply_terraform", env="dev", plan_digest=looked["plan_digest"], wait_seconds=20))["run"]
    await agent.call("run_cancel", run_id=run["run_id"])
    it.engine.want(("b", "create"))
    again = (await agent.call("run_rerun", run_id=run["run_id"], wait_seconds=20))["run"]

    assert [c["address"] for c in (await agent.call("run_plan", run_id=again["run_id"]))["data"]["changes"]["items"]] == ["b"]
