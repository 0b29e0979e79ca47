"""Stacks as records: what somebody registered, versioned, found by path or id.

The id (`st_…`) is made once and never changes: state address, artifacts and encryption hang on it. The path `org/env/slug`
is a name. Registering again is a merge: what is not given stays as it is.
"""

import json
import re
import secrets as random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.store import audit, statements
from countersign.adapters.store.database import Store, moment, stamp
from countersign.adapters.store.schema import attempts, records, runs, states
from countersign.core import ids
from countersign.core.durations import duration
from countersign.core.engine import Release, StackConfig
from countersign.core.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound
from countersign.core.principal import Principal
from countersign.core.repository import check_folder, check_ref
from countersign.core.terraform.versions import asked

KIND = "stack"
RELEASE = "release"  # Helm's: a stack like any other to runs, and none to whoever works on configurations
ENGINES = ("terraform", "tofu")
SOURCE_PATH = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,7}\Z")
DRIFT_AT_MOST = timedelta(minutes=1)

# Given for a field to leave it as it is; None clears it.
KEEP: Any = object()

# Where a state is kept that was moved, or never came: it is here from elsewhere, went there, or stays in the backend that the
# configuration declares and is worked on there.
HERE, AWAY, OWN = "here", "away", "own"


@dataclass(frozen=True, kw_only=True)
class StackRow:
    id: str
    org: str
    path: str  # "org/env/slug"
    version: int
    body: Mapping[str, Any]  # env, slug, source{repo, path, git_ref}, engine, version, vars, credentials, reads, drift_every, state
    created_at: datetime
    updated_at: datetime

    @property
    def env(self) -> str:
        """ "org/env" """
        return f"{self.org}/{self.body['env']}"

    @property
    def slug(self) -> str:
        return str(self.body["slug"])

    @property
    def release(self) -> Release | None:
        named = self.body.get("release")
        return Release(namespace=str(named["namespace"]), name=str(named["name"])) if named else None

    @property
    def config(self) -> StackConfig:
        source = self.body["source"]
        return StackConfig(
            org=self.org,
            stack_id=self.id,
            path=self.path,
            env=self.env,
            source_repo=source.get("repo"),
            source_path=source["path"],
            git_ref=source.get("git_ref"),
            engine=self.body["engine"],
            version=self.body.get("version"),
            vars=self.body.get("vars") or {},
            plan_credential=self.body.get("plan_credential"),
            apply_credential=self.body.get("apply_credential"),
            reads=tuple(self.body.get("reads") or ()),
            release=self.release,
            adopted=self.custody.get("kept") == HERE,
            released=self.custody.get("kept") == AWAY,
            own=self.custody.get("kept") == OWN,
        )

    @property
    def custody(self) -> Mapping[str, Any]:
        """Where its state is kept, if it was ever moved; as `store.custody` wrote it."""
        return self.body.get("state") or {}


@dataclass(frozen=True, kw_only=True)
class Registered:
    row: StackRow
    created: bool
    changed: Mapping[str, tuple[Any, Any]]  # field: (before, after)


def _stack(row: Row[Any]) -> StackRow:
    return StackRow(
        id=row.id,
        org=row.org_id,
        path=row.path,
        version=row.version,
        body=json.loads(row.body),
        created_at=moment(row.created_at),
        updated_at=moment(row.updated_at),
    )


def _live(org: str) -> Any:
    return (records.c.org_id == org) & (records.c.kind == KIND) & (records.c.deleted_at.is_(None))


async def get_stack(conn: AsyncConnection, org: str, ref: str) -> StackRow:
    """By "org/env/slug" or "env/slug", or by id, which may be a release's. Raises NotFound."""
    path = ref if ref.count("/") == 2 else f"{org}/{ref}"
    named: dict[str, Any] = {"id": ref} if ref.startswith("st_") else {"path": path, "kind": KIND}
    row = await statements.first(conn, records, org_id=org, deleted_at=None, **named)
    if row is None:
        raise NotFound(
            f"no workspace {ref}; `terraform_list_workspaces` tells which there are", field="workspace", next=["terraform_list_workspaces"]
        )
    return _stack(row)


