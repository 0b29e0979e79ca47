"""One attempt at a plan: check, initialise, plan, show once, judge, bundle.

At most three processes of the engine: `init` where no warm work directory fits, `plan`, and `show -json`, which is started beside it.
Everything a person, a model or the history gets to see is made from the plan document and its marks, redacted.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from countersign.adapters.process import TooMuch, all_ended, present
from countersign.adapters.terraform import bundle, kept
from countersign.adapters.terraform.ahead import Ahead, showing
from countersign.adapters.terraform.environment import credential_environment
from countersign.adapters.terraform.executable import Executable
from countersign.adapters.terraform.judging import given, judged
from countersign.adapters.terraform.preparing import checked, initialised
from countersign.adapters.terraform.repository import folder_of
from countersign.adapters.terraform.session import SAID_MAX, Session, Surroundings, document_in
from countersign.adapters.terraform.validating import asked_version, validated
from countersign.adapters.terraform.values import values_of
from countersign.adapters.terraform.workspace import workspace
from countersign.core.engine import Beat, PlanJob, Planned, Progress, StackConfig
from countersign.core.errors import FailedPrecondition, ProviderError, Unavailable
from countersign.core.run import Mode
from countersign.core.terraform.events import Journal
from countersign.core.terraform.imports import FILE, import_blocks
from countersign.core.terraform.versions import allowed

CONNECTING = 5.0  # seconds
SMALL = 64 << 10  # bytes of a plan's JSON that is judged at once, in some milliseconds: a thread would only take turns with the others
T = TypeVar("T")


async def make_plan(job: PlanJob, beat: Beat, *, executable: Executable, around: Surroundings, build: str | None = None) -> Planned:
    """A saved plan, or for `Mode.VALIDATE` findings. `build` is the engine's, where it is known."""
    async with at_work(job, beat, executable=executable, around=around) as session:
        session.before = present()  # a plan that is made again is another attempt
        if job.stack.version is not None:
            build = build or await asked_version(session)
            _refuse_other_version(job.stack, build, job.stack.version)
        return await (validated(session, build) if job.mode is Mode.VALIDATE else planned(session))


def _refuse_other_version(stack: StackConfig, build: str, version: str) -> None:
    if not allowed(version, build.partition(" ")[2]):
        setting = "terraform.versions" if stack.engine == "terraform" else "terraform.tofu_versions"
        raise FailedPrecondition(
            f"{stack.path} asks for {stack.engine} {version}, and the worker has {build}; name an executable that fits in the settings "
            f"({setting}), or register the stack with another version",
            field="version",
            next=["terraform_register_workspace"],
        )


@asynccontextmanager
async def at_work(job: PlanJob, beat: Beat, *, executable: Executable, around: Surroundings, apart: str = "") -> AsyncIterator[Session]:
    """The stack's workspace, empty, and a session in it; what its commands leave behind ends with it.

    With `apart` it is another one of that name, beside which the stack may be planned.
    """

    async def waiting() -> None:
        await beat(Progress(current="waiting for another plan of this stack"))

    try:
        async with workspace(around.work_root, f"{job.stack.stack_id}{apart}", waiting, below=folder_of(job.stack)) as place:
            session = Session(job, beat, executable=executable, around=around, place=place)
            try:
                yield session
            finally:
                if not session.left_nothing:
                    await sweep(session)
    except OSError as broken:
        raise Unavailable(f"the folder of plans cannot be used ({broken.strerror or broken}); see `countersign doctor`") from None


async def sweep(session: Session) -> None:
    """What a provider left behind, outside of its group even, would keep the folder taken."""
    await all_ended(session.job.attempt_id, before=session.before)
    session.left_nothing = True


async def planned(session: Session) -> Planned:
    job, there = session.job, session.job.stack.own
    if not there:
        await state_answers(job.state.address)
    source_ = await checked(session)
    if there:
        kept.refuse_unfit(session, source_.files)
    credential = await credential_environment(job.stack.plan_credential, job.reveal)
    values = await values_of(session, source_, credential)
    environment = session.environment(credential, backend=True)
    key = await initialised(session, source_, environment, backend="none" if there else "http")
    if there:
        await kept.enter(session, source_.files, environment)
    # It stays in the tree, and so in the bundle: should the apply be lost, what is left is planned with the import again.
    add_imports(session.place.tree, job.imports)
    async with showing(session, environment, session.place.side / bundle.PLAN) as ahead:
        events, plan_file = await saved_plan(session, environment, values.files)
        if there:
            await kept.planned_on(session, environment, plan_file)
        plan_json = await shown(session, environment, plan_file, ahead)
    await session.tell("reading the plan")
    own = frozenset({job.state.password, *credential.values(), *session.keys})
    made = partial(judged, session, source_.tree, plan_file, plan_json, events, key=key, values=values.given, own=own)
    if len(plan_json) <= SMALL:
        return made()
    plan, _ = await asyncio.gather(session.while_beating(asyncio.to_thread(uncollected, made)), sweep(session))
    return plan


