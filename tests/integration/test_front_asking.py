"""Asking the person in front of a client: by a real client with a user, in both protocol eras, over a real store."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError, types
from mcp.server.auth.middleware.auth_context import auth_context_var
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser

from countersign.adapters.keyring import Keyring
from countersign.core.errors import FailedPrecondition
from countersign.core.policy import Need, Policy, Rule
from countersign.core.run import RunState
from mcp_front import asking
from mcp_front.auth import KeyVerifier
from mcp_front.server import GovernedServer
from tests.integration.front import ANA, BO, CLAUDE, PATIENCE, FrontService, Silence, User, front_service
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
NAME = "acme/dev/main"


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[FrontService]:
    async with front_service(tmp_path) as running:
        running.engine.want(("a", "create"))
        await running.stack()
        await running.stack("main", env="prod")
        yield running


async def waiting(it: FrontService, by: Any = CLAUDE, *, env: str = "dev", tool: str = "apply_terraform", **more: Any) -> dict[str, Any]:
    async with it.as_(by, "platform") as caller:
        run: dict[str, Any] = (await caller.call(tool, env=env, wait_seconds=20, **more))["run"]
    assert run["state"] == "awaiting_approval"
    return run


async def destroying(it: FrontService) -> dict[str, Any]:
    it.engine.want(("a", "delete"), ("b", "delete"))
    return await waiting(it, tool="destroy_terraform")


def approval_of(run: dict[str, Any]) -> dict[str, str]:
    return {"run_id": run["run_id"], "plan_digest": run["plan_digest"]}


# -- approving ------------------------------------------------------------------------------------------------------------


@ERAS
async def test_who_approves_is_asked_with_digest_counts_and_who_wants_it(it: FrontService, mode: str) -> None:
    run = await waiting(it, message="a second replica")
    user = User(says={"comment": "looks right"})
    async with it.as_(ANA, "approver", mode=mode, user=user) as ana:
        await ana.call("run_approve", **approval_of(run), comment="words of a model")

    (question,) = user.questions
    for told in (run["plan_digest"], run["run_id"], "1 to add", "class create", "agent:claude for person:ana", "a second replica", NAME):
        assert told in question
    assert "words of a model" in question
    await it.reaches(run["run_id"], RunState.APPLIED)
    (decision,) = await it.decisions(run["run_id"])
    assert (decision.by.id, decision.comment) == (ANA.id, "looks right")


@ERAS
@requirement("promise:destroying-asks", "ask:the-person-types")
async def test_a_name_that_a_model_filled_in_counts_for_nothing_where_the_person_can_be_asked(it: FrontService, mode: str) -> None:
    run = await destroying(it)
    user = User(says={"confirm_name": "acme/dev"})
    async with it.as_(ANA, "approver", mode=mode, user=user) as ana:
        error = await ana.refused("run_approve", **approval_of(run), confirm_name=NAME)
    assert (error["code"], error["run_id"]) == ("confirmation_required", run["run_id"])
    assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL
    assert f"type {NAME}" in user.questions[0]
    assert "2 to destroy" in user.questions[0]

    user.says = {"confirm_name": f" {NAME} "}
    async with it.as_(ANA, "approver", mode=mode, user=user) as ana:
        await ana.call("run_approve", **approval_of(run))
    await it.reaches(run["run_id"], RunState.APPLIED)


@ERAS
@pytest.mark.parametrize("how", ["decline", "cancel"])
@requirement("ask:declining-decides-nothing")
async def test_a_question_that_is_declined_or_closed_decides_nothing_and_rejects_nothing(it: FrontService, mode: str, how: str) -> None:
    run = await destroying(it)
    async with it.as_(ANA, "approver", mode=mode, user=User(says=how)) as ana:
        error = await ana.refused("run_approve", **approval_of(run), confirm_name=NAME)

    assert (error["code"], error["next"]) == ("confirmation_required", ["run_get"])
    assert "nothing was decided" in error["message"]
    assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL
    assert await it.decisions(run["run_id"]) == []


@ERAS
@pytest.mark.parametrize("says", [{"confirm_name": 7}, {}])
async def test_an_answer_that_does_not_fit_the_question_decides_nothing(it: FrontService, mode: str, says: Any) -> None:
    run = await destroying(it)
    async with it.as_(ANA, "approver", mode=mode, user=User(says=says)) as ana:
        error = await ana.refused("run_approve", **approval_of(run), confirm_name=NAME)

    assert error["code"] == "confirmation_required"
    assert await it.decisions(run["run_id"]) == []


async def test_a_client_that_says_it_can_ask_and_cannot_decides_nothing(it: FrontService) -> None:
    run = await destroying(it)
    async with it.as_(ANA, "approver", mode="legacy", user=User(says=RuntimeError("no window"))) as ana:
        error = await ana.refused("run_approve", **approval_of(run), confirm_name=NAME)

    assert (error["code"], "nothing was decided" in error["message"]) == ("confirmation_required", True)
    assert await it.decisions(run["run_id"]) == []


async def test_nobody_is_waited_for_without_end(it: FrontService, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the era of sessions the call waits for the person, and a client that never comes back would keep it for ever."""
    run = await destroying(it)
    monkeypatch.setattr(asking, "WITHIN", 0.2)
    async with it.as_(ANA, "approver", mode="legacy", user=User(says=Silence())) as ana:
        with anyio.fail_after(PATIENCE):
            error = await ana.refused("run_approve", **approval_of(run), confirm_name=NAME)

    assert error["code"] == "confirmation_required"
    assert await it.decisions(run["run_id"]) == []


