"""Talking with the engine while one plan is made: its commands, what they say, and a heartbeat for as long as they run.

Whatever leaves here is redacted; what is known to be secret grows while the plan is made.
"""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from countersign.adapters.git import Mirrors, Revision
from countersign.adapters.process import NOBODY, Ended, supervise
from countersign.adapters.terraform.environment import child_environment
from countersign.adapters.terraform.executable import Commands, Executable
from countersign.adapters.terraform.static_check import Reader
from countersign.adapters.terraform.warm import WarmPool
from countersign.adapters.terraform.workspace import Workspace
from countersign.core.engine import Beat, Finding, PlanJob, Progress
from countersign.core.errors import CountersignError, EngineDied, Locked, PolicyDenied, ProviderError, Unavailable
from countersign.core.redaction import Redactor
from countersign.core.terraform import source
from countersign.core.terraform.events import Journal, finding_of, in_words, redacted
from countersign.core.terraform.kept import held_in
from countersign.core.terraform.providers import REGISTRIES, advice
from countersign.core.terraform.semantic import Macs
from countersign.core.terraform.source import AllowList

if TYPE_CHECKING:
    from countersign.adapters.terraform.kept import Kept

GRACE = 30.0  # seconds between SIGINT and SIGKILL of what only reads
FINDINGS = 50
SAID_MAX = 128 << 20  # bytes of what one command says; a plan with more as JSON nobody reads
LOG_MAX = 1 << 20  # characters of the log that is kept, the last ones
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the engine as a whole gives to each attempt."""

    stacks_root: Path
    work_root: Path
    search_path: str
    cli_config: Path
    passed: Mapping[str, str]
    allow: AllowList
    macs: Macs = field(repr=False)
    reader: Reader
    pool: WarmPool
    mirrors: Mirrors
    origin: str = REGISTRIES  # of provider packages, in words
    lock_seconds: int = 30  # how long a command waits for the state's lock

    def commands(self, executable: Executable) -> Commands:
        return Commands(executable=executable, lock_seconds=self.lock_seconds)


class Session:
    """One plan's conversation with the engine, in one workspace."""

    def __init__(self, job: PlanJob, beat: Beat, *, executable: Executable, around: Surroundings, place: Workspace) -> None:
        self.job, self.around, self.place, self.executable = job, around, place, executable
        self.commands = around.commands(executable)
        self.redactor = Redactor((job.state.password,))
        self.keys: frozenset[str] = frozenset()  # secrets that opened repositories of modules
        self.revision: Revision | None = None  # of a source in a repository
        self.kept: Kept | None = None  # the declared backend, where the state stays there
        self.beat = beat
        self.before = NOBODY  # processes that cannot be of its commands
        self.left_nothing = False  # of its commands lives any more
        self._said: list[str] = []
        self._progress = Progress()

    def environment(self, credential: Mapping[str, str], *, backend: bool) -> dict[str, str]:
        """Without `backend`, and where another keeps the state, the child knows nothing of the state service."""
        return child_environment(
            attempt=self.job.attempt_id,
            home=self.place.home,
            temporary=self.place.temporary,
            search_path=self.around.search_path,
            cli_config=self.around.cli_config,
            passed=self.around.passed,
            credential=credential,
            state=self.job.state if backend and not self.job.stack.own else None,
        )

    # Commands

    async def events(
        self, name: str, argv: list[str], environment: Mapping[str, str], *, folder: Path | None = None
    ) -> tuple[Journal, Ended]:
        """Run what tells its progress as events."""
        journal = Journal()

        async def heard(lines: list[bytes]) -> None:
            for line in lines:
                journal.feed(line)
            if journal.planned or journal.refreshed:
                self._progress = Progress(done=journal.planned, current=f"{journal.refreshed} read, {journal.planned} changes found")
            await self.beat(self._progress)

        ended = await self._supervised(name, argv, environment, heard, folder=folder)
        self._said += journal.text
        return journal, ended

    async def document(
        self, name: str, argv: list[str], environment: Mapping[str, str], *, folder: Path | None = None, stdin: Path | None = None
    ) -> Ended:
        """Run what writes one document; it is in `ended.out`."""

        async def heard(_: list[bytes]) -> None:
            await self.beat(self._progress)

        return await self._supervised(name, argv, environment, heard, folder=folder, read=False, stdin=stdin)

    async def _supervised(
        self,
        name: str,
        argv: list[str],
        environment: Mapping[str, str],
        heard: Callable[[list[bytes]], Awaitable[None]],
        *,
        folder: Path | None = None,
        read: bool = True,
        stdin: Path | None = None,
    ) -> Ended:
        ended = await supervise(
            argv,
            cwd=folder or self.place.tree,
            env=environment,
            folder=self.place.side,
            on_lines=heard,
            grace=GRACE,
            pass_fds=(self.place.lock,),
            read=read,
            stdin=stdin,
            most=SAID_MAX,
        )
        if ended.code < 0:
            why = f"{name} was ended by signal {-ended.code}; a machine that is short of memory does that"
            raise self.failure(EngineDied, why, ())
        return ended

    async def validate(self, environment: Mapping[str, str], folder: Path) -> list[Finding]:
        """What the engine finds wrong with the configuration in `folder`."""
        ended = await self.document("validate", self.commands.validate(), environment, folder=folder)
        try:
            told = json.loads(document_in(ended.out))
        except ValueError:
            raise ProviderError(f"validate gave no answer: {self.redactor.line(ended.errors, 400)}") from None
        return [redacted(finding_of(d), self.redactor) for d in told.get("diagnostics") or ()]

    # Words

    async def tell(self, current: str) -> None:
        self._progress = Progress(current=current)
        await self.beat(self._progress)

    async def while_beating(self, work: Awaitable[T]) -> T:
        """A heartbeat every second while a thread works."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task}, timeout=1.0)
            await self.beat(self._progress)
        return task.result()

    def note(self, said: str) -> None:
        """A line of our own for the log."""
        self._said.append(said)

    def log(self) -> str:
        return self.redactor.lines("\n".join(self._said))[-LOG_MAX:]

    def refuse(self, refused: Iterable[Finding]) -> None:
        """Raise PolicyDenied for findings of the check before anything runs, if there are any."""
        if refused := list(refused):
            raise self.failure(
                PolicyDenied, f"the configuration was refused before anything of it ran: {source.places(refused[:5])}", refused
            )

    def failed(self, command: str, journal: Journal, ended: Ended) -> CountersignError:
        """What a command that ended badly means to whoever asked."""
        findings = [redacted(f, self.redactor) for f in journal.findings]
        if not any(f.severity == "error" for f in findings):
            said = self.redactor.line(ended.errors or "\n".join(journal.text[-5:]), 500)
            if not said and (free := shutil.disk_usage(self.place.side).free) < (1 << 20):
                said = f"only {free >> 10} KiB are free where it works"
            findings.append(Finding(severity="error", summary=f"{command} ended with code {ended.code}", detail=said))
        text = " ".join(f"{f.summary} {f.detail}" for f in findings if f.severity == "error").lower()
        if self.job.stack.own and (held := held_in(" ".join(f"{f.summary}\n{f.detail}" for f in findings if f.severity == "error"))):
            why = f"the state is locked in its own backend {held.in_words}; it is tried again when the lock is free"
            return self.failure(Locked, why, findings)
        if "acquiring the state lock" in text and "already locked" in text:
            return self.failure(Locked, "the state is locked by another run or person; it is tried again when the lock is free", findings)
        if self.job.state.address.lower() in text and any(words in text for words in NO_ANSWER):
            return self.failure(Unavailable, "the state service does not answer; see `countersign doctor`", findings)
        if any(words in text for words in _NO_AUTHORITY):
            return self.failure(
                Unavailable, "the state service does not know this attempt any more; it is tried again with a new one", findings
            )
        if provider_died(text):
            return self.failure(EngineDied, f"{command} failed because a provider died: {in_words(findings)}", findings)
        words = " ".join(f"{f.summary} {f.detail}" for f in findings if f.severity == "error")
        if (hint := advice(words, engine=self.executable.name, origin=self.around.origin)) is not None:
            return self.failure(ProviderError, f"{command} failed: {hint}. {in_words(findings)}", findings)
        if hint := next((hint for said, hint in _OF_MODULES if any(one in text for one in said)), None):
            return self.failure(ProviderError, f"{command} failed: {hint}. {in_words(findings)}", findings)
        return self.failure(ProviderError, f"{command} failed: {in_words(findings)}", findings)

    def failure(self, kind: type[CountersignError], message: str, findings: Iterable[Finding]) -> CountersignError:
        shown = [asdict(redacted(f, self.redactor)) for f in findings][:FINDINGS]
        return kind(self.redactor.line(message, 1500), details={"findings": shown, "log": self.log()[-4000:]})


# How the engines put it that no answer came from a plugin: it depends on where the connection broke.
_DIED = ("failed to respond to the plugin", "request was cancelled", "unexpected error from plugin")
_OF_MODULES = (
    (
        ("refused-by-countersign",),
        "a module of a module comes from a repository outside of terraform.allowed_modules; use another, or ask the operator",
    ),
    (
        ("terminal prompts disabled", "could not read username", "authentication failed", "permission denied (publickey"),
        "the repository of a module asks for a key: the operator names a secret for its address (git.credentials)",
    ),
    (
        ("host key verification failed",),
        "the repository of a module shows a host key that the operator does not know; put the right one into the file of git.known_hosts",
    ),
)
_NO_AUTHORITY = ("remote state endpoint requires auth", "remote state endpoint invalid auth")
NO_ANSWER = (
    "connection refused",
    "connection reset",
    "no route to host",
    "i/o timeout",
    "no such host",
    "eof",
    "giving up after",
    "http error: 5",
)


def provider_died(text: str) -> bool:
    """Whether the engine says that a provider gave no answer: whatever it was asked for may have been done."""
    said = text.lower()
    return any(words in said for words in _DIED)


def document_in(data: bytes) -> bytes:
    """The JSON in a command's output; tofu may write warnings of the CLI configuration before it."""
    if data.startswith(b"{"):
        return data
    at = data.find(b"\n{")
    return data[at + 1 :] if at >= 0 else data
