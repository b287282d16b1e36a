"""One lane per rate-limit bucket: what waits, what is out, and one pace for both.

A lane owns a backlog, a worker and a pacer; permits and senders are shared by all lanes. One
model's exhausted quota never holds up another's calls.
"""

from __future__ import annotations

import math
import threading
from functools import partial
from typing import Callable, Optional

from claude_throttle.flow.attempts import Attempts, RetryTurn, Stopped
from claude_throttle.flow.backlog import Backlog
from claude_throttle.flow.call import Call
from claude_throttle.flow.clock import Clock
from claude_throttle.flow.condition import Condition
from claude_throttle.flow.cost import NO_COST, Cost
from claude_throttle.flow.events import CallQueued, Event
from claude_throttle.flow.rooms import Pacer, Permits
from claude_throttle.flow.senders import Senders
from claude_throttle.flow.settlement import Outcome, busy, busy_with, settle, settle_cancelled
from claude_throttle.flow.ticket import Ticket
from claude_throttle.flow.worker import Worker

#: Seconds between looks of a busy thread at the futures it waits for.
BUSY_LOOK_SECONDS = 0.05


class Lane:
    """One queue, one worker, one pace. All methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        *,
        pacer: Pacer,
        permits: Permits,
        senders: Senders,
        carry: Callable[[Call], None],
        observe: Callable[[Event, Call], None],
        max_queue: int,
        clock: Clock,
    ) -> None:
        self.name = name
        self.pacer = pacer
        self.observe = observe
        # Guards the backlog, the pacer, who is out, and the worker's existence. Held for
        # arithmetic only: never while waiting, sending, logging or calling out.
        # Reentrant: the garbage collector, or a signal handler, may come in the midst of it and
        # cancel a future or ask for stats.
        self.mutex = threading.RLock()
        self.backlog = Backlog(max_queue, self.mutex, clock)
        # Notified when calls are stopped; retries that wait out a delay wait there.
        self.stopped = Condition(self.mutex)
        self.out: set[Attempts] = set()
        self.now = clock.monotonic
        self._senders = senders
        self._carry = carry
        self._clock = clock
        self._worker = Worker(self, permits, senders, clock)

    # -- in --------------------------------------------------------------------------------------

    def put(self, call: Call, block: bool, timeout: Optional[float]) -> None:
        """Queue a call, and say so. Raises ``queue.Full`` or :class:`Closed`."""
        try:
            self.backlog.reserve(call, block, timeout)
            with busy_with(call):
                self.observe(CallQueued(call.number, call.model, self.backlog.calls), call)
            self.backlog.place(call)
            self._worker.ensure()
        except BaseException:  # Closed, Full, or Ctrl-C anywhere: the caller gets no future
            self.backlog.give_up(call)
            raise

    def ask(self, ticket: Ticket) -> None:
        """Queue for a permit. Raises :class:`Closed`."""
        with self.mutex:
            self.backlog.require_open_locked()
            self.backlog.put_again_locked(ticket)
        self._worker.ensure()

    def try_leave(self, ticket: Ticket) -> bool:
        """Let *ticket* leave in the caller's own thread, if nothing is in its way."""
        with self.mutex:
            now = self.now()
            if self.backlog.closed or self.backlog.head_locked(permit_free=True) is not None:
                return False
            return self._worker.commit_locked(ticket, now) is not None

    # -- out -------------------------------------------------------------------------------------

    def deliver(self, call: Call) -> None:
        """Put a call that left on the wire, in a sender thread."""
        self._senders.run(partial(self._carry, call))

    def end(self, call: Call, error: BaseException) -> None:
        """It will not be sent (again)."""
        settle(call, Outcome(error=error))

    def withdraw(self, call: Call) -> None:
        """Its future was cancelled while it waited."""
        settle_cancelled(self, call)

    def close_account(self, call: Call, actual: Optional[Cost]) -> None:
        """Settle what a call took from the quotas; *actual* None leaves its estimate booked."""
        attempts = call.attempts
        with self.mutex:
            self.backlog.take_locked(call)
            self.backlog.forget_deadline_locked(call)
            if attempts is None:
                return
            self.out.discard(attempts)
            if actual is not None:
                self._correct_locked(attempts.held, actual, attempts.booked_at)

    def _correct_locked(self, held: Cost, actual: Cost, booked_at: float) -> None:
        if self.pacer.settle(held, actual, booked_at):
            self.backlog.not_empty.notify()  # the head may leave earlier now

    def return_permit(self, attempts: Attempts) -> None:
        """Give back the permit of an attempt that has ended; idempotent."""
        with self.mutex:
            lender, attempts.lender = attempts.lender, None
        if lender is not None:
            lender.give_back()
            if attempts.call.rides is not None:
                self.wake()  # others may wait for the same ride

    def settle_permit(self, held: Cost, actual: Cost, booked_at: float) -> None:
        """Correct what a permit booked."""
        with self.mutex:
            self._correct_locked(held, actual, booked_at)

    def forget(self, ticket: Ticket) -> None:
        """A permit is closed, or no longer waited for."""
        with self.mutex:
            ticket.ended = True
            self.backlog.take_locked(ticket)
            self.backlog.forget_deadline_locked(ticket)

    def give_back(self, attempts: Attempts, keep_tokens: bool) -> None:
        """Return a refused attempt's permit, and its tokens unless the server may count them."""
        if not keep_tokens:
            with self.mutex:
                spent = Cost(attempts.held.requests, 0.0, 0.0)
                self._correct_locked(attempts.held, spent, attempts.booked_at)
                attempts.held = spent
        self.return_permit(attempts)

    def queue_again(self, attempts: Attempts, wait_seconds: float) -> None:
        """Wait *wait_seconds*, then for another turn. Raises Stopped if the call must end."""
        kept = attempts.held.tokens > 0
        cost = NO_COST._replace(requests=1.0) if kept else attempts.call.cost
        with self.mutex:
            attempts.resting = True
            due = self.now() + wait_seconds
            while attempts.stopped_by is None and self.now() < due:
                self._clock.wait(self.stopped, due - self.now())
            if attempts.stopped_by is not None:
                raise Stopped
            turn = attempts.turn = RetryTurn(attempts, cost)
            self.backlog.put_again_locked(turn)
        self._worker.ensure()
        turn.wait()

    def wake(self) -> None:
        """Have the worker look again."""
        with self.mutex:
            self.backlog.not_empty.notify()

    # -- from outside ----------------------------------------------------------------------------

    def pause_for(self, seconds: float) -> float:
        """Let nothing leave for *seconds* plus jitter; returns what remains of the pause."""
        with self.mutex:
            return self.pacer.pause_for(seconds, self.now())

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
        """Refuse everything that waits."""
        with self.mutex:
            waiting = self.backlog.waiting_locked()
            for ticket in waiting:
                self.backlog.take_locked(ticket)
        for ticket in waiting:
            ticket.refuse(error)

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
                longest = BUSY_LOOK_SECONDS if busy.calls else math.inf
                self._clock.wait(self.backlog.all_tasks_done, min(seconds, longest))
            return left

    def _count_unfinished_locked(self) -> int:
        if not busy.calls:
            return len(self.backlog.accepted)
        others = (call for call in self.unsettled() if call not in busy.calls)
        return sum(not call.future.done() for call in others)

    def in_flight(self) -> int:
        """Requests on the wire."""
        return sum(not attempts.resting for attempts in list(self.out))

    def unsettled(self) -> list[Call]:
        """Every call that has not ended. Takes no lock: after a fork nobody could give it back."""
        return [ticket for ticket in list(self.backlog.accepted) if isinstance(ticket, Call)]
