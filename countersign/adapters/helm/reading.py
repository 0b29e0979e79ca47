"""What is known of charts and releases without changing anything: searched, shown, judged, and compared with what is live.

Everything leaves redacted: what Secrets and values hold as fingerprints, and the same texts wherever else they turn up. Helm's own `status`
shows Secrets in clear, so nothing of it goes on as it came.
"""

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from countersign.adapters.helm.archive import Archive, Asked, crds_of, files_of
from countersign.adapters.helm.command import Failed, HelmCommand, environment_of
from countersign.adapters.helm.planning import owned_by
from countersign.adapters.helm.session import Session, Surroundings, at_work, named
from countersign.adapters.kubernetes.cluster import AT_ONCE, Refusal
from countersign.adapters.process import end_marked
from countersign.core.engine import Release, Reveal
from countersign.core.errors import CountersignError, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from countersign.core.helm import diff, health
from countersign.core.helm.charts import order
from countersign.core.helm.diff import Looked
from countersign.core.helm.failures import Failed as Failures
from countersign.core.helm.failures import classify
from countersign.core.helm.health import Health, Standing
from countersign.core.helm.manifests import Manifest, load, parse
from countersign.core.helm.recovery import LABEL, PENDING, Revision, deployed, newest
from countersign.core.helm.redaction import Veil, sealed_paths, secret_texts
from countersign.core.reading import Asked as Question
from countersign.core.redaction import clean_line, cut
from countersign.core.terraform.variables import secrets_named, with_secrets

TEXT = 24_000  # characters of one text: a tool's answer holds some of them
LISTED = 1000  # releases that are looked at for one list
VERSIONS = 30
SHOWN = 50  # objects, changes
SCHEMA = 12_000  # characters


@dataclass(frozen=True, kw_only=True)
class ChartWork:
    """Work that needs no cluster; as `sources.Work` asks."""

    attempt_id: str
    folder: Path
    helm: HelmCommand
    reveal: Reveal


async def answer(asked: Question, *, around: Surroundings) -> Mapping[str, object]:
    subjects: Mapping[str, Callable[[Question, Surroundings], Awaitable[Mapping[str, object]]]] = {
        "search_charts": search_charts,
        "get_chart": get_chart,
        "list_releases": list_releases,
        "get_release": get_release,
    }
    return await subjects[asked.subject](asked, around)


# Charts


async def search_charts(asked: Question, around: Surroundings) -> Mapping[str, object]:
    given = asked.arguments
    async with _at_charts(asked, around) as work:
        found, remarks = await around.charts.search(str(given.get("text") or ""), _text(given.get("repo")), work)
    rows = [
        {
            "chart": entry.name,
            "repo": source.name,
            "version": entry.version,
            "app_version": entry.app_version or None,
            "description": entry.description or None,
            **({"deprecated": True} if entry.deprecated else {}),
        }
        for source, entry in found
    ]
    return {"charts": rows, "remarks": [clean_line(one) for one in remarks], "repos": [one.name for one in around.charts.sources]}


