"""What one of many processes may do while the ledger they share is silent."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Union

from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing.configured_quotas import (
    A_MINUTE,
    ConfiguredQuota,
    ConfiguredQuotas,
)
from claude_throttle.core.pacing.learned_quotas import LearnedQuota

#: Its part of each quota; nothing; all that it knows of, as if there were no others.
SHARE, STOP, FULL = "share", "stop", "full"


def part_of(
    quotas: Iterable[Union[ConfiguredQuota, LearnedQuota]], members: int, now: float
) -> ConfiguredQuotas:
    """One of *members* equal parts of the quotas, strictly spaced."""
    rates: dict[str, float] = {}
    for quota in quotas:
        name = A_MINUTE[quota.kind]
        rates[name] = min(quota.rate, rates.get(name, math.inf))
    parts = ConfiguredQuotas()
    shares = {name: Quota(60.0 * rate / max(1, members)) for name, rate in rates.items()}
    parts.reconfigure(shares, 1.0, now)
    for part in parts:
        # At different instants, or all members would send one at once.
        part.empty_at = now - random.random() / part.rate
    return parts
