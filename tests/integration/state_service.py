"""The state service over real HTTP on a free port, and attempts that talk to it as an engine does."""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2

from countersign.adapters.artifacts import Artifacts
from countersign.adapters.keyring import Keyring
from countersign.adapters.store import state
from countersign.adapters.store.database import Store, stamp
from countersign.adapters.store.schema import attempts, lock_events
from countersign.core.fencing import Head
from countersign.state_api.app import ANSWER_WITHIN, StateService
from countersign.state_api.main import listen, server_of

ORG = "local"
PATIENCE = 30.0  # seconds; every wait is bounded
_numbers = itertools.count(1)


def document(serial: int, *, lineage: str = "11111111-2222-3333-4444-555555555555", marker: str = "") -> bytes:
    resources: list[dict[str, Any]] = [{"mode": "managed", "type": "terraform_data", "name": "a", "instances": []}]
    whole = {"version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": lineage, "outputs": {}, "resources": resources}
    return json.dumps({**whole, "check_results": marker or None}).encode()


def lock(lock_id: str = "", who: str = "ana@host") -> dict[str, str]:
    made = {"ID": lock_id or f"lock-{next(_numbers)}", "Operation": "OperationTypeApply", "Info": "", "Who": who}
    return {**made, "Version": "1.11.4", "Created": "2026-01-01T00:00:00Z", "Path": ""}


@dataclass
class Attempt:
    """One holder of a credential: its requests, as Terraform sends them."""

    client: httpx2.AsyncClient
    address: str
    id: str
    password: str

    async def get(self) -> httpx2.Response:
        return await self._ask("GET", b"")

    async def lock(self, what: dict[str, str] | bytes) -> httpx2.Response:
        return await self._ask("LOCK", what if isinstance(what, bytes) else json.dumps(what).encode())

    async def unlock(self, what: dict[str, str] | None) -> httpx2.Response:
        return await self._ask("UNLOCK", json.dumps(what).encode() if what else b"")

    async def post(self, data: bytes, lock_id: str | None, **headers: str) -> httpx2.Response:
        md5 = {"Content-MD5": base64.b64encode(hashlib.md5(data).digest()).decode(), "Content-Type": "application/json"}
        query = {"ID": lock_id} if lock_id is not None else {}
        return await self._ask("POST", data, {**md5, **headers}, query)

    async def _ask(self, method: str, data: bytes, headers: dict[str, str] | None = None, query: dict[str, str] | None = None) -> Any:
        return await self.client.request(
            method, self.address, content=data, headers=headers, params=query, auth=httpx2.BasicAuth(self.id, self.password)
        )


@dataclass
class Lab:
    """A running state service, its store beside it, and one state of its own for each test."""

    data: Path
    store: Store
    artifacts: Artifacts
    url: str
    client: httpx2.AsyncClient
    stack_id: str = field(default_factory=lambda: f"st_{next(_numbers)}")

    def on(self, stack_id: str | None = None) -> "Lab":
        return Lab(self.data, self.store, self.artifacts, self.url, self.client, *([stack_id] if stack_id else []))

    @property
    def path(self) -> str:
        return f"/v1/state/{ORG}/{self.stack_id}"

    @property
    def address(self) -> str:
        return self.url + self.path

    async def attempt(
        self, mode: str = "apply", *, claims: bool = True, is_open: bool = False, lives: timedelta = timedelta(hours=1)
    ) -> Attempt:
        """A new credential. One that may write comes with a claim: it raises the epoch and has an attempt, open or closed."""
        number = next(_numbers)
        credential_id, run_id = f"att_{number}", f"run_{number}"
        async with self.store.begin() as tx:
            now = self.store.now()
            if mode == "apply" and claims:
                epoch = await state.raise_epoch(tx, ORG, self.stack_id)
                facts = {"run_id": run_id, "stack_id": self.stack_id, "epoch": epoch, "plan_digest": f"d{number}", "host": "h"}
                ended = {} if is_open else {"closed_at": stamp(now)}
                await tx.execute(
                    attempts.insert().values(org_id=ORG, id=credential_id, boot_id="b", opened_at=stamp(now), **facts, **ended)
                )
            else:
                epoch = (await state.head(tx, ORG, self.stack_id)).epoch
            password = await state.grant(
                tx,
                org=ORG,
                stack_id=self.stack_id,
                run_id=run_id,
                credential_id=credential_id,
                mode=mode,
                epoch=epoch,
                expires_at=now + lives,
            )
        return Attempt(self.client, self.address, credential_id, password)

    async def release(self, of: Attempt) -> bool:
        async with self.store.begin() as tx:
            return await state.release_lock_of(tx, ORG, self.stack_id, of.id)

    async def revoke(self, attempt: Attempt) -> None:
        async with self.store.begin() as tx:
            await state.revoke(tx, ORG, attempt.id)

    async def head(self) -> Head:
        async with self.store.read() as conn:
            return await state.head(conn, ORG, self.stack_id)

    async def serials(self) -> list[int]:
        async with self.store.read() as conn:
            return [s.serial for s in await state.snapshots(conn, ORG, self.stack_id, 100)]

    async def fence(self) -> int:
        async with self.store.begin() as tx:
            return await state.raise_epoch(tx, ORG, self.stack_id)

    async def journal(self) -> list[tuple[str, str]]:
        async with self.store.read() as conn:
            query = lock_events.select().where(lock_events.c.stack_id == self.stack_id).order_by(lock_events.c.n)
            return [(row.credential_id, row.action) for row in await conn.execute(query)]


@contextlib.asynccontextmanager
async def serving(store: Store, artifacts: Artifacts, *, answer_within: float = ANSWER_WITHIN) -> AsyncIterator[str]:
    with contextlib.closing(listen("127.0.0.1", 0)) as listening:
        server = server_of(StateService(store=store, artifacts=artifacts, answer_within=answer_within))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.stop()
            await asyncio.wait_for(running, PATIENCE)


@contextlib.asynccontextmanager
async def lab(data: Path, *, database: str | None = None, answer_within: float = ANSWER_WITHIN) -> AsyncIterator[Lab]:
    store = await Store.open(database or f"sqlite+aiosqlite:///{data / 'countersign.db'}")
    try:
        artifacts = Artifacts(store, Keyring.open(data, role="state"), data / "artifacts")
        async with serving(store, artifacts, answer_within=answer_within) as url, httpx2.AsyncClient(timeout=PATIENCE) as client:
            yield Lab(data, store, artifacts, url, client)
    finally:
        await store.close()
