"""What the matrix tells: build/chaos.json for machines, docs/kill-matrix.md for people."""

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.judge import Found
from tests.chaos.matrix import Outcome
from tests.chaos.points import RULES, Verdict, Victim
from tests.chaos.release_judge import ReleaseFound

COUNTS = ("duplicates", "lost", "unapproved", "needless_approvals", "needless_operator_stops")
RECOVERY, REATTACH = 15.0, 5.0  # seconds, medians
FEWEST = 150  # points of a whole matrix


def told(outcome: Outcome) -> dict[str, Any]:
    """As the issue asks for it, and one row per point."""
    rows = outcome.rows
    return {
        "seed": outcome.seed,
        "cores": os.cpu_count(),
        "load": outcome.load,
        "points": len(rows),
        **{name: sum(getattr(row, name) for row in rows) for name in COUNTS},
        "operator_stops": sum(row.operator_stop for row in rows),
        "tried_again": sum(row.tries > 1 for row in rows),
        "stuck": sum(row.stuck for row in rows) + len(outcome.unclosed),
        "leaks": len(outcome.leaks),
        "wrong": sum(row.failed for row in rows),
        "recovery_seconds": spread(row.recovery for row in rows),
        "reattach_seconds": spread(row.reattach for row in rows),
        "by_victim": {str(v): _victim([row for row in rows if row.point.victim is v]) for v in Victim if _any(rows, v)},
        "leaks_found": outcome.leaks,
        "workflows_left_open": outcome.unclosed,
        "rows": [row.told() for row in rows],
    }


def _any(rows: Sequence[Found], victim: Victim) -> bool:
    return any(row.point.victim is victim for row in rows)


def _victim(rows: Sequence[Found]) -> dict[str, Any]:
    return {
        "points": len(rows),
        **{name: sum(getattr(row, name) for row in rows) for name in COUNTS},
        "operator_stops": sum(row.operator_stop for row in rows),
        "stuck": sum(row.stuck for row in rows),
        "wrong": sum(row.failed for row in rows),
        "recovery_seconds": spread(row.recovery for row in rows),
    }


