"""After a store came back from a backup: what it cannot know is looked for, and nothing is applied over it.

What such a store lost happened all the same. Two kinds of witness outlive it: state objects in the artifact store that no row
names, with a serial above the head's, and the folders that attempts left on their machine. A newer state becomes the head. A plan
that was claimed after the backup gets its attempt back, so that its run reconciles and is never claimed a second time. What
neither tells nobody can tell, so applies are held until a person has looked: `countersign state accept`.

Nothing here is undone by doing it again.
"""

import shlex
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from countersign.adapters.artifacts import Artifacts, Written
from countersign.adapters.store import audit, page_sessions, plans, records, runs, state
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.holds import hold
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.runs import RunRow
from countersign.adapters.store.schema import attempts, credentials, states
from countersign.adapters.store.schema import runs as runs_table
from countersign.core.digests import digest_of
from countersign.core.engine import Left
from countersign.core.errors import CountersignError, NotFound, Unavailable
from countersign.core.ids import derive
from countersign.core.principal import Principal
from countersign.core.run import Mode, RunState
from countersign.core.terraform.state import Header, header_of

EPOCHS = 1000  # by which a restore raises each epoch, so that none of the lost time is given out again
BEFORE = "before the restore"  # the boot of an attempt whose folder is not here: no journal of it counts as whole
NEWEST = 50  # unknown states of one stack that are looked at
_EVIDENCE = ("testimony", "journal", "apply_log")
_BY_HAND = "hand_"  # begins the run of a state that a person pushed, or wanted to
Busy = Callable[[AsyncConnection], Awaitable[Collection[tuple[str, str]]]]  # states on which somebody is at work
_CHANGING = frozenset({str(Mode.APPLY), str(Mode.DESTROY)})


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was found about one state, for people. `path` is its stack's, or its id where the store knows no such stack."""

    org: str
    path: str
    before: int  # serial of the head as it came back
    serial: int  # and now
    reconciling: str | None = None  # the run whose attempt is accounted for
    doubts: tuple[str, ...] = ()  # what only a person can clear, with what to type

    @property
    def moved(self) -> bool:
        return self.serial != self.before


