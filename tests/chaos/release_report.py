"""What the matrix of releases tells: its part of build/chaos.json, and its section of docs/kill-matrix.md."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.chaos.judge import STUCK
from tests.chaos.release_judge import COUNTS, ReleaseFound
from tests.chaos.releases import RULES, Verdict, Victim
from tests.chaos.releasing import Outcome
from tests.chaos.report import cell, spread

HEADING = "## Releases"
FEWEST = 20  # points of a whole matrix
_NAMES = {
    "points": "points",
    "deployed_twice": "deployed revisions beside the one",
    "left_behind": "objects of a failed revision left, or objects of the deployed one lost",
    "locks_left": "releases left pending",
    "unapproved": "changes nobody approved",
    "needless_approvals": "second approvals asked needlessly",
    "needless_operator_stops": "needless stops for an operator",
    "stuck": f"runs that did not end within {STUCK:g} s",
    "leaks": "places where a secret leaked",
}


def told(outcome: Outcome) -> dict[str, Any]:
    rows = outcome.rows
    return {
        "seed": outcome.seed,
        "cores": os.cpu_count(),
        "load": outcome.load,
        "points": len(rows),
        **{name: sum(getattr(row, name) for row in rows) for name in COUNTS},
        "tried_again": sum(row.tries > 1 for row in rows),
        "stuck": sum(row.stuck for row in rows) + len(outcome.unclosed),
        "leaks": len(outcome.leaks),
        "wrong": sum(row.failed for row in rows),
        "recovery_seconds": spread(row.recovery for row in rows),
        "by_victim": {str(v): _victim(some) for v in Victim if (some := [row for row in rows if row.point.victim is v])},
        "leaks_found": outcome.leaks,
        "workflows_left_open": outcome.unclosed,
        "rows": [row.told() for row in rows],
    }


def _victim(rows: Sequence[ReleaseFound]) -> dict[str, Any]:
    return {
        "points": len(rows),
        "wrong": sum(row.failed for row in rows),
        "rolled_back": sum(row.verdict == Verdict.BACK for row in rows),
        "recovery_seconds": spread(row.recovery for row in rows),
    }


def unmet(document: Mapping[str, Any], *, whole: bool) -> list[str]:
    """What of the promise is not kept, in words."""
    found = [f"releases: {name}: {document[name]}" for name in (*COUNTS, "stuck", "leaks", "wrong") if document[name]]
    if whole and document["points"] < FEWEST:
        found.append(f"{document['points']} points of releases, and a whole matrix has {FEWEST}")
    return found


# For people


def section(document: Mapping[str, Any]) -> str:
    return "\n".join([_HEAD, _summary(document), _victims(document), _rules(document), _points(document)])


_HEAD = f"""{HEADING}

The same for Helm, on a real control plane with simulated nodes. Points, and what has to come of each, are in
`tests/chaos/releases.py`. What came of it is told by helm's own history, the objects that live, and the rows of decisions. Where
several points wait for one kill, helm is stopped at its boundary and goes on when the victim is dead: a helm whose worker died has
to finish alone, in one revision, and nothing is rolled back beside it. These alone: `make chaos CHAOS=--releases`.
"""


def _summary(document: Mapping[str, Any]) -> str:
    took = document["recovery_seconds"]
    lines = ["| | Countersign |", "|---|---|", *(f"| {name} | {document[key]} |" for key, name in _NAMES.items())]
    said = (
        f"\nFrom the restart of the victim to the end of the run: {took['median']} s in the median, {took['max']} s at most; "
        f"a hook and a wait for pods take 8 s each here. Seed {document['seed']}; {document['cores']} cores with a load of "
        f"{document['load']} before it began.\n"
    )
    return "\n".join([*lines, said])


def _victims(document: Mapping[str, Any]) -> str:
    lines = ["| victim | points | as expected | recovery, median | max |", "|---|---|---|---|---|"]
    for victim, of in document["by_victim"].items():
        took = of["recovery_seconds"]
        lines.append(f"| {victim} | {of['points']} | {of['points'] - of['wrong']} | {took['median']} s | {took['max']} s |")
    return "\n".join([*lines, ""])


def _rules(document: Mapping[str, Any]) -> str:
    lines = ["| verdict | because | points |", "|---|---|---|"]
    used = Counter(row["why"] for row in document["rows"])
    lines += [f"| {' or '.join(rule.verdicts)} | {rule.why} | {used[rule.why]} |" for rule in RULES.values() if used[rule.why]]
    return "\n".join([*lines, ""])


def _points(document: Mapping[str, Any]) -> str:
    lines = ["| point | expected | came | revisions | recovery |", "|---|---|---|---|---|"]
    for row in document["rows"]:
        took = "–" if row["recovery_seconds"] is None else f"{row['recovery_seconds']:.1f} s"
        lines.append(f"| `{row['id']}` | {row['expected']} | {cell(row)} | {row['history'] or 'none'} | {took} |")
    return "\n".join([*lines, ""])
