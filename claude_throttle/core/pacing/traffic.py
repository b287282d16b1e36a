"""What left a lane and what became of it: running totals, means that forget, a minute's worth.

The learned quotas compare these totals with the server's headers. An instant alone would not do: a
header describes a moment in the past, and the totals tell what has left since.
"""

from __future__ import annotations

import math
from collections import deque

from claude_throttle.core.domain.cost import NO_COST, Cost

#: Weight of a new value: about the last twenty count.
NEW_SHARE = 0.1

#: Seconds from when the server counts until we know of it, beyond the answer's own time; and by
#: which one call may overtake another on the way.
NETWORK_SECONDS = 0.05

# Half of what NamedTuple's own constructor takes; several in each call.
_new = tuple.__new__


class AverageCost:
    """A mean in which the past fades with each new cost; a plain mean for the first few.

    Each kind by itself, over the costs that take any of it: a permit may know its input only, and
    the tokens of a retry may be booked already.
    """

    def __init__(self) -> None:
        self.value = NO_COST
        self._counts = [0, 0, 0]

    def add(self, cost: Cost) -> None:
        """Take one more cost into the mean."""
        value, counts = list(self.value), self._counts
        for kind, units in enumerate(cost):
            if units > 0:
                counts[kind] += 1
                value[kind] += max(NEW_SHARE, 1.0 / counts[kind]) * (units - value[kind])
        self.value = _new(Cost, value)


class DecayingSum:
    """A sum that fades with time, by the factor e in *seconds*."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._value = 0.0
        self._at = -math.inf

    def value(self, now: float) -> float:
        """The sum at *now*, faded."""
        if self._value == 0.0:
            return 0.0
        return self._value * math.exp(-max(0.0, now - self._at) / self._seconds)

    def add(self, amount: float, now: float) -> float:
        """Add *amount*; returns what was left before."""
        before = self.value(now)
        self._value = before + amount
        self._at = now
        return before


class DecayingCost:
    """A cost that fades with time, all its parts alike."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._cost = NO_COST
        self._at = -math.inf

    def value(self, now: float) -> Cost:
        """The cost at *now*, faded."""
        if now <= self._at:
            return self._cost
        return self._cost.times(math.exp((self._at - now) / self._seconds))

    def add(self, cost: Cost, now: float) -> Cost:
        """Add *cost*; returns what was left before."""
        before = self._cost
        if now > self._at:
            before = before.times(math.exp((self._at - now) / self._seconds))
            self._at = now
        self._cost = before.plus(cost)
        return before


class LastMinute:
    """The requests and input tokens that left within the last minute, to a second."""

    def __init__(self) -> None:
        #: When each second began, the requests and the input tokens in it. No minute has more.
        self._seconds: deque[list[float]] = deque([[-math.inf, 0.0, 0.0]], maxlen=61)
        self._ends = -math.inf

    def add(self, cost: Cost, now: float) -> None:
        """*cost* leaves now."""
        if now >= self._ends:
            self._seconds.append([now, 0.0, 0.0])
            self._ends = now + 1.0
        second = self._seconds[-1]
        second[1] += cost[0]
        second[2] += cost[1]

    def total(self, now: float) -> Cost:
        """The sum of the last minute; output tokens are not known here, and 0."""
        recent = [second for second in self._seconds if second[0] > now - 60.0]
        return Cost(sum(second[1] for second in recent), sum(second[2] for second in recent), 0.0)


class LatencyEstimator:
    """Estimates how long answers take, from answered requests and from those still in flight.

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

    def start_request(self, now: float, change: int = 1) -> None:
        """Note that one more request is in flight, or *change* more."""
        in_flight = self._in_flight
        if now > self._at:
            if in_flight:
                self._seconds += in_flight * (now - self._at)
            self._at = now
        in_flight += change
        self._in_flight = in_flight if in_flight > 0 else 0

    def end(self, now: float, seconds: float) -> None:
        """Note that a request was answered after *seconds* in flight."""
        self.start_request(now, -1)
        self._seconds *= self.MEMORY
        self._ends = self._ends * self.MEMORY + 1.0
        self._answered_seconds = self._answered_seconds * self.MEMORY + seconds

    def lose(self, now: float) -> None:
        """Note that a request ended without an answer: it does not count for the mean."""
        self.start_request(now, -1)

    def mean(self, now: float) -> float:
        """Seconds an answer takes; 0.0 before the first."""
        if not self._ends:
            return 0.0
        return self._answered_seconds / self._ends * self.stretch(now)

    def stretch(self, now: float) -> float:
        """The factor by which answers take longer than those that came back so far; at least 1."""
        if not self._answered_seconds:
            return 1.0
        seconds = self._seconds + self._in_flight * max(0.0, now - self._at)
        return min(self.MOST_STRETCH, max(1.0, seconds / self._answered_seconds))


class Traffic:
    """Totals of what left one lane, in all kinds of units at once. The lane's mutex guards it."""

    def __init__(self) -> None:
        #: All that ever left, as it is now known to have cost.
        self.taken = NO_COST
        #: Estimates of what is in flight.
        self.pending = NO_COST
        #: Tokens confirmed by responses so far.
        self.produced = NO_COST
        #: What a call takes.
        self.mean = AverageCost()
        #: What left so shortly before that what leaves now may overtake it.
        self.recent = DecayingCost(NETWORK_SECONDS)
        self.last_minute = LastMinute()

    def note_leave(self, cost: Cost, now: float) -> Cost:
        """*cost* leaves now; returns what left so shortly before that it may be overtaken."""
        requests, entered, written = cost
        taken, pending = self.taken, self.pending
        self.taken = _new(Cost, (taken[0] + requests, taken[1] + entered, taken[2] + written))
        self.pending = _new(
            Cost, (pending[0] + requests, pending[1] + entered, pending[2] + written)
        )
        self.mean.add(cost)
        self.last_minute.add(cost, now)
        return self.recent.add(cost, now)

    def note_end(self, held: Cost, actual: Cost, change: Cost) -> None:
        """Correct the totals: what left as *held* took *actual*, *change* more, and has ended."""
        taken, produced, pending = self.taken, self.produced, self.pending
        self.taken = _new(Cost, (taken[0] + change[0], taken[1] + change[1], taken[2] + change[2]))
        self.produced = _new(
            Cost, (produced[0] + actual[0], produced[1] + actual[1], produced[2] + actual[2])
        )
        left = pending[0] - held[0], pending[1] - held[1], pending[2] - held[2]
        if min(left) < 0.0:
            left = max(0.0, left[0]), max(0.0, left[1]), max(0.0, left[2])
        self.pending = _new(Cost, left)
