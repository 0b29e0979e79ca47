"""Starting, watching and ending processes: what must hold whatever engine runs."""

import asyncio
import contextlib
import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from countersign.adapters import process
from countersign.adapters.process import Detached, Ended, Lines, TooMuch, end_marked, marked, start_service, stop_service, supervise
from countersign.core.errors import FailedPrecondition, Unavailable
from tests.integration.processes import ENV, PATIENCE, leaves_no_process, new_attempt, python, until
from tests.requirements import requirement

__all__ = ["leaves_no_process"]
pytestmark = pytest.mark.anyio

WAIT = 'until [ -e "$0" ]; do sleep 0.02; done'  # for the file named by $0
SAID = "printf '%s\\n' "


def sh(script: str, *arguments: object) -> list[str]:
    return ["/bin/sh", "-c", script, *map(str, arguments)]


async def ignored(lines: list[bytes]) -> None:
    pass


async def watched(tmp_path: Path, argv: list[str], **options: object) -> tuple[Ended, list[bytes]]:
    heard: list[bytes] = []

    async def listen(lines: list[bytes]) -> None:
        heard.extend(lines)

    ended = await supervise(argv, cwd=tmp_path, env=ENV, folder=tmp_path, on_lines=listen, **options)  # type: ignore[arg-type]
    return ended, heard


def detached(tmp_path: Path) -> Detached:
    return Detached(folder=tmp_path / "run", marker=new_attempt())


async def launched(it: Detached, argv: list[str]) -> Detached:
    hold = await it.hold()
    assert hold is not None
    with hold:
        await hold.launch(argv, cwd=it.folder.parent, env=ENV)
    return it


async def over(it: Detached) -> Detached:
    assert await it.ended(PATIENCE)
    await until(lambda: not it.is_alive(), "all of it to be gone")
    return it


# -- What ends with us


async def test_every_line_is_heard_also_those_written_just_before_the_end(tmp_path: Path) -> None:
    ended, heard = await watched(tmp_path, sh("echo one; echo two; echo trouble >&2; echo three; exit 7"))

    assert (ended.code, ended.errors, heard) == (7, "trouble\n", [b"one", b"two", b"three"])


async def test_lines_are_heard_while_the_command_still_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def listen(lines: list[bytes]) -> None:
        if b"ready" in lines:
            gate.touch()

    argv = sh(f"echo ready; {WAIT}", gate)
    ended = await asyncio.wait_for(supervise(argv, cwd=tmp_path, env=ENV, folder=tmp_path, on_lines=listen, tick=0.02), PATIENCE)

    assert ended.code == 0


