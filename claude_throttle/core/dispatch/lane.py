"""One lane per rate-limit bucket: what waits, what is out, and one pace for both.

A lane owns a backlog, a worker and a pacer; the concurrency limiter and the sender threads are
shared by all lanes. One model's exhausted quota never holds up another's calls.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from functools import partial
from typing import Callable, Optional

from claude_throttle.core.dispatch.accounting import Accounting, PauseAccount, pause_this_lane
from claude_throttle.core.dispatch.call import (
    Attempt,
    AttemptStopped,
    Call,
    LaneCallbacks,
    Outcome,
    RetryTicket,
    forget_in_progress,
    in_progress,
)
from claude_throttle.core.dispatch.worker import Worker
from claude_throttle.core.domain.cost import NO_USAGE, Cost
from claude_throttle.core.domain.events import (
    CallFailed,
    CallQueued,
    CallSent,
    CallSucceeded,
    CircuitHalfOpened,
    Event,
    LaneResumed,
    RetryScheduled,
)
from claude_throttle.core.domain.feedback import Dispatch, Feedback, RetryDelay
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.queueing.backlog import Backlog
from claude_throttle.core.queueing.reentrant_slot import ReentrantSlot
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.core.threads.clock import Clock, Condition
from claude_throttle.core.threads.thread_pool import ThreadPool

logger = logging.getLogger("claude_throttle")

#: Seconds between looks at the futures that a thread with calls in progress waits for.
IN_PROGRESS_LOOK_SECONDS = 0.05


class _End:
    """What there is to tell of a call that was taken out of everything."""

    #: What the pacer had to say of its answer; None if it was not answered.
    events: Optional[list[Event]] = None
    #: It gave a slot back.
    has_slot = False
    #: What failed on the way.
    bug: Optional[BaseException] = None


def _nothing_to_reserve(_lane: Lane, _costs: list[Cost]) -> None:
    """Where no process shares the quotas, no pacer asks for a reservation."""


class Lane:
    """One backlog, one worker, one pace. All methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        *,
        pacer: Pacer,
        limiter: ConcurrencyLimiter,
        thread_pool: ThreadPool,
        price: Callable[[Call], Cost],
        price_version: Callable[[], int] = itertools.count().__next__,
        carry: Callable[[Call], None],
        observe: Callable[[Event, Optional[Call]], None],
        weigh: Callable[[Attempt, Feedback], Feedback],
        pause_account: PauseAccount = pause_this_lane,
        max_queue: int,
        counts_cache_reads: bool = False,
        ageing: Optional[float],
        clock: Clock,
        worker_type: Callable[..., Worker] = Worker,
        reserve: Optional[Callable[[Lane, list[Cost]], None]] = None,
    ) -> None:
        self.name = name
        #: Whether its limits count what is read from the prompt cache, too.
        self.counts_cache_reads = counts_cache_reads
        self.pacer = pacer
        self.observe = observe
        # Guards the backlog, the pacer, what is out, and the worker's existence. Held for
        # arithmetic only: never while waiting, sending, logging or calling out.
        # Reentrant: the garbage collector or a signal handler may interrupt its holder and
        # cancel a future or ask for stats.
        self.mutex = threading.RLock()
        self.backlog = Backlog(max_queue, self.mutex, clock, ageing)
        # Notified when calls are stopped, and at close(); what waits out a delay waits there.
        self.stopped = Condition(self.mutex)
        #: Calls that were dispatched and have not ended.
        self.out: set[Attempt] = set()
        #: Permits that are waited for, or open. No lock: single set operations are atomic.
        self.permits: set[Ticket] = set()
        self.now = clock.monotonic
        self._price_call = price
        self._limiter = limiter
        self._clock = clock
        self.accounting = Accounting(
            name,
            pacer=pacer,
            limiter=limiter,
            backlog=self.backlog,
            now=self.now,
            observe=observe,
            weigh=weigh,
            pause_account=pause_account,
            reject_elsewhere=self.reject_elsewhere,
            counts_cache_reads=counts_cache_reads,
        )
        reserve_for_lane = partial(reserve or _nothing_to_reserve, self)
        parts = self.backlog, pacer, limiter, thread_pool, clock
        self._worker = worker_type(name, *parts, self._price, price_version, reserve_for_lane)
        #: For the calls of this lane.
        self.callbacks = self._make_callbacks(thread_pool, carry)

    def _make_callbacks(
        self, thread_pool: ThreadPool, carry: Callable[[Call], None]
    ) -> LaneCallbacks:
        return LaneCallbacks(
            lane=self.name,
            now=self.now,
            out=self.out,
            thread_pool=thread_pool,
            carry=carry,
            finish=self.finish,
            stop=self._stop,
            refused=self.accounting.refused,
            retry=self._retry,
            announce=self._announce_send,
        )

    def _price(self, ticket: Ticket) -> Cost:
        """What a waiting ticket will cost, by what is known now."""
        return self._price_call(ticket) if isinstance(ticket, Call) else ticket.cost

    # -- in --------------------------------------------------------------------------------------

    def put(self, call: Call, block: bool, first: Optional[Callable[[Call], None]] = None) -> None:
        """Queue a call, and tell the listener. Raises ``queue.Full`` or :class:`Closed`.

        *first* is called with it instead of queueing it, and must see to it that place() is called.
        """
        if call.deadline is not None:
            self.accounting.raise_if_never_ready(call)
        calls = in_progress.mine()
        try:
            self.backlog.reserve(call, block, call.timeout)
            calls.append(call)
            self.observe(CallQueued(call.number, call.model, self.backlog.calls), call)
            if call in calls:  # its end, in a listener, may have been interrupted
                calls.remove(call)
            if first is not None:
                first(call)
                return
            if not self._worker.try_send(call):
                self.backlog.place(call)
                self._worker.ensure_thread()
        except BaseException:  # Closed, Full, or Ctrl-C anywhere: the caller gets no future
            forget_in_progress(call)
            self.backlog.give_up(call)
            if call.has_left:
                call.future.give_up()
            raise

    def place(self, call: Call) -> None:
        """Queue a call that had its place reserved. Nothing happens if it has ended meanwhile."""
        with self.mutex:
            refusal = self.backlog.refusal_locked(call)
            if refusal is None:
                self.backlog.place_locked(call)
        if refusal is not None:
            call.reject(refusal)
            return
        self._worker.ensure_thread()

    def ask(self, ticket: Ticket) -> None:
        """Queue for a permit. Raises :class:`Closed`, or why it can never be had in time."""
        self.accounting.raise_if_never_ready(ticket)
        with self.mutex:
            self.backlog.require_open_locked(ticket)
            if ticket.charges_tenant:
                self.backlog.put_locked(ticket)
            else:
                self.backlog.put_again_locked(ticket)
        self._worker.ensure_thread()

    def rest(self, seconds: float) -> None:
        """Wait *seconds*, or until it is closed, before a refused request asks again."""
        with self.mutex:
            due = self.now() + seconds
            while not self.backlog.closed and self.now() < due:
                self._clock.wait(self.stopped, due - self.now())

    def try_grant(self, ticket: Ticket) -> bool:
        """Let *ticket* leave in the caller's own thread, if nothing is in its way."""
        with self.mutex:
            return self._worker.commit_at_once_locked(ticket) is not None

    # -- out -------------------------------------------------------------------------------------

    def announce(self, dispatch: Dispatch, call: Optional[Call]) -> None:
        """Emit what a dispatch means for the lane. Not called in the worker's thread."""
        if dispatch.resumes:
            self.observe(LaneResumed(self.name), call)
        if dispatch.probes:
            self.observe(CircuitHalfOpened(self.name), call)
        limiter = self._limiter
        full = limiter.reached_connection_limit() if limiter.ceiling_reached else None
        if full is not None:
            self.observe(full, call)

    def _announce_send(self, attempt: Attempt) -> None:
        call, dispatch = attempt.call, attempt.dispatch
        if dispatch.resumes or dispatch.probes or self._limiter.ceiling_reached:
            self.announce(dispatch, call)
        waited = dispatch.at - call.submitted_at
        self.observe(CallSent(call.number, call.model, attempt.number, waited), call)

    def _retry(
        self,
        attempt: Attempt,
        status: Optional[int],
        reason: str,
        delay: RetryDelay,
        keep_tokens: bool,
    ) -> None:
        """Give the slot back, wait, queue again; return when the next send may begin."""
        call = attempt.call
        self.observe(
            RetryScheduled(call.number, call.model, attempt.number, status, reason, delay.seconds),
            call,
        )
        self.accounting.release(attempt, keep_tokens)
        self._worker.ensure_other_thread()
        # Behind a failed probe others come first: it may be this call that no server can stand.
        ticket = self._rest(attempt, delay.seconds if delay.alone else 0.0, attempt.dispatch.probes)
        self._worker.ensure_thread()
        ticket.wait_for_grant()
        self._announce_send(attempt)

    def _rest(self, attempt: Attempt, wait_seconds: float, behind: bool) -> RetryTicket:
        """Wait *wait_seconds*, then queue: at the call's own place, or *behind* all others."""
        with self.mutex:
            attempt.resting = True
            due = self.now() + wait_seconds
            while attempt.stopped_by is None and self.now() < due:
                self._clock.wait(self.stopped, due - self.now())
            ticket = RetryTicket(attempt)
            self.place_retry_locked(ticket, attempt, behind)
        return ticket

    def place_retry_locked(self, ticket: RetryTicket, attempt: Attempt, behind: bool) -> None:
        """Queue *ticket*, at the place of its call or *behind* all others.

        Raises :class:`AttemptStopped` if the call must end instead.
        """
        if behind:
            ticket.tag = self.backlog.last_tag
        attempt.stopped_by = attempt.stopped_by or self.backlog.refusal_locked(ticket)
        if attempt.stopped_by is not None:
            raise AttemptStopped
        attempt.retry_ticket = ticket
        self.backlog.put_again_locked(ticket)

    def lend_slot(self, attempt: Attempt) -> ReentrantSlot:
        """Let the reader of a stream use its slot, while the answer comes, for other calls."""
        lent = ReentrantSlot()
        with self.mutex:
            if attempt.slot is not None:
                lent.lend(attempt.slot)
                attempt.slot = lent
        return lent

    # -- the end of a call -----------------------------------------------------------------------

    def finish(self, call: Call, outcome: Outcome) -> None:
        """End *call* with *outcome*, exactly once; does nothing if it has ended already.

        The only place that resolves a future, and never with the mutex held: a done-callback that
        submits would hang the worker. Whatever fails on the way, the future is resolved.
        """
        is_ours = False
        try:
            with self.mutex:
                if call.ended:
                    return
                is_ours = call.ended = True
                end = self._end_locked(call, outcome)
            calls = in_progress.mine()
            calls.append(call)
            self._tell_end(call, outcome, end)
            self._let_go(call, outcome)
            while call in calls:  # its sender or reader may have put it there, too
                calls.remove(call)
        except KeyboardInterrupt:  # a stream is ended by its reader, maybe in the main thread
            if is_ours:
                self._let_go(call, outcome)
                forget_in_progress(call)
            raise

    def _end_locked(self, call: Call, outcome: Outcome) -> _End:
        """Take it out of everything."""
        end, attempt = _End(), call.attempt
        try:
            if call.queued or call.reserved:
                self.backlog.take_locked(call)
            if call.deadline is not None:
                self.backlog.forget_deadline_locked(call)
            if attempt is not None:
                end.events = self.accounting.settle_call_locked(attempt, outcome)
        except KeyboardInterrupt:
            raise
        except BaseException as bug:  # noqa: BLE001 - an answer was paid for; a bug must not lose it
            end.bug = bug
        if attempt is not None:
            self.out.discard(attempt)
            end.has_slot = self.accounting.release_slot_locked(attempt)
        return end

    def _tell_end(self, call: Call, outcome: Outcome, end: _End) -> None:
        try:
            if end.has_slot:
                self.accounting.slot_released(call)
            if end.bug is not None:
                raise end.bug
            if end.events is not None:
                self.accounting.tell(end.events, outcome.feedback, call)
            self.observe(_end_event(call, outcome, self.now()), call)
        except KeyboardInterrupt:
            raise
        except BaseException:
            logger.exception("accounting for call %d failed; this is a bug", call.number)

    def _let_go(self, call: Call, outcome: Outcome) -> None:
        """Resolve the future and forget the call. Idempotent, for Ctrl-C comes anywhere."""
        attempt = call.attempt
        if attempt is not None and attempt.slot is not None:
            with self.mutex:
                self.out.discard(attempt)
                self.accounting.release_slot_locked(attempt)
            self.accounting.slot_released(call)
        try:
            call.future.resolve(outcome)
        except KeyboardInterrupt:
            raise
        except BaseException:
            logger.exception("a done-callback of call %d raised", call.number)
        self.backlog.forget(call)
        call.detach()

    # -- from outside ----------------------------------------------------------------------------

    def withdraw_ticket(self, ticket: Ticket) -> None:
        """A permit is closed, or no longer waited for."""
        with self.mutex:
            ticket.ended = True
            self.backlog.take_locked(ticket)
            self.backlog.forget_deadline_locked(ticket)

    def pause(self) -> None:
        """Let nothing leave until resume()."""
        with self.mutex:
            self.pacer.held_until = math.inf

    def resume(self) -> None:
        """End a pause(); a pause the server asked for goes on."""
        with self.mutex:
            self.pacer.held_until = -math.inf
            self.backlog.not_empty.notify()

    def is_refused(self) -> bool:
        """Whether a pause that the server asked for is in force."""
        return self.pacer.pause.until > self.now()

    def wake(self) -> None:
        """Have the worker look again."""
        self._worker.wake()

    def seconds_until_leave(self, cost: Cost) -> float:
        """How long a call of that cost, put now, would wait for the quotas."""
        with self.mutex:
            now = self.now()
            return self.pacer.leaves_at(self.backlog.load, cost, now) - now

    def reject_all(self, error: BaseException) -> None:
        """Reject everything that waits in the backlog."""
        self._worker.reject_all(error)

    def reject_elsewhere(
        self, tickets: list[Ticket], why: Callable[[Ticket], BaseException]
    ) -> None:
        """Reject them in other threads: their callbacks may wait for what this one is to end."""
        self._worker.end_elsewhere(tickets, lambda ticket: ticket.reject(why(ticket)))

    def shut(self, why: Callable[[float], BaseException]) -> None:
        """Reject what waits for a send, first or not, and what comes; *why* is given the time.

        What is on the wire goes on.
        """
        with self.mutex:
            self.backlog.suspend_locked(why)
            waiting = self.backlog.take_all()
            resting = [attempt for attempt in self.out if attempt.resting]
        for attempt in resting:
            attempt.stop(why(self.now()))
        self.reject_elsewhere(waiting, lambda _: why(self.now()))

    def admit_probe(self, ticket: Ticket) -> None:
        """Let *ticket* through shut(): it finds out whether the account is accepted again."""
        with self.mutex:
            self.backlog.admit_probe_locked(ticket.number)

    def reopen(self) -> None:
        """End shut()."""
        with self.mutex:
            self.backlog.suspend_locked(None)

    def _stop(self, attempt: Attempt, error: BaseException) -> None:
        """End an attempt wherever it is: in a read, a wait, the backlog. Its sender finishes it."""
        with self.mutex:
            if attempt.stopped_by is None:
                attempt.stopped_by = error
            ticket = attempt.retry_ticket
            waits = ticket is not None and self.backlog.take_locked(ticket)
            self.stopped.notify_all()
        if ticket is not None and waits:
            ticket.reject(error)
        attempt.hang_up()
        when_stopped = attempt.when_stopped
        if when_stopped is not None:
            when_stopped()

    def stop_all(self, why: Callable[[Call], BaseException]) -> None:
        """End everything that is out, wherever it is."""
        for attempt in list(self.out):
            attempt.stop(why(attempt.call))

    def close(self) -> None:
        """Accept no more; what was accepted goes on."""
        with self.mutex:
            self.backlog.close_locked()
            self.stopped.notify_all()

    def cancel_waiting(self, error: BaseException) -> None:
        """Cancel the calls that wait for their first send; reject what else waits."""
        with self.mutex:
            waiting = self.backlog.waiting_locked()
            resting = [attempt for attempt in self.out if attempt.resting]
        for attempt in resting:
            attempt.stop(error)
        for ticket in waiting:
            if isinstance(ticket, Call):
                ticket.future.cancel()
            elif self._take(ticket):
                ticket.reject(error)

    def _take(self, ticket: Ticket) -> bool:
        with self.mutex:
            return self.backlog.take_locked(ticket)

    def wait_until_done(self, give_up_at: Optional[float]) -> int:
        """Wait until every accepted call has ended; return how many have not by *give_up_at*.

        A thread that has calls in progress itself, in a callback that closes, say, waits neither
        for those nor for others' callbacks: they may be waiting for it.
        """
        with self.mutex:
            self.backlog.drainers += 1
            try:
                return self._wait_until_done_locked(give_up_at)
            finally:
                self.backlog.drainers -= 1

    def _wait_until_done_locked(self, give_up_at: Optional[float]) -> int:
        while left := self._count_unfinished_locked():
            seconds = math.inf if give_up_at is None else give_up_at - self.now()
            if seconds <= 0:
                break
            # Nothing notifies when a future is done and only its callbacks are not.
            longest = IN_PROGRESS_LOOK_SECONDS if in_progress.mine() else math.inf
            self._clock.wait(self.backlog.all_tasks_done, min(seconds, longest))
        return left

    def _count_unfinished_locked(self) -> int:
        mine = in_progress.mine()
        if not mine:
            return len(self.backlog.accepted)
        others = (call for call in self.unsettled() if call not in mine)
        return sum(not call.future.done() for call in others)

    def waiting(self) -> int:
        """Calls, retries and permits that wait for their turn."""
        permits = sum(ticket.queued for ticket in list(self.permits))
        return self.backlog.calls + permits + sum(attempt.queued for attempt in list(self.out))

    def backing_off(self) -> int:
        """Calls that wait out the delay before they queue again."""
        out = list(self.out)
        return sum(attempt.resting and not attempt.queued for attempt in out)

    def in_flight(self) -> int:
        """Requests on the wire, and open permits that no call uses meanwhile."""
        sent = sum(not attempt.resting for attempt in list(self.out))
        return sent + sum(ticket.is_out for ticket in list(self.permits))

    def unsettled(self) -> list[Call]:
        """Every call that has not ended. Takes no lock: after a fork nothing could give it back."""
        return [ticket for ticket in list(self.backlog.accepted) if isinstance(ticket, Call)]


def _end_event(call: Call, outcome: Outcome, now: float) -> Event:
    attempts = call.attempt.number if call.attempt is not None else 0
    if outcome.error is not None:
        name = type(outcome.error).__name__
        return CallFailed(call.number, call.model, attempts, name, outcome.status)
    answered_at = now if outcome.answered_at is None else outcome.answered_at
    latency = answered_at - (call.sent_at if call.sent_at is not None else answered_at)
    usage = outcome.usage or NO_USAGE
    return CallSucceeded(call.number, call.model, attempts, latency, usage, outcome.request_id)
