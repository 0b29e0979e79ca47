"""Applies to be lost: the assembled service with a real Temporal, state service and Terraform, and a world that counts.

A chain of items, each of which appends its id to a file of its own when it is made (`N.made`) and when it is destroyed
(`N.gone`): what was done twice is a second line that no state can hide. Between two items lies a gate, a data source that
reads a named pipe: an apply that has reached it has made what comes before, begun nothing else, and waits.
"""

import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy import update
from temporalio.client import Client

from activities.engine import Here
from countersign.adapters.artifacts import Artifacts, Written
from countersign.adapters.keyring import Keyring
from countersign.adapters.process import boot_id, end_marked, marked_processes
from countersign.adapters.settings import Settings
from countersign.adapters.store import plans, records, runs, state
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.plans import AttemptRow
from countersign.adapters.store.runs import Event, RunRow
from countersign.adapters.store.schema import attempts as attempts_table
from countersign.adapters.store.schema import runs as runs_table
from countersign.adapters.store.schema import states
from countersign.adapters.terraform import TerraformEngine
from countersign.core.engine import ApplyJob, Remains
from countersign.core.errors import CountersignError
from countersign.core.fencing import Head
from countersign.core.run import RunState
from countersign.core.steps import Decided
from tests.gates import close, held
from tests.integration.state_service import Attempt, lock, serving
from tests.service import Service, eventually

KEY = b"a key of this test, 32 bytes long"


@dataclass
class World:
    """The folder in which a chain leaves what it did."""

    folder: Path

    def chain(self, length: int, *, gates: Sequence[int], before: str = "", after: str = "") -> str:
        """The configuration: items 1 to `length`, one after the other, with a gate behind each of `gates`."""
        text = ['variable "world" {\n  type = string\n}\n', before]
        behind = ""
        for n in range(1, length + 1):
            text.append(item(n, behind))
            behind = f"terraform_data.item_{n}"
            if n in gates:
                close(self.gate(n))
                text.append(
                    f'data "terraform_remote_state" "gate_{n}" {{\n  depends_on = [{behind}]\n  backend = "local"\n'
                    f'  config = {{\n    path = "${{var.world}}/{n}.gate"\n  }}\n}}\n'
                )
                behind = f"data.terraform_remote_state.gate_{n}"
        return "\n".join([*text, after])

    def gate(self, n: int) -> Path:
        return self.folder / f"{n}.gate"

    def held(self, n: int) -> contextlib.AbstractAsyncContextManager[None]:
        """Inside, an apply waits at the gate; afterwards the gate is open for good."""
        return held(self.gate(n), eventually)

    def lines(self, kind: str) -> dict[int, list[str]]:
        """Item → ids, of those that were "made" or are "gone"."""
        return {int(file.stem): file.read_text().split() for file in self.folder.glob(f"*.{kind}")}


def item(n: int, behind: str = "") -> str:
    depends = f"  depends_on = [{behind}]\n" if behind else ""
    return (
        f'resource "terraform_data" "item_{n}" {{\n{depends}  input = "${{var.world}}/{n}"\n'
        '  provisioner "local-exec" {\n    command = "echo ${self.id} >> ${self.input}.made"\n  }\n'
        '  provisioner "local-exec" {\n    when    = destroy\n    command = "echo ${self.id} >> ${self.input}.gone"\n  }\n}\n'
    )


class Stubborn(TerraformEngine):
    """On a machine whose kernel may not let go of processes, and where something may happen meanwhile."""

    survivors = 0
    meanwhile: Callable[[], Awaitable[None]] | None = None
    launching: Callable[[], Awaitable[None]] | None = None
    at_last: Callable[[], Awaitable[None]] | None = None  # what came of it is recorded, and the workflow has not heard of it

    async def end(self, attempt_id: str, *, same_boot: bool) -> Remains:
        if self.meanwhile is not None:
            await self.meanwhile()
        return replace(await super().end(attempt_id, same_boot=same_boot), survivors=self.survivors)

    async def launch(self, job: ApplyJob) -> None:
        if self.launching is not None:
            await self.launching()
        await super().launch(job)

    async def forget(self, attempt_id: str) -> None:
        if self.at_last is not None:
            await self.at_last()
        await super().forget(attempt_id)


class Slow(Artifacts):
    """A disk on which something may happen before or after a state is written."""

    before: Callable[[], Awaitable[None]] | None = None
    after: Callable[[], Awaitable[None]] | None = None

    async def write(self, **what: Any) -> Written:
        is_state = what["kind"] == "state"
        if is_state and self.before is not None:
            await self.before()
        written = await super().write(**what)
        if is_state and self.after is not None:
            await self.after()
        return written


