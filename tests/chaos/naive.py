"""The same kills for raw Terraform and a loop that tries again: what people have who have no gate.

The loop is the usual one: `apply` of the saved plan until it ends with 0; a lock that is left is broken by force; a plan that is
refused is made again. Its state lies in an HTTP backend, as a team's does, and the cloud counts the truth as in the matrix.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.acceptance.installed import eventually
from tests.chaos.lane import CANARY, stack_of
from tests.chaos.points import ALL, SERVER, Op, Point, Victim
from tests.chaos.walk import Wanted
from tests.fakecloud.calls import CloudError, Connection
from tests.fakecloud.client import Cloud, Held, cloud, kill_plugins, provider, truth_of
from tests.fakecloud.mirror import ENVIRONMENT, write_mirror
from tests.fakecloud.raw import Raw, raw

TRIES = 6
TOGETHER = 3
LOCK = re.compile(r"^\s*│?\s*ID:\s+(\S+)", re.MULTILINE)


def points() -> list[Point]:
    """Kills of the matrix that raw Terraform has as well: of itself and of its provider, while it applies."""
    kept = (Victim.TERRAFORM, Victim.PROVIDER)
    return [p for p in ALL if p.victim in kept and p.type == SERVER and p.in_apply and p.at.op != "launch" and not (p.first or p.also)]


class Backend:
    """A state server as teams write it: one state and one lock per name, and no rules. Held up by the cloud's gates."""

    def __init__(self, gates: Connection) -> None:
        self.states: dict[str, bytes] = {}
        self.locks: dict[str, bytes] = {}
        self._gates = gates

    def answer(self, method: str, name: str, body: bytes) -> tuple[int, bytes]:
        op = {"LOCK": "lock.apply", "UNLOCK": "unlock.apply", "POST": "write.apply"}.get(method)
        self._pass(op, "before", name)
        told = self._done(method, name, body)
        self._pass(op, "after", name)
        return told

    def _done(self, method: str, name: str, body: bytes) -> tuple[int, bytes]:
        match method:
            case "GET":
                return (200, self.states[name]) if name in self.states else (204, b"")
            case "LOCK" if name in self.locks:
                return 423, self.locks[name]
            case "LOCK":
                self.locks[name] = body
            case "UNLOCK":
                self.locks.pop(name, None)
            case _:
                self.states[name] = body
        return 200, b""

    def _pass(self, op: str | None, when: str, name: str) -> None:
        if op is not None:
            with contextlib.suppress(CloudError):
                self._gates.call("POST", "/gates", {"op": op, "when": when, "name": name})


@contextlib.contextmanager
def serving(backend: Backend) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, data = backend.answer(self.command, self.path.partition("?")[0].strip("/"), body)
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_LOCK = do_UNLOCK = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # whoever asked was killed

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True, kw_only=True)
class Ended:
    point: Point
    code: int
    tries: int
    duplicates: int
    lost: int
    planned: int = 0  # times it planned again, which nobody looked at

    @property
    def damaged(self) -> bool:
        return bool(self.duplicates or self.lost)


