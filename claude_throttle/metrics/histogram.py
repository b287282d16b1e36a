"""Quantiles of durations in bounded memory.

Buckets grow geometrically, so a few hundred counters cover microseconds to days with the same
relative error. A sorted list of all durations would be exact, and would grow with each call.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

#: Logarithm of the ratio of two bucket widths: 4 % wider, so a quantile is off by 2 % at most.
_GROWTH = math.log(1.04)

#: Seconds; shorter durations count as this.
_SMALLEST_SECONDS = 1e-5


class Quantiles(NamedTuple):
    """Quantiles of durations, in seconds; all are zero while there are no durations."""

    count: int = 0  # type: ignore[assignment] # the number of durations replaces tuple.count()
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


NO_QUANTILES = Quantiles()


class Histogram:
    """Counts durations in buckets of growing width. Not thread-safe: the recorder's lock guards it.

    It covers everything since the start; for the last minutes see :mod:`history`.
    """

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._count = 0
        self._max = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        seconds = max(seconds, _SMALLEST_SECONDS)
        self._buckets[int(math.log(seconds / _SMALLEST_SECONDS) / _GROWTH)] += 1
        self._count += 1
        self._max = max(self._max, seconds)

    def quantiles(self) -> Quantiles:
        """The quantiles of all durations so far."""
        p50, p90, p99 = (self._quantile(share) for share in (0.5, 0.9, 0.99))
        return Quantiles(self._count, p50, p90, p99, self._max)

    def _quantile(self, share: float) -> float:
        """The middle of the bucket that contains the quantile; at most the longest duration."""
        wanted, seen = share * self._count, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted and seen:
                middle = _SMALLEST_SECONDS * math.exp((bucket + 0.5) * _GROWTH)
                return min(middle, self._max)
        return 0.0
