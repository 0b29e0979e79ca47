"""Parts that are forked from a process which has loaded what they need: to everybody else they are programs that were started."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from countersign.adapters.process import Zygote, stop_service
from countersign.cli import nursery
from countersign.cli.ground import born
from countersign.cli.nursery import Nursery
from countersign.cli.supervisor import Part
from countersign.core.errors import Unavailable

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere parts are started as programs"),
]
PATIENCE = 20.0  # seconds; every wait is bounded
ENV = {"PATH": "/usr/bin:/bin", "OURS": "the zygote's"}
# Words behind `part` are Python to run.
PROGRAM = """
import os, random, signal, sys, time
from countersign.adapters.process import serve_zygote
words = sys.argv[1:]
while words[0] == "fork":
    loaded = time
    argv = serve_zygote()
    words = argv[argv.index("-c") + 2 :]
print("up", flush=True)
exec(words[1])
"""
FORKED = (sys.executable, "-c", PROGRAM, "fork", "and some room for longer words: " + "." * 400)
STAYS = "while True: time.sleep(0.05)"


def part(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", PROGRAM, "part", script)


@asynccontextmanager
async def zygote() -> AsyncIterator[Zygote]:
    it = Zygote.begun(FORKED, env=ENV)
    try:
        yield it
    finally:
        await it.ended()
    assert it.gone


async def until(probe: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not probe():
        assert time.monotonic() < ends, f"waited {PATIENCE} s for {what}"
        await asyncio.sleep(0.02)


async def test_a_part_has_the_words_environment_session_log_and_exit_code_of_a_program(tmp_path: Path) -> None:
    says = (
        "print(*os.environ.items(), os.getsid(0) == os.getpid(), os.getppid(), flush=True); print('oh', file=sys.stderr); sys.stdin.read()"
    )
    ends = "sys.exit(7)"
    async with zygote() as it:
        forked = await it.fork(part(f"{says}; {ends}"), env={"OURS": "its own"}, log=tmp_path / "it.log")

        assert await asyncio.wait_for(forked.wait(), PATIENCE) == 7
        assert forked.returncode == 7
    assert (tmp_path / "it.log").read_text().splitlines() == ["up", f"('OURS', 'its own') True {os.getpid()}", "oh"]
    assert (tmp_path / "it.log").stat().st_mode & 0o777 == 0o600


async def test_whoever_looks_sees_which_part_it_is(tmp_path: Path) -> None:
    async with zygote() as it:
        forked = await it.fork(part(STAYS), env=ENV, log=tmp_path / "it.log")
        words = Path(f"/proc/{forked.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")

        assert words == [word.encode() for word in part(STAYS)]
        assert await stop_service(forked) == -signal.SIGTERM


async def test_parts_do_not_share_their_chance(tmp_path: Path) -> None:
    async with zygote() as it:
        for log in ("a.log", "b.log"):
            await (await it.fork(part("print(random.random())"), env=ENV, log=tmp_path / log)).wait()
    assert (tmp_path / "a.log").read_text() != (tmp_path / "b.log").read_text()


async def test_the_end_of_a_zygote_ends_no_part(tmp_path: Path) -> None:
    async with zygote() as it:
        forked = await it.fork(part(STAYS), env=ENV, log=tmp_path / "it.log")
    assert forked.returncode is None
    assert born(forked.pid) is not None

    assert await stop_service(forked) == -signal.SIGTERM


async def test_a_zygote_forks_another_that_outlives_it(tmp_path: Path) -> None:
    async with zygote() as first:
        second = await first.zygote(FORKED, env=ENV, log=tmp_path / "second.log")
    forked = await second.fork(part("sys.exit(3)"), env=ENV, log=tmp_path / "it.log")

    assert await forked.wait() == 3
    await second.ended()
    assert second.gone


async def test_what_has_threads_is_not_forked_from(tmp_path: Path) -> None:
    threaded = PROGRAM.replace("loaded = time", "import threading; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
    it = Zygote.begun((sys.executable, "-c", threaded, "fork"), env=ENV)

    with pytest.raises(Unavailable):
        await it.fork(part(STAYS), env=ENV, log=tmp_path / "it.log")
    await it.ended()


# What it does instead of saying that what it let go has settled.
LET_GO = """
import signal
from countersign.adapters.process import forking
class InTheMiddle:
    def __getattr__(self, name):
        return getattr(os, name)
    def write(self, to, said):
        os.write(to, said)
        if said == b"!":
            os.kill(os.getpid(), signal.NAME)