async def get_chart(asked: Question, around: Surroundings) -> Mapping[str, object]:
    """What a chart takes and makes; with values, what is wrong with them and what they render to."""
    given = asked.arguments
    which = Asked(chart=str(given["chart"]), repo=_text(given.get("repo")), version=_text(given.get("version")))
    async with _at_charts(asked, around) as work:
        archive: Archive = await around.charts.archive(which, work)
        versions = await around.charts.versions(which, work)
        files = await asyncio.to_thread(lambda: dict(files_of(archive.data)))
        asked_values = given.get("values")
        values, sealed = _stood_for(asked_values)
        schema = _schema(files)
        secrets = sealed | secret_texts(values=values, schema=schema)
        defaults = load(files.get("values.yaml", b"").decode(errors="replace"), what="values.yaml") or {}
        veil = Veil(around.fingerprints, secrets | secret_texts(values=defaults, schema=schema), scope=archive.digest)
        rendered = await _rendered(work, archive, values if asked_values is not None else {}, veil, namespace="default")
        crds = await asyncio.to_thread(parse, crds_of(archive.data), namespace="default")
        lint = await _linted(work, archive, values, veil) if asked_values is not None else []
    metadata = load(files["Chart.yaml"].decode(errors="replace"), what="Chart.yaml")
    found: dict[str, object] = {
        "chart": archive.name,
        "version": archive.version,
        "app_version": _line(metadata.get("appVersion")),
        "description": _line(metadata.get("description")),
        "repo": archive.source,
        "commit": archive.commit,
        "digest": archive.digest,
        "kube_version": _line(metadata.get("kubeVersion")),
        "deprecated": metadata.get("deprecated") is True,
        "dependencies": [f"{_line(one.get('name'))} {_line(one.get('version'))}" for one in metadata.get("dependencies") or ()],
        "versions": [one.version for one in versions[:VERSIONS]],
        "versions_total": len(versions),
        "crds": [one.key.name for one in crds],
        "schema": _schema_shown(schema),
        "defaults": untrusted(_yaml(veil.values(defaults, schema=schema)), f"values.yaml of {archive.name} {archive.version}"),
    }
    if isinstance(rendered, str):
        found["problems"] = lint or [{"path": None, "message": rendered}]
        if asked_values is None:
            found["images"], found["note"] = [], "its defaults do not render by themselves: give values to see images and objects"
    else:
        found["images"] = images_of(rendered)
        found["objects"] = [one.key.address for one in rendered if one.hook is None][:SHOWN]
        found["hooks"] = [diff.hook_row(one) for one in rendered if one.hook is not None][:SHOWN]
        if asked_values is not None:
            found["problems"] = lint
            shown = "---\n".join(_yaml(veil.manifest(one)) for one in rendered)
            found["rendered"] = untrusted(shown, f"{archive.name} {archive.version} with the given values")
    return _hidden(found, veil)


def images_of(manifests: Iterable[Manifest]) -> list[str]:
    """Every image that a container of these would run."""
    found: set[str] = set()
    level: list[Any] = [one.body for one in manifests]
    while level:
        part = level.pop()
        if isinstance(part, Mapping):
            for key, value in part.items():
                if key in ("containers", "initContainers", "ephemeralContainers") and isinstance(value, list):
                    found |= {clean_line(str(c["image"])) for c in value if isinstance(c, Mapping) and isinstance(c.get("image"), str)}
                level.append(value)
        elif isinstance(part, list):
            level += part
    return sorted(found)


async def _rendered(work: ChartWork, archive: Archive, values: object, veil: Veil, *, namespace: str) -> tuple[Manifest, ...] | str:
    """What the chart renders to without a cluster, or why it does not."""
    path = str(archive.written(work.folder))
    try:
        out = await work.helm.run(["template", "example", path, "-n", namespace, "-f", "-"], json.dumps(values).encode())
    except Failed as failed:
        said = classify(failed.errors)
        return veil.redactor.line(said.said.replace(f"{work.folder}/", ""), 1000)
    try:
        return await asyncio.to_thread(parse, out.decode(errors="replace"), namespace=namespace)
    except CountersignError as broken:
        return veil.redactor.line(broken.message, 1000)


async def _linted(work: ChartWork, archive: Archive, values: object, veil: Veil) -> list[dict[str, object]]:
    """What `helm lint` finds with these values, by path of the value where it is one."""
    path = str(archive.written(work.folder))
    try:
        await work.helm.run(["lint", path, "--quiet", "-f", "-"], json.dumps(values).encode())
    except Failed as failed:  # its findings stand in its output
        return problems(failed.out.decode(errors="replace").replace(f"{work.folder}/", ""), veil)
    return []


def problems(said: str, veil: Veil) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for line in said.splitlines():
        if (by_path := re.search(r"- at '([^']*)': (.*)", line)) is not None:
            path = by_path[1].strip("/").replace("/", ".")
            one: dict[str, object] = {"path": veil.redactor.line(path) or None, "message": veil.redactor.line(by_path[2], 300)}
        elif line.startswith(("[ERROR]", "[WARNING]")) and "values don't meet" not in line:
            one = {"path": None, "message": veil.redactor.line(line, 400)}
        else:
            continue
        if one not in found:
            found.append(one)
    return found[:SHOWN]


# Releases


