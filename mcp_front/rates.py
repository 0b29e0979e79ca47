"""How much one principal may ask of this process: a rate, and so many requests at once. Everybody else is served meanwhile.

A token bucket each: what was not used is saved up to a burst, and who asks more is told how long to wait. Buckets that are full again
are forgotten, so that what is kept does not grow with everybody who ever came.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MOST = 10_000  # buckets looked through for full ones
# Opening a session keeps something of it for a while, so it weighs more than a request.
WEIGHTS = {"initialize": 10.0}


@dataclass
class _Bucket:
    tokens: float
    at: float


class Rates:
    """`per_minute` in the long run, and as many at once as are saved up in that minute."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def wait(self, who: str, weight: float = 1.0) -> float:
        """Take what a request weighs and return 0, or return the seconds until there is enough, taking nothing."""
        now = self._clock()
        bucket = self._buckets.get(who)
        if bucket is None:
            self._forget(now)
            bucket = self._buckets[who] = _Bucket(tokens=self._burst, at=now)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        weight = min(weight, self._burst)  # nothing is too heavy for ever
        if bucket.tokens < weight:
            return (weight - bucket.tokens) / self._per_second
        bucket.tokens -= weight
        return 0.0

    def _forget(self, now: float) -> None:
        if len(self._buckets) >= MOST:
            full = [who for who, b in self._buckets.items() if b.tokens + (now - b.at) * self._per_second >= self._burst]
            for who in full:
                del self._buckets[who]


class AtOnce:
    """How many requests of each principal are under way."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[str, int] = {}

    @contextmanager
    def one(self, who: str) -> Iterator[bool]:
        """Whether one more is allowed; it counts until the block ends."""
        count = self._open.get(who, 0)
        if count >= self._most:
            yield False
            return
        self._open[who] = count + 1
        try:
            yield True
        finally:
            if self._open[who] == 1:
                del self._open[who]
            else:
                self._open[who] -= 1
