"""One attempt at an apply: launched once, followed by anybody, told on evidence.

The attempt's folder is all there is: who launched it may be gone. Nothing here is tried twice, and an apply that cannot be
told to be done, partial or never begun is `interrupted`.
"""

import asyncio
import contextlib
import dataclasses
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from countersign.adapters import private
from countersign.adapters.attempts import AttemptFolders, never_started, obey, usable
from countersign.adapters.leaving import leaving
from countersign.adapters.process import Detached, Hold, supervise, tail_of
from countersign.adapters.terraform import bundle, remains
from countersign.adapters.terraform.environment import child_environment, credential_environment
from countersign.adapters.terraform.executable import Commands, Executable
from countersign.adapters.terraform.session import NO_ANSWER, Surroundings, provider_died
from countersign.adapters.terraform.witness import SECRETS, Confided, Witness, redactor_of
from countersign.adapters.terraform.workspace import put_aside, remove_short, short_folder
from countersign.core.engine import ApplyJob, Beat, Outcome, Remains, Wanted
from countersign.core.errors import ProviderError, Unavailable
from countersign.core.model import Payload
from countersign.core.redaction import Redactor
from countersign.core.run import RunState
from countersign.core.terraform import events
from countersign.core.terraform.events import Journal

LOG_MAX = 2 << 20  # characters of the log that is kept, first and last half
LOST_SIGNAL = 10.0  # seconds without the engine's word that it was interrupted, after which SIGINT is sent again
LOOK = 0.5  # seconds between two looks at a running apply; its end is noticed at once
LISTEN = 0.1  # seconds between two looks at its journal, while there is something new in it
SMALL = 256 << 10  # bytes of a bundle
BRIEF = 16 << 10  # characters that are redacted before a thread would have begun
ROOM = 64 << 20  # bytes that must be free: a journal that could not be written proves nothing
LEFT_OVER = "errored.tfstate"  # where the engine leaves a state that it could not store


class Noted(Payload):
    """`attempt.json`: what a follower needs and the journal does not say. No secret: these are in `secrets.json`."""

    attempt_id: str
    run_id: str
    expected: int
    temporary: str  # folder for sockets, outside of the attempt's
    stack: str = ""  # its path: for whoever has lost the rows
    restores: bool = False  # it stores a state, and has no journal
    own: bool = False  # its state stays in the backend that the configuration declares
    below: str | None = None  # path of the working folder below the root of the source; None where an earlier version launched it