async def list_releases(asked: Question, around: Surroundings) -> Mapping[str, object]:
    given = asked.arguments
    namespace, status = _text(given.get("namespace")), _text(given.get("status"))
    async with at_work(around, env=asked.env, attempt_id=asked.id, reveal=asked.reveal) as session:
        rows = await _listed(session, namespace)
        found = [_row(row) for row in rows or () if status is None or row["status"] == status]
        working = await _workloads(session, namespace) if found else {}
        for row in found:
            if (one := working.get((str(row["namespace"]), str(row["release_name"])))) is not None:
                row["health"] = str(one)
        found.sort(key=_first)
        locked = {(str(row["namespace"]), str(row["release_name"])) for row in found if row["status"] in (*PENDING, "uninstalling")}
        for place in sorted({place for place, _ in locked}):
            labels = await session.cluster.metadata("Secret", namespace=place, selector="owner=helm")
            for row in found:
                if row["namespace"] == place and (place, row["release_name"]) in locked:
                    row["lock"] = _lock(_revisions(labels, str(row["release_name"])))
        return {"releases": found, "cluster": session.cluster.name, "more": len(rows or ()) >= LISTED}


async def _workloads(session: Session, namespace: str | None) -> dict[tuple[str, str], Health]:
    """(namespace, release) → how its Deployments, StatefulSets and DaemonSets are, in three questions for all; nothing where it may not
    list them."""
    selector = "app.kubernetes.io/managed-by=Helm"
    try:
        found = [
            one
            for kind in ("Deployment", "StatefulSet", "DaemonSet")
            for one in await session.cluster.listed("apps/v1", kind, namespace=namespace, selector=selector)
        ]
    except PermissionDenied:
        return {}
    standings: dict[tuple[str, str], list[Standing]] = {}
    for one in found:
        said = one["metadata"].get("annotations") or {}
        whose = (str(said.get("meta.helm.sh/release-namespace")), str(said.get("meta.helm.sh/release-name")))
        standings.setdefault(whose, []).append(health.standing("", one))
    return {whose: health.worst(every) for whose, every in standings.items()}


def _first(row: Mapping[str, object]) -> tuple[object, ...]:
    """What needs somebody comes first: what failed or hangs, then what does not work."""
    unwell = -list(Health).index(Health(str(row["health"]))) if "health" in row else 0
    return (_RANK.get(str(row["status"]), 1), unwell, str(row["namespace"]), str(row["release_name"]))


_RANK = {**dict.fromkeys(("failed", *PENDING, "uninstalling"), 0), "uninstalled": 2, "superseded": 2}


def _row(row: Mapping[str, Any]) -> dict[str, object]:
    name, _, version = str(row.get("chart", "")).rpartition("-")
    while name and order(version)[0] == 0 and "-" in name:  # a version may hold dashes of its own
        name, _, more = name.rpartition("-")
        version = f"{more}-{version}"
    return {
        "release_name": str(row["name"]),
        "namespace": str(row["namespace"]),
        "status": str(row["status"]),
        "revision": int(row["revision"]),
        "chart": name,
        "chart_version": version,
        "app_version": _line(row.get("app_version")) or None,
        "updated": str(row.get("updated", ""))[:19].replace(" ", "T") + "Z",
    }


def _revisions(metadata: Iterable[Mapping[str, Any]], name: str) -> list[Revision]:
    said = [item.get("labels") or {} for item in metadata]
    return [
        Revision(number=int(s["version"]), status=str(s["status"]), run=s.get(LABEL))
        for s in said
        if s.get("name") == name and str(s.get("version")).isdigit()
    ]


def _lock(history: Sequence[Revision]) -> dict[str, object] | None:
    """The status that keeps others out, and whose it is as far as a label tells."""
    last = newest(history)
    if last is None or not (last.pending or last.status == "uninstalling"):
        return None
    return {"status": last.status, "revision": last.number, "run": last.run}