@dataclass
class Loop:
    """One point: a stack by hand, killed once, and tried until it says that all is well."""

    point: Point
    seed: int
    name: str
    work: Raw
    world: Cloud
    backend: Backend

    async def ended(self) -> Ended:
        wanted = Wanted()
        if self.point.op is not Op.CREATE:
            await self._planned(Op.CREATE, wanted)
            await self.work.run("apply", "-input=false", "-no-color", "saved.plan")
            wanted = wanted.after(self.point.op)
        before = len(self._record())
        await self._planned(self.point.op, wanted)
        await self._killed()
        tries, planned, code = 0, 0, 1
        while code != 0 and tries < TRIES:
            tries += 1
            code, said = await self._apply()
            if code != 0 and (locked := LOCK.search(said)) is not None:
                await self.work.run("force-unlock", "-force", locked.group(1), codes=(0, 1))
            elif code != 0:
                planned += 1
                await self._planned(self.point.op, wanted, codes=(0, 1))
        record = self._record()
        truth = truth_of(record, json.loads(self.backend.states.get(self.name, b"{}") or b"{}"))
        made = [line["object"]["name"] for line in record[before:] if line["op"] == "create"]
        twice = len(made) - len(set(made))
        lost = len(truth.lost) + len(truth.orphans)
        return Ended(point=self.point, code=code, tries=tries, duplicates=max(len(truth.duplicates), twice), lost=lost, planned=planned)

    def _record(self) -> list[dict[str, Any]]:
        return [line for line in self.world.record if line["object"]["project"] == self.name]

    async def _planned(self, op: Op, wanted: Wanted, codes: tuple[int, ...] = (0,)) -> None:
        values = {"project": self.name, "canary": CANARY, "size": str(wanted.size), "kind": wanted.kind}
        flags = [f"-var={name}={value}" for name, value in values.items()]
        flags += ["-destroy"] if op is Op.DESTROY else []
        await self.work.run("plan", "-input=false", "-no-color", "-out=saved.plan", *flags, codes=codes)

    async def _apply(self) -> tuple[int, str]:
        process = await self.work.start("apply", "-input=false", "-no-color", "saved.plan")
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        return process.returncode or 0, (out + err).decode(errors="replace")

    async def _killed(self) -> None:
        held = self._hook()
        process = await self.work.start("apply", "-input=false", "-no-color", "saved.plan")
        try:
            await asyncio.to_thread(held.reached, 60.0)
            drops = self.point.at.in_cloud and self.seed % 4 >= 2
            plugin = self.point.victim is Victim.PROVIDER
            if not plugin:
                os.killpg(process.pid, signal.SIGSTOP)
            if not drops and not plugin:
                await self._let_go(held, "go")
            if plugin:
                kill_plugins(self.name)
            else:
                os.killpg(process.pid, signal.SIGKILL)
            held.release("drop" if drops else "go")
        finally:
            async with asyncio.timeout(60):
                await process.communicate()

    async def _let_go(self, held: Held, then: str) -> None:
        held.release(then)

        async def gone() -> bool:
            return (await asyncio.to_thread(held.connection.call, "GET", f"/hooks/{held.id}"))[1]["waiting"] == 0

        await eventually(gone, "the cloud to go on")

    def _hook(self) -> Held:
        at = self.point.at
        if at.in_cloud:
            return self.world.hook(op=at.op, type="fake_*", name=at.name, project=self.name, when=at.when)
        return self.world.hook(op=at.op, type="gate", name=self.name, when=at.when)


@contextlib.asynccontextmanager
async def _by_hand(folder: Path, name: str, environment: dict[str, str], address: str, mirror: Path | None) -> AsyncIterator[Raw]:
    folder.mkdir(parents=True)
    where = {f"TF_HTTP_{which}ADDRESS": f"{address}/{name}" for which in ("", "LOCK_", "UNLOCK_")}
    text = 'terraform {\n  backend "http" {}\n}\n' + stack_of(SERVER)
    async with raw(folder, text, {**environment, **where, "COUNTERSIGN_ATTEMPT": name}, mirror=mirror) as work:
        await work.run("init", "-input=false", "-no-color")
        yield work


async def run(folder: Path, *, seed: int) -> dict[str, Any]:
    """All points that raw Terraform has; what came of them, side by side with the matrix's own document."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "cloud").mkdir(parents=True)
    write_mirror(folder / "mirror")
    ended: list[Ended] = []
    slots = asyncio.Semaphore(TOGETHER)
    async with cloud(folder / "cloud") as world:
        backend = Backend(world.connection)
        with serving(backend) as address:

            async def one(number: int, point: Point) -> None:
                name, plugin = f"naive-{number}", point.victim is Victim.PROVIDER
                async with slots, contextlib.AsyncExitStack() as stack:
                    environment, mirror = {"FAKE_CLOUD": world.address, **ENVIRONMENT}, folder / "mirror"
                    if not plugin:
                        fake = await stack.enter_async_context(provider(world))
                        environment, mirror = {"TF_REATTACH_PROVIDERS": fake.reattach}, None
                    work = await stack.enter_async_context(_by_hand(folder / name, name, environment, address, mirror))
                    loop = Loop(point=point, seed=point.seed(seed), name=name, work=work, world=world, backend=backend)
                    ended.append(await loop.ended())
                    print(_line(ended[-1]), flush=True)

            async with asyncio.TaskGroup() as working:
                for number, point in enumerate(points()):
                    working.create_task(one(number, point))
    return told(ended, seed)


def told(ended: Sequence[Ended], seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "points": len(ended),
        "duplicates": sum(one.duplicates for one in ended),
        "lost": sum(one.lost for one in ended),
        "unapproved": sum(one.planned for one in ended),
        "stuck": sum(one.code != 0 for one in ended),
        "damaged": sum(one.damaged for one in ended),
        "silent": sum(one.damaged and one.code == 0 for one in ended),
        "rows": [
            {"id": o.point.id, "code": o.code, "tries": o.tries, "duplicates": o.duplicates, "lost": o.lost, "plans_nobody_saw": o.planned}
            for o in sorted(ended, key=lambda o: o.point.id)
        ],
    }


def _line(one: Ended) -> str:
    said = f"{one.duplicates} made twice, {one.lost} lost" if one.damaged else "no harm"
    return f"naive   {one.point.id}: {said}, exit code {one.code} after {one.tries} tries"
