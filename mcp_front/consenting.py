"""What destroys asks the person before this client right in the call, where one sits there.

The question is the one `run_approve` asks, about exactly the plan that was made, and the answer is sent as an approval of that plan:
it has the authority of its connection, and `decide` says what that is worth. Whoever cannot be asked, or closes the question, gets the
run, which waits on.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Elicit

from countersign.adapters.store import plans
from countersign.adapters.store.runs import RunRow
from countersign.core.run import ENDS
from mcp_front import asking, lookup, shown
from mcp_front.asking import Given, Outcome
from mcp_front.call import Call
from mcp_front.envelope import Answer
from mcp_front.rights import allowed
from mcp_front.starting import SETTLED, settled

PLANNED = 20.0  # seconds a person who can be asked waits for the plan; after that they get the run, as everybody does
_UNASKED = Given()


async def question(call: Call, begin: Callable[[], Awaitable[Answer]]) -> Given | Elicit[Any]:
    """The question to the person, once there is a plan to ask about. `begin` starts the run, or joins the one it started before."""
    if not (call.can_ask and call.caller.is_person) or call.given.dry_run:
        return _UNASKED
    begun = await begin()
    assert begun.run is not None  # what starts a run answers with it
    call.asked["run_id"] = begun.run.run_id
    run = await call.front.gateway.wait(call.org, begun.run.run_id, settled, seconds=PLANNED, states=SETTLED)
    async with call.front.store.read() as conn:
        plan = await plans.get_plan(conn, run.org, run.id)
    if plan is None or run.plan_digest is None or not _may_approve(call, run) or not asking.would_count(call, run, run.plan_digest):
        return _UNASKED
    # What is agreed to is what was asked: where the plan is another by then, the digest says so.
    call.asked["plan_digest"] = run.plan_digest
    return asking.agreement(run, plan)


def was_asked(call: Call, said: Outcome | None) -> bool:
    return said is not None and "plan_digest" in call.asked


async def answered(call: Call, said: Outcome | None, warnings: Sequence[str] = ()) -> Answer:
    """What the person said, forwarded; the run either way."""
    assert said is not None  # was_asked saw to it
    async with call.front.store.read() as conn:
        run = await lookup.run_for(call, conn, call.asked["run_id"])
    if not isinstance(said, AcceptedElicitation):
        return await shown.answer(call, run, warnings=(*warnings, asking.unanswered(said, run.id).message))
    await call.front.gateway.approve(
        call.caller, run, digest=call.asked["plan_digest"], comment=said.data.comment, confirm_name=asking.name_typed(said)
    )
    if call.given.wait_seconds:
        run = await call.front.gateway.wait(call.org, run.id, lambda now: now.ended, seconds=call.given.wait_seconds, states=ENDS)
    return await shown.answer(call, run, warnings=tuple(warnings))


def _may_approve(call: Call, run: RunRow) -> bool:
    tool = call.front.toolset.tools["run_approve"]
    return allowed(call.caller, tool, run=run, protected=call.front.policy.is_protected(run.env))
