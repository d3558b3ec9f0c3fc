"""The schedule of a workload, fixed before it starts, and latencies that count from it.

The loop is open: when a transaction is due depends on the rate alone, never on how long the one before it
took. A server that stalls for a second makes the transactions of that second late, and each of them shows it;
a closed loop would just have sent fewer (coordinated omission, Gil Tene). What is due and not yet done is
a figure of its own: seconds behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from cdcpipe.errors import UsageError

__all__ = ["CONNECTIONS_MAX", "RATE_MAX", "Latencies", "Pace", "check_load", "is_whole", "transaction_events_mean"]

RATE_MAX = 1_000_000.0
CONNECTIONS_MAX = 64
_TRANSACTIONS_PER_SECOND = 25  # of one connection, once the rate is too high for small ones alone


def check_load(rate: float, seconds: float, connections: int) -> None:
    """Raise `UsageError` unless the three can be run: finite, above 0, within what a generator can mean."""
    if not _is_number(rate) or not math.isfinite(rate) or not 0 < rate <= RATE_MAX:
        raise UsageError(
            f"`rate` is {rate!r}: it must be a number of events per second, above 0 and at most {RATE_MAX:,.0f}"
        )
    if not _is_number(seconds) or not math.isfinite(seconds) or not 0 < seconds <= 31 * 86_400:
        raise UsageError(f"`seconds` is {seconds!r}: it must be a number above 0 and at most 31 days")
    if not is_whole(connections) or not 1 <= connections <= CONNECTIONS_MAX:
        raise UsageError(f"`connections` is {connections!r}: it must be a whole number from 1 to {CONNECTIONS_MAX}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether it is an `int` and no `bool`, whatever the caller's annotations promised."""
    return isinstance(value, int) and not isinstance(value, bool)


def transaction_events_mean(rate: float) -> float:
    """How many events a transaction has on average when one connection is to carry `rate` events/s.

    Small ones (about 4) while the rate allows, as in any shop; larger ones as it grows, as in bulk jobs.
    """
    return min(max(rate / _TRANSACTIONS_PER_SECOND, 4.0), 1000.0)


class Pace:
    """When the transactions of one connection are due, in seconds from the start.

    A transaction takes as much of the schedule as it has events, so the events of all that are due by any
    moment are `rate * moment`, whatever their sizes.
    """

    def __init__(self, rate: float, seconds: float, *, phase: float = 0.0) -> None:
        self._rate = rate
        self._seconds = seconds
        self._due = phase
        self._gap = 0.0

    @property
    def due(self) -> float | None:
        """When the next transaction is due; None when the schedule is over."""
        return self._due if self._due < self._seconds else None

    @property
    def aside(self) -> float:
        """A moment between the last one and the next: for a transaction that will be rolled back and so has no events.

        It comes on top of the rate and moves nothing.
        """
        return self._due - self._gap / 2

    def take(self, events: int) -> None:
        """A transaction of `events` events took the due moment."""
        self._gap = events / self._rate
        self._due += self._gap


class Latencies:
    """A histogram of seconds with buckets that are 2 % wide: small, and mergeable between processes."""

    _WIDTH = math.log(1.02)
    _LEAST = 1e-5

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def add(self, seconds: float) -> None:
        bucket = int(math.log(max(seconds, self._LEAST) / self._LEAST) / self._WIDTH)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    @classmethod
    def merged(cls, parts: Iterable[Latencies]) -> Latencies:
        whole = cls()
        for part in parts:
            for bucket, count in list(part.counts.items()):
                whole.counts[bucket] = whole.counts.get(bucket, 0) + count
        return whole

    def percentile(self, share: float) -> float:
        """The seconds that `share` (0 to 1) of all latencies stay below, at most 2 % too high; NaN if there is none."""
        total = sum(self.counts.values())
        if total == 0:
            return math.nan
        rank = max(1, math.ceil(share * total))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                break
        return self._LEAST * math.exp((bucket + 1) * self._WIDTH)
