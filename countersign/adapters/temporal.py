"""Reaching Temporal: one way to connect, and what the front says to a run.

Nothing here reads a run's state: states are read from rows. A Temporal that does not answer is `unavailable`, and what was
asked stays on record.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState, WorkflowExecutionStatus
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, ResetStickyTaskQueueRequest
from temporalio.client import (
    Client,
    GrpcCompression,
    WorkflowFailureError,
    WorkflowHistoryEventFilterType,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    Priority,
    RawValue,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter
from temporalio.converter import DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from countersign.adapters.settings import Settings
from countersign.adapters.store.runs import RunRow
from countersign.core import attributes
from countersign.core.approval import ApproveInput, CancelInput, RejectInput
from countersign.core.details import asked_by, code, plain
from countersign.core.errors import BY_CODE, CountersignError, FailedPrecondition, NotFound, Unavailable
from countersign.core.principal import Principal
from countersign.core.reading import WITHIN, Question, Reply
from countersign.core.reading import WORKFLOW as READ
from countersign.core.run import Mode, RunState
from countersign.core.step import RUNS_QUEUE
from countersign.core.steps import ENGINES, Decided, RunInput, Standing, home_of

T = TypeVar("T")
RPC = timedelta(seconds=5)
DECISION_RPC = timedelta(seconds=20)  # a worker may be on its way back
WORKFLOW = "Run"


class ForgivingPayloadConverter(PydanticPayloadConverter):
    """What nobody can decode arrives as it is, where no type was asked for: a signal typed into the UI with a bad payload is
    refused by its handler, and told, in place of being dropped without a word."""

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        if type_hints:
            return super().from_payloads(payloads, type_hints)
        return [self._one(payload) for payload in payloads]

    def _one(self, payload: Payload) -> Any:
        try:
            return super().from_payloads([payload])[0]
        except Exception:  # whatever a decoder raises over foreign bytes
            return RawValue(payload)


class PlainFailureConverter(DefaultFailureConverter):
    """What is refused on purpose carries its reason and no stack trace: whoever decides in the UI would read our source lines
    below it, and histories would keep them."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        super().to_failure(exception, payload_converter, failure)
        if isinstance(exception, ApplicationError):
            failure.ClearField("stack_trace")


DATA_CONVERTER = dataclasses.replace(
    pydantic_data_converter,
    payload_converter_class=ForgivingPayloadConverter,
    failure_converter_class=PlainFailureConverter,
)


async def connect(settings: Settings, *, identity: str, lazy: bool = False) -> Client:
    """Raises Unavailable where nothing answers, unless `lazy`."""
    try:
        return await Client.connect(
            settings.temporal_target,
            namespace=settings.temporal_namespace,
            data_converter=DATA_CONVERTER,
            identity=identity,
            lazy=lazy,
            grpc_compression=_compression(settings.temporal_target),
        )
    except RuntimeError:
        raise Unavailable(f"Temporal does not answer at {settings.temporal_target}; start it, or set temporal_address") from None


def _compression(target: str) -> GrpcCompression:
    """On one machine packing costs more than it saves."""
    return GrpcCompression.NONE if target.startswith("127.0.0.1:") else GrpcCompression.GZIP


def _priority(run: RunRow) -> Priority:
    """Drift checks make room for what somebody waits for; among equals, requesters take turns."""
    return Priority(priority_key=4 if run.mode is Mode.DRIFT else None, fairness_key=run.requester.id[:64])


_STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
_ASKED_TO_END = PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
# Making one takes as long as the rest of a start: the generic class behind it looks up its types each time.
_KEYS = {
    name: SearchAttributeKey.for_keyword(name)
    for name in (
        attributes.ORG,
        attributes.ENV,
        attributes.STACK,
        attributes.STATE,
        attributes.TYPE,
        attributes.ENGINE,
        attributes.REQUESTER,
    )
}


def _attributes(run: RunRow) -> TypedSearchAttributes:
    values = {
        attributes.ORG: run.org,
        attributes.ENV: run.env,
        attributes.STACK: run.stack_path,
        attributes.STATE: str(run.state),
        attributes.TYPE: run.type,
        attributes.ENGINE: run.engine,
        attributes.REQUESTER: opaque(run.requester),
    }
    return TypedSearchAttributes([SearchAttributePair(_KEYS[k], v) for k, v in values.items()])


def opaque(principal: Principal) -> str:
    """The requester in search attributes, which are never encrypted: whether an agent, a person or a machine, and no name."""
    return f"{principal.kind}_{hashlib.sha256(principal.id.encode()).hexdigest()[:12]}"