forking.os = InTheMiddle()
"""


def children() -> set[int]:
    return {int(pid) for pid in os.listdir("/proc") if pid.isdigit() and parent_of(pid) == os.getpid()}


def parent_of(pid: str) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


@pytest.mark.parametrize("end", ["SIGKILL", "SIGSTOP"])
async def test_what_a_zygote_let_go_and_never_told_of_does_not_run_on(end: str, tmp_path: Path) -> None:
    """It is killed, or whoever asked gives up meanwhile."""
    before = children()
    it = Zygote.begun((sys.executable, "-c", LET_GO.replace("NAME", end) + PROGRAM, *FORKED[3:]), env=ENV)
    asked = asyncio.ensure_future(it.fork(part(STAYS), env=ENV, log=tmp_path / "it.log"))
    if end == "SIGSTOP":
        await until(lambda: (tmp_path / "it.log").exists() and "up" in (tmp_path / "it.log").read_text(), "the part to run")
        asked.cancel()

    with pytest.raises((Unavailable, asyncio.CancelledError)):
        await asyncio.wait_for(asked, PATIENCE)
    await it.ended()

    assert children() - before == set()


@pytest.mark.parametrize("change", ["written", "gone"])
async def test_what_has_loaded_files_that_changed_is_not_forked_from(change: str, tmp_path: Path) -> None:
    """An upgrade: a part would be half of the old version and half of the new."""
    (file := tmp_path / "upgraded.py").write_text("")
    loads = f"import countersign; countersign.__path__.append({str(tmp_path)!r}); import countersign.upgraded\n"
    it = Zygote.begun((sys.executable, "-c", loads + PROGRAM, *FORKED[3:]), env=ENV)
    assert await (await it.fork(part("sys.exit(3)"), env=ENV, log=tmp_path / "it.log")).wait() == 3

    file.write_text("new = 1") if change == "written" else file.unlink()

    with pytest.raises(Unavailable):
        await it.fork(part(STAYS), env=ENV, log=tmp_path / "it.log")
    await it.ended()


async def test_closing_a_zygote_ends_the_request_it_has_not_answered(tmp_path: Path) -> None:
    it = Zygote.begun((sys.executable, "-c", "while True: __import__('time').sleep(1)"), env=ENV)
    asked = asyncio.ensure_future(it.fork(part(STAYS), env=ENV, log=tmp_path / "it.log"))
    await until(lambda: (tmp_path / "it.log").exists(), "the request")

    await it.ended()

    with pytest.raises(Unavailable):
        await asyncio.wait_for(asked, PATIENCE)


ASKING = """
import asyncio, sys
from pathlib import Path
from countersign.adapters.process import Zygote

async def main(log, forked, part):
    it = Zygote.begun(forked, env={"PATH": "/usr/bin:/bin"})
    made = await it.fork(part, env={}, log=log)
    print(it._process.pid, made.pid, flush=True)
    await asyncio.Event().wait()

