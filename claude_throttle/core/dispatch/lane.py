"""One lane per rate-limit bucket: what waits, what is out, and one pace for both.

A lane owns a backlog, a worker and a pacer; permits and senders are shared by all lanes. One
model's exhausted quota never holds up another's calls.
"""

from __future__ import annotations

import math
import threading
from concurrent.futures import CancelledError
from functools import partial
from typing import Callable, Optional

from claude_throttle.core.dispatch.accounting import Accounting, raise_if_never_ready
from claude_throttle.core.dispatch.attempt import Attempt, AttemptStopped, RetryTicket
from claude_throttle.core.dispatch.call import Call
from claude_throttle.core.dispatch.settlement import Outcome, in_progress, mark_in_progress, settle
from claude_throttle.core.dispatch.worker import Worker
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.events import CallQueued, CircuitHalfOpened, Event, LaneResumed
from claude_throttle.core.domain.feedback import AccountRefusal, Dispatch
from claude_throttle.core.domain.ports import LanePacer, LimiterPort
from claude_throttle.core.queueing.backlog import Backlog
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.condition import Condition
from claude_throttle.core.threads.thread_pool import ThreadPool

#: Seconds between looks of a busy thread at the futures it waits for.
BUSY_LOOK_SECONDS = 0.05


def _nothing_to_reserve(_lane: Lane, _costs: list[Cost]) -> None:
    """Where no process shares the quotas, no pacer asks for a reservation."""


