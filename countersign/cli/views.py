"""Answers of the front as people read them. Every text in them comes from outside, so each is shown as it is, never as markup."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from countersign.cli.following import style_of
from countersign.cli.output import rows, safe, safe_block
from countersign.core.redaction import clean_line

# What is gone cannot be had back, so it is read first.
ORDER = ("delete", "replace", "forget", "move", "import", "update", "create", "read")
SYMBOLS = {
    "delete": ("-", "bold red"),
    "replace": ("-/+", "bold red"),
    "forget": ("x", "yellow"),
    "move": ("->", "yellow"),
    "import": ("=>", "cyan"),
    "update": ("~", "yellow"),
    "create": ("+", "green"),
    "read": ("<=", "cyan"),
}
DATA = frozenset({"stateful_delete", "stateful_replace"})
Json = Mapping[str, Any]


def plan_view(plan: Json, run: Json, *, all_attributes: bool = False, how_to: bool = True) -> Group:
    """The plan of a run: digest, risks, changes with what destroys first, who must agree, and what to run."""
    parts: list[RenderableType] = [_headline(plan, run)]
    parts += [Text().append("  ⚠ ", style="bold yellow").append_text(safe(risk, "yellow")) for risk in plan.get("risks", ())]
    if left_out := plan.get("risks_left_out"):
        parts.append(Text(f"  ⚠ and {left_out} more", style="yellow"))
    parts += [_finding(finding) for finding in plan.get("findings", ())]
    parts.append(_changes(plan, all_attributes=all_attributes))
    if outputs := plan.get("outputs"):
        parts.append(Text("  outputs", style="bold"))
        parts += [Text("      ").append_text(safe(line)) for line in outputs]
    if run.get("approval"):
        parts.append(agreement(plan, run, how_to=how_to))
    return Group(*parts)


def _headline(plan: Json, run: Json) -> Group:
    drift = plan.get("mode") == "drift"
    title = Text().append("Drift", style="bold").append(", looked for by ") if drift else Text().append("Plan", style="bold")
    title.append("" if drift else f" {plan.get('number', 1)} of ").append_text(safe(run.get("run_id", "")))
    facts = [str(plan.get("summary") or "no changes"), f"class {plan.get('change_class', 'none')}", str(plan.get("engine", ""))]
    if commit := plan.get("commit"):
        at = plan.get("from")
        facts.append(f"commit {str(commit)[:12]}" + (f" of {at['ref']}, {at['repository']}, {at['path']}" if at else ""))
    lines = [title, Text("  ").append_text(safe(" · ".join(facts), _style_of_class(str(plan.get("change_class", "")))))]
    if digest := plan.get("plan_digest"):
        lines.append(Text().append("  digest ", style="dim").append_text(safe(digest, "bold")))
    return Group(*lines)


def _style_of_class(change_class: str) -> str:
    return {"none": "dim", "create": "green", "update": "yellow", "labels": "yellow"}.get(change_class, "bold red" if change_class else "")


def _changes(plan: Json, *, all_attributes: bool) -> RenderableType:
    told = plan.get("changes") or {}
    items = sorted(told.get("items", ()), key=lambda c: ORDER.index(c["action"]) if c.get("action") in ORDER else -1)
    lines: list[RenderableType] = []
    for change in items:
        action = str(change.get("action", ""))
        symbol, style = SYMBOLS.get(action, ("?", "bold red"))
        line = Text().append(f"  {symbol:>3} ", style=style).append_text(safe(change.get("address", "")))
        if change.get("class") in DATA:
            line.append("  holds data", style="bold red")
        if moved := change.get("moved_from"):
            line.append("  from ", style="dim").append_text(safe(moved))
        if because := change.get("replaced_because_of"):
            line.append("  because of ", style="dim").append_text(safe(", ".join(map(str, because)), "yellow"))
        lines.append(line)
        if all_attributes or action not in ("create", "delete", "read"):
            lines += [Text("          ").append_text(safe(a, "dim")) for a in change.get("attributes", ())]
            if more := change.get("attributes_left_out"):
                lines.append(Text(f"          … and {more} more", style="dim"))
    missing = int(told.get("matching", 0)) - len(items)
    if missing > 0:
        lines.append(Text(f"      … and {missing} more of {told.get('total')}; the artifact plan_view has all", style="dim"))
    return Group(*lines)


def agreement(plan: Json, run: Json, *, how_to: bool = True) -> Group:
    """Who has to agree, and the commands for it."""
    ask = run.get("approval") or {}
    run_id, digest = str(run.get("run_id", "")), str(run.get("plan_digest") or plan.get("plan_digest") or "")
    who = str(plan.get("needs") or " or ".join(ask.get("by") or ()) or "nobody")
    many = f", {ask['needed']} more" if int(ask.get("needed", 0)) > 1 else ""
    until = f", until {_moment(ask['expires_at'])} UTC" if ask.get("expires_at") else ""
    lines = [("needs", f"{who}{many}{until}", "yellow")]
    approve = f"countersign approve {run_id} --digest {digest}"
    if name := ask.get("confirm_name"):
        lines.append(("types", str(name), "bold red"))
        approve += " --name …"
    if how_to:
        lines += [
            ("to agree", approve, "bold"),
            ("to refuse", f"countersign reject {run_id} --reason …", ""),
            ("or", f"countersign open {run_id}, in a browser", ""),
        ]
    return facts(lines)


def facts(lines: Sequence[tuple[str, object, str]]) -> Group:
    """(name, text from outside, style), one a line. A long one is broken by the terminal alone, so that it can be copied."""
    width = max((len(name) for name, _, _ in lines), default=0)
    return Group(*(Text().append(f"  {name:<{width}}  ", style="dim").append_text(safe(text, style)) for name, text, style in lines))


def _finding(finding: Json) -> Group:
    where = ":".join(str(finding[k]) for k in ("file", "line") if finding.get(k) is not None)
    bad = finding.get("severity") == "error"
    head = Text().append("  ✗ " if bad else "  ⚠ ", style="red" if bad else "yellow").append_text(safe(finding.get("summary", "")))
    if where or finding.get("address"):
        head.append("  ").append_text(safe(where or finding["address"], "dim"))
    return Group(head, Padding(safe_block(finding["detail"], "dim"), (0, 0, 0, 4), expand=False)) if finding.get("detail") else Group(head)


def run_view(answer: Json) -> Group:
    """The answer of `run_get`."""
    run, data = answer.get("run") or {}, answer.get("data") or {}
    state = str(run.get("state", ""))
    title = Text().append("● ", style=style_of(state)).append_text(safe(state.replace("_", " "), "bold"))
    title.append("  ").append_text(safe(f"{data.get('type', '')} {data.get('workspace', '')}"))
    for_whom = f" for {data['acts_for']}" if data.get("acts_for") else ""
    told = (
        ("run", run.get("run_id")),
        ("step", "{step} of {run_id}".format(**data["composite"]) if data.get("composite") else None),
        ("asked by", f"{data.get('requester', '')}{for_whom}, {_moment(data.get('created_at'))} UTC"),
        ("because", _quoted(data.get("message"))),
        ("waits for", data.get("waits_for")),
        ("digest", run.get("plan_digest")),
        ("ended", f"{_moment(data['ended_at'])} UTC" if data.get("ended_at") else None),
        ("code", data.get("code")),
    )
    parts: list[RenderableType] = [title, facts([(name, value, "") for name, value in told if value])]
    if reason := _quoted(data.get("reason")):
        parts.append(Padding(safe_block(reason, "yellow"), (0, 0, 0, 2), expand=False))
    parts += [_step(step) for step in data.get("steps_of_it", ())]
    parts += [_decision(approval) for approval in data.get("approvals", ())]
    parts += [*results(data), outputs_view(data.get("outputs"))]
    return Group(*parts)


def _step(step: Json) -> Text:
    """One step of a composite."""
    state = str(step.get("state", ""))
    line = Text().append(f"  {step.get('step')} ").append("● ", style=style_of(state)).append_text(safe(state.replace("_", " ")))
    line.append("  ").append_text(safe(f"{step.get('type', '')} {step.get('workspace', '')}"))
    line.append("  ").append_text(safe(step.get("run_id", ""), "dim"))
    if later := _quoted(step.get("planned_later")):
        line.append("  planned later: ", style="dim").append_text(safe(later, "dim"))
    return line


def _decision(d: Json) -> Text:
    good = bool(d.get("accepted"))
    line = Text().append("  ✓ " if good else "  ✗ ", style="green" if good else "red")
    line.append_text(safe(f"{d.get('decision')} by {d.get('by')} ({d.get('channel')}), {_moment(d.get('at'))}"))
    if not good and d.get("message"):
        line.append(": ").append_text(safe(d["message"], "red"))
    if comment := _quoted(d.get("comment")):
        line.append("  “").append_text(safe(comment)).append("”")
    return line


def results(data: Json, *, most: int = 40) -> list[RenderableType]:
    """What an apply did, resource by resource."""
    told = data.get("resources") or {}
    lines: list[RenderableType] = []
    for row in told.get("items", ())[:most]:
        ok = bool(row.get("ok", True))
        line = Text().append("  ✓ " if ok else "  ✗ ", style="green" if ok else "red").append_text(safe(row.get("address", "")))
        line.append("  ").append_text(safe(row.get("action", ""), "dim"))
        if row.get("id"):
            line.append("  ").append_text(safe(row["id"], "dim"))
        lines.append(line)
    if (more := int(told.get("total", 0)) - len(lines)) > 0:
        lines.append(Text(f"    … and {more} more", style="dim"))
    return lines


def outputs_view(outputs: Json | None) -> RenderableType:
    """Outputs by name; what is sensitive stays hidden."""
    values = (outputs or {}).get("values") or {}
    if not values:
        return Text("", end="")
    lines: list[tuple[str, object, str]] = []
    for name, output in sorted(values.items()):
        hidden = isinstance(output, Mapping) and output.get("sensitive")
        value = output.get("value") if isinstance(output, Mapping) and "value" in output else output
        lines.append((f"    {clean_line(name)}", "(sensitive)" if hidden else _plain(value), "dim" if hidden else ""))
    return Group(Text("  outputs", style="bold"), facts(lines))


def runs_view(found: Sequence[Json]) -> RenderableType:
    lines = []
    for run in found:
        state = str(run.get("state", ""))
        row = (run.get("run_id"), safe(state, style_of(state)), run.get("type"), run.get("workspace"), run.get("change_class"))
        lines.append((*row, run.get("requester"), _moment(run.get("created_at"))))
    return rows("runs", ("run", "state", "type", "stack", "class", "asked by", "at (UTC)"), lines)


def stacks_view(found: Sequence[Json]) -> RenderableType:
    lines = []
    for stack in found:
        last = stack.get("last_run") or {}
        state = str(last.get("state", ""))
        locked = Text("locked", style="yellow") if stack.get("locked") else ""
        row = (stack.get("ref"), stack.get("engine"), stack.get("source"), stack.get("serial"), locked)
        lines.append((*row, safe(state, style_of(state)) if state else "", _moment(last.get("created_at"))))
    return rows("stacks", ("stack", "engine", "source", "serial", "lock", "last run", "at (UTC)"), lines)


def warnings_view(answer: Json) -> list[Text]:
    return [Text().append("warning ", style="yellow").append_text(safe(w)) for w in answer.get("warnings") or ()]


def command(*words: str) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _quoted(text: Any) -> str:
    """The text of something labelled untrusted, or of a plain one."""
    return str(text.get("text", "")) if isinstance(text, Mapping) else str(text or "")


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, ensure_ascii=False)


def _moment(text: Any) -> str:
    """2026-01-31 12:00:05 of an RFC 3339 time."""
    return str(text or "")[:19].replace("T", " ")
