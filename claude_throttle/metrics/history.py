"""Counts of the last ten minutes, in intervals of ten seconds and in bounded memory.

For status pages and ``throttler.history()``: totals since the start (:mod:`recorder`) do not show
whether an outage is over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

#: Seconds; long enough for a meaningful count at 50 requests a minute.
INTERVAL_SECONDS = 10.0

#: The number of intervals that are kept: ten minutes.
INTERVALS = 60

# Indexes in a slot; the first item is the number of the interval that the slot counts.
_NUMBER, SENT, SUCCEEDED, FAILED, RATE_LIMITED, OVERLOADED, _TURNED_AWAY = range(7)


class HistoryInterval(NamedTuple):
    """Counts of ten seconds, in this process."""

    #: Seconds from its beginning to now.
    seconds_ago: float
    #: Its length so far: 10.0, or less for the current interval.
    seconds: float
    #: Requests sent: every attempt of a call, and requests under a permit.
    sent: int = 0
    #: Calls answered, and requests under a permit.
    succeeded: int = 0
    #: Calls that raised an exception, without cancelled ones.
    failed: int = 0
    #: Answers with status 429.
    rate_limited: int = 0
    #: Answers with status 529.
    overloaded: int = 0
    #: Calls and permits that were refused at the door, by the name of the exception's class.
    turned_away: Mapping[str, int] = MappingProxyType({})


class RingBuffer:
    """Counts by interval, for the last ten minutes. Not thread-safe.

    Each interval has a number on the scale of ``now``, and uses the slot of that number. A slot
    with another number is outdated, so nothing has to be cleared as time passes.
    """

    __slots__ = ("_begins", "_ends", "_first", "_slot", "_slots")

    def __init__(self) -> None:
        self._slots: list[list[Any]] = []
        self._first = 0
        # The interval of the last event, and its counts: the next event is mostly in it, too.
        self._begins = self._ends = math.nan
        self._slot: list[Any] = []

    def record(self, index: int, now: float) -> None:
        """Count one event at *now*."""
        if not self._begins <= now < self._ends:
            self._move_to(now)
        self._slot[index] += 1

    def record_refusal(self, error: str, now: float) -> None:
        """Count one that was turned away at *now*."""
        if not self._begins <= now < self._ends:
            self._move_to(now)
        reasons = self._slot[_TURNED_AWAY]
        reasons[error] = reasons.get(error, 0) + 1

    def _move_to(self, now: float) -> None:
        number = _number(now)
        if not self._slots:
            self._first = number
            self._slots = [[number - INTERVALS, 0, 0, 0, 0, 0, {}] for _ in range(INTERVALS)]
        self._first = min(self._first, number)
        self._slot = self._slots[number % INTERVALS]
        if self._slot[_NUMBER] != number:
            self._slot[:] = (number, 0, 0, 0, 0, 0, {})
        self._begins, self._ends = number * INTERVAL_SECONDS, (number + 1) * INTERVAL_SECONDS

    def intervals(self, now: float) -> tuple[HistoryInterval, ...]:
        """The intervals, oldest first; the last one is the current one. Empty before any event.

        An interval without events is there with zeros, so that a chart has no gaps.
        """
        if not self._slots:
            return ()
        last = _number(now)
        numbers = range(max(self._first, last - INTERVALS + 1), last + 1)
        return tuple(self._interval(number, now) for number in numbers)

    def _interval(self, number: int, now: float) -> HistoryInterval:
        ago = now - number * INTERVAL_SECONDS
        slot = self._slots[number % INTERVALS]
        counts = slot[1:] if slot[_NUMBER] == number else (0, 0, 0, 0, 0, {})
        found = HistoryInterval(ago, min(ago, INTERVAL_SECONDS), *counts)
        # A dict of its own, which counts no further, and no proxy: it pickles.
        return found._replace(turned_away=dict(found.turned_away))


def _number(now: float) -> int:
    return int(now // INTERVAL_SECONDS)
