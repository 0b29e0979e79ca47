"""Starting, following and reading runs."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from countersign.cli.door import Door, place_of
from countersign.cli.exits import Exit, of_state
from countersign.cli.following import Narrator, Silent, Watcher, follow
from countersign.cli.front import Answer, Front
from countersign.cli.output import safe, safe_block
from countersign.cli.views import command, outputs_view, plan_view, results, run_view, runs_view, warnings_view
from countersign.core.errors import CountersignError, InvalidArgument
from countersign.core.run import RunState


@dataclass(frozen=True, kw_only=True)
class Start:
    """A tool that starts a run on a stack, and what it is given."""

    tool: str
    stack: str
    message: str | None
    key: str | None
    wait: bool
    arguments: dict[str, Any]
    vars: tuple[str, ...] = ()  # name=value
    var_files: tuple[Path, ...] = ()  # each a JSON object of values
    secret_vars: tuple[str, ...] = ()  # name=slug
    listed: bool = True  # a tool of the front; else a type that `run_start` starts


def variables(plain: Sequence[str], sealed: Sequence[str], files: Sequence[Path] = ()) -> dict[str, Any]:
    """`name=value` and `name=slug` over values of files. Raises InvalidArgument; its message repeats no value."""
    found: dict[str, Any] = {}
    of_files: dict[str, Any] = {}
    for file in files:
        of_files |= _values_in(file)
    for option, texts in (("--var", plain), ("--secret-var", sealed)):
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise InvalidArgument(f"{option} takes name=value", field="vars")
            if name in found:
                raise InvalidArgument(f"the variable {name[:60]} is given twice", field="vars")
            found[name] = {"secret": value} if option == "--secret-var" else _value(value)
    return of_files | found


def _values_in(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as broken:
        raise InvalidArgument(f"{file} cannot be read ({broken.strerror})", field="vars") from None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InvalidArgument(
            f"{file} holds no JSON object of values; write it as .tfvars.json, or keep values of an environment in the source as "
            "env/ENVIRONMENT.tfvars",
            field="vars",
        )
    return values


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(frozen=True, kw_only=True)
class Compose:
    """Several runs as one, in the order of a file."""

    file: Path
    dry_run: bool
    message: str | None
    key: str | None
    wait: bool


def steps_in(file: Path) -> list[Any]:
    """`[{"type": …, "input": {…}}, …]`, alone or as `steps` of an object. Raises InvalidArgument."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as broken:
        raise InvalidArgument(f"{file} cannot be read ({broken.strerror})", field="file") from None
    except ValueError:
        found = None
    steps = found.get("steps") if isinstance(found, dict) else found
    if not isinstance(steps, list):
        raise InvalidArgument(
            f'{file} holds no list of steps; write JSON such as [{{"type": "apply_terraform", "input": {{…}}}}]', field="file"
        )
    return steps


async def compose(door: Door, asked: Compose) -> Exit:
    """Start the composite and stay with it as far as was asked."""
    given = {"type": "composite", "input": {"steps": steps_in(asked.file)}, "dry_run": asked.dry_run or None}
    async with door.opened() as front:
        begun = await front.call("run_start", message=asked.message, idempotency_key=asked.key, **given)
        return await _begun(door, front, begun, wait=asked.wait)


async def start(door: Door, asked: Start) -> Exit:
    """Start the run and stay with it as far as was asked."""
    given = {**asked.arguments, "vars": variables(asked.vars, asked.secret_vars, asked.var_files) or None}
    async with door.opened() as front:
        env, slug = await place_of(front, asked.stack)
        own = {"env": env, "workspace": slug, **{name: value for name, value in given.items() if value is not None}}
        tool, arguments = (asked.tool, own) if asked.listed else ("run_start", {"type": asked.tool, "input": own})
        begun = await front.call(tool, message=asked.message, idempotency_key=asked.key, **arguments)
        return await _begun(door, front, begun, wait=asked.wait)


async def _begun(door: Door, front: Front, begun: Answer, *, wait: bool) -> Exit:
    from countersign.cli.deciding import Asking

    run = begun.get("run") or {}
    again = "  (asked before: the same run)" if begun.get("replayed") else ""
    door.show(Text().append("run ", style="dim").append_text(safe(f"{run.get('run_id')}{again}", "bold")), *warnings_view(begun))
    if not wait:
        door.answer(begun)
        return Exit.OK
    return await stay(door, front, str(run["run_id"]), asking=Asking(door, front))


