"""The folders of attempts, whatever the engine: taken once, refused with a reason, and read by whoever follows.

Who launched an attempt may be gone, so why nothing was started lies in its folder, and one that nobody explains is accounted for
like any lost apply.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from countersign.adapters import private
from countersign.adapters.process import Detached, Hold
from countersign.core.engine import Outcome, Wish
from countersign.core.errors import CountersignError, FailedPrecondition, InvalidArgument, PlanStale, Unavailable
from countersign.core.model import Payload
from countersign.core.run import RunState

REFUSED = "refused.json"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


class Refused(Payload):
    """`refused.json`: why nothing was started. Whoever was told first may be gone when it is asked for."""

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class AttemptFolders:
    """The attempts of this machine, each in a private folder below `root`."""

    root: Path

    def where(self, attempt_id: str) -> Path:
        if not _ID.fullmatch(attempt_id):
            raise InvalidArgument(f"{attempt_id[:100]!r} is no attempt id", field="attempt_id")
        return self.root / attempt_id

    def detached(self, attempt_id: str) -> Detached:
        return Detached(folder=self.where(attempt_id) / "run", marker=attempt_id)

    @asynccontextmanager
    async def launching(self, attempt_id: str) -> AsyncIterator[Hold | None]:
        """The right to start this attempt, or None where it was started already. Raises FailedPrecondition where it was given up.

        A refusal inside is noted in the folder, and raised on: nothing was started then.
        """
        folder = self.where(attempt_id)
        with usable():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            hold = await self.detached(attempt_id).hold()
            if hold is None:
                yield None
                return
            with hold:
                try:
                    yield hold
                except CountersignError as refused:
                    private.write(folder / REFUSED, Refused(code=refused.code, message=refused.message).model_dump_json().encode())
                    raise

    def refuse_living(self, attempt_id: str) -> None:
        """Raise FailedPrecondition while anything of the attempt lives: its folder is evidence until then."""
        if self.detached(attempt_id).is_alive():
            raise FailedPrecondition(f"{attempt_id} still runs; follow it to its end first")


@contextmanager
def usable() -> Iterator[None]:
    """What the disk says of an attempt's folder, in words: raises Unavailable."""
    try:
        yield
    except OSError as broken:
        raise Unavailable(f"the attempt's folder cannot be used ({broken.strerror}); see `countersign doctor`") from None


def never_started(folder: Path) -> Outcome:
    """Refused with a reason, it is over. Where whoever was about to start it died without a word, the claim is used and the
    plan is not: that is accounted for like any lost apply, so that nobody has to agree again."""
    evidence = ("nothing was started under this attempt, and nothing can be any more",)
    try:
        why = Refused.model_validate_json((folder / REFUSED).read_bytes())
    except (OSError, ValueError):
        message = "Whoever was about to start the apply is gone; nothing was started, and nothing was changed."
        return Outcome(state=RunState.INTERRUPTED, code="internal", message=message, evidence=evidence)
    if why.code == PlanStale.code:
        return Outcome(state=RunState.STALE, code=why.code, message=why.message, evidence=evidence)
    message = f"The apply never started; nothing was changed. {why.message}"
    return Outcome(state=RunState.ERRORED, code=why.code, message=message, evidence=evidence)


def obey(detached: Detached, wish: Wish | bool) -> None:
    """One interrupt where people want it to stop, and the kill where they want that."""
    if wish and detached.exit_code() is None:
        detached.interrupt()
        if wish == Wish.KILL and not detached.killed:
            detached.kill()
