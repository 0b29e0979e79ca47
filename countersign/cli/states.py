"""States by hand: straight on the store and the artifacts, by whoever has an administrator's key to this data folder."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from countersign.adapters.artifacts import Artifacts, Written
from countersign.adapters.keyring import Keyring
from countersign.adapters.objects import place_of
from countersign.adapters.process import Detached
from countersign.adapters.settings import Settings
from countersign.adapters.store import audit, holds, records, runs, state
from countersign.adapters.store.by_hand import Push
from countersign.adapters.store.custody import SEEN
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.keys import find_key
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.records import StackRow
from countersign.cli.exits import Exit
from countersign.cli.output import asked, console, emit, rows, safe
from countersign.cli.session import token
from countersign.cli.store import local_key, opened, organization, write_secret
from countersign.core.errors import ConfirmationRequired, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from countersign.core.principal import Kind, Principal
from countersign.core.redaction import Redactor

ADMIN = "admin"
LARGEST = 64 << 20  # bytes of a state, as the state service takes them
REASON = 200  # characters kept of a reason
SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class Pull:
    stack: str
    serial: int | None
    found: str | None
    to: Path | None
    reason: str
    key_file: Path | None
    org: str | None


@dataclass(frozen=True, kw_only=True)
class PushAsked:
    stack: str
    file: str
    reason: str
    confirm: str | None
    force: bool
    lost: bool
    key_file: Path | None
    org: str | None


@dataclass(frozen=True, kw_only=True)
class Accept:
    stacks: tuple[str, ...]
    all: bool
    reason: str
    key_file: Path | None
    org: str | None


async def show(settings: Settings, stack: str, *, org: str | None, as_json: bool) -> Exit:
    async with opened(settings) as store:
        kept = artifacts_of(settings, store)
        async with store.read() as conn:
            row = await stack_named(conn, settings, stack, org)
            head = await state.head(conn, row.org, row.id)
            history = await state.snapshots(conn, row.org, row.id, limit=SHOWN)
            why = await holds.held(conn, row.org, row.path)
            unknown = [one for one in await kept.unknown(conn, "state") if one.stack_id == row.id]
            named = [(one, await _whose(conn, row.org, one.run_id, one.credential_id)) for one in history]
    if as_json:
        emit(
            {
                "stack": row.path,
                "stack_id": row.id,
                "serial": head.serial,
                "lineage": head.lineage,
                "epoch": head.epoch,
                "held": why,
                "snapshots": [_document(one, whose) for one, whose in named],
                "total": head.seq,
                "found": [{"artifact_id": one.id, "name": one.name, "run_id": one.run_id, "size": one.size} for one in unknown],
            }
        )
        return Exit.OK
    out = console()
    lines = [(f"{one.serial}", f"{one.at:%Y-%m-%d %H:%M:%S}", whose, one.size, one.lineage) for one, whose in named]
    out.print(rows("states", ("serial", "when (UTC)", "by", "bytes", "lineage"), lines))
    if head.seq > len(history):
        out.print(safe(f"and {head.seq - len(history)} older ones", "dim"))
    if unknown:
        out.print(safe("Found here and not known to the store; an apply that lost its race leaves such ones too:", "yellow"))
        found = [(one.id, one.name, one.run_id, one.size) for one in unknown]
        out.print(rows("found", ("id", "name", "run", "bytes"), found))
    if why:
        out.print(safe(f"Applies are held: {why}", "yellow"))
    return Exit.OK


async def pull(settings: Settings, given: Pull, *, as_json: bool) -> Exit:
    async with opened(settings) as store:
        kept, by = artifacts_of(settings, store), await administrator(settings, store, given.key_file)
        async with store.read() as conn:
            row = await stack_named(conn, settings, given.stack, given.org)
            if given.found is not None:
                one = await _found(conn, kept, row, given.found)
                data, serial = await kept.content(one), one.name.removeprefix("state-")
            else:
                snapshot = await state.snapshot(conn, row.org, row.id, given.serial)
                if snapshot is None:
                    which = "" if given.serial is None else f" with serial {given.serial}; `countersign state list` tells which there are"
                    raise NotFound(f"no state of {row.path} is stored{which}", field="serial")
                data, serial = await kept.read(conn, org=row.org, artifact_id=snapshot.artifact_id), str(snapshot.serial)
        async with store.begin() as tx:
            facts = {"reason": short(given.reason), "serial": serial}
            at = stamp(store.now())
            await audit.append(tx, org=row.org, at=at, action="state.pull", by=by, target=row.path, **facts)
    if given.to is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return Exit.OK
    write_secret(given.to, data.decode().removesuffix("\n"), new=True)
    if as_json:
        emit({"stack": row.path, "serial": int(serial), "file": str(given.to), "size": len(data)})
    else:
        console().print(safe(f"serial {serial} of {row.path} is in {given.to}; it holds secrets in clear"))
    return Exit.OK


async def push(settings: Settings, given: PushAsked, *, as_json: bool) -> Exit:
    if not given.reason.strip():
        raise InvalidArgument("a reason is needed; it stands in the audit chain", field="reason")
    data = await asyncio.to_thread(bytes_of, given.file)
    async with opened(settings) as store:
        by = await administrator(settings, store, given.key_file)
        async with store.read() as conn:
            row = await stack_named(conn, settings, given.stack, given.org)
        await _confirmed(row, given.confirm)
        check = _Alive(settings=settings, said_lost=given.lost)
        work = Push(
            store=store,
            artifacts=artifacts_of(settings, store),
            stack=row,
            by=by,
            reason=short(given.reason),
            force=given.force,
            check=check,
        )
        pushed = await work(data)
    facts = {"stack": row.path, "changed": pushed.changed, "serial_before": pushed.before.serial, "serial": pushed.after.serial}
    if as_json:
        emit({**facts, "epoch": pushed.after.epoch, "lineage": pushed.after.lineage, "by": by.id})
    elif not pushed.changed:
        console().print(safe(f"{row.path} is at serial {pushed.after.serial} with these very bytes already; nothing was changed"))
    else:
        told = f"{row.path} is at serial {pushed.after.serial} now (before: {pushed.before.serial}, which is kept)"
        console().print(safe(f"{told}, pushed by {by.id}. Plans that wait are stale; nothing in the cloud was changed."))
    return Exit.OK


async def accept(settings: Settings, given: Accept, *, as_json: bool) -> Exit:
    if not given.reason.strip():
        raise InvalidArgument("a reason is needed; it stands in the audit chain", field="reason")
    if given.all == bool(given.stacks):
        raise InvalidArgument("name the stacks, or say --all", field="stack")
    async with opened(settings) as store:
        by = await administrator(settings, store, given.key_file)
        async with store.begin() as tx:
            now = store.now()
            org = organization(settings, given.org)
            if given.all:
                found = (await records.list_stacks(tx, org, limit=1_000_000))[0]
            else:
                found = [await stack_named(tx, settings, one, given.org) for one in given.stacks]
            facts: Any = {"reason": short(given.reason), "by": by, "now": now}
            lifted = [row.path for row in found if await holds.lift(tx, org=row.org, path=row.path, **facts)]
    if as_json:
        emit({"accepted": lifted})
    else:
        console().print(safe(f"applies go on: {', '.join(lifted)}" if lifted else "none of them was held"))
    return Exit.OK


@dataclass(frozen=True, kw_only=True)
class _Alive:
    """Whether an open attempt may still change something."""

    settings: Settings
    said_lost: bool

    def __call__(self, attempt: AttemptRow) -> None:
        folder = self.settings.data / "attempts" / attempt.id
        what = f"an apply of run {attempt.run_id} is open on this state"
        if Detached(folder=folder / "run", marker=attempt.id).is_alive():
            raise FailedPrecondition(
                f"{what}, and lives; wait for its end, or stop it with `countersign cancel {attempt.run_id}`", field="stack"
            )
        if attempt.ended_at is None and not self.said_lost and not folder.exists():
            raise FailedPrecondition(
                f"{what}, on the machine {attempt.host}, and nobody can tell from here whether it lives. Stop that machine or the "
                "engine on it; when nothing of it can live any more, add --lost",
                field="lost",
            )


async def administrator(settings: Settings, store: Store, key_file: Path | None) -> Principal:
    """Who does this. Raises PermissionDenied for any key that is no administrator's."""
    shown = token(key_file=key_file or await local_key(settings, store), data=settings.data)
    async with store.read() as conn:
        key = await find_key(conn, shown, now=store.now())
    if key is None:
        raise PermissionDenied("this key is unknown, expired or revoked; show that of an administrator with --key-file")
    if key.role != ADMIN or key.principal.kind is not Kind.PERSON:
        raise PermissionDenied(f"{key.principal.id} has the role {key.role}; states by hand are for a person who is {ADMIN}")
    return key.principal


