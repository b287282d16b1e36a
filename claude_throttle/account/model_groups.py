"""The model groups of an account: one for each rate-limit bucket, made when first needed.

A model group is a lane, its pacer, and what was learned about its models.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Protocol

from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.call import Attempt, Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import NO_USAGE, Cost, Usage
from claude_throttle.core.domain.events import Event, IterationBooked
from claude_throttle.core.domain.feedback import Feedback
from claude_throttle.core.domain.models import (
    FAST,
    STANDARD_SPEED,
    counts_cache_reads,
    lane_of_profile,
)
from claude_throttle.core.estimation.estimator import Estimator
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import THROTTLER_CLOSED, Closed

if TYPE_CHECKING:
    from claude_throttle.account.limits import LaneState, Limits
    from claude_throttle.account.suspension import Suspension


#: Models known at most when an answer may still add one by its name.
MOST_MODELS_BY_ANSWER = 256


class RequestEstimate(NamedTuple):
    """What the cost of a Messages request is estimated from."""

    model: str
    #: Input tokens by the size of the request.
    estimated_input: float
    max_tokens: int
    #: It asks for the prompt cache.
    cache_marked: bool = False
    #: *estimated_input* is the API's own count.
    is_counted: bool = False


#: The fields of a call's :class:`RequestEstimate`.
_estimate_of = attrgetter(
    "model", "estimated_input", "max_tokens", "cache_marked", "input_is_counted"
)


class ModelGroup:
    """The models that share one rate limit: their lane, pacer and estimates. Thread-safe."""

    def __init__(self, lane: Lane, pacer: Pacer, estimator: Estimator) -> None:
        self.lane = lane
        self.pacer = pacer
        self.estimator = estimator

    def fitting_cost(
        self, model: str, estimated_input: float, max_tokens: int, cache_marked: bool, *more: Any
    ) -> Cost:
        """The cost to book for a call. Raises QuotaTooSmall if it could never be sent.

        How much of a marked one comes from the cache, and counts nothing, only its answer tells.
        The arguments are the fields of :class:`RequestEstimate`.
        """
        cost = self.estimator.cost(model, estimated_input, max_tokens, cache_marked, *more)
        reads_count = self.lane.counts_cache_reads or self.estimator.reserves_all
        if not cache_marked or reads_count:
            self.pacer.configured.require_fit(cost, self.lane.name)
        return cost

    def price(self, call: Call) -> Cost:
        """The estimated cost of a waiting call."""
        return self.stretched(self.estimator.cost(*_estimate_of(call)), call.max_tokens)

    def stretched(self, cost: Cost, max_tokens: int) -> Cost:
        """*cost* with a longer answer: short answers come back first, long ones are still out."""
        stretch = self.pacer.latency.stretch(self.lane.now())
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
        whole = estimate.estimated_input if estimate.is_counted else 0.0
        if estimate.cache_marked:
            whole = usage.counted_input_tokens(True)
        self.estimator.learn(
            estimate.model,
            estimate.estimated_input,
            usage.counted_input_tokens(self.lane.counts_cache_reads),
            estimate.max_tokens,
            usage.output_tokens,
            whole,
            estimate.cache_marked,
        )

    def seconds_until_leave(self, cost: Cost, limiter: ConcurrencyLimiter, latency: float) -> float:
        """Seconds that a call would wait for quotas and slots; *latency*: of a call, in s."""
        seconds = self.lane.seconds_until_leave(cost)
        if math.isinf(limiter.limit):
            return seconds
        ahead = self.lane.waiting() + 1 - (limiter.limit - limiter.in_use)
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


class SharedQuotas(Protocol):
    """What model groups need of a coordinator, where processes share their quotas."""

    @property
    def state(self) -> str:
        """The store and its condition, for people to read."""
        ...

    def ensure_thread(self) -> None:
        """Start the coordinator's thread, unless it runs."""
        ...

    def make_pacer(self, *quotas: Any, **options: Any) -> Pacer:
        """A pacer that reserves in the store; its arguments are those of :class:`Pacer`."""
        ...

    def reserve(self, lane: Lane, costs: list[Cost]) -> None:
        """Reserve in the store what the pacer of *lane* needs. Blocks; holds no lock."""
        ...


