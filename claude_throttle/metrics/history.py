"""The last minutes, in intervals of ten seconds and in fixed memory."""

from __future__ import annotations

import math
from typing import NamedTuple

#: Seconds; long enough for a count to say something at 50 requests a minute.
INTERVAL_SECONDS = 10.0

#: Ten minutes.
INTERVALS = 60

# Places in a slot; the first holds the number of the interval that the slot counts.
_NUMBER, SENT, SUCCEEDED, FAILED, RATE_LIMITED, OVERLOADED = range(6)


class HistoryInterval(NamedTuple):
    """What happened within ten seconds, in this process."""

    #: Seconds from its beginning to now.
    seconds_ago: float
    #: How long it has lasted: 10.0, and less while it is the last one.
    seconds: float
    #: Requests that left, every attempt counted, and those of others.
    sent: int = 0
    #: Calls answered, and requests of others.
    succeeded: int = 0
    #: Calls that ended in an exception; cancelled ones are not among them.
    failed: int = 0
    #: Answers with status 429.
    rate_limited: int = 0
    #: Answers with status 529.
    overloaded: int = 0


class RingBuffer:
    """Counts by interval, the last ones only. Not thread-safe.

    An interval has its number on the scale of ``now``, and a slot by that number. A slot that
    holds another number is not of the last minutes, whatever time did in between: so nothing
    has to be cleared while nobody calls.
    """

    __slots__ = ("_begins", "_ends", "_first", "_slot", "_slots")

    def __init__(self) -> None:
        self._slots: list[list[int]] = []
        self._first = 0
        # The interval of the last event, and its counts: the next one is mostly in it, too.
        self._begins = self._ends = math.nan
        self._slot: list[int] = []

    def add(self, place: int, now: float) -> None:
        """One more at *now*."""
        if not self._begins <= now < self._ends:
            self._turn_to(now)
        self._slot[place] += 1

    def _turn_to(self, now: float) -> None:
        number = _number(now)
        if not self._slots:
            self._first = number
            self._slots = [[number - INTERVALS, 0, 0, 0, 0, 0] for _ in range(INTERVALS)]
        self._first = min(self._first, number)
        self._slot = self._slots[number % INTERVALS]
        if self._slot[_NUMBER] != number:
            self._slot[:] = (number, 0, 0, 0, 0, 0)
        self._begins, self._ends = number * INTERVAL_SECONDS, (number + 1) * INTERVAL_SECONDS

    def intervals(self, now: float) -> tuple[HistoryInterval, ...]:
        """Oldest first; the last one is under way. Empty while nothing ever happened."""
        if not self._slots:
            return ()
        last = _number(now)
        numbers = range(max(self._first, last - INTERVALS + 1), last + 1)
        return tuple(self._interval(number, now) for number in numbers)

    def _interval(self, number: int, now: float) -> HistoryInterval:
        ago = now - number * INTERVAL_SECONDS
        slot = self._slots[number % INTERVALS]
        counts = slot[1:] if slot[_NUMBER] == number else ()
        return HistoryInterval(ago, min(ago, INTERVAL_SECONDS), *counts)


def _number(now: float) -> int:
    return int(now // INTERVAL_SECONDS)