@dataclass
class Lost:
    """The service, and what a test does to it and reads of it."""

    it: Service
    engine: Stubborn
    disk: Slow
    folder: Path
    world: World
    stack: records.StackRow
    _served: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def configure(self, text: str) -> None:
        (self.folder / "stacks" / "demo" / "main.tf").write_text(text)

    @property
    def stack_id(self) -> str:
        return self.stack.config.stack_id

    # Runs

    async def applying(self, *, tool: str = "apply_terraform") -> RunRow:
        """A run that was approved, by policy if that lets it pass, and is on its way."""
        run = await self.it.start(self.stack, tool=tool, vars={"world": str(self.world.folder)})
        waiting = await self.it.reaches(run.id, RunState.AWAITING_APPROVAL, RunState.APPLYING)
        if waiting.state is RunState.APPLYING:
            return waiting
        assert waiting.requirement is not None
        await self.it.approve(waiting, confirm_name=waiting.requirement.confirm_name)
        return waiting

    async def agree(self, run: RunRow) -> None:
        await self._decided(lambda: self.it.approve(run))

    async def refuse(self, run: RunRow, *, reason: str) -> None:
        await self._decided(lambda: self.it.reject(run, reason=reason))

    async def _decided(self, decide: Callable[[], Awaitable[Decided]]) -> None:
        """The row says that it waits, and its workflow may hear of it a moment later."""

        async def taken() -> bool:
            with contextlib.suppress(CountersignError):
                return (await decide()).accepted
            return False

        await eventually(taken, "the decision to be taken")

    async def applied(self) -> RunRow:
        return await self.it.reaches((await self.applying()).id, RunState.APPLIED)

    async def seen(self, run: RunRow, state: RunState, *, times: int) -> RunRow:
        """The run, when it has come into `state` that often."""

        async def there() -> bool:
            return (await self.states(run)).count(str(state)) >= times

        await eventually(there, f"{run.id} to be {state} {times} times")
        return await self.it.run(run.id)

    async def attempts(self, run: RunRow) -> list[AttemptRow]:
        async with self.it.store.read() as conn:
            return await plans.attempts_of(conn, self.it.org, run.id)

    async def kill(self, run: RunRow, *, number: int = 1) -> AttemptRow:
        """SIGKILL to the whole group of the run's attempt: Terraform, its wrapper, and what it has started."""
        found = (await self.attempts(run))[number - 1]
        os.killpg(int((self.it.engine.where(found.id) / "run" / "pgid").read_text()), signal.SIGKILL)
        return found

    async def expired(self, run: RunRow) -> None:
        """Make its approval one of yesterday."""
        async with self.it.store.begin() as tx:
            over = stamp(self.it.store.now() - timedelta(seconds=1))
            await tx.execute(update(runs_table).where(runs_table.c.id == run.id).values(expires_at=over))

    async def locked_by(self, lock: str | None) -> None:
        """Put somebody else's lock in the place of whatever lock there is, or none."""
        mine = (states.c.org_id == self.it.org) & (states.c.stack_id == self.stack_id)
        async with self.it.store.begin() as tx:
            await tx.execute(update(states).where(mine).values(lock=lock, lock_credential=lock and "att_of_cy"))

    async def booted_since(self, run: RunRow) -> None:
        """Make the boot on which the run's attempt began another one than this."""
        [attempt] = await self.attempts(run)
        (self.it.engine.where(attempt.id) / "run" / "started").write_text("the boot before")
        async with self.it.store.begin() as tx:
            await tx.execute(update(attempts_table).where(attempts_table.c.id == attempt.id).values(boot_id="the boot before"))

    async def push_by_hand(self, data: bytes) -> None:
        """Somebody with every right stores another state."""
        async with self.it.store.begin() as tx:
            epoch = (await state.head(tx, self.it.org, self.stack_id)).epoch
            facts: dict[str, Any] = {"org": self.it.org, "stack_id": self.stack_id, "run_id": "run_by_hand", "mode": "apply"}
            over = self.it.store.now() + timedelta(minutes=5)
            password = await state.grant(tx, credential_id="att_by_hand", epoch=epoch, expires_at=over, **facts)
        address = f"{self.it.here.state_url}/v1/state/{self.it.org}/{self.stack_id}"
        async with httpx2.AsyncClient() as client:
            hand, taken = Attempt(client, address, "att_by_hand", password), lock()
            answers = [await hand.lock(taken), await hand.post(data, taken["ID"]), await hand.unlock(taken)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]

    async def journal_says(self, run: RunRow, kind: str, address: str) -> None:
        [attempt] = await self.attempts(run)
        journal = self.it.engine.where(attempt.id) / "run" / "journal"

        async def said() -> bool:
            events = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
            return any(e["type"] == kind and e["hook"]["resource"]["addr"] == address for e in events if "hook" in e)

        await eventually(said, f"the journal to say {kind} of {address}")

    async def events(self, run: RunRow) -> list[Event]:
        async with self.it.store.read() as conn:
            return await runs.run_events(conn, self.it.org, run.id, limit=1000)

    async def states(self, run: RunRow) -> list[str]:
        """Every state the run was in, in order."""
        return [str(event.state) for event in await self.events(run) if event.kind == "state"]

    async def proof(self, run: RunRow) -> list[str]:
        """Lines of the newest proof."""
        return next(list(e.body["proof"]) for e in reversed(await self.events(run)) if "proof" in e.body)

    async def head(self) -> Head:
        async with self.it.store.read() as conn:
            return await state.head(conn, self.it.org, self.stack.config.stack_id)

    async def document(self) -> dict[str, Any]:
        async with self.it.store.read() as conn:
            found = await state.snapshot(conn, self.it.org, self.stack.config.stack_id)
            return json.loads(await self.it.artifacts.read(conn, org=self.it.org, artifact_id=found.artifact_id)) if found else {}

    async def ids(self) -> dict[str, str]:
        """Name → id of everything managed in the state."""
        managed = [r for r in (await self.document()).get("resources", ()) if r["mode"] == "managed"]
        return {r["name"]: i["attributes"]["id"] for r in managed for i in r["instances"]}

    async def is_settled(self, *, left: int = 0) -> None:
        """The state is the world, its lock is free, nothing of an attempt lives or lies about, and as much as `left` is left to plan."""
        made, gone = self.world.lines("made"), self.world.lines("gone")
        for told in (*made.values(), *gone.values()):
            assert sorted(set(told)) == sorted(told), "something was done twice"
        living = [(f"item_{n}", id) for n, ids in made.items() for id in ids if id not in gone.get(n, ())]
        assert sorted(living) == sorted(item for item in (await self.ids()).items() if item[0].startswith("item_"))
        assert (await self.head()).lock is None
        again = await self.it.start(self.stack, tool="terraform_plan", vars={"world": str(self.world.folder)})
        await self.it.reaches(again.id, RunState.PLANNED_AND_FINISHED)
        async with self.it.store.read() as conn:
            planned = await plans.get_plan(conn, self.it.org, again.id)
        assert planned is not None
        assert planned.summary.counts.create == left
        assert left or not planned.summary.changes_anything
        attempts = [a for run in await self.runs() for a in await self.attempts(run)]
        assert [a.id for a in attempts if a.closed_at is None or marked_processes(a.id) or self.it.engine.where(a.id).exists()] == []

    async def runs(self) -> list[RunRow]:
        async with self.it.store.read() as conn:
            return (await runs.list_runs(conn, self.it.org, stack_id=self.stack.config.stack_id))[0]


