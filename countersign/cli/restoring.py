"""Bringing a data folder back: everything is staged and proven first, and the store takes its place last.

From the first change to the last a marker lies in the folder, and nothing starts on a folder with a marker: a restore that was
cut short is done again, from the beginning, with the same command.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from countersign.adapters import backup as backups
from countersign.adapters.artifacts import Artifacts
from countersign.adapters.backup import Manifest
from countersign.adapters.durable import on_disk
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import place_of
from countersign.adapters.restored import Restored, Told
from countersign.adapters.settings import Settings
from countersign.adapters.store.database import Store
from countersign.adapters.store.keys import list_keys
from countersign.adapters.terraform.left import left_behind
from countersign.cli.backing_up import checks_revision, opened_all, proven, provide_keys, staged
from countersign.cli.exits import Exit
from countersign.cli.ground import Ground, prepare_folder, processes_of
from countersign.cli.output import console, emit, safe, safe_block
from countersign.cli.schema import MARKER, locked
from countersign.cli.session import local_person
from countersign.core.errors import FailedPrecondition, InvalidArgument, Unavailable
from countersign.core.redaction import Redactor

ASIDE = "before-restore-"
RINGS = ("artifacts.json", "secrets.json", "mac.json", "requests.json")


@dataclass(frozen=True, kw_only=True)
class Asked:
    file: Path | None
    keys: Path | None
    replace: bool
    in_place: bool
    nothing_since: str | None


async def restore(settings: Settings, asked: Asked, *, as_json: bool) -> Exit:
    if asked.in_place == (asked.file is not None):
        raise InvalidArgument("name the backup, or say --in-place where the store is back already", field="file")
    if asked.nothing_since is not None and not asked.nothing_since.strip():
        raise InvalidArgument("say how you know that nothing was applied since", field="nothing_since")
    os.umask(0o077)
    prepare_folder(settings.data)
    with Ground(settings.data):
        _nobody_there(settings.data)
        if asked.file is None:
            told, aside, made_at = await _in_place(settings, asked), None, "another hand's copy"
        else:
            told, aside, made_at = await _from_file(settings, asked.file.expanduser().absolute(), asked)
        async with locked(settings.data):
            store = await Store.open(settings.database_url)
        try:
            async with store.read() as conn:
                now, orgs = store.now(), [one.slug for one in settings.organizations]
                live = sum([key.live(now) for org in orgs for key in await list_keys(conn, org)])
        finally:
            await store.close()
    _tell(settings, told, aside, made_at, live, held=asked.nothing_since is None, as_json=as_json)
    return Exit.NEEDS_OPERATOR if any(one.doubts for one in told) else Exit.OK


def _nobody_there(data: Path) -> None:
    if alive := processes_of(data):
        listed = "; ".join(f"{pid}: {words[:80]}" for pid, words in alive[:5])
        raise FailedPrecondition(
            f"something still works on {data} ({listed}). Stop the service, and let an apply that goes on end, or end it by hand: what it "
            "does would be unknown to the store that comes back"
        )


async def _in_place(settings: Settings, asked: Asked) -> list[Told]:
    async with locked(settings.data):
        store = await Store.open(settings.database_url)
    try:
        artifacts = Artifacts(store, Keyring.open(settings.data, role="state"), place_of(settings))
        return await _settled(settings, store, artifacts, asked, "unknown age")
    finally:
        await store.close()


async def _from_file(settings: Settings, file: Path, asked: Asked) -> tuple[list[Told], Path | None, str]:
    if settings.database is not None and not settings.database.startswith("sqlite"):
        raise FailedPrecondition(
            "this backup is of a SQLite store, and the settings name another database; take `database` out of them", field="database"
        )
    manifest = await asyncio.to_thread(backups.verified, file)
    checks_revision(manifest)
    if (settings.artifacts is not None) != (manifest.artifacts == "elsewhere"):
        where = "a bucket" if manifest.artifacts == "elsewhere" else "the data folder"
        raise FailedPrecondition(
            f"the artifacts of this backup lie in {where}; set `artifacts` in countersign.toml as it was then", field="artifacts"
        )
    data = settings.data
    used = _in_use(data)
    if used and not asked.replace:
        raise FailedPrecondition(
            f"{data} is in use: it has {', '.join(used)}. Restore into a new folder (--data), or add --replace: what is replaced is put "
            f"aside there, and attempts and artifacts stay as evidence",
            field="replace",
        )
    stage = data / f".restoring-{os.getpid()}"
    _cleared(data)
    stage.mkdir(mode=0o700)
    try:
        await asyncio.to_thread(backups.extract, file, manifest, stage)
        await _keys_staged(stage, manifest, asked.keys, data)
        async with staged(stage) as store:
            await proven(store)
            await opened_all(store, stage, manifest)
        told, aside = await _put_in_place(settings, stage, manifest, asked)
    except OSError as broken:
        raise Unavailable(f"the data folder does not take it ({broken.strerror}); make room, then run the same command again") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return told, aside, manifest.made_at


def _in_use(data: Path) -> list[str]:
    if (data / MARKER).exists():
        return []  # a restore that was cut short
    there = ("countersign.db", "artifacts", "attempts", "keys")
    return [name for name in there if (data / name).is_file() or ((data / name).is_dir() and any((data / name).iterdir()))]


def _cleared(data: Path) -> None:
    for left in data.glob(".restoring-*"):
        shutil.rmtree(left, ignore_errors=True)


async def _keys_staged(stage: Path, manifest: Manifest, keys: Path | None, data: Path) -> None:
    """Keys from the backup or the named file over those of the folder; a ring keeps what either has."""
    given = provide_keys(stage, manifest, keys)
    here = data / "keys"
    if not given and not any(here.glob("*.json")):
        raise FailedPrecondition(
            "there are no keys in this backup: name the file they are in with --keys, or put keys/ of the lost data folder into "
            f"{here} first. Without them artifacts and secrets cannot be opened (docs/recovery.md says what can still be done)",
            field="keys",
        )
    (stage / "keys").mkdir(mode=0o700, exist_ok=True)
    for file in sorted(here.glob("[!.]*.json")):
        ours = stage / "keys" / file.name
        if not ours.exists():
            shutil.copyfile(file, ours)
        elif file.name in RINGS:
            ours.write_text(json.dumps(_both(ours, file)))
        ours.chmod(0o600)


def _both(backup: Path, here: Path) -> dict[str, object]:
    """Every key of both; of two with one name that of the backup. A ring that was rotated since still opens what it sealed."""
    kept, more = json.loads(backup.read_bytes()), json.loads(here.read_bytes())
    keys = {**more["keys"], **kept["keys"]}
    same = all(more["keys"].get(name) == key for name, key in kept["keys"].items())
    return {"active": more["active"] if same else kept["active"], "keys": keys}


async def _put_in_place(settings: Settings, stage: Path, manifest: Manifest, asked: Asked) -> tuple[list[Told], Path | None]:
    data = settings.data
    aside = data / f"{ASIDE}{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    with _marked(data):
        await asyncio.to_thread(_merged, stage / "artifacts", data / "artifacts")
        replaced = [*data.glob("temporal-*.db*"), *data.glob("keys/[!.]*.json")]
        await asyncio.to_thread(_aside, data, aside, replaced, copy="keys")
        await asyncio.to_thread(_merged, stage / "keys", data / "keys")
        if (stage / backups.SETTINGS).exists() and not (data / backups.SETTINGS).exists():
            (stage / backups.SETTINGS).replace(data / backups.SETTINGS)
        async with staged(stage) as store:
            artifacts = Artifacts(store, Keyring.open(data, role="state"), place_of(settings))
            told = await _settled(settings, store, artifacts, asked, f"{datetime.fromisoformat(manifest.made_at):%Y-%m-%d %H:%M} UTC")
        await asyncio.to_thread(_aside, data, aside, [*data.glob("countersign.db*")])
        (stage / backups.STORE).replace(data / "countersign.db")
        on_disk(data)
    return told, aside if aside.exists() else None


async def _settled(settings: Settings, store: Store, artifacts: Artifacts, asked: Asked, since: str) -> list[Told]:
    from countersign.worker.main import host_id

    restored = Restored(
        store=store,
        artifacts=artifacts,
        host=host_id(settings.data),
        left=await asyncio.to_thread(left_behind, settings.data / "attempts"),
        by=local_person(),
        since=since,
        known_current=Redactor().line(asked.nothing_since, 200) if asked.nothing_since else None,
    )
    return await restored.settle(held=asked.nothing_since is None)


@contextlib.contextmanager
def _marked(data: Path) -> Iterator[None]:
    marker = data / MARKER
    marker.touch(mode=0o600)
    on_disk(data)
    yield
    marker.unlink()  # not where anything failed: the folder is neither the old one nor the new one then
    on_disk(data)


def _merged(source: Path, target: Path) -> None:
    """Move every file below `source` to its place below `target`."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.replace(place)


