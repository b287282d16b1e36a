"""What the calls of one lane took from the quotas, and what the server said of them."""

from __future__ import annotations

import math
from typing import Callable, Optional

from claude_throttle.core.dispatch.call import Attempt, Call, Outcome
from claude_throttle.core.dispatch.stream_call import StreamCall
from claude_throttle.core.domain.cost import NO_COST, UNKNOWN_SIZE, Cost, RequestSize, Usage
from claude_throttle.core.domain.events import CircuitClosed, Event, LanePaused
from claude_throttle.core.domain.feedback import (
    CONCURRENCY,
    NEVER,
    NO_RATE_LIMITS,
    NOT_FOUND,
    RATE,
    UNAVAILABLE,
    Dispatch,
    Feedback,
    OtherLimits,
    ResponseReport,
    RetryDelay,
)
from claude_throttle.core.domain.models import FAST
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.queueing.backlog import Backlog
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.errors import CircuitOpen

#: Probes of an open circuit that one call may fail as before they count as its retries: a minute
#: and a half of an outage in which no other call waits.
MOST_PROBES = 20


#: Told the seconds, the status and the lane of a refusal of the whole account. Holds no mutex.
PauseAccount = Callable[[float, Optional[int], str], None]


def pause_this_lane(_seconds: float, _status: Optional[int], _lane: str) -> None:
    """Where there is only one lane, it is paused already."""


