"""`make bench`: what Countersign costs beside the raw tool, in one run, on this machine; JSON to build/bench.json.

Raw runs and ours are interleaved, because these machines are noisy: only differences within one run say something. Exit 1
when a figure misses its target.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client

from countersign.cli.ground import processes_of
from tests.acceptance.installed import REPOSITORY, Installed, call, until
from tests.bench import door, releases
from tests.bench.raw import Raw, raw

GO_SETTINGS = {"GOGC": "400"}  # what settings give the engine by default; the floor gets the same
AFTER_MANY = 1.0  # seconds after which what many runs leave to be tidied is charged to nobody else
SETTINGS = """
[[organizations]]
slug = "local"
environments = [{slug = "dev"}, {slug = "auto", rank = 1}]

[policy]
rules = [{env = "local/auto", need = "auto"}, {need = "person"}]
"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    name: str
    value: float
    unit: str
    target: float
    baseline: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None  # lowest and highest of the runs

    def __post_init__(self) -> None:
        object.__setattr__(self, "met", self.value <= self.target)

    def told(self) -> dict[str, Any]:
        told = {k: round(v, 3) if isinstance(v, float) else v for k, v in vars(self).items() if v is not None}
        return told | ({"spread": [round(x, 1) for x in self.spread]} if self.spread else {})


def figure(name: str, values: list[float], unit: str, target: float, **more: Any) -> Figure:
    value = statistics.median(values)
    made = Figure(name=name, value=value, unit=unit, target=target, spread=(min(values), max(values)), **more)
    print(f"  {name}: {value:.1f} {unit} (target {target:g}; {min(values):.1f} … {max(values):.1f})", flush=True)
    return made


