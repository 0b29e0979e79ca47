"""Runs and plans in the words and the order a reviewer needs. Data in, data out: templates only lay it out.

What destroys comes first. A long plan is told in pages and long changes are folded, so that a page is small whatever the plan is;
what is left out is counted. Texts from outside are cleaned where a template writes them, and stay text there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from countersign.core.plan import ChangeClass
from countersign.core.run import RunState

PER_PAGE = 100  # changes
ROWS = 20  # attributes of one change, where many are shown
ALL_ROWS_UP_TO = 10  # changes; so few are shown with every attribute the view has
OPEN_UP_TO = 4  # changes; so few are unfolded, and of a few more those whose attributes say what happens
OPEN_UPDATES_UP_TO = 40
# Why the engine does it, in its words and in ours.
REASONS = {
    "replace_because_tainted": "it is marked as damaged",
    "replace_because_cannot_update": "it cannot be changed in place",
    "replace_by_request": "somebody asked for that",
    "replace_by_triggers": "of what triggers it",
    "delete_because_no_resource_config": "it is no longer in the configuration",
    "delete_because_no_module": "its module is no longer in the configuration",
    "delete_because_wrong_repetition": "count or for_each changed",
    "delete_because_count_index": "count is smaller now",
    "delete_because_each_key": "its key is no longer in for_each",
    "delete_because_no_move_target": "what it moved to is not there",
}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A state, for people: what to call it, and how it looks."""

    label: str
    tone: str  # "waits" for a person, "goes" on, "done", "failed", "over"
    says: str


_C, _S = ChangeClass, RunState
STANDINGS: Mapping[RunState, Standing] = {
    _S.PENDING: Standing(label="Waiting for its turn", tone="goes", says="Another run holds the state, or no worker is free yet."),
    _S.PLANNING: Standing(label="Planning", tone="goes", says="The plan is being made. Nothing is changed by that."),
    _S.CHECKING: Standing(label="Checking", tone="goes", says="Policy weighs the plan."),
    _S.AWAITING_APPROVAL: Standing(label="Waiting for approval", tone="waits", says="Nothing is changed before people agree to this plan."),
    _S.APPROVED: Standing(label="Approved", tone="goes", says="It is applied as soon as its turn comes."),
    _S.APPLYING: Standing(label="Applying", tone="goes", says="The approved plan is being applied."),
    _S.VERIFYING: Standing(label="Verifying", tone="goes", says="What was done is being compared with what was approved."),
    _S.STALE: Standing(label="Planning again", tone="goes", says="Somebody else moved the state, so the plan is made again."),
    _S.INTERRUPTED: Standing(label="Interrupted", tone="waits", says="The apply was lost; what it did is being looked into."),
    _S.RECONCILING: Standing(label="Reconciling", tone="goes", says="What a lost apply did is brought together with the state."),
    _S.NEEDS_OPERATOR: Standing(label="Needs an operator", tone="waits", says="A person has to look; until then its state is blocked."),
    _S.CANCELING: Standing(label="Canceling", tone="goes", says="It is being stopped where that is safe."),
    _S.PLANNED_AND_FINISHED: Standing(label="Planned", tone="done", says="Only a plan was asked for, or there was nothing to change."),
    _S.APPLIED: Standing(label="Applied", tone="done", says="Exactly the approved plan was applied."),
    _S.PARTIALLY_APPLIED: Standing(label="Partly applied", tone="failed", says="Some of the plan was applied, and some was not."),
    _S.REJECTED: Standing(label="Rejected", tone="over", says="Nothing was changed."),
    _S.EXPIRED: Standing(label="Expired", tone="over", says="Nobody agreed in time. Nothing was changed."),
    _S.CANCELED: Standing(label="Canceled", tone="over", says="It was canceled."),
    _S.ERRORED: Standing(label="Failed", tone="failed", says="It failed before anything was changed."),
}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A class of changes, as a heading."""

    title: str
    tone: str  # "destroys", "replaces", "makes", "changes", "plain"


KINDS: Mapping[ChangeClass, Kind] = {
    _C.UNKNOWN: Kind(title="Not understood", tone="destroys"),
    _C.STATEFUL_DELETE: Kind(title="Destroys, with the data in it", tone="destroys"),
    _C.STATEFUL_REPLACE: Kind(title="Replaces, and loses the data in it", tone="destroys"),
    _C.DELETE: Kind(title="Destroys", tone="destroys"),
    _C.REPLACE: Kind(title="Replaces", tone="replaces"),
    _C.FORGET: Kind(title="Forgets; it stays and is no longer managed", tone="replaces"),
    _C.MOVE: Kind(title="Moves to another address", tone="plain"),
    _C.IMPORT: Kind(title="Imports what exists", tone="plain"),
    _C.CREATE: Kind(title="Creates", tone="makes"),
    _C.UPDATE: Kind(title="Changes in place", tone="changes"),
    _C.LABELS: Kind(title="Changes labels only", tone="changes"),
    _C.NONE: Kind(title="Nothing", tone="plain"),
}
# Of what others did already, as drift tells it.
HAPPENED: Mapping[ChangeClass, str] = {
    _C.STATEFUL_DELETE: "Gone, with the data in it",
    _C.STATEFUL_REPLACE: "Replaced, with the data in it lost",
    _C.DELETE: "Gone",
    _C.REPLACE: "Replaced",
    _C.CREATE: "Added",
    _C.UPDATE: "Changed",
    _C.LABELS: "Labels changed",
}
SYMBOLS = {"create": "+", "update": "~", "replace": "±", "delete": "−", "forget": "−", "import": "⇐", "move": "→", "read": "≤"}


@dataclass(frozen=True, kw_only=True)
class Attribute:
    name: str
    before: str | None
    after: str | None
    marks: tuple[str, ...] = ()  # "forces replacement", "sensitive", "known after apply"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One change."""

    symbol: str
    action: str
    address: str
    notes: tuple[tuple[str, str], ...]  # (what, text): why it is replaced, from where it moves
    columns: str  # "before", "after", or "both"
    attributes: tuple[Attribute, ...]
    left_out: int
    opened: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    kind: Kind
    change_class: str
    changes: tuple[Shown, ...]
    total: int  # of this class in the whole plan


