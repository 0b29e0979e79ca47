"""Making an earlier state the newest one again, as a run: a plan that shows the difference, and an apply that stores it.

What is approved is the state itself, in a bundle like any other, with the serial that comes after the one it was compared with.
The source of the stack plays no part: it works in a folder that only names our backend, so no provider is loaded and nothing of a
configuration runs.
"""

import asyncio
import hashlib

from countersign.adapters.terraform import bundle
from countersign.adapters.terraform.checkout import OVERRIDE, Tree
from countersign.adapters.terraform.elsewhere import same
from countersign.adapters.terraform.executable import Executable
from countersign.adapters.terraform.judging import bounded
from countersign.adapters.terraform.mending import State
from countersign.adapters.terraform.planning import at_work, state_answers
from countersign.adapters.terraform.preparing import BACKEND, Checked, initialised
from countersign.adapters.terraform.session import Session, Surroundings
from countersign.adapters.terraform.validating import asked_version
from countersign.core.engine import Beat, PlanJob, Planned
from countersign.core.errors import FailedPrecondition
from countersign.core.redaction import Redactor
from countersign.core.terraform import document as doc
from countersign.core.terraform import restoring
from countersign.core.terraform.plan import plan_of
from countersign.core.terraform.semantic import Origin, semantic
from countersign.core.terraform.state import header_of, read, with_serial, written
from countersign.core.terraform.view import view_of

MODE = "restore"
_TREE = Tree(files={"restore.tf": b"terraform {}\n"}, executable=frozenset())


async def plan_restore(job: PlanJob, earlier: bytes, beat: Beat, *, executable: Executable, around: Surroundings) -> Planned:
    if job.stack.own:
        raise FailedPrecondition(
            f"the state of {job.stack.path} stays in its own backend, and earlier ones are restored there (its versioning)",
            field="workspace",
        )
    async with at_work(job, beat, executable=executable, around=around) as session:
        await state_answers(job.state.address)
        await asyncio.to_thread(_TREE.write, session.place.tree)
        (session.place.tree / OVERRIDE).write_bytes(BACKEND)
        environment = session.environment({}, backend=True)
        key = await initialised(session, Checked(tree=_TREE, files={}), environment, backend="http")
        state = await State.pulled(session, environment)
        return await restored(session, state, earlier, key=key, serial=header_of(earlier).serial)


async def restored(session: Session, state: State, earlier: bytes, *, key: str, serial: int | None) -> Planned:
    """The plan of storing `earlier`, which is known as `serial`, over `state`. Raises FailedPrecondition for another history."""
    lineage = header_of(earlier).lineage
    if state.data is not None and lineage != state.lineage:
        raise FailedPrecondition(
            f"that state has the lineage {lineage}, and the newest one {state.lineage}: they have no common history. An administrator "
            "can push it by force: countersign state push --force",
            field="serial",
        )
    session.note(f"comparing serial {state.serial} with what is to be restored")
    build = await asked_version(session)
    return await asyncio.to_thread(_planned, session, state, earlier, key, serial, build)


def _planned(session: Session, state: State, earlier: bytes, key: str, serial: int | None, build: str) -> Planned:
    job, macs, name = session.job, session.around.macs, session.executable.name
    then = read(earlier)
    # Once more as an engine's document: numbers and marks are read one way everywhere.
    plan_json = written(restoring.document_of(state.document, then)).encode()
    document = doc.parse(plan_json)
    hidden = {*session.redactor.secrets, *doc.secrets_of(document), *then.redactor.secrets}
    session.redactor = redactor = Redactor(hidden | (state.document.redactor.secrets if state.document else frozenset()))
    saved = with_serial(earlier, state.serial + 1)
    if state.data is not None and same(with_serial(earlier, state.serial), state.data):
        document = {**document, "resource_changes": [], "output_changes": {}}
    origin = Origin(stack_id=job.stack.stack_id, mode=MODE, engine=name, source=_TREE.digest, lock=None)
    semantic_document, digest = semantic(document, origin=origin, macs=macs)
    remarks = tuple(restoring.sentences(serial=serial, written=state.serial + 1)) if serial is not None else (restoring.RECORD_ONLY,)
    plan = plan_of(document, engine=name, semantic_digest=digest, redactor=redactor)
    plan = bounded(plan.model_copy(update={"risks": (*remarks, *plan.risks), "engine_build": build}))
    sha256 = "sha256:" + hashlib.sha256(saved).hexdigest()
    meta = bundle.Meta(engine=name, engine_build=build, plan_sha256=sha256, warm_key=key, source=tuple(_TREE.files), restores=True)
    secrets = redactor.secrets - {job.state.password}
    return Planned(
        plan=plan,
        plan_sha256=sha256,
        bundle=bundle.pack(meta=meta, plan=saved, secrets=secrets, operations={}, tree=session.place.tree),
        plan_json=plan_json,
        view=view_of(document, mode=MODE, macs=macs, redactor=redactor),
        semantic_document=semantic_document,
        inputs={"v": "countersign.inputs/1", "restores": serial, "tree": _TREE.digest, "lock": None, "engine_build": build},
        log=session.log(),
        warnings=remarks,
        lineage=state.lineage,
        serial=state.serial,
    )
