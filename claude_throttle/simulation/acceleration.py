"""The cap on how fast usage may grow ("ramp limit"). Pure arithmetic; not thread-safe.

As the API's refusals describe it: a number of input tokens for this minute, and a larger one from
the next minute boundary on. Minutes are counted from the instant at which the cap was set.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from claude_throttle.simulation.buckets import CRUMB

#: Input tokens per minute and step. From a captured refusal: 58,276, next 68,276.
STEP = 10_000.0


class RampRefusal(NamedTuple):
    """The refusal of a request because usage grows too fast."""

    #: Always ``"input tokens"``.
    what: str
    #: The cap of this minute.
    per_minute: float
    #: Whole seconds to the minute boundary, at least 1.
    retry_after: int
    #: The cap after it.
    next_per_minute: float


class AccelerationLimit:
    """*cap* input tokens in the first minute; *step* more after each minute with a request.

    A minute without a request leaves the cap where it is.
    """

    def __init__(self, cap: float, step: float, now: float) -> None:
        self.start = (cap, step)
        self._cap, self._step = cap, step
        self._since = now
        self._minute = 0
        self._used = 0.0
        self._had_request = False

    def refusal(self, amount: float, now: float) -> RampRefusal | None:
        """The refusal of *amount* more tokens now, or None; takes nothing."""
        self._begin_minute(now)
        # A refused request counts, too: the cap that a refusal announces must come true.
        self._had_request = True
        if self._used + amount <= self._cap + CRUMB:
            return None
        seconds = self._since + 60.0 * (self._minute + 1) - now
        retry_after = max(1, math.ceil(seconds - CRUMB))
        return RampRefusal("input tokens", self._cap, retry_after, self._cap + self._step)

    def take(self, amount: float) -> None:
        """Count *amount* as admitted, in the minute that refusal() was last called for."""
        self._used += amount

    def _begin_minute(self, now: float) -> None:
        minute = math.floor((now - self._since + CRUMB) / 60.0)
        if minute > self._minute:
            self._cap += self._step * self._had_request
            self._minute, self._used, self._had_request = minute, 0.0, False
