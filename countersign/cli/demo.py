"""`countersign demo`: the main job of the product as a person sees it, with everything real but the cloud.

The whole service runs on free ports in a folder of its own; an agent asks over MCP, a person reads that exact plan and
countersigns it, it is applied and destroyed again. Whatever happens, nothing is left running, and that is looked at.
"""

import asyncio
import contextlib
import secrets as random
import shutil
import tempfile
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.text import Text

from countersign.adapters.keyring import Keyring
from countersign.adapters.store import secrets
from countersign.cli.deciding import confirmed
from countersign.cli.door import Door
from countersign.cli.exits import Exit
from countersign.cli.following import Narrator, Silent, Watcher, follow
from countersign.cli.front import Front, connected
from countersign.cli.ground import free_ports
from countersign.cli.output import asked, console, emit, is_terminal, safe, tell_error
from countersign.cli.runs import plan_of
from countersign.cli.service import Service, engines, running, signals
from countersign.cli.session import LOOPBACK, local_person, settings_of
from countersign.cli.stage import LEFT_WITHIN, STACK, Stage, demo_stacks, files_with, history, left_over
from countersign.cli.store import agent_key, opened, organization
from countersign.cli.supervisor import Ended, Ready, tail
from countersign.cli.views import outputs_view, plan_view, results
from countersign.core.errors import CountersignError, FailedPrecondition, Internal, Unavailable
from countersign.core.principal import Kind, Principal
from countersign.core.run import RunState

READY_WITHIN = 60.0  # seconds
ENDS_WITHIN = 300.0  # seconds for a run between two decisions
SECRET, VARIABLE = "demo-db-password", "db_password"


async def demo(data: Path | None, *, yes: bool, as_json: bool) -> Exit:
    if not yes and not is_terminal():
        raise FailedPrecondition(
            "a person countersigns in this demo, and nobody can be asked here: run it at a terminal, or agree beforehand with "
            "DEMO_YES=1 (or --yes)"
        )
    stacks = demo_stacks()
    folder = _folder(data)
    names = ("front_port", "state_port", "temporal_port", "temporal_ui_port")
    ports: dict[str, Any] = dict(zip(names, free_ports(len(names)), strict=True))
    settings = settings_of(folder, as_json=as_json, stacks=stacks, **ports)
    out = console()
    stage = Stage(settings=settings, yes=yes, as_json=as_json, door=Door(settings=settings, as_json=as_json, out=out))
    code = await _guarded(stage)
    left = await left_over(folder)
    for pid, words in left:
        stage.say(f"left behind: process {pid} {words[:160]}", "red")
    if left and code is Exit.OK:
        code = Exit.FAILED
    if data is None and (stage.declined or code in (Exit.OK, Exit.INTERRUPTED)):
        shutil.rmtree(folder, ignore_errors=True)
    _last_words(stage, code, left, kept=folder.exists())
    return code


def _folder(data: Path | None) -> Path:
    """A folder of the demo's own. A short name: sockets of plugins lie below it."""
    if data is None:
        return Path(tempfile.mkdtemp(prefix="countersign-demo-"))
    return data.expanduser().absolute()