async def find(conn: AsyncConnection, org: str, ref: str) -> StackRow:
    """A stack or a release by id or path: whatever runs are about. Raises NotFound."""
    path = ref if ref.count("/") == 2 else f"{org}/{ref}"
    named: dict[str, Any] = {"id": ref} if ref.startswith("st_") else {"path": path}
    row = await statements.first(conn, records, org_id=org, deleted_at=None, **named)
    if row is None:
        raise NotFound(f"no workspace or release {ref}; `run_list` tells what there are runs on", next=["run_list"])
    return _stack(row)


async def list_stacks(
    conn: AsyncConnection, org: str, *, env: str | None = None, text: str | None = None, offset: int = 0, limit: int = 20
) -> tuple[list[StackRow], int]:
    """One page in order of path, and how many there are in all. `env` is "org/env" or "env"; `text` is found in the path."""
    query = select(records).where(_live(org))
    if env:
        query = query.where(records.c.path.startswith(f"{org}/{env.rsplit('/', 1)[-1]}/", autoescape=True))
    if text:
        query = query.where(records.c.path.contains(text, autoescape=True))
    total = (await conn.execute(select(func.count()).select_from(query.subquery()))).scalar_one()
    rows = await conn.execute(query.order_by(records.c.path).offset(offset).limit(limit))
    return [_stack(row) for row in rows], int(total)


async def releases_of(conn: AsyncConnection, org: str, env: str, *, name: str | None = None) -> list[StackRow]:
    """Releases that runs were asked for in the environment "org/env", in order of path; or those of one name."""
    mine = (records.c.org_id == org) & (records.c.kind == RELEASE) & records.c.deleted_at.is_(None)
    below = records.c.path.startswith(f"{env}/", autoescape=True)
    rows = map(_stack, await conn.execute(select(records).where(mine, below).order_by(records.c.path)))
    return [row for row in rows if name is None or (row.release is not None and row.release.name == name)]


async def register_release(store: Store, *, env: str, release: Release, by: Principal) -> StackRow:
    """The record of a release in the environment "org/env", made with the first run that is asked for on it.

    Its slug is `namespace.name`: a namespace has no dot, and no slug of a configuration has one.
    """
    org, _, slug_of_env = env.partition("/")
    slug = f"{release.namespace}.{release.name}"
    path = f"{env}/{slug}"
    async with store.begin() as tx:
        row = await statements.first(tx, records, org_id=org, kind=RELEASE, deleted_at=None, path=path)
        if row is not None:
            return _stack(row)
        now = stamp(store.now())
        body = {
            "env": slug_of_env,
            "slug": slug,
            "engine": "helm",
            "source": {"path": slug},
            "release": {"namespace": release.namespace, "name": release.name},
        }
        made = StackRow(
            id=ids.derive("st", org, path, random.token_hex(16)),
            org=org,
            path=path,
            version=1,
            body=body,
            created_at=moment(now),
            updated_at=moment(now),
        )
        await _write(tx, made, created=True, now=now, kind=RELEASE)
        await audit.append(tx, org=org, at=now, action="helm_register_release", by=by, target=path, version=1)
        return made


async def stacks_with_drift(conn: AsyncConnection, org: str) -> list[StackRow]:
    """Those that are to be looked at for drift, every so often."""
    rows = await conn.execute(select(records).where(_live(org), records.c.body.contains('"drift_every": "')).order_by(records.c.path))
    return [stack for stack in map(_stack, rows) if stack.body.get("drift_every")]