async def get_release(asked: Question, around: Surroundings) -> Mapping[str, object]:
    given = asked.arguments
    include = set(given.get("include") or ())  # type: ignore[call-overload]  # a list of words: the door saw to it
    name, namespace = str(given["release_name"]), _text(given.get("namespace"))
    revision = int(str(given["revision"])) if given.get("revision") is not None else None
    async with at_work(around, env=asked.env, attempt_id=asked.id, reveal=asked.reveal) as session:
        release = Release(namespace=namespace or await _only_place(session, name), name=name)
        history = await session.history(release)
        if not history:
            raise NotFound(
                f"no release {release} in this environment's cluster", field="release_name", next=["helm_list_releases", "helm_deploy"]
            )
        if revision is not None and revision not in {one.number for one in history}:
            kept = ", ".join(str(one.number) for one in history[-20:])
            raise InvalidArgument(f"{release} has no revision {revision}; it keeps {kept}", field="revision")
        chosen = revision or max(one.number for one in history)
        where = [release.name, "-n", release.namespace, "--revision", str(chosen)]
        status = await session.asked(["status", *where])
        rows = await session.asked(["history", release.name, "-n", release.namespace, "--max", "256"])
        objects = await session.parsed(str(status.get("manifest") or ""), release.namespace)
        current = deployed(history)
        standing_objects = objects if current is None or current.number == chosen else await session.manifest(release, current.number)
        every_object = (*objects, *standing_objects)  # health and drift tell of those that are deployed, whatever was chosen
        veil = await _veil(asked, session, release, status, every_object, where if "values" in include else None)
        found = {
            **_head(release, session, chosen, rows, history, status, veil),
            **await _health(session, standing_objects, status, veil),
        }
        if "history" in include:
            found["history"] = [_past(row, history, veil) for row in reversed(rows)][:SHOWN]
        if "values" in include:
            schema = await _schema_of(session, where)
            paths = [path for path, _ in sealed_paths(await _values_asked(asked, session, release) or {})]
            found["values"] = veil.values(status.get("config") or {}, schema=schema, paths=paths)
        if "manifest" in include:
            every = (*objects, *await session.parsed(hooks_of(status), release.namespace))
            text = "---\n".join(f"# {one.source}\n{_yaml(veil.manifest(one))}" for one in every)
            found["manifest"] = untrusted(text, f"manifest of {release}, revision {chosen}")
        if "notes" in include:
            found["notes"] = untrusted(veil.text(str(status.get("info", {}).get("notes") or "")), f"notes of {release}")
        if "drift" in include:
            found["drift"] = await drift_of(session, release, history) if current is not None else None
            veil = Veil(around.fingerprints, session.redactor.secrets, scope=str(release))
        return _hidden(found, veil)


async def _listed(session: Session, namespace: str | None, *more: str) -> Any:
    """What helm lists, in a namespace or in all of them. Raises FailedPrecondition where the credential may not look into all."""
    try:
        return await session.asked(["list", *(["-n", namespace] if namespace else ["-A"]), "--max", str(LISTED), *more])
    except FailedPrecondition as refused:
        if namespace is None and refused.details.get("helm") == Failures.FORBIDDEN:
            raise FailedPrecondition(
                f"the credential of the cluster {session.cluster.name} may not look into all namespaces: name one", field="namespace"
            ) from None
        raise


async def _only_place(session: Session, name: str) -> str:
    """The namespace of the release that is meant. Raises InvalidArgument with the candidates."""
    rows = await _listed(session, None, "--filter", f"^{name.replace('.', '[.]')}$")
    places = sorted({str(row["namespace"]) for row in rows or () if row["name"] == name})
    if len(places) > 1:
        where = ", ".join(f"{place}/{name}" for place in places[:10])
        raise InvalidArgument(f"{name} is the name of several releases: {where}; say which namespace", field="namespace")
    if not places:
        raise NotFound(f"no release {name} in this environment's cluster", field="release_name", next=["helm_list_releases", "helm_deploy"])
    return places[0]


def _head(
    release: Release,
    session: Session,
    chosen: int,
    rows: Sequence[Mapping[str, Any]],
    history: Sequence[Revision],
    status: Mapping[str, Any],
    veil: Veil,
) -> dict[str, object]:
    mine = next((row for row in rows if int(row["revision"]) == chosen), {})
    now = newest(history)
    current = deployed(history)
    as_row = _row({"name": release.name, "namespace": release.namespace, **mine, "status": mine.get("status", ""), "revision": chosen})
    return {
        "lock": _lock(history),
        **as_row,
        "updated": str(mine.get("updated", ""))[:19] + "Z",
        "description": veil.redactor.line(str(mine.get("description", "")), 300),
        "cluster": session.cluster.name,
        "newest_revision": now.number if now else None,
        "deployed_revision": current.number if current else None,
        "run": next((one.run for one in history if one.number == chosen), None),
        "hooks": [
            {"name": str(hook.get("name")), "events": hook.get("events"), "phase": (hook.get("last_run") or {}).get("phase")}
            for hook in status.get("hooks") or ()
        ][:SHOWN],
    }


def _past(row: Mapping[str, Any], history: Sequence[Revision], veil: Veil) -> dict[str, object]:
    number = int(row["revision"])
    return {
        "revision": number,
        "status": row["status"],
        "updated": str(row.get("updated", ""))[:19] + "Z",
        "chart": row.get("chart"),
        "app_version": _line(row.get("app_version")) or None,
        "description": veil.redactor.line(str(row.get("description", "")), 300),
        "run": next((one.run for one in history if one.number == number), None),
    }


