"""A sample of the kill matrix, and that the matrix would notice if a mechanism were missing."""

from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.chaos import matrix, report
from tests.chaos.matrix import Outcome
from tests.chaos.mutations import MUTATIONS
from tests.chaos.points import ALL, RULES, Op, Victim
from tests.chaos.sample import SAMPLE
from tests.requirements import requirement

pytestmark = pytest.mark.anyio
SEED = 7
TRIED = [p for p in ALL if p.id in SAMPLE]


@pytest.fixture(scope="module")
async def outcome(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outcome]:
    def told(row: matrix.Found) -> None:
        print(report.line(row), flush=True)

    yield await matrix.run(TRIED, seed=SEED, folder=tmp_path_factory.mktemp("chaos"), lanes=2, told=told)


@requirement("chaos:matrix", "promise:crash-costs-nothing")
@pytest.mark.parametrize("id", [p.id for p in TRIED])
async def test_a_kill_costs_no_resource_no_duplicate_and_no_second_approval(outcome: Outcome, id: str) -> None:
    [row] = [row for row in outcome.rows if row.point.id == id]

    assert row.wrong == []


@requirement("chaos:matrix", "promise:no-secrets")
async def test_kills_leak_no_secret_and_leave_no_workflow_open(outcome: Outcome) -> None:
    assert outcome.leaks == []
    assert outcome.unclosed == []


@requirement("chaos:notices")
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
async def test_the_matrix_fails_where_a_mechanism_is_missing(mutation: str, tmp_path: Path) -> None:
    points = [p for p in ALL if p.id == MUTATIONS[mutation].points[0]]

    outcome = await matrix.run(points, seed=SEED, folder=tmp_path, lanes=1, told=lambda row: None, mutate=mutation)

    assert [row.failed for row in outcome.rows] == [True], "nothing failed without it"
    assert outcome.rows[0].verdict != "not tried", outcome.rows[0].wrong


@requirement("chaos:matrix")
def test_the_matrix_is_whole() -> None:
    ids = [p.id for p in ALL]
    assert len(ids) == len(set(ids)) >= 150
    assert {(p.victim, p.op) for p in ALL} == {(victim, op) for victim in Victim for op in Op}
    assert {p.rule for p in ALL} == set(RULES)
    assert len(TRIED) == len(SAMPLE) >= 40
    assert ({p.victim for p in TRIED}, {p.rule for p in TRIED}) == (set(Victim), set(RULES))
    for mutation in MUTATIONS.values():
        assert all(any(fnmatchcase(id, glob) for id in ids) for glob in mutation.points)