async def register_stack(
    store: Store,
    *,
    org: str,
    env: str,
    slug: str,
    by: Principal,
    source: Mapping[str, str | None] = KEEP,
    engine: str = KEEP,
    version: str | None = KEEP,
    vars: Mapping[str, Any] | None = KEEP,
    plan_credential: str | None = KEEP,
    apply_credential: str | None = KEEP,
    reads: Sequence[str] | None = KEEP,
    drift_every: str | None = KEEP,
    expected_version: int | None = None,
    dry_run: bool = False,
) -> Registered:
    """Create or change the stack `org/env/slug` (`env` without the organization); with `dry_run` only tell what would change.

    Raises InvalidArgument naming the field, Conflict where the record moved or its state would, NotFound for unknown `reads`.
    """
    given = {
        "source": source,
        "engine": engine,
        "version": version,
        "vars": vars,
        "plan_credential": plan_credential,
        "apply_credential": apply_credential,
        "reads": list(reads) if reads is not KEEP and reads is not None else reads,
        "drift_every": drift_every,
    }
    patch = {name: value for name, value in given.items() if value is not KEEP}
    _check(slug, patch)
    path = f"{org}/{env}/{slug}"
    async with store.begin() as tx:
        row = (await tx.execute(select(records).where(_live(org), records.c.path == path))).first()
        before = _stack(row) if row else None
        if expected_version is not None and expected_version != (before.version if before else 0):
            there = before.version if before else 0
            raise Conflict(
                f"{path} is at version {there}, you expected {expected_version}; look again and decide on that",
                field="expected_version",
                details={"expected": expected_version, "current": there},
            )
        old: dict[str, Any] = dict(before.body) if before else {"env": env, "slug": slug, "engine": "terraform", "vars": {}, "reads": []}
        new = {**old, **patch}
        if "source" not in new:
            raise InvalidArgument(f"{path} is not registered yet, so it needs its source: {{path: …}}", field="source")
        await _check_reads(tx, org, path, new.get("reads") or [])
        if before is not None and new["engine"] != old["engine"] and await _has_state(tx, org, before.id):
            raise Conflict(f"{path} has state written by {old['engine']}; another engine would move it", field="engine")
        changed = {name: (old.get(name), new[name]) for name in new if before is None or old.get(name) != new[name]}
        now = stamp(store.now())
        version_now = (before.version if before else 0) + (1 if changed else 0)
        result = StackRow(
            id=before.id if before else ids.derive("st", org, path, random.token_hex(16)),
            org=org,
            path=path,
            version=version_now,
            body=new,
            created_at=before.created_at if before else moment(now),
            updated_at=moment(now) if changed or before is None else before.updated_at,
        )
        if changed and not dry_run:
            await _write(tx, result, created=before is None, now=now)
            await audit.append(
                tx,
                org=org,
                at=now,
                action="terraform_register_workspace",
                by=by,
                target=path,
                version=version_now,
                fields=" ".join(sorted(changed)),
            )
    return Registered(row=result, created=before is None, changed=changed)


async def forget_stack(
    store: Store,
    *,
    org: str,
    ref: str,
    by: Principal,
    expected_version: int | None = None,
    seen_seq: int | None = None,
    dry_run: bool = False,
) -> StackRow:
    """Remove the record of a stack. `seen_seq` is the state snapshot the caller found empty (None: there was no state).

    Raises NotFound, Conflict, FailedPrecondition where runs are open or the state moved since.
    """
    async with store.begin() as tx:
        stack = await get_stack(tx, org, ref)
        if expected_version is not None and expected_version != stack.version:
            raise Conflict(
                f"{stack.path} is at version {stack.version}, you expected {expected_version}",
                field="expected_version",
                details={"expected": expected_version, "current": stack.version},
            )
        open_run = (
            await tx.execute(select(runs.c.id).where(runs.c.org_id == org, runs.c.stack_id == stack.id, runs.c.ended_at.is_(None)).limit(1))
        ).first()
        open_attempt = (
            await tx.execute(
                select(attempts.c.run_id)
                .where(attempts.c.org_id == org, attempts.c.stack_id == stack.id, attempts.c.closed_at.is_(None))
                .limit(1)
            )
        ).first()
        if (busy := open_run or open_attempt) is not None:
            raise FailedPrecondition(
                f"{stack.path} has an open run, {busy[0]}; let it end or cancel it first", next=["run_get", "run_cancel"]
            )
        if reader := await _reader_of(tx, stack):
            raise FailedPrecondition(
                f"{reader} reads the outputs of {stack.path}; change its reads, or forget it first", next=["terraform_register_workspace"]
            )
        head = (
            await tx.execute(
                select(states.c.seq, states.c.sha256).where(states.c.org_id == org, states.c.stack_id == stack.id).with_for_update()
            )
        ).first()
        if head is not None and head.sha256 is not None and head.seq != seen_seq:
            raise FailedPrecondition(f"the state of {stack.path} is not empty; destroy what it holds first", next=["destroy_terraform"])
        if not dry_run:
            now = stamp(store.now())
            mine = (records.c.org_id == org) & (records.c.kind == KIND) & (records.c.id == stack.id)
            await tx.execute(update(records).where(mine).values(deleted_at=now, updated_at=now))
            await audit.append(tx, org=org, at=now, action="terraform_forget_workspace", by=by, target=stack.path, version=stack.version)
        return stack


