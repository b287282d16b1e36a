"""Where tickets wait: a ``queue.Queue`` ordered by ``ticket_order.py``.

It shares the lane's mutex, so that the worker can look at the head, at the time and at the quotas
in one critical section. Methods whose names end in ``_locked`` require that mutex.
"""

from __future__ import annotations

import heapq
import math
import queue
import threading
from typing import Callable, Optional

from claude_throttle.core.domain.cost import NO_COST, Cost
from claude_throttle.core.queueing.ticket import Ticket
from claude_throttle.core.queueing.ticket_order import SWEEP_FROM, FairQueue, PriorityQueue
from claude_throttle.core.threads.clock import Clock, Condition
from claude_throttle.errors import THROTTLER_CLOSED, Closed


class Backlog(queue.Queue[Ticket]):
    """The waiting tickets of one lane.

    ``maxsize`` counts live calls: a cancelled one frees its place at once, a retry or a permit
    takes none. ``accepted`` holds the calls that have not ended, wherever they are.
    """

    def __init__(
        self,
        maxsize: int,
        mutex: threading.RLock,
        clock: Clock,
        ageing: Optional[float] = None,
    ) -> None:
        super().__init__(maxsize)
        # Two queues: while no slot is free, tickets that may be lent one need not wait behind
        # those that need their own.
        self._needing, self._lendable = PriorityQueue(ageing), PriorityQueue(ageing)
        #: The priorities in which tickets are queued, of both; nothing is queued if none has any.
        # Not by the load: a signal handler that interrupts a put and submits falsifies that.
        self.waiting_priorities = (self._needing.since, self._lendable.since)
        self._shares = FairQueue()
        # The lane's mutex. Guards everything here, and is never held while calling out.
        self.mutex = mutex  # type: ignore[assignment]
        # Notified when the head changes; the worker waits there.
        self.not_empty = Condition(mutex)
        # Notified when a call leaves or is withdrawn; blocked puts wait there.
        self.not_full = Condition(mutex)
        # Notified when a call has ended, if drain() waits there.
        self.all_tasks_done = Condition(mutex)
        #: Threads that wait for all_tasks_done. Guarded by the mutex.
        self.drainers = 0
        #: Threads that wait for not_full.
        self._blocked = 0
        self.closed = False
        #: Why nothing new may be queued, if nothing may; called with the time in seconds.
        self.suspended: Optional[Callable[[float], BaseException]] = None
        #: Numbers of the tickets that may be queued nevertheless.
        self._probes: set[int] = set()
        self._clock = clock

    def _init(self, maxsize: int) -> None:  # noqa: ARG002 - queue.Queue's own signature
        #: (instant, number, ticket): the tickets with a deadline, as a heap.
        self.deadlines: list[tuple[float, int, Ticket]] = []
        self._ended = 0
        self.calls = 0
        # A set, not a count: Ctrl-C may end a submit between any two steps, and what was done
        # must be undone exactly once.
        self.accepted: set[Ticket] = set()
        #: What all that waits will cost together.
        self.load = NO_COST

    def _qsize(self) -> int:
        return self.calls

    def _get(self) -> Ticket:
        now = self._clock.monotonic()
        head = self.head_locked(now)
        if head is None:  # only calls count, so there is one
            raise queue.Empty
        self.leave_locked(head, now)
        return head

    # -- in --------------------------------------------------------------------------------------

    def put(self, item: Ticket, block: bool = True, timeout: Optional[float] = None) -> None:
        """Queue a call. Raises ``queue.Full``, or :class:`Closed`; *timeout* is in seconds."""
        self.reserve(item, block, timeout)
        self.place(item)

    def reserve(self, ticket: Ticket, block: bool = True, timeout: Optional[float] = None) -> None:
        """Count a call before it is queued: in between, CallQueued is emitted for it.

        Otherwise CallSent could come first. Raises as put() does.
        """
        give_up_at = None if timeout is None else self._clock.monotonic() + timeout
        with self.mutex:
            while not self.closed and 0 < self.maxsize <= self.calls:
                self._wait_for_place_locked(block, give_up_at)
            if self.closed:
                self.require_open_locked()
            self.accepted.add(ticket)
            ticket.reserved = ticket.takes_place = True
            self.calls += 1

    def _wait_for_place_locked(self, block: bool, give_up_at: Optional[float]) -> None:
        seconds = None if give_up_at is None else give_up_at - self._clock.monotonic()
        if not block or (seconds is not None and seconds <= 0):
            raise queue.Full
        self._blocked += 1
        try:
            self._clock.wait(self.not_full, seconds)
        finally:
            self._blocked -= 1

    def place(self, ticket: Ticket) -> None:
        """Queue a call that was reserved. Raises :class:`Closed`, or why it may not be queued."""
        with self.mutex:
            if self.closed or self.suspended is not None:
                self.require_open_locked(ticket)
            if ticket.reserved:
                ticket.reserved = False
                self.put_locked(ticket)

    def place_locked(self, ticket: Ticket) -> None:
        """Queue a call that was reserved, closed or not; nothing if it was taken out meanwhile."""
        if ticket.reserved:
            ticket.reserved = False
            self.put_locked(ticket)

    def put_locked(self, ticket: Ticket) -> None:
        """Queue a ticket, charged to its tenant."""
        self._shares.assign_tag(ticket)
        self.put_again_locked(ticket)

    def put_again_locked(self, ticket: Ticket) -> None:
        """Queue a ticket by the tag it has: a retry was paid for as its call."""
        ticket.queued = True
        self.load = self.load.plus(ticket.cost)
        is_head = self._queue_of(ticket).push(ticket, self._clock.monotonic())
        if ticket.deadline is not None:
            self.watch_deadline_locked(ticket)
        if is_head:
            self.not_empty.notify()

    def watch_deadline_locked(self, ticket: Ticket) -> None:
        """Have the worker end it in time, wherever it is then."""
        if ticket.deadline is not None:
            heapq.heappush(self.deadlines, (ticket.deadline, ticket.number, ticket))
            if self.deadlines[0][2] is ticket:
                self.not_empty.notify()

    def give_up(self, ticket: Ticket) -> None:
        """Undo reserve() and place(), however far they came."""
        with self.mutex:
            if ticket.has_left or ticket not in self.accepted:
                return  # its sender will end it
            self.take_locked(ticket)
        self.forget(ticket)

    def forget(self, ticket: Ticket) -> None:
        """Note that a call has come to its end, future included: drain() need not wait for it."""
        if ticket.takes_place:  # Ctrl-C came as it was taken out
            with self.mutex:
                self._free_place_locked(ticket)
        self.accepted.discard(ticket)
        # Those that wait count themselves first, and look at what is accepted then.
        if self.drainers:
            with self.mutex:
                self.all_tasks_done.notify_all()

    def _free_place_locked(self, ticket: Ticket) -> None:
        if ticket.takes_place:
            # With no call in between: there Ctrl-C could come, and the count would be wrong.
            ticket.takes_place = False
            self.calls -= 1
            if self._blocked:
                self.not_full.notify()

    def _queue_of(self, ticket: Ticket) -> PriorityQueue:
        return self._needing if ticket.parent_slot is None else self._lendable

    def reprice_locked(self, ticket: Ticket, cost: Cost) -> None:
        """A waiting ticket will cost *cost*, by what is known now."""
        self.load = self.load.plus(cost).minus(ticket.cost)
        ticket.cost = cost

    # -- whether anything may be queued ----------------------------------------------------------

    def require_open_locked(self, ticket: Optional[Ticket] = None) -> None:
        """Raise :class:`Closed` once no more is accepted, or why *ticket* is not."""
        if self.closed:
            raise Closed(THROTTLER_CLOSED)
        refusal = None if ticket is None else self.refusal_locked(ticket)
        if refusal is not None:
            raise refusal

    def suspend_locked(self, why: Optional[Callable[[float], BaseException]]) -> None:
        """Queue nothing from now on, retries included; None ends that."""
        self.suspended = why
        self._probes = set()

    def admit_probe_locked(self, number: int) -> None:
        """Queue the ticket of that number nevertheless: it finds out whether all is well."""
        if self.suspended is not None:
            self._probes.add(number)

    def refusal_locked(self, ticket: Ticket) -> Optional[BaseException]:
        """Why *ticket* may not be queued; None if it may."""
        if self.suspended is None or ticket.number in self._probes:
            return None
        return self.suspended(self._clock.monotonic())

    # -- look ------------------------------------------------------------------------------------

    def look_again_locked(self) -> None:
        """Have the worker look at the head again, if there is one."""
        if self._needing.since or self._lendable.since:
            self.not_empty.notify()

    @property
    def last_tag(self) -> float:
        """The tag of a place behind all that wait now."""
        return self._shares.latest

    def head_locked(self, now: float, most: float = math.inf) -> Optional[Ticket]:
        """The next ticket; a free slot is for priorities of *most* or less, a lent one for any.

        What has been at the head is not overtaken by newcomers of its own priority.
        """
        needing = self._needing.head(now, most) if self._needing.since else None
        lendable = self._lendable.head(now, math.inf) if self._lendable.since else None
        first = needing if lendable is None else lendable
        if first is None:
            return None
        if needing is not None and lendable is not None:
            first = min(needing, lendable)
        head = first[-1]
        self._shares.note_head(head)
        return head

    def costs_behind_locked(self, head: Ticket, most: int) -> list[Cost]:
        """The costs of the first few tickets behind *head*, of its own priority; *most* at most."""
        ahead = self._queue_of(head).first_of(head.priority, most + 1)
        return [ticket.cost for ticket in ahead if ticket is not head][:most]

    def next_deadline_locked(self) -> Optional[float]:
        """The earliest instant at which a ticket's time is up."""
        while self.deadlines and self.deadlines[0][2].ended:
            heapq.heappop(self.deadlines)
        return self.deadlines[0][0] if self.deadlines else None

    def waiting_locked(self) -> list[Ticket]:
        """All tickets that wait, in no order; reserved calls, too."""
        # A copy, which is made in one step: forget() takes calls out without the mutex.
        reserved = [ticket for ticket in list(self.accepted) if ticket.reserved]
        return self._needing.waiting() + self._lendable.waiting() + reserved

    # -- out -------------------------------------------------------------------------------------

    def leave_locked(self, ticket: Ticket, now: float) -> None:
        """Take a ticket out because it leaves; no matter if it was never queued."""
        waiting = self._needing if ticket.parent_slot is None else self._lendable
        waiting.note_leave(ticket.priority, now)
        if ticket.reserved or ticket.queued:
            self._take_out_locked(ticket, waiting, self._shares.note_leave)

    def take_locked(self, ticket: Ticket) -> bool:
        """Take a ticket out; False if it does not wait here any more."""
        return self._take_out_locked(ticket, self._queue_of(ticket), self._shares.uncharge)

    def _take_out_locked(
        self, ticket: Ticket, waiting: PriorityQueue, account: Callable[[Ticket], None]
    ) -> bool:
        if ticket.reserved:
            ticket.reserved = False
            self._free_place_locked(ticket)
            return True
        if not ticket.queued:
            return False
        ticket.queued = False
        self.load = self.load.minus(ticket.cost)
        if ticket.takes_place:
            self._free_place_locked(ticket)
        waiting.remove(ticket)
        needing, lendable = self._needing.since, self._lendable.since
        if ticket.priority in needing or ticket.priority in lendable:
            account(ticket)
        else:
            self._shares.forget(ticket.priority)
        if not needing and not lendable:
            self.load = NO_COST  # sums of floats drift
        return True

    def take_all(self) -> list[Ticket]:
        """Take out everything that waits."""
        with self.mutex:
            return [ticket for ticket in self.waiting_locked() if self.take_locked(ticket)]

    def take_due_locked(self, now: float) -> list[Ticket]:
        """Forget and return the tickets whose deadline has passed, queued or not."""
        due = []
        while self.deadlines and self.deadlines[0][0] <= now:
            due.append(heapq.heappop(self.deadlines)[2])
        return due

    def forget_deadline_locked(self, ticket: Ticket) -> None:
        """A ticket has come to its end: its deadline must not keep it in memory for long."""
        self._ended += ticket.deadline is not None
        if self._ended > SWEEP_FROM + len(self.deadlines) // 2:
            self._ended = 0
            self.deadlines = [entry for entry in self.deadlines if not entry[2].ended]
            heapq.heapify(self.deadlines)

    # -- end -------------------------------------------------------------------------------------

    def close_locked(self) -> None:
        """Accept no more, and wake the puts that wait for a place."""
        self.closed = True
        self.not_full.notify_all()
        self.not_empty.notify()
