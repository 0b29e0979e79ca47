"""Who is next on a state."""

from hypothesis import given
from hypothesis import strategies as st

from countersign.core.queue import AGREED, Waiting, rank_of

ANA, BO, CLAUDE = "person:ana", "person:bo", "agent:claude"


def queued(*requesters: str) -> list[Waiting]:
    """A queue in which these asked, in this order."""
    waiting: list[Waiting] = []
    for by in requesters:
        waiting.append(Waiting(by=by, rank=rank_of(by, waiting)))
    return waiting


def order(waiting: list[Waiting]) -> list[str]:
    return [one.by for one in sorted(waiting, key=lambda one: one.rank)]  # stable: who asked first comes first


def test_the_first_run_of_an_empty_queue_ranks_first() -> None:
    assert rank_of(ANA, []) == 0


def test_one_requester_goes_in_the_order_of_asking() -> None:
    assert [one.rank for one in queued(CLAUDE, CLAUDE, CLAUDE)] == [0, 1, 2]


def test_who_asks_behind_many_runs_of_another_waits_for_one_of_them() -> None:
    assert order(queued(CLAUDE, CLAUDE, CLAUDE, ANA)) == [CLAUDE, ANA, CLAUDE, CLAUDE]


def test_requesters_take_turns() -> None:
    assert order(queued(CLAUDE, CLAUDE, ANA, BO, ANA)) == [CLAUDE, ANA, BO, CLAUDE, ANA]


def test_who_comes_anew_begins_where_the_queue_is_and_not_before_everybody() -> None:
    waiting = [Waiting(by=CLAUDE, rank=37), Waiting(by=CLAUDE, rank=38)]

    assert rank_of(ANA, waiting) == 37


def test_what_people_agreed_to_says_nothing_about_the_others() -> None:
    waiting = [Waiting(by=ANA, rank=AGREED), Waiting(by=CLAUDE, rank=5)]

    assert (rank_of(ANA, waiting), rank_of(BO, [Waiting(by=ANA, rank=AGREED)])) == (5, 0)


@given(st.lists(st.sampled_from([ANA, BO, CLAUDE]), max_size=30), st.sampled_from([ANA, BO, CLAUDE]))
def test_nobody_waits_for_more_runs_of_another_than_of_their_own_and_one(before: list[str], by: str) -> None:
    waiting = queued(*before)
    mine = Waiting(by=by, rank=rank_of(by, waiting))

    for other in {ANA, BO, CLAUDE} - {by}:
        ahead = sum(one.by == other and one.rank <= mine.rank for one in waiting)
        assert ahead <= before.count(by) + 1