@dataclass
class Bench:
    it: Installed
    raw: Raw
    agent: Client
    person: Client
    person_key: str
    stacks: Path
    small: Path
    repeat: int

    async def stack(self, env: str, slug: str, path: str) -> None:
        await call(self.agent, "terraform_register_workspace", env=env, workspace=slug, source={"path": path})

    async def auto(self, slug: str) -> float:
        """Seconds from the call to applied, where policy agrees by itself."""
        begun = time.perf_counter()
        answer = await call(self.agent, "apply_terraform", env="auto", workspace=slug, wait_seconds=25)
        await self._ended(answer["run"])
        return time.perf_counter() - begun

    async def approved(self, slug: str) -> tuple[float, float]:
        """(seconds in all without the pause for people, seconds from the approval to the engine's process)."""
        begun = time.perf_counter()
        answer = await call(self.agent, "apply_terraform", env="dev", workspace=slug, wait_seconds=25)
        planned = time.perf_counter() - begun
        run = answer["run"]
        assert run["state"] == "awaiting_approval", run
        await asyncio.sleep(0.1)
        with Watching(self.it.data / "attempts") as started:
            at = time.time()
            begun = time.perf_counter()
            approved = await call(self.person, "run_approve", run_id=run["run_id"], plan_digest=run["plan_digest"])
            await self._ended(approved["run"])
            applied = time.perf_counter() - begun
        await asyncio.sleep(0.1)
        return planned + applied, started.first() - at

    async def _ended(self, run: dict[str, Any]) -> None:
        if run["state"] != "applied":
            await until(self.agent, run["run_id"], "applied")

    async def small_stack(self) -> list[Figure]:
        print("12 resources in two modules", flush=True)
        for number in range(self.repeat + 2):
            await self.stack("dev", f"small-{number}", "small")
            await self.stack("auto", f"small-{number}", "small")
        floor, totals, autos, starts = [], [], [], []
        for number in range(self.repeat + 2):
            raw_run = await asyncio.to_thread(self.raw.run, self.small, go_settings=GO_SETTINGS)
            total, start = await self.approved(f"small-{number}")
            auto = await self.auto(f"small-{number}")
            if number >= 2:  # the first ones warm up
                floor.append(1000 * raw_run)
                totals.append(1000 * (total - raw_run))
                autos.append(1000 * (auto - raw_run))
                starts.append(1000 * start)
        base = statistics.median(floor)
        print(f"  raw: {base:.1f} ms", flush=True)
        return [
            figure("small_beyond_raw", totals, "ms", 120, baseline=base, ratio=1 + statistics.median(totals) / base),
            figure("small_auto_beyond_raw", autos, "ms", 80, baseline=base, ratio=1 + statistics.median(autos) / base),
            figure("approve_to_process", starts, "ms", 40),
        ]

    async def large_stack(self) -> list[Figure]:
        print("1000 resources", flush=True)
        repeat = max(3, self.repeat - 2)
        floor, ours = [], []
        for number in range(repeat + 1):
            await self.stack("auto", f"large-{number}", "large")
            await asyncio.sleep(AFTER_MANY)
            raw_run = await asyncio.to_thread(self.raw.run, self.stacks / "large", go_settings=GO_SETTINGS)
            auto = await self.auto(f"large-{number}")
            if number:
                floor.append(raw_run)
                ours.append(auto / raw_run)
        await self.stack("dev", "large", "large")
        answer = await call(self.agent, "terraform_plan", env="dev", workspace="large", wait_seconds=25)
        ended = await until(self.agent, answer["run"]["run_id"], "planned_and_finished")
        plan = await self.agent.call_tool("run_plan", {"run_id": ended["run"]["run_id"]})
        text = json.dumps(plan.structured_content, ensure_ascii=False) + "".join(getattr(c, "text", "") for c in plan.content)
        pages = await self._pages(ended["run"]["run_id"])
        return [
            figure("large_ratio", ours, "× raw", 1.1, baseline=statistics.median(floor)),
            figure("plan_of_1000_changes", [len(text.encode()) / 4], "tokens (bytes / 4)", 4000),
            figure("page_of_1000_changes", pages, "ms", 100),
        ]

    async def _pages(self, run_id: str) -> list[float]:
        """Milliseconds for the page of a run, as a person who is signed in gets it; the first one loads the templates."""
        front = f"http://127.0.0.1:{self.it.front_port}"
        took = []
        async with httpx2.AsyncClient(timeout=30, headers={"Sec-Fetch-Site": "same-origin"}) as http:
            signed_in = await http.post(f"{front}/signin", data={"key": self.person_key})
            assert signed_in.status_code == 303, signed_in.text
            for _ in range(32):
                begun = time.perf_counter()
                page = await http.get(f"{front}/runs/{run_id}")
                took.append(1000 * (time.perf_counter() - begun))
                assert page.status_code == 200 and "Changes 1 to 100 of 1000" in page.text
        return took[2:]

    async def sixteen(self) -> list[Figure]:
        print("16 small stacks at once", flush=True)
        ratios, floor = [], []
        sixteen = range(16)
        with ThreadPoolExecutor(len(sixteen)) as hands:  # asyncio's own has six on two cores, and sixteen would not be at once
            for round_ in range(max(3, 2 * self.repeat - 3)):  # one pair varies by a fifth, whoever is measured
                for number in sixteen:
                    await self.stack("auto", f"burst-{round_}-{number}", "small")
                await asyncio.sleep(AFTER_MANY)
                begun = time.perf_counter()
                runs = (hands.submit(self.raw.run, self.small, go_settings=GO_SETTINGS) for _ in sixteen)
                await asyncio.gather(*(asyncio.wrap_future(run) for run in list(runs)))
                raw_wall = time.perf_counter() - begun
                await asyncio.sleep(AFTER_MANY)
                begun = time.perf_counter()
                await asyncio.gather(*(self.auto(f"burst-{round_}-{number}") for number in sixteen))
                ratios.append((time.perf_counter() - begun) / raw_wall)
                floor.append(raw_wall)
        return [figure("sixteen_at_once", ratios, "× raw", 1.5, baseline=statistics.median(floor))]

    async def reading(self) -> list[Figure]:
        print("run_get over HTTP", flush=True)
        runs = await call(self.agent, "run_list", limit=1)
        run_id = runs["data"]["runs"][0]["run_id"]
        took = []
        for _ in range(220):
            begun = time.perf_counter()
            await self.agent.call_tool("run_get", {"run_id": run_id})
            took.append(1000 * (time.perf_counter() - begun))
        return [figure("run_get", took[20:], "ms", 5)]

    async def door(self) -> list[Figure]:
        print("the door beside the SDK's own trivial tool", flush=True)
        if not (await call(self.agent, "run_list", limit=1))["data"]["runs"]:
            await self.stack("dev", "door", "small")
            await call(self.agent, "terraform_plan", env="dev", workspace="door", wait_seconds=25)
        floor, beyond, listing = await door.beside_the_sdk(self.agent)
        return [
            figure("tools_list", listing, "ms", 15),
            figure("call_beyond_sdk", beyond, "ms", 3, baseline=statistics.median(floor)),
        ]

    async def crowd(self) -> list[Figure]:
        print(f"{door.CLIENTS} clients for {door.SECONDS:.0f} s", flush=True)
        crowd = door.Crowd(self.it)
        await crowd.read()
        for error in crowd.errors[:5]:
            print(f"  {error[:300]}", flush=True)
        took = sorted(crowd.took)
        print(
            f"  {len(took)} reads, median {took[len(took) // 2]:.0f} ms, 99 of 100 within {took[int(0.99 * len(took))]:.0f} ms", flush=True
        )
        half = crowd.memory[len(crowd.memory) // 2]
        return [
            figure("crowd_errors", [float(len(crowd.errors))], "errors", 0),
            figure("crowd_memory_growth", [crowd.memory[-1] - half], "MiB over the second half", 8, baseline=half),
        ]

    async def memory(self) -> list[Figure]:
        print("memory at rest", flush=True)
        await asyncio.sleep(3)
        parts = {part: pss(pid) for part in ("temporal", "state", "worker", "front") if (pid := self.it.pid_of(part))}
        parts["up and what parts are forked from"] = sum(pss(pid) for pid, _ in processes_of(self.it.data)) - sum(parts.values())
        print("  " + ", ".join(f"{name} {mib:.0f}" for name, mib in parts.items()), flush=True)
        return [figure("idle_memory", [sum(parts.values())], "MiB PSS", 450)]


class Watching:
    """When the engine's process of the next attempt began, by the file it writes just before it becomes the engine.

    It looks at nothing but new attempts: whoever reads all of them a thousand times a second takes a core from what is measured.
    """

    def __init__(self, attempts: Path) -> None:
        self._attempts = attempts
        self._before = self._names()
        self._at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _names(self) -> set[str]:
        return set(os.listdir(self._attempts)) if self._attempts.exists() else set()

    def _watch(self) -> None:
        while not self._stop.is_set() and self._at is None:
            for name in self._names() - self._before:
                with contextlib.suppress(FileNotFoundError):
                    self._at = os.stat(self._attempts / name / "run" / "pid").st_mtime
            time.sleep(0.001)

    def __enter__(self) -> "Watching":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def first(self) -> float:
        assert self._at is not None, "no apply began"
        return self._at


def pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def written_stacks(folder: Path) -> None:
    """`small`: 12 resources over two modules. `large`: 1000 resources."""
    module = (
        'variable "n" { type = number }\n'
        'resource "terraform_data" "item" {\n  count = var.n\n  input = count.index\n}\n'
        'output "ids" { value = terraform_data.item[*].id }\n'
    )
    for name in ("left", "right"):
        (folder / "small" / name).mkdir(parents=True)
        (folder / "small" / name / "main.tf").write_text(module)
    calls = "".join(f'module "{name}" {{\n  source = "./{name}"\n  n      = 6\n}}\n' for name in ("left", "right"))
    (folder / "small" / "main.tf").write_text(calls + 'output "left" { value = module.left.ids }\n')
    (folder / "large").mkdir()
    (folder / "large" / "main.tf").write_text('resource "terraform_data" "item" {\n  count = 1000\n  input = "item ${count.index}"\n}\n')


async def cold_starts(folder: Path, repeat: int) -> Figure:
    print("cold `up` to ready", flush=True)
    took = []
    for number in range(repeat):
        it = Installed(data=folder / f"cold-{number}")
        begun = time.perf_counter()
        it.start()
        try:
            await it.ready()
            took.append(time.perf_counter() - begun)
        finally:
            it.stop()
    return figure("cold_up", took, "s", 2.5)


async def helm(folder: Path, repeat: int) -> list[Figure]:
    print("releases of example-data-app", flush=True)
    async with releases.assembled(folder) as bench:
        installs, upgrades, floor = await bench.pairs(repeat)
    base = statistics.median(floor)
    return [
        figure("helm_beyond_raw", installs, "ms", 1000, baseline=base),
        figure("helm_upgrade_beyond_raw", upgrades, "ms", 1000, baseline=base),
    ]


@asynccontextmanager
async def assembled(folder: Path, repeat: int) -> AsyncIterator[Bench]:
    stacks = folder / "stacks"
    written_stacks(stacks)
    data = folder / "data"
    data.mkdir()
    (data / "countersign.toml").write_text(SETTINGS)
    it = Installed(data=data, stacks=stacks)
    it.start()
    try:
        await it.ready()
        agent = it.key("agent:bench", role="platform", acts_for="person:bench")
        person = it.key("person:other", kind="person", role="approver")
        with raw() as baseline:
            async with it.client(agent) as agent_client, it.client(person) as person_client:
                yield Bench(
                    it=it,
                    raw=baseline,
                    agent=agent_client,
                    person=person_client,
                    person_key=person,
                    stacks=stacks,
                    small=stacks / "small",
                    repeat=repeat,
                )
    finally:
        it.stop()


async def main() -> int:
    arguments = argparse.ArgumentParser(prog="make bench", description=__doc__)
    arguments.add_argument(
        "--only", nargs="*", default=[], help="names of parts: small_stack large_stack sixteen reading door crowd memory cold helm"
    )
    arguments.add_argument("--repeat", type=int, default=9)
    given = arguments.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="cs-bench-") as temporary:
        folder = Path(temporary)
        if not given.only or "cold" in given.only:
            figures.append(await cold_starts(folder, 3))
        if not given.only or "helm" in given.only:
            figures += await helm(folder, given.repeat)
        if not given.only or set(given.only) - {"cold", "helm"}:
            async with assembled(folder, given.repeat) as bench:
                parts: tuple[Callable[[], Awaitable[list[Figure]]], ...] = (
                    bench.memory,
                    bench.small_stack,
                    bench.reading,
                    bench.door,
                    bench.crowd,
                    bench.sixteen,
                    bench.large_stack,
                )
                for part in parts:
                    if not given.only or part.__name__ in given.only:
                        figures += await part()
    out = REPOSITORY / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    document = {"load": os.getloadavg()[0], "figures": [f.told() for f in figures]}
    out.write_text(json.dumps(document, indent=1) + "\n")
    missed = [f for f in figures if not vars(f)["met"]]
    names = ", ".join(f.name for f in missed) or "none"
    print(f"{len(figures) - len(missed)} figures met, {len(missed)} missed: {names}; {out.name} has them")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
