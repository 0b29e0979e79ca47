"""The run's page in the Temporal UI: what an operator needs to decide without leaving it.

Markdown, bounded, with foreign text fenced: the UI renders it through a GET request and passes raw HTML on, and a plan is
written by whoever wrote the configuration.
"""

import json
from collections.abc import Sequence
from datetime import datetime

from countersign.core.plan import Change, ChangeClass, Plan
from countersign.core.policy import Need, Requirement
from countersign.core.run import RunState

LINES = 40  # changes shown
WIDTH = 160  # characters of one line of foreign text

_SYMBOLS = {"create": "+", "update": "~", "replace": "-/+", "delete": "-", "forget": "x", "import": "=>", "move": "->", "read": "<="}
_PEOPLE = {
    Need.CONFIRM: "the requester again, or a person",
    Need.PERSON: "a person",
    Need.OTHER: "a person other than the requester's",
    Need.TWO: "two people other than the requester's",
}


def who_must_agree(requirement: Requirement) -> str:
    return _PEOPLE.get(requirement.need, "nobody")


def plain(text: str) -> str:
    """One line of foreign text that cannot close a fence or begin markup."""
    return "".join(c if c.isprintable() else "�" for c in text.replace("`", "'"))[:WIDTH]


def change_line(change: Change) -> str:
    symbol = _SYMBOLS.get(change.action, "?")
    line = f"{symbol:>3} {change.address}"
    if change.replace_paths:
        line += f"  (because of {', '.join(change.replace_paths)})"
    if change.change_class in (ChangeClass.STATEFUL_DELETE, ChangeClass.STATEFUL_REPLACE):
        line += "  ! holds data"
    return plain(line)


def plan_block(plan: Plan) -> str:
    lines = [change_line(change) for change in plan.changes[:LINES]]
    if (rest := plan.counts.total - len(lines)) > 0:
        lines.append(f"    … and {rest} more")
    if plan.outputs_changed:
        lines.append(plain(f"outputs: {', '.join(plan.outputs_changed)}"))
    return "````text\n" + "\n".join(lines) + "\n````"


def details(
    *,
    run_id: str,
    stack_path: str,
    run_type: str,
    requester: str,
    state: RunState,
    reason: str | None,
    plan: Plan | None,
    plan_digest: str | None,
    requirement: Requirement | None,
    expires_at: datetime | None,
    agreed: Sequence[str] = (),
    refusals: Sequence[str] = (),
) -> str:
    """Markdown for the User Metadata tab: the state, the plan with what destroys first, and what to send where."""
    parts = [f"## {_headline(state)}: `{plain(stack_path)}`", f"`{run_type}` asked for by `{plain(requester)}` · run `{run_id}`"]
    if reason:
        parts.append("````text\n" + "\n".join(plain(line) for line in reason.splitlines()[:20]) + "\n````")
    if plan is not None and plan.changes_anything:
        parts.append(f"**{plan.counts}** · class **{plan.change_class}**")
        parts += [f"- ⚠ {plain(risk)}" for risk in plan.risks[:10]]
        parts.append(plan_block(plan))
    if state is RunState.AWAITING_APPROVAL and plan_digest and requirement:
        parts.append(_how_to_decide(plan_digest, requirement, expires_at, agreed))
    if refusals:
        parts.append("### Refused\n" + "\n".join(f"- `{plain(line)}`" for line in refusals[-5:]))
    return "\n\n".join(parts)


def _headline(state: RunState) -> str:
    return {
        RunState.AWAITING_APPROVAL: "Waiting for approval",
        RunState.NEEDS_OPERATOR: "Needs an operator",
        RunState.PENDING: "Waiting for its turn",
    }.get(state, str(state).replace("_", " ").capitalize())


def _how_to_decide(plan_digest: str, requirement: Requirement, expires_at: datetime | None, agreed: Sequence[str]) -> str:
    approve = {"plan_digest": plan_digest} | ({"confirm_name": requirement.confirm_name} if requirement.confirm_name else {})
    until = f" until {expires_at:%Y-%m-%d %H:%M} UTC" if expires_at else ""
    have = f" Agreed so far: {', '.join(f'`{plain(a)}`' for a in agreed)}." if agreed else ""
    typed = "\n\nIt destroys something: type the name yourself in place of the dots." if requirement.confirm_name else ""
    if requirement.confirm_name:
        approve["confirm_name"] = "…"
    return (
        f"### Decide{until}\n\nNeeds **{who_must_agree(requirement)}** ({plain(requirement.rule)}).{have}\n\n"
        "*Send an Update* (or *Send a Signal*) named `approve` with:\n\n"
        f"````json\n{json.dumps(approve, indent=1, ensure_ascii=False)}\n````{typed}\n\n"
        'or `reject` with:\n\n````json\n{"reason": "…"}\n````'
    )
