"""The thread that lets calls leave, one by one.

Permit first, then time: the worker waits until there is a head and a free slot, asks the pacer
when that head may leave, waits, looks again, and commits in the instant of leaving. It holds no
reservation while it waits, so a more urgent arrival, a cancel, a settlement or a pause costs
nothing. What has accrued for a large head stays with it: no ticket of its own priority overtakes.

While nothing waits, a call need not wait for this thread either: it may leave in its caller's.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
from collections import deque
from functools import partial
from operator import methodcaller
from typing import Callable, Optional

from claude_throttle.core.dispatch.waited_for import waited_for
from claude_throttle.core.domain.cost import Cost
from claude_throttle.core.domain.feedback import RESERVATION, Decision
from claude_throttle.core.domain.ports import HeldSlot, Step
from claude_throttle.core.pacing.concurrency_limiter import ConcurrencyLimiter
from claude_throttle.core.pacing.pacer import Pacer
from claude_throttle.core.queueing.backlog import Backlog
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.core.threads.clock import Clock
from claude_throttle.core.threads.thread_pool import ThreadPool
from claude_throttle.errors import Closed

logger = logging.getLogger("claude_throttle")

#: Seconds before a thread that could not be started is tried again.
RESTART_SECONDS = 0.1

#: Seconds after which a worker with nothing to do ends; the next submit starts another.
IDLE_SECONDS = 60.0

#: Seconds between looks while no slot is free: the garbage collector may have given one back
#: without a notification, and the limit may grow by time alone.
SLOT_LOOK_SECONDS = 0.25

#: Sender threads that end tickets whose time is up, however many those are.
MOST_ENDING = 32


class Worker:
    """One thread for one lane, started when it is needed. The lane's mutex guards its state."""

    def __init__(
        self,
        name: str,
        backlog: Backlog,
        pacer: Pacer,
        limiter: ConcurrencyLimiter,
        thread_pool: ThreadPool,
        clock: Clock,
        price: Callable[[Ticket], Cost],
        price_version: Callable[[], int],
        reserve: Callable[[list[Cost]], None],
    ) -> None:
        """*price*: what a ticket will cost by what is known now; *price_version* changes with it.

        *reserve* reserves costs in a shared store; it blocks.
        """
        self._name = name
        self._backlog = backlog
        self._mutex = backlog.mutex
        #: Truthy, if any is, while something is queued.
        self._waiting = backlog.waiting_priorities
        self._pacer = pacer
        self._limiter = limiter
        self._thread_pool = thread_pool
        self._clock = clock
        self._price = price
        self._price_version = price_version
        self._reserve = reserve
        self._pid = os.getpid()
        #: Guarded by the lane's mutex.
        self._thread: Optional[threading.Thread] = None
        #: Threads that were this worker, and have a call of their own to bring to its end first;
        #: by their identifiers. Guarded by the same.
        self._relieved: set[int] = set()
        #: A sender is about to start the thread. Guarded by the same.
        self._start_is_due = False
        #: A ticket is about to leave. Guarded by the mutex, too: the garbage collector or a signal
        #: handler may interrupt a commit and submit; it must not take what was just found free.
        self._committing = False
        #: The ticket being looked at; it fails if the worker raises. The worker thread's own.
        self._looking_at: Optional[Ticket] = None
        #: What the pacer decided last.
        self._decision = Decision(-math.inf, "")

    # -- the thread ------------------------------------------------------------------------------

    def ensure_thread(self) -> None:
        """Start the thread unless it runs."""
        if self._thread is not None:
            return
        with self._mutex:
            if self._has_thread_locked():
                return
            # A daemon: an exit hook, not a join, lets it finish its work.
            name = f"claude-throttle-worker-{self._name}"
            thread = self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._start(thread)

    def ensure_other_thread(self) -> None:
        """Start the thread unless another than this one runs: this one is about to wait for it.

        Where no sender could be started, the worker's thread sends a call itself.
        """
        me = threading.current_thread()
        with self._mutex:
            if self._thread is me:
                self._relieved.add(threading.get_ident())
                self._thread = None
        self.ensure_thread()

    def _has_thread_locked(self) -> bool:
        return self._thread is not None

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except BaseException as error:
            if thread.ident is None:  # Ctrl-C may come when it has started already
                with self._mutex:
                    self._thread = None
            if not isinstance(error, RuntimeError):
                raise
            if self._thread_pool.threads and not sys.is_finalizing() and "shut" not in str(error):
                self._start_later()
            else:
                self.reject_all(Closed(f"no worker thread can be started any more ({error})"))

    def _start_later(self) -> None:
        """The machine has no thread left just now: have a sender try again."""
        with self._mutex:
            is_due, self._start_is_due = self._start_is_due, True
        if not is_due:
            self._thread_pool.run(self._start_again)

    def _start_again(self) -> None:
        with self._mutex:
            self._clock.wait(self._backlog.not_empty, RESTART_SECONDS)
            self._start_is_due = False
            self._backlog.not_empty.notify()  # it may have been for a worker that runs by now
            waiting = self._backlog.waiting_locked()
        if waiting:
            self.ensure_thread()

    def _work(self) -> None:
        while True:
            try:
                step = self._wait_for_step()
                if step is None:
                    return
                step()
                del step  # or it would keep the last call alive until the next one leaves
            except BaseException as error:
                logger.exception("the worker of lane %s met a bug", self._name)
                self._reject_after_bug(error)

    def _wait_for_step(self) -> Optional[Step]:
        """Wait until there is something to do; None if there was nothing for IDLE_SECONDS."""
        idle_since = self._clock.monotonic()
        with self._mutex:
            if self._relieved and self._was_relieved_locked():
                return None
            # Greenlets survive a fork: the copy in the child must let nothing leave.
            while self._pid == os.getpid():
                now = self._clock.monotonic()
                step = self.next_step_locked(now)
                if step is not None:
                    return step
                wake_at = self.wake_at_locked(now)
                if self._thread_pool.left_over:
                    longest = math.inf if wake_at is None else wake_at - now
                    self._clock.wait(self._backlog.not_empty, min(longest, RESTART_SECONDS))
                    return self._thread_pool.start_left_over
                if wake_at is None:
                    wake_at = idle_since + IDLE_SECONDS
                    if self._backlog.closed or wake_at <= now:
                        self._thread = None
                        return None
                self._clock.wait(self._backlog.not_empty, wake_at - now)
        return None

    def _was_relieved_locked(self) -> bool:
        """Whether another thread is the worker now. If none could be started, this one is again."""
        if threading.get_ident() not in self._relieved:
            return False
        self._relieved.remove(threading.get_ident())
        if self._thread is None:
            self._thread = threading.current_thread()
        return self._thread is not threading.current_thread()

    def wake(self) -> None:
        """Have the worker look again. Call it with no mutex held, or with this lane's."""
        with self._mutex:
            self._backlog.not_empty.notify()

    # -- what is to be done, without a thread ----------------------------------------------------

    def next_step_locked(self, now: float) -> Optional[Step]:
        """What is to be done at *now*, to be called with the mutex released; None: wait."""
        self._looking_at = None
        deadlines = self._backlog.deadlines
        due = self._take_due_locked(now) if deadlines and deadlines[0][0] <= now else None
        if due:
            return self._expire_locked(due, now)
        head = self._looking_at = self._head_locked(now) if any(self._waiting) else None
        if head is None:
            return None
        if head.price_version is not None and head.price_version != self._price_version():
            self._reprice_locked(head)
        step = self.commit_locked(head, now)
        if step is None and self._decision.constraint is RESERVATION:
            ahead = partial(self._costs_behind_locked, head)
            costs = self._pacer.needs_reservation(head.cost, ahead, now)
            return None if costs is None else partial(self._reserve, costs)
        return step

    def _expire_locked(self, due: list[Ticket], now: float) -> Step:
        # The first of each priority stands for all: thousands may be due in one instant.
        first = {ticket.priority: ticket for ticket in reversed(due)}
        parts = self._pacer, self._limiter, self._backlog, now
        why = {priority: waited_for(ticket, *parts) for priority, ticket in first.items()}
        return partial(self.end_elsewhere, due, lambda ticket: ticket.expire(why[ticket.priority]))

    def wake_at_locked(self, now: float) -> Optional[float]:
        """The next instant at which next_step_locked() may find something; None if idle."""
        wake_at = self._backlog.next_deadline_locked() if self._backlog.deadlines else None
        if self._looking_at is not None:
            # If it is ready, yet not gone, another lane took the last slot.
            ready_at = self._decision.ready_at
            look_at = ready_at if ready_at > now else now + SLOT_LOOK_SECONDS
        elif any(self._waiting):
            look_at = now + SLOT_LOOK_SECONDS
        else:
            return wake_at
        return look_at if wake_at is None else min(wake_at, look_at)

    def _take_due_locked(self, now: float) -> list[Ticket]:
        due = self._backlog.take_due_locked(now)
        # A call is due wherever it is; any other ticket only while it waits.
        due = [ticket for ticket in due if not ticket.ended and (ticket.queued or ticket.is_call)]
        for ticket in due:
            self._backlog.take_locked(ticket)
        return due

    def _head_locked(self, now: float) -> Optional[Ticket]:
        most = self._limiter.admissible_priority(now)
        if most < math.inf:
            # Ask to be woken first, then look again: a slot given back in between would be missed.
            self._limiter.notify_when_free(self.wake)
            most = self._limiter.admissible_priority(now)
        return self._backlog.head_locked(now, most)

    def _reprice_locked(self, head: Ticket) -> None:
        """Price the head again: the estimator learned something since."""
        head.price_version = self._price_version()
        self._backlog.reprice_locked(head, self._price(head))

    def _costs_behind_locked(self, head: Ticket, most: int) -> list[Cost]:
        free = self._limiter.limit - self._limiter.in_use - 1  # one is the head's
        return self._backlog.costs_behind_locked(head, int(max(0, min(most, free))))

    # -- a ticket leaves -------------------------------------------------------------------------

    def try_send(self, call: Ticket) -> bool:
        """Let a reserved call leave in its caller's thread; False if it must wait.

        That saves it the way through this thread, a tenth of a millisecond. There must be a worker
        all the same, to watch the deadline, and an idle sender: submit() starts no thread for the
        transport. Raises :class:`Closed`.
        """
        if any(self._waiting) or not self._thread_pool.idle:
            return False
        with self._mutex:
            if self._backlog.closed or self._backlog.suspended is not None:
                self._backlog.require_open_locked(call)
            if self._thread is None or self._committing or not call.reserved:
                return False
            step = self.commit_at_once_locked(call)
            if step is None:
                return False
            call.tag = self._backlog.last_tag
            self._backlog.watch_deadline_locked(call)
        step()
        return True

    def commit_at_once_locked(self, ticket: Ticket) -> Optional[Step]:
        """Let *ticket* leave before it is queued, if nothing waits; None if it must queue."""
        if self._backlog.closed or any(self._waiting):
            return None
        now = self._clock.monotonic()
        if ticket.price_version is not None and ticket.price_version != self._price_version():
            ticket.price_version = self._price_version()
            ticket.cost = self._price(ticket)
        return self.commit_locked(ticket, now)

    def commit_locked(self, ticket: Ticket, now: float) -> Optional[Step]:
        """Let *ticket* leave if it may, in this instant; None if it has to wait."""
        slot: Optional[HeldSlot] = None
        self._committing = True
        try:
            decision = self._decision = self._pacer.decide(ticket.cost, now)
            if decision.ready_at > now:
                return None
            if ticket.parent_slot is not None:
                slot = ticket.parent_slot.try_lend()
            if slot is None:
                slot = self._limiter.try_acquire(ticket.priority, now)
            if slot is None:
                return None
            if not ticket.claim():  # cancelled a moment ago
                self._backlog.take_locked(ticket)
                return partial(self._drop, ticket, slot)
            self._backlog.leave_locked(ticket, now)
            dispatch = self._pacer.take(ticket.cost, now, ticket.reports_outcome)
            ticket.grant_locked(dispatch, slot)
            return ticket.proceed
        except BaseException:  # a bug, or Ctrl-C in a caller's thread
            if slot is not None and not ticket.has_left:
                slot.release_nowait()
            slot = None  # the traceback keeps what is here, and so would keep it taken
            raise
        finally:
            self._committing = False

    # -- a ticket does not leave -----------------------------------------------------------------

    def _drop(self, ticket: Ticket, slot: HeldSlot) -> None:
        slot.release()
        self.end_elsewhere([ticket], methodcaller("finish_cancel"))

    def end_elsewhere(self, tickets: list[Ticket], end: Callable[[Ticket], None]) -> None:
        """End *tickets* in sender threads: a done-callback may wait for what this thread ends."""
        # Several threads at once, since a done-callback may wait for another one of them.
        shared = deque(tickets)
        for _ in range(min(len(tickets), MOST_ENDING)):
            self._thread_pool.run(partial(_end_each, shared, end))

    def reject_all(self, error: BaseException) -> None:
        """Reject everything that waits in the backlog, in this thread."""
        for ticket in self._backlog.take_all():
            ticket.reject(error)

    def _reject_after_bug(self, error: BaseException) -> None:
        """A bug met while looking at a ticket ends that ticket; met elsewhere, all of them."""
        ticket = self._looking_at
        if ticket is None:
            self._thread_pool.run(partial(self.reject_all, error))
            return
        with self._mutex:
            self._backlog.take_locked(ticket)
        try:
            self._thread_pool.run(partial(ticket.reject, error))
        except BaseException:  # noqa: BLE001 - no thread can be had: then in this one
            ticket.reject(error)


def _end_each(due: deque[Ticket], end: Callable[[Ticket], None]) -> None:
    """End the tickets that *due* still holds; several threads may share it."""
    while due:
        try:
            end(due.popleft())
        except IndexError:
            return  # another sender took the last one
        except BaseException:
            logger.exception("ending a call that may not wait any longer failed")
