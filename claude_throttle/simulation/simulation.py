"""A discrete-event simulation: a client's pacing against a modelled server, in virtual time.

No threads, no sockets: thousands of calls in a second, the same for the same seed. The client's
parts are given to it (the real pacer, permits and estimates; it only knows what the corridor asks
of them); it plays the lane that asks them, the network, and the server::

    server = SimulatedServer(Limits(rpm=1200, burst=20))
    requests = [(0.0, Request())] * 500
    simulation = Simulation(pacer, permits, estimates, server, requests).run()
    last = max(call.done_at for call in simulation.calls)
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, NamedTuple, Optional, Protocol

from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.domain.events import CircuitClosed, Event
from claude_throttle.core.domain.feedback import CONCURRENCY, FAULT, Dispatch, Feedback
from claude_throttle.core.domain.ports import LanePacer, LimiterPort, SlotOwner
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer

#: Seconds between looks for a permit, as the worker has them.
LOOK_SECONDS = 0.25

#: All calls have the same: Priority.NORMAL.
PRIORITY = 10

#: Re-sends of one call, as the settings have them.
MAX_RETRIES = 4

#: Seconds, as transport/answers.py has them: before the first retry at most; doubled each time, to
#: at most so many; drawn between half of that and all.
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 8.0

#: Seconds a request takes over loopback; and the mean by which a worker wakes late.
LOOPBACK_SECONDS = 0.0002
LATE_SECONDS = 0.0002

#: Seconds, drawn.
Delays = Callable[[random.Random], float]


class Pace(LanePacer, Protocol):
    """A pacer that can also say how much longer than known answers will get."""

    def stretch(self, now: float) -> float:
        """How many times as long answers take as those that came back so far; at least 1."""
        ...


class Estimates(Protocol):
    """What calls will cost, before anybody knows."""

    def __call__(self, request: SimulatedRequest, stretch: float) -> Cost:
        """What to book; *stretch* is the pacer's."""
        ...

    def learn(self, request: SimulatedRequest) -> None:
        """A call was answered: what it really took is known."""
        ...


@dataclass
class SimulatedCall:
    """One call: what it asks, what it will turn out to be, and what became of it."""

    number: int
    request: SimulatedRequest
    #: Instant at which it is submitted.
    at: float = 0.0
    #: As estimated when it left last.
    cost: Cost = NO_COST
    #: Booked and not settled.
    held: Cost = NO_COST
    #: Instant at which that was booked first.
    booked_at: float = math.inf
    retries_left: int = MAX_RETRIES
    #: Instants, one for each attempt.
    sent_at: list[float] = field(default_factory=list)
    done_at: Optional[float] = None
    #: It was refused once too often.
    failed: bool = False


class Departure(NamedTuple):
    """One attempt as it left."""

    call: SimulatedCall
    dispatch: Dispatch
    slot_owner: SlotOwner


