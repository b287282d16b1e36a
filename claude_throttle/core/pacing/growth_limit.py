"""A ramp limit: the server caps how fast usage may grow, minute by minute.

The API answers 429 ``ramp_limit_exceeded`` when usage rises too steeply, although the quota is not
used up. The cap is followed from the first such refusal on, until it has reached the quota.
"""

from __future__ import annotations

import math
from typing import Optional

from claude_throttle.core.domain.feedback import RampLimit
from claude_throttle.core.pacing import gcra

#: Seconds between the server's steps ("will increase … at the next minute boundary").
STEP_SECONDS = 60.0

#: Share by which usage may grow per minute, where the server does not say how much. Seen: 17 % and
#: 280 % (messages of 2026); the smaller one is safer.
DEFAULT_STEP_SHARE = 0.15

#: Units that may leave at once, in seconds' worth.
BURST_SECONDS = 1.0


def step_of(growth: Optional[RampLimit], used: float) -> RampLimit:
    """The server's step, or an estimate; *used*: input tokens of the last minute."""
    if growth is None:
        used = max(1.0, used)
        return RampLimit("input_tokens", used, used * (1.0 + DEFAULT_STEP_SHARE))
    if growth.kind != "input_tokens":
        return growth
    # Whatever it says: half of what went through recently will go through again.
    floor = 0.5 * used
    return RampLimit(growth.kind, max(growth.limit, floor), max(growth.next_limit, 1.01 * floor))


class GrowthLimit:
    """A ceiling on one kind of units that rises in steps. The lane's mutex guards it."""

    def __init__(self, growth: RampLimit, begins_at: float) -> None:
        self.kind = growth.kind
        #: Units per minute, and by how much more each minute.
        self.limit = growth.next_limit
        self.step = max(1.0, growth.next_limit - growth.limit)
        self._stepped_at = begins_at
        self._empty_at = begins_at

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.limit / 60.0

    def ready_at(self, units: float, now: float) -> float:
        """The instant at which *units* may leave."""
        self._advance(now)
        return gcra.ready_at(self._empty_at, self.rate, self.rate * BURST_SECONDS, units)

    def take(self, units: float, now: float) -> None:
        """*units* leave now."""
        self._advance(now)
        self._empty_at = gcra.take(self._empty_at, self.rate, self.rate * BURST_SECONDS, units, now)

    def correct(self, change: float) -> None:
        """*change* more units were taken than was booked."""
        self._empty_at += change / self.rate

    def _advance(self, now: float) -> None:
        steps = math.floor((now - self._stepped_at) / STEP_SECONDS)
        if steps > 0:
            old = self.rate
            self._stepped_at += steps * STEP_SECONDS
            self.limit += steps * self.step
            self._empty_at = gcra.keep_level(self._empty_at, old, self.rate, now)
