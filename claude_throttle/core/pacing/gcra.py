"""A quota is one instant: when its bucket was, or will be, empty.

GCRA in its plainest dress. With ``rate = amount / per``::

    level(now)    = min(burst, (now - empty_at) * rate)    what may leave now; may be negative
    ready_at(c)   = when the level reaches min(c, burst)   a larger call goes when full
    take(c, now)  : full_at = now - burst/rate             a full bucket overflows
                    empty_at = (empty_at if empty_at >= full_at - slack else full_at) + c/rate
    settle(d)     : empty_at += d/rate                     d = actual - estimate

For requests with a burst of 1 this is the fixed interval: 50 a minute leave 1.2 s apart.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Optional, Union

#: Seconds. A departure up to this late is caught up; a later one moves the instant: we lose time
#: rather than send two on each other's heels. After a rest nothing is caught up, or the second
#: call would leave early and a server that allows no burst at all would refuse it.
SLACK_SECONDS = 0.001

#: Seconds. A full bucket of twenty holds twenty, whatever the last digit of a sum of floats says.
ROUNDING_SECONDS = 1e-6

#: As ``burst=``: learn how much may leave at once.
AUTO = "auto"
Burst = Union[float, str]


@dataclass(frozen=True)
class Quota:
    """So much per so long: ``Quota(50)`` is 50 a minute, ``Quota(10, per=1)`` 10 a second."""

    #: Units (requests or tokens) per period.
    amount: float
    #: Seconds.
    per: float = 60.0
    #: Units that may leave at once after a rest; None = decided by the kind of quota.
    burst: Optional[float] = None

    def __post_init__(self) -> None:
        _require_positive("amount", self.amount)
        _require_positive("per", self.per)
        if self.burst is not None:
            _require_positive("burst", self.burst)

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.amount / self.per

    def with_headroom(self, headroom: float) -> Quota:
        """The same with a share of it left to others."""
        return Quota(self.amount * (1.0 - headroom), self.per, self.burst)


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not (0 < value < math.inf) or value > sys.float_info.max:
        raise ValueError(f"{name} must be a positive, finite number, not {value!r:.40}")


def level(empty_at: float, rate: float, burst: float, now: float) -> float:
    """Units that may leave now; negative while more has left than there was."""
    return min(burst, (now - empty_at) * rate)


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
