"""What Helm's words mean: it exits 0 or 1, and its standard error says the rest.

The rows are tried in their order, which matters: one message often holds the words of several (reference §3.2, each of them was run).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from countersign.core.errors import (
    AlreadyExists,
    Canceled,
    CountersignError,
    FailedPrecondition,
    InvalidArgument,
    Locked,
    NotFound,
    ProviderError,
    QuotaExceeded,
    TimedOut,
    Unavailable,
)
from countersign.core.redaction import Redactor


class Failed(StrEnum):
    LOCKED = "locked"
    EXISTS = "exists"
    NOT_FOUND = "not_found"
    UNAUTHENTICATED = "unauthenticated"
    TLS = "tls"
    UNREACHABLE = "unreachable"
    QUOTA = "quota"
    FORBIDDEN = "forbidden"
    NO_NAMESPACE = "no_namespace"
    BAD_VALUES = "bad_values"
    RENDER = "render"
    KUBE_VERSION = "kube_version"
    CRD_MISSING = "crd_missing"
    OWNED_BY_OTHER = "owned_by_other"
    FIELD_CONFLICT = "field_conflict"
    IMMUTABLE = "immutable"
    BAD_MANIFEST = "bad_manifest"
    RELEASE_TOO_BIG = "release_too_big"
    HOOK_FAILED = "hook_failed"
    HOOK_TIMEOUT = "hook_timeout"
    WAIT_TIMEOUT = "wait_timeout"
    ROLLED_BACK = "rolled_back"
    CANCELED = "canceled"
    CHART_SOURCE = "chart_source"
    BAD_INPUT = "bad_input"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class _Row:
    failed: Failed
    says: str  # pattern over the text in small letters
    stored: bool | None  # whether a revision was stored; None: nobody knows from this
    advice: str


_F = Failed
_ROWS: tuple[_Row, ...] = (
    # Before its causes: Helm repeats them.
    _Row(
        failed=_F.ROLLED_BACK,
        says=r"has been rolled back due to rollback-on-failure",
        stored=True,
        advice="the upgrade failed and was rolled back; mend the cause, then deploy again",
    ),
    _Row(
        failed=_F.LOCKED,
        says=r"another operation \(install/upgrade/rollback\) is in progress",
        stored=False,
        advice="another operation on the release is under way, or was cut off; helm_get_release tells which",
    ),
    _Row(
        failed=_F.EXISTS,
        says=r"has no deployed releases|cannot reuse a name that is still in use",
        stored=False,
        advice="a release of this name exists in another status; helm_get_release tells which",
    ),
    _Row(
        failed=_F.NOT_FOUND,
        says=r"release: not found|release has no \S+ version",
        stored=False,
        advice="there is no such release, or no such revision of it; helm_list_releases tells which there are",
    ),
    _Row(
        failed=_F.UNAUTHENTICATED,
        says=r"asked for the client to provide credentials",
        stored=False,
        advice="the cluster does not know the credential; the operator renews the kubeconfig of this environment",
    ),
    _Row(
        failed=_F.TLS,
        says=r"x509:|tls:",
        stored=False,
        advice="the cluster's certificate is not trusted by the kubeconfig of this environment",
    ),
    _Row(
        failed=_F.UNREACHABLE,
        says=r"kubernetes cluster unreachable|connection refused|no such host|i/o timeout|etcdserver|not ready\. status: unknown",
        stored=None,
        advice="the cluster does not answer; ask again when it does",
    ),
    _Row(
        failed=_F.QUOTA,
        says=r"is forbidden: exceeded quota",
        stored=True,
        advice="a quota of the namespace is used up; raise it, or ask for less",
    ),
    _Row(
        failed=_F.FORBIDDEN, says=r"is forbidden: user", stored=None, advice="the credential of this environment's cluster may not do that"
    ),
    _Row(
        failed=_F.NO_NAMESPACE,
        says=r"namespaces \"[^\"]*\" not found",
        stored=False,
        advice="the namespace does not exist; have it made first",
    ),
    _Row(
        failed=_F.BAD_VALUES,
        says=r"values don't meet the specifications of the schema",
        stored=False,
        advice="the values do not fit the chart's schema; helm_get_chart shows it, and where they do not fit",
    ),
    _Row(
        failed=_F.RENDER,
        says=r"executing \"|nil pointer evaluating|parse error|execution error",
        stored=False,
        advice="the chart's templates do not render with these values",
    ),
    _Row(
        failed=_F.KUBE_VERSION,
        says=r"chart requires kubeversion",
        stored=False,
        advice="the chart does not want this version of Kubernetes; take another version of it",
    ),
    _Row(
        failed=_F.CRD_MISSING,
        says=r"no matches for kind|ensure crds are installed first",
        stored=False,
        advice="the cluster does not know a kind that the chart uses; install its CustomResourceDefinition first",
    ),
    _Row(
        failed=_F.OWNED_BY_OTHER,
        says=r"exists and cannot be imported into the current release",
        stored=False,
        advice="an object of that name exists and is not this release's; give another name, or remove it",
    ),
    _Row(
        failed=_F.FIELD_CONFLICT,
        says=r"conflict with \"[^\"]*\"(?: using \S+)?: \.|conflict occurred while applying",
        stored=True,
        advice="another manager owns a field that the chart sets; take it out of the chart, or let the plan take it over",
    ),
    _Row(
        failed=_F.IMMUTABLE,
        says=r"field is immutable|field can not be less than",
        stored=True,
        advice="the cluster does not let that field change; delete the object first, or leave the field as it is",
    ),
    _Row(
        failed=_F.BAD_MANIFEST,
        says=r"field not declared in schema",
        stored=True,
        advice="the chart writes a field that the cluster does not know",
    ),
    _Row(
        failed=_F.RELEASE_TOO_BIG,
        says=r"may not be more than 1048576 bytes",
        stored=False,
        advice="chart and values are too large to be stored as a release (1 MiB, compressed); take files out of the chart",
    ),
    _Row(failed=_F.HOOK_FAILED, says=r"hooks failed:[\s\S]*status: failed", stored=True, advice="a hook failed; its logs say why"),
    _Row(
        failed=_F.HOOK_TIMEOUT,
        says=r"hooks failed:[\s\S]*context deadline exceeded",
        stored=True,
        advice="a hook did not end in time; it may run on",
    ),
    _Row(
        failed=_F.WAIT_TIMEOUT,
        says=r"not ready\. status:|context deadline exceeded",
        stored=True,
        advice="everything was applied, and did not become ready in time",
    ),
    _Row(failed=_F.CANCELED, says=r"context canceled", stored=True, advice="it was canceled while it worked"),
    _Row(
        failed=_F.CHART_SOURCE,
        says=r"not a valid chart repository|path \"[^\"]*\" not found|/tags/list",
        stored=False,
        advice="the chart cannot be had from there; helm_search_charts tells what there is",
    ),
    _Row(
        failed=_F.BAD_INPUT,
        says=r"release name is invalid|unknown flag",
        stored=False,
        advice="Helm does not take that; report it, for the door should have refused it",
    ),
)

_ERRORS: Mapping[Failed, type[CountersignError]] = {
    _F.LOCKED: Locked,
    _F.EXISTS: AlreadyExists,
    _F.NOT_FOUND: NotFound,
    _F.UNAUTHENTICATED: FailedPrecondition,
    _F.TLS: FailedPrecondition,
    _F.UNREACHABLE: Unavailable,
    _F.QUOTA: QuotaExceeded,
    _F.FORBIDDEN: FailedPrecondition,
    _F.NO_NAMESPACE: FailedPrecondition,
    _F.BAD_VALUES: InvalidArgument,
    _F.KUBE_VERSION: FailedPrecondition,
    _F.CRD_MISSING: FailedPrecondition,
    _F.OWNED_BY_OTHER: AlreadyExists,
    _F.WAIT_TIMEOUT: TimedOut,
    _F.HOOK_TIMEOUT: TimedOut,
    _F.CANCELED: Canceled,
    _F.BAD_INPUT: InvalidArgument,
}
_FIELDS: Mapping[Failed, str] = {
    _F.NOT_FOUND: "release_name",
    _F.EXISTS: "release_name",
    _F.NO_NAMESPACE: "namespace",
    _F.BAD_VALUES: "values",
    _F.CHART_SOURCE: "chart",
}
_NOISE = re.compile(r"\s*(?:level=|time=|[wie][0-9]{4} |warning:)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Failure:
    failed: Failed
    said: str  # Helm's words without its chatter, in clear: not to be shown before it is redacted
    stored: bool | None  # whether a revision was stored
    advice: str

    @property
    def tells_what_happened(self) -> bool:
        """Whether it is known that nothing was changed."""
        return self.stored is False

    def error(self, redactor: Redactor) -> CountersignError:
        kind = _ERRORS.get(self.failed, ProviderError)
        words = redactor.line(self.said[-2000:], 400)
        message = f"{self.advice}: {words}" if words else self.advice
        return kind(message, field=_FIELDS.get(self.failed), details={"helm": str(self.failed)})


def classify(errors: str, *, pending: bool = False) -> Failure:
    """`errors` is Helm's standard error; `pending` says that the release stands in a pending or uninstalling status."""
    said = "\n".join(line for line in errors.splitlines() if line.strip() and not _NOISE.match(line))
    text = said.lower()
    row = next((row for row in _ROWS if re.search(row.says, text)), None)
    if row is None:
        return Failure(failed=Failed.UNKNOWN, said=said, stored=None, advice="Helm failed")
    if row.failed is Failed.EXISTS and pending:
        row = next(one for one in _ROWS if one.failed is Failed.LOCKED)
    return Failure(failed=row.failed, said=said, stored=row.stored, advice=row.advice)
