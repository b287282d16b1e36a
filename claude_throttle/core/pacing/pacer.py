"""All that may hold up the calls of one lane. Not thread-safe: the lane's mutex guards it.

Told quotas and learned quotas are separate instants, and a call needs both: what the caller told
is a ceiling, and headers move only what was learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, Optional, Union

from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import (
    CircuitClosed,
    CircuitOpened,
    Event,
    LanePaused,
    LimitLearned,
)
from claude_throttle.core.domain.feedback import (
    FAULT,
    OVERLOAD,
    RAMP,
    RATE,
    SILENCE,
    Dispatch,
    Feedback,
    RampLimit,
    RetryDelay,
)
from claude_throttle.core.domain.ports import Ahead
from claude_throttle.core.domain.quota import AUTO, Burst, Quota
from claude_throttle.core.pacing.averages import LastMinute, LatencyEstimator
from claude_throttle.core.pacing.circuit_breaker import CircuitBreaker
from claude_throttle.core.pacing.configured_quotas import ConfiguredQuota, ConfiguredQuotas
from claude_throttle.core.pacing.learned_quotas import LearnedQuota
from claude_throttle.core.pacing.pause import Pause, pause_jitter
from claude_throttle.core.pacing.retry_budget import RetryBudget
from claude_throttle.core.pacing.traffic import Traffic

if TYPE_CHECKING:
    from claude_throttle.core.pacing.growth_limit import GrowthLimit

#: What the API limits, one by one. The sum of both tokens is told in headers, too, but not limited.
LEARNED_KINDS = ("requests", "input_tokens", "output_tokens")


class Pacer:
    """When may a call leave? At the latest instant any quota, pause or circuit names."""

    def __init__(
        self,
        quotas: Mapping[str, Quota],
        burst: Burst = 1.0,
        *,
        lane: str = "",
        retry_share: float = 0.2,
        headroom: float = 0.0,
        jitter: Callable[[float], float] = pause_jitter,
    ) -> None:
        self.lane = lane
        self.told = ConfiguredQuotas()
        self.traffic = Traffic()
        self._last_minute = LastMinute()
        self.learned = {kind: LearnedQuota(kind, self.traffic) for kind in LEARNED_KINDS}
        self.circuit = CircuitBreaker()
        self.budget = RetryBudget(retry_share)
        self.ramp: Optional[GrowthLimit] = None
        #: Seconds from leaving to answer.
        self.latency = LatencyEstimator()
        self.pause = Pause(jitter)
        #: The caller's word, by pause(); ended by resume().
        self.held_until = -math.inf
        self._number = 0
        self.reconfigure(quotas, burst, -math.inf, headroom)

    # -- told ------------------------------------------------------------------------------------

    def reconfigure(
        self, quotas: Mapping[str, Quota], burst: Burst, now: float, headroom: float = 0.0
    ) -> None:
        """Keep other quotas from now on; where one stays, its level stays where it is."""
        self._burst, self._headroom = burst, headroom
        self.learned["requests"].bound_burst(math.inf if burst == AUTO else float(burst), now)
        self.told.reconfigure(quotas, self._told_burst(), now)
        if not headroom:
            self.told.leave_nothing()
        self._keep_headroom(now)

    def _told_burst(self) -> float:
        learned = self.learned["requests"]
        if self._burst != AUTO:
            return float(self._burst)
        return max(1.0, learned.burst) if learned.known else 1.0

    def _keep_headroom(self, now: float) -> None:
        """Of what was learned, a share is left to others; of what was told, it is off already."""
        if not self._headroom:
            return
        for learned in self.learned.values():
            if learned.known:
                self.told.leave(self._headroom, learned.kind, learned.limit, learned.burst, now)

    def start_with(self, limits: Mapping[str, float], source: str, now: float) -> None:
        """Limits from elsewhere, by kind and a minute, until a header tells better."""
        for kind, limit in limits.items():
            self.learned[kind].start_with(limit, source, now)

    # -- a call leaves ---------------------------------------------------------------------------

    def ready_at(self, cost: Cost, now: float) -> float:
        """The instant at which *cost* may leave, as things stand; *now* if it already may."""
        at = max(self.gate_at(cost, now), self.told.ready_at(cost))
        latency = -1.0
        for learned, units in zip(self.learned.values(), cost):
            if units > 0 and learned.limit:
                latency = latency if latency >= 0 else self.latency.mean(now)
                at = max(at, learned.ready_at(units, now, latency))
        return at

    def gate_at(self, cost: Cost, now: float) -> float:
        """The same, whatever the quotas say."""
        at = max(now, self.pause.until, self.held_until, self.circuit.ready_at())
        if self.ramp is not None:
            at = max(at, self._ramp_ready_at(self.ramp, cost, now))
        return at

    def needs_reservation(self, _cost: Cost, _ahead: Ahead, _now: float) -> Optional[list[Cost]]:
        """Costs to be reserved before *cost* may leave: none where nothing is shared."""
        return None

    def _ramp_ready_at(self, ramp: GrowthLimit, cost: Cost, now: float) -> float:
        learned = self.learned[ramp.kind]
        if learned.known and ramp.limit > learned.limit:
            self.ramp = None  # grown up
            return now
        return ramp.ready_at(getattr(cost, ramp.kind), now)

    def leaves_at(self, queued: Cost, cost: Cost, now: float) -> float:
        """The instant at which *cost* may leave behind all of *queued*, as things stand."""
        at = Pacer.ready_at(self, cost, now)  # by the quotas, whoever keeps them
        quotas: list[Union[ConfiguredQuota, LearnedQuota]] = [
            told for _, told in self.told.by_name()
        ]
        quotas += [some for some in self.learned.values() if some.known]
        for quota in quotas:
            units = getattr(cost, quota.kind)
            if units > 0:
                full_at = now - quota.burst / quota.rate
                before = getattr(queued, quota.kind) + min(units, quota.burst)
                at = max(at, max(quota.empty_at, full_at) + before / quota.rate)
        return at

    def take(self, cost: Cost, now: float, answers: bool = True) -> Dispatch:
        """*cost* leaves now. *answers*: somebody will say how it ended."""
        self.told.take(cost, now)
        recent = self.traffic.take(cost, now)
        self._last_minute.add(cost, now)
        for learned, units in zip(self.learned.values(), cost):
            if learned.limit:
                learned.take(units, now)
        if self.ramp is not None:
            self.ramp.take(getattr(cost, self.ramp.kind), now)
        self._number += 1
        if answers:
            self.latency.begin(now)
        self.budget.sent()
        taken, produced = self.traffic.taken, self.traffic.produced.output_tokens
        number, probes = self._number, self.circuit.left(self._number, now)
        return Dispatch(now, number, taken, recent, produced, self.pause.ends(), probes)

    def settle(self, held: Cost, actual: Cost, booked_at: float) -> bool:
        """What was booked as *held* was in truth *actual*, and is in flight no more.

        True if somebody may leave earlier.
        """
        change = actual.minus(held)
        self.told.settle(change, booked_at)
        self.traffic.settle(held, actual, change)
        for learned, units in zip(self.learned.values(), change):
            if learned.limit:
                learned.settle(units)
        if self.ramp is not None:
            self.ramp.settle(getattr(change, self.ramp.kind))
        return min(change) < 0

    # -- the server speaks -----------------------------------------------------------------------

    def _read(self, feedback: Feedback, dispatch: Dispatch, now: float) -> list[Event]:
        events: list[Event] = []
        for kind, reading in feedback.rate_limits.items():
            learned = self.learned[kind]
            before = learned.limit
            if learned.read(reading, dispatch, now, self.latency):
                events.append(LimitLearned(self.lane, kind, learned.limit, before))
        if self._burst == AUTO:
            self.told.set_burst(self._told_burst(), now)
        if self._headroom:
            self._keep_headroom(now)
        return events

    def answered(
        self, feedback: Feedback, dispatch: Dispatch, change: Cost, now: float
    ) -> list[Event]:
        """The server took an attempt, which cost *change* more than was booked."""
        self.latency.end(now, max(0.0, now - dispatch.at))
        if not feedback.rate_limits:
            self.learned["requests"].answered_blindly(dispatch, now)
        return self.begun(feedback, dispatch, change, now)

    def begun(
        self, feedback: Feedback, dispatch: Dispatch, change: Cost, now: float
    ) -> list[Event]:
        """The same as soon as its answer begins."""
        closes = self.circuit.answered(dispatch.number)
        if feedback.rate_limits:
            # Settled already: what its own estimate was wrong by did not leave after it.
            dispatch = dispatch._replace(taken=dispatch.taken.plus(change))
        events = self._read(feedback, dispatch, now)
        return [*events, CircuitClosed(self.lane)] if closes else events

    def refused(
        self,
        feedback: Feedback,
        dispatch: Dispatch,
        cost: Cost,
        wait_seconds: float,
        in_flight: int,
        now: float,
    ) -> tuple[RetryDelay, list[Event]]:
        """An attempt of *cost* was refused or lost; alone it would wait *wait_seconds*."""
        self.latency.lose(now)
        events = self._read(feedback, dispatch, now)
        if feedback.cause == RATE:
            self._limited(feedback, dispatch, cost, in_flight, now)
        elif feedback.cause == RAMP:
            self._grow_slowly(feedback.growth, wait_seconds, now)
        if feedback.cause in (OVERLOAD, FAULT):
            if self.circuit.failed(dispatch.number, now):
                events.append(CircuitOpened(self.lane, self.circuit.ready_at() - now))
        # A refusal is an answer, too: the server is there.
        elif feedback.cause != SILENCE and self.circuit.answered(dispatch.number):
            events.append(CircuitClosed(self.lane))
        if feedback.pauses_lane:
            seconds = self.pause_for(wait_seconds, now)
            events.append(LanePaused(self.lane, feedback.status, seconds))
            return RetryDelay(seconds, alone=False, free=self.circuit.is_open), events
        if feedback.final:
            return RetryDelay(0.0, alone=True), events
        return self._delay(wait_seconds, now), events

    def _delay(self, wait_seconds: float, now: float) -> RetryDelay:
        if self.circuit.is_open:
            return RetryDelay(max(0.0, self.circuit.ready_at() - now), alone=False, free=True)
        return RetryDelay(wait_seconds + self.budget.withdraw(now), alone=True)

    def opens_at(self) -> float:
        """The instant before which the circuit lets nothing leave; -inf while it is closed."""
        return self.circuit.ready_at()

    def stretch(self, now: float) -> float:
        """How many times as long answers take as those that came back so far; at least 1."""
        return self.latency.stretch(now)

    def expect(self, now: float) -> None:
        """Of something taken without *answers*, somebody is about to say how it ended."""
        self.latency.begin(now)

    def lost(self, now: float) -> None:
        """An attempt ended without a word from the server."""
        self.latency.lose(now)

    def _limited(
        self, feedback: Feedback, dispatch: Dispatch, cost: Cost, in_flight: int, now: float
    ) -> None:
        kind = feedback.kind or self._scarcest(feedback, cost)
        reading = feedback.rate_limits.get(kind)
        if reading is not None:
            self.learned[kind].refused(reading, dispatch, getattr(cost, kind), in_flight)
        elif not feedback.rate_limits:
            used, allowed = self._last_minute.total(now), 60.0 / (feedback.retry_after or 60.0)
            self.learned["requests"].refused_blindly(dispatch, used.requests, allowed, now)

    def _scarcest(self, feedback: Feedback, cost: Cost) -> str:
        left = {kind: reading.remaining for kind, reading in feedback.rate_limits.items()}
        return min(left, key=lambda k: left[k] / max(1.0, getattr(cost, k)), default="requests")

    def _grow_slowly(self, growth: Optional[RampLimit], seconds: float, now: float) -> None:
        """A ramp limit refused: hold growth to the server's step, from the end of the pause on."""
        from claude_throttle.core.pacing.growth_limit import GrowthLimit, step_of  # rare

        self.ramp = GrowthLimit(
            step_of(growth, self._last_minute.total(now).input_tokens), now + seconds
        )

    def pause_for(self, seconds: float, now: float) -> float:
        """Let nothing leave for *seconds* plus jitter; returns what remains of the pause.

        Nothing is saved up for its end: one call may leave then, the rest at its pace.
        """
        until = self.pause.begin(seconds, now)
        self.learned["requests"].hold_until(until, 1.0)
        self.told.hold_until(until)
        return until - now
