"""Making a backup, and proving one: every digest, the audit chain, and that the keys open what is sealed."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from countersign import __version__
from countersign.adapters import backup as backups
from countersign.adapters.artifacts import Artifacts
from countersign.adapters.backup import Manifest, Source
from countersign.adapters.keyring import Keyring
from countersign.adapters.settings import Settings
from countersign.adapters.store import audit
from countersign.adapters.store.database import Store
from countersign.cli.exits import Exit
from countersign.cli.output import console, emit, safe
from countersign.cli.schema import versions
from countersign.cli.session import local_person
from countersign.core.errors import FailedPrecondition, InvalidArgument


async def backup(settings: Settings, file: Path, *, keys: Path | None, without_keys: bool, as_json: bool) -> Exit:
    if keys is not None and without_keys:
        raise InvalidArgument("--keys and --without-keys exclude each other", field="keys")
    _only_sqlite(settings)
    now = datetime.now(UTC)
    target = _target(file, now)
    where = "elsewhere" if keys is not None else "none" if without_keys else "inside"
    lie = "inside" if settings.artifacts is None else "elsewhere"
    work = {"keys": where, "keys_file": _absolute(keys), "artifacts": lie, "by": local_person().id, "version": __version__, "now": now}
    manifest = await asyncio.to_thread(lambda: backups.make(Source(data=settings.data), target, **work))  # type: ignore[arg-type]
    _tell(target, manifest, keys, as_json=as_json, verb="is written")
    return Exit.FAILED if manifest.missing else Exit.OK


def _target(file: Path, now: datetime) -> Path:
    path = file.expanduser().absolute()
    return path / f"countersign-{now:%Y%m%dT%H%M%SZ}.tar" if path.is_dir() else path


def _absolute(path: Path | None) -> Path | None:
    return path.expanduser().absolute() if path is not None else None


def _only_sqlite(settings: Settings) -> None:
    if settings.database is not None and not settings.database.startswith("sqlite"):
        raise FailedPrecondition(
            "the store is in a database of your own: dump it with its own tool first (pg_dump --format=custom --file=store.dump DATABASE), "
            "then copy artifacts/ and keys/ of the data folder, in this order; after pg_restore, run `countersign restore --in-place`",
            field="database",
        )


def _tell(target: Path, manifest: Manifest, keys: Path | None, *, as_json: bool, verb: str) -> None:
    size = sum(member.size for member in manifest.files.values())
    artifacts = sum(name.startswith(backups.ARTIFACTS) for name in manifest.files)
    if as_json:
        emit(
            {
                "file": str(target),
                "made_at": manifest.made_at,
                "version": manifest.version,
                "schema": manifest.schema_revision,
                "keys": manifest.keys,
                "artifacts": artifacts,
                "bytes": size,
                "missing": list(manifest.missing),
                "states": [head.model_dump() for head in manifest.heads],
            }
        )
        return
    out = console()
    out.print(
        safe(f"{target} {verb}: {len(manifest.heads)} states, {artifacts} artifacts, {size} bytes, schema {manifest.schema_revision}")
    )
    if manifest.keys == "inside":
        out.print(safe("The keys are in it: who has this file can open every secret. Keep it like one, or use --keys FILE.", "yellow"))
    elif manifest.keys == "none":
        out.print(safe("No keys are in it. Without keys/ of this data folder nobody can open it.", "yellow"))
    elif keys is not None:
        out.print(safe(f"The keys are in {keys}: keep them in another place than the backup."))
    if manifest.artifacts != "inside":
        out.print(safe("Artifacts lie in a bucket and are not in it: let the bucket keep versions, and back it up after this.", "yellow"))
    if manifest.missing:
        more = f" and {len(manifest.missing) - 3} more" if len(manifest.missing) > 3 else ""
        lost = ", ".join(manifest.missing[:3]) + more
        out.print(safe(f"The data folder itself lacks what its store names: {lost}. Look for it in an earlier backup.", "red"))


async def verify(settings: Settings, file: Path, *, keys: Path | None, as_json: bool) -> Exit:
    target = _absolute(file)
    assert target is not None
    manifest = await asyncio.to_thread(backups.verified, target)
    checks_revision(manifest)
    with tempfile.TemporaryDirectory(prefix=".countersign-", dir=target.parent) as folder:
        stage = Path(folder)
        await asyncio.to_thread(backups.extract, target, manifest, stage)
        opens = has_keys = provide_keys(stage, manifest, keys)
        async with staged(stage) as store:
            await proven(store)
            if has_keys:
                opens = await opened_all(store, stage, manifest)
    _tell(target, manifest, None, as_json=as_json, verb="is whole" + ("" if opens else ", as far as can be told without keys"))
    return Exit.FAILED if manifest.missing else Exit.OK


def checks_revision(manifest: Manifest) -> None:
    if manifest.schema_revision not in versions():
        raise FailedPrecondition(
            f"this backup has the schema {manifest.schema_revision} of Countersign {manifest.version}, which is newer than this version; "
            "use that one"
        )


def provide_keys(stage: Path, manifest: Manifest, keys: Path | None) -> bool:
    """Put the keys where a keyring looks; whether there are any."""
    if keys is not None:
        folder = stage / "keys"
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, data in backups.keys_in(keys.expanduser()).items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(data)
        return True
    return manifest.keys == "inside"


@contextlib.asynccontextmanager
async def staged(stage: Path) -> AsyncIterator[Store]:
    """The store of a backup that was put into this folder, brought to the schema of this version."""
    store = await Store.open(f"sqlite+aiosqlite:///{stage / backups.STORE}")
    try:
        yield store
    finally:
        await store.close()


async def proven(store: Store) -> None:
    """Raises FailedPrecondition where the audit chain does not hold."""
    async with store.read() as conn:
        for org in await audit.organizations(conn):
            if (seq := await audit.first_broken(conn, org)) is not None:
                raise FailedPrecondition(f"the audit chain of {org} is broken at row {seq}: this backup was changed; use another one")


async def opened_all(store: Store, stage: Path, manifest: Manifest) -> bool:
    """Open every artifact that store and backup have. Raises FailedPrecondition where the keys do not, or the bytes are others."""
    if manifest.artifacts != "inside":
        return True
    kept = Artifacts(store, Keyring.open(stage, role="state"), stage / "artifacts")
    gone = {name.rpartition("/")[2] for name in manifest.missing}
    async with store.read() as conn:
        for org, artifact_id in await kept.held(conn):
            if artifact_id not in gone:
                await kept.read(conn, org=org, artifact_id=artifact_id)
    return True
