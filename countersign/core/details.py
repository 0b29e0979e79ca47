"""The run's page in the Temporal UI: what an operator needs to decide without leaving it.

Markdown, bounded, with foreign text in code spans: the UI renders it through a GET request and passes raw HTML on, and a plan
is written by whoever wrote the configuration. The UI shows the ends of lines, and wide gaps between paragraphs. A fence would
not do: its long lines run out of the column, and what is not seen is not agreed to.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from countersign.core.plan import SHOWN, Change, ChangeClass, Plan
from countersign.core.policy import Need, Requirement
from countersign.core.principal import Principal
from countersign.core.redaction import INVISIBLE, Redactor
from countersign.core.run import RunState

SIZE = 20_000  # bytes of the whole page; it travels in a URL
LINES = 40  # changes shown; fewer where the page would grow too big
WIDTH = 160  # characters of one line of foreign text
RISKS = 10
AGREED = 10  # names of people shown
REFUSALS = 5  # the latest
ALARMS = 5
REASON = 6_000  # bytes

_SYMBOLS = {"create": "+", "update": "~", "replace": "-/+", "delete": "-", "forget": "x", "import": "=>", "move": "->", "read": "<="}
_PEOPLE = {
    Need.CONFIRM: "the requester again, or a person",
    Need.PERSON: "a person",
    Need.OTHER: "a person other than the requester's",
    Need.TWO: "two people other than the requester's",
}
# What an operator of that UI asks next.
_NEXT = {
    RunState.APPROVED: "It is applied when its turn comes, which may be now: progress stands under *Pending Activities*.\n"
    "*Request Cancellation* stops it where that is safe; *Terminate* ends no apply that runs.",
    RunState.NEEDS_OPERATOR: "*More Actions*, *Send a Signal*, `resume`, without data: it looks for evidence again.",
}
_SHAPES = Redactor()  # knows no secret, only what credentials look like


def who_must_agree(requirement: Requirement) -> str:
    return _PEOPLE.get(requirement.need, "nobody")


def plain(text: str, width: int = WIDTH) -> str:
    """One line of foreign text that cannot end the code span it stands in. By itself it may still be markup."""
    seen = text[: width + 1]  # letter for letter the same as cleaning all of it, which may be megabytes
    shown = "".join(c if c.isprintable() else "�" for c in INVISIBLE.sub("�", seen.replace("`", "'")))
    # Bytes too: letters of four bytes must not make the page four times as big.
    cut = shown[: width - 1].encode()[: 2 * width].decode(errors="ignore")
    return shown if len(shown) <= width and len(shown.encode()) <= 2 * width else f"{cut}…"


def code(text: str, width: int = WIDTH) -> str:
    """Foreign text between other words: a code span, in which nothing is markup."""
    return f"`{plain(text, width) or '-'}`"


def change_line(change: Change) -> str:
    why = f"  (because of {', '.join(change.replace_paths)})" if change.replace_paths else ""
    # After the cut: nobody hides it behind a long address.
    warning = "  ! holds data" if change.change_class in (ChangeClass.STATEFUL_DELETE, ChangeClass.STATEFUL_REPLACE) else ""
    return f"{_SYMBOLS.get(change.action, '?'):>3} {plain(change.address + why)}{warning}"


def plan_block(plan: Plan, limit: int = LINES) -> str:
    lines = [f"`{change_line(change).lstrip()}`" for change in plan.changes[:limit]]
    # Counts tell an import that also updates twice, so they serve only where the stored changes are not all there are.
    known = len(plan.changes) if len(plan.changes) < SHOWN else max(plan.counts.total, SHOWN)
    if (rest := known - len(lines)) > 0:
        lines.append(f"… and {rest} more")
    if plan.outputs_changed:
        lines.append(f"outputs: {code(', '.join(plan.outputs_changed))}")
    return "\n".join(lines)


def details(
    *,
    run_id: str,
    stack_path: str,
    run_type: str,
    requester: Principal,
    message: str | None,
    state: RunState,
    reason: str | None,
    plan: Plan | None,
    plan_digest: str | None,
    requirement: Requirement | None,
    expires_at: datetime | None,
    decides_here: bool,
    step_of: tuple[int, str] | None = None,
    alarms: Sequence[str] = (),
    agreed: Sequence[str] = (),
    refusals: Sequence[str] = (),
) -> str:
    """Markdown for the User Metadata tab: the state, the plan with what destroys first, and what to send where.

    `decides_here` says whether decisions typed into that UI are taken at all; `step_of` is the number of a composite's step, and that run.
    """
    head = [f"## {_headline(state)}: {code(stack_path)}", asked_by(run_type, requester, message)]
    if plan is not None and plan.source:
        head.append(f"from {code(plan.source, 2 * WIDTH)}")
    if alarms:
        head.append(_alarmed(alarms))
    if reason:
        head.append(_reason(reason))
    if plan is not None and plan.changes_anything:
        risks = [f"⚠ {code(risk)}" for risk in plan.risks[:RISKS]]
        head.append("\n".join([f"**{plan.in_words}** · class **{plan.change_class}**", *risks]))
    foot = []
    if step_of is not None:
        foot.append(f"Step {step_of[0]} of {code(step_of[1])}: decisions, and wishes to cancel, are about the whole and go there.")
    elif state is RunState.AWAITING_APPROVAL and plan_digest and requirement:
        foot.append(_who_and_until(requirement, expires_at, agreed))
        engine = plan.engine if plan is not None else ""
        foot += _what_to_send(run_id, plan_digest, requirement, engine) if decides_here else _elsewhere(run_id, plan_digest)
    elif agreed:
        foot.append(f"Agreed: {_names(agreed)}.")
    if state in _NEXT:
        foot.append(_NEXT[state])
    if refusals:
        foot.append(section("Refused", refusals))
    limit = LINES
    while len((page := "\n\n".join([*head, *_blocks(plan, limit), *foot])).encode()) > SIZE and limit:
        limit //= 2
    return page


def asked_by(run_type: str, requester: Principal, message: str | None) -> str:
    behind = f" for {code(requester.acts_for)}" if requester.acts_for else ""
    why = f"\nwhy: {code(_SHAPES.line(message))}" if message else ""
    return f"{code(run_type)} asked for by {code(requester.id)}{behind}{why}"


def _alarmed(alarms: Sequence[str]) -> str:
    """What the live guard saw: above everything else."""
    rest = [f"and {len(alarms) - ALARMS} more"] if len(alarms) > ALARMS else []
    return "\n".join(["**ALARM: the apply does what nobody approved**", *(f"⚠ {code(alarm)}" for alarm in alarms[:ALARMS]), *rest])


def section(title: str, refusals: Sequence[str]) -> str:
    return f"### {title}\n\n" + "\n".join(code(line, 2 * WIDTH) for line in refusals[-REFUSALS:])


def _reason(reason: str) -> str:
    lines = [code(line, 2 * WIDTH) for line in reason.splitlines() if line.strip()][:20]
    while len("\n".join(lines).encode()) > REASON:
        lines.pop()
    return "\n".join(lines)


def _blocks(plan: Plan | None, limit: int) -> list[str]:
    return [plan_block(plan, limit)] if plan is not None and plan.changes_anything else []


def _headline(state: RunState) -> str:
    return {
        RunState.AWAITING_APPROVAL: "Waiting for approval",
        RunState.NEEDS_OPERATOR: "Needs an operator",
        RunState.PENDING: "Waiting for its turn",
    }.get(state, str(state).replace("_", " ").capitalize())


def _names(agreed: Sequence[str]) -> str:
    return ", ".join([code(name) for name in dict.fromkeys(agreed)][:AGREED])


def _who_and_until(requirement: Requirement, expires_at: datetime | None, agreed: Sequence[str]) -> str:
    until = f" by {expires_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if expires_at else ""
    have = f"\nAgreed so far: {_names(agreed)}." if agreed else ""
    return f"### Decide{until}\n\nNeeds **{who_must_agree(requirement)}** ({code(requirement.rule)}).{have}"


def _what_to_send(run_id: str, plan_digest: str, requirement: Requirement, engine: str) -> list[str]:
    return [
        *(_approve(plan_digest, requirement, engine) if requirement.need.rank < Need.OTHER.rank else _approve_by_name(run_id, plan_digest)),
        "To end the run before any change: *More Actions*, *Send an Update*, `reject`, with",
        '`{"reason": "…"}`',
        "*Send a Signal* takes the same names and data and gives no answer: a refusal is told here, after pressing *R*.",
    ]


_NAMED = {
    "helm": "the release's own name, what follows the first dot of the one on top",
    "composite": "the name of everything it destroys, in the order of its steps, with a comma and a space in between",
}


def _approve(plan_digest: str, requirement: Requirement, engine: str) -> list[str]:
    """The JSON is a paragraph of its own, so that three clicks select all of it."""
    data = {"plan_digest": plan_digest} | ({"confirm_name": "…"} if requirement.confirm_name else {})
    name = _NAMED.get(engine, "its name, the one on top")
    typed = [f"It destroys something: type {name}, in place of the dots."] if requirement.confirm_name else []
    return ["To agree: *More Actions*, *Send an Update*, `approve`, with", f"`{json.dumps(data, ensure_ascii=False)}`", *typed]


def _approve_by_name(run_id: str, plan_digest: str) -> list[str]:
    return [
        f"To agree takes a name, and nobody has one in this UI: use `countersign approve {run_id}`, its page "
        f"(`countersign open {run_id}`), or an MCP client.",
        f"Digest of the plan: `{plan_digest}`",
    ]


def _elsewhere(run_id: str, plan_digest: str) -> list[str]:
    return [
        f"Decisions made in this UI are not taken (`ui_approvals`): use `countersign approve {run_id}`, "
        f"`countersign reject {run_id}`, its page (`countersign open {run_id}`), or an MCP client.",
        f"Digest of the plan: `{plan_digest}`",
    ]
