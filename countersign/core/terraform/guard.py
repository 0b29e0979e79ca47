"""The live guard: whether an apply does only what was approved, judged event by event while it runs.

The saved plan is what runs, so this never finds anything; where it does, the engine, a provider or a file is not what it was
taken for, and every second counts. It raises alarms and decides nothing: what follows is policy.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from countersign.core.terraform import document as doc

ALARMS = 20  # told one by one; whatever goes on after that is no news
HARMLESS = frozenset({"read", "no-op", "noop"})
# Events have one word where plans have two, or another one.
_IN_PLANS: Mapping[str, Sequence[str]] = {"replace": ("delete", "create"), "remove": ("forget",)}


def operations_of(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Address → operations that the plan announces there, each as often as it may be begun."""
    found: dict[str, list[str]] = {}
    for change in doc.changes(document):
        for action in change.actions:
            if action not in HARMLESS:
                found.setdefault(change.address, []).append(action)
    for invoked in document.get("action_invocations") or ():
        found.setdefault(str(invoked.get("address")), []).append("invoke")
    return found


@dataclass
class Guard:
    """Hear of each operation once, as it is begun. `alarms` are sentences with addresses in them: redact them before they are shown."""

    approved: Mapping[str, Sequence[str]]  # as `operations_of` tells it
    alarms: list[str] = field(default_factory=list)
    _begun: Counter[tuple[str, str]] = field(default_factory=Counter)
    _destroyed: int = 0
    _may_destroy: int = 0  # objects the approved plan destroys, those it replaces among them

    def __post_init__(self) -> None:
        self._may_destroy = sum(list(actions).count("delete") for actions in self.approved.values())

    def begun(self, address: str, action: str) -> None:
        """An operation was begun, as an event names it; actions of the configuration are invoked."""
        for one in _IN_PLANS.get(action, (action,)):
            if one not in HARMLESS:
                self._judge(address, one)

    def _judge(self, address: str, action: str) -> None:
        times = list(self.approved.get(address, ())).count(action)
        self._begun[address, action] += 1
        if times == 0:
            self._alarm(f"{address}: its {action} was begun, and that is not in the approved plan")
        elif self._begun[address, action] == times + 1:
            self._alarm(f"{address}: its {action} was begun again")
        self._destroyed += action == "delete"
        if action == "delete" and self._destroyed == self._may_destroy + 1:
            self._alarm(f"objects whose destruction was begun: {self._destroyed}, approved: {self._may_destroy}")

    def _alarm(self, sentence: str) -> None:
        if len(self.alarms) < ALARMS:
            self.alarms.append(sentence)
