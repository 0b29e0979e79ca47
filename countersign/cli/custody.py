"""`countersign stack adopt`, `release` and `keep`: a state comes here from a file or from the backend the configuration declares, goes
there, or stays there."""

import asyncio
import secrets as random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import Settings
from countersign.adapters.store import secrets, state
from countersign.adapters.store.custody import Adopted, Adoption, Keeping, Release, free
from countersign.adapters.store.database import Store
from countersign.adapters.store.records import StackRow
from countersign.adapters.terraform.engine import TerraformEngine
from countersign.cli import output
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit, safe
from countersign.cli.states import administrator, artifacts_of, bytes_of, short, stack_named
from countersign.cli.store import opened, write_secret
from countersign.core.engine import PlanJob, Progress, Seen, StateAccess
from countersign.core.errors import ConfirmationRequired, CountersignError, FailedPrecondition
from countersign.core.fencing import Head
from countersign.core.ids import derive
from countersign.core.principal import Principal
from countersign.core.run import Mode
from countersign.core.terraform.state import header_of
from countersign.worker.main import engines_of

NO_STATE_SERVICE = "state-of-nobody:"  # what works on a declared backend is told of no address of ours


@dataclass(frozen=True, kw_only=True)
class Asked:
    stack: str
    file: Path | None
    reason: str
    key_file: Path | None
    org: str | None


async def adopt(settings: Settings, asked: Asked, *, newer: bool, as_json: bool) -> Exit:
    async with _stack_of(settings, asked) as (store, stack, by):
        data: bytes | None
        if asked.file is not None:
            origin, data = "file", await asyncio.to_thread(bytes_of, str(asked.file))
        else:
            engine, job = _work(settings, store, stack)
            found = await engine.elsewhere(job, _quiet)
            origin, data = found.backend, found.data
        artifacts, reason = artifacts_of(settings, store), short(asked.reason)
        work = Adoption(store=store, artifacts=artifacts, stack=stack, by=by, origin=origin, reason=reason, newer=newer)
        done = await work(data)
    if as_json:
        facts = {"stack": stack.path, "from": origin, "serial_there": done.there, "serial_before": done.before.serial}
        emit({**facts, "serial": done.after.serial, "lineage": done.after.lineage, "stored": done.stored, "by": by.id})
    else:
        console().print(safe(_adopted(stack, origin, done)))
    return Exit.OK


async def release(settings: Settings, asked: Asked, *, confirm: str | None, as_json: bool) -> Exit:
    async with _stack_of(settings, asked) as (store, stack, by):
        if stack.config.own:
            raise FailedPrecondition(
                f"the state of {stack.path} is in its own backend already; there is nothing to give back", field="stack"
            )
        async with store.read() as conn:
            seen = await free(conn, stack)
            newest = await state.snapshot(conn, stack.org, stack.id)
            if newest is None:
                raise FailedPrecondition(f"{stack.path} has no state here that could be given back", field="stack")
            data = await artifacts_of(settings, store).read(conn, org=stack.org, artifact_id=newest.artifact_id)
        await _confirmed(stack, confirm, f"The state of {stack.path} is kept elsewhere from then on, and runs are refused.")
        give = partial(Release, store=store, stack=stack, by=by, reason=short(asked.reason))
        if asked.file is not None:
            to, there = "file", None
            write_secret(asked.file, data.decode().removesuffix("\n"), new=True)
            try:
                await give(to=to)(seen, None)
            except BaseException:
                asked.file.unlink(missing_ok=True)
                raise
        else:
            to, there = await _given(_work(settings, store, stack), stack, data, seen, give)
    if as_json:
        emit({"stack": stack.path, "to": to, "serial_there": there, "serial": seen.serial, "lineage": seen.lineage, "by": by.id})
    else:
        where = f"in {asked.file}, with its secrets in clear" if asked.file is not None else f"in the backend {to}"
        again = f"countersign stack adopt {stack.path.partition('/')[2]}"
        console().print(safe(f"serial {seen.serial} of {stack.path} is {where}. Runs are refused until it is taken over again: {again}"))
    return Exit.OK


