"""One plan of a release: what it would become, asked of the cluster object by object.

Helm's own dry run gives the target; it sends nothing to the API. What each object would be after an apply is a dry run of the server, and
quota, immutable fields and other managers' fields come to light there.
"""

import asyncio
import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from countersign.adapters.helm import bundle
from countersign.adapters.helm.archive import Archive, Asked, crds_of
from countersign.adapters.helm.session import Session, Surroundings, at_work, named, together
from countersign.adapters.kubernetes.cluster import Named, Refusal, Why
from countersign.core.digests import sha256
from countersign.core.engine import Beat, Finding, PlanJob, Planned, Progress, Release
from countersign.core.errors import (
    CountersignError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ProviderError,
    QuotaExceeded,
)
from countersign.core.helm import diff, digest, failures
from countersign.core.helm.diff import Conflict, Difference, Looked, Removed
from countersign.core.helm.manifests import Manifest
from countersign.core.helm.recovery import ONCE_DEPLOYED, Action, Revision, deployed, left_behind, newest
from countersign.core.helm.redaction import Veil, secret_texts
from countersign.core.plan import ChangeClass, worst
from countersign.core.terraform.variables import secrets_named, with_secrets

RELEASE_MAX = 1 << 20  # bytes of one record of Helm
ROOM = 16 << 10  # of them for what the dry run does not print
EVENTS = {
    Action.DEPLOY: (("pre-install", "post-install"), ("pre-upgrade", "post-upgrade")),  # the first time, and afterwards
    Action.ROLLBACK: (("pre-rollback", "post-rollback"),) * 2,
    Action.UNINSTALL: (("pre-delete", "post-delete"),) * 2,
}
ACTIONS = {"helm_deploy": Action.DEPLOY, "helm_rollback": Action.ROLLBACK, "helm_uninstall": Action.UNINSTALL}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for, before it is held against the cluster."""

    action: Action
    release: Release
    run: str
    archive: Archive | None = None
    values: Any = field(repr=False, default=None)
    secrets: frozenset[str] = field(repr=False, default=frozenset())  # of values that are sealed
    to: int | None = None
    run_tests: bool = False
    keep_history: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """What would be there, and what runs on the way."""

    objects: tuple[Manifest, ...]
    hooks: tuple[Manifest, ...] = ()
    other_hooks: bool = False  # than the deployed revision has
    crds: tuple[Manifest, ...] = ()  # made once, before everything else
    remarks: tuple[str, ...] = ()


async def make_plan(job: PlanJob, beat: Beat, *, around: Surroundings) -> Planned:
    """Raises what is wrong with the request or the cluster, with `details["findings"]` where objects are at fault."""
    if job.stack.release is None or job.type not in ACTIONS:
        raise FailedPrecondition(f"{job.stack.path} is no release; helm plans releases alone")
    async with at_work(around, env=job.stack.env, attempt_id=job.attempt_id, reveal=job.reveal) as session:
        await beat(Progress(current="reading the chart"))
        return await planned(session, await wanted_by(job, session), beat)


async def wanted_by(job: PlanJob, session: Session) -> Wanted:
    release, asked = job.stack.release, job.request
    assert release is not None  # make_plan saw to it
    wanted = Wanted(action=ACTIONS[job.type], release=release, run=job.run_id)
    if wanted.action is Action.ROLLBACK:
        return replace(wanted, to=int(str(asked["revision"])))
    if wanted.action is Action.UNINSTALL:
        return replace(wanted, keep_history=bool(asked.get("keep_history")))
    given = asked.get("values") or {}
    assert isinstance(given, Mapping)  # the door saw to it
    opened = {slug: await job.reveal(slug) for _, slug in secrets_named(given)}
    values = with_secrets(dict(given), opened.__getitem__)
    secrets = frozenset(opened.values()) | secret_texts(values=values)
    session.hide(secrets)
    archive = await session.around.charts.archive(
        Asked(chart=str(asked["chart"]), repo=_text(asked.get("repo")), version=_text(asked.get("version"))), session
    )
    return replace(wanted, archive=archive, values=values, secrets=secrets, run_tests=bool(asked.get("run_tests")))


def _text(value: object) -> str | None:
    return str(value) if value is not None else None


async def planned(session: Session, wanted: Wanted, beat: Beat) -> Planned:
    """The plan of what is wanted, from what is there now."""
    build = await session.build()
    history = await session.history(wanted.release)
    refuse(wanted, history, session)
    await beat(Progress(current="asking the cluster"))
    # Each starts a helm of its own.
    target, current = await together(target_of(session, wanted, history), current_of(session, wanted, history))
    session.hide(secret_texts((*target.objects, *target.hooks, *current)) | wanted.secrets)
    looked, removed = await looked_at(session, wanted, target, current)
    risks = (*target.remarks, *await quota_risks(session, wanted, looked))
    differences = diff.compared(looked, removed)
    there = await session.cluster.get_all(map(named, target.hooks))
    hooks = {one.key.address: digest.marked(one.key.address, there[named(one)], session.around.fingerprints) for one in target.hooks}
    return await asyncio.to_thread(told, session, wanted, target, differences, history, removed, build=build, risks=risks, hook_marks=hooks)


# What is there, and what may be done with it


def refuse(wanted: Wanted, history: Sequence[Revision], session: Session) -> None:
    """What cannot be begun on a release in this state is said before anybody is asked to agree. Nothing here goes by age."""
    last, release = newest(history), wanted.release
    if last is not None and last.pending:
        raise FailedPrecondition(
            f"{release} is {last.status} at revision {last.number}, by something other than this run. If whoever does that still works, "
            "ask again when they are done; if they are gone, an operator ends it with "
            f"`helm rollback {release.name} -n {release.namespace}` to a revision that was deployed, or `helm uninstall` where none was",
            field="release_name",
            next=["helm_get_release"],
        )
    if last is not None and last.status == "uninstalling" and wanted.action is not Action.UNINSTALL:
        raise FailedPrecondition(
            f"{release} is being uninstalled, or that was cut off; helm_uninstall finishes it",
            field="release_name",
            next=["helm_uninstall"],
        )
    if wanted.action is not Action.ROLLBACK:
        return
    able = sorted({one.number for one in history if one.status in ONCE_DEPLOYED})
    if last is None:
        raise NotFound(f"there is no release {release} in this environment", field="release_name", next=["helm_list_releases"])
    if wanted.to not in able:
        numbers = ", ".join(map(str, able[-20:])) or "none"
        raise InvalidArgument(
            f"revision {wanted.to} of {release} was never deployed, or is kept no more; those that were: {numbers}", field="revision"
        )


async def target_of(session: Session, wanted: Wanted, history: Sequence[Revision]) -> Target:
    if wanted.action is Action.UNINSTALL:
        hooks = await session.hooks(wanted.release, last.number) if (last := newest(history)) is not None else ()
        return Target(objects=(), hooks=_that_run(hooks, wanted, history))
    if wanted.action is Action.ROLLBACK:
        assert wanted.to is not None
        hooks = _that_run(await session.hooks(wanted.release, wanted.to), wanted, history)
        return Target(objects=await session.manifest(wanted.release, wanted.to), hooks=hooks)
    return await _deployed(session, wanted, history)


async def _deployed(session: Session, wanted: Wanted, history: Sequence[Revision]) -> Target:
    assert wanted.archive is not None
    release = wanted.release
    crds = await session.parsed(crds_of(wanted.archive.data), release.namespace) if not history else ()
    there = await session.cluster.get_all(map(named, crds))
    new = tuple(one for one in crds if there[named(one)] is None)
    (answer, remarks), before = await together(_dry_run(session, wanted, unknown_kinds=bool(new)), _hooks_of(session, release, history))
    if (size := _record_size(answer)) > RELEASE_MAX - ROOM:
        raise InvalidArgument(
            f"chart and values would be stored as {size >> 10} KiB, and one release has room for 1024: "
            "take files out of the chart, or make the values smaller",
            field="values" if len(json.dumps(wanted.values)) > RELEASE_MAX // 2 else "chart",
        )
    text = str(answer.get("manifest") or "")
    hooks = "\n---\n".join(str(hook.get("manifest") or "") for hook in answer.get("hooks") or ())
    every = await session.parsed(hooks, release.namespace)
    return Target(
        objects=await session.parsed(text, release.namespace),
        hooks=_that_run(every, wanted, history),
        other_hooks={one.key: one.body for one in every} != {one.key: one.body for one in before},
        crds=new,
        remarks=remarks,
    )


async def _hooks_of(session: Session, release: Release, history: Sequence[Revision]) -> tuple[Manifest, ...]:
    """Of the revision that is deployed."""
    current = deployed(history)
    return await session.hooks(release, current.number) if current is not None else ()


async def _dry_run(session: Session, wanted: Wanted, *, unknown_kinds: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What would be applied. Where the chart brings kinds along that the cluster does not know yet, only helm itself can say it."""
    assert wanted.archive is not None
    release = wanted.release
    chart = str(wanted.archive.written(session.folder))
    command = ["upgrade", release.name, chart, "--install", "--reset-values", "-n", release.namespace, "-f", "-"]
    # Its own look at the schema takes longer than all the rest, and says less than the server's dry run of each object, which follows.
    command += ["--disable-openapi-validation"]
    values = json.dumps(wanted.values).encode()
    try:
        return dict(await session.asked([*command, "--dry-run=server"], values)), ()
    except CountersignError as refused:
        if not unknown_kinds or refused.details.get("helm") != failures.Failed.CRD_MISSING:
            raise
    remark = "The chart brings kinds along that the cluster does not know yet; objects of those kinds are unchecked."
    return dict(await session.asked([*command, "--dry-run=client"], values)), (remark,)