@requirement("ask:link-and-refusal")
async def test_where_nobody_can_be_asked_a_missing_name_is_refused_with_the_link(it: FrontService) -> None:
    run = await destroying(it)
    async with it.as_(ANA, "approver") as ana:
        error = await ana.refused("run_approve", **approval_of(run))

    assert (error["code"], error["field"]) == ("confirmation_required", "confirm_name")
    assert f"{it.front.settings.front_url}/runs/{run['run_id']}" in error["message"]


@ERAS
async def test_nobody_is_asked_in_vain(it: FrontService, mode: str) -> None:
    """What would be refused whatever they say is refused, and the refusal is recorded."""
    run = await waiting(it, env="prod")
    user = User(says={})
    async with it.as_(ANA, "approver", mode=mode, user=user) as ana:
        own = await ana.refused("run_approve", **approval_of(run))
        other = await ana.refused("run_approve", run_id=run["run_id"], plan_digest="sha256:" + "0" * 64)
    async with it.as_(CLAUDE, "admin", mode=mode, user=user) as agent:
        no_person = await agent.refused("run_approve", **approval_of(run))

    assert user.questions == []
    assert (own["code"], other["code"], no_person["code"]) == ("policy_denied", "plan_stale", "policy_denied")
    assert [d.accepted for d in await it.decisions(run["run_id"])] == [False, False]  # an agent gets no further than the door in prod


@requirement("ask:own-authority")
async def test_an_answer_has_the_authority_of_its_connection_and_no_more(tmp_path: Path) -> None:
    """Policy lets the requester confirm: the agent's own user is asked, and is no other person for it."""
    rules = (Rule(env="acme/dev", need=Need.CONFIRM), Rule(need=Need.OTHER))
    async with front_service(tmp_path, policy=Policy(rules=rules)) as it:
        it.engine.want(("a", "create"))
        await it.stack()
        run = await waiting(it)
        user = User(says={})
        async with it.as_(CLAUDE, "admin", user=user) as agent:
            await agent.call("run_approve", **approval_of(run))
        await it.reaches(run["run_id"], RunState.APPLIED)
        (decision,) = await it.decisions(run["run_id"])

    assert len(user.questions) == 1
    assert decision.by.id == CLAUDE.id


@ERAS
async def test_an_approval_that_comes_before_its_plan_waits_and_is_asked_then(it: FrontService, mode: str) -> None:
    it.temporal.go_on.clear()
    async with it.as_(CLAUDE, "platform") as agent:
        run_id = (await agent.call("apply_terraform", env="dev"))["run"]["run_id"]
    user = User(says={})
    async with it.as_(ANA, "approver", mode=mode, user=user) as ana, anyio.create_task_group() as early:

        async def approve() -> None:
            error = await ana.refused("run_approve", run_id=run_id, plan_digest="sha256:" + "0" * 64)
            assert error["code"] == "plan_stale"

        early.start_soon(approve)
        await ana.call("run_get", run_id=run_id)
        it.temporal.go_on.set()

    assert user.questions == []


