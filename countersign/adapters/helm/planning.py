"""One plan of a release: what it would become, asked of the cluster object by object.

Helm's own dry run gives the target; it sends nothing to the API. What each object would be after an apply is a dry run of the server, and
quota, immutable fields and other managers' fields come to light there.
"""

import asyncio
import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from countersign.adapters.helm.archive import Asked, crds_of
from countersign.adapters.helm.quotas import quota_risks
from countersign.adapters.helm.session import Session, Surroundings, at_work, named, together
from countersign.adapters.helm.telling import told
from countersign.adapters.helm.wanted import Target, Wanted
from countersign.adapters.kubernetes.cluster import Refusal, Why
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
from countersign.core.helm.diff import Conflict, Looked, Removed
from countersign.core.helm.manifests import Manifest
from countersign.core.helm.recovery import ONCE_DEPLOYED, Action, Revision, deployed, left_behind, newest
from countersign.core.helm.redaction import secret_texts
from countersign.core.terraform.variables import secrets_named, with_secrets

RELEASE_MAX = 1 << 20  # bytes of one record of Helm
ROOM = 16 << 10  # of them for what the dry run does not print
EVENTS = {
    Action.DEPLOY: (("pre-install", "post-install"), ("pre-upgrade", "post-upgrade")),  # the first time, and afterwards
    Action.ROLLBACK: (("pre-rollback", "post-rollback"),) * 2,
    Action.UNINSTALL: (("pre-delete", "post-delete"),) * 2,
}
ACTIONS = {"helm_deploy": Action.DEPLOY, "helm_rollback": Action.ROLLBACK, "helm_uninstall": Action.UNINSTALL}


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
    forced = any(one.conflicts for one in looked) and await server_side(session, wanted, history)
    risks = (*target.remarks, *await quota_risks(session, looked))
    differences = diff.compared(looked, removed)
    there = await session.cluster.get_all(map(named, target.hooks))
    hooks = {one.key.address: digest.marked(one.key.address, there[named(one)], session.around.fingerprints) for one in target.hooks}
    told_of = partial(told, build=build, risks=risks, hook_marks=hooks, forced=forced)
    return await asyncio.to_thread(told_of, session, wanted, target, differences, history, removed)


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
    crds = await session.parsed(crds_of(wanted.archive.data), release.namespace) if _installs(history) else ()
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


def _installs(history: Sequence[Revision]) -> bool:
    """Whether helm would install and not upgrade, with other hooks and the chart's definitions: also what left only its history."""
    last = newest(history)
    return last is None or last.status == "uninstalled"


def _that_run(hooks: Iterable[Manifest], wanted: Wanted, history: Sequence[Revision]) -> tuple[Manifest, ...]:
    first, afterwards = EVENTS[wanted.action]
    events = {*(first if _installs(history) else afterwards), *(("test",) if wanted.run_tests else ())}
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
    declared = {one.key: one for one in current}
    goes = [one for one in current if one.key not in stays]
    live = await cluster.get_all(map(named, (*target.objects, *goes, *target.crds)))
    session.hide_live((*target.objects, *goes), live)
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
            before = declared.get(manifest.key)
            if before is not None and one.live is not None and diff.client_side(one.live):
                answer = diff.taken_away(answer, before.body, manifest.body)
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
    whole = wanted.action is Action.UNINSTALL
    return tuple(looked), tuple(Removed(manifest=one, live=live[named(one)], uninstalled=whole) for one in goes)


async def server_side(session: Session, wanted: Wanted, history: Sequence[Revision]) -> bool:
    """Whether helm will apply by the server, and may be told to force. It goes on as a release was made: by Helm 3, on the client."""
    last = newest(history)
    if last is None or _installs(history):
        return True
    revision = wanted.to or last.number
    where = [wanted.release.name, "-n", wanted.release.namespace, "--revision", str(revision)]
    return bool((await session.asked(["get", "metadata", *where])).get("applyMethod") == "ssa")


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
