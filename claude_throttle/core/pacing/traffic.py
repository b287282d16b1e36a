"""What left a lane and what became of it: the running totals that headers are compared with."""

from __future__ import annotations

from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.pacing.averages import AverageCost, DecayingCost

#: Seconds between what the server counts and what we hear of it, beyond the answer's own time;
#: and by which one call may overtake another on the way.
NETWORK_SECONDS = 0.05


class Traffic:
    """Of one lane, in all kinds of units at once. Not thread-safe: the lane's mutex guards it."""

    def __init__(self) -> None:
        #: All that ever left, as it is now known to have cost.
        self.taken = NO_COST
        #: Estimates of what is in flight.
        self.pending = NO_COST
        #: All that answers turned out to hold.
        self.produced = NO_COST
        #: What a call takes.
        self.mean = AverageCost()
        #: What left so shortly before that what leaves now may overtake it.
        self.lately = DecayingCost(NETWORK_SECONDS)

    def take(self, cost: Cost, now: float) -> Cost:
        """*cost* leaves now; returns what left so shortly before that it may be overtaken."""
        self.taken = self.taken.plus(cost)
        self.pending = self.pending.plus(cost)
        self.mean.add(cost)
        return self.lately.add(cost, now)

    def settle(self, held: Cost, actual: Cost, change: Cost) -> None:
        """What left as *held* was in truth *actual*, so much more, and is in flight no more."""
        self.taken = self.taken.plus(change)
        self.produced = self.produced.plus(actual)
        pending = self.pending.minus(held)
        self.pending = pending if min(pending) >= 0 else Cost(*[max(0.0, some) for some in pending])
