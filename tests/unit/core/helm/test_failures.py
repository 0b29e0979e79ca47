"""Helm's words, as they were recorded, and what they mean."""

import pytest

from countersign.core.helm.failures import Failed, classify
from countersign.core.redaction import Redactor
from tests.requirements import requirement

SAID: list[tuple[str, Failed, bool | None, str]] = [
    ("Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress", Failed.LOCKED, False, "locked"),
    ('Error: UPGRADE FAILED: "web" has no deployed releases', Failed.EXISTS, False, "already_exists"),
    ("Error: INSTALLATION FAILED: cannot reuse a name that is still in use", Failed.EXISTS, False, "already_exists"),
    ("Error: uninstall: Release not loaded: web: release: not found", Failed.NOT_FOUND, False, "not_found"),
    ("Error: release has no 7 version", Failed.NOT_FOUND, False, "not_found"),
    (
        "Error: Kubernetes cluster unreachable: the server has asked for the client to provide credentials",
        Failed.UNAUTHENTICATED,
        False,
        "failed_precondition",
    ),
    (
        'Error: Kubernetes cluster unreachable: Get "…": tls: failed to verify certificate: x509: unknown authority',
        Failed.TLS,
        False,
        "failed_precondition",
    ),
    (
        'Error: Kubernetes cluster unreachable: Get "…": dial tcp 127.0.0.1:1: connect: connection refused',
        Failed.UNREACHABLE,
        None,
        "unavailable",
    ),
    ("Error: etcdserver: request timed out", Failed.UNREACHABLE, None, "unavailable"),
    ("Error: resource Job/n/web-before not ready. status: Unknown, message:", Failed.UNREACHABLE, None, "unavailable"),
    ('Error: pods "a" is forbidden: exceeded quota: q, requested: pods=1', Failed.QUOTA, True, "quota_exceeded"),
    ('Error: secrets is forbidden: User "bo" cannot list resource', Failed.FORBIDDEN, None, "failed_precondition"),
    ('Error: create: failed to create: namespaces "x" not found', Failed.NO_NAMESPACE, False, "failed_precondition"),
    (
        "Error: values don't meet the specifications of the schema(s) in the following chart(s):\nshop:\n- at '/replicas': got string",
        Failed.BAD_VALUES,
        False,
        "invalid_argument",
    ),
    (
        'Error: template: shop/templates/a.yaml:3:5: executing "shop/templates/a.yaml" at <.Values.x.y>: nil pointer evaluating',
        Failed.RENDER,
        False,
        "provider_error",
    ),
    (
        "Error: chart requires kubeVersion: >=1.99.0 which is incompatible with Kubernetes v1.36.1",
        Failed.KUBE_VERSION,
        False,
        "failed_precondition",
    ),
    (
        'Error: unable to build kubernetes objects: no matches for kind "X" in version "a/v1"\nensure CRDs are installed first',
        Failed.CRD_MISSING,
        False,
        "failed_precondition",
    ),
    (
        'Error: ConfigMap "c" in namespace "n" exists and cannot be imported into the current release: invalid ownership metadata',
        Failed.OWNED_BY_OTHER,
        False,
        "already_exists",
    ),
    (
        'Error: conflict occurred while applying object ns/web apps/v1, Kind=Deployment: Apply failed with 1 conflict: conflict with "ops" '
        "using apps/v1: .spec.replicas",
        Failed.FIELD_CONFLICT,
        True,
        "provider_error",
    ),
    (
        'Error: UPGRADE FAILED: Deployment.apps "web" is invalid: spec.selector: field is immutable',
        Failed.IMMUTABLE,
        True,
        "provider_error",
    ),
    (
        "Error: spec.resources.requests.storage: Forbidden: field can not be less than status.capacity",
        Failed.IMMUTABLE,
        True,
        "provider_error",
    ),
    ("Error: .spec.foo: field not declared in schema", Failed.BAD_MANIFEST, True, "provider_error"),
    (
        "Error: create: failed to create: Secret is invalid: data: Too long: may not be more than 1048576 bytes",
        Failed.RELEASE_TOO_BIG,
        False,
        "provider_error",
    ),
    (
        "Error: UPGRADE FAILED: pre-upgrade hooks failed: 1 error occurred:\n* resource Job/n/m not ready. status: Failed",
        Failed.HOOK_FAILED,
        True,
        "provider_error",
    ),
    (
        "Error: pre-upgrade hooks failed: resource Job/n/m not ready. status: InProgress\ncontext deadline exceeded",
        Failed.HOOK_TIMEOUT,
        True,
        "timeout",
    ),
    ("Error: resource Deployment/n/web not ready. status: InProgress, message: Replicas: 1/2", Failed.WAIT_TIMEOUT, True, "timeout"),
    (
        "Error: UPGRADE FAILED: release web failed, and has been rolled back due to rollback-on-failure being set: connection refused",
        Failed.ROLLED_BACK,
        True,
        "provider_error",
    ),
    ("Error: INSTALLATION FAILED: context canceled", Failed.CANCELED, True, "canceled"),
    ('Error: looks like "http://…" is not a valid chart repository or cannot be reached', Failed.CHART_SOURCE, False, "provider_error"),
    ('Error: path "./gone" not found', Failed.CHART_SOURCE, False, "provider_error"),
    ("Error: release name is invalid: A_B", Failed.BAD_INPUT, False, "invalid_argument"),
    ("Error: something new", Failed.UNKNOWN, None, "provider_error"),
]


@requirement("helm:failures")
@pytest.mark.parametrize(("said", "failed", "stored", "code"), SAID)
def test_what_helm_says_has_one_meaning(said: str, failed: Failed, stored: bool | None, code: str) -> None:
    found = classify(said)
    error = found.error(Redactor())

    assert (found.failed, found.stored, error.code) == (failed, stored, code)
    assert found.tells_what_happened == (stored is False)
    assert error.details == {"helm": str(failed)}
    assert said.split("\n")[0][:30] in error.message


def test_every_meaning_was_recorded() -> None:
    assert {failed for _, failed, _, _ in SAID} == set(Failed)


def test_a_name_in_use_by_something_pending_is_a_lock() -> None:
    said = 'Error: UPGRADE FAILED: "web" has no deployed releases'

    assert classify(said, pending=True).failed is Failed.LOCKED
    assert classify("Error: release: not found", pending=True).failed is Failed.NOT_FOUND


def test_chatter_means_nothing() -> None:
    chatter = 'level=WARN msg="connection refused"\nW1126 03:00:00 x509: odd\nWarning: field is immutable\n\n'

    assert classify(chatter).failed is Failed.UNKNOWN
    assert classify(chatter).error(Redactor()).message == "Helm failed"
    assert classify(chatter + "Error: release: not found").said == "Error: release: not found"


def test_what_helm_says_is_redacted() -> None:
    error = classify("Error: hunter2hunter2: release: not found").error(Redactor(["hunter2hunter2"]))

    assert "hunter2" not in error.message
    assert error.field == "release_name"
