"""Degraded mode: what one of many processes may send while their store cannot be reached.

By default each process keeps to an equal share of each quota, by the number of processes seen last.
It cannot know of processes that started or ended since: this is the reason for the settings "stop"
(a quota must never be exceeded) and "full" (calls must not become slower).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Optional, Union

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import Decision
from claude_throttle.core.domain.quota import Quota
from claude_throttle.core.pacing.configured_quotas import (
    A_MINUTE,
    ConfiguredQuota,
    ConfiguredQuotas,
)
from claude_throttle.core.pacing.learned_quotas import LearnedQuota

#: Values of ``on_store_failure``: its share of each quota; nothing; all that its own pacer allows.
SHARE, STOP, FULL = "share", "stop", "full"

AnyQuota = Union[ConfiguredQuota, LearnedQuota]


class DegradedMode:
    """The pace of one lane while the store is lost. Not thread-safe: the lane's mutex guards it.

    Reservations made before are used first, by all members; shares begin where those end.
    """

    def __init__(self) -> None:
        #: Our share of each quota; made anew each time the store is lost.
        self._share: Optional[ConfiguredQuotas] = None
        self._rates: list[tuple[str, float]] = []
        #: The first instant of the last batch of reservations, and what all of it is for, by kind.
        self._batch_at = -math.inf
        self._batch: dict[str, float] = {}

    def reserved(self, at: float, batch: dict[str, float]) -> None:
        """Note the last batch of reservations: its first instant *at*, and its units by kind."""
        self._batch_at, self._batch = at, batch

    def decide(
        self,
        cost: Cost,
        decision: Decision,
        on_failure: str,
        quotas: list[tuple[str, AnyQuota]],
        members: int,
        now: float,
    ) -> Decision:
        """When *cost* may leave; *decision* is what the process's own pacer allows."""
        if on_failure == STOP:
            return Decision(math.inf, "store lost")
        if on_failure == FULL:
            return decision
        rates = [(name, quota.rate) for name, quota in quotas]
        if self._share is None or rates != self._rates:  # learned or reconfigured meanwhile
            self._rates = rates
            self._share = share_of((quota for _, quota in quotas), members, now)
            for quota in self._share:  # it begins with the batch: the others use theirs, too
                spent = max(0.0, self._batch.get(quota.kind, 0.0) - 1.0) / quota.rate
                quota.empty_at = max(quota.empty_at, self._batch_at + spent)
        return self._share.decide(cost, decision)

    def take(self, cost: Cost, now: float) -> None:
        """Count *cost*, which leaves now, against the share."""
        if self._share is not None:
            self._share.take(cost, now)

    def enter(self) -> None:
        """Start degraded mode: the next decision makes a new share, for the members of then."""
        self._share = None


def share_of(quotas: Iterable[AnyQuota], members: int, now: float) -> ConfiguredQuotas:
    """One of *members* equal shares of the quotas, strictly spaced."""
    rates: dict[str, float] = {}
    for quota in quotas:
        name = A_MINUTE[quota.kind]
        rates[name] = min(quota.rate, rates.get(name, math.inf))
    share = ConfiguredQuotas()
    share.replace_quotas(
        {name: Quota(60.0 * rate / max(1, members)) for name, rate in rates.items()}, 1.0, now
    )
    for quota in share:
        # At different instants, or all members would send one request at once.
        quota.empty_at = now - random.random() / quota.rate
    return share
