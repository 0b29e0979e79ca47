"""Whether what a release holds works: as kstatus reads conditions and counts, so that `helm upgrade --wait` and this agree."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from countersign.core.redaction import clean_line, cut


class Health(StrEnum):
    """From good to bad."""

    HEALTHY = "healthy"
    PROGRESSING = "progressing"
    DEGRADED = "degraded"
    MISSING = "missing"


_STUCK = frozenset(
    {"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError",
     "RunContainerError", "OOMKilled"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Standing:
    address: str
    health: Health
    message: str = ""  # in clear: not to be shown before it is redacted


def worst(standings: Iterable[Standing]) -> Health:
    order = list(Health)
    return max((one.health for one in standings), key=order.index, default=Health.HEALTHY)


def standing(address: str, live: Mapping[str, Any] | None) -> Standing:
    if live is None:
        return Standing(address=address, health=Health.MISSING, message="it does not exist")
    health, message = _judged(live)
    return Standing(address=address, health=health, message=cut(clean_line(message), 300))


def _judged(live: Mapping[str, Any]) -> tuple[Health, str]:
    metadata, spec, status = (_map(live.get(part)) for part in ("metadata", "spec", "status"))
    if metadata.get("deletionTimestamp"):
        return Health.PROGRESSING, "it is being deleted"
    seen, made = status.get("observedGeneration"), metadata.get("generation")
    if isinstance(seen, int) and isinstance(made, int) and seen < made:
        return Health.PROGRESSING, "its newest change was not taken up yet"
    group, kind = str(live.get("apiVersion", "")).rpartition("/")[0], live.get("kind")
    match group, kind:
        case "apps", "Deployment":
            return _deployment(spec, status)
        case "apps", "StatefulSet" | "ReplicaSet":
            return _ready(_number(spec.get("replicas"), 1), status, updated=kind == "StatefulSet")
        case "apps", "DaemonSet":
            wanted = _number(status.get("desiredNumberScheduled"))
            return _counted(wanted, _number(status.get("numberReady")), _number(status.get("updatedNumberScheduled")))
        case "batch", "Job":
            return _job(status)
        case "", "Pod":
            return _pod(status)
        case "", "PersistentVolumeClaim":
            return _phase(status, healthy="Bound", lost="Lost")
        case "", "Service":
            waits = spec.get("type") == "LoadBalancer" and not _map(status.get("loadBalancer")).get("ingress")
            return (Health.PROGRESSING, "it has no address yet") if waits else (Health.HEALTHY, "")
    return _by_conditions(status)


def _deployment(spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Health, str]:
    for one in _conditions(status):
        if (one.get("type"), one.get("status"), one.get("reason")) == ("Progressing", "False", "ProgressDeadlineExceeded"):
            return Health.DEGRADED, str(one.get("message") or "it made no progress in time")
        if (one.get("type"), one.get("status")) == ("ReplicaFailure", "True"):
            return Health.DEGRADED, str(one.get("message") or "its pods are refused")
    if spec.get("paused") is True:
        return Health.PROGRESSING, "it is paused"
    return _ready(_number(spec.get("replicas"), 1), status, updated=True)


def _ready(wanted: int, status: Mapping[str, Any], *, updated: bool) -> tuple[Health, str]:
    ready = _number(status.get("readyReplicas"))
    return _counted(wanted, ready, _number(status.get("updatedReplicas"), 0 if updated and "currentReplicas" not in status else wanted))


def _counted(wanted: int, ready: int, updated: int) -> tuple[Health, str]:
    if updated < wanted:
        return Health.PROGRESSING, f"{updated} of {wanted} updated"
    if ready < wanted:
        return Health.PROGRESSING, f"{ready} of {wanted} ready"
    return Health.HEALTHY, ""


def _job(status: Mapping[str, Any]) -> tuple[Health, str]:
    said = {str(one.get("type")): one for one in _conditions(status) if one.get("status") == "True"}
    if "Failed" in said:
        return Health.DEGRADED, str(said["Failed"].get("message") or "it failed")
    return (Health.HEALTHY, "") if "Complete" in said else (Health.PROGRESSING, "it runs")


def _pod(status: Mapping[str, Any]) -> tuple[Health, str]:
    phase = status.get("phase")
    if phase == "Failed":
        return Health.DEGRADED, str(status.get("message") or "it failed")
    if phase == "Succeeded":
        return Health.HEALTHY, ""
    for container in (*_list(status.get("initContainerStatuses")), *_list(status.get("containerStatuses"))):
        waiting = _map(_map(container.get("state")).get("waiting"))
        if waiting.get("reason") in _STUCK:
            return Health.DEGRADED, f"{container.get('name')}: {waiting['reason']} {waiting.get('message') or ''}".strip()
    ready = any((one.get("type"), one.get("status")) == ("Ready", "True") for one in _conditions(status))
    return (Health.HEALTHY, "") if ready else (Health.PROGRESSING, f"it is {phase or 'not scheduled'}, and not ready")


def _phase(status: Mapping[str, Any], *, healthy: str, lost: str) -> tuple[Health, str]:
    phase = str(status.get("phase") or "not seen yet")
    if phase == healthy:
        return Health.HEALTHY, ""
    return (Health.DEGRADED if phase == lost else Health.PROGRESSING), f"it is {phase}"


def _by_conditions(status: Mapping[str, Any]) -> tuple[Health, str]:
    """What other kinds say by the conditions that most of them have; what says nothing is there, and that is all it has to be."""
    for one in _conditions(status):
        name, true = one.get("type"), one.get("status")
        if name in ("Stalled", "Failed") and true == "True":
            return Health.DEGRADED, str(one.get("message") or one.get("reason") or "")
        if name in ("Ready", "Available", "Established") and true == "False":
            return Health.PROGRESSING, str(one.get("message") or one.get("reason") or "it is not ready")
    return Health.HEALTHY, ""


def _conditions(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _list(status.get("conditions"))


def _list(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object, otherwise: int = 0) -> int:
    return value if isinstance(value, int) else otherwise