class Runs:
    """What the front, and whoever repopulates Temporal, may say to run workflows."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def start(self, run: RunRow, *, again: bool = False) -> None:
        """Start the run's workflow; one that was started before is left as it is.

        `again` also starts a run whose workflow was ended from outside, so that it can follow what it left open.
        """
        try:
            await _answered(
                self._client.start_workflow(
                    WORKFLOW,
                    RunInput(org=run.org, run_id=run.id, engine=run.engine),
                    id=run.id,
                    task_queue=home_of(run.engine),
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE if again else WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    search_attributes=_attributes(run),
                    static_summary=plain(f"{run.type} {run.stack_path}"),
                    static_details=_static_details(run),
                    priority=_priority(run),
                    rpc_timeout=RPC,
                )
            )
        except WorkflowAlreadyStartedError:
            return

    async def approve(self, run_id: str, given: ApproveInput, *, update_id: str) -> Decided:
        return await self._decide(run_id, "approve", given, update_id)

    async def reject(self, run_id: str, given: RejectInput, *, update_id: str) -> Decided:
        return await self._decide(run_id, "reject", given, update_id)

    async def _decide(self, run_id: str, name: str, given: ApproveInput | RejectInput, update_id: str) -> Decided:
        try:
            return await _answered(
                self._client.get_workflow_handle(run_id).execute_update(
                    name, given, id=update_id, result_type=Decided, rpc_timeout=DECISION_RPC
                )
            )
        except WorkflowUpdateFailedError as refused:
            raise _from_cause(refused.cause) from None
        except WorkflowUpdateRPCTimeoutOrCancelledError:
            raise Unavailable("no worker took the decision in time; it may still count, so look at the run before deciding again") from None

    async def cancel(self, run_id: str, given: CancelInput) -> None:
        await self._signal(run_id, "cancel", given)

    async def resume(self, run_id: str, by: str) -> None:
        await self._signal(run_id, "resume", by)

    async def read(self, question: Question) -> Reply:
        """Ask an engine's workers, and wait for what they say. Raises Unavailable where nobody answers in time."""
        try:
            return await _answered(
                self._client.execute_workflow(
                    READ,
                    question,
                    id=question.id,
                    task_queue=RUNS_QUEUE,
                    result_type=Reply,
                    execution_timeout=WITHIN,
                    static_summary=plain(f"{question.engine}: somebody looks"),
                    rpc_timeout=WITHIN,
                )
            )
        except WorkflowFailureError as failed:
            cause: BaseException | None = failed.cause
            while cause is not None and not isinstance(cause, ApplicationError):
                cause = cause.__cause__
            if cause is not None and cause.type is not None and cause.type in BY_CODE:
                raise BY_CODE[cause.type](cause.message) from None
            raise Unavailable("no worker answered in time; ask again in a moment", retry_after_seconds=5) from None

    async def wake(self, run_id: str) -> None:
        """Tell a run to look at its row. One that is gone needs no waking."""
        try:
            await self._signal(run_id, "wake")
        except (NotFound, Unavailable):
            return

    async def hand_back(self, run_id: str, *, gone: Callable[[str], bool], begun: Standing | None = None) -> int:
        """Say of a run's steps that a worker which is gone had in its hands that they are lost, and let the run's next task wait
        for nobody's cache; how many there were. `gone` is asked about a worker's identity.

        `begun` is where a run stands whose apply has begun: that is what its plan came to, and tried again it would wait for a place.

        Temporal finds out by itself, when heartbeats have been missing for some seconds.
        """
        handle = self._client.get_workflow_handle(run_id)
        try:
            described = await _answered(handle.describe(rpc_timeout=RPC))
            execution = WorkflowExecution(workflow_id=run_id, run_id=described.run_id)
            forget = ResetStickyTaskQueueRequest(namespace=self._client.namespace, execution=execution)
            await _answered(self._client.workflow_service.reset_sticky_task_queue(forget, timeout=RPC))
        except (NotFound, FailedPrecondition):
            return 0
        lost = [
            step
            for step in described.raw_description.pending_activities
            if step.state in (_STARTED, _ASKED_TO_END) and gone(step.last_worker_identity)
        ]
        why = ApplicationError("the worker that did this is gone", type="unavailable", next_retry_delay=timedelta(milliseconds=1))
        for one in lost:
            step = self._client.get_async_activity_handle(workflow_id=run_id, run_id=described.run_id, activity_id=one.activity_id)
            with contextlib.suppress(NotFound):  # it was told meanwhile
                if begun is not None and one.activity_type.name in {steps.plan.name for steps in ENGINES.values()}:
                    await _answered(step.complete(begun, rpc_timeout=RPC))
                else:
                    await _answered(step.fail(why, rpc_timeout=RPC))
        return len(lost)

    async def status(self, run_id: str) -> str | None:
        """RUNNING, TERMINATED, … of the newest workflow run, or None where Temporal knows none."""
        try:
            description = await _answered(self._client.get_workflow_handle(run_id).describe(rpc_timeout=RPC))
        except NotFound:
            return None
        return description.status.name if description.status else None

    async def running(self) -> set[str]:
        """The runs whose workflows run; Temporal may tell of one some moments late."""
        found = await _answered(
            _collected(self._client.list_workflows(f'WorkflowType = "{WORKFLOW}" AND ExecutionStatus = "Running"', rpc_timeout=RPC))
        )
        return {execution.id for execution in found}

    async def terminated_since(self, when: datetime) -> list[str]:
        """The runs of which a workflow was terminated since then; Temporal may tell of one some moments late."""
        query = f'WorkflowType = "{WORKFLOW}" AND ExecutionStatus = "Terminated" AND CloseTime > "{when:%Y-%m-%dT%H:%M:%SZ}"'
        found = await _answered(_collected(self._client.list_workflows(query, rpc_timeout=RPC)))
        return list(dict.fromkeys(execution.id for execution in found))

    async def why_terminated(self, run_id: str) -> str:
        """What whoever terminated the newest workflow of the run gave as their reason; often nothing."""
        closing = self._client.get_workflow_handle(run_id).fetch_history_events(
            event_filter_type=WorkflowHistoryEventFilterType.CLOSE_EVENT, rpc_timeout=RPC
        )
        reasons = await _answered(_collected(closing))
        return reasons[-1].workflow_execution_terminated_event_attributes.reason if reasons else ""

    async def waiting(self) -> dict[str, str]:
        """Runs whose workflows believe that they wait for people: id → the state they published last."""
        states = ", ".join(f'"{state}"' for state in (RunState.AWAITING_APPROVAL, RunState.NEEDS_OPERATOR))
        query = f'WorkflowType = "{WORKFLOW}" AND ExecutionStatus = "Running" AND {attributes.STATE} IN ({states})'
        key = _KEYS[attributes.STATE]
        found = await _answered(_collected(self._client.list_workflows(query, rpc_timeout=RPC)))
        return {execution.id: execution.typed_search_attributes.get(key) or "" for execution in found}

    async def alarm(self, run_id: str) -> None:
        """Tell the run's page in the Temporal UI to show what its apply does that nobody approved."""
        await self._signal(run_id, "alarm")

    async def show(self, run_id: str) -> None:
        """Tell the run's page in the Temporal UI to show where its row stands, while its step is at work."""
        await self._signal(run_id, "show")

    async def wanted(self) -> bool:
        """Whether the try of a step that asks this is still what its workflow waits for: not canceled, paused, lost or ended."""
        step = activity.info()
        asked = DescribeWorkflowExecutionRequest(
            namespace=self._client.namespace,
            execution=WorkflowExecution(workflow_id=step.workflow_id or "", run_id=step.workflow_run_id or ""),
        )
        found = await _answered(self._client.workflow_service.describe_workflow_execution(asked, timeout=RPC))
        if found.workflow_execution_info.status != WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING:
            return False
        tries = [(one.activity_id, one.attempt, one.state) for one in found.pending_activities]
        return (step.activity_id, step.attempt, _STARTED) in tries

    async def reachable(self) -> bool:
        try:
            return bool(await self._client.service_client.check_health(timeout=timedelta(seconds=2)))
        except (RPCError, RuntimeError):
            return False

    async def _signal(self, run_id: str, name: str, *args: Any) -> None:
        await _answered(self._client.get_workflow_handle(run_id).signal(name, args=args, rpc_timeout=RPC))


