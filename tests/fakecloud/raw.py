"""Terraform as people run it by hand, on the fake cloud: a folder, local state, and nothing of ours around it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from countersign.adapters.settings import Settings
from countersign.adapters.terraform.environment import write_cli_config
from countersign.adapters.terraform.executable import resolve
from countersign.adapters.terraform.workspace import short_folder
from tests.fakecloud.client import PATIENCE, end
from tests.fakecloud.provider import ADDRESS

REQUIRED = f"""terraform {{
  required_providers {{
    fake = {{ source = "{ADDRESS}" }}
  }}
}}
"""


@dataclass
class Raw:
    folder: Path
    environment: dict[str, str]
    argv: tuple[str, ...]

    def configure(self, text: str) -> None:
        (self.folder / "main.tf").write_text(REQUIRED + text)

    async def run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """What the command said on standard output; fails unless it ends with one of `codes`."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(2 * PATIENCE):
                out, err = await process.communicate()
        finally:
            await end(process)
        assert process.returncode in codes, (arguments, process.returncode, out.decode()[-2000:], err.decode()[-2000:])
        return out.decode()

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *self.argv, *arguments, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, start_new_session=True
        )

    async def planned(self, *flags: str) -> dict[str, Any]:
        """A saved plan (`saved.plan`), as `show -json` tells it."""
        await self.run("plan", "-input=false", "-no-color", "-out=saved.plan", *flags)
        return json.loads(await self.run("show", "-json", "saved.plan"))

    async def applied(self, *flags: str) -> dict[str, Any]:
        """Plan and apply; the state afterwards."""
        await self.planned(*flags)
        await self.run("apply", "-input=false", "-no-color", "saved.plan")
        return self.state

    @property
    def state(self) -> dict[str, Any]:
        file = self.folder / "terraform.tfstate"
        return json.loads(file.read_bytes()) if file.exists() and file.stat().st_size else {}

    def object(self, address: str) -> dict[str, Any]:
        """The attributes of `type.name`."""
        kind, _, name = address.partition(".")
        [found] = [r for r in self.state["resources"] if (r["type"], r["name"]) == (kind, name)]
        return found["instances"][0]["attributes"]


@contextlib.asynccontextmanager
async def raw(folder: Path, text: str, environment: dict[str, str], *, mirror: Path | None = None) -> AsyncIterator[Raw]:
    """Terraform initialised in `folder`/work with the configuration `text`; `environment` says where provider and cloud are."""
    work, temporary = folder / "work", short_folder()
    work.mkdir()
    write_cli_config(folder / "cli.tfrc", mirror=mirror)
    found = resolve("terraform", configured=None, search_path=Settings.model_fields["search_path"].default)
    fixed = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(temporary), "CHECKPOINT_DISABLE": "1"}
    one = Raw(folder=work, environment={**fixed, "TF_CLI_CONFIG_FILE": str(folder / "cli.tfrc"), **environment}, argv=found.prefix)
    one.configure(text)
    try:
        yield one
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


async def kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill -9 Terraform and all its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.communicate()