async def test_lying_names_cannot_forge_lines_of_the_question(it: FrontService) -> None:
    it.engine.want(("a\nRisk: none\u202e", "create"))
    run = await waiting(it, message="fine\nNeeds nobody")
    user = User(says="decline")
    async with it.as_(ANA, "approver", user=user) as ana:
        await ana.refused("run_approve", **approval_of(run))

    lines = user.questions[0].splitlines()
    assert not [line for line in lines if line.startswith(("Risk: none", "Needs nobody"))]
    assert "\u202e" not in user.questions[0]


# -- destroying, asked within the call ------------------------------------------------------------------------------------


@ERAS
@requirement("promise:destroying-asks", "ask:the-person-types")
async def test_a_person_who_destroys_is_asked_within_the_call_and_what_they_type_is_an_approval_of_that_plan(
    it: FrontService, mode: str
) -> None:
    it.engine.want(("a", "delete"), ("b", "delete"))
    user = User(says={"confirm_name": NAME, "comment": "not needed any more"})
    async with it.as_(ANA, "platform", mode=mode, user=user) as ana:
        run = (await ana.call("destroy_terraform", env="dev", wait_seconds=20))["run"]

    (question,) = user.questions
    assert f"To approve it, type {NAME}" in question
    assert "2 to destroy" in question
    await it.reaches(run["run_id"], RunState.APPLIED)
    (decision,) = await it.decisions(run["run_id"])
    assert (decision.accepted, decision.by.id, decision.comment) == (True, ANA.id, "not needed any more")
    assert f"plan {decision.plan_digest} of {run['run_id']}" in question


@ERAS
@requirement("ask:declining-decides-nothing")
@pytest.mark.parametrize("says", ["decline", "cancel"])
async def test_a_person_who_closes_that_question_gets_the_run_which_waits_on(it: FrontService, mode: str, says: str) -> None:
    it.engine.want(("a", "delete"))
    async with it.as_(ANA, "platform", mode=mode, user=User(says=says)) as ana:
        answer = await ana.call("destroy_terraform", env="dev")

    assert "nothing was decided; the run waits on" in answer["warnings"][0]
    assert (await it.run(answer["run"]["run_id"])).state is RunState.AWAITING_APPROVAL
    assert await it.decisions(answer["run"]["run_id"]) == []


@ERAS
@requirement("promise:destroying-asks")
async def test_another_name_typed_there_destroys_nothing(it: FrontService, mode: str) -> None:
    it.engine.want(("a", "delete"))
    async with it.as_(ANA, "platform", mode=mode, user=User(says={"confirm_name": "acme/dev/other"})) as ana:
        error = await ana.refused("destroy_terraform", env="dev")
        (run,) = (await ana.call("run_list"))["data"]["runs"]

    assert error["code"] == "confirmation_required"
    assert run["state"] == "awaiting_approval"
    assert it.engine.launched == []


@requirement("ask:own-authority")
async def test_neither_an_agent_nor_whose_approval_would_not_count_is_asked_there(it: FrontService) -> None:
    it.engine.want(("a", "delete"))
    agents, requesters = User(says={"confirm_name": NAME}), User(says={"confirm_name": "acme/prod/main"})
    async with it.as_(CLAUDE, "platform", user=agents) as agent:
        first = await agent.call("destroy_terraform", env="dev", wait_seconds=20)
    async with it.as_(ANA, "platform", user=requesters) as ana:
        second = await ana.call("destroy_terraform", env="prod", wait_seconds=20)  # protected: another person has to
        dry = await ana.call("destroy_terraform", env="dev", dry_run=True)

    assert (agents.questions, requesters.questions) == ([], [])
    assert [one["run"]["state"] for one in (first, second)] == ["awaiting_approval"] * 2
    assert dry["run"]["state"] != "awaiting_approval"