async def _collected(events: AsyncIterator[T]) -> list[T]:
    return [event async for event in events]


async def _answered(call: Awaitable[T]) -> T:
    try:
        return await call
    except RPCError as failed:
        if failed.status is RPCStatusCode.NOT_FOUND:
            raise NotFound("Temporal has no running workflow of that run; `run_get` tells how it ended") from None
        if failed.status is RPCStatusCode.FAILED_PRECONDITION:
            raise FailedPrecondition("the run has ended meanwhile; `run_get` tells how") from None
        raise Unavailable("Temporal does not answer; what was asked is on record, ask again with the same idempotency key") from None
    except RuntimeError:
        # A lazy client that never reached its server.
        raise Unavailable("Temporal does not answer; what was asked is on record, ask again with the same idempotency key") from None


def _from_cause(cause: BaseException | None) -> CountersignError:
    if isinstance(cause, ApplicationError) and cause.type is not None and cause.type in BY_CODE:
        return BY_CODE[cause.type](cause.message)
    return FailedPrecondition("the run refused the decision; `run_get` tells what it waits for")


def _static_details(run: RunRow) -> str:
    return (
        f"{asked_by(run.type, run.requester, run.message)}\n"
        f"stack: {code(run.stack_path)}\n"
        f"in lists of runs: {code(opaque(run.requester))}\n\n"
        "The plan, and how to decide about it, stand in *Current Details*. They are blank while no worker is up: press *R* when it is."
    )
