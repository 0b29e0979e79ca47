"""`make chaos`: the kill matrix and that of releases; JSON to build/chaos.json, Markdown to docs/kill-matrix.md.

Exit 1 where a promise is not kept.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tests.acceptance.installed import REPOSITORY
from tests.chaos import matrix, naive, release_report, releasing, report
from tests.chaos.judge import Found
from tests.chaos.mutations import MUTATIONS
from tests.chaos.points import ALL, Point
from tests.chaos.release_judge import ReleaseFound
from tests.chaos.releases import RELEASES, ReleasePoint
from tests.chaos.sample import SAMPLE

SEED = 20261126
JSON, PAGE = REPOSITORY / "build" / "chaos.json", REPOSITORY / "docs" / "kill-matrix.md"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    points: tuple[Point, ...]
    releases: tuple[ReleasePoint, ...]


def chosen(only: Sequence[str], *, sample: bool = False, releases: bool = False, mutated: bool = False) -> Chosen:
    """What is tried. The sample and what is switched off are of Terraform alone."""
    found = Chosen(
        points=tuple(p for p in ALL if not releases and (not sample or p.id in SAMPLE) and _named(p.id, only)),
        releases=tuple(p for p in RELEASES if not sample and not mutated and _named(p.id, only)),
    )
    if not (found.points or found.releases):
        raise SystemExit(f"no point is called {', '.join(only)}; `--list` names them all")
    return found


def _named(id: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatchcase(id, glob) for glob in only)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="kill -9 of every part at every boundary of a run")
    parser.add_argument("--only", nargs="+", default=[], metavar="GLOB", help="points by their ids")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--sample", action="store_true", help="the points that `make test` tries")
    parser.add_argument("--releases", action="store_true", help="only the points of releases")
    parser.add_argument("--lanes", type=int, default=2, help="services at once")
    parser.add_argument("--mutate", choices=sorted(MUTATIONS), help="switch one mechanism off; has to end with 1")
    parser.add_argument("--naive", action="store_true", help="only raw Terraform and a loop that tries again")
    parser.add_argument("--list", action="store_true", help="name all points and what has to come of them")
    parser.add_argument("--keep", type=Path, help="a folder for what the services leave; else a temporary one")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.list:
        print("\n".join(f"{p.id:60} {p.expected.verdict}: {p.expected.why}" for p in ALL))
        print("\n".join(f"{p.id:60} {' or '.join(p.expected.verdicts)}: {p.expected.why}" for p in RELEASES))
        return 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = given.keep or Path(temporary)
        if given.naive:
            return asyncio.run(_naive(folder, given.seed))
        only = given.only or (list(MUTATIONS[given.mutate].points) if given.mutate else [])
        found = chosen(only, sample=given.sample, releases=given.releases, mutated=bool(given.mutate))
        problems = asyncio.run(_matrix(folder, given, found.points)) if found.points else []
        if found.releases:
            problems += asyncio.run(_releases(folder, given.seed, found.releases))
        print("\n".join(problems) if problems else "all as written down")
        return 1 if problems else 0


async def _naive(folder: Path, seed: int) -> int:
    document = await naive.run(folder / "naive", seed=seed)
    report.written(document, REPOSITORY / "build" / "chaos-naive.json")
    print(f"raw Terraform: {document['points']} kills, {document['duplicates']} duplicates, {document['lost']} lost")
    return 0


def told(row: Found | ReleaseFound) -> None:
    print(report.line(row), flush=True)


async def _matrix(folder: Path, given: argparse.Namespace, points: Sequence[Point]) -> list[str]:
    """What of the promise is not kept."""
    begun = time.monotonic()
    outcome = await matrix.run(points, seed=given.seed, folder=folder, lanes=given.lanes, told=told, mutate=given.mutate)
    document = report.told(outcome)
    whole = len(points) == len(ALL) and not given.mutate
    if given.mutate:
        report.written(document, REPOSITORY / "build" / f"chaos-{given.mutate}.json")
    else:
        report.written(report.beside(JSON, document), JSON)
    if whole:
        loop = await naive.run(folder / "naive", seed=given.seed)
        report.written(loop, REPOSITORY / "build" / "chaos-naive.json")
        report.replaced(PAGE, before=release_report.HEADING, text=report.page(document, loop))
    took = document["recovery_seconds"]
    print(
        f"{document['points']} points in {time.monotonic() - begun:.0f} s, recovery {took['median']} s (at most {took['max']} s), "
        f"re-attach {document['reattach_seconds']['median']} s, {document['operator_stops']} stops for an operator"
    )
    return report.unmet(document, whole=whole)


async def _releases(folder: Path, seed: int, points: Sequence[ReleasePoint]) -> list[str]:
    """What of the promise is not kept for releases."""
    begun = time.monotonic()
    document = release_report.told(await releasing.run(points, seed=seed, folder=folder / "releases", told=told))
    whole = len(points) == len(RELEASES)
    report.written(report.beside(JSON, {"releases": document}), JSON)
    if whole:
        report.replaced(PAGE, since=release_report.HEADING, text=release_report.section(document))
    took = document["recovery_seconds"]
    of = f"recovery {took['median']} s (at most {took['max']} s)"
    print(f"{document['points']} points of releases in {time.monotonic() - begun:.0f} s, {of}")
    return release_report.unmet(document, whole=whole)


if __name__ == "__main__":
    sys.exit(main())
