"""After a lost apply: go on, ask people for the difference, or wait for an operator.

An engine says what it found (`Stop`) and whether the rest of the work was approved (`Proof`); this decides for every engine
alike. Nothing is continued without a proof, and nothing is asked while nobody knows what the lost apply has made: an
approver must be able to trust what is shown.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

CRASHES = 3  # of one run: after that something is wrong that going on does not mend


class Next(StrEnum):
    CONTINUE = "continue"  # under the approval there is
    ASK = "ask"  # people see only the difference
    OPERATOR = "needs_operator"
    STOP = "stop"  # somebody canceled: what was done is in the state, and the rest is not made


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Whether a new plan does only what was approved and is not done yet. Lines name addresses, attributes and actions, no values."""

    lines: tuple[str, ...]  # one for each approved change: how it is accounted for
    refused: tuple[str, ...] = ()  # what is not accounted for: the difference that people are shown
    trustworthy: bool = True  # False: the plan itself is errored or incomplete, so nobody is asked about it
    left: int = 0  # changes the new plan makes

    @property
    def ok(self) -> bool:
        return self.trustworthy and not self.refused


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Something only an operator can clear, and how."""

    why: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    next: Next
    why: str
    lines: tuple[str, ...] = ()  # the proof, for the record and for people
    difference: tuple[str, ...] = ()  # for an approver
    instructions: tuple[str, ...] = ()  # for an operator, in order; commands stand on lines of their own


@dataclass(frozen=True, kw_only=True)
class Commands:
    """What an operator types about one run."""

    run_id: str

    @property
    def resume(self) -> str:
        return _command("countersign", "resume", self.run_id)

    def exists(self, address: str) -> str:
        return f"{_command('countersign', 'resume', self.run_id, '--exists', f'{address}=')}ID"

    def absent(self, address: str) -> str:
        return _command("countersign", "resume", self.run_id, "--absent", address)

    @property
    def logs(self) -> str:
        return _command("countersign", "logs", self.run_id)


def decide(commands: Commands, proof: Proof | None, stops: Iterable[Stop], *, crashes: int, approval_live: bool) -> Decision:
    """What happens next. `proof` is None where there is no new plan; `crashes` counts this run's lost applies."""
    found = list(stops)
    if crashes >= CRASHES:
        found.append(
            Stop(why=f"The apply was lost {crashes} times; find out what ends it before it goes on.", commands=("countersign doctor",))
        )
    if not found and (proof is None or not proof.trustworthy):
        found.append(failed_plan(commands, "; ".join(proof.refused) if proof else "there is none"))
    lines = proof.lines if proof else ()
    if found or proof is None:
        return Decision(
            next=Next.OPERATOR,
            why=" ".join(stop.why for stop in found),
            lines=lines,
            instructions=_instructions(found, commands),
        )
    if proof.refused:
        return Decision(next=Next.ASK, why="What is left differs from what was approved.", lines=lines, difference=proof.refused)
    if proof.left and not approval_live:
        return Decision(next=Next.ASK, why="The approval has expired; what is left is a part of what was approved.", lines=lines)
    left = f"{proof.left} of its changes are left" if proof.left else "nothing is left to do"
    return Decision(next=Next.CONTINUE, why=f"What happened was approved, and {left}.", lines=lines)


def _instructions(stops: Sequence[Stop], commands: Commands) -> tuple[str, ...]:
    said: list[str] = []
    for stop in stops:
        said += [stop.why, *(f"    {command}" for command in stop.commands)]
    return (*said, "Then let the run look again:", f"    {commands.resume}")


def _command(*words: str) -> str:
    return " ".join(shlex.quote(word) for word in words)


# What stops every engine alike.


def survivors(processes: int, host: str) -> Stop:
    return Stop(
        why=f"{processes} processes of the lost apply still run on {host}, or nobody can tell that they do not; end them first.",
        commands=("grep -l COUNTERSIGN_ATTEMPT /proc/[0-9]*/environ",),
    )


def foreign_lock(*, lock_id: str, who: str, since: str) -> Stop:
    """A lock that is not our own attempt's is never broken (I5)."""
    return Stop(why=f"The state is locked by {who} since {since} (lock {lock_id}), and not by this run; ask them to finish.")


def kept_lock(held: str, lock_id: str, engine: str) -> Stop:
    """A lock in a backend of the user's own, which is not proven to be that of the lost apply."""
    return Stop(
        why=f"The state is locked in its own backend {held}. Find out whose it is; if nothing of that lives, free it there.",
        commands=(f"{engine} init && {_command(engine, 'force-unlock', lock_id)}",),
    )


def failed_plan(commands: Commands, summary: str) -> Stop:
    """The plan after the crash failed; where it imports, an import may be what failed. `summary` is redacted."""
    return Stop(
        why=f"The plan of what is left failed: {summary}.",
        commands=(commands.logs,),
    )


def unknown_object(commands: Commands, address: str, reason: str) -> Stop:
    """Nobody knows whether the lost apply made this object, or which of two is the right one."""
    return Stop(
        why=f"{address}: {reason}. Look for it in the cloud, then tell the run: the first line if exactly one exists, else the second.",
        commands=(commands.exists(address), commands.absent(address)),
    )
