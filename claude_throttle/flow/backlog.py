"""Where calls wait: a ``queue.Queue`` ordered by priority, tag and number.

It shares the lane's mutex, so that the worker can look at the head, at the time and at the quotas
in one critical section. Methods whose names end in ``_locked`` require that mutex.
"""

from __future__ import annotations

import heapq
import operator
import queue
import threading
from typing import Optional

from claude_throttle.errors import Closed
from claude_throttle.flow.clock import Clock
from claude_throttle.flow.condition import Condition
from claude_throttle.flow.cost import NO_COST, Cost
from claude_throttle.flow.ticket import Ticket

#: (priority, tag, number, ticket). The number is unique, so two tickets are never compared.
Entry = tuple[int, float, int, Ticket]

#: A heap with fewer dead entries than this is not worth sweeping.
SWEEP_FROM = 64


class Backlog(queue.Queue[Ticket]):
    """The waiting tickets of one lane.

    ``maxsize`` counts live calls: a cancelled one frees its place at once, a retry or a permit
    takes none. ``accepted`` holds the calls that have not been settled, wherever they are.
    """

    def __init__(self, maxsize: int, mutex: threading.RLock, clock: Clock) -> None:
        super().__init__(maxsize)
        # The lane's mutex. Guards everything here, and is never held while calling out.
        self.mutex = mutex  # type: ignore[assignment]
        # Notified when the head changes; the worker waits there.
        self.not_empty = Condition(mutex)
        # Notified when a call leaves or is withdrawn; blocked puts wait there.
        self.not_full = Condition(mutex)
        # Notified when the last call is settled; drain() waits there.
        self.all_tasks_done = Condition(mutex)
        self.closed = False
        self._clock = clock

    def _init(self, maxsize: int) -> None:  # noqa: ARG002 - queue.Queue's own signature
        # Two heaps: while no permit is free the riders must not wait behind those who need one.
        self._heaps: tuple[list[Entry], list[Entry]] = ([], [])
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._dead = 0
        self._ended = 0
        self.calls = 0
        # A set, not a count: Ctrl-C may end a submit between any two steps, and what was done
        # must be undone exactly once.
        self.accepted: set[Ticket] = set()
        #: What all that waits will cost together.
        self.load = NO_COST

    def _qsize(self) -> int:
        return self.calls

    def _put(self, item: Ticket) -> None:
        self.put_again_locked(item)

    def _get(self) -> Ticket:
        head = self.head_locked(permit_free=True)
        if head is None:  # only calls count, so there is one
            raise queue.Empty
        self.take_locked(head)
        return head

    # -- in ------------------------------------------------------------------------------------

    def put(self, item: Ticket, block: bool = True, timeout: Optional[float] = None) -> None:
        """Queue a call. Raises ``queue.Full``, or :class:`Closed`; *timeout* is in seconds."""
        self.reserve(item, block, timeout)
        self.place(item)

    def reserve(self, ticket: Ticket, block: bool = True, timeout: Optional[float] = None) -> None:
        """Take a place in the count before taking one in the line, so that there is time between
        the two to say that the call was queued, and nobody can say earlier that it was sent."""
        give_up_at = None if timeout is None else self._clock.monotonic() + timeout
        with self.mutex:
            while not self.closed and 0 < self.maxsize <= self.calls:
                self._wait_for_place_locked(block, give_up_at)
            self.require_open_locked()
            self.accepted.add(ticket)
            self.calls += 1

    def place(self, ticket: Ticket) -> None:
        """Take the reserved place. Raises :class:`Closed`, and gives it up, if that came first."""
        with self.mutex:
            self.require_open_locked()
            self._put(ticket)

    def give_up(self, ticket: Ticket) -> None:
        """Undo reserve() and place(), however far they came."""
        with self.mutex:
            if ticket.out or ticket not in self.accepted:
                return  # it has left: its sender will settle it
            if not self.take_locked(ticket):
                self.calls -= 1
                self.not_full.notify()
            self._settled_locked(ticket)

    def settled(self, ticket: Ticket) -> None:
        """A call has come to its end, future and all."""
        with self.mutex:
            self._settled_locked(ticket)

    def _settled_locked(self, ticket: Ticket) -> None:
        self.accepted.discard(ticket)
        self.all_tasks_done.notify_all()

    def require_open_locked(self) -> None:
        """Raise :class:`Closed` once no more is accepted."""
        if self.closed:
            raise Closed("the throttler is closed; make a new one to go on")

    def _wait_for_place_locked(self, block: bool, give_up_at: Optional[float]) -> None:
        seconds = None if give_up_at is None else give_up_at - self._clock.monotonic()
        if not block or (seconds is not None and seconds <= 0):
            raise queue.Full
        self._clock.wait(self.not_full, seconds)

    def put_again_locked(self, ticket: Ticket) -> None:
        """Take a place that needs none of ``maxsize``: for a retry, or a permit."""
        heap = self._heaps[ticket.rides is not None]
        entry = (int(ticket.priority), ticket.tag, ticket.number, ticket)
        ticket.queued = True
        self.load = Cost(*map(operator.add, self.load, ticket.cost))
        heapq.heappush(heap, entry)
        is_head = heap[0] is entry
        if ticket.deadline is not None:
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.number, ticket))
            is_head = is_head or self._deadlines[0][2] is ticket
        if is_head:
            self.not_empty.notify()

    # -- look ----------------------------------------------------------------------------------

    def head_locked(self, permit_free: bool) -> Optional[Ticket]:
        """Who is next; while no permit is free, only those who ride on one."""
        needing, riding = (self._top_locked(heap) for heap in self._heaps)
        if needing is None or riding is None or not permit_free:
            entry = (needing or riding) if permit_free else riding
        else:
            entry = min(needing, riding)
        return entry[3] if entry is not None else None

    def _top_locked(self, heap: list[Entry]) -> Optional[Entry]:
        # Pop first, then look: the collector or a signal handler may come between any two steps,
        # and change the heap in this same thread.
        while heap:
            entry = heapq.heappop(heap)
            if entry[3].queued:
                heapq.heappush(heap, entry)
                return entry
            self._dead -= 1
        return None

    def next_deadline_locked(self) -> Optional[float]:
        """The earliest instant at which somebody's time is up."""
        while self._deadlines and self._deadlines[0][2].ended:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def waiting_locked(self) -> list[Ticket]:
        """All that wait, in no order."""
        return [entry[3] for heap in self._heaps for entry in heap if entry[3].queued]

    # -- out -----------------------------------------------------------------------------------

    def take_locked(self, ticket: Ticket) -> bool:
        """Take a ticket out, wherever it stands; False if somebody else did."""
        if not ticket.queued:
            return False
        ticket.queued = False
        self.load = Cost(*map(operator.sub, self.load, ticket.cost))
        self._dead += 1
        if ticket.counts:
            self.calls -= 1
            self.not_full.notify()
        # At once for the head: its retry will stand in the same place, and two entries that
        # differ in nothing but their tickets cannot be compared. The others wait for the sweep.
        self._top_locked(self._heaps[ticket.rides is not None])
        if not any(self._heaps):
            self.load = NO_COST  # sums of floats drift
        if self._dead > SWEEP_FROM and self._dead > sum(map(len, self._heaps)) // 2:
            self._sweep_locked()
        return True

    def _sweep_locked(self) -> None:
        # Entry by entry, for the same reason.
        self._dead = 0
        for heap in self._heaps:
            living = []
            while heap:
                entry = heapq.heappop(heap)
                if entry[3].queued:
                    living.append(entry)
            for entry in living:
                heapq.heappush(heap, entry)

    def take_due_locked(self, now: float) -> list[Ticket]:
        """Forget and return the tickets whose deadline has passed, queued or not."""
        due = []
        while self._deadlines and self._deadlines[0][0] <= now:
            due.append(heapq.heappop(self._deadlines)[2])
        return due

    def forget_deadline_locked(self, ticket: Ticket) -> None:
        """A ticket has come to its end: its deadline must not keep it in memory for long."""
        self._ended += ticket.deadline is not None
        if self._ended > SWEEP_FROM + len(self._deadlines) // 2:
            self._ended = 0
            self._deadlines = [entry for entry in self._deadlines if not entry[2].ended]
            heapq.heapify(self._deadlines)

    # -- end -----------------------------------------------------------------------------------

    def close_locked(self) -> None:
        """Accept no more, and wake the puts that wait for a place."""
        self.closed = True
        self.not_full.notify_all()
        self.not_empty.notify()
