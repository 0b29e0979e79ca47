"""Who must agree to what: rules as data, one function that reads them.

Rules are the operator's (settings), never of the repository being planned. The first rule that matches environment and
class decides; two floors hold whatever the rules say: what destroys asks at least a person who types the name, and a
protected environment asks at least a person other than the requester's. What no rule names is denied.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Literal

from countersign.core.digests import digest_of
from countersign.core.model import Payload
from countersign.core.plan import ChangeClass


class Need(StrEnum):
    """From nobody to two others; each asks at least what the one before it asks."""

    AUTO = "auto"  # nobody: the decision of policy is recorded as the approval
    CONFIRM = "confirm"  # the requester again
    PERSON = "person"  # a person; the requester's own person counts
    OTHER = "other"  # a person other than the requester's
    TWO = "two"  # two such people
    DENY = "deny"  # nobody can

    @property
    def rank(self) -> int:
        return list(Need).index(self)


# What a decision from the Temporal UI is worth: that of one unnamed person, of whom the server's authorizer names, or nothing.
Trust = Literal["trusted", "verified", "off"]


class Rule(Payload):
    env: str = "*"  # glob over "org/env"
    classes: tuple[ChangeClass, ...] = ()  # empty: every class
    need: Need

    def matches(self, env: str, change_class: ChangeClass) -> bool:
        return fnmatchcase(env, self.env) and (not self.classes or change_class in self.classes)


_C = ChangeClass
DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(classes=(_C.UNKNOWN,), need=Need.DENY),
    Rule(classes=(_C.NONE,), need=Need.AUTO),
    Rule(need=Need.PERSON),
)


class Policy(Payload):
    rules: tuple[Rule, ...] = DEFAULT_RULES
    protected: tuple[str, ...] = ()  # globs over "org/env"
    approval_hours: int = 24  # how long an approval of a plan may be given and used; I8 caps it at 24
    guard: Literal["alarm", "interrupt"] = "alarm"  # what follows where an apply does something that is not in its plan
    auto_approve: tuple[ChangeClass, ...] = ()  # classes for which a caller's auto_approve counts, never what destroys

    @property
    def version(self) -> str:
        return digest_of(self.model_dump(mode="json"))

    def is_protected(self, env: str) -> bool:
        return any(fnmatchcase(env, pattern) for pattern in self.protected)


class Requirement(Payload):
    """What a plan waits for. `confirm_name` is the text to type, or nothing."""

    need: Need
    people: int  # distinct approvers
    confirm_name: str | None = None
    rule: str  # in words, for the approver and for a refusal

    @property
    def automatic(self) -> bool:
        return self.need is Need.AUTO


def required(
    policy: Policy,
    *,
    env: str,
    change_class: ChangeClass,
    name: str,
    classes: Iterable[ChangeClass] = (),
    auto_approve: bool = False,
    destroy: bool = False,
    by_person: bool = False,
) -> Requirement:
    """What agreement a plan of `change_class` needs in `env` ("org/env"); `name` is what must be typed where it destroys.

    `classes` are all there are in the plan: rules need not ask most for the worst, and an update that needs a person still
    needs one where something is created beside it. `destroy` says that the run was started to destroy the whole thing, `by_person`
    that a person agrees whatever the rules are. `auto_approve` is the caller's wish and counts only where policy lists every class
    there is.
    """
    present = {change_class, *(c for c in classes if c is not _C.NONE)}
    need, why = max((_ruled(policy.rules, env, c) for c in sorted(present, key=lambda c: -c.rank)), key=lambda ruled: ruled[0].rank)
    destroys = destroy or any(c.destroys for c in present)
    if auto_approve and not destroys and present <= set(policy.auto_approve) and need.rank <= Need.PERSON.rank:
        need, why = Need.AUTO, f"policy lets callers approve {change_class} themselves"
    if destroys and need.rank < Need.PERSON.rank:
        need, why = Need.PERSON, "what destroys always asks a person"
    if by_person and need.rank < Need.PERSON.rank:
        need, why = Need.PERSON, "what rewrites the record of a state always asks a person"
    if policy.is_protected(env) and (destroys or present != {_C.NONE}) and need.rank < Need.OTHER.rank:
        need, why = Need.OTHER, f"{env} is protected"
    people = {Need.AUTO: 0, Need.DENY: 0, Need.TWO: 2}.get(need, 1)
    return Requirement(need=need, people=people, confirm_name=name if destroys and need is not Need.DENY else None, rule=why)


def _ruled(rules: Sequence[Rule], env: str, change_class: ChangeClass) -> tuple[Need, str]:
    for rule in rules:
        if rule.matches(env, change_class):
            what = "any change" if not rule.classes else str(change_class)
            return rule.need, f"policy: {what} in {rule.env} needs {rule.need}"
    return Need.DENY, f"no policy rule covers {change_class} in {env}"
