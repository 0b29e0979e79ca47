"""`countersign stack adopt`: a state comes here from a file, or from the backend the configuration declares."""

import asyncio
import secrets as random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import Settings
from countersign.adapters.store import secrets
from countersign.adapters.store.custody import Adopted, Adoption
from countersign.adapters.store.database import Store
from countersign.adapters.store.records import StackRow
from countersign.adapters.terraform.engine import TerraformEngine
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit, safe
from countersign.cli.states import administrator, artifacts_of, bytes_of, short, stack_named
from countersign.cli.store import opened
from countersign.core.engine import PlanJob, Progress, StateAccess
from countersign.core.ids import derive
from countersign.core.principal import Principal
from countersign.core.run import Mode
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