def _record_size(answer: Mapping[str, Any]) -> int:
    """Bytes that Helm would store of it: JSON, packed, and spelled in base64."""
    return len(base64.b64encode(gzip.compress(json.dumps(answer, separators=(",", ":")).encode(), mtime=0)))


def _that_run(hooks: Iterable[Manifest], wanted: Wanted, history: Sequence[Revision]) -> tuple[Manifest, ...]:
    first, afterwards = EVENTS[wanted.action]
    events = {*(first if deployed(history) is None and not history else afterwards), *(("test",) if wanted.run_tests else ())}
    return tuple(one for one in hooks if one.hook is not None and events & {e.removesuffix("-success") for e in one.hook.events})


async def current_of(session: Session, wanted: Wanted, history: Sequence[Revision]) -> tuple[Manifest, ...]:
    """Everything the release has or left behind: of the deployed revision, and of failed ones after it, whose objects belong to nobody."""
    revisions = [one for one in (deployed(history), *left_behind(history)) if one is not None]
    last = newest(history)
    if not revisions and last is not None:
        revisions = [last]  # uninstalling, or failed before anything was deployed
    found: dict[str, Manifest] = {}
    for revision in sorted(revisions, key=lambda one: one.number):
        found |= {one.key.address: one for one in await session.manifest(wanted.release, revision.number)}
    return tuple(found.values())