async def stack_named(conn: Any, settings: Settings, named: str, org: str | None) -> StackRow:
    slug = organization(settings, org if org is not None or named.count("/") != 2 else named.partition("/")[0])
    if "/" not in named and not named.startswith("st_"):
        raise InvalidArgument(f"{named!r} is no stack; write env/slug or org/env/slug", field="stack")
    try:
        return await records.get_stack(conn, slug, named)
    except NotFound:
        raise NotFound(f"no stack {named}; `countersign stack list` tells which there are", field="stack") from None


async def _confirmed(row: StackRow, confirm: str | None) -> None:
    typed = confirm if confirm is not None else await asked(f"Its state is replaced by hand. Type the stack's path, {row.path}:")
    if typed != row.path:
        raise ConfirmationRequired(f"type the stack's whole path, {row.path}, with --confirm; nothing was changed", field="confirm")


async def _found(conn: Any, kept: Artifacts, row: StackRow, artifact_id: str) -> Written:
    for one in await kept.unknown(conn, "state"):
        if one.id == artifact_id and one.stack_id == row.id:
            return one
    raise NotFound(f"no state {artifact_id} that the store does not know; `countersign state list {row.path}` tells them", field="found")


async def _whose(conn: Any, org: str, run_id: str, credential_id: str) -> str:
    if run_id.startswith("hand_"):
        return f"{credential_id}, by hand"
    try:
        run = await runs.get_run(conn, org, run_id)
    except NotFound:
        return f"{run_id} (found after a restore)" if credential_id == "restore" else run_id
    how = ", as it was seen in its own backend" if credential_id == SEEN else ""
    return f"{run.id} ({run.type}, {run.requester.id}{how})"


def artifacts_of(settings: Settings, store: Store) -> Artifacts:
    return Artifacts(store, Keyring.open(settings.data, role="state"), place_of(settings))


def bytes_of(file: str) -> bytes:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(file).expanduser().open("rb") as opened_file:
                data = opened_file.read(LARGEST + 1)
    except OSError as broken:
        raise InvalidArgument(f"{file} cannot be read ({broken.strerror})", field="file") from None
    if len(data) > LARGEST:
        raise InvalidArgument(f"{file} has more than {LARGEST >> 20} MiB; no state of that size is stored", field="file")
    return data


def short(reason: str) -> str:
    return Redactor().line(reason.strip(), REASON)


def _document(one: state.Snapshot, whose: str) -> Mapping[str, object]:
    at: datetime = one.at
    return {
        "serial": one.serial,
        "lineage": one.lineage,
        "at": at.isoformat(),
        "by": whose,
        "run_id": one.run_id,
        "size": one.size,
        "sha256": one.sha256,
    }