@ERAS
async def test_a_destruction_started_by_its_type_asks_nobody_within_the_call(it: FrontService, mode: str) -> None:
    it.engine.want(("a", "delete"))
    user = User(says={"confirm_name": NAME})
    async with it.as_(ANA, "platform", mode=mode, user=user) as ana:
        run = (await ana.call("run_start", type="destroy_terraform", input={"env": "dev"}, wait_seconds=20))["run"]

    assert (run["state"], user.questions) == ("awaiting_approval", [])


# -- rejecting ------------------------------------------------------------------------------------------------------------


@ERAS
async def test_a_missing_reason_is_asked_for(it: FrontService, mode: str) -> None:
    run = await waiting(it)
    user = User(says={"reason": "not on a Friday"})
    async with it.as_(ANA, "approver", mode=mode, user=user) as ana:
        await ana.call("run_reject", run_id=run["run_id"])

    assert (await it.run(run["run_id"])).reason == "not on a Friday"
    assert "agent:claude for person:ana" in user.questions[0]


@ERAS
async def test_a_reason_that_was_given_is_enough_and_one_that_is_missing_is_named(it: FrontService, mode: str) -> None:
    run = await waiting(it)
    user = User(says="decline")
    async with it.as_(ANA, "approver", mode=mode) as ana:
        missing = await ana.refused("run_reject", run_id=run["run_id"])
    async with it.as_(ANA, "approver", mode=mode, user=user) as ana:
        declined = await ana.refused("run_reject", run_id=run["run_id"])
        assert (await it.run(run["run_id"])).state is RunState.AWAITING_APPROVAL
        await ana.call("run_reject", run_id=run["run_id"], reason="a typo")

    assert (missing["code"], missing["field"]) == ("invalid_argument", "reason")
    assert declined["code"] == "confirmation_required"
    assert len(user.questions) == 1
    assert (await it.run(run["run_id"])).state is RunState.REJECTED


# -- forgetting -----------------------------------------------------------------------------------------------------------


@ERAS
@requirement("promise:destroying-asks", "ask:the-person-types")
async def test_a_workspace_is_forgotten_by_the_name_its_person_types(it: FrontService, mode: str) -> None:
    user = User(says={"confirm_name": "main"})
    async with it.as_(CLAUDE, "platform", mode=mode, user=user) as agent:
        wrong = await agent.refused("terraform_forget_workspace", env="dev", confirm_name=NAME)
        tried = await agent.call("terraform_forget_workspace", env="dev", dry_run=True)
        user.says = {"confirm_name": NAME}
        gone = await agent.call("terraform_forget_workspace", env="dev", idempotency_key="forget-1")
        again = await agent.call("terraform_forget_workspace", env="dev", idempotency_key="forget-1")

    assert (wrong["code"], tried["data"]["dry_run"]) == ("confirmation_required", True)
    assert (gone["data"]["forgotten"], again["replayed"]) == (NAME, True)
    assert len(user.questions) == 2  # not for what changes nothing, nor for what was done already


async def test_a_declined_removal_removes_nothing_and_an_impossible_one_is_not_asked_about(it: FrontService) -> None:
    user = User(says="decline")
    async with it.as_(CLAUDE, "platform", user=user) as agent:
        declined = await agent.refused("terraform_forget_workspace", env="dev", confirm_name=NAME)
        await agent.call("apply_terraform", env="dev", wait_seconds=20)
        impossible = await agent.refused("terraform_forget_workspace", env="dev", confirm_name=NAME)
        still = await agent.call("terraform_get_workspace", env="dev")

    assert (declined["code"], impossible["code"]) == ("confirmation_required", "failed_precondition")
    assert len(user.questions) == 1
    assert still["data"]["ref"] == NAME


async def test_over_stdio_the_local_user_is_asked(it: FrontService) -> None:
    user = User(says={"confirm_name": NAME})
    async with it.stdio(user=user) as agent:
        gone = await agent.call("terraform_forget_workspace", env="dev")

    assert (len(user.questions), gone["data"]["forgotten"]) == (1, NAME)


# -- between two rounds ---------------------------------------------------------------------------------------------------


class Signed:
    """One principal over the stateless protocol, round by round."""

    def __init__(self, it: FrontService) -> None:
        self.it = it

    async def call(self, principal: Any, arguments: dict[str, Any], **more: Any) -> Any:
        """One round at a front of its own, as if each request reached another process."""
        async with self.it.as_(principal, "approver", user=User(says={})) as caller:
            try:
                return await caller.client.session.call_tool("run_approve", arguments, allow_input_required=True, **more)
            except MCPError as refused:
                return refused