async def config_of(conn: AsyncConnection, org: str, stack_id: str) -> StackConfig | None:
    """The record as it is now, also of a stack that was forgotten; None where there never was one."""
    row = await statements.first(conn, records, org_id=org, id=stack_id)
    return _stack(row).config if row is not None else None


def why_released(stack: StackConfig) -> str:
    path = stack.path.partition("/")[2]
    return f"the state of {stack.path} was given back, and is kept elsewhere; take it over again first: countersign stack adopt {path}"


async def note_custody(tx: AsyncConnection, row: StackRow, custody: Mapping[str, Any], *, now: datetime) -> StackRow:
    """Write down where the state of `row`, as it was read in this transaction, is kept from now on."""
    noted = replace(row, body={**row.body, "state": dict(custody)}, version=row.version + 1, updated_at=now)
    await _write(tx, noted, created=False, now=stamp(now))
    return noted


async def _write(tx: AsyncConnection, row: StackRow, *, created: bool, now: str, kind: str = KIND) -> None:
    values = {"version": row.version, "body": json.dumps(dict(row.body), ensure_ascii=False), "updated_at": now}
    if created:
        await tx.execute(records.insert().values(org_id=row.org, kind=kind, id=row.id, path=row.path, created_at=now, **values))
        return
    mine = (records.c.org_id == row.org) & (records.c.kind == KIND) & (records.c.id == row.id)
    await tx.execute(update(records).where(mine).values(**values))


async def _has_state(tx: AsyncConnection, org: str, stack_id: str) -> bool:
    query = select(states.c.sha256).where(states.c.org_id == org, states.c.stack_id == stack_id)
    row = (await tx.execute(query)).first()
    return row is not None and row.sha256 is not None


async def _reader_of(tx: AsyncConnection, stack: StackRow) -> str | None:
    """A stack that reads the outputs of this one, or None."""
    names = {stack.id, stack.path, stack.path.partition("/")[2]}
    reading = select(records).where(_live(stack.org), records.c.body.contains('"reads": ["')).order_by(records.c.path)
    return next((other.path for other in map(_stack, await tx.execute(reading)) if names & set(other.config.reads)), None)


async def _check_reads(tx: AsyncConnection, org: str, path: str, reads: Sequence[str]) -> None:
    for ref in reads:
        try:
            other = await get_stack(tx, org, ref)
        except NotFound:
            raise InvalidArgument(
                f"reads names {ref}, which is not registered", field="reads", next=["terraform_list_workspaces"]
            ) from None
        if other.path == path:
            raise InvalidArgument(f"{path} cannot read its own outputs", field="reads")


def _check(slug: str, patch: Mapping[str, Any]) -> None:
    if not ids.SLUG.match(slug):
        raise InvalidArgument(f"{slug!r} is no slug: lower case letters, digits and -, beginning with a letter", field="workspace")
    if "engine" in patch and patch["engine"] not in ENGINES:
        raise InvalidArgument(f"the engine is one of {', '.join(ENGINES)}", field="engine")
    if patch.get("version") is not None:
        asked(str(patch["version"]))
    if "source" in patch:
        source = patch["source"]
        if not isinstance(source, Mapping) or not source.get("path"):
            raise InvalidArgument("a source needs its path", field="source.path")
        if source.get("repo"):
            check_ref(source.get("git_ref"))
            check_folder(str(source["path"]))
        elif not SOURCE_PATH.match(str(source["path"])):
            raise InvalidArgument("a source's path is names joined by /, below the folder of stacks, without ..", field="source.path")
    if patch.get("drift_every") is not None and duration(str(patch["drift_every"]), field="drift_every") < DRIFT_AT_MOST:
        raise InvalidArgument("drift is looked for once a minute at most: a check takes as long as a plan", field="drift_every")
    for name in ("plan_credential", "apply_credential"):
        value = patch.get(name)
        if value is not None and not ids.SLUG.match(str(value)):
            raise InvalidArgument("a credential is the slug of a sealed secret (`countersign secret set`)", field=name)
