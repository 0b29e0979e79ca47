"""What is made of a plan document: the plan people see, its digests, and the bundle that apply works from."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from countersign.adapters.terraform import bundle
from countersign.adapters.terraform.checkout import OVERRIDE, Tree
from countersign.adapters.terraform.session import FINDINGS, Session
from countersign.adapters.terraform.static_check import is_configuration
from countersign.core.digests import digest_of
from countersign.core.engine import PlanJob, Planned
from countersign.core.plan import Change, Plan
from countersign.core.redaction import Redactor
from countersign.core.run import Mode
from countersign.core.terraform import document as doc
from countersign.core.terraform import drift
from countersign.core.terraform.events import Journal, in_words, redacted
from countersign.core.terraform.guard import operations_of
from countersign.core.terraform.plan import plan_of
from countersign.core.terraform.semantic import Macs, Origin, semantic
from countersign.core.terraform.semantic import variables as variable_macs
from countersign.core.terraform.view import view_of

SUMMARY_MAX = 32 << 10  # bytes of a plan's summary, which rows and histories carry


def judged(
    session: Session,
    tree: Tree,
    plan_file: Path,
    plan_json: bytes,
    events: Journal,
    *,
    key: str,
    values: Mapping[str, object],
    own: frozenset[str],
) -> Planned:
    """Everything that is made of the plan; seconds of work for big ones, so call it in a thread.

    `key` names the warm folder, `values` are the variables that were set, `own` the secrets of this attempt alone.
    """
    job, macs, name = session.job, session.around.macs, session.executable.name
    drifting = job.mode is Mode.DRIFT
    document = doc.Settled(drift.as_changes(doc.parse(plan_json)) if drifting else doc.parse(plan_json))
    secrets = session.redactor.secrets | doc.secrets_of(document)
    session.redactor = redactor = Redactor(secrets)
    place = session.place
    made = bundle.made_files(place.tree, {*tree.files, OVERRIDE}, tree.below)
    fetched = bundle.fetched_modules(made)
    origin = Origin(
        stack_id=job.stack.stack_id,
        mode="refresh-only" if drifting else "destroy" if job.destroy or job.mode is Mode.DESTROY else "normal",
        engine=name,
        # A module that moved may run another script without changing a single value of the plan.
        source=digest_of([tree.digest, fetched]) if fetched else tree.digest,
        lock=tree.lock,
        targets=job.targets if job.mode is Mode.SPECULATIVE else (),
    )
    semantic_document, digest = semantic(document, origin=origin, macs=macs)
    weaker = session.kept.risks() if session.kept is not None else ()
    remarks = (*_of_targets(job), *_of_imports(job, document, redactor), *warnings_of(tree, job))
    plan = plan_of(document, engine=name, semantic_digest=digest, redactor=redactor)
    plan = drift.told(plan, document) if drifting else plan
    plan = bounded(plan.model_copy(update={"risks": (*weaker, *plan.risks, *remarks), "source": source_in_words(session)}))
    saved = plan_file.read_bytes()
    plan_sha256 = "sha256:" + hashlib.sha256(saved).hexdigest()
    meta = bundle.Meta(
        engine=name,
        engine_build=plan.engine_build,
        plan_sha256=plan_sha256,
        warm_key=key,
        commit=job.commit,
        repository=session.revision.address if session.revision else None,
        ref=session.revision.ref if session.revision else None,
        below=tree.below,
        source=tuple(sorted(tree.files)),
        own=session.kept is not None,
    )
    warnings = [redacted(f, redactor) for f in events.findings if f.severity == "warning"][:FINDINGS]
    return Planned(
        plan=plan,
        plan_sha256=plan_sha256,
        # The attempt's own secrets die with it; nobody who can read bundles should find them there.
        bundle=bundle.pack(meta=meta, plan=saved, secrets=redactor.secrets - own, operations=operations_of(document), tree=place.tree),
        plan_json=plan_json,
        view=view_of(document, mode=job.mode, macs=macs, redactor=redactor),
        semantic_document=semantic_document,
        inputs={
            "v": "countersign.inputs/1",
            "commit": job.commit,
            **came_from(session),
            "tree": tree.digest,
            "lock": tree.lock,
            "variables": variable_macs(document, macs),
            "variables_set": sorted(values),
            "variables_given": given(values, macs),
            "providers_from": session.around.origin,
            "reads": [{"stack_id": r.stack_id, "stack": r.path, "lineage": r.lineage, "serial": r.serial} for r in job.reads],
            "engine_build": plan.engine_build,
            "files_made": made,
            **({"state_in": session.kept.backend} if session.kept is not None else {}),
        },
        log=session.log(),
        warnings=(*weaker, *remarks, *(in_words([f]) for f in warnings)),
        findings=tuple(warnings),
        lineage=job.state.lineage,
        serial=job.state.serial,
        seen=session.kept.seen if session.kept is not None else None,
        adoptable=job.mode is Mode.SPECULATIVE and not (job.targets or job.destroy or job.imports),
    )


def given(values: Mapping[str, object], macs: Macs) -> dict[str, str]:
    """Variable → fingerprint of what was given for it: for comparing what a plan was made of without planning again."""
    return {name: macs.of(json.dumps(value, sort_keys=True), "given", name) for name, value in sorted(values.items())}


def _of_targets(job: PlanJob) -> tuple[str, ...]:
    if not job.targets or job.mode is not Mode.SPECULATIVE:
        return ()
    return (f"Only {', '.join(job.targets[:5])} and what that needs was planned (targets): this plan can never be adopted or applied.",)


def _of_imports(job: PlanJob, document: Mapping[str, Any], redactor: Redactor) -> tuple[str, ...]:
    """An import is planned with the whole stack, for a part of it could not be approved."""
    others = [c.address for c in doc.changes(document) if not c.bare_no_op and c.importing is None]
    if not job.imports or not others:
        return ()
    named = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
    return (redactor.line(f"Beside the import this plan does what else is due: {named}.", 500),)


def bounded(plan: Plan) -> Plan:
    """`plan` in at most SUMMARY_MAX bytes: what says least goes first, and nothing but the view and the JSON has everything."""
    for attributes, changes, outputs in ((20, 50, 100), (5, 50, 50), (0, 50, 20), (0, 20, 5), (0, 5, 0)):
        plan = plan.model_copy(
            update={
                "changes": tuple(_short(c, attributes) for c in plan.changes[:changes]),
                "outputs_changed": plan.outputs_changed[: outputs or 1],
                "risks": plan.risks[:20],
            }
        )
        if len(plan.model_dump_json()) <= SUMMARY_MAX:
            break
    return plan


def _short(change: Change, attributes: int) -> Change:
    return change.model_copy(
        update={"attributes": change.attributes[:attributes], "replace_paths": change.replace_paths[: max(attributes, 1)]}
    )


def warnings_of(tree: Tree, job: PlanJob) -> tuple[str, ...]:
    """What an approver should know about the source and its credentials before reading the changes."""
    said = [*tree.remarks]
    text = b"\n".join(data for path, data in tree.files.items() if is_configuration(path))
    if b"abspath(" in text or b"path.cwd" in text:
        said.append(
            "The configuration uses abspath() or path.cwd: such paths belong to the plan's folder, which is gone when the plan is applied."
        )
    if job.stack.plan_credential is not None and job.stack.apply_credential in (None, job.stack.plan_credential):
        said.append("One credential serves for planning and applying: whoever can get a plan made can read what it may change.")
    return tuple(said)


def came_from(session: Session) -> dict[str, str]:
    """The commit and where it was found, for the frozen inputs: nothing for a folder."""
    at = session.revision
    return {"commit": at.commit, "repository": at.address, "ref": at.ref, "path": session.job.stack.source_path} if at else {}


def source_in_words(session: Session) -> str:
    at = session.revision
    return f"commit {at.commit[:12]} of {at.ref}, {at.address}, {session.job.stack.source_path}" if at else ""
