"""A retry budget: retries are a share of the traffic, so that an outage is not doubled.

As botocore and gRPC have it, but an empty budget delays a retry and fails none: a steady tenth of
faults would else fail calls that would have been answered.
"""

from __future__ import annotations

import math

#: Retries a second that are always allowed: a small program has no traffic to speak of.
PER_SECOND = 3.0

#: Retries that may be saved up.
MOST_SAVED = 10.0


class RetryBudget:
    """Of one lane. Not thread-safe: the lane's mutex guards it."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._saved = MOST_SAVED
        self._at = -math.inf

    def sent(self) -> None:
        """An attempt left."""
        self._saved = min(MOST_SAVED, self._saved + self.share)

    def withdraw(self, now: float) -> float:
        """One retry; returns the seconds it must wait for its share of the traffic."""
        earned = max(0.0, now - max(self._at, now - MOST_SAVED)) * PER_SECOND
        self._saved = min(MOST_SAVED, self._saved + earned) - 1.0
        self._at = now
        return max(0.0, -self._saved / PER_SECOND)
