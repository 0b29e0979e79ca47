"""What can go wrong, and who has to act on it.

Errors of CLIs, databases and SDKs stay inside `adapters`: they are re-raised as one of these. The original goes to the
local log, never along: causes end up in workflow histories.

* CountersignError
  x TransientError    worth asking again unchanged: Locked, Unavailable, EngineDied, RateLimited, TimedOut, FreezeWindow
  x PermanentError    someone has to change something first: InvalidArgument, NotYet, PlanStale, PolicyDenied, ...

`code` is the closed set of the catalogue (§1); the wording of messages is not an interface.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class CountersignError(Exception):
    """`message` tells the reader what to do next. `field` names the argument at fault, `next` tools that help."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        next: Sequence[str] = (),
        retry_after_seconds: float | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.next = tuple(next)
        self.retry_after_seconds = retry_after_seconds
        self.details = dict(details or {})


class TransientError(CountersignError):
    retryable = True
    code = "unavailable"


class PermanentError(CountersignError):
    code = "failed_precondition"


class Internal(CountersignError):
    """A mistake of ours. The message carries a reference into the local log and nothing else."""


class Unavailable(TransientError):
    """A part of the service does not answer."""


class EngineDied(TransientError):
    """The engine, or a plugin of it, was ended from outside while it only looked. It is worth another try, and not for ever:
    what kills it may be what it was asked for."""


class Locked(TransientError):
    code = "locked"


class RateLimited(TransientError):
    code = "rate_limited"


class TimedOut(TransientError):
    code = "timeout"


class FreezeWindow(TransientError):
    """A freeze or a kill switch refuses changes for now."""

    code = "freeze_window"


class InvalidArgument(PermanentError):
    code = "invalid_argument"


class NotFound(PermanentError):
    """Also the answer for what the caller may not see."""

    code = "not_found"


class AlreadyExists(PermanentError):
    code = "already_exists"


class Conflict(PermanentError):
    code = "conflict"


class FailedPrecondition(PermanentError):
    pass


class NotYet(FailedPrecondition):
    """What this needs is not there, and another run makes it. `details["needs"]` has the id of the stack that does."""


class IdempotencyMismatch(PermanentError):
    code = "idempotency_mismatch"


class Unauthenticated(PermanentError):
    code = "unauthenticated"


class PermissionDenied(PermanentError):
    code = "permission_denied"


class PolicyDenied(PermanentError):
    code = "policy_denied"


class ApprovalRequired(PermanentError):
    code = "approval_required"


class ApprovalExpired(PermanentError):
    code = "approval_expired"


class ConfirmationRequired(PermanentError):
    code = "confirmation_required"


class PlanStale(PermanentError):
    """The state, or the plan, moved after this digest was made, so approvals of it are void."""

    code = "plan_stale"


class QuotaExceeded(PermanentError):
    code = "quota_exceeded"


class ProviderError(PermanentError):
    """The engine or a provider refused: broken configuration, failed plan, refused credentials."""

    code = "provider_error"


class Canceled(PermanentError):
    code = "canceled"


def _tree(root: type[CountersignError]) -> list[type[CountersignError]]:
    return [root, *(error for child in root.__subclasses__() for error in _tree(child))]


# The class for each code, the most general one where several share it.
BY_CODE: Mapping[str, type[CountersignError]] = {error.code: error for error in reversed(_tree(CountersignError))}