async def _health(session: Session, objects: Sequence[Manifest], status: Mapping[str, Any], veil: Veil) -> dict[str, object]:
    live = await session.cluster.get_all(map(named, objects))
    judged = [health.standing(one.key.address, live[named(one)]) for one in objects]
    judged += _pods(status)
    bad = sorted((one for one in judged if one.health is not Health.HEALTHY), key=lambda one: (one.health != Health.MISSING, one.address))
    rows = [{"address": one.address, "health": one.health, "message": veil.redactor.line(one.message, 300)} for one in bad]
    return {"health": health.worst(judged), "unhealthy": rows[:SHOWN], "objects": len(objects)}


def _pods(status: Mapping[str, Any]) -> list[Standing]:
    """Pods that belong to what the release holds, and are stuck: why a Deployment makes no progress stands there."""
    related = (status.get("info") or {}).get("resources") or {}
    found = []
    for group in related.get("v1/Pod(related)") or ():
        for pod in group.get("items") or ():
            metadata = pod.get("metadata") or {}
            one = health.standing(f"Pod/{metadata.get('namespace')}/{metadata.get('name')}", {"apiVersion": "v1", "kind": "Pod", **pod})
            if one.health is Health.DEGRADED:
                found.append(one)
    return found


async def _veil(
    asked: Question,
    session: Session,
    release: Release,
    status: Mapping[str, Any],
    objects: Sequence[Manifest],
    where: Sequence[str] | None,
) -> Veil:
    """Everything that is known to be secret in this release: of its Secrets, its values, and what was sealed when it was asked for."""
    hooks = await session.parsed(hooks_of(status), release.namespace)
    values = status.get("config") or {}
    schema = await _schema_of(session, where) if where is not None else None
    asked_values = await _values_asked(asked, session, release)
    paths = [path for path, _ in sealed_paths(asked_values or {})]
    opened = await _opened(asked_values or {}, asked.reveal)
    secrets = secret_texts((*objects, *hooks), values=values, schema=schema, paths=paths) | opened
    session.hide(secrets)
    return Veil(session.around.fingerprints, session.redactor.secrets, scope=str(release))


async def _values_asked(asked: Question, session: Session, release: Release) -> Mapping[str, object] | None:
    """The values of the newest deploy through this gate, with secrets by their names."""
    request = await asked.asked_for(f"{session.env}/{release.namespace}.{release.name}")
    values = (request or {}).get("values")
    return values if isinstance(values, Mapping) else None


async def _schema_of(session: Session, where: Sequence[str]) -> object:
    """The schema that the release's chart has, which Helm keeps with it."""
    out = await session.run(["get", "all", *where, "--template", '{{ printf "%s" .Release.Chart.Schema }}'])
    try:
        return json.loads(out)
    except ValueError:
        return None


def hooks_of(status: Mapping[str, Any]) -> str:
    return "\n---\n".join(str(hook.get("manifest") or "") for hook in status.get("hooks") or ())


# Drift


async def drift_of(session: Session, release: Release, history: Sequence[Revision]) -> dict[str, object]:
    """What was changed outside of the deployed revision, object by object."""
    current = deployed(history)
    assert current is not None  # whoever asks saw to it
    looked, unasked = await looked_for_drift(session, release, await session.manifest(release, current.number))
    veil = Veil(session.around.fingerprints, session.redactor.secrets, scope=str(release))
    found = diff.drifted(looked)
    plan = diff.drift_of(found, engine_build="helm", veil=veil)
    changed = [one for one in found if one.action != "no-op"]
    return {
        "revision": current.number,
        "in_sync": not changed and not unasked,
        "summary": plan.in_words,
        "risks": list(plan.risks),
        "changes": [_change(one, veil) for one in changed[:SHOWN]],
        "changes_total": len(changed),
        "unchecked": unasked,
    }


def _change(one: diff.Difference, veil: Veil) -> dict[str, object]:
    rows = []
    for leaf in one.told[:20] if one.action == "update" else ():
        before, after = diff.sides(leaf, veil, one.key.address)
        rows.append({"name": veil.redactor.line(leaf.name), "declared": before, "live": after})
    return {"address": one.key.address, "action": "gone" if one.action == "delete" else "changed", "attributes": rows}


