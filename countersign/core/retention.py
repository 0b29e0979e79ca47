"""How long is kept what runs leave: rows stay for good, bytes as long as somebody may need them.

Who asked, what was planned and by which digest, who agreed and what came of it are rows, and never go. Of the bytes go those of
runs that only looked, and of runs that changed nothing what nobody but an apply reads, which has secrets in it. What an apply left is
evidence, and stays unless the operator says otherwise. States are never touched.
"""

from dataclasses import dataclass

from countersign.core.model import Payload
from countersign.core.run import Mode

BUNDLES = ("plan_bundle", "plan_json")  # what an apply works from: saved plan, source and the plan's document, secrets in clear


class Retention(Payload):
    """The operator's, in days from a run's end."""

    looked_days: int = 30
    drift_days: int = 30
    unapplied_days: int = 30
    applied_days: int | None = None  # None: for good
    journal_days: int = 30


@dataclass(frozen=True, kw_only=True)
class Rule:
    setting: str
    says: str
    days: int
    modes: frozenset[Mode]
    applied: bool = False  # runs that came to an apply; else those that did not
    kinds: tuple[str, ...] | None = None  # None is everything

    def covers(self, kind: str, mode: Mode, *, applied: bool) -> bool:
        return mode in self.modes and applied == self.applied and (self.kinds is None or kind in self.kinds)

    @property
    def told(self) -> str:
        return f"{self.says} is kept for {self.days} days after its end (retention.{self.setting})"


def rules(kept: Retention) -> tuple[Rule, ...]:
    looked, drift, changed = frozenset({Mode.SPECULATIVE, Mode.VALIDATE}), frozenset({Mode.DRIFT}), frozenset({Mode.APPLY, Mode.DESTROY})
    found = [
        Rule(setting="looked_days", says="what a run leaves that only looked", days=kept.looked_days, modes=looked),
        Rule(setting="drift_days", says="what a drift check leaves", days=kept.drift_days, modes=drift),
        Rule(
            setting="unapplied_days",
            says="the bundle of a run that applied nothing",
            days=kept.unapplied_days,
            modes=changed,
            kinds=BUNDLES,
        ),
    ]
    if kept.applied_days is not None:
        says = "the bundle of a run that applied something"
        found.append(Rule(setting="applied_days", says=says, days=kept.applied_days, modes=changed, applied=True, kinds=BUNDLES))
    return tuple(found)


def rule_of(kept: Retention, kind: str, mode: Mode, *, applied: bool) -> Rule | None:
    """By which an artifact lapses; None where it never does."""
    return next((rule for rule in rules(kept) if rule.covers(kind, mode, applied=applied)), None)
