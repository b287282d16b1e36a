"""A lane, its pacer, and what is known about its model."""

from __future__ import annotations

from claude_throttle.flow.call import Call
from claude_throttle.flow.cost import Cost, Usage
from claude_throttle.flow.lane import Lane
from claude_throttle.pacing.concurrency import Concurrency
from claude_throttle.pacing.estimate import Estimator
from claude_throttle.pacing.pacer import Pacer
from claude_throttle.settings import Settings


class Room:
    """One per model. Thread-safe."""

    def __init__(self, lane: Lane, pacer: Pacer) -> None:
        self.lane = lane
        self.pacer = pacer
        self.estimator = Estimator()

    def fitting_cost(self, guessed_input: float, max_tokens: int) -> Cost:
        """What to book for a call; raises QuotaTooSmall if it could never leave."""
        cost = self.estimator.cost(guessed_input, max_tokens)
        self.pacer.require_fit(cost, self.lane.name)
        return cost

    def learn(self, call: Call, usage: Usage) -> None:
        """What an answered call really took."""
        self.estimator.learn(
            call.guessed_input,
            usage.counted_input_tokens,
            call.max_tokens,
            usage.output_tokens,
        )

    def seconds_until_leave(self, cost: Cost, permits: Concurrency, latency: float) -> float:
        """By the quotas, and by the permits if those are what is waited for; *latency* in s."""
        seconds = self.lane.seconds_until_leave(cost)
        if permits.limit is None:
            return seconds
        ahead = self.lane.backlog.calls + 1 - (permits.limit - permits.in_use)
        return max(seconds, max(0.0, ahead / permits.limit) * latency)

    def reconfigure(self, settings: Settings) -> None:
        """Keep other quotas and another bound from now on."""
        lane = self.lane
        with lane.mutex:
            self.pacer.reconfigure(settings.quotas, settings.burst, lane.now())
            lane.backlog.maxsize = settings.max_queue
            lane.backlog.not_full.notify_all()
            lane.backlog.not_empty.notify()
