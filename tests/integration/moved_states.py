"""Stacks whose state lies elsewhere: made by the real engine as a person would run it, before Countersign was there."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countersign.adapters.keyring import Keyring
from countersign.adapters.store import audit, records, state
from countersign.adapters.store.database import Store
from countersign.adapters.store.records import StackRow
from countersign.core.fencing import Head
from countersign.core.principal import Kind, Principal
from tests.acceptance.installed import COMMAND
from tests.postgres import PASSWORD, USER, Cluster
from tests.tools import built

ANA = Principal(id="person:ana", kind=Kind.PERSON)
STACK = "local/dev/shop"
THINGS = 'variable "size" { default = 1 }\nresource "terraform_data" "one" { input = var.size }\nresource "terraform_data" "two" {}\n'


def backend(kind: str, **settings: str) -> str:
    lines = "".join(f"    {name} = {json.dumps(value)}\n" for name, value in settings.items())
    return f'terraform {{\n  backend "{kind}" {{\n{lines}  }}\n}}\n'


def conn_str(cluster: Cluster, url: str) -> str:
    """As the pg backend takes it."""
    return f"postgres://{USER}:{PASSWORD}@127.0.0.1:{cluster.port}/{url.rpartition('/')[2]}?sslmode=disable"


@dataclass
class Moved:
    """A data folder in which `dev/shop` is registered, and a folder in which somebody runs the engine by hand."""

    folder: Path
    engine: str = "terraform"
    row: StackRow | None = None
    database: str | None = None  # else SQLite in the data folder

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def source(self) -> Path:
        return self.folder / "stacks" / "shop"

    async def made(self, configuration: str, **record: Any) -> None:
        self.source.mkdir(parents=True)
        (self.source / "main.tf").write_text(configuration)
        self.data.mkdir()
        Keyring.open(self.data, role="all")
        store = await self.store()
        given: dict[str, Any] = {"source": {"repo": None, "path": "shop", "git_ref": None}, "engine": self.engine, **record}
        self.row = (await records.register_stack(store, org="local", env="dev", slug="shop", by=ANA, **given)).row
        await store.close()

    async def store(self) -> Store:
        return await Store.open(self.database or f"sqlite+aiosqlite:///{self.data / 'countersign.db'}")

    async def stack(self) -> StackRow:
        store = await self.store()
        async with store.read() as conn:
            found = await records.get_stack(conn, "local", STACK)
        await store.close()
        return found

    async def head(self) -> Head:
        assert self.row is not None
        store = await self.store()
        async with store.read() as conn:
            found = await state.head(conn, "local", self.row.id)
        await store.close()
        return found

    async def audited(self, action: str) -> list[dict[str, Any]]:
        store = await self.store()
        async with store.read() as conn:
            assert await audit.first_broken(conn, "local") is None
            rows = await conn.exec_driver_sql("SELECT body FROM audit WHERE org_id = 'local' ORDER BY seq")
            found = [json.loads(body) for (body,) in rows]
        await store.close()
        return [one for one in found if one["action"] == action]

    # As a person

    def by_hand(self, *arguments: str, **environment: str) -> str:
        """The engine itself, in a folder of the person's own."""
        work = self.folder / "by-hand"
        if not work.exists():
            work.mkdir()
            (work / "main.tf").write_text((self.source / "main.tf").read_text())
        command = "/usr/local/bin/terraform" if self.engine == "terraform" else str(built("opentofu", "tofu"))
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(work), "CHECKPOINT_DISABLE": "1", **environment}
        done = subprocess.run([command, *arguments], cwd=work, env=env, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply_by_hand(self, *more: str, **environment: str) -> None:
        self.by_hand("init", "-input=false", "-reconfigure", **environment)
        self.by_hand("apply", "-auto-approve", "-input=false", *more, **environment)

    def cli(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("COUNTERSIGN_")}
        env = {**kept, "COUNTERSIGN_DATA": str(self.data), "COUNTERSIGN_STACKS": str(self.folder / "stacks")}
        if self.database is not None:
            env["COUNTERSIGN_DATABASE"] = self.database
        if self.engine == "tofu":
            env["COUNTERSIGN_TERRAFORM__TOFU_EXECUTABLE"] = str(built("opentofu", "tofu"))
        done = subprocess.run([str(COMMAND), *arguments], env=env, input=stdin, capture_output=True, timeout=90, check=False)
        said = (done.stdout + done.stderr).decode()
        assert done.returncode == code, f"countersign {' '.join(arguments)} ended with {done.returncode}: {said}"
        return done.stdout.decode()

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        return dict(json.loads(self.cli(*arguments, "--json", code=code)))

    def says(self, *arguments: str, code: int = 1) -> str:
        """Why it refuses."""
        return str(self.json(*arguments, code=code)["error"]["message"])