class Simulation:
    """Run it with :meth:`run`; then look at ``calls``, ``events`` and the server's ``log``."""

    def __init__(
        self,
        pacer: Pace,
        limiter: LimiterPort,
        estimates: Estimates,
        server: SimulatedServer,
        requests: Iterable[tuple[float, SimulatedRequest]],
        *,
        one_way: Delays = lambda _: LOOPBACK_SECONDS,
        late: Delays = lambda chance: chance.expovariate(1 / LATE_SECONDS),
        seed: int = 0,
    ) -> None:
        """*requests*: instant of submission, and what is submitted. *one_way*: the network."""
        self.now = 0.0
        self.pacer, self.limiter, self.estimates = pacer, limiter, estimates
        self.server = server
        self.calls = [
            SimulatedCall(number, request, at) for number, (at, request) in enumerate(requests, 1)
        ]
        #: What is to happen beside the calls, and when.
        self.changes: list[tuple[float, Callable[[], None]]] = []
        #: What the pacer had to tell, and when.
        self.events: list[tuple[float, Event]] = []
        self._one_way, self._late = one_way, late
        self._chance = random.Random(seed)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._waiting: list[tuple[int, SimulatedCall]] = []
        self._look_at = math.inf

    def run(self, until: float = math.inf) -> Simulation:
        """Let time pass until nothing is left to happen, or until that instant."""
        for call in self.calls:
            self._at(call.at, partial(self._queue, call))
        for at, change in self.changes:
            self._at(at, change)
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._agenda)
            happen()
        return self

    def _at(self, at: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (at, next(self._order), happen))

    # -- the lane --------------------------------------------------------------------------------

    def _queue(self, call: SimulatedCall) -> None:
        heapq.heappush(self._waiting, (call.number, call))
        self._look()

    def _look(self) -> None:
        """Permit first, then time, as the worker does it."""
        while self._waiting:
            if self.limiter.up_to(self.now) < PRIORITY:
                return self._look_again(self.now + LOOK_SECONDS)
            call = self._waiting[0][1]
            cost = self._price(call)
            ready_at = self.pacer.ready_at(cost, self.now)
            if ready_at > self.now:
                return self._look_again(ready_at + self._late(self._chance))
            place = self.limiter.place(PRIORITY)
            if not place.try_acquire(self.now):
                return self._look_again(self.now + LOOK_SECONDS)
            heapq.heappop(self._waiting)
            self._leave(call, cost, place)
        return None

    def _price(self, call: SimulatedCall) -> Cost:
        if call.held.tokens > 0:  # of the attempt before: the server may have counted them
            return NO_COST._replace(requests=1.0)
        call.cost = self.estimates(call.request, self.pacer.stretch(self.now))
        return call.cost

    def _look_again(self, at: float) -> None:
        if self.now < self._look_at <= at:
            return
        self._look_at = at
        self._at(at, self._look)

    def _leave(self, call: SimulatedCall, cost: Cost, slot_owner: SlotOwner) -> None:
        leave = Departure(call, self.pacer.take(cost, self.now), slot_owner)
        call.held = Cost(*map(sum, zip(call.held, cost)))
        call.booked_at = min(call.booked_at, self.now)
        call.sent_at.append(self.now)
        self._at(self.now + self._one_way(self._chance), partial(self._arrive, leave))

    def _arrive(self, leave: Departure) -> None:
        done, reply = self.server.arrive(leave.call.request, self.now)

        def answer() -> None:
            feedback = reply(self.now)
            self._at(self.now + self._one_way(self._chance), partial(self._hear, leave, feedback))

        self._at(done, answer)

    # -- the end of an attempt -------------------------------------------------------------------

    def _hear(self, leave: Departure, feedback: Feedback) -> None:
        if feedback.rate_limits:
            self.limiter.headers_came()
        events = (
            self._refused(leave, feedback) if feedback.cause else self._answered(leave, feedback)
        )
        if any(isinstance(event, CircuitClosed) for event in events):
            self.limiter.ramp()
        self.events += [(self.now, event) for event in events]
        self._look()

    def _answered(self, leave: Departure, feedback: Feedback) -> list[Event]:
        call, request = leave.call, leave.call.request
        actual = Cost(call.held.requests, request.input_tokens, request.output_tokens)
        change = Cost(*(after - before for before, after in zip(call.held, actual)))
        self._settle(call, actual)
        events = self.pacer.answered(feedback, leave.dispatch, change, self.now)
        leave.slot_owner.release()
        self.limiter.answered()
        self.estimates.learn(request)
        call.done_at = self.now
        return events

    def _settle(self, call: SimulatedCall, actual: Cost) -> None:
        self.pacer.settle(call.held, actual, call.booked_at)
        call.held = actual

    def _refused(self, leave: Departure, feedback: Feedback) -> list[Event]:
        call = leave.call
        if feedback.cause == CONCURRENCY:
            self.limiter.refused(self.now)
        wait_seconds = self._wait_seconds(call, feedback)
        delay, events = self.pacer.refused(
            feedback, leave.dispatch, call.cost, wait_seconds, self.limiter.in_use, self.now
        )
        if feedback.cause != FAULT:
            self._settle(call, NO_COST._replace(requests=call.held.requests))
        leave.slot_owner.release()
        if not call.retries_left and not delay.free:
            call.failed, call.done_at = True, self.now
            return events
        call.retries_left -= not delay.free
        after = delay.seconds if delay.alone else 0.0
        self._at(self.now + after, partial(self._queue, call))
        return events

    def _wait_seconds(self, call: SimulatedCall, feedback: Feedback) -> float:
        """As transport/retry.py decides it."""
        if feedback.retry_after:
            return feedback.retry_after
        failures = 1 if feedback.cause == CONCURRENCY else len(call.sent_at)
        ceiling = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** (failures - 1))
        seconds = ceiling * self._chance.uniform(0.5, 1.0)
        return seconds / 2.0 if feedback.cause == CONCURRENCY else seconds
