"""A quota: an amount of units per period, as the user configures it.

Only the value and its checks; how it is kept is the matter of :mod:`claude_throttle.core.pacing`.
The checks refuse infinity, NaN and what overflows a float: every instant that is computed from such
an amount would be infinite or NaN, and calls would wait without end or not at all.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Optional, Union

#: As ``burst=``: learn how much may leave at once.
AUTO = "auto"
Burst = Union[float, str]


@dataclass(frozen=True)
class Quota:
    """An amount per period: ``Quota(50)`` is 50 a minute, ``Quota(10, per=1)`` 10 a second.

    Raises TypeError for what is not a number, ValueError for one that is not positive and finite.
    """

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
        """A copy that leaves a share of the amount to other users of the key."""
        return Quota(self.amount * (1.0 - headroom), self.per, self.burst)


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not (0 < value < math.inf) or value > sys.float_info.max:
        raise ValueError(f"{name} must be a positive, finite number, not {value!r:.40}")
