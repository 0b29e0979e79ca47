"""What the quotas of namespaces have left, which no dry run tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from countersign.adapters.helm.session import Session
from countersign.core.errors import QuotaExceeded
from countersign.core.helm.diff import Looked


async def quota_risks(session: Session, looked: Sequence[Looked]) -> tuple[str, ...]:
    """What quotas have left. Pods are made later, by controllers, and of many new objects each fits alone: no dry run tells.

    Raises QuotaExceeded where it can never fit.
    """
    said: list[str] = []
    for namespace in sorted({one.manifest.key.namespace for one in looked} - {""}):
        quotas = await session.cluster.listed("v1", "ResourceQuota", namespace=namespace)
        wants = await _wants(session, [one for one in looked if one.manifest.key.namespace == namespace]) if quotas else {}
        for quota in quotas:
            name, hard = quota["metadata"]["name"], quota.get("spec", {}).get("hard") or {}
            used = quota.get("status", {}).get("used") or {}
            for unit, want in wants.items():
                if not (str(hard.get(unit)).isdigit() and str(used.get(unit, "0")).isdigit()):
                    continue
                most, now = int(str(hard[unit])), int(str(used.get(unit, "0")))
                if want.every > most or (want.at_once and now + want.more > most):
                    raise QuotaExceeded(
                        f"the quota {name} of {namespace} allows {most} {unit}, {now} are used, and {want.every} are wanted, "
                        f"{want.more} of them new; ask for fewer, or have the quota raised",
                        field="values",
                    )
                if want.more > 0 and now + want.more > most:
                    said.append(
                        f"The quota {name} of {namespace} may refuse {unit}: {now} of {most} are used, and {want.more} more are wanted."
                    )
    return tuple(said)


@dataclass(frozen=True)
class Want:
    every: int = 0  # the release's, in the end
    more: int = 0  # than it has now
    at_once: bool = True  # made by helm itself, and refused at once where there is no room

    def plus(self, every: int, more: int, at_once: bool) -> "Want":
        return Want(self.every + every, self.more + more, at_once)


async def _wants(session: Session, looked: Sequence[Looked]) -> dict[str, Want]:
    """By the unit of a quota."""
    found: dict[str, Want] = {}
    for one in looked:
        key, new = one.manifest.key, int(one.live is None)
        if plural := await session.cluster.plural(one.manifest.api_version, key.kind):
            for unit in {f"count/{plural}.{key.group}"} if key.group else {f"count/{plural}", plural} - {"pods", "count/pods"}:
                found[unit] = found.get(unit, Want()).plus(1, new, True)
        if pods := _pods(one.manifest.body):
            more = pods - (_pods(one.live) if one.live is not None else 0)
            for unit in ("pods", "count/pods"):
                found[unit] = found.get(unit, Want()).plus(pods, more, False)
    return found


def _pods(body: Mapping[str, Any]) -> int:
    """How many pods an object keeps running; a Job's come and go."""
    spec = body.get("spec") or {}
    match body.get("kind"):
        case "Pod":
            return 1
        case "Deployment" | "StatefulSet" | "ReplicaSet":
            wanted = spec.get("replicas", 1)
            return wanted if isinstance(wanted, int) else 1
        case "Job":
            wanted = spec.get("parallelism", 1)
            return wanted if isinstance(wanted, int) else 1
    return 0
