"""One run, of any engine: plan, wait for people, apply, and never lose track.

The workflow decides what happens next and nothing else: rows say where the run stands, steps move it, and each step answers
with the standing this story branches on. Whatever is replayed, reset or repeated here, the claim in the store decides
whether anything is applied.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from countersign.core import attributes
    from countersign.core.approval import ApproveInput, CancelInput, DecisionClaims, RejectInput
    from countersign.core.details import plain, section
    from countersign.core.digests import DIGEST
    from countersign.core.model import Payload
    from countersign.core.principal import UNNAMED_PERSON
    from countersign.core.run import ENDS, RunState
    from countersign.core.step import Step, host_queue
    from countersign.core.steps import (
        DECIDE,
        ENGINES,
        FORCE,
        MOVE,
        STAND,
        ApplyInput,
        Decided,
        DecideInput,
        EndInput,
        EndReason,
        FollowInput,
        RunInput,
        RunRef,
        Standing,
        pause_before_look,
    )

Gives = TypeVar("Gives", bound=Payload)
Given = TypeVar("Given", bound=Payload)
S = RunState

QUEUED = timedelta(minutes=2)  # a wake-up may be lost with whoever should have sent it; the sweep wakes who is next, much sooner
PLAN_COMES_WITHIN = timedelta(seconds=15)  # for a decision that arrives in the instant its plan is recorded
APPLIES = 3  # tries to start an apply that is refused for a reason that stays
REFUSALS_SHOWN = 5
CANCELED_IN_UI = "cancellation requested in Temporal"
_PLANS_AND_APPLIES = "a plan step may apply"  # histories from before that took another way where a cancel came early
_STATE = SearchAttributeKey.for_keyword(attributes.STATE)
_CLASS = SearchAttributeKey.for_keyword(attributes.CHANGE_CLASS)
# States worth a search attribute: what an operator filters by. Each costs a task, so the passing ones are left out.
_SHOWN = ENDS | {S.AWAITING_APPROVAL, S.APPROVED, S.NEEDS_OPERATOR}


@workflow.defn(name="Run")
class Run:
    @workflow.init
    def __init__(self, start: RunInput) -> None:
        self._start = start
        self._ref = RunRef(org=start.org, run_id=start.run_id)
        self._steps = ENGINES[start.engine]
        self._standing = Standing(state=S.PENDING)
        self._cancel: CancelInput | None = None
        self._woken = False
        self._resumed_by: str | None = None
        self._shown = False  # anything, in search attributes
        self._details = ""  # as the last step told it; a refusal changes it, and nothing else about the run
        self._refusals: list[str] = []  # of what never came to a step
        self._applies = 0
        self._looks = 0  # at what keeps an approved run from its apply

    @workflow.run
    async def run(self, start: RunInput) -> Standing:
        await self._plan()
        while self._standing.state not in ENDS:
            try:
                await self._next()
            except asyncio.CancelledError:
                # The Temporal UI's own cancellation: the same wish, from whoever reaches that UI.
                self._cancel = self._cancel or CancelInput(reason=CANCELED_IN_UI)
                await self._look()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._standing.model_copy(update={"details": ""})

    async def _next(self) -> None:
        match self._standing.state:
            case S.AWAITING_APPROVAL:
                await self._wait_for_people()
            case S.APPROVED:
                await self._apply()
            case S.APPLYING | S.VERIFYING | S.CANCELING:
                await self._follow()
            case S.INTERRUPTED:
                await self._reconcile()
            case S.RECONCILING:
                await (self._reconcile() if self._steps.reconcile is not None else self._follow())
            case S.NEEDS_OPERATOR:
                await self._wait_for_operator()
            case _:
                await self._wait_for_turn()

    # -- the story ----------------------------------------------------------------------------------------------------

    async def _plan(self) -> None:
        """Plan, or learn where the run stands; a plan nobody may make any more ends the run.

        The step may go on to the apply, so whoever wished to cancel before is heard before.
        """
        if self._cancel is not None and workflow.patched(_PLANS_AND_APPLIES):
            await self._look()
            return
        try:
            standing = await self._do(self._steps.plan, self._ref)
        except ActivityError as failed:
            # A step that was asked to end is not tried again, however it was lost.
            if is_cancelled_exception(failed) or (self._cancel is not None and workflow.patched(_PLANS_AND_APPLIES)):
                await self._look()
                return
            await self._end(EndReason.FAILED, _why(failed))
            return
        self._stand(standing)

    async def _wait_for_turn(self) -> None:
        """Queued, or planned on a state that moved: wait for the turn, and look again in time."""
        if self._cancel is not None:
            await self._end(EndReason.CANCELED, self._cancel.reason)
            return
        if self._standing.state is S.PENDING:
            await self._sleep_until_woken(QUEUED)
            if self._cancel is not None:
                return
        await self._plan()

    async def _wait_for_people(self) -> None:
        """Nothing is held while people think. A decision, a wish to cancel, a newer request, or time ends the wait."""
        waiting = self._standing
        left = waiting.expires_at - workflow.now() if waiting.expires_at else timedelta(hours=24)
        try:
            await workflow.wait_condition(
                lambda: self._standing is not waiting or self._woken or self._cancel is not None,
                timeout=max(left, timedelta(0)) + timedelta(seconds=1),
                timeout_summary="waits for a decision: the plan stands under User Metadata",
            )
        except TimeoutError:
            await self._end(EndReason.EXPIRED, "nobody agreed in time")
            return
        if self._standing is not waiting:
            return
        if self._cancel is not None:
            await self._end(EndReason.CANCELED, self._cancel.reason)
            return
        await self._look()

    async def _apply(self) -> None:
        """Apply the approved plan. The step is tried once; whatever happens to it, the row says what it came to."""
        if self._cancel is not None:
            await self._end(EndReason.CANCELED, self._cancel.reason)
            return
        assert self._standing.plan_digest is not None
        request = ApplyInput(org=self._start.org, run_id=self._start.run_id, plan_digest=self._standing.plan_digest)
        try:
            standing = await self._do(self._steps.apply, request)
        except ActivityError as lost:
            await self._look()
            if self._standing.state is not S.APPROVED or is_cancelled_exception(lost):
                return
            # Nothing was claimed. A full disk or a busy store may pass while the approval lives; a refusal does not.
            self._applies += isinstance(lost.cause, ApplicationError) and lost.cause.non_retryable
            if self._applies >= APPLIES:
                await self._end(EndReason.FAILED, f"the apply could not be started: {_why(lost)}")
                return
        else:
            self._stand(standing)
        if self._standing.state is S.APPROVED:  # somebody else's turn, a freeze, or a fault that may pass
            if not self._shown:
                self._show()
            await self._sleep_until_woken(pause_before_look(self._looks))
            self._looks += 1
            await self._look()

    async def _follow(self) -> None:
        """Somebody's hands were lost on the way: watch the attempt on its own machine, for as long as it is open."""
        if self._standing.attempt_id is None or self._standing.host is None:
            await self._look()
            if self._standing.attempt_id is None and self._standing.state not in ENDS:
                await self._end(EndReason.LOST, "the run has no open attempt to follow")
            return
        request = FollowInput(
            org=self._start.org, run_id=self._start.run_id, attempt_id=self._standing.attempt_id, stop=self._cancel is not None
        )
        try:
            self._stand(await self._do(self._steps.follow, request, host=self._standing.host))
        except ActivityError as lost:
            if is_cancelled_exception(lost):
                await self._look()
                return
            await self._end(EndReason.LOST, _why(lost))

    async def _reconcile(self) -> None:
        """Nobody knows what the attempt did. An engine that can find out does; else a person is asked."""
        if self._steps.reconcile is not None and self._standing.attempt_id is not None:
            request = FollowInput(org=self._start.org, run_id=self._start.run_id, attempt_id=self._standing.attempt_id)
            try:
                self._stand(await self._do(self._steps.reconcile, request, host=self._standing.host))
                return
            except ActivityError as lost:
                workflow.logger.warning("reconciling did not end: %s", _why(lost))
        await self._end(EndReason.LOST, "the apply was interrupted")

    async def _wait_for_operator(self) -> None:
        await workflow.wait_condition(lambda: self._resumed_by is not None or self._woken)
        if self._resumed_by is None:  # evidence came in by itself: somebody's hands were still on it
            await self._look()
            return
        by, self._resumed_by = self._resumed_by, None
        await self._end(EndReason.RESUME, "resumed", by=by)

    # -- decisions ----------------------------------------------------------------------------------------------------

    # Arguments are taken as they come: what cannot be read is refused with a reason, in the dialog or in the run's details.

    @workflow.update(description='Agree to the plan: {"plan_digest": "sha256:…", "confirm_name": "…" where it destroys, "comment": "…"}')
    async def approve(self, *given: object) -> Decided:
        return await self._decide(self._asked(_read(ApproveInput, given)), or_raise=True)

    @approve.validator
    def _approvable(self, *given: object) -> None:
        self._check(_read(ApproveInput, given))

    @workflow.update(description='End the run before any change: {"reason": "…"}')
    async def reject(self, *given: object) -> Decided:
        return await self._decide(self._asked(_read(RejectInput, given)), or_raise=True)

    @reject.validator
    def _rejectable(self, *given: object) -> None:
        self._check(_read(RejectInput, given))

    @workflow.signal(name="approve", description="Like the update, without an answer: a refusal stands in the run's details")
    async def approve_signal(self, *given: object) -> None:
        await self._decide_by_signal(ApproveInput, given)

    @workflow.signal(name="reject", description="Like the update, without an answer: a refusal stands in the run's details")
    async def reject_signal(self, *given: object) -> None:
        await self._decide_by_signal(RejectInput, given)

    @workflow.signal(description='Stop as soon as it is safe: {"reason": "…"}')
    async def cancel(self, *given: object) -> None:
        try:
            wish = _read(CancelInput, given)
        except ApplicationError as refused:
            self._refused(f"cancel: {refused.message}")
            return
        canceling = self._cancel is not None or self._standing.state is S.CANCELING
        if wish.force and canceling:
            asked = EndInput(
                org=self._start.org, run_id=self._start.run_id, reason=EndReason.CANCELED, by=_canceler(wish), message=wish.reason
            )
            try:
                decided = await self._do(FORCE, asked)
            except ActivityError as lost:  # what a signal asks for in vain must not end the run's workflow
                self._refused(f"cancel: {_why(lost)}")
                return
            if not decided.accepted:
                self._refused(f"cancel: {decided.message}")
            return
        self._cancel = wish

    @workflow.signal(description="Look at the run's row again")
    def wake(self, *_: object) -> None:
        self._woken = True

    @workflow.signal(description="The apply does something that nobody approved: look at the run's row and show it")
    async def alarm(self, *_: object) -> None:
        await self._show_row()

    @workflow.signal(description="A step that does more than one thing has come further: look at the run's row and show it")
    async def show(self, *_: object) -> None:
        await self._show_row()

    async def _show_row(self) -> None:
        with contextlib.suppress(ActivityError):  # the row says it, whoever cannot show it
            self._details = (await self._do(STAND, self._ref)).details
            self._publish_details()

    @workflow.signal(description="An operator asks to look for the lost attempt again; the payload says who")
    def resume(self, *given: object) -> None:
        # Whatever was typed into the UI: the wish counts, its author is unknown then.
        self._resumed_by = given[0] if len(given) == 1 and isinstance(given[0], str) else UNNAMED_PERSON.id

    async def _decide_by_signal(self, kind: type[ApproveInput] | type[RejectInput], given: Sequence[object]) -> None:
        try:
            decision = _read(kind, given)
            self._check(decision)
            await self._decide(self._asked(decision, via="signal"), or_raise=False)
        except ApplicationError as refused:
            self._refused(f"{_name(kind)}: {refused.message}")
        except ActivityError as lost:
            self._refused(f"{_name(kind)}: {_why(lost)}")

    def _refused(self, message: str) -> None:
        self._refusals = [*self._refusals, message][-REFUSALS_SHOWN:]
        self._publish_details()

    def _asked(self, given: ApproveInput | RejectInput, via: str = "update") -> DecideInput:
        approve = given if isinstance(given, ApproveInput) else None
        reject = given if isinstance(given, RejectInput) else None
        nonce = str(workflow.uuid4())
        return DecideInput(org=self._start.org, run_id=self._start.run_id, approve=approve, reject=reject, nonce=nonce, via=via)

    def _check(self, given: ApproveInput | RejectInput) -> None:
        """Shape and state, for the update's validator and for signals alike. What counts is decided by the step."""
        if isinstance(given, ApproveInput) and not DIGEST.match(given.plan_digest):
            raise ApplicationError("plan_digest must be sha256: and 64 hex digits, as shown with the plan", type="invalid_argument")
        if isinstance(given, RejectInput) and not given.reason.strip():
            raise ApplicationError("a rejection needs a reason", type="invalid_argument")
        if self._standing.state not in _DECIDABLE:
            raise ApplicationError(f"the run waits for no decision: it is {self._standing.state}", type="failed_precondition")

    async def _decide(self, asked: DecideInput, *, or_raise: bool) -> Decided:
        """Let the step decide. A decision that came before the plan waits for it; only the recorded verdict counts."""
        try:
            await workflow.wait_condition(
                lambda: self._standing.state not in _BEFORE_ITS_PLAN, timeout=PLAN_COMES_WITHIN, timeout_summary="its plan"
            )
        except TimeoutError:
            raise ApplicationError(
                "the run has no plan to decide about yet; decide when it waits for approval", type="failed_precondition"
            ) from None
        decided = await self._do(DECIDE, asked)
        if decided.accepted:
            if self._standing.state is S.AWAITING_APPROVAL:  # what came meanwhile is newer than this answer
                self._stand(decided.standing)
            return decided.model_copy(update={"standing": decided.standing.model_copy(update={"details": ""})})
        self._details = decided.standing.details
        self._publish_details()
        if or_raise:
            raise ApplicationError(decided.message, type=decided.code or "failed_precondition")
        return decided

    # -- means --------------------------------------------------------------------------------------------------------

    async def _do(self, step: Step[Any, Gives], request: Payload, *, host: str | None = None) -> Gives:
        """Run one step. A wish to cancel reaches a step in progress once; what it then answers counts."""
        # What cannot be cancelled (decide, move) is short; the others tell their own end.
        again = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=15), maximum_attempts=step.attempts)
        if step.in_place:
            answer: Gives = await workflow.execute_local_activity(
                step.name,
                request,
                result_type=step.gives,
                start_to_close_timeout=step.attempt_timeout,
                retry_policy=again,
                summary=_aim(request),
            )
            return answer
        handle = workflow.start_activity(
            step.name,
            request,
            result_type=step.gives,
            task_queue=host_queue(host) if step.on_host and host else step.queue,
            start_to_close_timeout=step.attempt_timeout,
            schedule_to_start_timeout=step.schedule_to_start if host else None,  # any other machine may take its time
            heartbeat_timeout=step.heartbeat_timeout,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            retry_policy=again,
            summary=_aim(request),
        )
        if step.heartbeat_timeout is not None:
            known = self._cancel
            try:
                await workflow.wait_condition(lambda: handle.done() or self._cancel is not known)
            except asyncio.CancelledError:
                self._cancel = self._cancel or CancelInput(reason=CANCELED_IN_UI)
            if not handle.done():
                handle.cancel()
        result: Gives = await handle
        return result

    async def _end(self, reason: EndReason, message: str, *, by: str | None = None) -> None:
        if by is None and reason is EndReason.CANCELED and self._cancel is not None:
            by = _canceler(self._cancel)
        asked = EndInput(org=self._start.org, run_id=self._start.run_id, reason=reason, by=by, message=message)
        self._stand(await self._do(MOVE, asked))

    async def _look(self) -> None:
        self._woken = False
        self._stand(await self._do(STAND, self._ref))

    async def _sleep_until_woken(self, longest: timedelta) -> None:
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._woken or self._cancel is not None, timeout=longest, timeout_summary="look again")
        self._woken = False

    def _stand(self, standing: Standing) -> None:
        before, self._standing = self._standing, standing
        self._details = standing.details
        if standing.state is not before.state:
            self._publish()
        else:
            self._publish_details()  # one of two people agreed

    def _publish(self) -> None:
        self._publish_details()
        # Agreed to by policy alone and applied at once, it is in no list of what waits; a write of visibility costs like a task.
        goes_on = self._standing.state is S.APPROVED and not self._shown
        if self._standing.state in _SHOWN and not goes_on:
            self._show()

    def _show(self) -> None:
        self._shown = True
        workflow.upsert_search_attributes(
            [_STATE.value_set(str(self._standing.state)), _CLASS.value_set(self._standing.change_class or "none")]
        )

    def _publish_details(self) -> None:
        signals = [section("Refused signals", self._refusals)] if self._refusals else []
        workflow.set_current_details("\n\n".join([self._details, *signals]))


