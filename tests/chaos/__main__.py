"""`make chaos`: the kill matrix; JSON to build/chaos.json, Markdown to docs/kill-matrix.md. Exit 1 where a promise is not kept."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tests.acceptance.installed import REPOSITORY
from tests.chaos import matrix, naive, report
from tests.chaos.judge import Found
from tests.chaos.mutations import MUTATIONS
from tests.chaos.points import ALL, Point
from tests.chaos.sample import SAMPLE

SEED = 20261126


def chosen(only: Sequence[str], *, sample: bool) -> list[Point]:
    points = [p for p in ALL if not sample or p.id in SAMPLE]
    found = [p for p in points if not only or any(fnmatchcase(p.id, glob) for glob in only)]
    if not found:
        raise SystemExit(f"no point is called {', '.join(only)}; `--list` names them all")
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="kill -9 of every part at every boundary of a run")
    parser.add_argument("--only", nargs="+", default=[], metavar="GLOB", help="points by their ids")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--sample", action="store_true", help="the points that `make test` tries")
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
        return 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = given.keep or Path(temporary)
        if given.naive:
            return asyncio.run(_naive(folder, given.seed))
        only = given.only or (list(MUTATIONS[given.mutate].points) if given.mutate else [])
        return asyncio.run(_matrix(folder, given, chosen(only, sample=given.sample)))


async def _naive(folder: Path, seed: int) -> int:
    document = await naive.run(folder / "naive", seed=seed)
    report.written(document, REPOSITORY / "build" / "chaos-naive.json")
    print(f"raw Terraform: {document['points']} kills, {document['duplicates']} duplicates, {document['lost']} lost")
    return 0


async def _matrix(folder: Path, given: argparse.Namespace, points: Sequence[Point]) -> int:
    begun = time.monotonic()

    def told(row: Found) -> None:
        print(report.line(row), flush=True)

    outcome = await matrix.run(points, seed=given.seed, folder=folder, lanes=given.lanes, told=told, mutate=given.mutate)
    document = report.told(outcome)
    whole = len(points) == len(ALL) and not given.mutate
    name = f"chaos-{given.mutate}.json" if given.mutate else "chaos.json"
    report.written(document, REPOSITORY / "build" / name)
    if whole:
        beside = await naive.run(folder / "naive", seed=given.seed)
        report.written(beside, REPOSITORY / "build" / "chaos-naive.json")
        (REPOSITORY / "docs" / "kill-matrix.md").write_text(report.page(document, beside))
    problems = report.unmet(document, whole=whole)
    took = document["recovery_seconds"]
    print(
        f"{document['points']} points in {time.monotonic() - begun:.0f} s, recovery {took['median']} s (at most {took['max']} s), "
        f"re-attach {document['reattach_seconds']['median']} s, {document['operator_stops']} stops for an operator"
    )
    print("\n".join(problems) if problems else "all as written down")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
