"""Checks a series of instants against a quota, window by window."""

from __future__ import annotations

import math
from collections.abc import Iterable


def worst_excess(
    instants: Iterable[float],
    weights: Iterable[float],
    rate_per_second: float,
    burst: float,
    tolerance_seconds: float = 0.005,
) -> float:
    """By how much the fullest window held more than allowed; 0 or less means none did.

    A window is closed, begins at one instant and ends at another (or the same); it may hold
    *burst* + *rate_per_second* x (its seconds + 2 x *tolerance_seconds*). *weights* are not
    negative, one for each instant, in the same order. Takes one pass after sorting; minus infinity
    if there is no instant.
    """
    pairs = sorted(zip(instants, weights))
    worst = best_start = -math.inf
    total = 0.0
    for at, weight in pairs:
        refilled = rate_per_second * (at - pairs[0][0])
        # The best beginning is where most had been refilled and least had come.
        best_start = max(best_start, refilled - total)
        total += weight
        worst = max(worst, total - refilled + best_start)
    return worst - burst - 2 * tolerance_seconds * rate_per_second