@dataclass(frozen=True, kw_only=True)
class Attempts(AttemptFolders):
    around: Surroundings
    grace: float  # seconds between the one SIGINT and SIGKILL

    # Launching

    async def launch(self, job: ApplyJob, executable: Executable) -> None:
        """Start the apply unless this attempt was started already. Raises FailedPrecondition where it was given up.

        Whatever it raises, nothing was started, and the next `follow` says why.
        """
        async with self.launching(job.attempt_id) as hold:
            if hold is not None:
                await self._launch(job, executable, self.where(job.attempt_id), hold)

    async def _launch(self, job: ApplyJob, executable: Executable, folder: Path, hold: Hold) -> None:
        _clear(folder)
        if shutil.disk_usage(folder).free < ROOM:
            await leaving.gone()
        if (free := shutil.disk_usage(folder).free) < ROOM:
            raise Unavailable(f"only {free >> 20} MiB are free in the folder of attempts, {ROOM >> 20} are needed; nothing was started")
        credential = await credential_environment(job.stack.apply_credential or job.stack.plan_credential, job.reveal)
        unpacked = await _unpacked(job.bundle, _made(folder / "bundle"))
        meta, work = unpacked.meta, unpacked.work
        meta.refuse_other_than(executable.name)
        meta.refuse_other_keeper(own=job.stack.own)
        hidden = {*unpacked.secrets, *credential.values(), job.state.password}
        private.write(folder / SECRETS, Confided(secrets=tuple(sorted(hidden)), operations=unpacked.operations).model_dump_json().encode())
        temporary = short_folder()
        noted = Noted(
            attempt_id=job.attempt_id,
            run_id=job.run_id,
            expected=job.expected,
            temporary=str(temporary),
            stack=job.stack.path,
            restores=meta.restores,
            own=job.stack.own,
            below=meta.below,
        )
        private.write(folder / "attempt.json", noted.model_dump_json().encode())
        environment = child_environment(
            attempt=job.attempt_id,
            home=folder / "bundle",
            temporary=temporary,
            search_path=self.around.search_path,
            cli_config=self.around.cli_config,
            passed=self.around.passed,
            credential=credential,
            state=None if job.stack.own else job.state,
        )
        commands = self.around.commands(executable)
        if not self.around.pool.link_providers(meta.warm_key, work):
            await self._initialise(commands, work, folder, environment, hold)
        approved = folder / "bundle" / bundle.PLAN
        await hold.launch(commands.push(approved) if meta.restores else commands.apply(approved), cwd=work, env=environment)

    async def _initialise(self, commands: Commands, work: Path, folder: Path, environment: Mapping[str, str], hold: Hold) -> None:
        """Another machine planned this: fetch the provider packages that the lock file pins."""
        journal = Journal()

        async def heard(lines: list[bytes]) -> None:
            for line in lines:
                journal.feed(line)

        argv = commands.init()
        ended = await supervise(argv, cwd=work, env=environment, folder=folder, on_lines=heard, pass_fds=(hold.fd,))
        if ended.code != 0:
            redactor = redactor_of(folder)
            found = [events.redacted(f, redactor) for f in journal.findings]
            raise ProviderError(f"init before the apply failed, nothing was changed: {redactor.line(events.in_words(found), 1000)}")

    # Following

    async def follow(self, attempt_id: str, beat: Beat, *, stop: Wanted) -> Outcome:
        """Watch to the end. Being cancelled leaves the apply as it is: unwatched it finishes, and the next follower tells it."""
        detached = self.detached(attempt_id)
        witness = Witness(self.where(attempt_id), detached.folder / "journal")
        total = 0
        with usable(), contextlib.closing(witness):
            while True:
                if not detached.begun and (detached.abandoned or await detached.abandon()):
                    return never_started(self.where(attempt_id))
                obey(detached, stop())
                self._press(detached, witness.journal)
                over = await _watched(detached, witness)
                total = total or _expected(self.where(attempt_id))
                for _ in witness.hear():
                    await beat(dataclasses.replace(witness.progress(total, detached.process), over=over))
                if over and detached.begun:
                    return await self._told(attempt_id, detached, witness, total, beat)

    def _press(self, detached: Detached, journal: Journal) -> None:
        """After an interrupt: send it again where it provably got lost, kill when the grace is over."""
        since = detached.interrupted_at
        if since is None:
            return
        waited = time.time() - since
        if waited > self.grace:
            detached.kill()
        elif waited > LOST_SIGNAL and not detached.interrupt_sent and not _acknowledged(journal):
            detached.interrupt(again=True)

    async def _told(self, attempt_id: str, detached: Detached, witness: Witness, total: int, beat: Beat) -> Outcome:
        journal = witness.journal
        left_over = detached.sweep()
        for _ in range(50):
            if not detached.is_alive():
                break
            await beat(witness.progress(total, detached.process))
            await asyncio.sleep(0.1)
        for _ in witness.hear():
            await beat(dataclasses.replace(witness.progress(total, detached.process), over=True))
        folder = self.where(attempt_id)
        noted, errors = _noted(folder), tail_of(detached.folder / "errors")
        ended = events.Ended(
            exit_code=detached.exit_code(),
            whole=witness.whole and detached.output_kept and not detached.is_alive(),
            stop_asked=detached.interrupted_at is not None,
            killed=detached.killed,
            state_left_over=_left_over(folder, noted).exists(),
        )
        redactor = witness.redactor
        restores = noted is not None and noted.restores
        state, code, message = stored(ended, errors) if restores else judged(journal, ended, errors, own=noted is not None and noted.own)
        progress = journal.progress(total)
        said = sum(map(len, journal.text)) + len(errors)
        log = _log_of(journal, errors, redactor) if said <= BRIEF else await asyncio.to_thread(_log_of, journal, errors, redactor)
        return Outcome(
            state=state,
            code=code,
            message=redactor.line(message, 1500),
            done=total if state is RunState.VERIFYING else progress.done,
            total=total,
            outputs=events.told_outputs(journal, redactor) if state is RunState.VERIFYING else {},
            resources=events.told_results(journal, redactor),
            log=log,
            journal=witness.told(),
            evidence=_evidence(ended, witness, left_over, restores=restores),
            own=noted is not None and noted.own,
        )

    # Ending

    async def end(self, attempt_id: str, *, same_boot: bool) -> Remains:
        """End whatever is left of an attempt that is fenced, and tell what it left. May be called again."""
        folder = self.where(attempt_id)
        with usable():
            left_over = _left_over(folder, _noted(folder))
            return await remains.end(folder, self.detached(attempt_id), same_boot=same_boot, left_over=left_over)

    # Cleaning up

    async def forget(self, attempt_id: str) -> None:
        """The attempt's folder is gone, and removed soon. Raises FailedPrecondition while anything of it lives."""
        folder = self.where(attempt_id)
        self.refuse_living(attempt_id)
        noted = _noted(folder)
        if not put_aside(folder, self.around.work_root, Path(noted.temporary) if noted is not None else None):
            await asyncio.to_thread(_remove, folder)


