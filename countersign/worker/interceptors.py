"""What leaves an activity as an error: a code and a scrubbed message, and nothing else.

A chained exception carries its texts into workflow history, and texts of engines and clouds carry secrets. The cause goes to
the local log, under a reference that the message names.

And a worker whose clock is off does nothing: approvals and credentials end by the clock of whoever looks, so Temporal's server,
which starts every step, is the one they are held against.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from countersign.adapters.leaving import leaving
from countersign.adapters.logs import Log
from countersign.adapters.store.database import utc_now
from countersign.core.errors import CountersignError, Unavailable
from countersign.core.redaction import Redactor, clean_text

log = Log(__name__)
GIVE_UP_AFTER = 5  # tries of a step that fails for a reason nobody foresaw
SKEW = timedelta(minutes=2)  # more than a busy machine takes from the server's word to its first line of the step


@dataclass(frozen=True, kw_only=True)
class CodedErrors(Interceptor):
    now: Callable[[], datetime] = utc_now

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self.now)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, now: Callable[[], datetime]) -> None:
        super().__init__(next)
        self._now = now

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            self._check_clock()
            with leaving.at_work():
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

    def _check_clock(self) -> None:
        """Raises Unavailable: another worker may take the step, and so may this one when its clock is right."""
        off = self._now() - activity.info().started_time
        if abs(off) > SKEW:
            how = f"{abs(off).total_seconds() / 60:.0f} minutes {'ahead of' if off > timedelta(0) else 'behind'} Temporal's"
            log.error("this machine's clock is off, so nothing is done here", off=how)
            raise Unavailable(f"the clock of this worker's machine is {how}: it does nothing until that is corrected (chrony, ntpd)")