@dataclass(frozen=True, kw_only=True)
class PlanPage:
    """A page of the changes of a plan."""

    groups: tuple[Group, ...]
    summary: tuple[tuple[str, str, int], ...]  # (title, tone, how many), of the whole plan, worst first
    outputs: tuple[Attribute, ...]
    outputs_left_out: int
    total: int  # changes of the plan
    matching: int  # of those the view tells, by the filter
    first: int  # number of the first one shown, from 1; 0 where there is none
    last: int
    page: int
    pages: int
    untold: int  # changes of the plan that the view does not tell
    actions: tuple[str, ...] = field(default=())  # there are in the plan


def plan_page(
    view: Mapping[str, Any], *, page: int = 1, action: str | None = None, address: str | None = None, happened: bool = False
) -> PlanPage:
    """The changes of `countersign.view/1`, or of a summary of the same shape, that match; out of range is the last page.

    `happened` says that they are what others did, and not what is going to be done.
    """
    changes: Sequence[Mapping[str, Any]] = sorted(view["changes"], key=lambda c: -ChangeClass(c["change_class"]).rank)
    total = int(view.get("total", len(changes)))
    matching = [c for c in changes if action in (None, c["action"]) and (not address or address in c["address"])]
    pages = max(1, -(-len(matching) // PER_PAGE))
    page = min(max(page, 1), pages)
    begin = (page - 1) * PER_PAGE
    shown = matching[begin : begin + PER_PAGE]
    counted: Mapping[str, int] = view.get("classes") or _counted(changes)
    rows = 10_000 if len(matching) <= ALL_ROWS_UP_TO else ROWS
    groups = []
    for change_class in dict.fromkeys(str(c["change_class"]) for c in shown):
        kind = _kind(change_class, happened)
        drawn = tuple(_change(c, rows=rows, among=len(matching)) for c in shown if c["change_class"] == change_class)
        groups.append(Group(kind=kind, change_class=change_class, changes=drawn, total=counted.get(change_class, len(drawn))))
    outputs = view.get("outputs") or ()
    ranked = sorted(counted.items(), key=lambda item: -ChangeClass(item[0]).rank)
    return PlanPage(
        groups=tuple(groups),
        summary=tuple((_kind(name, happened).title, _kind(name, happened).tone, number) for name, number in ranked if number),
        outputs=tuple(_attribute(o) for o in outputs),
        outputs_left_out=max(0, int(view.get("outputs_total", len(outputs))) - len(outputs)),
        total=total,
        matching=len(matching),
        first=begin + 1 if shown else 0,
        last=begin + len(shown),
        page=page,
        pages=pages,
        untold=max(0, total - len(changes)),
        actions=tuple(sorted({str(c["action"]) for c in changes})),
    )


def _kind(change_class: str, happened: bool = False) -> Kind:
    kind = KINDS[ChangeClass(change_class)]
    return replace(kind, title=HAPPENED.get(ChangeClass(change_class), kind.title)) if happened else kind


def _counted(changes: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for change in changes:
        counted[str(change["change_class"])] = counted.get(str(change["change_class"]), 0) + 1
    return counted


def _change(change: Mapping[str, Any], *, rows: int, among: int) -> Shown:
    action = str(change["action"])
    reason = str(change.get("reason") or "")
    if change.get("replace_paths") and reason == "replace_because_cannot_update":
        reason = ""  # the paths say it better
    notes = [
        ("moves from", change.get("previous_address")),
        ("replaced because of", ", ".join(map(str, change.get("replace_paths") or ()))),
        ("imports", change.get("importing")),
        ("because", REASONS.get(reason, reason.replace("_", " "))),
    ]
    attributes = change.get("attributes") or ()
    shown = tuple(_attribute(a) for a in attributes[:rows])
    changes_something = action not in ("create", "delete", "forget", "move", "read")
    return Shown(
        symbol=SYMBOLS.get(action, "?"),
        action=action,
        address=str(change["address"]),
        notes=tuple((what, str(text)) for what, text in notes if text),
        columns={"create": "after", "read": "after", "delete": "before", "forget": "before"}.get(action, "both"),
        attributes=shown,
        left_out=len(attributes) - len(shown) + int(change.get("attributes_left_out") or 0),
        opened=bool(shown) and (among <= OPEN_UP_TO or (changes_something and among <= OPEN_UPDATES_UP_TO)),
    )


def _attribute(attribute: Any) -> Attribute:
    """As the view tells it; a summary only names what changes, `+` in front of what is known after apply."""
    if not isinstance(attribute, Mapping):
        return Attribute(name=str(attribute), before=None, after=None)
    marks = (("forces_replacement", "forces replacement"), ("sensitive", "sensitive"), ("unknown", "known after apply"))
    sides = {side: None if attribute.get(side) is None else str(attribute[side]) for side in ("before", "after")}
    told = tuple(text for name, text in marks if attribute.get(name))
    return Attribute(name=str(attribute["name"]), before=sides["before"], after=sides["after"], marks=told)


# What happened


@dataclass(frozen=True, kw_only=True)
class Happened:
    at: str
    what: str
    tone: str
    text: str = ""


def timeline(events: Sequence[Mapping[str, Any]]) -> list[Happened]:
    """The ledger as `shown.folded` tells it, one line for each, oldest first. A run begins by being asked for."""
    told = [_happened(event) for event in events]
    if told and events[0]["kind"] == "state" and events[0]["state"] == RunState.PENDING:
        told[0] = replace(told[0], what="Asked for")
    return told


def _happened(event: Mapping[str, Any]) -> Happened:
    body: Mapping[str, Any] = event.get("body") or {}
    standing = STANDINGS[RunState(event["state"])]
    match event["kind"]:
        case "state":
            return Happened(at=event["at"], what=standing.label, tone=standing.tone, text=_words(body))
        case "decision":
            comment = f": {body['comment']}" if body.get("comment") else ""
            return Happened(at=event["at"], what="Agreed", tone="done", text=f"{body.get('by', '')}{comment}")
        case "refused":
            return Happened(at=event["at"], what="Refused", tone="failed", text=f"{body.get('by', '')}: {body.get('message', '')}")
        case "progress":
            text = f"{body.get('done', 0)} of {body.get('total', 0)}"
            now = f": {body['current']}" if body.get("current") else ""
            return Happened(at=event["at"], what="Progress", tone="goes", text=f"{text}{now}")
        case kind:
            return Happened(at=event["at"], what=str(kind).replace("_", " ").capitalize(), tone="over", text=_words(body))


_LOUD = ("message", "reason", "by", "summary")
_ELSEWHERE = frozenset({"plan_digest", "confirm_name", "need", "people"})  # on the page, in a better place


def _words(body: Mapping[str, Any]) -> str:
    """The body of an event on one line: what is a sentence as it is, the rest by name."""
    sentences = [str(body[name]) for name in _LOUD if isinstance(body.get(name), str) and body[name]]
    rest = [
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, value in body.items()
        if name not in _LOUD and name not in _ELSEWHERE and value not in (None, "", [], {})
    ]
    return " · ".join([*sentences, *rest])


def _short(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"
