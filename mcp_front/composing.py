"""Asking for several runs as one: each step is asked for by its own tool, with everything that tool checks, and only its start is kept.

So a step is allowed, looked up and refused as its tool would do it, whatever engine it is of, and nothing is made before all of them
passed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from countersign.adapters.store import plans, records, runs
from countersign.adapters.store.requests import Draft
from countersign.adapters.store.runs import RunRow
from countersign.core import composite
from countersign.core.engine import StackConfig
from countersign.core.errors import CountersignError, FailedPrecondition, InvalidArgument
from countersign.core.run import COMPOSITE, RUN_TYPES, Mode, RunState, RunType
from mcp_front import lookup
from mcp_front.call import Call
from mcp_front.domain import ToolSpec
from mcp_front.gateway import Gateway, Started
from mcp_front.rights import Caller

AT = "input.steps"  # where steps stand in the call
LATE = "it was asked to be planned only then."


class StepInput(BaseModel):
    """One step, as it is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str = Field(min_length=1, max_length=64, description="a run type that changes something")
    input: dict[str, Any] = Field(description="that tool's own arguments")
    late: bool = Field(default=False, description="plan it only after the steps before it")


class Drafted(Exception):
    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self.draft = draft


class Drafting(Gateway):
    """Takes note of the run that a tool is about to start, and starts nothing."""

    def __init__(self, gateway: Gateway) -> None:
        vars(self).update(vars(gateway))

    async def start(
        self,
        caller: Caller,
        asking: Draft,
        *,
        key: str | None,
        message: str | None,
        steps: Sequence[Draft] = (),
    ) -> Started:
        raise Drafted(asking)


@dataclass(frozen=True, kw_only=True)
class Whole:
    stack: StackConfig  # stands where other runs have theirs
    steps: tuple[Draft, ...]

    @property
    def is_dry(self) -> bool:
        """Whether its steps are only looked at: so is the whole then."""
        return any(one.mode is Mode.SPECULATIVE for one in self.steps)

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "steps": [
                {"type": one.run_type.name, "input": dict(one.arguments), **({"late": True} if one.late else {})} for one in self.steps
            ]
        }


async def drafted(call: Call, asked: Sequence[StepInput]) -> Whole:
    """All steps as their tools would ask for them. Raises what the first wrong one refuses, with the place it stands at."""
    specs = [_tool_of(call, number, one) for number, one in enumerate(asked)]
    if asked[0].late:
        raise InvalidArgument("the first step has nothing to wait for; leave late out", field=f"{AT}.0.late")
    drafts = []
    for number, (spec, one) in enumerate(zip(specs, asked, strict=True)):
        try:
            draft = await _draft(call, spec, one)
        except CountersignError as wrong:
            wrong.field = f"{AT}.{number}.input.{wrong.field}" if wrong.field else f"{AT}.{number}"
            raise
        drafts.append(replace(draft, late=LATE if one.late else None))
    return whole(call, drafts)


def whole(call: Call, drafts: Sequence[Draft]) -> Whole:
    """Raises InvalidArgument where two steps change the same."""
    seen: dict[str, int] = {}
    for number, one in enumerate(drafts):
        if (first := seen.setdefault(one.stack.stack_id, number)) != number:
            raise InvalidArgument(
                f"steps.{number} changes {one.stack.path}, as steps.{first} does, and would void the plan of it; give a stack one step, "
                "and ask for what comes after as a run of its own",
                field=f"{AT}.{number}",
            )
    envs = [one.stack.env for one in drafts]
    stack = StackConfig(
        org=call.org,
        stack_id=composite.stacks_of(call.org, [one.stack.stack_id for one in drafts]),
        path=composite.name_of([one.stack.path for one in drafts]),
        env=next((env for env in envs if call.front.policy.is_protected(env)), envs[0]),
        source_repo=None,
        source_path="",
        git_ref=None,
        engine=COMPOSITE,
    )
    return Whole(stack=stack, steps=tuple(drafts))


