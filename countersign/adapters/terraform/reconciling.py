"""After a lost apply: what did it do, what is left of what was approved, and is that all?

Everything starts from what was approved: the bundle's tree, the plan's own variables. What the journals of the lost applies
tell is brought together with the state; the state gets what nobody stored; what exists without being in it is imported by the
plan of what is left. Nothing of the world is changed here, and all of it may be repeated.
"""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from countersign.adapters.git import Revision
from countersign.adapters.terraform import bundle, kept
from countersign.adapters.terraform.environment import credential_environment, secrets_of_credential
from countersign.adapters.terraform.executable import Executable
from countersign.adapters.terraform.judging import judged
from countersign.adapters.terraform.looking import Trials, Unique, rules_of
from countersign.adapters.terraform.mending import State
from countersign.adapters.terraform.planning import add_imports, at_work, destroys, saved_plan, shown, state_answers
from countersign.adapters.terraform.restoring import restored
from countersign.adapters.terraform.session import Session, Surroundings
from countersign.adapters.terraform.values import written_variables
from countersign.adapters.terraform.warm import check_backend
from countersign.core import reconcile as core
from countersign.core.engine import Beat, PlanJob, Planned, Reconciled, ReconcileJob
from countersign.core.errors import CountersignError
from countersign.core.model import Payload
from countersign.core.reconcile import CRASHES, Commands, Decision, Next, Proof, Stop
from countersign.core.redaction import Redactor
from countersign.core.run import Mode
from countersign.core.terraform import document as doc
from countersign.core.terraform.document import Number
from countersign.core.terraform.events import Journal
from countersign.core.terraform.imports import FILE
from countersign.core.terraform.operations import AttemptJournal, Deed, Ended, History, attempt_of, histories
from countersign.core.terraform.salvage import Salvage, fold
from countersign.core.terraform.subset import prove
from countersign.core.terraform.testimony import began

LINE = 1000  # characters of a line of the proof


class Known(Payload):
    """`Reconciled.known`, which comes back as `Witness.known`."""

    absent: tuple[str, ...] = ()  # nothing existed at these addresses when the plan was made


async def reconcile(
    job: ReconcileJob, beat: Beat, *, resolve: Callable[[], Executable], around: Surroundings, unique: Mapping[str, Unique]
) -> Reconciled:
    """Learn, mend, plan, prove, decide. Raises what is worth asking again; whatever else goes wrong is an operator's."""
    if job.stops or _crashes(job) >= CRASHES:
        return Reconciled(decision=_decided(job, None, job.stops))  # nobody plans beside what may still change something
    session: Session | None = None
    try:
        async with at_work(_planning(job), beat, executable=resolve(), around=around) as session:
            return await Reconciliation(job=job, session=session, unique=unique).done()
    except CountersignError as failed:
        if failed.retryable:
            raise
        stop = core.failed_plan(_commands(job), failed.message)
        return Reconciled(decision=_decided(job, None, (stop,)), log=session.log() if session is not None else "")


def _planning(job: ReconcileJob) -> PlanJob:
    """As planning sees it. The variables are the approved ones, so none are asked for here."""
    return PlanJob(
        run_id=job.run_id,
        plan_number=job.plan_number,
        attempt_id=job.attempt_id,
        stack=job.stack,
        mode=job.mode,
        destroy=job.mode is Mode.DESTROY,
        vars={},
        targets=(),
        commit=None,
        state=job.state,
        reveal=job.reveal,
    )


def _commands(job: ReconcileJob) -> Commands:
    return Commands(run_id=job.run_id)


def _decided(job: ReconcileJob, proof: Proof | None, stops: Sequence[Stop]) -> Decision:
    return core.decide(_commands(job), proof, stops, crashes=_crashes(job), approval_live=job.approval_live)


def _crashes(job: ReconcileJob) -> int:
    """They stand in the way of going on, and not of recording what was done."""
    return 0 if job.canceled else job.crashes


