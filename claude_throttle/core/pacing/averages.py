"""Running values: a mean that forgets, sums that fade, a minute's worth."""

from __future__ import annotations

import math
from collections import deque

from claude_throttle.core.domain.cost import NO_COST, Cost

#: Weight of a new value: about the last twenty count.
NEW_SHARE = 0.1


class AverageCost:
    """A mean of which the past fades with each new cost; exact for the first few.

    Kind by kind, of those that take any: a permit may tell its input only, and the tokens of a
    retry may be booked already.
    """

    def __init__(self) -> None:
        self.value = NO_COST
        self._counts = [0, 0, 0]

    def add(self, cost: Cost) -> None:
        """One more."""
        value, counts = list(self.value), self._counts
        for kind, units in enumerate(cost):
            if units > 0:
                counts[kind] += 1
                value[kind] += max(NEW_SHARE, 1.0 / counts[kind]) * (units - value[kind])
        self.value = Cost(*value)


class DecayingSum:
    """A sum that fades with time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._value = 0.0
        self._at = -math.inf

    def value(self, now: float) -> float:
        """What is left of it."""
        if self._value == 0.0:
            return 0.0
        return self._value * math.exp(-max(0.0, now - self._at) / self._seconds)

    def add(self, amount: float, now: float) -> float:
        """More of it; returns what was left before."""
        before = self.value(now)
        self._value = before + amount
        self._at = now
        return before


class DecayingCost:
    """The same of all parts of a cost at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._cost = NO_COST
        self._at = -math.inf

    def value(self, now: float) -> Cost:
        """What is left of it."""
        if now <= self._at:
            return self._cost
        return self._cost.times(math.exp((self._at - now) / self._seconds))

    def add(self, cost: Cost, now: float) -> Cost:
        """More of it; returns what was left before."""
        before = self.value(now)
        self._cost = before.plus(cost)
        if now > self._at:
            self._at = now
        return before


class LastMinute:
    """What left within the last minute, to a second."""

    def __init__(self) -> None:
        #: When each second began, the requests and the input tokens in it. No minute has more.
        self._seconds: deque[list[float]] = deque([[-math.inf, 0.0, 0.0]], maxlen=61)
        self._ends = -math.inf

    def add(self, cost: Cost, now: float) -> None:
        """It leaves now."""
        if now >= self._ends:
            self._seconds.append([now, 0.0, 0.0])
            self._ends = now + 1.0
        second = self._seconds[-1]
        second[1] += cost.requests
        second[2] += cost.input_tokens

    def total(self, now: float) -> Cost:
        """All of it, but for the output tokens."""
        lately = [second for second in self._seconds if second[0] > now - 60.0]
        return Cost(sum(second[1] for second in lately), sum(second[2] for second in lately), 0.0)


class LatencyEstimator:
    """How long answers take, those that are still out included.

    The short ones come back first; a mean of what came back would take them for all. All the time
    that all calls spent in flight, over the number of those that ended, has no such bias.
    """

    #: What is kept of the past with each end: about the last forty count.
    MEMORY = 0.975

    #: Answers take at most so many times as long as those that came back: at the very beginning
    #: there are few ends to divide by.
    MOST_STRETCH = 4.0

    def __init__(self) -> None:
        self._in_flight = 0
        self._at = -math.inf
        self._seconds = 0.0
        self._ends = 0.0
        self._answered_seconds = 0.0

    def begin(self, now: float) -> None:
        """One more is in flight."""
        self._advance(now)
        self._in_flight += 1

    def end(self, now: float, seconds: float) -> None:
        """One that was in flight for *seconds* was answered."""
        self.lose(now)
        self._seconds *= self.MEMORY
        self._ends = self._ends * self.MEMORY + 1.0
        self._answered_seconds = self._answered_seconds * self.MEMORY + seconds

    def lose(self, now: float) -> None:
        """One is in flight no more, and says nothing about how long answers take."""
        self._advance(now)
        self._in_flight = max(0, self._in_flight - 1)

    def _advance(self, now: float) -> None:
        if self._in_flight:
            self._seconds += self._in_flight * max(0.0, now - self._at)
        self._at = max(self._at, now)

    def mean(self, now: float) -> float:
        """Seconds an answer takes; 0.0 before the first."""
        if not self._ends:
            return 0.0
        return self._answered_seconds / self._ends * self.stretch(now)

    def stretch(self, now: float) -> float:
        """How many times as long an answer takes as those that came back did; at least 1."""
        if not self._answered_seconds:
            return 1.0
        self._advance(now)
        return min(self.MOST_STRETCH, max(1.0, self._seconds / self._answered_seconds))
