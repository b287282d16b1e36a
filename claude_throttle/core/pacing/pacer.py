"""The pace of one lane: everything that may hold up its calls, in one place. Without I/O or locks.

Configured quotas and learned quotas are separate instants, and a call needs both: what the caller
configured is a ceiling, and headers move only what was learned. Pause, circuit and growth limit
come on top. The worker asks :meth:`Pacer.decide` and waits by itself; so the same object runs in
production, where the lane's mutex guards it, and in the simulation. Not thread-safe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable, Optional, Union

from claude_throttle.core.domain.cost import NO_COST, UNKNOWN_SIZE, Cost, RequestSize
from claude_throttle.core.domain.events import (
    CircuitClosed,
    CircuitOpened,
    Event,
    LanePaused,
    LimitLearned,
)
from claude_throttle.core.domain.feedback import (
    DOUBT,
    FAULT,
    OVERLOAD,
    RAMP,
    RATE,
    SILENCE,
    Decision,
    Dispatch,
    Excess,
    Feedback,
    RampLimit,
    RateLimit,
    RelayedLimit,
    RetryDelay,
    StatedLimit,
)
from claude_throttle.core.domain.ports import Ahead
from claude_throttle.core.domain.quota import AUTO, Burst, Quota
from claude_throttle.core.pacing.backoff import (
    LONGEST_UNPROBED_SECONDS,
    Pause,
    RetryBudget,
    pause_jitter,
)
from claude_throttle.core.pacing.circuit_breaker import (
    CLOSED,
    DOUBTS_IN_A_ROW,
    FAILURES_IN_A_ROW,
    CircuitBreaker,
)
from claude_throttle.core.pacing.configured_quotas import ConfiguredQuota, ConfiguredQuotas
from claude_throttle.core.pacing.excess import excess
from claude_throttle.core.pacing.learned_quotas import BLIND, WORDS, LearnedQuota
from claude_throttle.core.pacing.traffic import LatencyEstimator, Traffic

if TYPE_CHECKING:
    from claude_throttle.core.pacing.growth_limit import GrowthLimit

#: What the API limits, one by one. Headers tell of the sum of both tokens, too; it has no limit.
LEARNED_KINDS = ("requests", "input_tokens", "output_tokens")

#: Seconds between calls while headers show the limit of output, but not that of input, which the
#: API always has: what leaves before its first refusal is back would all be refused.
UNSEEN_LIMIT_SECONDS = 0.015

#: Seconds between calls that a rate limit is taken to allow, as a first guess, where it names no
#: time, or hours.
UNNAMED_SECONDS = 1.0

# Half of what NamedTuple's own constructor takes; one in each look.
_new = tuple.__new__


class Pacer:
    """Decides when a call may leave: at the latest instant that any quota, pause or circuit names.

    One call's life here: :meth:`decide` as often as the worker likes, which changes nothing;
    :meth:`take` in the instant of leaving; :meth:`begun`, :meth:`answered`, :meth:`refused` or
    :meth:`lost` for what came back; :meth:`settle` for the difference between booking and count.
    Methods that return events leave it to the caller to emit them, after it has released the mutex.
    """

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
        self.configured = ConfiguredQuotas()
        self.traffic = Traffic()
        self.learned = {kind: LearnedQuota(kind, self.traffic) for kind in LEARNED_KINDS}
        self.circuit = CircuitBreaker()
        self.budget = RetryBudget(retry_share)
        self.growth: Optional[GrowthLimit] = None
        #: Seconds from leaving to answer.
        self.latency = LatencyEstimator()
        self.pause = Pause(jitter)
        #: Set by the caller's pause(): nothing leaves before this instant. Ended by resume().
        self.held_until = -math.inf
        #: Nothing leaves before this instant, where a limit is not shown.
        self._spaced_until = -math.inf
        self._hides_input = False
        #: The instant of the last answer.
        self.answered_at = -math.inf
        self._number = 0
        self.set_quotas(quotas, burst, -math.inf, headroom)

    # -- configuration ---------------------------------------------------------------------------

    def set_quotas(
        self, quotas: Mapping[str, Quota], burst: Burst, now: float, headroom: float = 0.0
    ) -> None:
        """Replace the configured quotas from now on; a quota that stays keeps its level."""
        self._burst, self._headroom = burst, headroom
        self.learned["requests"].bound_burst(math.inf if burst == AUTO else float(burst), now)
        self.configured.replace_quotas(quotas, self._configured_burst(), now)
        if not headroom:
            self.configured.leave_no_headroom()
        self._keep_headroom(now)

    def _configured_burst(self) -> float:
        """Requests that may leave at once: as configured; with "auto", what the server showed."""
        learned = self.learned["requests"]
        if self._burst != AUTO:
            return float(self._burst)
        return max(1.0, learned.burst) if learned.known else 1.0

    def _keep_headroom(self, now: float) -> None:
        """Leave a share of each learned limit to others.

        Configured quotas are lowered by it already.
        """
        if not self._headroom:
            return
        for learned in self.learned.values():
            if learned.known:
                self.configured.leave_headroom(
                    self._headroom, learned.kind, learned.limit, learned.burst, now
                )

    def start_with(self, limits: Mapping[str, float], source: str, now: float) -> None:
        """Limits from elsewhere, by kind and per minute, until a header tells better."""
        for kind, limit in limits.items():
            self.learned[kind].start_with(limit, source, now)

    # -- a call leaves ---------------------------------------------------------------------------

    def decide(self, cost: Cost, now: float) -> Decision:
        """When *cost* may leave, as things stand, and what it waits for. Changes nothing."""
        at, constraint = self.configured.decide(cost, self.gate(cost, now))
        latency = -1.0
        for learned, units in zip(self.learned.values(), cost):
            if units > 0 and learned.limit:
                latency = latency if latency >= 0 else self.latency.mean(now)
                ready_at = learned.ready_at(units, now, latency)
                if ready_at > at:
                    at, constraint = ready_at, learned.name
        return _new(Decision, (at, constraint))

    def ready_at(self, cost: Cost, now: float) -> float:
        """The instant of decide()."""
        return self.decide(cost, now).ready_at

    def gate(self, cost: Cost, now: float) -> Decision:
        """When *cost* may leave as far as pause, circuit and growth limit go, without the quotas.

        Used by itself where the quotas are kept in a shared store.
        """
        at, constraint = now, ""
        if self.pause.until > at:
            at, constraint = self.pause.until, "pause"
        if self._spaced_until > at:
            at, constraint = self._spaced_until, "unknown limit"
        if self.held_until > at:
            at, constraint = self.held_until, "pause()"
        circuit = self.circuit
        if circuit.probe_at > at and circuit.state != CLOSED:
            at, constraint = circuit.probe_at, "circuit"
        if self.growth is not None:
            ready_at = self._growth_ready_at(self.growth, cost, now)
            if ready_at > at:
                at, constraint = ready_at, "growth limit"
        return _new(Decision, (at, constraint))

    def needs_reservation(self, _cost: Cost, _ahead: Ahead, _now: float) -> Optional[list[Cost]]:
        """Costs to be reserved before *cost* may leave: none where nothing is shared."""
        return None

    def _growth_ready_at(self, growth: GrowthLimit, cost: Cost, now: float) -> float:
        learned = self.learned[growth.kind]
        if learned.known and growth.limit > learned.limit:
            self.growth = None  # it has reached the limit
            return now
        return growth.ready_at(getattr(cost, growth.kind), now)

    def leaves_at(self, queued: Cost, cost: Cost, now: float) -> float:
        """The instant at which *cost* may leave behind all of *queued*, as things stand."""
        # By the quotas, wherever they are kept; that a probe ends a pause is not counted on.
        at = max(Pacer.decide(self, cost, now).ready_at, self.pause.ends_at)
        quotas: list[Union[ConfiguredQuota, LearnedQuota]] = list(self.configured.in_force)
        quotas += [learned for learned in self.learned.values() if learned.known]
        for quota in quotas:
            units = getattr(cost, quota.kind)
            if units > 0:
                full_at = now - quota.burst / quota.rate
                before = getattr(queued, quota.kind) + min(units, quota.burst)
                at = max(at, max(quota.empty_at, full_at) + before / quota.rate)
        return at

    def take(self, cost: Cost, now: float, reports_outcome: bool = True) -> Dispatch:
        """Book *cost*, which leaves now. *reports_outcome*: its holder will say how it ended."""
        self.configured.take(cost, now)
        recent = self.traffic.note_leave(cost, now)
        for learned, units in zip(self.learned.values(), cost):
            if learned.limit:
                learned.take(units, now)
        if self.growth is not None:
            self.growth.take(getattr(cost, self.growth.kind), now)
        if reports_outcome:
            self.latency.start_request(now)
        if self._hides_input:
            self._spaced_until = now + UNSEEN_LIMIT_SECONDS
        self.budget.sends += 1
        self._number += 1
        probes = self.circuit.state != CLOSED
        if probes:
            self.circuit.probe(self._number, now)
        resumes, self.pause.is_unfinished = self.pause.is_unfinished, False
        if resumes and self.pause.named_until > now:
            self.pause.probe(now)
        taken, produced = self.traffic.taken, self.traffic.produced.output_tokens
        return _new(Dispatch, (now, self._number, taken, recent, produced, resumes, probes))

    def settle(self, held: Cost, actual: Cost, booked_at: float) -> Cost:
        """Replace the booking *held* by *actual*; the request is in flight no more.

        Returns the difference; if any of it is negative, another call may leave earlier, and the
        worker must look again.
        """
        change = actual.minus(held)
        self.configured.settle(change, booked_at)
        self.traffic.note_end(held, actual, change)
        for learned, units in zip(self.learned.values(), change):
            if units and learned.limit:
                learned.correct(units)
        if self.growth is not None:
            self.growth.correct(getattr(change, self.growth.kind))
        return change

    def charge(self, cost: Cost, now: float) -> None:
        """Book what a request of another lane took here; it never was in flight in this one."""
        self.configured.take(cost, now)
        self.traffic.note_end(NO_COST, cost, cost)
        for learned, units in zip(self.learned.values(), cost):
            if learned.limit:
                learned.take(units, now)
        if self.growth is not None:
            self.growth.take(getattr(cost, self.growth.kind), now)

    # -- the server answers ----------------------------------------------------------------------

    def _read(self, feedback: Feedback, dispatch: Dispatch, now: float) -> list[Event]:
        """Learn from the headers, if there are any."""
        events: list[Event] = []
        for kind, rate_limit in feedback.rate_limits.items():
            learned = self.learned.get(kind)
            if learned is None:
                if isinstance(rate_limit, RelayedLimit):
                    self._read_other(rate_limit, now)
                continue
            before = learned.limit
            if learned.apply_rate_limit(rate_limit, dispatch, now, self.latency):
                events.append(LimitLearned(self.lane, kind, learned.limit, before))
        shows_output = self.learned["output_tokens"].known
        self._hides_input = shows_output and not self.learned["input_tokens"].known
        if self._burst == AUTO:
            self.configured.set_burst(self._configured_burst(), now)
        if self._headroom:
            self._keep_headroom(now)
        return events

    def answered(
        self, feedback: Feedback, dispatch: Dispatch, change: Cost, now: float
    ) -> list[Event]:
        """Note an attempt that was answered, and which took *change* more than was booked."""
        self.answered_at = now
        self.latency.end(now, max(0.0, now - dispatch.at))
        if self.learned["requests"].source == BLIND:
            self.learned["requests"].answered_blindly(dispatch, now)
        probed = dispatch.at >= self.pause.probed_at
        if self.circuit.state == CLOSED and not (feedback.rate_limits or probed):
            return []
        return self.begun(feedback, dispatch, change, now)

    def begun(
        self, feedback: Feedback, dispatch: Dispatch, change: Cost, now: float
    ) -> list[Event]:
        """Note that the server began to answer an attempt: its headers are here.

        A stream ends long after that, and its limits would be out of date by then. *change*: what
        it took beyond its booking, as far as that is settled.
        """
        events: list[Event] = []
        if dispatch.at >= self.pause.probed_at:
            self.pause.cut_short()
        events += self._close_circuit(dispatch)
        if feedback.rate_limits:
            # Settled already: what its own estimate was wrong by did not leave after it.
            dispatch = dispatch._replace(taken=dispatch.taken.plus(change))
            events[:0] = self._read(feedback, dispatch, now)
        return events

    def _close_circuit(self, dispatch: Dispatch) -> list[Event]:
        is_over = self.circuit.state != CLOSED and self.circuit.record_answer(dispatch.number)
        return [CircuitClosed(self.lane)] if is_over else []

    def refused(
        self,
        feedback: Feedback,
        dispatch: Dispatch,
        cost: Cost,
        wait_seconds: float,
        in_flight: int,
        now: float,
        size: RequestSize = UNKNOWN_SIZE,
    ) -> tuple[RetryDelay, list[Event]]:
        """An attempt of *cost* was refused or lost; without a pause it waits *wait_seconds*.

        What is larger than a whole limit says nothing about the bucket, and pauses none.

        Returns how long it waits, alone or with the lane, and the events. First the headers are
        read, so that a refusal's own numbers correct the books; then its cause counts, and last the
        circuit. No answer in time (SILENCE) neither opens nor closes the circuit: it says nothing
        about the server.
        """
        # By what was known before its own headers are learned: those are looked at apart.
        too_large = self._excess_of(feedback, cost, size) if feedback.cause == RATE else None
        self.latency.lose(now)
        events = self._read(feedback, dispatch, now) if feedback.rate_limits else []
        if feedback.cause == RATE and too_large is None:
            events += self._learn_from_refusal(feedback, dispatch, cost, in_flight, now)
        elif feedback.cause == RAMP:
            self._limit_growth(feedback.growth, wait_seconds, now)
        if feedback.cause in (OVERLOAD, FAULT, DOUBT):
            in_a_row = DOUBTS_IN_A_ROW if feedback.cause == DOUBT else FAILURES_IN_A_ROW
            if self.circuit.record_failure(dispatch.number, now, in_a_row):
                events.append(CircuitOpened(self.lane, self.circuit.opens_at() - now))
        # A refusal is an answer, too: the server is there.
        elif self.circuit.state != CLOSED and feedback.cause != SILENCE:
            events += self._close_circuit(dispatch)
        # A rate limit is everybody's, also where it names no time: the lane backs off then.
        if too_large is None and (feedback.pauses_lane or feedback.cause == RATE):
            return self._pause(feedback, dispatch, wait_seconds, now, events), events
        if feedback.final:
            return RetryDelay(0.0, alone=True, excess=too_large), events
        return self._delay(feedback, wait_seconds, now)._replace(excess=too_large), events

    def _pause(
        self,
        feedback: Feedback,
        dispatch: Dispatch,
        wait_seconds: float,
        now: float,
        events: list[Event],
    ) -> RetryDelay:
        """Pause the lane, and say so in *events*; the delay of the call that was refused."""
        probed = dispatch.at >= self.pause.probed_at
        if probed and 0.0 < (feedback.retry_after or 0.0) <= LONGEST_UNPROBED_SECONDS:
            self.pause.cut_short()  # the newest word counts
        self.pause.status = feedback.status
        whole = self.pause_for(wait_seconds, now)
        seconds = self.pause.until - now
        probe_in = seconds if whole > seconds else None
        events.append(LanePaused(self.lane, feedback.status, whole, probe_in))
        free = self.circuit.state != CLOSED or (probed and probe_in is not None)
        return RetryDelay(seconds, alone=False, free=free)

    def _delay(self, feedback: Feedback, wait_seconds: float, now: float) -> RetryDelay:
        """The delay of a refusal without a pause: until the next probe, or backoff and budget."""
        if self.circuit.is_open:
            return RetryDelay(max(0.0, self.circuit.opens_at() - now), alone=False, free=True)
        # What names an hour is asked sooner, so that this is not one of its retries.
        free = (feedback.retry_after or 0.0) > LONGEST_UNPROBED_SECONDS
        return RetryDelay(wait_seconds + self.budget.withdraw(now), alone=True, free=free)

    def opens_at(self) -> float:
        """The instant before which the circuit lets nothing leave; -inf while it is closed."""
        return -math.inf if self.circuit.state == CLOSED else self.circuit.probe_at

    def expect(self, now: float) -> None:
        """Expect an outcome for a request that was booked without one."""
        self.latency.start_request(now)

    def lost(self, now: float) -> None:
        """An attempt ended without any word from the server."""
        self.latency.lose(now)

    def _excess_of(self, feedback: Feedback, cost: Cost, size: RequestSize) -> Optional[Excess]:
        """By how much a call is larger than a limit that refused it; None if it may pass."""
        stated, shown = feedback.stated, feedback.rate_limits
        if stated is not None:
            same = shown.get(stated.kind) if stated.per == 60.0 else None
            return excess(stated, same, cost, size)
        for kind in (feedback.kind,) if feedback.kind else LEARNED_KINDS:
            learned, rate_limit = self.learned[kind], shown.get(kind)
            limit = learned.limit if rate_limit is None else rate_limit.limit
            found = limit and excess(StatedLimit(kind, limit), rate_limit, cost, size)
            # A full bucket refused nothing that fits into it, unless the words name it.
            if found and (feedback.kind or found.units > found.limit):
                return found
        return None

    def _learn_from_refusal(
        self, feedback: Feedback, dispatch: Dispatch, cost: Cost, in_flight: int, now: float
    ) -> list[Event]:
        """A rate limit was met: believe its words, correct the burst, or guess a limit.

        Headers of the refusal tell what was wrong with the burst, unless a relay's show room.
        """
        shown, stated = feedback.rate_limits, feedback.stated
        if stated is not None and not (stated.per == 60.0 and _by_the_api(shown.get(stated.kind))):
            return self._learn_stated(stated, cost, dispatch, now)
        kind = feedback.kind or self._scarcest(shown, cost)
        rate_limit, learned, units = shown.get(kind), self.learned.get(kind), getattr(cost, kind)
        if shown and not _shows_room(rate_limit, units):
            if rate_limit is not None and learned is not None:
                learned.lower_burst(rate_limit, dispatch, units, in_flight)
            return []
        used = self.traffic.last_minute.total(now).requests
        named = feedback.retry_after or 0.0
        # Hours say nothing about a minute.
        between = named if 0.0 < named <= LONGEST_UNPROBED_SECONDS else UNNAMED_SECONDS
        self.learned["requests"].refused_blindly(dispatch, used, 60.0 / between, now)
        return []

    def _learn_stated(
        self, stated: StatedLimit, cost: Cost, dispatch: Dispatch, now: float
    ) -> list[Event]:
        """Learn the limit that a refusal of *cost* names in words."""
        kind, limit = stated.kind, stated.limit
        units, learned = getattr(cost, kind), self.learned.get(kind)
        if learned is not None and stated.per == 60.0:
            before = learned.limit
            if learned.refused_in_words(limit, units, dispatch, now):
                return [LimitLearned(self.lane, kind, limit, before)]
            return []
        quota = Quota(limit, stated.per)
        burst = min(limit, max(1.0, units, quota.rate))
        other = self.configured.keep_stated(kind, quota, burst, WORDS, now)
        if kind == "requests" or other.since > dispatch.at:
            units = 0.0  # not given back to it
        other.empty_at = max(other.empty_at, now + units / quota.rate)
        return []

    def _read_other(self, relayed: RelayedLimit, now: float) -> None:
        """Learn what a relay shows of a quota that the API has not, or of another period."""
        kind, quota = relayed.kind, Quota(relayed.limit, relayed.per)
        known = self.configured.stated.get((kind, quota.per))
        if known is not None and known.source == WORDS and quota.amount >= known.quota.amount:
            return
        other = self.configured.keep_stated(kind, quota, relayed.limit, relayed.source, now)
        full = now - relayed.remaining / quota.rate
        other.empty_at = full if known is None else max(other.empty_at, full)

    def _scarcest(self, shown: Mapping[str, RateLimit], cost: Cost) -> str:
        """The kind of which the fewest calls were left."""
        left = {kind: limit.remaining for kind, limit in shown.items() if kind in self.learned}
        if not left:
            return "requests"
        return min(left, key=lambda kind: left[kind] / max(1.0, getattr(cost, kind)))

    def _limit_growth(self, ramp: Optional[RampLimit], seconds: float, now: float) -> None:
        """A ramp limit refused: hold growth to the server's step, from the end of the pause on."""
        from claude_throttle.core.pacing.growth_limit import GrowthLimit, step_of  # rare

        used = self.traffic.last_minute.total(now).input_tokens
        self.growth = GrowthLimit(step_of(ramp, used), now + seconds)

    def pause_for(self, seconds: float, now: float) -> float:
        """Let nothing leave for *seconds* plus jitter, probes apart; returns what remains of it.

        Nothing is saved up for its end: one call may leave then, the rest at its pace.
        """
        until = self.pause.start(seconds, now)
        self.learned["requests"].hold_until(until, 1.0)
        self.configured.allow_one_at(until)
        return self.pause.ends_at - now


def _by_the_api(shown: Optional[RateLimit]) -> bool:
    """Whether headers of the API show a limit: they are exact."""
    return shown is not None and not isinstance(shown, RelayedLimit)


def _shows_room(shown: Optional[RateLimit], units: float) -> bool:
    """Whether a relay shows room for *units* that were refused: then it says nothing."""
    return isinstance(shown, RelayedLimit) and shown.remaining >= max(1.0, units)
