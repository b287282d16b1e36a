"""How many requests the processes of one account may have in flight together, as one found out.

Nobody documents it. The first refusal for too many connections sets it, for all, to what they had
in flight; from then on one more is tried now and then, by whoever has to wait, ever more rarely as
that is refused. What was found stands in the ledger; of two who change the same, one does.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Optional

from claude_throttle.core.pacing.concurrency_limiter import FIRST_GAP_SECONDS, LONGEST_GAP_SECONDS
from claude_throttle.features.sharing.stores.contract import (
    SECOND,
    ExchangeRequest,
    ExchangeResponse,
)

#: Seconds after which what is counted holds: refusals come at once, and what was let in stays.
SETTLE_SECONDS = 0.25

#: At most so much of what was found is taken away at once.
MOST_AT_ONCE = 0.25

#: How it came to what it is: the first refusal of all, one more, one refused since.
FIRST, TRIED, LOWERED = "first", "tried", "lowered"


class SharedLimit(NamedTuple):
    """What all of them keep to."""

    places: int
    #: Seconds until one more is tried.
    gap: float
    #: The ledger's time, in microseconds.
    changed_at: float
    how: str


class SharedConcurrencyLimit:
    """What one process knows of it. The clerk's; refused() may come from any thread."""

    def __init__(self) -> None:
        self.found: Optional[SharedLimit] = None
        #: What the others have in flight, as heard last.
        self._others = 0
        #: As the ledger has it.
        self._facts = ""
        self._version = 0.0
        #: When we were refused, by the ledger's time, as long as nobody was told; what the order
        #: under way knows of that; since when the others were counted.
        self._refused_at: Optional[float] = None
        self._asked: Optional[float] = None
        self._counted: Optional[float] = None

    @property
    def has_pending(self) -> bool:
        """Whether a refusal has to be told."""
        return self._refused_at is not None

    def refused(self, at: float) -> None:
        """Too many connections, at the ledger's time."""
        if self._refused_at is None:  # else it is one of the same moment
            self._refused_at = at

    def order(
        self, order: ExchangeRequest, at: float, in_use: int, somebody_waits: bool
    ) -> ExchangeRequest:
        """*order*, with what is to stand there from now on."""
        found = self._changed(at, somebody_waits, in_use + self._others)
        facts = "" if found is None else json.dumps(found, separators=(",", ":"))
        return order._replace(version=self._version, facts=None if facts == self._facts else facts)

    def _changed(self, at: float, somebody_waits: bool, in_flight: int) -> Optional[SharedLimit]:
        found, refused_at = self.found, self._refused_at
        self._asked = refused_at
        if refused_at is not None:
            # First hear of the others: they may have begun a moment ago.
            return self._lowered(refused_at, in_flight) if refused_at == self._counted else found
        if found is None or not somebody_waits or in_flight < found.places:
            return found
        if 0.0 <= at - found.changed_at < found.gap * SECOND:
            return found
        return SharedLimit(found.places + 1, found.gap, at, TRIED)

    def _lowered(self, at: float, in_flight: int) -> SharedLimit:
        found, let_in = self.found, max(1, in_flight)
        if found is None:
            return SharedLimit(let_in, FIRST_GAP_SECONDS, at, FIRST)
        if found.how != TRIED and abs(at - found.changed_at) < SETTLE_SECONDS * SECOND:
            # Of the same moment: who counts later knows better.
            return found._replace(places=let_in) if found.how == FIRST else found
        gap = min(LONGEST_GAP_SECONDS, 2.0 * found.gap) if found.how == TRIED else found.gap
        least = max(let_in, int(found.places * (1.0 - MOST_AT_ONCE)))
        return SharedLimit(max(1, min(found.places - 1, least)), gap, at, LOWERED)

    def apply(self, order: ExchangeRequest, reply: ExchangeResponse) -> None:
        """What the ledger answered to such an order. One that lost it is told again."""
        ours = max(reply.granted, order.seat.in_use if order.seat is not None else 0)
        self._others = reply.in_flight - ours
        self._version, self._facts = reply.version, reply.facts
        if reply.facts:
            self.found = SharedLimit(*json.loads(reply.facts))
        was_told = self._asked is not None and self._asked == self._counted
        if was_told and order.facts in (None, reply.facts):
            self._refused_at = None
        self._counted = self._asked