async def _unpacked(data: bytes, folder: Path) -> bundle.Unpacked:
    """In a thread where it is much; a small one is written before a thread would have begun."""
    return bundle.unpack(data, folder) if len(data) <= SMALL else await asyncio.to_thread(bundle.unpack, data, folder)


async def _watched(detached: Detached, witness: Witness) -> bool:
    """Watch for LOOK seconds, or to the end; whether it ended.

    It is listened to meanwhile: an engine with little to wait for says a thousand things in that time, and few should be left at its end.
    """
    until, pause = time.monotonic() + LOOK, LISTEN
    while (left := until - time.monotonic()) > 0:
        if await detached.ended(min(left, pause)):
            return True
        pause = LISTEN if witness.listen() else 2 * pause
    return False


def judged(journal: Journal, ended: events.Ended, errors: str, *, own: bool = False) -> tuple[RunState, str | None, str]:
    """How the apply ended: state, code, message. The message holds the engine's words: redact it.

    The engine's first line comes before it does anything, so where it never said one and ended by itself, it did nothing.
    And it never fails without saying why: a journal in which nothing is wrong is not all of it.
    """
    silent = journal.version is None and not journal.text and ended.whole
    if silent and ended.stop_asked and (ended.exit_code == 128 + signal.SIGINT or (ended.exit_code == 1 and errors)):
        return RunState.CANCELED, "canceled", "Stopped on request before anything was changed."
    if silent and (ended.exit_code in (126, 127) or (ended.exit_code == 1 and errors)):
        why = f"The engine could not be started; nothing was changed. Run `countersign doctor`. It said: {errors[-500:]}"
        return RunState.ERRORED, "unavailable", why
    if ended.exit_code == 1 and not journal.errors:
        ended = dataclasses.replace(ended, whole=False)
    state, code, message = events.verdict(journal, ended)
    if state is RunState.PARTIALLY_APPLIED and any(provider_died(f.detail) for f in journal.errors):
        why = "A provider died in mid-apply, and what it was asked for last may exist without being recorded."
        state, code, message = RunState.INTERRUPTED, "internal", f"{why} {message}"
    if code == "locked" and not any(("Lock Info" if own else "already locked") in f.detail for f in journal.errors):
        if not own and any(words in f.detail.lower() for f in journal.errors for words in NO_ANSWER):
            # Nobody is asked again because of that: it is accounted for like any lost apply, as soon as the service answers.
            return (
                RunState.INTERRUPTED,
                "unavailable",
                "The state service did not answer when the apply took its lock; nothing was changed.",
            )
        keeper = "backend of the state" if own else "state service"
        code, message = "unavailable", f"The {keeper} gave no lock; nothing was changed. {events.in_words(journal.findings)}"
    if errors and not journal.errors and state is not RunState.VERIFYING:
        message = f"{message} It said: {errors[-500:]}"
    return state, code, message


