"""The run's page in the Temporal UI: what an operator needs to decide without leaving it.

Markdown, bounded, with foreign text fenced: the UI renders it through a GET request and passes raw HTML on, and a plan is
written by whoever wrote the configuration.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from countersign.core.plan import SHOWN, Change, ChangeClass, Plan
from countersign.core.policy import Need, Requirement
from countersign.core.redaction import INVISIBLE
from countersign.core.run import RunState

SIZE = 20_000  # bytes of the whole page; it travels in a URL
LINES = 40  # changes shown; fewer where the page would grow too big
WIDTH = 160  # characters of one line of foreign text
AGREED = 10  # names of people shown

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
    """One line of foreign text that cannot close the fence or code span it stands in. By itself it may still be markup."""
    shown = "".join(c if c.isprintable() else "�" for c in INVISIBLE.sub("�", text.replace("`", "'")))
    # Bytes too: letters of four bytes must not make the page four times as big.
    cut = shown[: WIDTH - 1].encode()[: 2 * WIDTH].decode(errors="ignore")
    return shown if len(shown) <= WIDTH and len(shown.encode()) <= 2 * WIDTH else f"{cut}…"


def code(text: str) -> str:
    """Foreign text between other words: a code span, in which nothing is markup."""
    return f"`{plain(text) or '-'}`"


def change_line(change: Change) -> str:
    why = f"  (because of {', '.join(change.replace_paths)})" if change.replace_paths else ""
    # After the cut: nobody hides it behind a long address.
    warning = "  ! holds data" if change.change_class in (ChangeClass.STATEFUL_DELETE, ChangeClass.STATEFUL_REPLACE) else ""
    return f"{_SYMBOLS.get(change.action, '?'):>3} {plain(change.address + why)}{warning}"


def plan_block(plan: Plan, limit: int = LINES) -> str:
    lines = [change_line(change) for change in plan.changes[:limit]]
    # Counts tell an import that also updates twice, so they serve only where the stored changes are not all there are.
    known = len(plan.changes) if len(plan.changes) < SHOWN else max(plan.counts.total, SHOWN)
    if (rest := known - len(lines)) > 0:
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
    head = [f"## {_headline(state)}: {code(stack_path)}", f"`{run_type}` asked for by {code(requester)} · run `{run_id}`"]
    if reason:
        head.append("````text\n" + "\n".join(plain(line) for line in reason.splitlines()[:20]) + "\n````")
    if plan is not None and plan.changes_anything:
        head.append(f"**{plan.counts}** · class **{plan.change_class}**")
        head += [f"- ⚠ {code(risk)}" for risk in plan.risks[:10]]
    foot = []
    if state is RunState.AWAITING_APPROVAL and plan_digest and requirement:
        foot.append(_how_to_decide(plan_digest, requirement, expires_at, agreed))
    if refusals:
        foot.append("### Refused\n" + "\n".join(f"- {code(line)}" for line in refusals[-5:]))
    limit = LINES
    while len((page := "\n\n".join([*head, *_blocks(plan, limit), *foot])).encode()) > SIZE and limit:
        limit //= 2
    return page


def _blocks(plan: Plan | None, limit: int) -> list[str]:
    return [plan_block(plan, limit)] if plan is not None and plan.changes_anything else []


def _headline(state: RunState) -> str:
    return {
        RunState.AWAITING_APPROVAL: "Waiting for approval",
        RunState.NEEDS_OPERATOR: "Needs an operator",
        RunState.PENDING: "Waiting for its turn",
    }.get(state, str(state).replace("_", " ").capitalize())


def _how_to_decide(plan_digest: str, requirement: Requirement, expires_at: datetime | None, agreed: Sequence[str]) -> str:
    approve = {"plan_digest": plan_digest} | ({"confirm_name": requirement.confirm_name} if requirement.confirm_name else {})
    until = f" until {expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if expires_at else ""
    names = [code(name) for name in dict.fromkeys(agreed)]
    have = f" Agreed so far: {', '.join(names[:AGREED])}." if names else ""
    typed = "\n\nIt destroys something: type the name yourself in place of the dots." if requirement.confirm_name else ""
    if requirement.confirm_name:
        approve["confirm_name"] = "…"
    return (
        f"### Decide{until}\n\nNeeds **{who_must_agree(requirement)}** ({code(requirement.rule)}).{have}\n\n"
        "*Send an Update* (or *Send a Signal*) named `approve` with:\n\n"
        f"````json\n{json.dumps(approve, indent=1, ensure_ascii=False)}\n````{typed}\n\n"
        'or `reject` with:\n\n````json\n{"reason": "…"}\n````'
    )
