"""A client in virtual time: a real lane with its real worker, and the wire to a simulated server.

Simulated are only what the lane does not decide: the threads, the network, and how the transport
answers a refusal (:class:`SimulatedTransport`). So a simulation measures the product's own
decisions; a copy of them here would drift away from the product unnoticed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Optional

from claude_throttle.core.dispatch.call import Attempt, Call, Outcome, RetryTicket
from claude_throttle.core.dispatch.lane import Lane
from claude_throttle.core.dispatch.worker import Worker
from claude_throttle.core.domain.cost import NO_COST, Cost, Usage
from claude_throttle.core.domain.events import Event
from claude_throttle.core.domain.feedback import FAULT, Feedback
from claude_throttle.core.domain.priority import Priority
from claude_throttle.core.pacing.backoff import retry_wait
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.threads.blocking import Blocking, Wait
from claude_throttle.simulation.simulated_server import SimulatedRequest, SimulatedServer
from claude_throttle.simulation.virtual_time import Schedule, VirtualPool, VirtualTime

#: Re-sends of one call, as the settings have them.
MAX_RETRIES = 4

#: Seconds a request takes over loopback; and the mean of the seconds by which a worker wakes late.
LOOPBACK_SECONDS = 0.0002
LATE_SECONDS = 0.0002

#: The steps of a reservation for the calls of a lane.
Reserving = Callable[[Lane, "list[Cost]"], Blocking[None]]

#: Seconds, drawn.
Delays = Callable[[random.Random], float]


def no_delay(_chance: random.Random) -> float:
    """No network at all."""
    return 0.0


@dataclass
class SimulatedCall:
    """One call: its request, and what became of it."""

    number: int
    request: SimulatedRequest
    #: Instant at which it is submitted.
    at: float = 0.0
    #: As estimated when it was last sent.
    cost: Cost = NO_COST
    #: Booked and not settled.
    held: Cost = NO_COST
    #: Instant at which any of that was first booked.
    booked_at: float = math.inf
    retries_left: int = MAX_RETRIES
    #: The instant of each attempt.
    sent_at: list[float] = field(default_factory=list)
    done_at: Optional[float] = None
    #: It was refused once too often.
    failed: bool = False


class RetriesExhausted(Exception):
    """A simulated call was refused once too often."""


class SteppedWorker(Worker):
    """A worker whose steps are taken by a :class:`VirtualThread` instead of a thread of its own.

    It decides through the same methods as the real one (``next_step_locked``, ``wake_at_locked``);
    only the loop around them is a generator, because nothing may block in virtual time.
    """

    _reservation: Optional[Blocking[None]] = None

    def ensure_thread(self) -> None:
        """Does nothing: the simulation runs working() from the beginning."""

    def _has_thread_locked(self) -> bool:
        return True

    def set_reservation(self, steps: Blocking[None]) -> None:
        """Called by the present step: *steps* come before the next one."""
        self._reservation = steps

    def working(self) -> Blocking[None]:
        """The steps of its thread, as Worker takes them; never ends."""
        while True:
            with self._backlog.mutex:
                now = self._clock.monotonic()
                step = self.next_step_locked(now)
                if step is None:
                    at = self.wake_at_locked(now)
                    seconds = None if at is None else at - now
                    yield Wait(self._clock, self._backlog.not_empty, seconds)
            if step is not None:
                step()
            if self._reservation is not None:
                yield from self._reservation
                self._reservation = None


class OutgoingCall(Call):
    """A call of the lane, and the simulation's record of it."""

    __slots__ = ("record",)

    def __init__(self, record: SimulatedCall, **parts: Any) -> None:
        super().__init__(body=b"", model="simulated", estimated_input=0.0, **parts)
        self.record = record


class VirtualRetryTicket(RetryTicket):
    """A retry that waits in the backlog; *send* is called when it may leave, in no thread."""

    __slots__ = ("_send",)

    def __init__(self, attempt: Attempt, send: Callable[[], None]) -> None:
        super().__init__(attempt)
        self._send = send

    def proceed(self) -> None:
        self._send()


class SimulatedTransport:
    """Sends calls to a simulated server; decides about retries as transport/retry.py does.

    Without a *server* each call is answered in the instant it is sent, without rate-limit headers.
    """

    def __init__(
        self,
        schedule: Schedule,
        server: Optional[SimulatedServer],
        one_way: Delays,
        chance: random.Random,
    ) -> None:
        self._schedule, self._server = schedule, server
        self._one_way, self._chance = one_way, chance

    def send(self, request: SimulatedRequest, answered: Callable[[Feedback], None]) -> None:
        """Call *answered* with what the server says, when that arrives."""
        self._after_one_way(partial(self._arrive, request, answered))

    def _arrive(self, request: SimulatedRequest, answered: Callable[[Feedback], None]) -> None:
        if self._server is None:
            answered(Feedback())
            return
        done_at, reply = self._server.arrive(request, self._schedule.now)

        def answer() -> None:
            feedback = reply(self._schedule.now)
            self._after_one_way(partial(answered, feedback))

        self._schedule.at(done_at, answer)

    def _after_one_way(self, event: Callable[[], None]) -> None:
        self._schedule.at(self._schedule.now + self._one_way(self._chance), event)

    def wait_seconds(self, attempt: int, feedback: Feedback) -> float:
        """Seconds that a call waits after its *attempt*-th send was refused, if only it waits."""
        return retry_wait(feedback, attempt, self._chance.uniform)


