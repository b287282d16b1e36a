"""The rooms of a process: one for each lane, made when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, Optional

from claude_throttle.account.model_group import ModelGroup
from claude_throttle.config.settings import Settings
from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import Event
from claude_throttle.core.domain.feedback import AccountRefusal
from claude_throttle.core.domain.models import counts_cache_reads, lane_of
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import Closed

if TYPE_CHECKING:
    from claude_throttle.account.limits import Limits
    from claude_throttle.account.suspension import Suspension
    from claude_throttle.features.sharing.coordinator import Coordinator
    from claude_throttle.features.sharing.shared_pacer import SharedPacer


def _nothing(_model: str) -> Mapping[str, float]:
    return {}


class ModelGroups:
    """By lane, and found by model. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        limiter: ConcurrencyLimiter,
        thread_pool: ThreadPool,
        clock: Clock,
        carry: Callable[[Call], None],
        observe: Callable[[Event, Optional[Call]], None],
        suspend: Callable[[Call, AccountRefusal], None],
    ) -> None:
        self._settings = settings
        self._limiter = limiter
        self.thread_pool = thread_pool
        self._clock = clock
        self._carry = carry
        self.observe = observe
        self._suspend = suspend
        # Guards all below: no lane is made after the close. Never held while calling out.
        # Reentrant for the same reason as the lane's mutex.
        self._lock = threading.RLock()
        self._by_lane: dict[str, ModelGroup] = {}
        self._by_model: dict[str, ModelGroup] = {}
        #: What the Rate Limits API told.
        self._told_of: Callable[[str], Mapping[str, float]] = _nothing
        self._closed = False
        self._paused = False
        #: Who asks the ledger, if processes share one.
        self.coordinator: Optional[Coordinator] = None

    def of(self, model: str) -> ModelGroup:
        """The room of a model. Raises :class:`Closed`."""
        if self.coordinator is not None:
            self.coordinator.ensure()
        model_group = self._by_model.get(model)
        if model_group is None or self._closed:
            with self._lock:
                if self._closed:
                    raise Closed("the throttler is closed; make a new one to go on")
                name = lane_of(model, self._settings.lanes)
                model_group = self._by_lane.get(name) or self._make(name, model)
                self._by_lane[name] = self._by_model[model] = model_group
        return model_group

    def of_call(self, call: Call) -> ModelGroup:
        """The same for a call that was accepted, closed or not."""
        return self._by_model[call.model]

    def _make(self, name: str, model: str) -> ModelGroup:
        settings = self._settings
        pacer = self._kind_of_pacer()(
            settings.quotas,
            settings.burst_in_force,
            lane=name,
            retry_share=settings.retry_share,
            headroom=settings.headroom,
        )
        now = self._clock.monotonic()
        if settings.tier is not None:
            from claude_throttle.core.domain.tiers import starting_limits  # only for this

            pacer.start_with(starting_limits(settings.tier, name), f"tier {settings.tier}", now)
        pacer.start_with(self._told_of(model), "rate limits API", now)
        lane = Lane(
            name,
            pacer=pacer,
            limiter=self._limiter,
            thread_pool=self.thread_pool,
            price=self._price,
            carry=self._carry,
            observe=self.observe,
            suspend=self._suspend,
            counts_cache_reads=counts_cache_reads(name),
            max_queue=settings.max_queue,
            ageing=settings.ageing,
            clock=self._clock,
        )
        if self._paused:
            lane.pause()
        self._share(lane, pacer)
        return ModelGroup(lane, pacer)

    def _kind_of_pacer(self) -> type[Pacer]:
        if self.coordinator is None:
            return Pacer
        from claude_throttle.features.sharing.shared_pacer import SharedPacer  # only for who shares

        return SharedPacer

    def _share(self, lane: Lane, pacer: Pacer) -> None:
        if self.coordinator is not None:
            pacer.share(self.coordinator, lane.mutex, lane.backlog.not_empty.notify)  # type: ignore[attr-defined]

    @property
    def store(self) -> Optional[str]:
        """Which store is in force, for people to read; None where nothing is shared."""
        return None if self.coordinator is None else self.coordinator.state

    def shared_pacers(self) -> list[SharedPacer]:
        """Those of all lanes, if processes share a ledger."""
        return [model_group.pacer for model_group in self.all()]  # type: ignore[misc]

    def _price(self, call: Call) -> Cost:
        return self.of_call(call).price(call)

    def start_with(self, told_of: Callable[[str], Mapping[str, float]]) -> None:
        """The Rate Limits API has told of each model: believe it until the headers tell."""
        with self._lock:
            self._told_of = told_of
            found = dict(self._by_model)
        for model, model_group in found.items():
            model_group.start_with(told_of(model), "rate limits API")

    def all(self) -> list[ModelGroup]:
        """Those there are."""
        return list(self._by_lane.values())

    def lanes(self) -> list[Lane]:
        """Their lanes."""
        return [model_group.lane for model_group in self.all()]

    def limits(self, suspension: Callable[[str], Optional[Suspension]]) -> Limits:
        """What is known of each lane."""
        from claude_throttle.account.limits import Limits  # only for who looks

        lanes = {
            model_group.lane.name: model_group.state(suspension(model_group.lane.name))
            for model_group in self.all()
        }
        limiter = self._limiter
        return Limits(lanes, limiter.limit, limiter.in_use, self.store, self._paused)

    def pause(self, paused: bool) -> None:
        """Stop or go on letting calls leave."""
        with self._lock:
            if paused and self._closed:
                return  # nobody would end it, and a drain would never end
            self._paused = paused
        for lane in self.lanes():
            lane.pause() if paused else lane.resume()

    def reconfigure(self, settings: Settings) -> None:
        """Keep other quotas from now on."""
        with self._lock:
            self._settings = settings
            model_groups = self.all()
        for model_group in model_groups:
            model_group.reconfigure(settings)

    def close(self) -> None:
        """Accept no more."""
        with self._lock:
            self._closed = True
        for lane in self.lanes():
            lane.close()