def stored(ended: events.Ended, errors: str) -> tuple[RunState, str | None, str]:
    """How storing a state ended. One that failed may have been stored all the same: the state itself says so, to whoever looks."""
    if ended.exit_code == 0 and not ended.killed:
        return RunState.VERIFYING, None, "The state was stored."
    why = "Nobody knows yet whether the state was stored."
    return RunState.INTERRUPTED, "interrupted", f"{why} It said: {errors[-500:]}" if errors else why


def _acknowledged(journal: Journal) -> bool:
    """Whether the engine said that it was interrupted, in its own line and not in what a command printed."""
    return any(text.lstrip().startswith("Interrupt received") for text in journal.text)


def _evidence(ended: events.Ended, witness: Witness, left_over: int, *, restores: bool) -> tuple[str, ...]:
    journal = witness.journal
    said = [
        "no exit code was left" if ended.exit_code is None else f"exit code {ended.exit_code}",
        "the journal was read to its end" if ended.whole else "the journal is torn, or something of the attempt still lives",
    ]
    if witness.dropped:
        said.append(f"{witness.dropped} lines of the journal were too long to read")
    if journal.summary is not None:
        said.append("summary: " + ", ".join(f"{number} {what}" for what, number in sorted(journal.summary.items())))
    if not journal.touched and not restores:
        said.append("no operation that changes something was begun")
    if ended.stop_asked:
        said.append("it was interrupted on request")
    if ended.killed:
        said.append("it was asked to stop, did not, and was killed")
    if left_over:
        said.append(f"{left_over} processes it left behind were ended")
    if journal.guard is None and journal.touched:
        said.append("whether it did only what was approved was not watched: its plan was made by an earlier version")
    said += [f"alarm: {alarm}" for alarm in witness.alarms]
    if ended.state_left_over:
        said.append("errored.tfstate was left: the state could not be stored")
    return tuple(said)


def _log_of(journal: Journal, errors: str, redactor: Redactor) -> str:
    """What it said, as text, redacted and bounded."""
    log = redactor.lines("\n".join([*journal.text, *([errors] if errors else [])]))
    if len(log) > LOG_MAX:
        half = LOG_MAX // 2
        log = f"{log[:half]}\n… {len(log) - LOG_MAX} characters left out …\n{log[-half:]}"
    return log


def _noted(folder: Path) -> Noted | None:
    try:
        return Noted.model_validate_json((folder / "attempt.json").read_bytes())
    except (OSError, ValueError):
        return None


def _left_over(folder: Path, noted: Noted | None) -> Path:
    """Where the engine leaves a state that it could not store."""
    below = noted.below if noted is not None else None
    if below is None:
        below = bundle.below_of(folder / "bundle")
    return bundle.working_folder(folder / "bundle", below) / LEFT_OVER


def _expected(folder: Path) -> int:
    noted = _noted(folder)
    return noted.expected if noted else 0


def _remove(folder: Path) -> None:
    remove_temporary(folder)
    shutil.rmtree(folder, ignore_errors=True)


def remove_temporary(folder: Path) -> None:
    noted = _noted(folder)
    if noted is not None:
        remove_short(Path(noted.temporary))


def _clear(folder: Path) -> None:
    """What an earlier launch of this attempt prepared and did not start."""
    remove_temporary(folder)
    for entry in folder.iterdir():
        if entry.name != "run":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder
