"""What calls took from the quotas, and what the server said of them: settled as they end."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Optional

from claude_throttle.core.dispatch.attempt import Attempt
from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.domain.events import CircuitClosed, Event
from claude_throttle.core.domain.feedback import (
    CONCURRENCY,
    Dispatch,
    Feedback,
    ResponseReport,
    RetryDelay,
)
from claude_throttle.core.domain.ports import LimiterPort
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.errors import CircuitOpen

if TYPE_CHECKING:
    from claude_throttle.core.dispatch.lane import Lane


#: Probes of an open circuit that one call may fail as before they count as its retries: a minute
#: and a half of an outage in which nobody else waits.
MOST_PROBES = 20


class DroppedPermit(NamedTuple):
    """What is left to do for a permit that the garbage collector closed."""

    #: What it had booked; None if that is settled.
    held: Optional[Cost]
    #: What it took, if that is known.
    actual: Optional[Cost]
    booked_at: float
    #: Somebody was to say how it ended, and has not.
    unheard: bool


class Accounting:
    """Of one lane; under the lane's mutex. All methods may be called from any thread."""

    def __init__(self, lane: Lane, limiter: LimiterPort) -> None:
        self._lane = lane
        self._limiter = limiter
        #: Permits that were dropped without a word.
        self.dropped: deque[DroppedPermit] = deque()
        self._looked_for = -math.inf

    # -- a call ends -----------------------------------------------------------------------------

    def close(self, call: Call, actual: Optional[Cost], answer: Optional[Feedback]) -> None:
        """Settle what a call took from the quotas; *actual* None leaves its estimate booked.

        *answer* is what the server's answer said, if there was one.
        """
        lane, attempts = self._lane, call.attempts
        with lane.mutex:
            lane.backlog.take_locked(call)
            lane.backlog.forget_deadline_locked(call)
            if attempts is None:
                return
            lane.out.discard(attempts)
            events = self._settle_locked(attempts, actual or attempts.held, answer)
        if answer is not None:
            self._tell(events, answer, call)

    def _settle_locked(
        self, attempts: Attempt, actual: Cost, answer: Optional[Feedback]
    ) -> list[Event]:
        lane = self._lane
        change = actual.minus(attempts.held)
        self._correct_locked(attempts.held, actual, attempts.booked_at)
        if answer is None:
            if not attempts.outcome_reported:
                lane.pacer.lost(lane.now())
            return []
        events = lane.pacer.answered(answer, attempts.dispatch, change, lane.now())
        lane.backlog.look_again_locked()  # the server may have room for the head
        return events

    def _correct_locked(self, held: Cost, actual: Cost, booked_at: float) -> None:
        if self._lane.pacer.settle(held, actual, booked_at):
            self._lane.backlog.look_again_locked()  # the head may leave earlier now

    def _tell(
        self, events: list[Event], feedback: Feedback, call: Optional[Call], over: bool = True
    ) -> None:
        """Tell the permits and the listener what an attempt brought. Holds no mutex."""
        if feedback.rate_limits:
            self._limiter.headers_came()
        if over and not feedback.cause:
            self._limiter.answered()
        if events and any(isinstance(event, CircuitClosed) for event in events):
            self._limiter.ramp()
        news = self._limiter.news()
        for event in events if news is None else (*events, news):
            self._lane.observe(event, call)

    # -- a stream begins -------------------------------------------------------------------------

    def begun(self, attempts: Attempt, feedback: Feedback, counted: Optional[int]) -> None:
        """An answer began: what its headers say, and the *counted* input tokens, count from now."""
        lane = self._lane
        with lane.mutex:
            if attempts.call.ended:
                return
            held = attempts.held
            was = now = Cost(0.0, held.input_tokens, 0.0)
            if counted is not None:
                now = was._replace(input_tokens=float(counted))
                self._correct_locked(was, now, attempts.booked_at)
                attempts.held, attempts.counted = held._replace(input_tokens=0.0), counted
            events = lane.pacer.begun(feedback, attempts.dispatch, now.minus(was), lane.now())
        self._tell(events, feedback, attempts.call, over=False)

    # -- an attempt was refused ------------------------------------------------------------------

    def refused(self, attempts: Attempt, feedback: Feedback, wait_seconds: float) -> RetryDelay:
        """An attempt was refused or lost; alone it would wait *wait_seconds*."""
        lane, call = self._lane, attempts.call
        if feedback.cause == CONCURRENCY:
            self._limiter.refused(lane.now())
        with lane.mutex:
            in_flight, now = self._limiter.in_use, lane.now()
            delay, events = lane.pacer.refused(
                feedback, attempts.dispatch, call.cost, wait_seconds, in_flight, now
            )
            attempts.outcome_reported = True
            if attempts.dispatch.probes and delay.free:
                attempts.probes += 1
                # Waiting is free, failing for ever is not.
                delay = delay._replace(free=attempts.probes <= MOST_PROBES)
            doomed = self._take_doomed_locked(now)
        if feedback.account is not None:
            lane.suspend(call, feedback.account)
        lane.refuse_elsewhere(doomed, lambda ticket: circuit_open(lane, ticket))
        self._tell(events, feedback, call)
        return delay

    def _take_doomed_locked(self, now: float) -> list[Ticket]:
        """Those whose time will be up before the circuit lets anything leave."""
        opens_at, backlog = self._lane.pacer.opens_at(), self._lane.backlog
        # Hundreds may fail together, and the line may be long: once for each instant.
        is_news = opens_at > now and opens_at != self._looked_for
        self._looked_for = opens_at
        waiting = backlog.waiting_locked() if is_news else []
        return [
            ticket
            for ticket in waiting
            if ticket.ends_at is not None
            and ticket.ends_at < opens_at
            and backlog.take_locked(ticket)
        ]

    def release(self, attempts: Attempt, keep_tokens: bool) -> None:
        """Return a refused attempt's permit, and its tokens unless the server may count them."""
        if not keep_tokens:
            with self._lane.mutex:
                spent = Cost(attempts.held.requests, 0.0, 0.0)
                self._correct_locked(attempts.held, spent, attempts.booked_at)
                attempts.held = spent
        self.return_permit(attempts)

    def return_permit(self, attempts: Attempt) -> None:
        """Give back the permit of an attempt that has ended; idempotent."""
        with self._lane.mutex:
            if attempts.slot_owner is None:
                return
            attempts.slot_owner.release_nowait()
            attempts.slot_owner = None
        self._limiter.notify_waiters()
        if attempts.call.parent_slot is not None:
            self._lane.wake()  # others may wait for the same ride

    # -- permits ---------------------------------------------------------------------------------

    def settle_permit(self, held: Cost, actual: Cost, booked_at: float) -> None:
        """Correct what a permit booked."""
        with self._lane.mutex:
            self._correct_locked(held, actual, booked_at)

    def hear_of_permit(
        self,
        held: Cost,
        actual: Optional[Cost],
        dispatch: Dispatch,
        report: ResponseReport,
        expected: bool,
    ) -> None:
        """What came of the request a permit was for; *actual* None corrects nothing."""
        lane, feedback = self._lane, report.feedback
        if feedback.cause == CONCURRENCY:
            self._limiter.refused(lane.now())
        doomed: list[Ticket] = []
        with lane.mutex:
            now = lane.now()
            if not expected:
                lane.pacer.expect(now)
            if actual is not None:
                lane.pacer.settle(held, actual, dispatch.at)
            if report.refused:
                in_flight, wait = self._limiter.in_use, report.wait_seconds
                _, events = lane.pacer.refused(feedback, dispatch, held, wait, in_flight, now)
                doomed = self._take_doomed_locked(now)
            else:
                change = NO_COST if actual is None else actual.minus(held)
                events = lane.pacer.answered(feedback, dispatch, change, now)
            lane.backlog.look_again_locked()
        if doomed:
            lane.refuse_elsewhere(doomed, lambda ticket: circuit_open(lane, ticket))
        self._tell(events, feedback, None)

    def permit_ended_unheard(self) -> None:
        """Nobody will say any more how the request of a permit ended."""
        with self._lane.mutex:
            self._lane.pacer.lost(self._lane.now())

    def settle_dropped_locked(self) -> None:
        """Settle permits that the garbage collector closed: it must not take a lock."""
        while self.dropped:
            dropped = self.dropped.popleft()
            if dropped.held is not None:
                actual = dropped.actual or dropped.held
                self._correct_locked(dropped.held, actual, dropped.booked_at)
            if dropped.unheard:
                self._lane.pacer.lost(self._lane.now())


def raise_if_never_ready(lane: Lane, ticket: Ticket) -> None:
    """Raise :class:`CircuitOpen` if its time is up before the circuit lets anything leave."""
    if ticket.ends_at is not None and ticket.ends_at < lane.pacer.opens_at():
        raise circuit_open(lane, ticket)


def circuit_open(lane: Lane, ticket: Ticket) -> CircuitOpen:
    """What to say to a call whose time is up before the next probe."""
    seconds = max(0.0, lane.pacer.opens_at() - lane.now())
    sent = "nothing was sent" if ticket.pays else "it is not sent again"
    return CircuitOpen(
        f"call {ticket.number} ({lane.name}): several calls in a row failed; the next is tried in "
        f"{seconds:.1f} s, when this one's time is up; {sent}",
        retry_after=seconds,
    )