class Accounting:
    """The books of one lane. All methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        *,
        pacer: Pacer,
        limiter: ConcurrencyLimiter,
        backlog: Backlog,
        now: Callable[[], float],
        observe: Callable[[Event, Optional[Call]], None],
        weigh: Callable[[Attempt, Feedback], Feedback],
        pause_account: PauseAccount,
        reject_elsewhere: Callable[[list[Ticket], Callable[[Ticket], BaseException]], None],
        counts_cache_reads: bool,
    ) -> None:
        self._name = name
        self._pacer = pacer
        self._limiter = limiter
        self._backlog = backlog
        self._mutex = backlog.mutex
        self._now = now
        self._observe = observe
        self._weigh = weigh
        self._pause_account = pause_account
        self._is_fast = name.endswith(FAST)
        #: What the latest answer or refusal showed of limits that are not the lane's own.
        self.other_limits = OtherLimits()
        self._reject_elsewhere = reject_elsewhere
        self._counts_cache_reads = counts_cache_reads
        self._looked_for = -math.inf

    # -- a call ends -----------------------------------------------------------------------------

    def settle_call_locked(self, attempt: Attempt, outcome: Outcome) -> Optional[list[Event]]:
        """Settle what an ended call took from the quotas.

        Returns what the pacer had to say of its answer; None if it was not answered.
        """
        now, events, feedback = self._now(), None, outcome.feedback
        if feedback.others is not None or self._is_fast:
            feedback = self._of_this_lane(feedback)
        actual = self._final_cost(attempt, outcome)
        change = self._pacer.settle(attempt.held, actual, attempt.booked_at)
        # A refusal was reported to the pacer when it came.
        if outcome.status is not None and outcome.status < 400:
            events = self._pacer.answered(feedback, attempt.dispatch, change, now)
        elif not attempt.outcome_reported:
            self._pacer.lost(now)
        self._backlog.look_again_locked()  # the head may leave earlier now
        return events

    def _final_cost(self, attempt: Attempt, outcome: Outcome) -> Cost:
        """What it really took of what it holds; the estimate if that is all we know."""
        if outcome.usage is not None:
            usage = outcome.usage
            counted = usage.counted_input_tokens(self._counts_cache_reads)
            return Cost(attempt.held.requests, counted - attempt.counted_input, usage.output_tokens)
        return Cost(attempt.held.requests, 0.0, 0.0) if outcome.refused else attempt.held

    def _correct_locked(self, held: Cost, actual: Cost, booked_at: float) -> None:
        if min(self._pacer.settle(held, actual, booked_at)) < 0:
            self._backlog.look_again_locked()  # the head may leave earlier now

    def tell(
        self, events: list[Event], feedback: Feedback, call: Optional[Call], over: bool = True
    ) -> None:
        """Tell the limiter and the listener what a send brought. Holds no mutex.

        Not *over*: its answer has only begun.
        """
        limiter = self._limiter
        if feedback.rate_limits:
            limiter.headers_came()
        if over and not feedback.cause:
            limiter.answered()
        if events and any(isinstance(event, CircuitClosed) for event in events):
            limiter.ramp()
        news = limiter.news()
        for event in events if news is None else (*events, news):
            self._observe(event, call)

    # -- limits of other kinds -------------------------------------------------------------------

    def _of_this_lane(self, feedback: Feedback) -> Feedback:
        """*feedback* with the limits that are this lane's own: in fast mode those of fast mode.

        Where these are 0, fast mode is not to be had: its refusal says nothing of a pace.
        """
        others = self.other_limits = feedback.others or self.other_limits
        if not self._is_fast:
            return feedback
        fast = NO_RATE_LIMITS if feedback.others is None else others.fast
        is_open = feedback.status == 429 and feedback.cause in (RATE, "")
        if is_open and any(limit.limit == 0 for limit in fast.values()):
            feedback = feedback._replace(cause=UNAVAILABLE, retry_after=None, final=True)
        return feedback._replace(rate_limits=fast)

    def _tell_account(self, feedback: Feedback, others: OtherLimits) -> None:
        if others.account_pause:
            self._pause_account(others.account_pause, feedback.status, self._name)

    def pause_for(self, seconds: float, status: Optional[int]) -> None:
        """Pause the lane because the whole account is refused."""
        with self._mutex:
            now = self._now()
            whole = self._pacer.pause_for(seconds, now)
            probe_in = self._pacer.pause.until - now
        probe = probe_in if probe_in < whole else None
        self._observe(LanePaused(self._name, status, whole, probe), None)

    # -- a stream begins -------------------------------------------------------------------------

    def stream_begun(self, call: StreamCall, feedback: Feedback, counted: Optional[int]) -> None:
        """Content came: the headers, and the *counted* input tokens, count from now."""
        attempt = call.attempt
        if feedback.others is not None or self._is_fast:
            feedback = self._of_this_lane(feedback)
        with self._mutex:
            if call.ended or attempt is None:
                return  # its time was up in this very moment
            call.begun = True
            held = attempt.held
            was = now = Cost(0.0, held.input_tokens, 0.0)
            if counted is not None:
                now = was._replace(input_tokens=float(counted))
                self._correct_locked(was, now, attempt.booked_at)
                attempt.held, attempt.counted_input = held._replace(input_tokens=0.0), counted
            events = self._pacer.begun(feedback, attempt.dispatch, now.minus(was), self._now())
            self._backlog.look_again_locked()  # it may have ended a pause
        self.tell(events, feedback, call, over=False)

    # -- an attempt was refused ------------------------------------------------------------------

    def refused(self, attempt: Attempt, feedback: Feedback, wait_seconds: float) -> RetryDelay:
        """A send was refused or lost; without the lane's delay it would wait *wait_seconds*."""
        call, doubted = attempt.call, False
        if feedback.others is not None or self._is_fast:
            feedback = self._of_this_lane(feedback)
        if feedback.cause == CONCURRENCY:
            self._limiter.refused(self._now())
        if feedback.account is not None or feedback.cause == NOT_FOUND:
            feedback = self._weigh(attempt, feedback)
            doubted = not feedback.final
        with self._mutex:
            in_flight, now = self._limiter.in_use, self._now()
            known = call.estimated_input, call.max_tokens
            size = RequestSize(*known, call.input_is_counted, call.cache_marked)
            delay, events = self._pacer.refused(
                feedback, attempt.dispatch, call.cost, wait_seconds, in_flight, now, size
            )
            attempt.outcome_reported = True
            dispatch = attempt.dispatch
            if delay.free and (dispatch.probes or dispatch.resumes or delay.alone):
                attempt.probes += 1
                # Waiting is free, but a call must not fail probes without end.
                delay = delay._replace(free=attempt.probes <= MOST_PROBES)
            doomed = self._take_doomed_locked(now)
        if doomed:
            self._reject_elsewhere(doomed, self.circuit_open)
        self.tell(events, feedback, call)
        if feedback.others is not None:
            self._tell_account(feedback, feedback.others)
        if feedback.cause == UNAVAILABLE:
            return NEVER
        return delay._replace(doubted=True) if doubted else delay

    def _take_doomed_locked(self, now: float) -> list[Ticket]:
        """Those whose time will be up before the circuit lets anything leave."""
        opens_at, backlog = self._pacer.opens_at(), self._backlog
        # Hundreds may fail together, and the backlog may be long: once for each instant.
        is_new = opens_at > now and opens_at != self._looked_for
        self._looked_for = opens_at
        waiting = backlog.waiting_locked() if is_new else []
        return [
            ticket
            for ticket in waiting
            if ticket.ends_at is not None
            and ticket.ends_at < opens_at
            and backlog.take_locked(ticket)
        ]

    def release(self, attempt: Attempt, keep_tokens: bool) -> None:
        """Give back a refused attempt's slot, and its tokens unless the server may count them."""
        with self._mutex:
            if not keep_tokens:
                spent = Cost(attempt.held.requests, 0.0, 0.0)
                self._correct_locked(attempt.held, spent, attempt.booked_at)
                attempt.held = spent
            released = self.release_slot_locked(attempt)
        if released:
            self.slot_released(attempt.call)

    def release_slot_locked(self, attempt: Attempt) -> bool:
        """Give back the slot of an attempt; False if it has none. Then call slot_released()."""
        slot = attempt.slot
        if slot is None:
            return False
        slot.release_nowait()
        attempt.slot = None  # last: after a Ctrl-C in between it is released once more
        return True

    def slot_released(self, ticket: Ticket) -> None:
        """Wake those that wait for a slot. Holds no mutex."""
        self._limiter.notify_waiters()
        if ticket.parent_slot is not None:
            with self._mutex:
                self._backlog.not_empty.notify()  # others may wait for the same slot

    # -- requests of other lanes -----------------------------------------------------------------

    def charge(self, usage: Usage) -> None:
        """Book what a request of another lane took here, by an iteration of a model of this one."""
        counted = usage.counted_input_tokens(self._counts_cache_reads)
        with self._mutex:
            self._pacer.charge(Cost(0.0, counted, usage.output_tokens), self._now())

    # -- permits ---------------------------------------------------------------------------------

    def settle_permit(self, held: Cost, actual: Cost, booked_at: float) -> None:
        """Correct what a permit booked."""
        with self._mutex:
            self._correct_locked(held, actual, booked_at)

    def report_permit(
        self,
        held: Cost,
        actual: Optional[Cost],
        dispatch: Dispatch,
        report: ResponseReport,
        expected: bool,
        size: RequestSize = UNKNOWN_SIZE,
    ) -> RetryDelay:
        """What came of the request a permit was for; *actual* None corrects nothing.

        Returns the delay before it may be sent again, if it was refused.
        """
        feedback = report.feedback
        if feedback.others is not None or self._is_fast:
            feedback = self._of_this_lane(feedback)
        if feedback.cause == CONCURRENCY:
            self._limiter.refused(self._now())
        doomed: list[Ticket] = []
        delay = NEVER
        with self._mutex:
            now = self._now()
            if not expected:
                self._pacer.expect(now)
            if report.refused:
                in_flight, wait = self._limiter.in_use, report.wait_seconds
                delay, events = self._pacer.refused(
                    feedback, dispatch, held, wait, in_flight, now, size
                )
                doomed = self._take_doomed_locked(now)
            if actual is not None:
                self._pacer.settle(held, actual, dispatch.at)
            if not report.refused:
                change = NO_COST if actual is None else actual.minus(held)
                events = self._pacer.answered(feedback, dispatch, change, now)
            self._backlog.look_again_locked()
        if doomed:
            self._reject_elsewhere(doomed, self.circuit_open)
        self.tell(events, feedback, None)
        if feedback.others is not None:
            self._tell_account(feedback, feedback.others)
        return NEVER if feedback.cause == UNAVAILABLE else delay

    def permit_unreported(self) -> None:
        """No outcome will be reported any more for the request of a permit."""
        with self._mutex:
            self._pacer.lost(self._now())

    # -- an open circuit -------------------------------------------------------------------------

    def raise_if_never_ready(self, ticket: Ticket) -> None:
        """Raise :class:`CircuitOpen` if its time is up before the circuit lets anything leave."""
        if ticket.ends_at is not None and ticket.ends_at < self._pacer.opens_at():
            raise self.circuit_open(ticket)

    def circuit_open(self, ticket: Ticket) -> CircuitOpen:
        """The error for a ticket whose time is up before the next probe."""
        seconds = max(0.0, self._pacer.opens_at() - self._now())
        sent = "nothing was sent" if ticket.charges_tenant else "it is not sent again"
        return CircuitOpen(
            f"call {ticket.number} ({self._name}): several calls in a row failed; the next is "
            f"tried in {seconds:.1f} s, when this one's time is up; {sent}",
            retry_after=seconds,
        )
