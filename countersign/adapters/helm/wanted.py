"""What was asked for of a release, and what would be there then."""

from dataclasses import dataclass, field
from typing import Any

from countersign.adapters.helm.archive import Archive
from countersign.core.engine import Release
from countersign.core.helm.manifests import Manifest
from countersign.core.helm.recovery import Action


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for, before it is held against the cluster."""

    action: Action
    release: Release
    run: str
    archive: Archive | None = None
    values: Any = field(repr=False, default=None)
    secrets: frozenset[str] = field(repr=False, default=frozenset())  # of values that are sealed
    to: int | None = None
    run_tests: bool = False
    keep_history: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """What would be there, and what runs on the way."""

    objects: tuple[Manifest, ...]
    hooks: tuple[Manifest, ...] = ()
    other_hooks: bool = False  # than the deployed revision has
    crds: tuple[Manifest, ...] = ()  # made once, before everything else
    remarks: tuple[str, ...] = ()
