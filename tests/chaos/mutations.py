"""One mechanism of the product switched off in the parts of a service: a matrix that does not notice proves nothing.

Each is what systems without it do, and nothing more; all checks around it stay. It is patched in by `part.py`, which only tests
start: no setting of the product can do this.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Mutation:
    what: str
    points: tuple[str, ...]  # that are tried with it; at least one has to fail
    patches: dict[str, Callable[[], None]]  # by the part it is for


def _claim() -> None:
    """Whoever is asked to apply, applies: no approval is weighed, and no plan was ever claimed."""
    from activities.applying import Applying
    from countersign.adapters.store import claim, plans, runs, state

    honest = claim.claim

    async def everybody(store: Any, *, org: str, run_id: str, plan_digest: str, host: str, boot_id: str, **more: Any) -> Any:
        taken = await honest(store, org=org, run_id=run_id, plan_digest=plan_digest, host=host, boot_id=boot_id, **more)
        if isinstance(taken, claim.Claimed):
            return taken
        async with store.begin() as tx:
            run, now, id = await runs.get_run(tx, org, run_id), store.now(), f"att_ghost{secrets.token_hex(8)}"
            head = await state.head(tx, org, run.stack_id)
            password = await state.grant(
                tx,
                org=org,
                stack_id=run.stack_id,
                run_id=run_id,
                credential_id=id,
                mode="apply",
                epoch=head.epoch,
                expires_at=now + timedelta(hours=1),
            )
        attempt = plans.AttemptRow(
            id=id,
            run_id=run_id,
            stack_id=run.stack_id,
            plan_digest=plan_digest,
            epoch=head.epoch,
            host=host,
            boot_id=boot_id,
            opened_at=now,
            ended_at=None,
            closed_at=None,
            outcome=None,
            evidence=(),
        )
        return claim.Claimed(attempt=attempt, password=password, lineage=head.lineage, serial=head.serial)

    async def bundle(self: Any, asked: Any) -> Any:
        async with self.store.read() as conn:
            run = await runs.get_run(conn, asked.org, asked.run_id)
            plan = await plans.plan_by_digest(conn, asked.org, asked.plan_digest)
            assert plan is not None
            ref = next(a for a in plan.summary.artifacts if a.kind == "plan_bundle")
            return run, plan, await self.artifacts.read(conn, org=asked.org, artifact_id=ref.id)

    claim.claim = everybody  # type: ignore[assignment]
    Applying._bundle = bundle  # type: ignore[method-assign]


def _fencing() -> None:
    """A credential stays good until its time is over: whatever epoch the state is at, and whoever was revoked."""
    from countersign.core.fencing import Credential

    honest = Credential.over

    def over(self: Credential, head: Any, now: Any) -> str | None:
        return honest(replace(self, epoch=head.epoch, revoked=False), head, now)

    Credential.over = over  # type: ignore[method-assign]


def _journal() -> None:
    """What an apply did is looked for in the state alone."""
    from countersign.adapters.terraform.reconciling import Reconciliation

    Reconciliation._attempts = lambda self, approved: []  # type: ignore[method-assign]


def _proof() -> None:
    """Whatever is left is taken for a part of what was approved."""
    from countersign.adapters.terraform import reconciling

    honest = reconciling.prove
    reconciling.prove = lambda *args, **kwargs: replace(honest(*args, **kwargs), refused=(), trustworthy=True)


def _attempts() -> None:
    """An apply that was lost has ended, and its state is free for the next run."""
    from activities.applying import Applying
    from countersign.core.run import RunState

    honest = Applying._record_outcome

    async def written_off(self: Any, run: Any, attempt: Any, outcome: Any, watching: Any) -> Any:
        if outcome.state is RunState.INTERRUPTED:
            outcome = replace(outcome, state=RunState.PARTIALLY_APPLIED)
        return await honest(self, run, attempt, outcome, watching)

    Applying._record_outcome = written_off  # type: ignore[method-assign]


MUTATIONS = {
    "claim": Mutation(
        what="no claim: whoever is asked to apply, applies",
        points=("temporal/create/waiting+apply", "temporal/create/create-two-before+apply"),
        patches={"worker": _claim},
    ),
    "fencing": Mutation(
        what="no fencing: whoever once could write a state can go on writing it",
        points=("terraform/create/lock.apply-before+late", "terraform/update/write.apply-before+late"),
        patches={"worker": _fencing, "state": _fencing},
    ),
    "journal": Mutation(
        what="no journal: what an apply did is looked for in the state alone",
        points=("terraform/create/create-two-after", "terraform/create/create-three-before"),
        patches={"worker": _journal},
    ),
    "proof": Mutation(
        what="no proof: whatever is left is taken for approved",
        points=("terraform/update/update-one-after+meddle", "terraform/replace-database/delete-two-after"),
        patches={"worker": _proof},
    ),
    "attempts": Mutation(
        what="no attempt stays open: a lost apply has ended",
        points=("terraform/create/create-two-after", "terraform/destroy/delete-two-before"),
        patches={"worker": _attempts},
    ),
}


def install(name: str, part: str) -> None:
    if (patch := MUTATIONS[name].patches.get(part)) is not None:
        patch()