# What the cluster says


async def looked_at(
    session: Session, wanted: Wanted, target: Target, current: Sequence[Manifest]
) -> tuple[tuple[Looked, ...], tuple[Removed, ...]]:
    release, cluster = wanted.release, session.cluster
    stays = {one.key for one in target.objects}
    goes = [one for one in current if one.key not in stays]
    live = await cluster.get_all(map(named, (*target.objects, *goes, *target.crds)))
    owned = [owned_by(one.body, release) for one in target.objects]
    answers = await cluster.predicted_all(owned, namespace=release.namespace)
    made = {one.key.name for one in target.objects if one.key.type == "Namespace"}
    looked: list[Looked] = []
    refused: list[tuple[Manifest, Refusal]] = []
    for manifest, document, answer in zip(target.objects, owned, answers, strict=True):
        one = Looked(manifest=manifest, live=live[named(manifest)])
        if isinstance(answer, Refusal) and answer.why is Why.CONFLICT:
            forced = await cluster.predicted(document, namespace=release.namespace, force=True)
            conflicts = tuple(Conflict(manager=m, field=f) for m, f in answer.conflicts if m != "helm")
            one, answer = replace(one, conflicts=conflicts), forced
        if not isinstance(answer, Refusal):
            looked.append(replace(one, predicted=answer))
        elif answer.why is Why.UNKNOWN_KIND and target.crds:
            looked.append(replace(one, unchecked="its kind comes with the chart"))
        elif answer.why is Why.NO_NAMESPACE and manifest.key.namespace in made:
            looked.append(replace(one, unchecked="its namespace comes with the chart"))
        else:
            refused.append((manifest, answer))
    if refused:
        raise _refusals(session, release, refused)
    looked += [Looked(manifest=one) for one in target.crds]
    return tuple(looked), tuple(Removed(manifest=one, live=live[named(one)]) for one in goes)


def owned_by(body: Mapping[str, Any], release: Release) -> dict[str, Any]:
    """As Helm applies it: with its marks of whose it is."""
    metadata = dict(body["metadata"])
    metadata["labels"] = {**(metadata.get("labels") or {}), "app.kubernetes.io/managed-by": "Helm"}
    whose = {"meta.helm.sh/release-name": release.name, "meta.helm.sh/release-namespace": release.namespace}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **whose}
    return {**body, "metadata": metadata}


_CLASSES: Mapping[Why, type[CountersignError]] = {
    Why.QUOTA: QuotaExceeded,
    Why.FORBIDDEN: PermissionDenied,
    Why.NO_NAMESPACE: FailedPrecondition,
}


def _refusals(session: Session, release: Release, refused: Sequence[tuple[Manifest, Refusal]]) -> CountersignError:
    """One error for all objects that the cluster would not take, each a finding."""
    findings = [
        Finding(
            severity="error",
            summary=session.redactor.line(f"{manifest.key.address}: {_in_words(answer)}", 300),
            detail=session.redactor.line(answer.message, 600),
            address=manifest.key.address,
        )
        for manifest, answer in refused
    ]
    manifest, first = refused[0]
    kind = _CLASSES.get(first.why, ProviderError)
    more = f" (and {len(refused) - 1} more objects)" if len(refused) > 1 else ""
    said = session.redactor.line(first.message, 400)
    message = f"the cluster would not take {manifest.key.address}{more}: {_in_words(first)}. It says: {said}"
    field = "namespace" if first.why is Why.NO_NAMESPACE else None
    return kind(message, field=field, details={"findings": [asdict(one) for one in findings], "release": str(release)})