class SimulatedClient:
    """A lane, its worker, and the sender threads of one process. Used in one thread only.

    *price*: what a call will cost, as far as is known. *sent*, *answered*: called with the record
    of each call as an attempt leaves, and when it was answered. *reserving*: how costs are reserved
    in a shared store, if there is one.
    """

    def __init__(
        self,
        time: VirtualTime,
        schedule: Schedule,
        pool: VirtualPool,
        *,
        pacer: Pacer,
        limiter: ConcurrencyLimiter,
        transport: SimulatedTransport,
        price: Callable[[SimulatedCall], Cost],
        reserving: Optional[Reserving] = None,
        observe: Callable[[Event], None] = lambda _event: None,
        sent: Callable[[SimulatedCall], None] = lambda _call: None,
        answered: Callable[[SimulatedCall], None] = lambda _call: None,
    ) -> None:
        self._time, self._schedule, self._transport = time, schedule, transport
        self._price, self._sent, self._answered = price, sent, answered
        self._reserving = reserving
        self.pool = pool
        self.worker: SteppedWorker
        self.lane = Lane(
            "simulated",
            pacer=pacer,
            limiter=limiter,
            thread_pool=pool,
            price=lambda call: price(call.record),  # type: ignore[attr-defined]
            carry=self._carry,
            observe=lambda event, _call: observe(event),
            weigh=lambda _attempt, feedback: feedback,
            max_queue=0,
            ageing=None,
            clock=time,
            worker_type=self._make_worker,
            reserve=None if reserving is None else self._reserve,
        )

    def _make_worker(self, *parts: Any) -> SteppedWorker:
        self.worker = SteppedWorker(*parts)
        return self.worker

    def _reserve(self, lane: Lane, costs: list[Cost]) -> None:
        if self._reserving is not None:
            self.worker.set_reservation(self._reserving(lane, costs))

    def submit(self, record: SimulatedCall, priority: int = Priority.NORMAL) -> None:
        """Queue a call at the present instant. Never blocks: the queue has no bound here."""
        call = OutgoingCall(
            record,
            number=record.number,
            cost=self._price(record),
            callbacks=self.lane.callbacks,
            max_tokens=record.request.max_tokens,
            submitted_at=self._time.now,
            priority=priority,
        )
        self.lane.put(call, block=False)

    def _carry(self, call: Call) -> None:
        """Do what a sender thread does with a call that left: record the attempt and send it."""
        attempt = call.attempt
        if not isinstance(call, OutgoingCall) or attempt is None:
            raise TypeError(f"only calls of the simulation that left are sent (got {call!r})")
        record = call.record
        record.sent_at.append(attempt.dispatch.at)
        record.booked_at = min(record.booked_at, attempt.booked_at)
        record.cost, record.held = call.cost, attempt.held
        call.callbacks.announce(attempt)
        self._sent(record)
        self._transport.send(record.request, partial(self._receive, call, attempt))

    def _receive(self, call: OutgoingCall, attempt: Attempt, feedback: Feedback) -> None:
        """What the server said has arrived: settle and finish the call, or decide about a retry."""
        if feedback.cause:
            self._retry(call, attempt, feedback)
            return
        record, request = call.record, call.record.request
        self._answered(record)
        usage = Usage(int(request.input_tokens), int(request.output_tokens))
        record.held = Cost(record.held.requests, request.input_tokens, request.output_tokens)
        self._end(call, Outcome(usage=usage, status=200, feedback=feedback))

    def _end(self, call: OutgoingCall, outcome: Outcome) -> None:
        call.finish(outcome)
        call.record.done_at = self._time.now

    def _retry(self, call: OutgoingCall, attempt: Attempt, feedback: Feedback) -> None:
        """Give back the permit and wait, or fail the call, as the transport does for a real one.

        A fault keeps its tokens booked, because the server may have counted them; a refusal gives
        them back. A delay that the lane calls free uses up none of the retries.
        """
        record, keeps_tokens = call.record, feedback.cause == FAULT
        wait_seconds = self._transport.wait_seconds(attempt.number, feedback)
        delay = attempt.on_refusal(feedback, wait_seconds)
        if not record.retries_left and not delay.free:
            record.failed = True
            error = RetriesExhausted(feedback.cause)
            refused = not keeps_tokens
            self._end(call, Outcome(error=error, status=feedback.status, refused=refused))
            return
        record.retries_left -= not delay.free
        self.lane.accounting.release(attempt, keeps_tokens)
        after = delay.seconds if delay.alone else 0.0
        attempt.resting = True
        again = partial(self._queue_again, call, attempt, attempt.dispatch.probes)
        self._schedule.at(self._time.now + after, again)

    def _queue_again(self, call: OutgoingCall, attempt: Attempt, behind: bool) -> None:
        """Put the call back into the backlog. *behind*: it was a probe and failed; see the lane."""
        ticket = VirtualRetryTicket(attempt, lambda: self.pool.run(partial(self._carry, call)))
        with self.lane.mutex:
            self.lane.place_retry_locked(ticket, attempt, behind)
