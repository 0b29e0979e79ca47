"""The step that begins a drift check when its time has come: a run of its own, or the reason why there is none this time."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity

from countersign.adapters.store import drift, records, runs
from countersign.adapters.store.database import Store
from countersign.adapters.store.requests import Draft, request_run
from countersign.adapters.store.runs import RunRow
from countersign.core.errors import NotFound
from countersign.core.principal import SYSTEM
from countersign.core.run import RUN_TYPES
from countersign.core.steps import BEGIN_DRIFT, DriftBegun, DriftInput


@dataclass(frozen=True, kw_only=True)
class DriftSteps:
    store: Store
    start: Callable[[RunRow], Awaitable[None]]  # its workflow
    releases_every: Mapping[str, str] = field(default_factory=dict)  # "org/env" → how often its releases are looked at

    @BEGIN_DRIFT.implemented_by
    async def begin(self, asked: DriftInput) -> DriftBegun:
        """Ask for the run with the key of this very occasion, so that a second try finds the first."""
        async with self.store.read() as conn:
            try:
                stack = await records.get_stack(conn, asked.org, asked.stack_id)
            except NotFound:
                return DriftBegun(skipped="the workspace was forgotten")
            busy = await drift.busy_with(conn, asked.org, stack.id)
        if stack.config.released:
            return DriftBegun(skipped="its state was given back")
        if busy is not None:
            return DriftBegun(skipped=busy)
        arguments: dict[str, Any] = {"env": stack.env, "workspace": stack.slug, "every": stack.body.get("drift_every")}
        if (release := stack.release) is not None:
            every = self.releases_every.get(stack.config.env)
            arguments = {"env": stack.env, "namespace": release.namespace, "release_name": release.name, "every": every}
        begun = await request_run(
            self.store,
            Draft(
                run_type=RUN_TYPES["terraform_detect_drift" if release is None else "helm_detect_drift"],
                stack=stack.config,
                arguments=arguments,
            ),
            org=asked.org,
            principal=SYSTEM,
            key=activity.info().workflow_id,
            message=None,
        )
        async with self.store.read() as conn:
            run = await runs.get_run(conn, asked.org, begun.run_id)
        await self.start(run)
        return DriftBegun(run_id=run.id)
