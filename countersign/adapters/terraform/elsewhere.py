"""A state that lies where its configuration says, and not with us: looked at, and given back.

The engine itself reads and writes it, in a private copy of the source in which the declared backend counts, so that whatever
it knows of gcs, s3, pg or http is used as it is. The copy goes with the work; nothing of it is kept warm, because `.terraform`
holds the backend's settings in clear then.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from countersign.adapters.terraform.environment import credential_environment, secrets_of_credential
from countersign.adapters.terraform.executable import Executable
from countersign.adapters.terraform.mending import command
from countersign.adapters.terraform.modules import fetching_modules
from countersign.adapters.terraform.planning import at_work
from countersign.adapters.terraform.preparing import checked
from countersign.adapters.terraform.session import Session, Surroundings
from countersign.adapters.terraform.warm import backend_of
from countersign.core.engine import Beat, PlanJob
from countersign.core.errors import FailedPrecondition, ProviderError
from countersign.core.redaction import Redactor
from countersign.core.terraform.kept import BACKENDS
from countersign.core.terraform.state import header_of, with_serial


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    backend: str
    data: bytes | None = field(repr=False)  # None where nothing is there


async def look(job: PlanJob, beat: Beat, *, executable: Executable, around: Surroundings) -> Elsewhere:
    async with _declared(job, job.stack.plan_credential, beat, executable, around) as (session, backend, environment):
        return Elsewhere(backend=backend, data=await _pulled(session, environment))


async def give(job: PlanJob, state: bytes, beat: Beat, *, executable: Executable, around: Surroundings) -> Elsewhere:
    credential = job.stack.apply_credential or job.stack.plan_credential
    async with _declared(job, credential, beat, executable, around) as (session, backend, environment):
        before = await _pulled(session, environment)
        if before is not None and holds(before, state):
            return Elsewhere(backend=backend, data=before)  # an earlier try came this far
        file = session.place.side / "given-back.tfstate"
        file.touch(mode=0o600)
        file.write_bytes(state)
        await session.tell(f"writing the state to the backend {backend}")
        await command(session, environment, "state push", session.commands.push(file))
        now = await _pulled(session, environment)
        if before is None and now is not None and holds(now, state, lineage=False):
            # Where nothing was, the engines begin a lineage of their own; that it is ours by content was just seen.
            await command(session, environment, "state push", session.commands.push(file, force=True))
            now = await _pulled(session, environment)
        if now is None or not holds(now, state):
            raise ProviderError(f"the backend {backend} does not have the state that was written to it; look there before anything else")
        return Elsewhere(backend=backend, data=now)


def holds(there: bytes, given: bytes, *, lineage: bool = True) -> bool:
    """Whether what lies there has all of what was given: the engine may count the serial up, and writes its own version into it."""
    one, other = header_of(there), header_of(given)
    if one.encrypted or other.encrypted:
        return same(there, given)
    found, wanted = json.loads(there), json.loads(given)
    if lineage and (one.lineage != other.lineage or one.serial < other.serial):
        return False
    return all(found.get(part) == wanted.get(part) for part in ("resources", "outputs"))


def same(one: bytes, other: bytes) -> bool:
    """Whether two texts are one state, however it is laid out. Raises InvalidArgument for what is none."""
    header = header_of(one)
    return header == header_of(other) and with_serial(one, header.serial) == with_serial(other, header.serial)


@asynccontextmanager
async def _declared(
    job: PlanJob, credential: str | None, beat: Beat, executable: Executable, around: Surroundings
) -> AsyncIterator[tuple[Session, str, Mapping[str, str]]]:
    """A session in a folder whose declared backend is the one that counts, its type, and the environment of its commands."""
    async with at_work(job, beat, executable=executable, around=around) as session:
        source_ = await checked(session, elsewhere=True)
        opened = await credential_environment(credential, job.reveal)
        session.redactor = Redactor({*session.redactor.secrets, *secrets_of_credential(opened)})
        environment = session.environment(opened, backend=False)
        declared = sorted({place.name for file in source_.files.values() for place in file.backends})
        if not declared or not set(declared) <= {*BACKENDS}:
            raise FailedPrecondition(_not_read(job.stack.path, declared), field="from")
        await session.tell(f"initialising with the backend {declared[0]}")
        async with fetching_modules(session, source_.files) as variables:
            journal, ended = await session.events("init", session.commands.init(), {**environment, **variables})
        if ended.code != 0:
            raise session.failed("init", journal, ended)
        chosen = str(backend_of(session.place.tree).get("type"))
        if chosen not in BACKENDS:
            raise FailedPrecondition(_not_read(job.stack.path, [chosen]), field="from")
        yield session, chosen, environment


def _not_read(path: str, declared: list[str]) -> str:
    if declared in ([], ["local"]):
        return f"the configuration of {path} keeps its state in a file, if anywhere; name that with a path of yours"
    return (
        f"the configuration of {path} declares {' and '.join(declared)}, and read here are {', '.join(BACKENDS)}; get the state into a "
        "file with `terraform state pull` and name that"
    )


async def _pulled(session: Session, environment: Mapping[str, str]) -> bytes | None:
    """As it lies there; None where nothing does, for which the engine makes up an empty one without a lineage."""
    await session.tell("reading the state")
    data = await command(session, environment, "state pull", session.commands.pull())
    return data if data and json.loads(data).get("lineage") else None
