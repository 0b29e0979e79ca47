"""Working on a state that stays in the backend its configuration declares.

No override is written, and the engine knows nothing of our state service. `.terraform` holds the backend's settings in clear then,
so what is kept warm is initialised without a backend, and the backend comes on top of it for one plan. What the engine knows of
gcs, s3, pg or http is used as it is, its lock too; lineage and serial are read by pulling.
"""

import asyncio
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from countersign.adapters.terraform import bundle
from countersign.adapters.terraform.environment import credential_environment, secrets_of_credential
from countersign.adapters.terraform.mending import State, command
from countersign.adapters.terraform.modules import fetching_modules
from countersign.adapters.terraform.session import Session
from countersign.adapters.terraform.warm import backend_of
from countersign.core import reconcile as core
from countersign.core.engine import ReconcileJob, Seen
from countersign.core.errors import FailedPrecondition, Unavailable
from countersign.core.reconcile import Stop
from countersign.core.redaction import Redactor
from countersign.core.terraform import kept
from countersign.core.terraform.source import Declared
from countersign.core.terraform.state import header_of

_LOCK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The declared backend of a session, and the state in it."""

    backend: str
    locking: bool
    before: int  # the serial that was seen last
    data: bytes | None = field(repr=False)

    @property
    def seen(self) -> Seen:
        return Seen(backend=self.backend, data=self.data)

    def risks(self) -> tuple[str, ...]:
        serial = header_of(self.data).serial if self.data is not None else self.before
        return kept.risks(self.backend, locking=self.locking, before=self.before, serial=serial)


def refuse_unfit(session: Session, files: Mapping[str, Declared]) -> None:
    declared = (place.name for file in files.values() for place in file.backends)
    if (why := kept.unfit(session.job.stack.path, declared)) is not None:
        raise FailedPrecondition(why, field="source")


async def enter(session: Session, files: Mapping[str, Declared], environment: Mapping[str, str]) -> None:
    """Initialise the declared backend in an initialised folder, and look at the state there: the session is about that one from here on."""
    await initialise(session, files, environment)
    await look(session, environment)


async def initialise(session: Session, files: Mapping[str, Declared], environment: Mapping[str, str]) -> None:
    await session.tell("initialising the backend")
    async with fetching_modules(session, files) as variables:
        journal, ended = await session.events("init-backend", session.commands.init(), {**environment, **variables})
    if ended.code != 0:
        raise session.failed("init of the declared backend", journal, ended)


async def look(session: Session, environment: Mapping[str, str]) -> State:
    chosen = backend_of(session.place.tree)
    if (why := kept.unfit(session.job.stack.path, [str(chosen.get("type"))])) is not None:  # an override file decided otherwise
        raise FailedPrecondition(why, field="source")
    state = await State.pulled(session, environment)
    told = Kept(
        backend=str(chosen["type"]),
        locking=kept.locks(str(chosen["type"]), chosen.get("config") or {}),
        before=session.job.state.serial,
        data=state.data,
    )
    about(session, told, state)
    return state


def about(session: Session, told: Kept, state: State) -> None:
    session.kept = replace(told, data=state.data)
    session.job = replace(session.job, state=replace(session.job.state, lineage=state.lineage, serial=state.serial))


async def planned_on(session: Session, environment: Mapping[str, str], plan: Path) -> None:
    """See to it that what was looked at is what the plan was made on. Raises Unavailable where it moved once more."""
    assert session.kept is not None  # the session has entered
    for again in (True, False):
        at = session.job.state
        found = await asyncio.to_thread(_made_on, plan)
        if found is None or found == (at.lineage, at.serial):
            return
        if again:
            about(session, session.kept, await State.pulled(session, environment))
    raise Unavailable("the state moved in its backend while it was planned; ask again")


def _made_on(plan: Path) -> tuple[str | None, int] | None:
    """Lineage and serial in a saved plan; None where it does not tell, as one that OpenTofu encrypted."""
    try:
        with zipfile.ZipFile(plan) as parts:
            told = json.loads(parts.read("tfstate"))
        return told["lineage"] or None, int(told["serial"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError):
        return None


async def seen_from(session: Session, approved: bytes) -> Seen:
    """The state now, in the backend that the planned configuration of a bundle declares."""
    unpacked = await asyncio.to_thread(bundle.unpack, approved, session.place.base)
    session.place = replace(session.place, tree=unpacked.work)
    unpacked.meta.refuse_other_than(session.executable.name)
    opened = await credential_environment(session.job.stack.plan_credential, session.job.reveal)
    session.redactor = Redactor({*session.redactor.secrets, *unpacked.secrets, *secrets_of_credential(opened)})
    environment = session.environment(opened, backend=False)
    await with_providers(session, unpacked.meta.warm_key, environment)
    await look(session, environment)
    assert session.kept is not None  # `look` saw to it
    return session.kept.seen


async def with_providers(session: Session, key: str, environment: Mapping[str, str]) -> None:
    """Provider packages for an unpacked bundle; where nobody here initialised it, from where the lock file pins them."""
    if not await asyncio.to_thread(session.around.pool.link_providers, key, session.place.tree):
        await initialise(session, {}, environment)


# -- The lock of a lost apply -------------------------------------------------------------------------------------------


async def freed(session: Session, job: ReconcileJob, environment: Mapping[str, str], host: str) -> list[Stop]:
    """Free the lock that the lost attempt left, where it proves to be that one; whatever else is locked stops."""
    if (held := await _held(session, environment)) is None:
        return []
    if job.here and _LOCK_ID.fullmatch(held.id) and kept.left_by(held, job.witnesses[-1].testimony, host=host):
        session.note(f"freeing the lock of the lost apply, taken {held.in_words}")
        await command(session, environment, "force-unlock", session.commands.unlock(held.id))
        held = await _held(session, environment)
    return [core.kept_lock(session.redactor.line(held.in_words, 300), held.id, session.executable.name)] if held is not None else []


async def _held(session: Session, environment: Mapping[str, str]) -> kept.Held | None:
    """Who has the lock, by asking for it: what is asked changes nothing, and there is no such object."""
    await session.tell("looking who has the lock")
    ended = await session.document("lock", session.commands.who_locks(), environment)
    return kept.held_in(ended.errors)
