"""A quota is one instant: when its bucket was, or will be, empty.

The generic cell rate algorithm (GCRA) in its simplest form. With ``rate = amount / per``::

    level(now)    = min(burst, (now - empty_at) * rate)    what may leave now; may be negative
    ready_at(c)   = when the level reaches min(c, burst)   a larger call goes when full
    take(c, now)  : full_at = now - burst/rate             a full bucket overflows
                    empty_at = (empty_at if empty_at >= full_at - slack else full_at) + c/rate
    settle(d)     : empty_at += d/rate                     d = actual - estimate

For requests with a burst of 1 this is the fixed interval: 50 a minute leave 1.2 s apart.
"""

from __future__ import annotations

import math

#: Seconds. A departure up to this late is caught up: workers wake late by a fraction of this, and
#: a pace that lost it each time would be slower than the quota. A later one moves the instant: we
#: lose time rather than send two right after each other. After a rest nothing is caught up, or the
#: second call would leave early and a server that allows no burst at all would refuse it.
SLACK_SECONDS = 0.005

#: Seconds. A full bucket of twenty holds twenty, whatever the last digit of a sum of floats says.
ROUNDING_SECONDS = 1e-6

#: Units, for the same reason.
ROUNDING_UNITS = 1e-6


def level(empty_at: float, rate: float, burst: float, now: float) -> float:
    """Units that may leave now; negative while more has left than there was."""
    return min(burst, (now - empty_at) * rate)


def shown(level: float, burst: float) -> float:
    """A level for people to read: what may leave now, between 0 and the burst. NaN is nothing."""
    return min(max(0.0, level), burst)


def whole_units(level: float) -> str:
    """The whole units in a level: most of one request is none that may leave."""
    return f"{math.floor(level + ROUNDING_UNITS):,}" if math.isfinite(level) else "any number"


def ready_at(empty_at: float, rate: float, burst: float, cost: float) -> float:
    """The instant at which *cost* units may leave, if nothing else does before."""
    return empty_at + min(cost, burst) / rate


def take(empty_at: float, rate: float, burst: float, cost: float, now: float) -> float:
    """The new instant after *cost* units left at *now*."""
    full_at = now - burst / rate - ROUNDING_SECONDS
    if empty_at < full_at - SLACK_SECONDS:
        empty_at = full_at
    return empty_at + cost / rate


def keep_level(empty_at: float, old_rate: float, new_rate: float, now: float) -> float:
    """The instant that leaves the level where it is when the rate changes."""
    return now - (now - empty_at) * old_rate / new_rate