@dataclass(frozen=True, kw_only=True)
class Approved:
    """What people agreed to, unpacked where it is planned again."""

    meta: bundle.Meta
    document: Mapping[str, Any] = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)  # of its variables
    var_file: Path | None
    environment: Mapping[str, str] = field(repr=False)
    own: frozenset[str] = field(repr=False)  # secrets of this work alone

    @property
    def var_files(self) -> tuple[Path, ...]:
        return (self.var_file,) if self.var_file is not None else ()


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    job: ReconcileJob
    session: Session
    unique: Mapping[str, Unique]

    async def done(self) -> Reconciled:
        job, session = self.job, self.session
        if not job.stack.own:
            await state_answers(job.state.address)
        approved = await self._unpacked()
        state = await (kept.look if job.stack.own else State.pulled)(session, approved.environment)
        if job.stack.own and (stops := await kept.freed(session, job, approved.environment, socket.gethostname())):
            return Reconciled(decision=_decided(job, None, stops), log=session.log())
        if approved.meta.restores:
            return await self._restored(approved, state)
        if job.left_over_state is not None:
            state = await state.with_left_over(job.left_over_state)
        attempts = await asyncio.to_thread(self._attempts, approved.document)
        salvage = await asyncio.to_thread(fold, attempts, approved.document, state.document, rules=rules_of(self.unique))
        salvage = await self._looked_up(salvage, approved, state)
        if stops := self._stops(salvage):
            return Reconciled(decision=_decided(job, None, stops), log=session.log())
        told, _ = histories(attempts)
        state = await state.without((*salvage.removals, *state.deleted(told)))
        if session.kept is not None:
            session.kept = replace(session.kept, before=state.serial, data=state.data)
        session.job = replace(session.job, state=replace(job.state, lineage=state.lineage, serial=state.serial))
        found = await self._planned(approved, salvage)
        if found.decision.next is Next.CONTINUE and not left(found):
            await state.refreshed(approved.var_files)  # no apply comes that would store what the last call did
        if not job.canceled or found.decision.next is Next.OPERATOR or (found.decision.next is Next.CONTINUE and not left(found)):
            return found
        await state.with_made(salvage, approved.var_file)
        lines = tuple(session.redactor.line(line, LINE) for line in done_lines(told))
        why = "Stopped on request in mid-apply; what was done by then is recorded in the state."
        if not lines:
            why = "Stopped on request before anything was changed."
        return Reconciled(decision=Decision(next=Next.STOP, why=why, lines=lines), log=session.log())

    async def _restored(self, approved: Approved, state: State) -> Reconciled:
        """Of a state that was to be stored: it is, or it is not, and what is there says which."""
        job, session = self.job, self.session
        wanted = await asyncio.to_thread((session.place.base / bundle.PLAN).read_bytes)
        planned = await restored(session, state, wanted, key=approved.meta.warm_key, serial=None)
        if not planned.plan.changes_anything:
            proof = Proof(lines=(f"the state has the content that was approved, under serial {state.serial}",))
        elif job.canceled:
            return Reconciled(decision=Decision(next=Next.STOP, why="Stopped on request before anything was changed."), log=session.log())
        else:
            left = planned.plan.counts.total or 1
            same = doc.parse(planned.plan_json) == approved.document
            proof = Proof(
                lines=("nothing was stored: the state is as it was when people agreed",) if same else (),
                refused=() if same else ("the state is another one by now, so restoring it changes something else",),
                left=left,
            )
        return Reconciled(decision=_decided(job, proof, ()), planned=planned, log=session.log())

    async def _unpacked(self) -> Approved:
        """The approved tree in the workspace, with its providers; from here on its secrets are hidden."""
        job, session = self.job, self.session
        await session.tell("unpacking what was approved")
        unpacked = await asyncio.to_thread(bundle.unpack, job.approved, session.place.base)
        meta, tree = unpacked.meta, unpacked.work
        session.place = replace(session.place, tree=tree)  # the record may name another folder today
        meta.refuse_other_than(session.executable.name)
        meta.refuse_other_keeper(own=job.stack.own)
        session.job = replace(session.job, commit=meta.commit)
        if meta.repository and meta.ref and meta.commit:
            session.revision = Revision(address=meta.repository, ref=meta.ref, commit=meta.commit, behind=0)
        document = await asyncio.to_thread(doc.parse, job.approved_json)
        credential = await credential_environment(job.stack.apply_credential or job.stack.plan_credential, job.reveal)
        session.redactor = Redactor({*unpacked.secrets, *doc.secrets_of(document), job.state.password, *secrets_of_credential(credential)})
        environment = session.environment(credential, backend=True)
        values = {name: one.get("value") for name, one in (document.get("variables") or {}).items()}
        pool = session.around.pool
        if job.stack.own:
            await kept.with_providers(session, meta.warm_key, environment)
        else:
            if not await asyncio.to_thread(pool.link_providers, meta.warm_key, tree):
                journal, ended = await session.events("init", session.commands.init(), environment)
                if ended.code != 0:
                    raise session.failed("init", journal, ended)
                await asyncio.to_thread(pool.keep, meta.warm_key, tree)
            check_backend(tree)
        return Approved(
            meta=meta,
            document=document,
            values=values,
            var_file=written_variables(session, spelled(values)) if values else None,
            environment=environment,
            own=frozenset({job.state.password, *credential.values()}),
        )

    # What was done

    def _attempts(self, approved: Mapping[str, Any]) -> list[AttemptJournal]:
        found: list[AttemptJournal] = []
        for witness in self.job.witnesses:
            known, id = Known.model_validate_json(witness.known), witness.attempt_id
            plan = doc.parse(witness.plan_json)
            found.append(attempt_of(plan, approved, attempt_id=id, journal=witness.testimony, whole=witness.whole, absent=known.absent))
            if witness.exists or witness.missing:  # it was said afterwards, so it counts after the journal
                found.append(AttemptJournal(attempt_id=f"{id}, by people", whole=True, answers=witness.exists, absent=witness.missing))
        return found

    async def _looked_up(self, salvage: Salvage, approved: Approved, state: State) -> Salvage:
        questions = {need.address: need.look_up for need in salvage.look_ups if need.look_up is not None}
        if not questions:
            return salvage
        since = min((at for w in self.job.witnesses if (at := began(w.testimony)) is not None), default=None)
        look_ups = Trials(
            session=self.session,
            environment=approved.environment,
            var_file=approved.var_file,
            unique=self.unique,
            state=state.data,
            held=frozenset(i.address for i in (state.document.instances if state.document else ())),
            since=since,
        )
        for address, hits in (await look_ups.ask(questions)).items():
            salvage = salvage.settled(address, hits, since=since or _NEVER, label=None)
        return salvage

    def _stops(self, salvage: Salvage) -> list[Stop]:
        line = self.session.redactor.line
        said = [(need.address, need.reason) for need in salvage.stops]
        said += [(need.address, f"{need.reason}, and it could not be looked up") for need in salvage.look_ups]
        return [core.unknown_object(_commands(self.job), line(address, LINE), line(reason, LINE)) for address, reason in sorted(said)]

    # What is left

    async def _planned(self, approved: Approved, salvage: Salvage) -> Reconciled:
        session = self.session
        replaces = () if destroys(session.job) else salvage.replaces
        with importing(session.place.tree, salvage.imports):
            events, plan_file = await saved_plan(session, approved.environment, approved.var_files, replaces=replaces)
        if session.kept is not None:
            await kept.planned_on(session, approved.environment, plan_file)
        plan_json = await shown(session, approved.environment, plan_file)
        await session.tell("comparing it with what was approved")
        return await session.while_beating(asyncio.to_thread(self._proved, approved, salvage, plan_file, plan_json, events))

    def _proved(self, approved: Approved, salvage: Salvage, plan_file: Path, plan_json: bytes, events: Journal) -> Reconciled:
        job, session = self.job, self.session
        document = doc.parse(plan_json)
        proof = prove(approved.document, document, salvage, age=job.age)
        session.redactor = Redactor(session.redactor.secrets | doc.secrets_of(document))
        decision = _decided(job, self._shown(proof), ())
        planned: Planned | None = None
        if decision.next is not Next.OPERATOR:
            tree, key = bundle.source_of(approved.meta, session.place.tree), approved.meta.warm_key
            planned = judged(session, tree, plan_file, plan_json, events, key=key, values=approved.values, own=approved.own)
        known = Known(absent=tuple(sorted(salvage.absent)))
        return Reconciled(decision=decision, planned=planned, known=known.model_dump_json().encode(), log=session.log())

    def _shown(self, proof: Proof) -> Proof:
        """Addresses can hold keys that are secret."""
        lines, refused = ([self.session.redactor.line(text, LINE) for text in texts] for texts in (proof.lines, proof.refused))
        return replace(proof, lines=tuple(lines), refused=tuple(refused))