@dataclass(frozen=True, kw_only=True)
class Restored:
    """The store that came back, and where it is now."""

    store: Store
    artifacts: Artifacts
    host: str  # of this data folder: it takes over whatever is open
    left: Sequence[Left]
    by: Principal
    since: str  # when the backup was made, as people are told it
    known_current: str | None = None  # why somebody knows that nothing was applied since

    async def settle(self, *, held: bool) -> list[Told]:
        """Take every state of every organization over into the present. `held`: applies wait until somebody accepts the state."""
        await self._signed_out()
        async with self.store.read() as conn:
            unknown = await self.artifacts.unknown(conn)
            known = {(row.org_id, row.stack_id) for row in await conn.execute(select(states.c.org_id, states.c.stack_id))}
            orgs = {org for org, _ in known} | {one.org for one in unknown} | set(await audit.organizations(conn))
            stacks = {(org, s.id): s.path for org in sorted(orgs) for s in (await records.list_stacks(conn, org, limit=1_000_000))[0]}
        told = []
        for org, stack_id in sorted({*known, *stacks, *((one.org, one.stack_id) for one in unknown if one.kind == "state")}):
            mine = [one for one in unknown if (one.org, one.stack_id) == (org, stack_id)]
            told.append(await self._state(org, stack_id, stacks.get((org, stack_id)), mine, held=held))
        return told

    async def notice(self, *, busy: Busy) -> list[Told]:
        """Where the store came back by other hands and nobody settled it: the states of which something newer lies here, and no others.

        Bytes come before their row, so those of whoever is at work may be on their way, and those of a push by hand that was refused
        stay: a restore leaves them to a person, and here nobody looks.
        """
        async with self.store.read() as conn:
            seen = [one for one in await self.artifacts.unknown(conn, "state") if not _by_hand(one)]
        # Looking through all there is takes its time, and applies go on meanwhile: what counts is what is known after it.
        async with self.store.read() as conn:
            known, working = set(await self.artifacts.ids(conn)), await busy(conn)
            unknown = [one for one in seen if (one.org, one.id) not in known and (one.org, one.stack_id) not in working]
            newer = [one for one in await self._evidence(conn, unknown) if await self._newer(conn, one)]
            paths: dict[tuple[str, str], str | None] = {}
            for org, stack_id in {(one.org, one.stack_id) for one in newer}:
                path = await _path_of(conn, org, stack_id)
                told = await audit.newest(conn, org, action="state.restore", target=path or stack_id)
                # What somebody was told of already is theirs to judge: it holds nothing a second time.
                if told is None or told.get("found") != _digest(one for one in newer if (one.org, one.stack_id) == (org, stack_id)):
                    paths[org, stack_id] = path
        if paths:
            await self._signed_out()
        return [
            await self._state(
                org, stack_id, path, [one for one in unknown if (one.org, one.stack_id) == (org, stack_id)], held=True, busy=busy
            )
            for (org, stack_id), path in sorted(paths.items())
        ]

    async def _signed_out(self) -> None:
        async with self.store.begin() as tx:
            await page_sessions.end_all(tx, at=self.store.now())

    async def _newer(self, conn: AsyncConnection, one: Written) -> bool:
        return (_serial(one) or 0) > (await state.head(conn, one.org, one.stack_id)).serial

    async def _evidence(self, conn: AsyncConnection, unknown: Iterable[Written]) -> list[Written]:
        """Without those whose run the store saw end: it knows what became of that, and these lost the race for the head."""
        found = []
        for one in unknown:
            try:
                run = await runs.get_run(conn, one.org, one.run_id or "")
            except NotFound:
                run = None
            if run is None or not run.ended:
                found.append(one)
        return found

    async def _state(
        self, org: str, stack_id: str, path: str | None, unknown: Sequence[Written], *, held: bool, busy: Busy | None = None
    ) -> Told:
        """One state: fenced, moved on to what is newest, its lost attempt open again, and held. Raises Unavailable where it is `busy`."""
        async with self.store.read() as conn:
            evidence = await self._evidence(conn, unknown)
        newer, doubts = await self._newest(org, stack_id, path or stack_id, [one for one in evidence if one.kind == "state"])
        async with self.store.begin() as tx:
            now = self.store.now()
            before = await state.head(tx, org, stack_id)
            if busy is not None and ((org, stack_id) in await busy(tx) or any(header.serial <= before.serial for _, header in newer)):
                raise Unavailable(f"somebody works on the state of {path or stack_id} again; it is looked at another time")
            epoch = await self._voided(tx, org, stack_id, now)
            for one, header in newer:
                await self.artifacts.record(tx, one)
                facts = {"credential_id": "restore", "run_id": one.run_id or "restore"}
                await state.install(tx, org=org, stack_id=stack_id, header=header, written=one, now=now, **facts)
            run = await self._reopened(tx, org, stack_id, evidence, epoch, now) if path else None
            doubts += await self._unexplained(tx, org, path or stack_id, run)
            if path is not None and (held or doubts):
                await hold(tx, org=org, path=path, reason=self._reason(path, doubts), by=self.by, now=now)
            head = await state.head(tx, org, stack_id)
            await audit.append(
                tx,
                org=org,
                at=stamp(now),
                action="state.restore",
                by=self.by,
                target=path or stack_id,
                run_id=run.id if run else None,
                epoch=epoch,
                serial_before=before.serial,
                serial=head.serial,
                found=_digest(one for one in evidence if one.kind == "state" and (_serial(one) or 0) > before.serial),
                nothing_since=self.known_current,
            )
        return Told(
            org=org,
            path=path or stack_id,
            before=before.serial,
            serial=head.serial,
            reconciling=run.id if run else None,
            doubts=tuple(doubts),
        )

    async def _voided(self, tx: AsyncConnection, org: str, stack_id: str, now: datetime) -> int:
        """No credential of before opens anything any more; returns the epoch."""
        mine = (credentials.c.org_id == org) & (credentials.c.stack_id == stack_id) & credentials.c.revoked_at.is_(None)
        await tx.execute(update(credentials).where(mine).values(revoked_at=stamp(now)))
        return await state.raise_epoch(tx, org, stack_id, by=EPOCHS)

    # What is newer than the head

    async def _newest(self, org: str, stack_id: str, path: str, found: Sequence[Written]) -> tuple[list[tuple[Written, Header]], list[str]]:
        """(states above the head, oldest first, where one line leads to the newest; doubts where it does not)."""
        async with self.store.read() as conn:
            head = await state.head(conn, org, stack_id)
        above = sorted((one for one in found if (_serial(one) or 0) > head.serial), key=lambda one: _serial(one) or 0)[-NEWEST:]
        headers: list[tuple[Written, Header]] = []
        for one in above:
            try:
                headers.append((one, header_of(await self.artifacts.content(one))))
            except CountersignError:
                continue  # of a key that is not here, or damaged: it proves nothing
        if not headers:
            return [], []
        serials = [header.serial for _, header in headers]
        lineages = {header.lineage for _, header in headers} | ({head.lineage} if head.lineage else set())
        one_line = len(lineages) == 1 and len(set(serials)) == len(serials)
        if one_line and not _by_hand(headers[-1][0]):
            return headers, []
        if one_line:
            newest, header = headers[-1]
            return [], [
                f"A newer state was found that somebody pushed by hand, or wanted to and was refused: serial {header.serial}, {newest.id}. "
                f"Look at it (countersign state pull {shlex.quote(path)} --found {newest.id}), then push it if it is the right one."
            ]
        listed = ", ".join(f"serial {header.serial} of lineage {header.lineage}, {one.id}" for one, header in headers)
        here = f"serial {head.serial} of lineage {head.lineage}" if head.lineage else "nothing"
        return [], [
            f"Newer states were found, and they are not one line from the stored one ({here}): {listed}. Look at each "
            f"(countersign state pull {shlex.quote(path)} --found ID), then push the right one by hand."
        ]

    # What was claimed meanwhile

    async def _reopened(
        self, tx: AsyncConnection, org: str, stack_id: str, evidence: Sequence[Written], epoch: int, now: datetime
    ) -> RunRow | None:
        """The run that reconciles: that of the attempt that was open, or of one that was claimed after the backup."""
        lost = await plans.open_attempt(tx, org, stack_id)
        if lost is not None:
            run = await runs.get_run(tx, org, lost.run_id)
            await self._taken_over(tx, org, lost)
        else:
            found = await self._claimed(tx, org, stack_id, evidence)
            if found is None:
                return None
            run, lost = found
            lost = replace(lost, epoch=epoch, host=self.host, opened_at=now)
            await plans.insert_attempt(tx, org, lost)
            await self._taken_over(tx, org, lost)
        for one in evidence:
            if one.run_id == run.id and one.kind in _EVIDENCE:
                await self.artifacts.record(tx, one)
        why = (
            f"The store came back from a backup of {self.since}. The apply of this plan had begun, and what became of it is found out "
            "from what is left."
        )
        body = {"by": self.by.id, "message": why, "attempt": lost.id}
        if run.state in (RunState.APPLYING, RunState.VERIFYING, RunState.CANCELING):
            return await runs.move(tx, run, RunState.INTERRUPTED, at=now, body=body, reason=why, code="interrupted")
        if run.state in (RunState.AWAITING_APPROVAL, RunState.APPROVED):
            run = await runs.move(tx, run, RunState.NEEDS_OPERATOR, at=now, body=body, reason=why, code="interrupted")
        if run.state is RunState.NEEDS_OPERATOR:  # its workflow may be new, and hears by this state what to do
            run = await runs.move(tx, run, RunState.RECONCILING, at=now, body=body)
        return run

    async def _taken_over(self, tx: AsyncConnection, org: str, lost: AttemptRow) -> None:
        """This machine accounts for it. Where its folder is not here, nothing of it is evidence that nothing was done."""
        here = any(one.attempt_id == lost.id for one in self.left)
        values = {"host": self.host} | ({} if here else {"boot_id": BEFORE})
        await tx.execute(update(attempts).where(attempts.c.org_id == org, attempts.c.id == lost.id).values(**values))

    async def _claimed(self, tx: AsyncConnection, org: str, stack_id: str, evidence: Sequence[Written]) -> tuple[RunRow, AttemptRow] | None:
        """The waiting run whose plan somebody claimed after the backup: its attempt's id follows from the plan."""
        waiting = (runs_table.c.state.in_([str(RunState.AWAITING_APPROVAL), str(RunState.APPROVED)])) & (runs_table.c.mode.in_(_CHANGING))
        query = select(runs_table.c.id).where(runs_table.c.org_id == org, runs_table.c.stack_id == stack_id, waiting)
        wrote = {one.run_id for one in evidence if one.kind in ("state", *_EVIDENCE)}
        for id in (await tx.execute(query.order_by(runs_table.c.created_at))).scalars().all():
            run = await runs.get_run(tx, org, id)
            attempt_id = derive("att", org, run.id, run.plan_digest or "")
            named = any(one.name.endswith(attempt_id) for one in evidence)
            if run.plan_digest and (run.id in wrote or named or any(one.attempt_id == attempt_id for one in self.left)):
                attempt = AttemptRow(
                    id=attempt_id,
                    run_id=run.id,
                    stack_id=stack_id,
                    plan_digest=run.plan_digest,
                    epoch=0,
                    host=self.host,
                    boot_id=BEFORE,
                    opened_at=run.updated_at,
                    ended_at=None,
                    closed_at=None,
                    outcome=None,
                    evidence=(),
                )
                return run, attempt
        return None

    # What only a person can clear

    async def _unexplained(self, tx: AsyncConnection, org: str, path: str, run: RunRow | None) -> list[str]:
        """Attempts on this machine that no row of ours explains, of this stack."""
        doubts, quoted = [], shlex.quote(path)
        for one in self.left:
            if one.path != path or (run is not None and one.run_id == run.id) or await plans.attempt_by_id(tx, org, one.attempt_id):
                continue
            doubts.append(f"This machine has an apply of {one.run_id} that the store does not know ({one.attempt_id}).")
            if one.errored_state is not None:
                push = f"countersign state push {quoted} {shlex.quote(one.errored_state)} --confirm {quoted} --reason TEXT"
                doubts.append(f"It left a state that it could not store; look at it, then: {push}.")
            if one.made:
                doubts.append(f"Its journal says it made {', '.join(one.made)}; what of that is in no state has to be imported.")
        return doubts

    def _reason(self, path: str, doubts: Sequence[str]) -> str:
        quoted = shlex.quote(path)
        # Lists and terminals show some 250 characters of it: what lets go comes first.
        lifted = f"`countersign state accept {quoted} --reason TEXT` lets go, when `countersign state list {quoted}` tells what exists."
        return " ".join((f"held after a restore (backup of {self.since}). {lifted}", *doubts))


async def _path_of(conn: AsyncConnection, org: str, stack_id: str) -> str | None:
    try:
        return (await records.get_stack(conn, org, stack_id)).path
    except NotFound:
        return None


def _by_hand(one: Written) -> bool:
    """Whether no run wrote it: such bytes may be of a push that was refused after they were written."""
    return (one.run_id or "").startswith(_BY_HAND)


def _digest(found: Iterable[Written]) -> str:
    """Which states were found that the store did not know, but for those by hand."""
    return digest_of(sorted(one.id for one in found if not _by_hand(one)))


def _serial(one: Written) -> int | None:
    """As the state service names them."""
    number = one.name.removeprefix("state-")
    return int(number) if number.isdigit() else None
