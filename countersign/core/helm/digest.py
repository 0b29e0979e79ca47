"""What people agree to when they agree to a release: the chart, its values, the revision it starts from, and each object as it is now.

`resourceVersion` is no part of it: a pod that restarts moves that, and a plan would be stale by itself. What an object has of its own is
its uid and its generation, or where it has no generation, what is in it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from countersign.core.digests import digest_of
from countersign.core.fingerprints import Fingerprints
from countersign.core.helm.diff import Difference, normal, record_of
from countersign.core.helm.manifests import POLICY, Manifest, annotations
from countersign.core.helm.redaction import tree

GONE = "-"  # what is said of an object that is not there


def marked(address: str, live: Mapping[str, Any] | None, fingerprints: Fingerprints) -> str:
    """Which object this is, and whether anybody changed what it should be: two marks are equal where nothing moved."""
    if live is None:
        return GONE
    metadata = live.get("metadata") or {}
    generation = metadata.get("generation")
    said = f"generation {generation}" if generation is not None else fingerprints.of(tree(normal(live)), "live", address)
    kept = " kept" if annotations(live).get(POLICY) == "keep" else ""  # which moves no generation, and decides what is deleted
    return f"{metadata.get('uid', '')} {said}{kept}"


def moved(planned: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """Addresses whose object is not the one that was planned with."""
    return tuple(sorted(address for address, mark in planned.items() if now.get(address, GONE) != mark))


def document_of(
    differences: Iterable[Difference],
    *,
    facts: Mapping[str, Any],
    live: Mapping[str, str],
    hooks: Iterable[Manifest],
    values: object,
    fingerprints: Fingerprints,
) -> dict[str, Any]:
    """The semantic document. `facts` are what else is agreed to, without secrets: chart, revision, what helm is told to do."""
    return {
        "v": "countersign.helm/1",
        "facts": dict(facts),
        "values": fingerprints.of(tree(values), "values"),
        "objects": sorted((record_of(one, fingerprints) for one in differences), key=lambda record: str(record["address"])),
        "hooks": {hook.key.address: fingerprints.of(tree(hook.body), "hook", hook.key.address) for hook in hooks},
        "live": dict(live),
    }


def semantic_digest(document: Mapping[str, Any]) -> str:
    return digest_of(dict(document))