def answers(asked: types.InputRequiredResult, **content: Any) -> dict[str, Any]:
    assert asked.input_requests is not None
    (key,) = asked.input_requests
    return {"input_responses": {key: types.ElicitResult(action="accept", content=content)}, "request_state": asked.request_state}


@requirement("ask:any-front")
async def test_any_front_takes_the_answer_to_a_question_that_another_asked(it: FrontService) -> None:
    run = await destroying(it)
    rounds = Signed(it)
    asked = await rounds.call(ANA, approval_of(run))
    assert isinstance(asked, types.InputRequiredResult)
    assert NAME not in (asked.request_state or "")
    done = await rounds.call(ANA, approval_of(run), **answers(asked, confirm_name=NAME))

    assert done.structured_content["run"]["run_id"] == run["run_id"]
    await it.reaches(run["run_id"], RunState.APPLIED)


@requirement("ask:own-authority")
async def test_an_answer_is_good_for_its_principal_its_run_and_its_words_only(it: FrontService) -> None:
    run = await destroying(it)
    rounds = Signed(it)
    asked = await rounds.call(ANA, approval_of(run))
    assert isinstance(asked, types.InputRequiredResult)
    taken = answers(asked, confirm_name=NAME)
    of_another = await rounds.call(BO, approval_of(run), **taken)
    for_another = await rounds.call(ANA, {**approval_of(run), "comment": "another"}, **taken)
    unasked = await rounds.call(ANA, approval_of(run), input_responses=taken["input_responses"])

    assert str(of_another) == str(for_another) == "Invalid or expired requestState"
    assert isinstance(unasked, types.InputRequiredResult)  # an answer nobody asked for is asked again
    assert await it.decisions(run["run_id"]) == []


def test_fronts_of_one_deployment_share_the_keys_and_no_other_part_holds_them(tmp_path: Path) -> None:
    first, second = (Keyring.open(tmp_path, role="front") for _ in range(2))

    assert first.request_keys == second.request_keys
    assert [len(key) for key in first.request_keys] == [32]
    for role in ("worker", "state", "operator"):
        with pytest.raises(FailedPrecondition, match="does not hold the keys for requests"):
            _ = Keyring.open(tmp_path, role=role).request_keys  # type: ignore[arg-type]


def test_the_active_key_seals_and_the_others_still_open(tmp_path: Path) -> None:
    (old,) = Keyring.open(tmp_path, role="front").request_keys
    file = tmp_path / "keys" / "requests.json"
    ring = json.loads(file.read_text())
    ring["keys"]["k2"] = base64.b64encode(b"2" * 32).decode()
    file.write_text(json.dumps({**ring, "active": "k2"}))

    assert Keyring.open(tmp_path, role="front").request_keys == (b"2" * 32, old)


async def test_an_answer_that_is_sent_twice_decides_once(it: FrontService) -> None:
    run = await waiting(it)
    rounds = Signed(it)
    asked = await rounds.call(ANA, approval_of(run))
    first = await rounds.call(ANA, approval_of(run), **answers(asked))
    await it.reaches(run["run_id"], RunState.APPLIED)
    second = await rounds.call(ANA, approval_of(run), **answers(asked))

    assert (first.is_error, second.structured_content["error"]["code"]) == (False, "failed_precondition")
    assert len(it.engine.launched) == 1


async def test_a_call_without_a_connection_asks_nobody(it: FrontService) -> None:
    """As an embedding of the server may call it: then what came with the call is all there is."""
    run = await destroying(it)
    token = await KeyVerifier(it.front.store).verify_token(await it.key(ANA, "approver"))
    assert token is not None
    reset = auth_context_var.set(AuthenticatedUser(token))
    try:
        with anyio.fail_after(PATIENCE):
            answer = await GovernedServer(it.front).call_tool("run_approve", {**approval_of(run)})
    finally:
        auth_context_var.reset(reset)

    assert isinstance(answer, types.CallToolResult)
    assert json.loads(json.dumps(answer.structured_content))["error"]["code"] == "confirmation_required"
