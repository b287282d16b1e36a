"""A continuously refilled bucket. Pure arithmetic: ``now`` is an argument. Not thread-safe."""

from __future__ import annotations

#: Refilling in floats leaves crumbs; a client exactly on time must not be refused for one.
CRUMB = 1e-6


class SimulatedBucket:
    """Holds at most *capacity*, starts full, gains *per_minute* / 60 each second."""

    def __init__(self, per_minute: float, capacity: float, now: float) -> None:
        self.per_minute = per_minute
        self.capacity = capacity
        self._level = capacity
        self._at = now

    def level(self, now: float) -> float:
        """What is in the bucket at *now*; negative while output tokens are owed."""
        gained = max(0.0, now - self._at) * self.per_minute / 60.0
        return min(self.capacity, self._level + gained)

    def take(self, amount: float, now: float) -> None:
        """Take *amount* out, even if the level falls below zero."""
        self._level = self.level(now) - amount
        self._at = max(now, self._at)

    def seconds_until(self, amount: float, now: float) -> float:
        """Seconds until *amount* (or a full bucket, if that is less) is there; 0.0 if it is."""
        missing = min(amount, self.capacity) - self.level(now)
        return max(0.0, missing * 60.0 / self.per_minute)

    def reshape(self, per_minute: float, capacity: float, now: float) -> None:
        """Change rate and size from *now* on; what is in the bucket stays, if it fits."""
        self._level = min(capacity, self.level(now))
        self._at = max(now, self._at)
        self.per_minute = per_minute
        self.capacity = capacity
