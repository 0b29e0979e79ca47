"""A plan of a release, from what the cluster said: for people, for the approval, and for whoever applies it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from countersign.adapters.helm import bundle
from countersign.adapters.helm.session import Session, named
from countersign.adapters.helm.wanted import Target, Wanted
from countersign.adapters.kubernetes.cluster import Named
from countersign.core.digests import sha256
from countersign.core.engine import Planned
from countersign.core.fingerprints import Fingerprints
from countersign.core.helm import diff, digest
from countersign.core.helm.diff import Difference, Removed
from countersign.core.helm.manifests import Manifest
from countersign.core.helm.recovery import Action, Revision, left_behind, newest
from countersign.core.helm.redaction import Veil
from countersign.core.plan import ChangeClass, worst


def told(
    session: Session,
    wanted: Wanted,
    target: Target,
    differences: Sequence[Difference],
    history: Sequence[Revision],
    removed: Sequence[Removed],
    *,
    build: str,
    risks: Sequence[str],
    hook_marks: Mapping[str, str],
    forced: bool,
) -> Planned:
    around, release, prints = session.around, wanted.release, session.around.fingerprints
    last = newest(history)
    veil = Veil(prints, session.redactor.secrets, scope=str(release))
    live = marks(differences, removed, prints)
    meta = meta_of(session, wanted, target, differences, last, live, build=build)
    meta = meta.model_copy(update={"hook_marks": dict(hook_marks), "force_conflicts": forced})
    facts = meta.model_dump(mode="json", exclude={"live", "objects", "hooks", "hook_marks", "run", "server", "chart_source"})
    document = digest.document_of(differences, facts=facts, live=live, hooks=target.hooks, values=wanted.values, fingerprints=prints)
    plan = diff.plan_of(
        differences,
        engine_build=build,
        veil=veil,
        hooks=target.hooks,
        risks=(*_remarks(wanted, history, removed), *risks),
        source=veil.redactor.line(_source(wanted), 200),
        semantic_digest=digest.semantic_digest(document),
    )
    if target.hooks and plan.change_class.rank < ChangeClass.UPDATE.rank:  # nobody knows what they do
        plan = plan.model_copy(
            update={"change_class": worst((plan.change_class, ChangeClass.UPDATE)), "classes": (*plan.classes, ChangeClass.UPDATE)}
        )
    if not plan.counts.total and (why := _still(wanted, history, target)):
        plan = plan.model_copy(update={"outputs_changed": (why,)})
    data = bundle.pack(meta, chart=wanted.archive.data if wanted.archive else None, values=wanted.values, secrets=session.redactor.secrets)
    spelled = json.dumps(document, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Planned(
        plan=plan,
        plan_sha256=sha256(data),
        bundle=data,
        plan_json=spelled,
        view=diff.view_of(differences, mode=str(wanted.action), engine_build=build, veil=veil, hooks=target.hooks),
        semantic_document=spelled,
        inputs={
            "chart": meta.chart,
            "chart_name": meta.chart_name,
            "chart_version": meta.chart_version,
            "commit": wanted.archive.commit if wanted.archive else None,
            "values": document["values"],
            "revision": meta.base,
        },
        log=_log(plan, meta, around.timeout),
        account=f"cluster {session.cluster.name} ({session.identity.server}, {session.identity.uid})",
    )


def marks(differences: Iterable[Difference], removed: Iterable[Removed], prints: Fingerprints) -> dict[str, str]:
    looked = {d.key.address: d.looked.live for d in differences if d.looked is not None}
    gone = {one.manifest.key.address: one.live for one in removed}
    return {address: digest.marked(address, live, prints) for address, live in sorted({**looked, **gone}.items())}


def meta_of(
    session: Session,
    wanted: Wanted,
    target: Target,
    differences: Sequence[Difference],
    last: Revision | None,
    live: Mapping[str, str],
    *,
    build: str,
) -> bundle.Meta:
    archive, around = wanted.archive, session.around
    return bundle.Meta(
        engine_build=build,
        action=wanted.action,
        env=session.env,
        namespace=wanted.release.namespace,
        name=wanted.release.name,
        cluster=session.identity.uid,
        server=session.identity.server,
        base=last.number if last else 0,
        base_status=last.status if last else "",
        run=wanted.run,
        to=wanted.to,
        chart=archive.digest if archive else None,
        chart_name=archive.name if archive else "",
        chart_version=archive.version if archive else "",
        chart_source=archive.source if archive else "",
        run_tests=wanted.run_tests,
        keep_history=wanted.keep_history,
        timeout=around.timeout,
        history_max=around.history_max,
        live=live,
        objects=tuple(object_of(one.manifest, one.action) for one in differences),
        hooks=tuple(object_of(one, "hook") for one in target.hooks),
    )


def object_of(manifest: Manifest, action: str) -> bundle.Object:
    found: Named = named(manifest)
    return bundle.Object(
        address=manifest.key.address,
        api_version=found.api_version,
        kind=found.kind,
        namespace=found.namespace,
        name=found.name,
        action=action,
    )


def _remarks(wanted: Wanted, history: Sequence[Revision], removed: Sequence[Removed]) -> tuple[str, ...]:
    """What a reviewer of this action has to know, in sentences."""
    said: list[str] = []
    if left := left_behind(history):
        numbers = ", ".join(str(one.number) for one in left)
        said.append(f"Revision {numbers} failed and left what it had applied; that is compared here too.")
    if wanted.action is Action.UNINSTALL:
        claims = sorted(
            f"{one.manifest.key.address} ({template['metadata']['name']})"
            for one in removed
            if one.live is not None and one.manifest.key.kind == "StatefulSet"
            for template in one.live.get("spec", {}).get("volumeClaimTemplates") or ()
        )
        if claims:
            said.append(f"Volumes stay behind, with what is in them: those of {', '.join(claims[:5])}.")
        if removed and not wanted.keep_history:
            said.append("The release's history goes too, so that nothing can be rolled back to afterwards.")
    return tuple(said)


def _still(wanted: Wanted, history: Sequence[Revision], target: Target) -> str | None:
    """What is to be done although no object changes: helm's own record of the release, or its hooks."""
    last = newest(history)
    if wanted.action is Action.UNINSTALL:
        return "release" if last is not None and last.status != "uninstalled" else None
    if last is None or last.status != "deployed" or wanted.action is Action.ROLLBACK:
        return "release"
    return "hooks" if target.other_hooks else None


def _source(wanted: Wanted) -> str:
    if wanted.archive is not None:
        return f"{wanted.archive.name} {wanted.archive.version} from {wanted.archive.source}"
    return f"revision {wanted.to}" if wanted.to is not None else ""


def _log(plan: Any, meta: bundle.Meta, timeout: int) -> str:
    lines = [f"{meta.action} of {meta.namespace}/{meta.name}, from revision {meta.base}: {plan.counts}"]
    lines += [f"  {change.action:8} {change.address}" for change in plan.changes]
    return "\n".join([*lines, f"each operation may take {timeout} s", ""])
