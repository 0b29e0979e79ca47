"""What the forms of a run do: agree, refuse, cancel, resume. Each is a call of the tool of that name by the person who is signed in.

Where it is refused, the run is shown again with the refusal and with what was typed. Only where the plan is another one by now the
typed name is not put back: it was typed for what they had read.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response

from countersign.core.errors import ConfirmationRequired, CountersignError
from mcp_front.pages import run
from mcp_front.pages.visit import Visit, away_to, status_of


async def approve(visit: Visit) -> Response:
    form = visit.form
    return await _done(
        visit,
        "run_approve",
        said="approved",
        plan_digest=form.get("plan_digest"),
        comment=form.get("comment", "").strip(),
        confirm_name=form.get("confirm_name", "").strip(),
    )


async def reject(visit: Visit) -> Response:
    return await _done(visit, "run_reject", said="rejected", reason=visit.form.get("reason", "").strip())


async def cancel(visit: Visit) -> Response:
    return await _done(visit, "run_cancel", said="canceled", reason=visit.form.get("cancel_reason", "").strip())


async def resume(visit: Visit) -> Response:
    return await _done(visit, "run_resume", said="resumed")


async def _done(visit: Visit, tool: str, *, said: str, **arguments: Any) -> Response:
    run_id = run.run_id_of(visit)
    try:
        answer = await visit.use(tool, run_id=run_id, **arguments)
    except CountersignError as refused:
        message = refused.message
        if refused.retryable:
            message = f"{message}. What you typed is still here: send it again in a moment."
        elif isinstance(refused, ConfirmationRequired):
            message = "It destroys something, and the name was not typed, or not exactly. The run goes on waiting."
        return await run.show(visit, problem=message, code=refused.code, tool=tool, status=status_of(refused))
    # A run that was partly applied is finished by another one.
    went_on = (answer.get("run") or {}).get("run_id", run_id)
    return away_to(f"/runs/{went_on}?said={said}")


FORMS: Mapping[str, Callable[[Visit], Awaitable[Response]]] = {"approve": approve, "reject": reject, "cancel": cancel, "resume": resume}