async def _guarded(stage: Stage) -> Exit:
    """Tell the story; whatever breaks it becomes a message, the place of the logs and an exit code."""
    troubles: list[Ended] = []

    def told(event: Ready | Ended) -> None:
        if isinstance(event, Ended):
            troubles.append(event)

    with signals() as (stop, hurry):
        telling = asyncio.ensure_future(_service_and_story(stage, told, stop, hurry))
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait({telling, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not telling.done():
            stage.say("stopping …", "dim")
            telling.cancel()
        try:
            await telling
            return Exit.OK
        except asyncio.CancelledError:
            return Exit.INTERRUPTED
        except CountersignError as error:
            tell_error(error, as_json=False)
            code = Exit.UNAVAILABLE if isinstance(error, Unavailable) else Exit.FAILED
        except Exception as crash:  # a mistake of ours: its story goes to the logs, the service ends all the same
            log = stage.settings.data / "logs" / "demo.log"
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            log.write_text("".join(traceback.format_exception(crash)))
            tell_error(Internal(f"{type(crash).__name__}; {log} tells more"), as_json=False)
            code = Exit.FAILED
        for trouble in troubles[-3:]:
            stage.say(f"{trouble.part} ended with code {trouble.code}; the end of {trouble.log}:", "yellow")
            for line in trouble.tail or tail(trouble.log):
                stage.say(f"  │ {line}", "dim")
        return code


async def _service_and_story(stage: Stage, told: Any, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    stage.step("The service starts")
    async with running(stage.settings, tell=told, leaving=lambda runs: _goes_on(stage, list(runs)), stop=stop, hurry=hurry) as service:
        try:
            stage.seconds["service ready"] = await asyncio.wait_for(service.ready(), READY_WITHIN)
        except TimeoutError:
            raise Unavailable(
                f"the service was not ready within {READY_WITHIN:g} s; its logs are in {stage.settings.data / 'logs'}"
            ) from None
        stage.say(
            f"Temporal, state API, worker and front are ready after {stage.seconds['service ready']:.1f} s. "
            f"Front {stage.settings.front_url}/mcp, Temporal UI http://{LOOPBACK}:{stage.settings.temporal_ui_port}"
        )
        async with _cast(stage, service) as (agent, person):
            await _apply(stage, agent, person)
            await _destroy(stage, agent, person)
            await _checked(stage)
            _summary(stage)
            if not stage.yes:
                await asked("The service still runs, so look around in the Temporal UI. Enter ends it.")
        stage.step("The service ends")


def _goes_on(stage: Stage, runs: list[str]) -> None:
    if runs:
        stage.say(f"still applying, and ended by nobody: {', '.join(runs)}; waiting a moment for it", "yellow")


@asynccontextmanager
async def _cast(stage: Stage, service: Service) -> AsyncIterator[tuple[Front, Front]]:
    """An agent of the local person and that person, each as an MCP client with a key of its own."""
    settings, me = stage.settings, local_person()
    agent = Principal(id="agent:demo", kind=Kind.AGENT, acts_for=me.id)
    stage.hidden = random.token_urlsafe(18)
    async with opened(settings) as store:
        token = await agent_key(settings, store, agent=agent, role="platform", until=store.now() + timedelta(hours=1))
        keyring = Keyring.open(settings.data, role="operator")
        await secrets.put(store, keyring, org=organization(settings), slug=SECRET, value=stage.hidden, by=me)
    url = stage.door.address
    person_token = service.key_file.read_text(encoding="ascii").strip()
    async with connected(url, token) as asking, connected(url, person_token) as deciding:
        yield asking, deciding


async def _apply(stage: Stage, agent: Front, person: Front) -> None:
    stage.step("An agent asks")
    org = stage.settings.organizations[0]
    env = f"{org.slug}/{org.environments[0].slug}"
    who = (await agent.call("whoami")).get("data") or {}
    stage.say(f"{who.get('principal')} for {who.get('acts_for')}, role {who.get('role')}: registers {env}/{STACK} and asks to apply it.")
    engine = min(engines(stage.settings))  # terraform before tofu; `running` made sure that there is one
    source, given = {"path": STACK}, {VARIABLE: {"secret": SECRET}}
    await agent.call("terraform_register_workspace", env=env, workspace=STACK, source=source, engine=engine, vars=given)
    begun = time.monotonic()
    with stage.timed("ask → answer"):
        answer = await agent.call("apply_terraform", env=env, workspace=STACK, message="the demo: build the shop")
    stage.runs["apply"] = str(answer["run"]["run_id"])
    stage.say(f"The run {stage.runs['apply']} answered after {stage.seconds['ask → answer'] * 1000:.0f} ms; the agent waits with run_wait.")
    run, cursor = await _until(stage, agent, stage.runs["apply"], "0", RunState.AWAITING_APPROVAL)
    stage.seconds["ask → plan"] = time.monotonic() - begun
    try:
        await agent.call("run_approve", run_id=stage.runs["apply"], plan_digest=run["plan_digest"])
        raise Internal("the agent could approve its own run")
    except CountersignError as refused:
        if isinstance(refused, Internal):
            raise
        stage.say(f"The agent tries to agree to it itself: {refused.code}.", "dim")
    done = await _countersigned(stage, agent, person, run, cursor, "approve → applied")
    answer = await agent.call("run_get", run_id=done["run_id"], include=["outputs", "resources", "approvals"])
    data = answer.get("data") or {}
    stage.door.show(*results(data), outputs_view(data.get("outputs")))


async def _destroy(stage: Stage, agent: Front, person: Front) -> None:
    stage.step("The agent asks to destroy it again")
    org = stage.settings.organizations[0]
    answer = await agent.call(
        "destroy_terraform", env=f"{org.slug}/{org.environments[0].slug}", workspace=STACK, message="the demo: clean up"
    )
    stage.runs["destroy"] = str(answer["run"]["run_id"])
    begun = time.monotonic()
    run, cursor = await _until(stage, agent, stage.runs["destroy"], "0", RunState.AWAITING_APPROVAL)
    stage.seconds["destroy → plan"] = time.monotonic() - begun
    await _countersigned(stage, agent, person, run, cursor, "approve → destroyed")


async def _countersigned(stage: Stage, agent: Front, person: Front, run: dict[str, Any], cursor: str, what: str) -> dict[str, Any]:
    """A person reads the plan and agrees, or the story ends here; then the agent watches it to the end."""
    me = local_person().id
    stage.step(f"A person, {me}, reads the plan and countersigns exactly that")
    plan = await plan_of(person, run["run_id"])
    if plan is None:
        raise Internal("the run waits for approval and has no plan")
    stage.door.show(plan_view(plan, run, how_to=False))
    given: dict[str, str] | None = {"plan_digest": plan["plan_digest"]}
    name = (run.get("approval") or {}).get("confirm_name")
    if stage.yes:
        stage.say(f"agreed beforehand (DEMO_YES), with the key of {me}" + (f", typing {name}" if name else ""), "dim")
        given = {"plan_digest": plan["plan_digest"], **({"confirm_name": name} if name else {})}
    else:
        given = await confirmed(plan, run)
    if given is None:
        stage.declined = True
        await person.call("run_reject", run_id=run["run_id"], reason="not agreed in the demo")
        raise FailedPrecondition("you did not agree, so the run was rejected and nothing was changed")
    begun = time.monotonic()
    await person.call("run_approve", run_id=run["run_id"], **given)
    done, _ = await _until(stage, agent, run["run_id"], cursor, RunState.APPLIED)
    stage.seconds[what] = time.monotonic() - begun
    return done


async def _until(stage: Stage, agent: Front, run_id: str, since: str, wanted: RunState) -> tuple[dict[str, Any], str]:
    """(the run in `wanted`, a cursor). Raises what it stopped with elsewhere."""
    narrator = Narrator(stage.door.out)
    watcher: Watcher = Silent() if stage.as_json else narrator
    with contextlib.nullcontext() if stage.as_json else narrator.shown():
        answer = await follow(agent, run_id, watcher=watcher, since=since, longest=ENDS_WITHIN)
    run = answer.get("run") or {}
    if run.get("state") != wanted:
        told = (await agent.call("run_get", run_id=run_id)).get("data") or {}
        reason = told.get("reason") or {}
        said = reason.get("text", "") if isinstance(reason, dict) else str(reason)
        raise FailedPrecondition(
            f"the run {run_id} is {run.get('state')} instead of {wanted} ({told.get('code')}): {said}", details={"run_id": run_id}
        )
    return run, str((answer.get("data") or {}).get("cursor", since))


async def _checked(stage: Stage) -> None:
    """The secret's value is in no file of the data folder in clear: no log, no history, no row."""
    stage.step("Where the password went")
    until = time.monotonic() + LEFT_WITHIN  # an attempt's private folder goes just after its end was told
    while True:
        looked, found = await asyncio.to_thread(files_with, stage.settings.data, stage.hidden.encode())
        if not found or time.monotonic() > until:
            break
        await asyncio.sleep(0.1)
    if found:
        raise Internal(f"the sealed value lies in clear in {', '.join(found[:5])}")
    stage.say(f"Its value is in none of the {looked} files of the data folder in clear: no log, no history, no database.")


def _summary(stage: Stage) -> None:
    stage.step("What it took")
    for name, seconds in stage.seconds.items():
        stage.door.show(Text().append(f"  {seconds:6.2f} s  ", style="bold").append_text(safe(name)))
    for what, run_id in stage.runs.items():
        stage.door.show(Text().append(f"  {what:<8}", style="dim").append_text(safe(history(stage.settings, run_id), "cyan")))


def _last_words(stage: Stage, code: Exit, left: list[tuple[int, str]], *, kept: bool) -> None:
    folder = stage.settings.data
    if stage.as_json:
        emit(
            {
                "ok": code is Exit.OK,
                "seconds": {name.replace(" → ", "_to_").replace(" ", "_"): round(took, 4) for name, took in stage.seconds.items()},
                "runs": {what: {"run_id": r, "temporal_ui": history(stage.settings, r)} for what, r in stage.runs.items()},
                "data": str(folder) if kept else None,
                "processes_left": len(left),
            }
        )
        return
    if not left:
        stage.say("no process was left behind", "dim")
    if code is not Exit.OK and kept:
        stage.say(f"its folder is kept: {folder}; logs are in {folder / 'logs'}", "yellow")
    elif kept:
        stage.say(f"all of it is in {folder}; `countersign up --data {folder}` goes on from here", "dim")
