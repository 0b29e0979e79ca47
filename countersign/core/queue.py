"""Who is next on a state: first what people have agreed to, then requesters in turns.

An agent that asks for two hundred runs at once must not keep a person waiting for all of them. So every waiting run has a rank,
the lowest goes first, and of equal ranks whoever asked first: each further run of the same requester ranks one behind the one before, and
who comes anew begins where the queue is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

AGREED = -1  # before every run that has yet to be planned: its plan grows old, and what is planned meanwhile would be stale after it


@dataclass(frozen=True, kw_only=True)
class Waiting:
    by: str  # principal id of the requester
    rank: int


def rank_of(by: str, waiting: Iterable[Waiting]) -> int:
    """The rank of one more run of `by`, behind those that wait. Runs that were agreed to count for nobody."""
    ranks = [(one.by, one.rank) for one in waiting if one.rank != AGREED]
    begins = min((rank for _, rank in ranks), default=0)
    own = [rank for requester, rank in ranks if requester == by]
    return max(own) + 1 if own else begins
