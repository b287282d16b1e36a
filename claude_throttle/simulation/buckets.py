"""A continuously refilled bucket. Pure arithmetic: ``now`` is an argument. Not thread-safe.

The server's view of a quota, written independently of the client's
(:mod:`claude_throttle.core.pacing.gcra`), with a level in place of an instant: a mistake that both
shared would not show in any test.
"""

from __future__ import annotations

#: Units. Tolerance for rounding: a client that is exactly on time must not be refused.
CRUMB = 1e-6


class SimulatedBucket:
    """Holds at most *capacity*, starts full, gains *per_minute* / 60 each second.

    The clock must not go back; an earlier ``now`` than the last one is taken for the last one.
    """

    def __init__(self, per_minute: float, capacity: float, now: float) -> None:
        self.per_minute = per_minute
        self.capacity = capacity
        self._level = capacity
        self._at = now

    def level(self, now: float) -> float:
        """Units in the bucket at *now*; negative after more output than there was."""
        gained = max(0.0, now - self._at) * self.per_minute / 60.0
        return min(self.capacity, self._level + gained)

    def take(self, amount: float, now: float) -> None:
        """Take *amount* out, even if the level falls below zero."""
        self._level = self.level(now) - amount
        self._at = max(now, self._at)

    def seconds_until(self, amount: float, now: float) -> float:
        """Seconds until the bucket holds *amount*, or is full if that is less; 0.0 if it does."""
        missing = min(amount, self.capacity) - self.level(now)
        return max(0.0, missing * 60.0 / self.per_minute)

    def reshape(self, per_minute: float, capacity: float, now: float) -> None:
        """Change rate and capacity from *now* on; the level stays, as far as it fits."""
        self._level = min(capacity, self.level(now))
        self._at = max(now, self._at)
        self.per_minute = per_minute
        self.capacity = capacity