async def keep(settings: Settings, asked: Asked, *, another: bool, confirm: str | None, as_json: bool) -> Exit:
    async with _stack_of(settings, asked) as (store, stack, by):
        engine, job = _work(settings, store, stack)
        found = await engine.elsewhere(job, _quiet)
        said = (
            f"The state of {stack.path} stays in the backend {found.backend}: nothing fences it there, and its lock and its versions are "
            "those of the backend."
        )
        await _confirmed(stack, confirm, said)
        work = Keeping(
            store=store, artifacts=artifacts_of(settings, store), stack=stack, by=by, reason=short(asked.reason), another=another
        )
        done = await work(Seen(backend=found.backend, data=found.data))
    if as_json:
        facts = {"stack": stack.path, "backend": found.backend, "serial_there": done.there, "serial_before": done.before.serial}
        emit({**facts, "lineage": done.after.lineage, "by": by.id})
    else:
        what = "which holds nothing yet" if done.there is None else f"serial {done.there}, lineage {done.after.lineage}"
        next_ = f"countersign plan {stack.path.partition('/')[2]}"
        console().print(safe(f"the state of {stack.path} stays in the backend {found.backend}, {what}. Next: {next_}"))
    return Exit.OK


async def _given(
    work: tuple[TerraformEngine, PlanJob], stack: StackRow, data: bytes, seen: Head, give: Callable[..., Release]
) -> tuple[str, int | None]:
    """The state in the declared backend. It is kept there from before it is written, so that nobody here writes meanwhile."""
    engine, job = work
    found = await engine.elsewhere(job, _quiet)
    there = header_of(found.data).serial if found.data is not None else None
    giving = give(to=found.backend)
    if not stack.config.released:  # else an earlier try came this far
        await giving(seen, there)
    try:
        now = await engine.give(job, data, _quiet)
        assert now.data is not None  # it was looked at
        await giving.arrived(header_of(now.data).serial)
    except CountersignError as failed:
        if not stack.config.released:
            await giving.undone(failed.message)
        raise
    return found.backend, there


async def _confirmed(stack: StackRow, confirm: str | None, said: str) -> None:
    typed = confirm if confirm is not None else await output.asked(f"{said} Type the stack's path:")
    if typed != stack.path:
        raise ConfirmationRequired(f"type the stack's whole path, {stack.path}, with --confirm; nothing was changed", field="confirm")


def _adopted(stack: StackRow, origin: str, done: Adopted) -> str:
    where = "the file" if origin == "file" else f"the backend {origin}"
    if done.there is None:
        return f"{where} holds nothing yet; the state of {stack.path} is kept here from its first apply on"
    what = f"serial {done.there} of {where}" + ("" if done.stored else ", which was here already")
    return (
        f"the state of {stack.path} is kept here now: {what}, lineage {done.after.lineage}. What lies there stays, and whoever writes "
        f"there is not seen here: take that right away. Next: countersign plan {stack.path.partition('/')[2]}"
    )


@asynccontextmanager
async def _stack_of(settings: Settings, asked: Asked) -> AsyncIterator[tuple[Store, StackRow, Principal]]:
    async with opened(settings) as store:
        by = await administrator(settings, store, asked.key_file)
        async with store.read() as conn:
            stack = await stack_named(conn, settings, asked.stack, asked.org)
        yield store, stack, by


def _work(settings: Settings, store: Store, stack: StackRow) -> tuple[TerraformEngine, PlanJob]:
    """The engine of this machine, and what it has to know for a look at the declared backend."""
    keyring = Keyring.open(settings.data, role="worker")
    engine = next(one for one in engines_of(settings, keyring) if isinstance(one, TerraformEngine))

    async def reveal(slug: str) -> str:
        async with store.read() as conn:
            return await secrets.reveal(conn, keyring, stack.org, slug)

    job = PlanJob(
        run_id="by hand",
        plan_number=0,
        attempt_id=derive("att", stack.org, stack.id, random.token_hex(8)),
        stack=stack.config,
        mode=Mode.VALIDATE,
        vars={},
        targets=(),
        commit=None,
        state=StateAccess(address=NO_STATE_SERVICE, username="", password=random.token_hex(16), lineage=None, serial=0),
        reveal=reveal,
    )
    return engine, job


async def _quiet(progress: Progress) -> None:
    """It takes a moment, and nobody watches."""
