"""A retry budget: retries are a share of the traffic, so that an outage is not doubled.

botocore and gRPC have one, too. Here an empty budget delays a retry and fails none: with a steady
tenth of faults, calls would fail that would have been answered.
"""

from __future__ import annotations

import math

#: Retries a second that are always allowed: a small program has no traffic to speak of.
PER_SECOND = 3.0

#: Retries that may be saved up.
MOST_SAVED = 10.0


class RetryBudget:
    """The retry budget of one lane. Not thread-safe: the lane's mutex guards it."""

    def __init__(self, share: float) -> None:
        self.share = share
        #: Calls that left since the last withdrawal.
        self.sends = 0
        self._saved = MOST_SAVED
        self._at = -math.inf

    def withdraw(self, now: float) -> float:
        """Take one retry; returns the seconds it must wait for its share of the traffic."""
        self._saved = min(MOST_SAVED, self._saved + self.sends * self.share)
        self.sends = 0
        earned = max(0.0, now - max(self._at, now - MOST_SAVED)) * PER_SECOND
        self._saved = min(MOST_SAVED, self._saved + earned) - 1.0
        self._at = now
        return max(0.0, -self._saved / PER_SECOND)