def spread(values: Iterable[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {
        "median": round(statistics.median(known), 2) if known else None,
        "max": round(max(known), 2) if known else None,
    }


def unmet(document: Mapping[str, Any], *, whole: bool) -> list[str]:
    """What of the promise is not kept, in words."""
    found = [f"{name}: {document[name]}" for name in (*COUNTS, "stuck", "leaks", "wrong") if document[name]]
    for name, limit in (("recovery_seconds", RECOVERY), ("reattach_seconds", REATTACH)):
        median = document[name]["median"]
        if whole and median is not None and median > limit:
            found.append(f"{name}: {median} in the median, and {limit:g} were promised")
    if whole and document["points"] < FEWEST:
        found.append(f"{document['points']} points, and a whole matrix has {FEWEST}")
    return found


def written(document: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def beside(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the other matrix as it was found last: each replaces its own part."""
    there: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if "releases" in document:
        return {**there, **document}
    return {**document, **({"releases": there["releases"]} if "releases" in there else {})}


def replaced(path: Path, *, text: str, before: str | None = None, since: str | None = None) -> None:
    """Write `text` into the page in place of all before that heading, or since it; the rest stays."""
    heading = before or since or ""
    first, found, rest = (path.read_text() if path.exists() else "").partition(f"\n{heading}\n")
    kept = f"\n{heading}\n{rest}" if found else ""
    path.write_text(f"{text.rstrip()}\n{kept}" if before else f"{first.rstrip()}\n\n{text}")


def line(row: Found | ReleaseFound) -> str:
    took = f"{row.recovery:5.1f} s" if row.recovery is not None else "      –"
    return f"{'FAILED ' if row.failed else 'ok     '}{took}  {row.point.id}" + (f"\n         {'; '.join(row.wrong)}" if row.wrong else "")


# For people


def page(document: Mapping[str, Any], naive: Mapping[str, Any] | None) -> str:
    parts = [_HEAD, _summary(document, naive), _by_victim(document), _rules(document), _points(document)]
    return "\n".join(parts)


_HEAD = """# The kill matrix

Written by `make chaos`; do not edit. Each point kills one part with SIGKILL at one boundary of a run, starts it again, and lets
the run come to its end. What really happened is told by a fake cloud, a process of its own that records every change before
it answers. What has to come of each point was written down before (`tests/chaos/points.py`).

One point: `make chaos CHAOS="--only worker/create/claim-after"`. `make chaos MUTATE=claim` (or fencing, journal, proof,
attempts) switches one mechanism off, and has to fail.
"""


def _summary(document: Mapping[str, Any], naive: Mapping[str, Any] | None) -> str:
    names = {
        "points": "points",
        "duplicates": "objects made twice",
        "lost": "objects in the cloud and in no state, or the reverse",
        "unapproved": "changes nobody approved",
        "needless_approvals": "second approvals asked needlessly",
        "needless_operator_stops": "needless stops for an operator",
        "operator_stops": "stops for an operator",
        "stuck": "runs that did not end within 60 s",
        "leaks": "places where a secret leaked",
    }
    head = ["| | Countersign |", "|---|---|"]
    if naive is not None:
        head = ["| | Countersign | Terraform and a loop that tries again |", "|---|---|---|"]
    rows = []
    for key, name in names.items():
        cells = [name, str(document[key])]
        if naive is not None:
            cells.append(str(naive[key]) if key in naive else "–")
        rows.append(f"| {' | '.join(cells)} |")
    recovery, reattach = document["recovery_seconds"], document["reattach_seconds"]
    said = (
        f"\nFrom the restart of the victim to the end of the run: {recovery['median']} s in the median, {recovery['max']} s at most. "
        f"Until a live apply is followed again: {reattach['median']} s and {reattach['max']} s. Seed {document['seed']}; "
        f"{document['cores']} cores with a load of {document['load']} before it began.\n"
    )
    if naive is not None:
        said += (
            "\nThe loop is what people write who have no gate: `apply` of the saved plan; a lock that is left is broken by force; a plan "
            f"that is refused is made again. Of its {naive['points']} kills {naive['damaged']} left duplicates or lost objects, "
            f"{naive['silent']} of them with exit code 0; under changes nobody approved stand the plans it made again and applied unseen.\n"
        )
    return "\n".join([*head, *rows, said])


def _by_victim(document: Mapping[str, Any]) -> str:
    lines = ["| victim | points | as expected | stops for an operator | recovery, median | max |", "|---|---|---|---|---|---|"]
    for victim, of in document["by_victim"].items():
        took = of["recovery_seconds"]
        lines.append(
            f"| {victim} | {of['points']} | {of['points'] - of['wrong']} | {of['operator_stops']} | {took['median']} s | {took['max']} s |"
        )
    return "\n".join([*lines, ""])


def _rules(document: Mapping[str, Any]) -> str:
    used = {row["why"]: row["expected"] for row in document["rows"]}
    lines = ["## What has to come of a kill, and why", "", "| verdict | because | points |", "|---|---|---|"]
    for rule in RULES.values():
        if rule.why in used:
            number = sum(row["why"] == rule.why for row in document["rows"])
            lines.append(f"| {rule.verdict} | {rule.why} | {number} |")
    share = sum(row["expected"] == Verdict.OPERATOR for row in document["rows"]) / max(1, document["points"])
    lines.append(f"\nAn operator is asked at {share:.0%} of the points: where a creation was under way and its type offers no look-up.\n")
    return "\n".join(lines)


def _points(document: Mapping[str, Any]) -> str:
    lines = ["## Every point", "", "| point | expected | came | recovery | seed |", "|---|---|---|---|---|"]
    for row in document["rows"]:
        took = "–" if row["recovery_seconds"] is None else f"{row['recovery_seconds']:.1f} s"
        lines.append(f"| `{row['id']}` | {row['expected']} | {cell(row)} | {took} | {row['seed']} |")
    return "\n".join([*lines, ""])


def cell(row: Mapping[str, Any]) -> str:
    """What came of a point, or what was wrong with it."""
    return f"**{'; '.join(row['wrong'])}**".replace("|", "\\|").replace("\n", " ") if row["wrong"] else str(row["verdict"])
