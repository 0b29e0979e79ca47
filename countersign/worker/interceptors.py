"""What leaves an activity as an error: a code and a scrubbed message, and nothing else.

A chained exception carries its texts into workflow history, and texts of engines and clouds carry secrets. The cause goes to
the local log, under a reference that the message names.
"""

import secrets
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from countersign.core.errors import CountersignError
from countersign.core.redaction import Redactor, clean_text

log = structlog.get_logger(__name__)
GIVE_UP_AFTER = 5  # tries of a step that fails for a reason nobody foresaw


class CodedErrors(Interceptor):
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next)


class _Inbound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await super().execute_activity(input)
        except CountersignError as known:
            message, code, retryable = clean_text(Redactor(()).text(known.message)), known.code, known.retryable
        except ApplicationError:
            raise
        except Exception:  # whatever it is, its text may not enter history: it goes to the local log under a reference
            reference = secrets.token_hex(4)
            info = activity.info()
            log.exception("step failed", step=info.activity_type, run=info.workflow_id, attempt=info.attempt, reference=reference)
            message = f"an unexpected error in {info.activity_type}; the worker's log tells more under {reference}"
            code, retryable = "internal", info.attempt < GIVE_UP_AFTER
        raise ApplicationError(message, type=code, non_retryable=not retryable)