async def looked_for_drift(session: Session, release: Release, objects: Sequence[Manifest]) -> tuple[list[Looked], list[dict[str, str]]]:
    """What the cluster has of each object, and what it would have if it were applied again; and what it does not say."""
    live = await session.cluster.get_all(map(named, objects))
    session.hide_live(objects, live)
    there = [one for one in objects if live[named(one)] is not None]
    documents = [owned_by(one.body, release) for one in there]
    # By force: a field that somebody else took over is what is looked for.
    room = asyncio.Semaphore(AT_ONCE)

    async def predicted_of(document: Mapping[str, Any]) -> dict[str, Any] | Refusal:
        async with room:
            return await session.cluster.predicted(document, namespace=release.namespace, force=True)

    answers = await asyncio.gather(*map(predicted_of, documents))
    predicted = {one.key: said for one, said in zip(there, answers, strict=True)}
    looked, unasked = [], []
    for one in objects:
        said = predicted.get(one.key)
        if isinstance(said, Refusal):
            unasked.append({"address": one.key.address, "why": session.redactor.line(said.message, 300)})
        else:
            looked.append(Looked(manifest=one, live=live[named(one)], predicted=said))
    return looked, unasked


# What all share


@asynccontextmanager
async def _at_charts(asked: Question, around: Surroundings) -> AsyncIterator[ChartWork]:
    """A private folder, and helm without a cluster."""
    place = around.work_root / asked.id
    try:
        await asyncio.to_thread(place.mkdir, mode=0o700, parents=True, exist_ok=True)
        environment = environment_of(place / "home", attempt=asked.id, search_path=around.search_path, passed=around.passed)
        helm = HelmCommand(executable=around.helm(), folder=place, environment=environment)
        yield ChartWork(attempt_id=asked.id, folder=place, helm=helm, reveal=asked.reveal)
    finally:
        await asyncio.to_thread(end_marked, asked.id)
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


def _stood_for(values: object) -> tuple[Any, frozenset[str]]:
    """Values with something in the place of each sealed secret. Looking opens none: templates cut and turn what they get, and what comes of
    that nobody could recognise and hide."""
    if not isinstance(values, Mapping):
        return {}, frozenset()
    standing = {slug: f"sealed-{slug}-{'0' * 16}" for _, slug in secrets_named(values)}
    return with_secrets(dict(values), standing.__getitem__), frozenset(standing.values())


async def _opened(values: Mapping[str, object], reveal: Reveal) -> frozenset[str]:
    """What the sealed secrets of these values open to, to be hidden; one that is gone by now hides nothing."""
    opened: set[str] = set()
    for slug in dict.fromkeys(slug for _, slug in secrets_named(values)):
        with contextlib.suppress(CountersignError):
            opened.add(await reveal(slug))
    return frozenset(opened)


def _schema(files: Mapping[str, bytes]) -> object:
    try:
        return json.loads(files.get("values.schema.json", b"null"))
    except ValueError:
        raise FailedPrecondition("values.schema.json of the chart is no JSON; mend the chart", field="chart") from None


def _schema_shown(schema: object) -> object:
    if schema is None:
        return None
    text = json.dumps(schema)
    return schema if len(text) <= SCHEMA else untrusted(json.dumps(schema, indent=1)[:SCHEMA], "values.schema.json", whole=len(text))


def untrusted(text: str, source: str, *, whole: int | None = None) -> dict[str, object]:
    """A text of somebody else's, as the catalogue wants it labelled."""
    found: dict[str, object] = {"text": text[:TEXT], "source": source, "untrusted": True}
    if len(text) > TEXT or whole:
        found["truncated"] = f"{whole or len(text)} characters in all"
    return found


def _yaml(value: object) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def _hidden(found: Mapping[str, object], veil: Veil) -> dict[str, object]:
    """Once more over everything: a secret may be part of an image's name, or of an object's."""

    def hide(value: object) -> object:
        if isinstance(value, str):
            return veil.redactor.text(value)
        if isinstance(value, Mapping):
            return {str(key): hide(item) for key, item in value.items()}
        return [hide(item) for item in value] if isinstance(value, list | tuple) else value

    return {key: hide(value) for key, value in found.items()}


def _text(value: object) -> str | None:
    return str(value) if value is not None else None


def _line(value: object) -> str | None:
    return cut(clean_line(str(value)), 200) if value is not None else None