class Lane:
    """One queue, one worker, one pace. All methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        *,
        pacer: LanePacer,
        limiter: LimiterPort,
        thread_pool: ThreadPool,
        price: Callable[[Call], Cost],
        carry: Callable[[Call], None],
        observe: Callable[[Event, Optional[Call]], None],
        suspend: Callable[[Call, AccountRefusal], None],
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
        #: The account was refused. Called with no mutex held.
        self.suspend = suspend
        # Guards the backlog, the pacer, who is out, and the worker's existence. Held for
        # arithmetic only: never while waiting, sending, logging or calling out.
        # Reentrant: the garbage collector, or a signal handler, may come in the midst of it and
        # cancel a future or ask for stats.
        self.mutex = threading.RLock()
        self.backlog = Backlog(max_queue, self.mutex, clock, ageing)
        # Notified when calls are stopped; retries that wait out a delay wait there.
        self.stopped = Condition(self.mutex)
        self.out: set[Attempt] = set()
        self.now = clock.monotonic
        #: What a waiting call will cost, as far as is known by now.
        self.price = price
        self.accounting = Accounting(self, limiter)
        self._thread_pool = thread_pool
        self._carry = carry
        self._clock = clock
        self._worker = worker_type(
            self, limiter, thread_pool, clock, partial(reserve or _nothing_to_reserve, self)
        )

    # -- in --------------------------------------------------------------------------------------

    def put(self, call: Call, block: bool, first: Optional[Callable[[Call], None]] = None) -> None:
        """Queue a call, and say so. Raises ``queue.Full`` or :class:`Closed`.

        *first* is called with it instead, and sees to it that place() is called in the end.
        """
        raise_if_never_ready(self, call)
        try:
            self.backlog.reserve(call, block, call.timeout)
            with mark_in_progress(call):
                self.observe(CallQueued(call.number, call.model, self.backlog.calls), call)
            if first is not None:
                first(call)
                return
            if not self._worker.try_send(call):
                self.backlog.place(call)
                self._worker.ensure()
        except BaseException:  # Closed, Full, or Ctrl-C anywhere: the caller gets no future
            in_progress.forget(call)
            self.backlog.give_up(call)
            if call.out:
                call.future.give_up()
            raise

    def place(self, call: Call) -> None:
        """Queue a call that had its place reserved. Nothing happens if it has ended meanwhile."""
        with self.mutex:
            refusal = self.backlog.refusal_locked(call)
            if refusal is None:
                self.backlog.place_locked(call)
        if refusal is not None:
            self.end(call, refusal)
            return
        self._worker.ensure()

    def ask(self, ticket: Ticket) -> None:
        """Queue for a permit. Raises :class:`Closed`, or why it can never be had in time."""
        raise_if_never_ready(self, ticket)
        with self.mutex:
            self.backlog.require_open_locked(ticket)
            self.backlog.put_locked(ticket)
        self._worker.ensure()

    def try_leave(self, ticket: Ticket) -> bool:
        """Let *ticket* leave in the caller's own thread, if nothing is in its way."""
        with self.mutex:
            return self._worker.commit_at_once_locked(ticket) is not None

    # -- out -------------------------------------------------------------------------------------

    def deliver(self, call: Call) -> None:
        """Put a call that left on the wire, in a sender thread."""
        self._thread_pool.run(partial(self._carry, call))

    def announce(self, dispatch: Dispatch, call: Optional[Call]) -> None:
        """Say what it means for the lane that this left. Not in the worker's thread."""
        if dispatch.resumes:
            self.observe(LaneResumed(self.name), call)
        if dispatch.probes:
            self.observe(CircuitHalfOpened(self.name), call)

    def end(self, call: Call, error: BaseException) -> None:
        """It will not be sent (again)."""
        settle(call, Outcome(error=error))

    def withdraw(self, call: Call) -> None:
        """Its future was cancelled while it waited."""
        settle(call, Outcome(error=CancelledError()))

    def forget(self, ticket: Ticket) -> None:
        """A permit is closed, or no longer waited for."""
        with self.mutex:
            ticket.ended = True
            self.backlog.take_locked(ticket)
            self.backlog.forget_deadline_locked(ticket)

    def queue_again(self, attempts: Attempt, wait_seconds: float, behind: bool = False) -> None:
        """Wait *wait_seconds*, then for another turn: at its own place, or *behind* all others.

        Raises Stopped if the call must end.
        """
        with self.mutex:
            attempts.resting = True
            due = self.now() + wait_seconds
            while attempts.stopped_by is None and self.now() < due:
                self._clock.wait(self.stopped, due - self.now())
            turn = RetryTicket(attempts)
            self.place_retry_locked(turn, attempts, behind)
        self._worker.ensure()
        turn.wait()

    def place_retry_locked(self, turn: RetryTicket, attempts: Attempt, behind: bool) -> None:
        """Queue *turn*, at the place of its call or *behind* all others.

        Raises :class:`AttemptStopped` if the call must end instead.
        """
        if behind:
            turn.tag = self.backlog.last_tag
        attempts.stopped_by = attempts.stopped_by or self.backlog.refusal_locked(turn)
        if attempts.stopped_by is not None:
            raise AttemptStopped
        attempts.turn = turn
        self.backlog.put_again_locked(turn)

    def wake(self) -> None:
        """Have the worker look again."""
        with self.mutex:
            self.backlog.not_empty.notify()

    # -- from outside ----------------------------------------------------------------------------

    def pause(self) -> None:
        """Let nothing leave until resume()."""
        with self.mutex:
            self.pacer.held_until = math.inf

    def resume(self) -> None:
        """End a pause(); a pause the server asked for goes on."""
        with self.mutex:
            self.pacer.held_until = -math.inf
            self.backlog.not_empty.notify()

    def seconds_until_leave(self, cost: Cost) -> float:
        """How long a call of that cost, put now, would wait for the quotas."""
        with self.mutex:
            now = self.now()
            return self.pacer.leaves_at(self.backlog.load, cost, now) - now

    def end_all(self, error: BaseException) -> None:
        """Refuse everything that waits in the line."""
        for ticket in self._take_all_out():
            ticket.refuse(error)

    def shut(self, why: Callable[[float], BaseException]) -> None:
        """Refuse what waits for a send, first or not, and what comes; told now in seconds.

        What is on the wire goes on, and ends with what is heard.
        """
        with self.mutex:
            self.backlog.shut_locked(why)
            waiting = self._take_all_out()
            resting = [attempts for attempts in self.out if attempts.resting]
        for attempts in resting:
            attempts.stop(why(self.now()))
        self.refuse_elsewhere(waiting, lambda _: why(self.now()))

    def refuse_elsewhere(
        self, tickets: list[Ticket], why: Callable[[Ticket], BaseException]
    ) -> None:
        """End them in other threads: a callback of theirs may wait for what this one is to end."""
        self._worker.end_elsewhere(tickets, lambda ticket: ticket.refuse(why(ticket)))

    def admit_probe(self, ticket: Ticket) -> None:
        """One that finds out whether all is well again."""
        with self.mutex:
            self.backlog.let_through_locked(ticket.number)

    def reopen(self) -> None:
        """End shut()."""
        with self.mutex:
            self.backlog.shut_locked(None)

    def _take_all_out(self) -> list[Ticket]:
        with self.mutex:
            waiting = self.backlog.waiting_locked()
            return [ticket for ticket in waiting if self.backlog.take_locked(ticket)]

    def stop_all(self, why: Callable[[Call], BaseException]) -> None:
        """End everything that is out, wherever it is."""
        with self.mutex:
            out = list(self.out)
        for attempts in out:
            attempts.stop(why(attempts.call))

    def close(self) -> None:
        """Accept no more; what was accepted goes on."""
        with self.mutex:
            self.backlog.close_locked()

    def cancel_waiting(self, error: BaseException) -> None:
        """Cancel the calls that wait for their first send; refuse what else waits."""
        with self.mutex:
            waiting = self.backlog.waiting_locked()
            resting = [attempts for attempts in self.out if attempts.resting]
        for attempts in resting:
            attempts.stop(error)
        for ticket in waiting:
            if isinstance(ticket, Call):
                ticket.future.cancel()
            elif self._take_out(ticket):
                ticket.refuse(error)

    def _take_out(self, ticket: Ticket) -> bool:
        with self.mutex:
            return self.backlog.take_locked(ticket)

    def wait_until_done(self, give_up_at: Optional[float]) -> int:
        """Wait until every accepted call has ended; return how many have not by *give_up_at*.

        A thread that is in the midst of a call itself, in a callback that closes, say, waits
        neither for that nor for others' callbacks: they may be waiting for it.
        """
        with self.mutex:
            while left := self._count_unfinished_locked():
                seconds = math.inf if give_up_at is None else give_up_at - self.now()
                if seconds <= 0:
                    break
                # Nobody tells when a future is done and only its callbacks are not.
                longest = BUSY_LOOK_SECONDS if in_progress.calls else math.inf
                self._clock.wait(self.backlog.all_tasks_done, min(seconds, longest))
            return left

    def _count_unfinished_locked(self) -> int:
        if not in_progress.calls:
            return len(self.backlog.accepted)
        others = (call for call in self.unsettled() if call not in in_progress.calls)
        return sum(not call.future.done() for call in others)

    def in_flight(self) -> int:
        """Requests on the wire."""
        return sum(not attempts.resting for attempts in list(self.out))

    def unsettled(self) -> list[Call]:
        """Every call that has not ended. Takes no lock: after a fork nobody could give it back."""
        return [ticket for ticket in list(self.backlog.accepted) if isinstance(ticket, Call)]
