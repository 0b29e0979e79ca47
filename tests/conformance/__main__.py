"""`make conformance`: the official conformance suite and the Inspector, strict, against the front as it is installed.

The suite runs against `/fixtures/mcp`, where it finds what its scenarios call, in each version of the protocol, and against `/mcp`
as far as its scenarios need nothing of theirs; the Inspector reads `/mcp` in both eras. Every scenario passes without a warning, or
stands below with the reason why it is left out. The closing line is `N passed, N failed`.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.acceptance.installed import COMMAND, eventually, free_ports
from tests.conformance.node import NODE, environment, installed
from tests.conformance.proxy import with_key

VERSIONS = ("2026-07-28", "2025-11-25")
# Each for something the catalogue does not offer; docs/targets.md tells the same (a test compares).
LEFT_OUT: Mapping[str, str] = {
    "server-sse-polling": "streams are not resumed: a lost one means a new call, which joins the run",
    "tasks-status-notifications": "tasks are polled or their run subscribed to; the suite itself skips the scenario so far",
    "sep-2640-skills-directory": "no skills are offered",
    "sep-2640-skills-enumeration": "no skills are offered",
    "sep-2640-skills-manifest": "no skills are offered",
}
EVERYWHERE = {  # scenarios that call nothing of theirs, and so are run against the product's own tools as well
    "2026-07-28": (
        *("tools-list", "resources-list", "prompts-list", "caching", "http-header-validation", "dns-rebinding-protection"),
        *("sep-2164-resource-not-found", "input-required-result-unsupported-methods"),
    ),
    "2025-11-25": (
        *("server-initialize", "server-session-lifecycle", "ping", "tools-list", "resources-list", "prompts-list"),
        "dns-rebinding-protection",
    ),
}
READS = (  # method of the Inspector, and what it is given
    ("tools/list", ("--strict",)),
    ("resources/list", ()),
    ("resources/templates/list", ()),
    ("resources/read", ("--uri", "tools://manifest")),
    ("prompts/list", ()),
    ("tools/call", ("--tool-name", "whoami", "--tool-args-json", "{}")),
)
WITHIN = 300  # seconds for one command
TOGETHER = 2  # commands at once


@dataclass
class Tally:
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, why: str) -> None:
        """`why` is empty for what passed."""
        if why:
            self.failed[name] = why
        else:
            self.passed.append(name)


# -- the front ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def front(data: Path) -> AsyncIterator[tuple[int, str]]:
    """Port and an administrator's key of a front of its own; what is tested here needs no Temporal and no worker."""
    port, state, temporal, ui = free_ports(4)
    ours = {
        "COUNTERSIGN_DATA": str(data),
        "COUNTERSIGN_FRONT_PORT": str(port),
        "COUNTERSIGN_STATE_PORT": str(state),
        "COUNTERSIGN_TEMPORAL_PORT": str(temporal),
        "COUNTERSIGN_TEMPORAL_UI_PORT": str(ui),
        "COUNTERSIGN_DEVELOPMENT_FIXTURES": "true",
    }
    env = environment(**ours)
    key = await asyncio.to_thread(_key, env)
    log = data / "front.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(COMMAND, "front", env=env, stdout=output, stderr=output)
    try:

        async def answers() -> bool:
            assert process.returncode is None, f"the front ended:\n{log.read_text()}"
            with contextlib.suppress(httpx2.HTTPError):
                async with httpx2.AsyncClient(timeout=2) as http:
                    return (await http.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
            return False

        await eventually(answers, "the front to answer")
        yield port, key
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            await process.wait()


def _key(env: Mapping[str, str]) -> str:
    asked = ["key", "create", "--as", "person:conformance", "--kind", "person", "--role", "admin", "--json"]
    made = subprocess.run([COMMAND, *asked], env=env, capture_output=True, text=True, timeout=WITHIN, check=True)
    return str(json.loads(made.stdout)["key"])


# -- the suite ------------------------------------------------------------------------------------------------------------


class Suites:
    def __init__(self, packages: Path, work: Path, tally: Tally) -> None:
        self._packages, self._work, self._tally = packages, work, tally
        self._turn = asyncio.Semaphore(TOGETHER)
        self._runs = 0

    async def everything(self, url: str, version: str) -> None:
        """The whole suite of one version, in one process; what it lists and did not run has failed."""
        wanted = set(await self._listed(version))
        checks = await self._conformance(url, "--suite", "all", "--spec-version", version)
        for name in sorted(wanted - set(LEFT_OUT)):
            self._tally.add(f"{version} {name}", _verdict(checks.get(name)))

    async def scenario(self, url: str, name: str, *, version: str | None = None, where: str) -> None:
        checks = await self._conformance(url, "--scenario", name, *(("--spec-version", version) if version else ()))
        self._tally.add(f"{where} {name}", _verdict(checks.get(name)))

    async def extensions(self) -> list[str]:
        return [name for name in await self._listed("extension") if name not in LEFT_OUT]

    async def inspector(self, port: int, key: str, era: str, method: str, more: tuple[str, ...]) -> None:
        url = f"http://127.0.0.1:{port}/mcp?servers=core,runs,terraform"  # all there is, not only what the role loads
        command = self._packages / "node_modules" / ".bin" / "mcp-inspector"
        how = ("--transport", "http", "--header", f"Authorization: Bearer {key}", "--protocol-era", era, "--format", "json")
        code, output = await self._node(command, "--cli", url, *how, "--method", method, *more)
        self._tally.add(f"inspector {era} {method}", "" if code == 0 else f"ended with {code}: {output[-1500:]}")

    async def _listed(self, version: str) -> list[str]:
        """Scenarios for servers that the suite has for a version, as it lists them."""
        code, output = await self._node(self._suite, "list")
        assert code == 0, output
        section = output.split("Server scenarios", 1)[1].split("\n\n", 1)[0]
        lines = [line.strip().removeprefix("- ") for line in section.splitlines()[1:]]
        return [name for name, _, versions in (line.partition(" [") for line in lines) if version in versions.rstrip("]").split(",")]

    async def _conformance(self, url: str, *arguments: str) -> dict[str, list[dict[str, Any]]]:
        """The checks of each scenario that was run."""
        self._runs += 1
        results = self._work / f"results-{self._runs}"
        _, output = await self._node(self._suite, "server", "--url", url, *arguments, "-o", str(results))
        found = {name: json.loads(file.read_text()) for name, file in _results(results)}
        assert found, f"the suite left no results for {arguments}:\n{output[-4000:]}"
        return found

    @property
    def _suite(self) -> Path:
        return self._packages / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"

    async def _node(self, *arguments: str | Path) -> tuple[int, str]:
        async with self._turn:
            process = await asyncio.create_subprocess_exec(
                NODE,
                *map(str, arguments),
                env=environment(HOME=str(self._work)),  # the Inspector keeps a catalogue there
                cwd=self._work,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                async with asyncio.timeout(WITHIN):
                    output, _ = await process.communicate()
            except TimeoutError:
                process.kill()
                await process.wait()
                return -1, f"nothing within {WITHIN} s"
            return process.returncode or 0, output.decode(errors="replace")


def _results(folder: Path) -> Iterator[tuple[str, Path]]:
    """`server-<scenario>-<time>/checks.json` by scenario; the time has six dashes: `2026-11-25T22-59-25-005Z`."""
    for file in folder.glob("*/checks.json"):
        yield file.parent.name.removeprefix("server-").rsplit("-", 6)[0], file


def _verdict(checks: list[dict[str, Any]] | None) -> str:
    """Why a scenario did not pass; a warning is no pass, and neither is a scenario that checked nothing."""
    if checks is None:
        return "it was not run"
    bad = [c for c in checks if c["status"] in ("FAILURE", "WARNING")]
    if bad:
        return "\n".join(f"{c['status']} {c['id']}: {c.get('errorMessage') or c.get('description')}" for c in bad)
    return "" if any(c["status"] == "SUCCESS" for c in checks) else "nothing was checked"


# -- all of it ------------------------------------------------------------------------------------------------------------


async def run(work: Path) -> Tally:
    tally, packages = Tally(), installed()
    suites = Suites(packages, work, tally)
    async with (
        front(work) as (port, key),
        with_key(port, key, "/fixtures/mcp") as fixtures,
        with_key(port, key, "/mcp?servers=core,runs,terraform") as product,
        asyncio.TaskGroup() as going,
    ):
        for version in VERSIONS:
            going.create_task(suites.everything(fixtures, version))
            for name in EVERYWHERE[version]:
                going.create_task(suites.scenario(product, name, version=version, where=f"{version} /mcp"))
        for name in await suites.extensions():
            going.create_task(suites.scenario(fixtures, name, where="extension"))
        for era in ("modern", "legacy"):
            for method, more in READS:
                going.create_task(suites.inspector(port, key, era, method, more))
    return tally


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="conformance-") as work:
        tally = asyncio.run(run(Path(work)))
    for name in sorted(tally.passed) if "-v" in sys.argv else ():
        print(f"passed   {name}")
    for name, why in sorted(tally.failed.items()):
        print(f"FAILED   {name}\n{why}")
    for name, why in LEFT_OUT.items():
        print(f"left out {name}: {why}")
    print(f"{len(tally.passed)} passed, {len(tally.failed)} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