def _no_limits(_model: str) -> Mapping[str, float]:
    return {}


class ModelGroups:
    """All model groups of one account, found by model. Thread-safe.

    *send* is called in a sender thread with each call that leaves, *weigh* with
    refusals of the account. *shared*: the coordinator; None if nothing is shared.
    """

    def __init__(
        self,
        settings: Settings,
        limiter: ConcurrencyLimiter,
        thread_pool: ThreadPool,
        clock: Clock,
        send: Callable[[Call], None],
        observe: Callable[[Event, Optional[Call]], None],
        weigh: Callable[[Attempt, Feedback], Feedback],
        shared: Optional[SharedQuotas] = None,
    ) -> None:
        self._settings = settings
        self._limiter = limiter
        self._thread_pool = thread_pool
        self._clock = clock
        self._send = send
        self._observe = observe
        self._weigh = weigh
        self._shared = shared
        #: The end of a pause of the whole account.
        self._paused_until = -math.inf
        # Guards all below: no lane is made after the close. Never held while calling out.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._by_lane: dict[str, ModelGroup] = {}
        self._by_model: dict[str, ModelGroup] = {}
        #: A model's limits as the Rate Limits API told them, by kind and per minute.
        self._limits_of: Callable[[str], Mapping[str, float]] = _no_limits
        self._closed = False
        self._paused = False

    def of(self, model: str, is_fast: bool = False) -> ModelGroup:
        """The group of a model, or of its calls in fast mode. Raises :class:`Closed`."""
        if self._shared is not None:
            self._shared.ensure_thread()
        key = model + FAST if is_fast else model
        model_group = self._by_model.get(key)
        if model_group is None or self._closed:
            with self._lock:
                if self._closed:
                    raise Closed(THROTTLER_CLOSED)
                name = lane_of_profile(model, self._settings.lanes)
                name = name + FAST if is_fast else name
                model_group = self._by_lane.get(name) or self._make(name, key)
                self._by_lane[name] = self._by_model[key] = model_group
        return model_group

    def of_call(self, call: Call) -> ModelGroup:
        """The group of a call that was accepted; also after close()."""
        return self._by_lane[call.callbacks.lane]

    def has_answered(self, call: Call) -> bool:
        """Whether the model of *call* has ever answered."""
        return self.of_call(call).estimator.has_learned(call.model)

    def learn(self, call: Call, usage: Usage) -> None:
        """An answered call really took *usage*: correct the estimates."""
        if usage == NO_USAGE:
            return  # others did all of the work
        self._by_lane[call.callbacks.lane].learn(RequestEstimate(*_estimate_of(call)), usage)

    def own_usage(self, lane: str, usage: Usage) -> Usage:
        """What of *usage* the models of *lane* took; the rest is booked in the others' lanes."""
        if type(usage) is Usage:
            return usage
        from claude_throttle.core.domain.iterations import apportion  # few answers have them

        asked = lane[: -len(FAST)] if lane.endswith(FAST) else lane
        if asked == lane and not getattr(usage, "iterations", ()):
            return Usage(*usage)
        own, elsewhere = apportion(usage, asked, self._settings.lanes)
        if asked != lane and getattr(usage, "speed", "") == STANDARD_SPEED:
            model = self._model_in(lane)
            elsewhere[model] = elsewhere.get(model, NO_USAGE).plus(own)
            own = NO_USAGE
        for model, took in elsewhere.items():
            with suppress(Closed):
                self._book_elsewhere(model, took)
        return own

    def _model_in(self, lane: str) -> str:
        """A model whose calls in fast mode go through *lane*."""
        keys = (key for key, group in list(self._by_model.items()) if group.lane.name == lane)
        return next(keys)[: -len(FAST)]

    def _book_elsewhere(self, model: str, usage: Usage) -> None:
        # A server chooses these names: they must not fill the memory.
        if model in self._by_model or len(self._by_model) < MOST_MODELS_BY_ANSWER:
            lane = self.of(model).lane
            lane.accounting.charge(usage)
            self._observe(IterationBooked(model, lane.name, usage), None)

    def _make(self, name: str, model: str) -> ModelGroup:
        settings = self._settings
        make_pacer = Pacer if self._shared is None else self._shared.make_pacer
        pacer = make_pacer(
            settings.quotas,
            settings.burst_in_force,
            lane=name,
            retry_share=settings.retry_share,
            headroom=settings.headroom,
        )
        now = self._clock.monotonic()
        if settings.tier is not None:
            from claude_throttle.core.domain.tiers import starting_limits

            pacer.start_with(starting_limits(settings.tier, name), f"tier {settings.tier}", now)
        if not model.endswith(FAST):
            pacer.start_with(self._limits_of(model), "rate limits API", now)
        estimator = Estimator(reserves_all=settings.platform == "bedrock")
        lane = Lane(
            name,
            pacer=pacer,
            limiter=self._limiter,
            thread_pool=self._thread_pool,
            price=self._price,
            price_version=partial(getattr, estimator, "version"),
            carry=self._send,
            observe=self._observe,
            weigh=self._weigh,
            pause_account=self._pause_account,
            counts_cache_reads=counts_cache_reads(name),
            max_queue=settings.max_queue,
            ageing=settings.ageing,
            clock=self._clock,
            reserve=None if self._shared is None else self._shared.reserve,
        )
        if self._paused:
            lane.pause()
        if now < self._paused_until and any(map(Lane.is_refused, self.lanes())):
            pacer.pause_for(self._paused_until - now, now)
        return ModelGroup(lane, pacer, estimator)

    def _pause_account(self, seconds: float, status: Optional[int], refused: str) -> None:
        """The server refuses all lanes for so long; the *refused* one is paused already."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)
        for lane in self.lanes():
            if lane.name != refused:
                lane.accounting.pause_for(seconds, status)

    def _price(self, call: Call) -> Cost:
        return self.of_call(call).price(call)

    def start_with(self, limits_of: Callable[[str], Mapping[str, float]]) -> None:
        """Use the Rate Limits API's limits of each model until response headers say better."""
        with self._lock:
            self._limits_of = limits_of
            found = dict(self._by_model)
        for model, model_group in found.items():
            if model.endswith(FAST):
                continue
            model_group.start_with(limits_of(model), "rate limits API")

    def all(self) -> list[ModelGroup]:
        """The groups that were made so far."""
        return list(self._by_lane.values())

    def lanes(self) -> list[Lane]:
        """The lanes of those groups."""
        return [model_group.lane for model_group in list(self._by_lane.values())]

    def limits_snapshot(self, suspension: Callable[[str], Optional[Suspension]]) -> Limits:
        """What is known of each lane."""
        from claude_throttle.account.limits import Limits

        lanes = {
            model_group.lane.name: model_group.state(suspension(model_group.lane.name))
            for model_group in self.all()
        }
        limiter = self._limiter
        store = None if self._shared is None else self._shared.state
        limit = limiter.limit if limiter.at_connection_limit else limiter.server_limit
        ceiling = None if math.isinf(limiter.max_connections) else int(limiter.max_connections)
        return Limits(lanes, limit, limiter.in_use, store, self._paused, ceiling)

    def pause(self, paused: bool) -> None:
        """Stop or go on letting calls leave."""
        with self._lock:
            if paused and self._closed:
                return  # it could not be ended, and a drain would never end
            self._paused = paused
        for lane in self.lanes():
            lane.pause() if paused else lane.resume()

    def reconfigure(self, settings: Settings) -> None:
        """Keep to other quotas from now on."""
        with self._lock:
            self._settings = settings
            model_groups = self.all()
        for model_group in model_groups:
            model_group.apply_settings(settings)

    def close(self) -> None:
        """Accept no more."""
        with self._lock:
            self._closed = True
        for lane in self.lanes():
            lane.close()
