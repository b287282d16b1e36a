"""One model group: a lane, its pacer, and what was learned about its models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Optional

from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import Cost, Usage
from claude_throttle.core.estimation.estimator import Estimator
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer

if TYPE_CHECKING:
    from claude_throttle.account.limits import LaneState
    from claude_throttle.account.suspension import Suspension


class RequestEstimate(NamedTuple):
    """What the cost of a Messages request is estimated from."""

    model: str
    #: Input tokens by the size of the request.
    estimated_input: float
    max_tokens: int


class ModelGroup:
    """The models that share one rate limit: their lane, pacer and estimates. Thread-safe."""

    def __init__(self, lane: Lane, pacer: Pacer, estimator: Estimator) -> None:
        self.lane = lane
        self.pacer = pacer
        self.estimator = estimator

    def fitting_cost(self, model: str, estimated_input: float, max_tokens: int) -> Cost:
        """The cost to book for a call. Raises QuotaTooSmall if it could never be sent."""
        cost = self.estimator.cost(model, estimated_input, max_tokens)
        self.pacer.configured.require_fit(cost, self.lane.name)
        return cost

    def price(self, call: Call) -> Cost:
        """The estimated cost of a waiting call."""
        cost = self.estimator.cost(call.model, call.estimated_input, call.max_tokens)
        if call.input_is_counted:
            cost = cost._replace(input_tokens=call.estimated_input)
        return self.stretched(cost, call.max_tokens)

    def stretched(self, cost: Cost, max_tokens: int) -> Cost:
        """*cost* with a longer answer: short answers come back first, long ones are still out."""
        stretch = self.pacer.stretch(self.lane.now())
        if stretch <= 1.0:
            return cost
        return cost._replace(output_tokens=min(float(max_tokens), cost.output_tokens * stretch))

    def state(self, suspension: Optional[Suspension]) -> LaneState:
        """The state of its lane."""
        from claude_throttle.account.limits import state_of

        with self.lane.mutex:
            return state_of(self.lane, self.pacer, suspension)

    def start_with(self, limits: Mapping[str, float], source: str) -> None:
        """Use *limits*, by kind and per minute, until response headers replace them."""
        with self.lane.mutex:
            self.pacer.start_with(limits, source, self.lane.now())
            self.lane.backlog.not_empty.notify()

    def learn(self, estimate: RequestEstimate, usage: Usage) -> None:
        """An answered request really took *usage*: correct the estimates."""
        self.estimator.learn(
            estimate.model,
            estimate.estimated_input,
            usage.counted_input_tokens(self.lane.counts_cache_reads),
            estimate.max_tokens,
            usage.output_tokens,
        )

    def seconds_until_leave(self, cost: Cost, limiter: ConcurrencyLimiter, latency: float) -> float:
        """Seconds that a call would wait for quotas and slots; *latency*: of a call, in s."""
        seconds = self.lane.seconds_until_leave(cost)
        if math.isinf(limiter.limit):
            return seconds
        ahead = self.lane.backlog.calls + 1 - (limiter.limit - limiter.in_use)
        # A process that shares the limit may have no slot yet.
        return max(seconds, max(0.0, ahead / max(1.0, limiter.limit)) * latency)

    def apply_settings(self, settings: Settings) -> None:
        """Keep to other quotas and another max_queue from now on."""
        lane = self.lane
        with lane.mutex:
            burst, headroom = settings.burst_in_force, settings.headroom
            self.pacer.set_quotas(settings.quotas, burst, lane.now(), headroom)
            lane.backlog.maxsize = settings.max_queue
            lane.backlog.not_full.notify_all()
            lane.backlog.not_empty.notify()
