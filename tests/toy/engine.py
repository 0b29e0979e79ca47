"""A second, tiny engine: it proves that the run workflow, approvals, policies and records know no engine.

It "changes" a folder: each change is a line appended to `world`. A plan is what a test writes into `wanted`; an apply runs as
far as the test lets it, through files a test can see, so nothing here sleeps on a guess.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from countersign.core.digests import digest_of, sha256
from countersign.core.engine import ApplyJob, Beat, Heard, Outcome, PlanJob, Planned, Progress, Wanted, Wish
from countersign.core.errors import NotYet, ProviderError
from countersign.core.plan import Change, ChangeClass, Counts, Plan, worst
from countersign.core.run import RUN_TYPES, Mode, RunState, RunType
from countersign.core.steps import ENGINES, engine_steps

NAME = "toy"


def install() -> None:
    """Registering steps and run types is all it takes: no workflow, approval or record is touched."""
    ENGINES.setdefault(NAME, engine_steps(NAME))
    for name, mode in (("apply_toy", Mode.APPLY), ("destroy_toy", Mode.DESTROY), ("plan_toy", Mode.SPECULATIVE)):
        RUN_TYPES.setdefault(name, RunType(name=name, engine=NAME, mode=mode))


@dataclass
class ToyEngine:
    root: Path
    name: str = NAME

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.hold_applies = False
        self.heeds_interrupts = True

    @property
    def world(self) -> list[str]:
        file = self.root / "world"
        return file.read_text().splitlines() if file.exists() else []

    def want(self, *changes: tuple[str, str], serial: int = 0, error: str = "", of: str = "", needs: str = "") -> None:
        """What plans of every stack, or of the one with the slug `of`, find to do. `needs` is the id of a stack that is to be applied
        before, if `world` is still empty. An action "fail" is an update that fails."""
        (self.root / f"wanted{of}").write_text(json.dumps({"changes": changes, "error": error, "needs": needs}))

    async def plan(self, job: PlanJob, beat: Beat) -> Planned:
        own = self.root / f"wanted{job.stack.path.rsplit('/', 1)[-1]}"
        wanted = json.loads((own if own.exists() else self.root / "wanted").read_text())
        if wanted["needs"] and not self.world:
            raise NotYet("there is nothing to build on yet", details={"needs": wanted["needs"]})
        if wanted["error"]:
            raise ProviderError(wanted["error"], details={"findings": []})
        actions = [(address, "update" if action == "fail" else action) for address, action in wanted["changes"]]
        changes = tuple(Change(address=a, type="toy", action=c, change_class=ChangeClass(c)) for a, c in actions)
        counts = Counts(
            create=sum(c.action == "create" for c in changes),
            update=sum(c.action == "update" for c in changes),
            delete=sum(c.action == "delete" for c in changes),
        )
        bundle = json.dumps(wanted["changes"]).encode()
        plan = Plan(
            engine=self.name,
            engine_build="toy 1",
            counts=counts,
            change_class=worst(c.change_class for c in changes),
            classes=tuple(sorted({c.change_class for c in changes}, key=lambda c: c.rank)),
            changes=changes,
            semantic_digest=digest_of([list(c) for c in wanted["changes"]]),
        )
        return Planned(
            plan=plan,
            plan_sha256=sha256(bundle),
            bundle=bundle,
            plan_json=bundle,
            view=bundle,
            semantic_document=bundle,
            inputs={"vars": sorted(job.vars)},
            log="planned\n",
            lineage=job.state.lineage,
            serial=job.state.serial,
            adoptable=job.mode is Mode.SPECULATIVE and not (job.targets or job.destroy),
        )

    async def moved(self, job: PlanJob, inputs: Mapping[str, object], beat: Beat) -> str | None:
        return None if inputs == {"vars": sorted(job.vars)} else "the variables are others"

    def where(self, attempt_id: str) -> Path:
        return self.root / attempt_id

    async def launch(self, job: ApplyJob) -> None:
        folder = self.where(job.attempt_id)
        folder.mkdir()
        (folder / "bundle").write_bytes(job.bundle)
        with (self.root / "launched").open("a") as launched:
            launched.write(job.attempt_id + "\n")

    async def follow(self, attempt_id: str, beat: Beat, *, stop: Wanted) -> Outcome:
        folder = self.where(attempt_id)
        if not (folder / "bundle").exists():
            return Outcome(state=RunState.ERRORED, message="the apply never started", evidence=("nothing was launched",))
        changes = json.loads((folder / "bundle").read_text())
        total = len(changes)
        await beat(Progress(done=0, total=total))
        while self.hold_applies and not (folder / "go").exists():
            if stop() == Wish.KILL or (stop() and self.heeds_interrupts):
                return Outcome(state=RunState.PARTIALLY_APPLIED, message="interrupted", total=total, evidence=("one interrupt",))
            if (folder / "lost").exists():
                return Outcome(state=RunState.INTERRUPTED, message="nobody knows", total=total)
            await beat(Progress(done=0, total=total, hear=Heard))
            await asyncio.sleep(0.02)
        if any(action == "fail" for _, action in changes):
            made = [one for one in changes if one[1] != "fail"]
            state = RunState.PARTIALLY_APPLIED if made else RunState.ERRORED
            return Outcome(state=state, code="provider_error", message="it was refused", done=len(made), total=total, evidence=("refused",))
        if not (folder / "rc").exists():
            with (self.root / "world").open("a") as world:
                world.writelines(f"{address} {action}\n" for address, action in changes)
            (folder / "rc").write_text("0")
        await beat(Progress(done=total, total=total))
        return Outcome(
            state=RunState.VERIFYING,
            done=total,
            total=total,
            outputs={"made": {"value": total}},
            log="applied\n",
            evidence=("exit code 0",),
        )

    async def forget(self, attempt_id: str) -> None:
        pass

    @property
    def launched(self) -> list[str]:
        file = self.root / "launched"
        return file.read_text().splitlines() if file.exists() else []