def left(found: Reconciled) -> bool:
    return found.planned is not None and found.planned.plan.changes_anything


def done_lines(told: Mapping[str, History]) -> Iterator[str]:
    """What was done, or begun so that it may be done, object by object."""
    for address, history in sorted(told.items()):
        for one in history.operations:
            if one.deed in _PAST and one.ended is Ended.WELL:
                yield f"{address}: {_PAST[one.deed]}"
            elif one.deed in (Deed.UPDATE, Deed.DELETE):
                yield f"{address}: its {one.deed} was begun"


_PAST = {Deed.CREATE: "created", Deed.UPDATE: "updated", Deed.DELETE: "destroyed"}
_NEVER = datetime.max.replace(tzinfo=UTC)


@contextmanager
def importing(tree: Path, imports: Mapping[str, str]) -> Iterator[None]:
    """A file with import blocks in the root module, for one plan: the plan carries what it says."""
    file = tree / FILE
    own = file.read_bytes() if file.exists() else None  # a source may have a file of that name
    add_imports(tree, imports)
    try:
        yield
    finally:
        if own is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(own)


def spelled(value: object) -> str:
    """JSON with its numbers as they were written: no float ever rounds one."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(str(key))}:{spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spelled, value)) + "]"
    return json.dumps(value)