def uncollected(work: Callable[[], T]) -> T:
    """Do it without collecting garbage meanwhile: a large document is many objects, is all alive, and holds no cycle."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return work()
    finally:
        if collects:
            gc.enable()


async def moved(job: PlanJob, inputs: Mapping[str, object], beat: Beat, *, executable: Executable, around: Surroundings) -> str | None:
    """Why a plan made of `inputs` would be another one today, or None. The source is copied and judged as for a plan; nothing runs."""
    async with at_work(job, beat, executable=executable, around=around) as session:
        source_ = await checked(session)
        values = (await values_of(session, source_, {})).given
        now = {"tree": source_.tree.digest, "lock": source_.tree.lock, "variables_given": given(values, around.macs)}
    if job.stack.engine != str(inputs.get("engine_build")).partition(" ")[0]:
        return "it was made by another engine"
    if (inputs.get("tree"), inputs.get("lock")) != (now["tree"], now["lock"]):
        return "the configuration is another one now"
    if inputs.get("variables_given") != now["variables_given"]:
        return "its variables, or secrets among them, have other values now"
    return None


async def state_answers(address: str) -> None:
    """The engine would try for fifteen seconds and then explain it badly; whoever called tries again anyway."""
    url = urlsplit(address)
    connecting = asyncio.open_connection(url.hostname, url.port or {"https": 443}.get(url.scheme, 80))
    try:
        _, writer = await asyncio.wait_for(connecting, CONNECTING)
    except (OSError, TimeoutError):
        raise Unavailable("the state service does not answer; see `countersign doctor`") from None
    writer.close()


async def saved_plan(
    session: Session, environment: Mapping[str, str], var_files: Sequence[Path], *, replaces: Sequence[str] = ()
) -> tuple[Journal, Path]:
    """The plan's file, and what was said while it was made. Raises ProviderError with findings, Locked or Unavailable."""
    job, out = session.job, session.place.side / bundle.PLAN
    looking = job.mode in (Mode.SPECULATIVE, Mode.DRIFT)
    argv = session.commands.plan(
        out=out,
        var_files=var_files,
        destroy=destroys(job),
        targets=job.targets if job.mode is Mode.SPECULATIVE else (),
        replaces=replaces,
        refresh_only=job.mode is Mode.DRIFT,
        lock=not looking,
    )
    await session.tell("planning")
    journal, ended = await session.events("plan", argv, environment)
    # A failed plan may still have written its file: the exit code counts first. 0 no change, 2 changes.
    if ended.code not in (0, 2) or not out.exists():
        raise session.failed("plan", journal, ended)
    return journal, out


async def shown(session: Session, environment: Mapping[str, str], plan_file: Path, ahead: Ahead | None = None) -> bytes:
    """The plan as JSON. It costs as much as the plan: ask once. `ahead` may have it already."""
    try:
        ended = (await ahead.ended() if ahead is not None else None) or await session.document(
            "show", session.commands.show(plan_file), environment
        )
    except TooMuch:
        raise ProviderError(f"the plan has more than {SAID_MAX >> 20} MiB as JSON; split the stack into smaller ones") from None
    if ended.code != 0:
        raise ProviderError(f"the saved plan cannot be shown: {session.redactor.line(ended.errors, 400)}")
    return document_in(ended.out)


def add_imports(tree: Path, imports: Mapping[str, str]) -> None:
    """Import blocks in the root module. A source may have a file of that name."""
    file = tree / FILE
    if imports:
        own = file.read_bytes() if file.exists() else b""
        file.write_bytes(own + b"\n" + import_blocks(imports).encode())


def destroys(job: PlanJob) -> bool:
    """Whether the destruction of everything is planned: a run that destroys, or a look at what one would do."""
    return job.destroy or job.mode is Mode.DESTROY