def _aside(data: Path, aside: Path, paths: list[Path], *, copy: str | None = None) -> None:
    """Keep what is replaced. What is merged with is copied: it must not be gone for an instant."""
    for path in paths:
        place = aside / path.relative_to(data)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if copy is not None and path.parent.name == copy:
            shutil.copy2(path, place)
        else:
            path.replace(place)


def _tell(settings: Settings, told: list[Told], aside: Path | None, made_at: str, live: int, *, held: bool, as_json: bool) -> None:
    if as_json:
        states = [asdict(one) | {"doubts": list(one.doubts)} for one in told]
        emit({"data": str(settings.data), "made_at": made_at, "aside": str(aside) if aside else None, "held": held, "states": states})
        return
    out = console()
    out.print(safe(f"{settings.data} is back, from a backup of {made_at}. Every credential of before is void."))
    if aside is not None:
        out.print(safe(f"What was replaced lies in {aside}; it holds keys and secrets, remove it when you need it no more.", "dim"))
    for one in told:
        if one.moved:
            out.print(safe(f"{one.path}: a newer state was found and taken over, serial {one.before} → {one.serial}"))
        if one.reconciling:
            out.print(safe(f"{one.path}: the apply of {one.reconciling} is accounted for when the service is up"))
        for doubt in one.doubts:
            out.print(safe_block(f"{one.path}: {doubt}", "yellow"))
    if live:
        out.print(
            safe(f"{live} keys open the front; one that was revoked after the backup does so again: see `countersign key list`.", "yellow")
        )
    if held and told:
        out.print(
            safe("Applies are held, for nobody can tell what the backup does not know. Start the service, compare each state with what")
        )
        out.print(safe("exists (countersign state list STACK; countersign plan STACK), then: countersign state accept STACK --reason TEXT"))