words = sys.argv[2:]
asyncio.run(main(Path(sys.argv[1]), words[:words.index("then")], words[words.index("then") + 1:]))
"""


async def test_parts_and_zygote_end_with_whoever_asked_also_when_it_is_killed(tmp_path: Path) -> None:
    asker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASKING, str(tmp_path / "it.log"), *FORKED, "then", *part(STAYS), stdout=asyncio.subprocess.PIPE
    )
    assert asker.stdout is not None
    pids = [int(word) for word in (await asyncio.wait_for(asker.stdout.readline(), PATIENCE)).split()]
    assert all(born(pid) for pid in pids)
    asker.kill()
    await asker.wait()

    await until(lambda: not any(born(pid) for pid in pids), "both to end")


async def test_a_part_has_its_log_also_where_whoever_asked_has_no_standard_error(tmp_path: Path) -> None:
    says = "print(open(os.devnull).fileno() > 2, flush=True); os.write(2, b'oh')"
    closed = ("/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", ASKING)
    asker = await asyncio.create_subprocess_exec(
        *closed, str(tmp_path / "it.log"), *FORKED, "then", *part(says), stdout=asyncio.subprocess.PIPE
    )
    log = tmp_path / "it.log"
    try:
        await until(lambda: log.exists() and "oh" in log.read_text(), "its standard error in the log")
    finally:
        asker.kill()
        await asker.wait()

    assert log.read_text().splitlines() == ["up", "True", "oh"]


# -- The ones of `up`


def of(kind: str, tmp_path: Path, *words: str) -> Part:
    async def ready(_: int) -> bool:
        return True

    env = {**os.environ, "COUNTERSIGN_DATA": str(tmp_path)}
    return Part(name="it", argv=nursery.program(*words), env=env, log=tmp_path / "logs" / "it.log", ready=ready, zygote=kind)


def zygotes(of: Nursery) -> dict[str, int]:
    return {kind: one._process.pid for kind, one in of._zygotes.items()}


@pytest.mark.parametrize("kind", ["store", "temporal"])
async def test_what_parts_are_forked_from_has_one_thread_and_nothing_open(kind: str, tmp_path: Path) -> None:
    async with Nursery(tmp_path, cwd=tmp_path) as them:
        forked = await them.start(of(kind, tmp_path, "state", "--nonsense"))
        await forked.wait()
        pid = zygotes(them)[kind]

        assert os.listdir(f"/proc/{pid}/task") == [str(pid)]
        assert sorted(os.listdir(f"/proc/{pid}/fd"), key=int) == ["0", "1", "2"]
    assert "--nonsense" in (tmp_path / "logs" / "it.log").read_text()


async def test_a_killed_zygote_is_replaced_for_the_next_part(tmp_path: Path) -> None:
    async with Nursery(tmp_path, cwd=tmp_path) as them:
        await (await them.start(of("temporal", tmp_path, "state", "--nonsense"))).wait()
        before = zygotes(them)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not any(born(pid) for pid in before.values()), "both to end")

        assert await (await them.start(of("temporal", tmp_path, "state", "--nonsense"))).wait() == 1
        assert set(zygotes(them)) == {"store", "temporal"}
        assert not set(zygotes(them).values()) & set(before.values())


async def test_where_nothing_can_be_forked_a_part_is_started_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "FORK", "no-such-word")
    async with Nursery(tmp_path, cwd=tmp_path) as them:
        started = await asyncio.wait_for(them.start(of("temporal", tmp_path, "state", "--nonsense")), PATIENCE)

        assert await started.wait() == 1
    assert "--nonsense" in (tmp_path / "logs" / "it.log").read_text()


async def test_where_nothing_can_be_forked_that_is_tried_once_and_told_in_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nursery, "FORK", "no-such-word")
    log = tmp_path / "logs" / "zygote.log"
    log.parent.mkdir()
    async with Nursery(tmp_path, cwd=tmp_path, first=nursery.begun(tmp_path)) as them:
        for kind in ("temporal", "store", "temporal"):
            assert await (await them.start(of(kind, tmp_path, "state", "--nonsense"))).wait() == 1

    assert log.read_text().count("KeyError: 'no-such-word'") == 1
    assert capfd.readouterr().err == ""