async def stay(door: Door, front: Front, run_id: str, *, asking: "Asks | None", since: str = "0") -> Exit:
    """Follow the run to its end, or to where a person has to act and none is here who does."""
    narrator = Narrator(door.out)
    watcher: Watcher = Silent() if door.as_json else narrator
    while True:
        try:
            if door.as_json:
                answer = await follow(front, run_id, watcher=watcher, since=since)
            else:
                with narrator.shown():
                    answer = await follow(front, run_id, watcher=watcher, since=since)
        except asyncio.CancelledError:
            door.show(safe(f"the run goes on; watch it again with {command('countersign', 'watch', run_id)}", "yellow"))
            raise
        run = answer.get("run") or {}
        since = str((answer.get("data") or {}).get("cursor", since))
        if run.get("state") == RunState.AWAITING_APPROVAL and asking is not None:
            plan = await plan_of(front, run_id)
            door.show(plan_view(plan or {}, run))
            if plan is not None and await asking.agreed(run, plan):
                continue
            door.answer({"run": run, "plan": plan})
            return Exit.WAITS
        return await told(door, front, run)


class Asks:
    """Whoever may be asked to agree."""

    async def agreed(self, run: dict[str, Any], plan: dict[str, Any]) -> bool:
        """Whether somebody here did, so that the run goes on."""
        raise NotImplementedError


async def told(door: Door, front: Front, run: dict[str, Any]) -> Exit:
    """Say how the run stands; the exit code for it."""
    run_id, state = str(run.get("run_id", "")), str(run.get("state", ""))
    answer = await front.call("run_get", run_id=run_id, include=["outputs", "resources", "approvals"])
    data = answer.get("data") or {}
    plan = await plan_of(front, run_id) if state in (RunState.PLANNED_AND_FINISHED, RunState.ERRORED, RunState.AWAITING_APPROVAL) else None
    if state == RunState.PLANNED_AND_FINISHED and plan is not None:
        door.show(plan_view(plan, run))
        if (plan.get("changes") or {}).get("total") and (digest := plan.get("plan_digest")):
            adopting = command("countersign", "apply", str(data.get("workspace", "")), "--plan", str(digest))
            door.show(safe(f"  to apply exactly this: {adopting}", "dim"))
    elif state == RunState.APPLIED:
        door.show(*results(data), outputs_view(data.get("outputs")))
    else:
        door.show(*([plan_view(plan, run)] if plan else []), run_view(answer))
    if state in (RunState.ERRORED, RunState.PARTIALLY_APPLIED, RunState.NEEDS_OPERATOR):
        door.show(safe(f"  what it said: {command('countersign', 'logs', run_id)}", "dim"))
    door.answer({**answer, **({"plan": plan} if plan else {})})
    return of_state(state)


async def plan_of(front: Front, run_id: str) -> dict[str, Any] | None:
    """The run's plan as `run_plan` tells it, or None where it has none."""
    try:
        data = (await front.call("run_plan", run_id=run_id)).get("data")
    except CountersignError as none:
        if none.code == "failed_precondition":
            return None
        raise
    return dict(data) if data else None


async def listed(door: Door, filters: dict[str, Any]) -> Exit:
    async with door.opened() as front:
        answer = await front.call("run_list", **filters)
    found = (answer.get("data") or {}).get("runs", [])
    door.show(runs_view(found))
    page = answer.get("page") or {}
    if page.get("truncated"):
        door.show(Text(f"{len(found)} of {page.get('total')}; --limit shows more", style="dim"))
    door.answer(answer)
    return Exit.OK


async def show(door: Door, run_id: str) -> Exit:
    async with door.opened() as front:
        answer = await front.call("run_get", run_id=run_id, include=["outputs", "resources", "approvals"])
        plan = await plan_of(front, run_id)
    run = answer.get("run") or {}
    door.show(run_view(answer))
    if plan is not None:
        door.show(plan_view(plan, run, all_attributes=True))
    door.answer({**answer, **({"plan": plan} if plan else {})})
    return Exit.OK


async def watch(door: Door, run_id: str, *, through: bool) -> Exit:
    async with door.opened() as front:
        answer = await _watched(door, front, run_id, through=through)
        run = answer.get("run") or {}
        if run.get("state") == RunState.AWAITING_APPROVAL:
            plan = await plan_of(front, run_id)
            door.show(plan_view(plan or {}, run))
            door.answer({"run": run, "plan": plan})
            return Exit.WAITS
        return await told(door, front, run)


async def _watched(door: Door, front: Front, run_id: str, *, through: bool) -> Answer:
    if door.as_json:
        return await follow(front, run_id, watcher=Silent(), through=through)
    narrator = Narrator(door.out)
    with narrator.shown():
        return await follow(front, run_id, watcher=narrator, through=through)


async def logs(door: Door, run_id: str, *, step: str | None, lines: int) -> Exit:
    async with door.opened() as front:
        answer = await front.call("run_logs", run_id=run_id, step=step, lines=lines)
    data = answer.get("data") or {}
    door.show(*[safe_block(text) for text in log_texts(data)], *warnings_view(answer))
    door.answer(answer)
    return Exit.OK


def log_texts(data: Any) -> list[str]:
    """The labelled texts in an answer, in their order."""
    if isinstance(data, dict):
        if data.get("untrusted") and isinstance(data.get("text"), str):
            return [data["text"]]
        return [text for value in data.values() for text in log_texts(value)]
    return [text for value in data for text in log_texts(value)] if isinstance(data, list) else []