@contextlib.asynccontextmanager
async def lost(client: Client, folder: Path, *, engine: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Lost]:
    """`engine`: options of the TerraformEngine."""
    (folder / "stacks" / "demo").mkdir(parents=True)
    (folder / "world").mkdir()
    data = folder / "data"
    data.mkdir()
    configured = Settings(data=data, temporal_address=client.config()["service_client"].config.target_host, **settings)
    keyring = Keyring.open(data, role="all")
    store = await Store.open(configured.database_url)
    artifacts = Slow(store, keyring, data / "artifacts")
    made = Stubborn(
        stacks_root=folder / "stacks",
        work_root=data / "work",
        attempts_root=data / "attempts",
        mac_key=KEY,
        mac_kid="k1",
        lock_seconds=1,
        go_settings={"GOGC": "400"},
        denied_data_sources=(),  # gates are one that is denied elsewhere
        **(engine or {}),
    )
    try:
        async with serving(store, artifacts) as url:
            here = Here(host=f"h-{folder.name}", boot_id=boot_id(), state_url=url)
            it = Service(client, configured, store, artifacts, keyring, made, here)
            await it.start_workers()
            try:
                yield Lost(it=it, engine=made, disk=artifacts, folder=folder, world=World(folder / "world"), stack=await it.stack())
            finally:
                await it.stop_workers()
                for left in (data / "attempts").iterdir():  # of a test that failed
                    end_marked(left.name)
    finally:
        await store.close()