def _in_words(answer: Refusal) -> str:
    match answer.why:
        case Why.QUOTA:
            return "a quota of the namespace is used up; raise it, or ask for less"
        case Why.FORBIDDEN:
            return "the credential of this environment's cluster may not do that"
        case Why.NO_NAMESPACE:
            return "its namespace does not exist; have it made first"
        case Why.UNKNOWN_KIND:
            return "the cluster knows no such kind; install its CustomResourceDefinition first"
    if any(word in answer.message for word in ("immutable", "Forbidden: updates to", "can not be less than")):
        where = ", ".join(answer.fields) or "a field"
        return f"the cluster does not let {where} change; leave it as it is, or remove the object first"
    return "it is not valid"


async def quota_risks(session: Session, wanted: Wanted, looked: Sequence[Looked]) -> tuple[str, ...]:
    """What quotas have left. Pods are made later, by controllers, and of many new objects each fits alone: no dry run tells.

    Raises QuotaExceeded where it can never fit.
    """
    said: list[str] = []
    for namespace in sorted({one.manifest.key.namespace for one in looked} - {""}):
        quotas = await session.cluster.listed("v1", "ResourceQuota", namespace=namespace)
        wants = await _wants(session, [one for one in looked if one.manifest.key.namespace == namespace]) if quotas else {}
        for quota in quotas:
            name, hard = quota["metadata"]["name"], quota.get("spec", {}).get("hard") or {}
            used = quota.get("status", {}).get("used") or {}
            for unit, want in wants.items():
                if not (str(hard.get(unit)).isdigit() and str(used.get(unit, "0")).isdigit()):
                    continue
                most, now = int(str(hard[unit])), int(str(used.get(unit, "0")))
                if want.every > most or (want.at_once and now + want.more > most):
                    raise QuotaExceeded(
                        f"the quota {name} of {namespace} allows {most} {unit}, {now} are used, and {want.every} are wanted, "
                        f"{want.more} of them new; ask for fewer, or have the quota raised",
                        field="values",
                    )
                if want.more > 0 and now + want.more > most:
                    said.append(
                        f"The quota {name} of {namespace} may refuse {unit}: {now} of {most} are used, and {want.more} more are wanted."
                    )
    return tuple(said)


@dataclass(frozen=True)
class Want:
    every: int = 0  # the release's, in the end
    more: int = 0  # than it has now
    at_once: bool = True  # made by helm itself, and refused at once where there is no room

    def plus(self, every: int, more: int, at_once: bool) -> "Want":
        return Want(self.every + every, self.more + more, at_once)


async def _wants(session: Session, looked: Sequence[Looked]) -> dict[str, Want]:
    """By the unit of a quota."""
    found: dict[str, Want] = {}
    for one in looked:
        key, new = one.manifest.key, int(one.live is None)
        if plural := await session.cluster.plural(one.manifest.api_version, key.kind):
            for unit in {f"count/{plural}.{key.group}"} if key.group else {f"count/{plural}", plural} - {"pods", "count/pods"}:
                found[unit] = found.get(unit, Want()).plus(1, new, True)
        if pods := _pods(one.manifest.body):
            more = pods - (_pods(one.live) if one.live is not None else 0)
            for unit in ("pods", "count/pods"):
                found[unit] = found.get(unit, Want()).plus(pods, more, False)
    return found


def _pods(body: Mapping[str, Any]) -> int:
    """How many pods an object keeps running; a Job's come and go."""
    spec = body.get("spec") or {}
    match body.get("kind"):
        case "Pod":
            return 1
        case "Deployment" | "StatefulSet" | "ReplicaSet":
            wanted = spec.get("replicas", 1)
            return wanted if isinstance(wanted, int) else 1
        case "Job":
            wanted = spec.get("parallelism", 1)
            return wanted if isinstance(wanted, int) else 1
    return 0


# What is told of it


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
) -> Planned:
    around, release, prints = session.around, wanted.release, session.around.fingerprints
    last = newest(history)
    veil = Veil(prints, session.redactor.secrets, scope=str(release))
    live = marks(differences, removed, prints)
    meta = meta_of(session, wanted, target, differences, last, live, build=build).model_copy(update={"hook_marks": dict(hook_marks)})
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


def marks(differences: Iterable[Difference], removed: Iterable[Removed], prints: Any) -> dict[str, str]:
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
        force_conflicts=any(one.looked is not None and one.looked.conflicts for one in differences),
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