# A decision may come before the workflow hears of the plan it is about: the row says first that it waits.
_BEFORE_ITS_PLAN = frozenset({S.PENDING, S.PLANNING, S.STALE, S.INTERRUPTED, S.RECONCILING})
_DECIDABLE = _BEFORE_ITS_PLAN | {S.AWAITING_APPROVAL}


def _aim(request: Payload) -> str | None:
    """What the timeline of the UI says beside the name of a step, where the name does not say it all."""
    match request:
        case DecideInput():
            return "approve" if request.approve else "reject"
        case EndInput():
            return str(request.reason)
    return None


def _name(kind: type[Payload]) -> str:
    return kind.__name__.removesuffix("Input").lower()


def _read(kind: type[Given], given: Sequence[object]) -> Given:
    """The one object somebody sent. Raises ApplicationError, which changes nothing, saying what is wrong with it."""
    if len(given) != 1:
        raise _invalid(f"send exactly one JSON object, not {len(given)}")
    if not isinstance(given[0], dict):
        raise _invalid("what was sent is no JSON object")
    # Typed by hand, an unknown field is a mistake; what the front signs may come from a newer one.
    if "signed" not in given[0] and (unknown := sorted(set(map(str, given[0])) - set(kind.model_fields))):
        raise _invalid(f"unknown: {', '.join(unknown)}")
    try:
        return kind.model_validate(given[0])
    except ValidationError as invalid:
        fields = ", ".join(sorted({".".join(map(str, e["loc"])) or "the object" for e in invalid.errors()}))
        raise _invalid(f"wrong or missing: {fields}") from None


def _invalid(message: str) -> ApplicationError:
    return ApplicationError(plain(message), type="invalid_argument")


def _why(failed: ActivityError) -> str:
    cause = failed.cause
    return plain(getattr(cause, "message", None) or str(cause) or "the step was lost")


def _canceler(given: CancelInput) -> str | None:
    """Who asked, as far as an unverified word goes: the front checked its right, and the audit row of the front says it."""
    if given.signed is None:
        return None
    try:
        return DecisionClaims.model_validate_json(given.signed.payload).principal.id
    except ValidationError:
        return None
