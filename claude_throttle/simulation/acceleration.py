"""The cap on how fast usage may grow ("ramp limit"). Pure arithmetic; not thread-safe.

As the API's refusals tell it: so many input tokens in this minute, and so many more from the next
minute boundary on. Minutes are counted from the instant at which the cap was put in force.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from claude_throttle.simulation.buckets import CRUMB

#: Input tokens per minute and step. From a captured refusal: 58,276, next 68,276.
STEP = 10_000.0


class RampRefusal(NamedTuple):
    """Why a request is not let in: usage grows too fast."""

    #: Always ``"input tokens"``.
    what: str
    #: The cap of this minute.
    per_minute: float
    #: Whole seconds to the minute boundary, at least 1.
    retry_after: int
    #: The cap after it.
    next_per_minute: float


class AccelerationLimit:
    """*cap* input tokens in the first minute; *step* more after each in which there was a request.

    Minutes without one leave the cap where it is.
    """

    def __init__(self, cap: float, step: float, now: float) -> None:
        self.start = (cap, step)
        self._cap, self._step = cap, step
        self._since = now
        self._minute = 0
        self._used = 0.0
        self._asked = False

    def refusal(self, amount: float, now: float) -> RampRefusal | None:
        """Whether *amount* more is too much for this minute; takes nothing."""
        self._turn(now)
        # Also a refused one is use: what a refusal announces for the boundary must come true.
        self._asked = True
        if self._used + amount <= self._cap + CRUMB:
            return None
        seconds = self._since + 60.0 * (self._minute + 1) - now
        retry_after = max(1, math.ceil(seconds - CRUMB))
        return RampRefusal("input tokens", self._cap, retry_after, self._cap + self._step)

    def take(self, amount: float) -> None:
        """Count *amount* as let in, in the minute last asked about."""
        self._used += amount

    def _turn(self, now: float) -> None:
        minute = math.floor((now - self._since + CRUMB) / 60.0)
        if minute > self._minute:
            self._cap += self._step * self._asked
            self._minute, self._used, self._asked = minute, 0.0, False