def _tool_of(call: Call, number: int, one: StepInput) -> ToolSpec:
    """The tool of a step. Raises InvalidArgument for one that cannot be one, PermissionDenied where the caller has no right to it."""
    field = f"{AT}.{number}.type"
    known = {*call.front.toolset.tools, *call.front.toolset.starts}
    possible = [name for name, type in RUN_TYPES.items() if type.changes and name != COMPOSITE and name in known]
    if one.type == COMPOSITE:
        raise InvalidArgument("a composite holds no composite; name its steps here, in their order", field=field)
    if one.type in RUN_TYPES and one.type in known and one.type not in possible:
        raise InvalidArgument(f"{one.type} changes nothing, so it is no step; to look only, ask for dry_run of the whole", field=field)
    if one.type not in possible:
        raise InvalidArgument(f"no run type {one.type[:60]!r}{lookup.nearest(one.type, possible)}", field=field)
    return call.tool_named(one.type)


async def _draft(call: Call, spec: ToolSpec, one: StepInput) -> Draft:
    if common := sorted(set(one.input) & spec.common):
        raise InvalidArgument(f"give {common[0]} to the whole, not to a step", field=common[0])
    own, _ = spec.validated(one.input)
    front = replace(call.front, gateway=Drafting(call.front.gateway))
    try:
        # What a person is asked is asked about the whole.
        await spec.function(replace(call, front=front, tool=spec, can_ask=False), **own)
    except Drafted as kept:
        return kept.draft
    raise FailedPrecondition(f"{spec.name} cannot be a step: it starts no run with this input")


async def again(call: Call, run: RunRow, *, left_only: bool, commits: Literal["asked", "planned", "newest"] = "asked") -> Whole:
    """The steps of an earlier composite as they were asked for then; with `left_only` those that were not done.

    `commits` says at which commit a step from a repository is planned: what it was asked for with, if any, what it was planned at, or
    today's. Of a dry run it is one again.
    """
    is_dry = call.given.dry_run or not run.changes
    async with call.front.store.read() as conn:
        members = await runs.members_of(conn, run)
        drafts: list[Draft] = []
        for member in members:
            call.tool_named(member.type)
            if left_only and member.state in composite.DONE:
                continue
            stack = await records.get_stack(conn, call.org, member.stack_id)
            plan = await plans.get_plan(conn, run.org, member.id)
            # What was adopted is of then, and a destruction only says so itself where it is a dry run.
            kept = {name: value for name, value in member.request.items() if name not in ("plan_digest", "destroy")}
            if stack.config.source_repo is not None and commits == "planned" and plan is not None and plan.inputs.get("commit"):
                kept["commit"] = plan.inputs["commit"]
            if commits == "newest":
                kept.pop("commit", None)
            dry = {"destroy": True} if is_dry and _mode_of(member) is Mode.DESTROY else {}
            drafts.append(
                Draft(
                    run_type=RunType(name=member.type, engine=member.engine, mode=_mode_of(member)),
                    stack=stack.config,
                    arguments={**kept, **dry},
                    mode=Mode.SPECULATIVE if is_dry else None,
                    late=LATE if drafts and _was_late(run, member) else None,
                )
            )
    if not drafts:
        raise FailedPrecondition("every step of it is done; nothing is left to resume", next=["run_rerun"], details={"run_id": run.id})
    return whole(call, drafts)


def _mode_of(member: RunRow) -> Mode:
    """What its type asks for, whatever a dry run made of it."""
    return RUN_TYPES[member.type].mode if member.type in RUN_TYPES else member.mode


def _was_late(run: RunRow, member: RunRow) -> bool:
    steps: Sequence[Mapping[str, Any]] = run.request.get("steps") or ()
    at = (member.step or 0) - 1
    return 0 <= at < len(steps) and bool(steps[at].get("late"))


def refuse_for_a_step(run: RunRow, *, what: str) -> None:
    """Raises FailedPrecondition that points to the composite: a step is begun, ended and repeated with it."""
    if run.parent is not None:
        raise FailedPrecondition(
            f"this is step {run.step} of {run.parent}; {what} that one",
            field="run_id",
            next=["run_get"],
            details={"run_id": run.parent},
        )


def is_a_steps_own(run: RunRow) -> bool:
    """What an operator settles with the step itself: evidence is of its own apply."""
    return run.state in (RunState.NEEDS_OPERATOR, RunState.INTERRUPTED)
