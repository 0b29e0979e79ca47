"""The service as installed, on a cloud that counts, for tests that lose its data folder and bring it back."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.installed import Installed, eventually
from tests.fakecloud.client import Cloud, cloud, provider
from tests.fakecloud.provider import ADDRESS
from tests.fakecloud.raw import REQUIRED

SERVERS = (
    REQUIRED
    + """
resource "fake_server" "one" {
  name = "one"
}
resource "fake_server" "two" {
  name = "two"
  size = length(fake_server.one.id)
}
"""
)
THREE = """
resource "fake_server" "three" {
  name = "three"
  size = length(fake_server.two.id)
}
"""
STACK = "local/dev/servers"


@dataclass
class Machine:
    """An installed service whose stack `dev/servers` makes two servers, one after the other."""

    it: Installed
    cloud: Cloud
    folder: Path
    settings: dict[str, str]

    async def up(self) -> None:
        self.it.start()
        await self.it.ready()

    async def another(self, name: str) -> "Machine":
        """Another data folder of the same settings, not started."""
        it = Installed(data=self.folder / name, stacks=self.folder / "stacks", settings=self.settings)
        return Machine(it=it, cloud=self.cloud, folder=self.folder, settings=self.settings)

    def configure(self, text: str) -> None:
        (self.folder / "stacks" / "servers" / "main.tf").write_text(text)

    def json(self, *arguments: str, code: int | None = 0) -> dict[str, Any]:
        """The document a command ends with."""
        answer = self.it.cli(*arguments, "--json", code=code)
        return dict(json.loads(answer.strip().splitlines()[-1]))

    def run(self, run_id: str) -> dict[str, Any]:
        return dict(self.json("show", run_id, code=None)["run"])

    def waiting(self, *more: str) -> str:
        """A run that waits for a person."""
        return str(self.json("apply", "dev/servers", *more, code=3)["run"]["run_id"])

    def agree(self, run_id: str, code: int | None = 0, *more: str) -> None:
        self.it.cli("approve", run_id, "--digest", str(self.run(run_id)["plan_digest"]), "--no-wait", *more, code=code)

    async def reaches(self, run_id: str, *states: str, patience: float = 60.0) -> dict[str, Any]:
        async def there() -> dict[str, Any] | None:
            run = self.run(run_id)
            return run if run["state"] in states else None

        try:
            found: dict[str, Any] = await eventually(there, f"{run_id} to be {states}", patience)
        except AssertionError:
            raise AssertionError(f"{run_id} is not {states} but {self.it.cli('show', run_id, code=None)}") from None
        return found

    async def tells(self, run_id: str, text: str) -> None:
        """Whoever looks at the run is told that."""

        async def said() -> bool:
            return text in self.it.cli("show", run_id, code=None)

        await eventually(said, f"{run_id} to tell {text}")

    async def applied(self) -> str:
        run_id = self.waiting()
        self.agree(run_id)
        await self.reaches(run_id, "applied")
        return run_id

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.it.cli("state", "pull", "dev/servers")))

    def is_clean(self) -> None:
        truth = self.cloud.truth(self.state())
        assert (truth.duplicates, truth.lost, truth.orphans) == ([], [], [])


@contextlib.asynccontextmanager
async def machine(folder: Path, **settings: str) -> AsyncIterator[Machine]:
    (folder / "cloud").mkdir()
    (folder / "stacks" / "servers").mkdir(parents=True)
    async with cloud(folder / "cloud") as world, provider(world) as fake:
        environment = {
            "COUNTERSIGN_TERRAFORM__ENVIRONMENT": json.dumps({"TF_REATTACH_PROVIDERS": fake.reattach}),
            "COUNTERSIGN_TERRAFORM__ALLOWED_PROVIDERS": json.dumps([ADDRESS]),
            "COUNTERSIGN_TERRAFORM__UNIQUE": json.dumps({"fake_server": {"id": "{project}/{name}", "made": "created_at"}}),
            **settings,
        }
        it = Installed(data=folder / "data", stacks=folder / "stacks", settings=environment)
        made = Machine(it=it, cloud=world, folder=folder, settings=environment)
        made.configure(SERVERS)
        await made.up()
        try:
            it.cli("stack", "register", "dev/servers", "--source", "servers")
            yield made
        finally:
            it.stop()