@pytest.fixture(params=["in memory", "where nothing can be in memory"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where what commands say is kept."""
    if request.param != "in memory":
        monkeypatch.delattr(os, "memfd_create")


@pytest.mark.usefixtures("kept")
@requirement("secrets:output-off-disk")
async def test_what_a_command_says_has_no_name_and_what_it_makes_is_private(tmp_path: Path) -> None:
    ended, heard = await watched(tmp_path, sh("umask; touch made; ls -A >&2; readlink /proc/self/fd/1 >&2"), read=False)

    assert (ended.out, heard) == (b"0077\n", [])
    made, where = ended.errors.splitlines()
    assert made == "made"
    assert where.endswith(" (deleted)")
    assert [oct(p.stat().st_mode & 0o777) for p in tmp_path.iterdir()] == ["0o600"]


@pytest.mark.usefixtures("kept")
async def test_who_opens_the_output_again_overwrites_nothing(tmp_path: Path) -> None:
    ended, _ = await watched(tmp_path, sh("echo one; echo two >>/proc/self/fd/1; (echo three); echo bad >&2"), read=False)

    assert (ended.out, ended.errors) == (b"one\ntwo\nthree\n", "bad\n")


@pytest.mark.usefixtures("kept")
async def test_much_is_given_back_whole(tmp_path: Path) -> None:
    ended, _ = await watched(tmp_path, sh("head -c 40000000 /dev/zero; echo end"), read=False)

    assert (len(ended.out), ended.out[-5:]) == (40_000_004, b"\0end\n")


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("to", [1, 2])
async def test_what_says_more_than_anybody_reads_is_ended(tmp_path: Path, to: int) -> None:
    script = f"trap 'echo INT >told; exit 1' INT; echo $$ >pid; head -c 3000000 /dev/zero >&{to}; while :; do sleep 0.02; done"

    with pytest.raises(TooMuch, match="sh said more than the 2 MiB that are read of it; have it say less"):
        await asyncio.wait_for(watched(tmp_path, sh(script), read=False, most=2 << 20), PATIENCE)

    assert (tmp_path / "told").read_text() == "INT\n"
    await gone(int((tmp_path / "pid").read_text()))


@pytest.mark.usefixtures("kept")
async def test_what_says_more_than_anybody_reads_is_ended_though_it_never_pauses(tmp_path: Path) -> None:
    lines = [sys.executable, "-c", "while True: print('x' * 1000)"]
    heard = 0

    async def listen(given: list[bytes]) -> None:
        nonlocal heard
        heard += sum(map(len, given))
        await asyncio.sleep(0.001)  # it is never caught up with

    with pytest.raises(TooMuch):
        listening = supervise(lines, cwd=tmp_path, env=ENV, folder=tmp_path, on_lines=listen, most=8 << 20, grace=1.0)
        await asyncio.wait_for(listening, PATIENCE)

    assert heard < 64 << 20


async def test_what_said_more_than_anybody_reads_cannot_go_on_while_it_ends(tmp_path: Path) -> None:
    script = """
import os, pathlib, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    while True:
        os.write(1, b"x" * 100_000)
except OSError as refused:
    pathlib.Path("refused").write_text(str(refused.errno))
"""
    with pytest.raises(TooMuch):
        await asyncio.wait_for(watched(tmp_path, [sys.executable, "-c", script], read=False, most=2 << 20), PATIENCE)

    assert (tmp_path / "refused").read_text() == str(errno.EPERM)


@pytest.mark.usefixtures("kept")
async def test_no_descriptor_is_left_however_a_command_ends(tmp_path: Path) -> None:
    async def fail(lines: list[bytes]) -> None:
        raise ValueError("not that")

    async def ends(argv: list[str], error: type[BaseException] | None, **options: Any) -> None:
        with pytest.raises(error) if error else contextlib.nullcontext():
            await supervise(argv, env=ENV, folder=tmp_path, **{"cwd": tmp_path, "on_lines": ignored, **options})

    await ends(["/bin/true"], None)  # whatever is opened once
    before = sorted(os.listdir("/proc/self/fd"))
    await ends(sh("echo one; exit 3"), None)
    await ends(sh("echo one"), None, read=False)
    await ends(sh("echo one"), ValueError, on_lines=fail)
    await ends(sh("echo one"), TooMuch, most=2)
    await ends(sh("echo one"), Unavailable, stdin=tmp_path / "missing")
    await ends(["/bin/true"], Unavailable, cwd=tmp_path / "missing")
    (tmp_path / "broken").write_text("no program")
    (tmp_path / "broken").chmod(0o700)
    await ends([str(tmp_path / "broken")], Unavailable)
    running = asyncio.create_task(watched(tmp_path, sh("touch ready; sleep 60")))
    await until((tmp_path / "ready").exists, "the command to run")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    for name in ("/nowhere/no-such-engine", "no-such-engine"):
        with pytest.raises(Unavailable, match="no-such-engine cannot be started"):
            await watched(tmp_path, [name])


COUNTS = """
trap 'echo INT >>{folder}/{name}' INT
echo ready >>{folder}/ready
until [ -e {folder}/gate ]; do sleep 0.02; done
"""


async def test_a_cancel_is_one_interrupt_to_the_command_alone_and_then_patience(tmp_path: Path) -> None:
    child = COUNTS.format(folder=tmp_path, name="child")
    script = f"({child}) & {COUNTS.format(folder=tmp_path, name='parent')} wait"
    watching = asyncio.create_task(watched(tmp_path, sh(script), grace=PATIENCE))
    ready = tmp_path / "ready"
    await until(lambda: ready.exists() and ready.read_text().count("ready") == 2, "both to be ready")

    for _ in range(3):  # cancelled again and again, interrupted once
        watching.cancel()
        await until((tmp_path / "parent").exists, "the interrupt")
    assert not watching.done()
    (tmp_path / "gate").touch()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(watching, PATIENCE)

    assert (tmp_path / "parent").read_text() == "INT\n"
    assert not (tmp_path / "child").exists()


async def test_what_does_not_heed_an_interrupt_is_killed_after_the_grace_with_its_group(tmp_path: Path) -> None:
    script = "trap '' INT; (sleep 60) & echo $! >child; touch ready; while :; do sleep 0.05; done"
    watching = asyncio.create_task(watched(tmp_path, sh(script), grace=0.2))
    await until((tmp_path / "ready").exists, "the command to be ready")

    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(watching, PATIENCE)

    await gone(int((tmp_path / "child").read_text()))


async def test_what_a_command_leaves_in_its_group_is_killed(tmp_path: Path) -> None:
    await watched(tmp_path, sh("sleep 60 & echo $! >child"))

    await gone(int((tmp_path / "child").read_text()))


async def test_what_left_the_group_is_found_by_the_marker(tmp_path: Path) -> None:
    attempt = new_attempt()
    argv = sh("setsid sh -c 'touch escaped; sleep 60' & until [ -e escaped ]; do sleep 0.02; done")
    await supervise(argv, cwd=tmp_path, env={**ENV, process.MARKER: attempt}, folder=tmp_path, on_lines=ignored)

    assert len(end_marked(attempt)) in (1, 2)  # the shell and its sleep, if it has come to that
    await until(lambda: not process.marked_processes(attempt), "its end")


async def test_who_was_there_before_is_told_from_who_got_the_same_number_since(tmp_path: Path) -> None:
    attempt = new_attempt()
    argv = sh("setsid sh -c 'touch escaped; sleep 60' & until [ -e escaped ]; do sleep 0.02; done")
    before = process.present()
    await supervise(argv, cwd=tmp_path, env={**ENV, process.MARKER: attempt}, folder=tmp_path, on_lines=ignored)
    left = process.marked_processes(attempt)

    assert not end_marked(attempt, before=process.present()), "all of these were there before"
    had_the_numbers = frozenset((pid, 0) for pid in left)
    assert end_marked(attempt, before=before | had_the_numbers) >= set(left)
    await until(lambda: not process.marked_processes(attempt), "their end")


async def test_a_listener_that_fails_ends_the_command(tmp_path: Path) -> None:
    async def fail(lines: list[bytes]) -> None:
        if lines:
            raise ValueError(lines[0].decode())

    script = "trap 'echo INT >told; exit 1' INT; echo $$; while :; do sleep 0.02; done"
    with pytest.raises(ValueError) as pid:
        await supervise(sh(script), cwd=tmp_path, env=ENV, folder=tmp_path, on_lines=fail, tick=0.02)

    assert (tmp_path / "told").read_text() == "INT\n"
    await gone(int(str(pid.value)))


WORKER = """
import asyncio, sys
from pathlib import Path
from countersign.adapters.process import supervise

async def listen(lines): pass

folder = Path(sys.argv[1])
child = "(trap 'echo INT >child' INT; touch ready; until [ -e told ]; do sleep 0.02; done; sleep 0.2; touch over) & "
argv = ["/bin/sh", "-c", child + "trap 'echo INT >told; exit 0' INT; echo $$ >pid; while :; do sleep 0.02; done"]
asyncio.run(supervise(argv, cwd=folder, env={"PATH": "/usr/bin:/bin"}, folder=folder, on_lines=listen))
"""


async def test_what_only_reads_is_interrupted_when_its_worker_is_killed_and_not_what_it_started(tmp_path: Path) -> None:
    worker = await python(WORKER, tmp_path)
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() and (tmp_path / "ready").exists(), "it to run")

    worker.kill()
    await worker.wait()

    await until((tmp_path / "told").exists, "the command to be told")
    await gone(int((tmp_path / "pid").read_text()))
    await until((tmp_path / "over").exists, "what it started to see that, and go")
    assert not (tmp_path / "child").exists()


AGAIN = """
import asyncio, os, signal, sys
from pathlib import Path
from countersign.adapters.process import guardian, supervise

async def listen(lines): pass

async def main():
    folder, options = Path(sys.argv[1]), {"env": {"PATH": "/usr/bin:/bin"}, "on_lines": listen}
    await supervise(["/bin/true"], cwd=folder, folder=folder, **options)
    first = guardian._guardian.process
    first.kill()
    first.wait()
    argv = ["/bin/sh", "-c", "trap 'echo INT >told; exit 0' INT; touch ready; while :; do sleep 0.02; done"]
    running = asyncio.create_task(supervise(argv, cwd=folder, folder=folder, **options))
    while not (folder / "ready").exists():
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_who_is_to_tell_of_our_end_is_replaced_where_it_was_killed(tmp_path: Path) -> None:
    worker = await asyncio.wait_for(python(AGAIN, tmp_path), PATIENCE)
    await asyncio.wait_for(worker.wait(), PATIENCE)

    await until((tmp_path / "told").exists, "the command to be told")


ENDS = """
import asyncio, sys
from pathlib import Path
from countersign.adapters.process import guardian, supervise

async def listen(lines): pass

folder = Path(sys.argv[1])
asyncio.run(supervise(["/bin/true"], cwd=folder, env={"PATH": "/usr/bin:/bin"}, folder=folder, on_lines=listen))
(folder / "guardian").write_text(str(guardian._guardian.process.pid))
"""


async def test_who_is_to_tell_of_our_end_ends_with_us(tmp_path: Path) -> None:
    worker = await python(ENDS, tmp_path)
    assert await asyncio.wait_for(worker.wait(), PATIENCE) == 0

    await gone(int((tmp_path / "guardian").read_text()))


async def gone(pid: int) -> None:
    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    await until(ended, f"process {pid} to end")


# -- What outlives us


async def test_a_detached_command_leaves_output_errors_and_exit_code(tmp_path: Path) -> None:
    it = await over(await launched(detached(tmp_path), sh("echo said; echo trouble >&2; exit 3")))

    assert it.exit_code() == 3
    assert (it.folder / "journal").read_text() == "said\n"
    assert (it.folder / "errors").read_text() == "trouble\n"
    assert it.output_kept
    assert {oct(p.stat().st_mode & 0o777) for p in it.folder.iterdir()} == {"0o600"}


async def test_a_folder_of_any_name_will_do(tmp_path: Path) -> None:
    folder = tmp_path / """it's "quoted" $(touch pwned) `touch pwned`; \\ 100% new\nline"""
    it = await over(await launched(Detached(folder=folder, marker=new_attempt()), ["/bin/echo", "a b", "'c'", "$HOME", ""]))

    assert it.exit_code() == 0
    assert (folder / "journal").read_text() == "a b 'c' $HOME \n"
    assert not (tmp_path / "pwned").exists() and not (folder / "pwned").exists()


async def test_whoever_asks_to_start_second_is_told_that_it_was(tmp_path: Path) -> None:
    it = await launched(detached(tmp_path), sh(f"echo once; {WAIT}", tmp_path / "gate"))
    again = Detached(folder=it.folder, marker=it.marker)

    assert await again.hold() is None
    (tmp_path / "gate").touch()
    await over(it)
    assert await again.hold() is None


async def test_of_many_at_once_one_starts_it(tmp_path: Path) -> None:
    marker = new_attempt()

    async def start() -> bool:
        hold = await Detached(folder=tmp_path / "run", marker=marker).hold()
        if hold is None:
            return False
        with hold:
            await asyncio.sleep(0)
            await hold.launch(sh("echo started"), cwd=tmp_path, env=ENV)
        return True

    started = await asyncio.gather(*(start() for _ in range(8)))

    await over(Detached(folder=tmp_path / "run", marker=marker))
    assert sum(started) == 1
    assert (tmp_path / "run" / "journal").read_text() == "started\n"


async def test_while_somebody_prepares_it_nobody_else_starts_it_or_gives_it_up(tmp_path: Path) -> None:
    it = detached(tmp_path)
    hold = await it.hold()
    assert hold is not None
    with hold:
        assert it.is_alive()
        assert not await it.abandon(wait=0.1)
        with pytest.raises(Unavailable, match="prepares this attempt"):
            await it.hold(wait=0.1)
    assert not it.is_alive()


async def test_the_lock_is_held_as_long_as_anything_lives(tmp_path: Path) -> None:
    it = await launched(detached(tmp_path), sh(f"(setsid sh -c '{WAIT}' $0 &) ; exit 0", tmp_path / "gate"))
    await until(lambda: it.exit_code() == 0, "the command's end")

    assert it.is_alive()
    (tmp_path / "gate").touch()
    await over(it)


async def test_the_end_is_noticed_at_once_also_by_who_did_not_start_it(tmp_path: Path) -> None:
    it = await launched(detached(tmp_path), sh(WAIT, tmp_path / "gate"))
    other = Detached(folder=it.folder, marker=it.marker)

    assert not await other.ended(0.05)
    waiting = asyncio.create_task(other.ended(PATIENCE))
    await asyncio.sleep(0)
    (tmp_path / "gate").touch()

    assert await asyncio.wait_for(waiting, 2)


async def test_an_engine_that_is_killed_leaves_the_signal_as_exit_code(tmp_path: Path) -> None:
    it = await launched(detached(tmp_path), sh(WAIT, tmp_path / "gate"))
    await until(lambda: (it.folder / "pid").exists() and (it.folder / "pid").read_text().strip(), "its pid")

    os.kill(int((it.folder / "pid").read_text()), signal.SIGKILL)
    await over(it)

    assert it.exit_code() == 128 + signal.SIGKILL


async def test_a_command_whose_wrapper_is_killed_lives_on_and_leaves_no_exit_code(tmp_path: Path) -> None:
    it = await launched(detached(tmp_path), sh(f"{WAIT}; echo finished", tmp_path / "gate"))
    await until(lambda: (it.folder / "pid").exists() and (it.folder / "pid").read_text().strip(), "its pid")
    os.kill(int((it.folder / "pgid").read_text()), signal.SIGKILL)

    assert not await it.ended(0.2)
    (tmp_path / "gate").touch()
    await over(it)

    assert it.exit_code() is None
    assert (it.folder / "journal").read_text() == "finished\n"


HEEDS = "trap 'echo INT' INT; echo ready; " + WAIT  # each interrupt is a line of the journal


async def heeding(tmp_path: Path) -> Detached:
    it = await launched(detached(tmp_path), sh(HEEDS, tmp_path / "gate"))
    journal = it.folder / "journal"
    await until(lambda: journal.exists() and journal.read_text() == "ready\n", "it to be ready")
    return it


async def test_it_is_interrupted_once_whoever_asks_and_however_often(tmp_path: Path) -> None:
    it = await heeding(tmp_path)
    others = [Detached(folder=it.folder, marker=it.marker) for _ in range(3)]

    sent = [other.interrupt() for other in (it, *others, it)]
    await until(lambda: (it.folder / "journal").read_text() == "ready\nINT\n", "the interrupt")
    (tmp_path / "gate").touch()
    await over(it)

    assert sent == [True, False, False, False, False]
    assert others[0].interrupted_at is not None
    assert (it.folder / "journal").read_text() == "ready\nINT\n"


async def test_an_interrupt_that_was_noted_and_never_sent_can_be_sent_again_once(tmp_path: Path) -> None:
    it = await heeding(tmp_path)
    (it.folder / "interrupted").write_text("1.0")  # whoever wrote this died before the signal

    assert not it.interrupt_sent
    assert not it.interrupt()
    assert it.interrupt(again=True)
    assert not it.interrupt(again=True)
    assert it.interrupt_sent
    assert it.interrupted_at is not None and it.interrupted_at > 1.0
    (tmp_path / "gate").touch()
    await over(it)
    assert (it.folder / "journal").read_text() == "ready\nINT\n"


async def test_where_processes_cannot_be_seen_the_group_tells_who_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = await heeding(tmp_path)
    monkeypatch.setattr(marked, "PROC", tmp_path / "nowhere")

    assert it.interrupt()
    await until(lambda: (it.folder / "journal").read_text() == "ready\nINT\n", "the interrupt")
    (it.folder / "pid").write_text(f"{os.getpid()}\n")
    assert not it.interrupt(again=True)
    it.kill()
    await over(it)


async def test_nothing_is_interrupted_that_only_has_the_same_process_id(tmp_path: Path) -> None:
    it = await over(await launched(detached(tmp_path), ["/bin/true"]))
    (it.folder / "pid").write_text(f"{os.getpid()}\n")
    (it.folder / "pgid").write_text(f"{os.getpgid(0)}\n")

    assert not it.interrupt()
    assert it.sweep() == 0


async def test_a_kill_reaches_what_left_the_group(tmp_path: Path) -> None:
    it = await launched(detached(tmp_path), sh("setsid sleep 60 & (setsid sh -c 'setsid sleep 60 & sleep 60' &) ; echo ready; sleep 60"))
    await until(lambda: len(process.marked_processes(it.marker)) >= 6, "all of them to run")

    it.kill()
    await until(lambda: not it.is_alive(), "the end of all of them")

    assert it.killed
    assert it.exit_code() is None


async def test_what_a_command_leaves_behind_is_swept_and_counted_without_our_own(tmp_path: Path) -> None:
    it = await launched(detached(tmp_path), sh("setsid sleep 60 & sleep 60 & echo done"))
    assert await it.ended(PATIENCE)

    assert it.sweep() == 2
    await over(it)
    assert it.sweep() == 0


async def test_a_command_outlives_the_worker_that_started_it(tmp_path: Path) -> None:
    marker = new_attempt()
    worker = await python(LAUNCHER, tmp_path, marker)
    it = Detached(folder=tmp_path / "run", marker=marker)
    await until(lambda: (it.folder / "journal").exists() and (it.folder / "journal").read_text(), "the command to run")

    worker.kill()
    await worker.wait()
    assert it.is_alive()
    (tmp_path / "gate").touch()
    await over(it)

    assert it.exit_code() == 0
    assert (it.folder / "journal").read_text() == "running\nfinished\n"


LAUNCHER = """
import asyncio, sys
from pathlib import Path
from countersign.adapters.process import Detached

async def main():
    folder = Path(sys.argv[1])
    with await Detached(folder=folder / "run", marker=sys.argv[2]).hold() as hold:
        script = 'echo running; until [ -e gate ]; do sleep 0.02; done; echo finished'
        await hold.launch(["/bin/sh", "-c", script], cwd=folder, env={"PATH": "/usr/bin:/bin"})
        await asyncio.sleep(60)

asyncio.run(main())
"""


# -- What was never started


async def test_what_was_given_up_is_never_started(tmp_path: Path) -> None:
    it = detached(tmp_path)

    assert await it.abandon()
    assert it.abandoned
    with pytest.raises(FailedPrecondition, match="given up before it started"):
        await it.hold()


async def test_what_was_started_is_not_given_up(tmp_path: Path) -> None:
    it = await over(await launched(detached(tmp_path), ["/bin/true"]))

    assert not await it.abandon()


async def test_a_start_whose_wrapper_never_ran_is_proven_only_while_the_machine_stays_up(tmp_path: Path) -> None:
    died, rebooted = Detached(folder=tmp_path / "a", marker=new_attempt()), Detached(folder=tmp_path / "b", marker=new_attempt())
    for it, boot in ((died, process.boot_id()), (rebooted, "another boot")):
        it.folder.mkdir()
        (it.folder / "started").write_text(boot)

    assert await died.abandon()
    assert not await rebooted.abandon()


async def test_nothing_is_started_where_it_could_not_be_told_later(tmp_path: Path) -> None:
    it = detached(tmp_path)
    (it.folder / "pgid").mkdir(parents=True)  # stands for a disk that takes no more files

    with contextlib.suppress(IsADirectoryError):
        await launched(it, sh("echo started"))
    await until(lambda: not it.is_alive(), "the wrapper to give up")

    assert not (it.folder / "journal").exists()


async def test_after_a_power_cut_only_output_that_was_on_the_disk_counts(tmp_path: Path) -> None:
    it = await over(await launched(detached(tmp_path), sh("echo said")))
    (it.folder / "started").write_text("another boot")

    assert it.output_kept
    (it.folder / "rc").write_text("0\n")
    assert (it.output_kept, it.exit_code()) == (False, 0)
    (it.folder / "synced").touch()  # as an earlier version said it
    assert (it.output_kept, it.exit_code()) == (True, 0)


async def test_an_exit_code_that_was_not_written_to_its_end_is_none(tmp_path: Path) -> None:
    it = await over(await launched(detached(tmp_path), ["/bin/true"]))

    assert it.exit_code() == 0
    for torn in ("", "1", "x\n", "0 synced", "0 syn", "0 lost\n"):
        (it.folder / "rc").write_text(torn)
        assert it.exit_code() is None


# -- Lines of a growing file


def test_a_line_is_given_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    lines = Lines(file)
    assert lines.new() == []
    assert not lines.whole

    with file.open("wb", buffering=0) as out:
        out.write(b"one\ntw")
        assert lines.new() == [b"one"]
        assert not lines.whole
        out.write(b"o\n\nthree\n")
        assert lines.new() == [b"two", b"three"]
        assert lines.whole
    assert lines.new() == []
    lines.close()


def test_a_line_too_long_is_dropped_and_counted_and_the_next_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_bytes(b"a" * 300_000 + b"\nshort\n" + b"b" * 300_000)
    lines = Lines(file, longest=100_000)

    assert lines.new() == [b"short"]
    assert lines.dropped == 2
    assert not lines.whole
    lines.close()


def test_much_is_given_in_pieces(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    file.write_bytes(b"".join(b"%07d\n" % n for n in range(400_000)))
    lines = Lines(file)

    batches = list(lines.batches())

    assert [line for batch in batches for line in batch] == [b"%07d" % n for n in range(400_000)]
    assert max(len(batch) for batch in batches) * 8 <= 2 * process.BATCH
    assert lines.whole
    lines.close()


# -- Parts of the service


async def test_a_service_whose_sleeps_may_take_longer_has_that_and_nothing_beside_it_does(tmp_path: Path) -> None:
    ours = Path("/proc/self/timerslack_ns").read_text()

    def started(name: str, slack: float | None) -> Any:
        say = sh("cat /proc/self/timerslack_ns; echo up; while :; do sleep 0.02; done")
        return start_service(say, cwd=tmp_path, env=ENV, log=tmp_path / f"{name}.log", timer_slack=slack)

    services = await asyncio.gather(started("patient", 0.001), started("beside", None), started("last", None))
    await until(lambda: all("up" in (tmp_path / f"{name}.log").read_text() for name in ("patient", "beside", "last")), "all to say up")

    assert (tmp_path / "patient.log").read_text() == "1000000\nup\n"
    assert [(tmp_path / f"{name}.log").read_text() for name in ("beside", "last")] == [f"{ours}up\n"] * 2
    assert Path("/proc/self/timerslack_ns").read_text() == ours
    assert Path(f"/proc/{services[0].pid}/cmdline").read_bytes().startswith(b"/bin/sh\0-c\0cat")
    for one in services:
        await stop_service(one, grace=PATIENCE)


async def test_a_service_is_asked_to_stop_and_then_made_to(tmp_path: Path) -> None:
    polite = await start_service(
        sh("trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.02; done"), cwd=tmp_path, env=ENV, log=tmp_path / "polite.log"
    )
    deaf = await start_service(sh("trap '' TERM; echo up; while :; do sleep 0.02; done"), cwd=tmp_path, env=ENV, log=tmp_path / "deaf.log")
    await until(lambda: all("up" in (tmp_path / name).read_text() for name in ("polite.log", "deaf.log")), "both to say up")

    assert await stop_service(polite, grace=PATIENCE) == 4
    assert await stop_service(deaf, grace=0.1) == -signal.SIGKILL
    assert (tmp_path / "polite.log").read_text() == "up\nbye\n"
